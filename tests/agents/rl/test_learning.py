"""The algorithms find an action that is best whatever is observed, and learn from nothing but requests."""

import random

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from stub import BEST_PRESET, BEST_WEIGHTS, WIDTH, Bandit

from agents.base import Training
from agents.rl.dqn import BatchedDQN, DQNAgent, DQNOptions, exploration
from agents.rl.networks import in_blocks, network_from
from agents.rl.ppo import BatchedPPO, PPOAgent, PPOOptions
from agents.rl.sb3 import SB3PPOAgent, SB3PPOOptions, most_even

OBSERVATIONS = np.random.default_rng(5).uniform(-1, 1, (50, WIDTH)).astype(np.float32)
PPO_OPTIONS = PPOOptions(num_envs=32, batch=512, minibatch=128, epochs=10, learning_rate=3e-3)
SB3_OPTIONS = SB3PPOOptions(num_envs=32, batch=512, minibatch=128, epochs=10, learning_rate=3e-3)
DQN_OPTIONS = DQNOptions(num_envs=32, minibatch=64, learning_rate=3e-3, target_every=200, iteration=500)


def training(requests, seed=0, report=lambda requests: None):
    def no_env(num_envs, mode):
        raise AssertionError("the test hands the environment over itself")

    return Training(make_env=no_env, requests=requests, seed=seed, report=report)


def train(agent, requests, **options):
    discrete = isinstance(agent, DQNAgent)
    return agent.train(
        lambda num_envs: Bandit(num_envs, agent.autoreset_mode, discrete=discrete), training(requests, **options)
    )


def outputs(weights):
    return in_blocks(network_from(weights), OBSERVATIONS)


@pytest.mark.slow
def test_ppo_finds_the_best_weights():
    trained = train(PPOAgent(options=PPO_OPTIONS), 8_000)
    assert_array_equal(outputs(trained.initial), 0)
    assert_allclose(np.tanh(outputs(trained.final)).mean(axis=0), BEST_WEIGHTS, atol=0.15)
    curve = trained.learning_curve
    assert curve[-1, 0] == 8_000
    assert curve[-1, 1] > curve[0, 1]


@pytest.mark.slow
def test_sb3_finds_the_best_weights():
    trained = train(SB3PPOAgent(options=SB3_OPTIONS), 8_000)
    assert_array_equal(outputs(trained.initial), 0)
    assert_allclose(outputs(trained.final).mean(axis=0), BEST_WEIGHTS, atol=0.15)
    assert trained.learning_curve[-1, 0] == 8_000


@pytest.mark.slow
def test_dqn_finds_the_best_preset():
    trained = train(DQNAgent(options=DQN_OPTIONS), 3_000)
    assert_array_equal(outputs(trained.initial).argmax(axis=1), 0)
    assert (outputs(trained.final).argmax(axis=1) == BEST_PRESET).mean() > 0.9
    assert trained.learning_curve[-1, 0] == 3_000


@pytest.mark.parametrize("agent_class", [PPOAgent, SB3PPOAgent, DQNAgent])
def test_a_seed_gives_the_same_weights_to_the_bit(agent_class):
    options = {PPOAgent: PPO_OPTIONS, SB3PPOAgent: SB3_OPTIONS, DQNAgent: DQN_OPTIONS}[agent_class]
    first, again, other = (train(agent_class(options=options), 1_200, seed=seed).final for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("agent_class", [PPOAgent, DQNAgent])
def test_training_leaves_threads_and_generators_as_they_were(agent_class):
    threads = torch.get_num_threads()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    train(agent_class(options=PPO_OPTIONS if agent_class is PPOAgent else DQN_OPTIONS), 300)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("requests", [1, 77, 1_001])
@pytest.mark.parametrize("agent_class", [PPOAgent, SB3PPOAgent, DQNAgent])
def test_the_budget_is_kept_to_the_request(agent_class, requests):
    options = {PPOAgent: PPO_OPTIONS, SB3PPOAgent: SB3_OPTIONS, DQNAgent: DQN_OPTIONS}[agent_class]
    spent = []
    train(agent_class(options=options), requests, report=spent.append)
    # SB3 steps all users equally often, see `most_even`
    left_over = requests % most_even(requests, 32) if agent_class is SB3PPOAgent else 0
    assert spent[-1] == requests - left_over
    assert left_over <= 1
    assert spent == sorted(spent)


@given(number=st.integers(1, 100_000), most=st.integers(1, 600))
def test_sb3_leaves_next_to_nothing_of_a_budget(number, most):
    count = most_even(number, most)
    assert min(number, most) / 2 < count <= min(number, most)
    assert all(number % count <= number % other for other in range(count, min(number, most) + 1))


def test_ppo_learns_from_requests_only(monkeypatch):
    batches = []
    update = BatchedPPO.training_step

    def spied(self):
        group = self.learner_group
        plain = group.update
        monkeypatch.setattr(group, "update", lambda **call: (batches.append(call["batch"]), plain(**call))[1])
        update(self)
        monkeypatch.setattr(group, "update", plain)

    monkeypatch.setattr(BatchedPPO, "training_step", spied)
    train(PPOAgent(options=PPO_OPTIONS), 2_000)
    columns = [batch.policy_batches["default_policy"] for batch in batches]
    assert sum(len(column["advantages"]) for column in columns) == 2_000
    for column in columns:
        # a final observation, whose first number is 1, is nobody's request; a phantom's reward would swamp the targets
        assert (column["obs"][:, 0] < 1).all()
        assert column["value_targets"].abs().max() < 100


def test_dqn_learns_from_requests_only(monkeypatch):
    seen = []
    learn = BatchedDQN._learn

    def spied(self, options, spent):
        seen.append((sum(len(replay) for replay in self.replays.values()), spent))
        learn(self, options, spent)

    monkeypatch.setattr(BatchedDQN, "_learn", spied)
    train(DQNAgent(options=DQN_OPTIONS), 1_000)
    assert all(kept == spent for kept, spent in seen)
    assert seen[-1] == (1_000, 1_000)
    assert seen[0][1] >= 100


def test_exploration_is_flat_then_falls_then_is_flat():
    options = DQNOptions(warm_up_share=0.1, explore_share=0.5, epsilon_start=1.0, epsilon_end=0.1)
    shares = [exploration(options, share) for share in (0, 0.1, 0.3, 0.5, 1)]
    assert_allclose(shares, [1, 1, 0.55, 0.1, 0.1])


def test_rllib_refuses_another_autoreset_mode():
    agent = PPOAgent(options=PPO_OPTIONS)
    with pytest.raises(ValueError, match="next-step"):
        agent.train(lambda num_envs: Bandit(num_envs, AutoresetMode.SAME_STEP, discrete=False), training(100))
