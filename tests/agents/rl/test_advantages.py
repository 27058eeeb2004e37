import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents.rl.advantages import RewardScale, generalised_advantages


def random_rollout(seed, steps=12, envs=5):
    """Rewards, values, terminated, ended and real as next-step autoreset makes them."""
    random = np.random.default_rng(seed)
    ended = random.random((steps, envs)) < 0.25
    real = np.ones((steps, envs), bool)
    for step in range(1, steps):
        real[step] = ~(ended[step - 1] & real[step - 1])
        ended[step] &= real[step]
    terminated = ended & (random.random((steps, envs)) < 0.5)
    rewards = np.where(real, random.normal(size=(steps, envs)), 1e6).astype(np.float32)
    values = random.normal(size=(steps + 1, envs)).astype(np.float32)
    return rewards, values, terminated, ended, real


def plain_advantage(rewards, values, terminated, ended, real, env, step, gamma, lambda_):
    """The definition: the discounted sum of surprises until the life, or the rollout, ends."""
    total, weight = 0.0, 1.0
    for later in range(step, len(rewards)):
        if not real[later, env]:
            break
        following = 0.0 if terminated[later, env] else values[later + 1, env]
        total += weight * (rewards[later, env] + gamma * following - values[later, env])
        weight *= gamma * lambda_
        if ended[later, env]:
            break
    return total


@given(seed=st.integers(0, 2**32 - 1), gamma=st.floats(0, 1), lambda_=st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_advantages_equal_the_plain_loop(seed, gamma, lambda_):
    rollout = random_rollout(seed)
    found = generalised_advantages(*rollout, gamma=gamma, lambda_=lambda_)
    real = rollout[-1]
    for step, env in np.argwhere(real):
        expected = plain_advantage(*rollout, env, step, gamma, lambda_)
        assert_allclose(found[step, env], expected, rtol=1e-3, atol=1e-4)
    assert (found[~real] == 0).all()


def test_truncation_bootstraps_and_termination_does_not():
    rewards, values = np.ones((1, 2), np.float32), np.full((2, 2), 10, np.float32)
    ended, real = np.ones((1, 2), bool), np.ones((1, 2), bool)
    terminated = np.array([[True, False]])
    found = generalised_advantages(rewards, values, terminated, ended, real, gamma=0.5, lambda_=1.0)
    assert_allclose(found, [[1 - 10, 1 + 0.5 * 10 - 10]])


def test_reward_scale_is_the_deviation_of_discounted_returns():
    rewards, _, _, ended, real = random_rollout(3, steps=40)
    seen = []
    returns = np.zeros(rewards.shape[1])
    for step in range(len(rewards)):
        for env in range(len(returns)):
            if real[step, env]:
                returns[env] = 0.9 * returns[env] + rewards[step, env]
                seen.append(returns[env])
            if ended[step, env]:
                returns[env] = 0
    scale = RewardScale(rewards.shape[1], 0.9)
    halves = [scale.scaled(rewards[part], ended[part], real[part]) for part in (slice(0, 20), slice(20, 40))]
    assert_allclose(scale.scale, np.std(seen), rtol=1e-6)
    assert_allclose(halves[1][real[20:]], rewards[20:][real[20:]] / np.std(seen), rtol=1e-5)


def test_constant_rewards_are_not_blown_up():
    scale = RewardScale(2, 0.0)
    flat = np.ones((3, 2), np.float32)
    assert_array_equal(scale.scaled(flat, np.zeros((3, 2), bool), np.ones((3, 2), bool)), flat)
