import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from stub import PHANTOM_REWARD, WIDTH, Bandit

from agents.rl.replay import SMALLEST_ERROR, ReplayBuffer, SumTree, draw
from agents.rl.sampling import Rollout, RolloutSampler


def filled(steps, seed, terminates, requests=(30, 40), limit=None):
    """A buffer of the given size, and everything that went into it."""
    env = Bandit(4, AutoresetMode.NEXT_STEP, discrete=True, length=6, terminates=terminates)
    sampler, random = RolloutSampler(env, seed), np.random.default_rng(seed)

    def choose(observations):
        return torch.from_numpy(random.integers(5, size=len(observations))), {}

    buffer = ReplayBuffer(steps, 4, WIDTH)
    rollouts = [sampler.sample(choose, count, limit) for count in requests]
    for rollout in rollouts:
        buffer.add(rollout)
    columns = {
        name: np.concatenate([getattr(rollout, name) for rollout in rollouts])
        for name in ("rewards", "terminated", "ended", "real", "actions")
    }
    columns["observations"] = np.concatenate(
        [rollouts[0].observations[:-1], rollouts[1].observations[:-1], rollouts[1].observations[-1:]]
    )
    return buffer, columns


def plain_transition(columns, time, env, n_step, gamma):
    total, length = 0.0, 0
    for later in range(time, min(time + n_step, len(columns["rewards"]))):
        if not columns["real"][later, env]:
            break
        total += gamma**length * columns["rewards"][later, env]
        length += 1
        if columns["ended"][later, env]:
            break
    last = time + length - 1
    return total, length, columns["observations"][time + length, env], columns["terminated"][last, env]


@given(seed=st.integers(0, 1000), n_step=st.integers(1, 5), terminates=st.booleans(), steps=st.sampled_from([9, 100]))
@settings(deadline=None, max_examples=30)
def test_transitions_equal_the_plain_loop(seed, n_step, terminates, steps):
    buffer, columns = filled(steps, seed, terminates)
    total = len(columns["rewards"])
    times, envs = np.nonzero(columns["real"])
    kept = times >= total - steps
    times, envs = times[kept], envs[kept]
    assert len(buffer) == len(times)
    found = buffer.transitions(times, envs, n_step, 0.9)
    for row, (time, env) in enumerate(zip(times, envs, strict=True)):
        reward, length, following, terminated = plain_transition(columns, time, env, n_step, 0.9)
        assert_allclose(found["rewards"][row], reward, rtol=1e-5)
        assert found["n_step"][row] == length
        assert_array_equal(found["obs"][row], columns["observations"][time, env])
        assert_array_equal(found["new_obs"][row], following)
        assert found["actions"][row] == columns["actions"][time, env]
        assert found["terminateds"][row] == terminated


def test_phantom_steps_are_never_sampled():
    buffer, columns = filled(100, 0, terminates=False)
    assert (columns["rewards"] == PHANTOM_REWARD).any()
    batch = buffer.sample(2000, 3, 0.9, np.random.default_rng(0))
    assert batch["rewards"].max() <= 3
    assert (batch["obs"][:, 0] < 1).all()


def test_rows_beyond_the_budget_are_never_sampled():
    buffer, columns = filled(100, 0, terminates=False, requests=(30, 40), limit=33)
    phantom = np.concatenate([np.zeros((1, 4), bool), columns["ended"][:-1]])
    assert len(buffer) == columns["real"].sum() < (~phantom).sum()


def test_truncated_lives_bootstrap_from_their_final_observation():
    buffer, _ = filled(100, 1, terminates=False)
    batch = buffer.sample(500, 1, 0.9, np.random.default_rng(0))
    assert not batch["terminateds"].any()
    assert_array_equal(batch["truncateds"], batch["new_obs"][:, 0] == 1)


@given(seed=st.integers(0, 1000), size=st.integers(1, 70))
@settings(deadline=None, max_examples=30)
def test_a_sum_tree_finds_what_a_running_sum_finds(seed, size):
    random = np.random.default_rng(seed)
    plain, tree = np.zeros(size), SumTree(size)
    for _ in range(3):
        places = random.permutation(size)[: random.integers(1, size + 1)]
        plain[places] = random.integers(0, 4, len(places))
        tree.put(places, plain[places])
    assert tree.total == plain.sum()
    sums = np.arange(0, plain.sum(), 0.5)
    assert_array_equal(tree.find(sums), np.searchsorted(np.cumsum(plain), sums, side="right"))


def test_draws_follow_the_priorities_and_weights_undo_them():
    buffer = prioritised(100, 0.5)
    random = np.random.default_rng(0)
    chosen = buffer._choosable
    errors = random.random(len(chosen)) * 5
    buffer.judge(chosen, errors)
    odds = (errors + SMALLEST_ERROR) ** 0.5
    odds /= odds.sum()
    drawn, found = buffer.draw(60_000, random)
    place = {tuple(request): row for row, request in enumerate(chosen)}
    rows = np.array([place[tuple(request)] for request in drawn])
    assert_allclose(found, odds[rows], rtol=1e-9)
    assert_allclose(np.bincount(rows, minlength=len(odds)) / len(rows), odds, atol=4e-3)
    weights = draw([buffer], 500, 1, 0.9, random, correction=1.0).columns["weights"]
    assert 0 < weights.min() < weights.max() == 1


def prioritised(steps, exponent):
    """A buffer with priorities and a rollout in it."""
    env = Bandit(4, AutoresetMode.NEXT_STEP, discrete=True, length=6)
    sampler, random = RolloutSampler(env, 0), np.random.default_rng(0)
    found = ReplayBuffer(steps, 4, WIDTH, exponent)
    found.add(sampler.sample(lambda rows: (torch.from_numpy(random.integers(5, size=len(rows))), {}), 60))
    return found


@pytest.mark.parametrize("steps", [6, 100])
def test_slates_and_what_is_told_stand_beside_their_steps(steps):
    random = np.random.default_rng(0)
    buffer, rollouts = ReplayBuffer(steps, 3, 2), []
    for length in (4, 5):
        observations = random.random((length + 1, 3, 2)).astype(np.float32)
        if rollouts:
            observations[0] = rollouts[-1].observations[-1]
        no = np.zeros((length, 3), bool)
        rollouts.append(
            Rollout(
                observations=observations,
                actions=torch.from_numpy(random.integers(9, size=(length, 3, 4))),
                extras={},
                rewards=random.random((length, 3)).astype(np.float32),
                terminated=no,
                ended=no,
                real=~no,
                told={"clicked_slot": random.integers(-1, 4, size=(length, 3))},
            )
        )
        buffer.add(rollouts[-1])
    slates = np.concatenate([rollout.actions.numpy() for rollout in rollouts])
    clicks = np.concatenate([rollout.told["clicked_slot"] for rollout in rollouts])
    times, envs = np.repeat(np.arange(9 - min(steps, 9), 9), 3), np.tile(np.arange(3), min(steps, 9))
    found = buffer.transitions(times, envs, 2, 0.9)
    assert_array_equal(found["actions"], slates[times, envs])
    assert_array_equal(found["clicked_slot"], clicks[times, envs])
    drawn = draw([buffer], 50, 1, 0.9, random).columns
    assert drawn["actions"].shape == (50, 4) and drawn["clicked_slot"].shape == (50,)
