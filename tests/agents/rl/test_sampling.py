import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal
from stub import PHANTOM_REWARD, Bandit

from agents.rl.sampling import RolloutSampler


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
