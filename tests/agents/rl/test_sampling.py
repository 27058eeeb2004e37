import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal
from stub import PHANTOM_REWARD, Bandit

from agents.actions import SlateAction, SlotsAction
from agents.rl.sampling import RolloutSampler
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from envs.world import WorldConfig, build_world

SLOTS = 3


def choose(observations):
    return torch.full((len(observations), 4), 5.0), {"first": observations[:, 0]}


@pytest.fixture
def sampler():
    return RolloutSampler(Bandit(8, AutoresetMode.NEXT_STEP, discrete=False), seed=0)


def test_phantom_steps_are_not_real(sampler):
    rollout = sampler.sample(choose, requests=200)
    assert (~rollout.real).any()
    assert_array_equal(rollout.rewards == PHANTOM_REWARD, ~rollout.real)
    # a phantom follows each end of a life, and nothing else
    assert_array_equal(~rollout.real[1:], rollout.ended[:-1])
    assert rollout.real.sum() == sampler.requests


def test_the_observation_after_an_end_is_the_final_one(sampler):
    rollout = sampler.sample(choose, requests=200)
    assert_array_equal(rollout.observations[1:, :, 0] == 1, rollout.ended)
    assert_array_equal(rollout.extras["first"].numpy(), rollout.observations[:-1, :, 0])


def test_a_rollout_goes_on_where_the_last_one_stopped(sampler):
    first, second = sampler.sample(choose, requests=50), sampler.sample(choose, requests=50)
    assert_array_equal(first.observations[-1], second.observations[0])
    assert_array_equal(second.real[0], ~first.ended[-1])


def test_a_limit_is_kept_to_the_request(sampler):
    rollout = sampler.sample(choose, requests=100, limit=61)
    assert rollout.real.sum() == sampler.requests == 61
    assert rollout.real[:-1].sum() < 61


def test_finished_lives_count_requests_and_rewards(sampler):
    sampler.sample(choose, requests=100)
    lives = sampler.finished_lives()
    # lives begin at different ages, so the first ones are shorter; the others have the full length
    assert lives[:, 0].max() == 7
    per_request = -((1.0 - np.array([0.0, 0.4, 0.5, -0.3])) ** 2).sum()
    assert_allclose(lives[:, 1], lives[:, 0] * per_request, rtol=1e-5)
    assert len(sampler.finished_lives()) == 0


def test_another_autoreset_mode_is_refused():
    with pytest.raises(ValueError, match="next-step"):
        RolloutSampler(Bandit(2, AutoresetMode.SAME_STEP, discrete=False), seed=0)


@pytest.fixture(scope="module")
def short_lives():
    log, user_model = generate_log(SyntheticConfig(num_users=60, num_items=150), seed=3)
    return build_world(log, user_model, WorldConfig(days=4, seed=1))


def by_recall(kind, world, seed=0, told=()):
    """A sampler of an action space, and a policy that shows the order of recall, in one go or slot by slot."""
    env = kind(SlateVectorEnv(12, world=world, slate_size=SLOTS, num_candidates=20, history_size=5))

    def choose(rows):
        parts = env.layout.parts(rows)
        best = (-parts.columns[..., 0]).masked_fill(parts.mask == 0, 1e9).argsort(stable=True)[:, :SLOTS]
        return best[:, 0] if kind is SlotsAction else best, {}

    return RolloutSampler(env, seed, told), choose


@pytest.mark.parametrize("limit", [None, 333])
def test_slot_by_slot_the_same_requests_are_counted_and_paid(short_lives, limit):
    (slots, fill), (whole, show) = (by_recall(kind, short_lives) for kind in (SlotsAction, SlateAction))
    first, second = slots.sample(fill, 400, limit), whole.sample(show, 400, limit)
    assert (~second.real).any() and second.ended.any()
    assert slots.requests == whole.requests == (limit or second.real.sum())
    for slot in range(SLOTS):
        # all steps of a request are learnt from, or none: a user who waits has nothing to learn
        assert_array_equal(first.real[slot::SLOTS], second.real)
        last = slot == SLOTS - 1
        assert_array_equal(first.rewards[slot::SLOTS], second.rewards if last else 0)
        assert_array_equal(first.ended[slot::SLOTS], second.ended if last else False)
    assert slots.earned == whole.earned > 0
    assert_array_equal(slots.finished_lives(), whole.finished_lives())
    assert_array_equal(first.observations[::SLOTS, :, : second.observations.shape[2]], second.observations)


def test_what_is_told_is_kept_beside_the_steps(short_lives):
    sampler, show = by_recall(SlateAction, short_lives, told=("clicked_slot", "engagement"))
    rollout = sampler.sample(show, 200)
    assert_array_equal(rollout.told["clicked_slot"] >= 0, rollout.told["engagement"] == 1)
    assert rollout.told["clicked_slot"].shape == rollout.rewards.shape
    assert_array_equal(rollout.rewards > 0, rollout.told["clicked_slot"] >= 0)
    assert (rollout.told["clicked_slot"][~rollout.real] == -1).all()
