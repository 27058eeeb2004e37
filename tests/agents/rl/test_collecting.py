"""Sampling in this process, in workers and beside learning; workers that die; checkpoints that go on."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal
from stub import BEST_PRESET, BEST_WEIGHTS, WIDTH, Bandit, BrokenBandit

from agents.base import Training
from agents.rl.batched_env_runner import AdvantageEnvRunner, EpsilonGreedyEnvRunner
from agents.rl.dqn import DQNAgent, DQNOptions, dqn_config
from agents.rl.modules import DuelingModule, GaussianPolicyModule
from agents.rl.networks import arrays_of, in_blocks, network_from
from agents.rl.ppo import PPOAgent, PPOOptions, gaussian, ppo_config
from agents.rl.rllib import local_algorithm
from envs.errors import AgentError, ConfigurationError

pytestmark = pytest.mark.usefixtures("sent_by_value")

PPO_OPTIONS = PPOOptions(num_envs=32, batch=512, minibatch=128, epochs=10, learning_rate=3e-3)
DQN_OPTIONS = DQNOptions(num_envs=32, minibatch=64, learning_rate=3e-3, target_every=200, iteration=500)


def ppo(requests, options=PPO_OPTIONS, env=Bandit, seed=3, **how):
    return local_algorithm(
        ppo_config(options, requests),
        make_env=lambda: env(options.num_envs, AutoresetMode.NEXT_STEP, discrete=False),
        env_runner=AdvantageEnvRunner,
        module=GaussianPolicyModule,
        model_config=gaussian(options) | {"hidden": (16,), "normalise": True},
        limit=requests,
        seed=seed,
        **how,
    )


def dqn(requests, options=DQN_OPTIONS, **how):
    return local_algorithm(
        dqn_config(options),
        make_env=lambda: Bandit(options.num_envs, AutoresetMode.NEXT_STEP, discrete=True),
        env_runner=EpsilonGreedyEnvRunner,
        module=DuelingModule,
        model_config={"hidden": (16,)},
        limit=requests,
        options=options,
        seed=3,
        **how,
    )


def learnt(agent_class, options, requests):
    agent = agent_class(options=options)

    def no_env(num_envs, mode):
        raise AssertionError("the test hands the environment over itself")

    training = Training(make_env=no_env, requests=requests, seed=0)
    discrete = agent_class is DQNAgent
    return agent.train(lambda num_envs: Bandit(num_envs, agent.autoreset_mode, discrete=discrete), training)


def outputs(weights):
    observations = np.random.default_rng(5).uniform(-1, 1, (50, WIDTH)).astype(np.float32)
    return in_blocks(network_from(weights), observations)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_ppo_learns_from_workers(beside):
    options = PPOOptions(num_envs=32, batch=512, minibatch=128, epochs=10, learning_rate=3e-3, runners=2, beside=beside)
    trained = learnt(PPOAgent, options, 8_000)
    assert_allclose(np.tanh(outputs(trained.final)).mean(axis=0), BEST_WEIGHTS, atol=0.15)
    assert trained.learning_curve[-1, 0] == 8_000


@pytest.mark.slow
def test_dqn_learns_from_workers_by_priority():
    options = DQNOptions(
        num_envs=32, minibatch=64, learning_rate=3e-3, target_every=200, iteration=500, runners=2, prioritise=0.6
    )
    trained = learnt(DQNAgent, options, 3_000)
    assert (outputs(trained.final).argmax(axis=1) == BEST_PRESET).mean() > 0.9
    assert trained.learning_curve[-1, 0] == 3_000


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_well():
    with ppo(4_000, runners=2) as algorithm:
        group = algorithm.env_runner_group
        algorithm.train()
        pids = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
        assert len(set(pids)) == 2
        os.kill(pids[0], signal.SIGKILL)
        earned = []
        while algorithm.requests < 4_000:
            algorithm.train()
            earned.append(algorithm.reward_per_request())
        deadline = time.monotonic() + 60
        while group.num_healthy_remote_env_runners() < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            algorithm.restore_env_runners(group)
        replaced = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    assert len(set(replaced)) == 2 and pids[0] not in replaced and pids[1] in replaced
    assert algorithm.requests == 4_000
    assert np.isfinite(earned).all() and earned[-1] > earned[0]


@pytest.mark.slow
def test_beside_learning_the_policy_lags_by_exactly_one_batch():
    with ppo(3_000, runners=1, beside=True) as algorithm:
        behind, used = _logged_deviations(algorithm, iterations=4)
    # the deviation in a batch is that of the policy that sampled it: learnt from all batches but the last one
    assert_allclose(used[0], behind[0], rtol=1e-6)
    for number in range(1, 4):
        assert_allclose(used[number], behind[number - 1], rtol=1e-6)
        assert (behind[number] != behind[number - 1]).any()


@pytest.mark.slow
def test_an_error_in_a_workers_environment_is_told():
    with ppo(3_000, env=BrokenBandit, runners=1) as algorithm, pytest.raises(AgentError, match="out of order"):
        algorithm.train()


def test_beside_learning_needs_workers():
    with pytest.raises(ConfigurationError, match="at least 1"), ppo(100, beside=True):
        pass


@pytest.mark.parametrize("make", [ppo, dqn])
def test_a_checkpoint_goes_on_to_the_same_curve(make, tmp_path):
    how = {"options": DQNOptions(num_envs=32, minibatch=64, iteration=300, prioritise=0.5)} if make is dqn else {}

    def go_on(algorithm):
        curve = []
        while algorithm.requests < 2_000:
            algorithm.train()
            curve.append((algorithm.requests, algorithm.reward_per_request()))
        return curve, arrays_of(algorithm.get_module())

    with make(2_000, **how) as algorithm:
        algorithm.train()
        algorithm.reward_per_request()
        algorithm.save_to_path(str(tmp_path))
        expected, weights = go_on(algorithm)
    with make(2_000, **how) as algorithm:
        algorithm.restore_from_path(str(tmp_path))
        found, restored = go_on(algorithm)
    # the optimiser's vector instructions round by where in memory its numbers lie, which a checkpoint does not keep
    assert len(found) > 1
    assert_allclose(found, expected, rtol=1e-5)
    for name, array in weights.items():
        assert_allclose(restored[name], array, rtol=1e-4, atol=1e-6)


def _logged_deviations(algorithm, iterations):
    """(of the learner before each update [4], of the policy that sampled its batch [4])."""
    before, used, update = [], [], algorithm.learner_group.update

    def spied(**call):
        algorithm.learner_group.foreach_learner(
            lambda learner: before.append(learner.module["default_policy"].log_std.detach().numpy().copy())
        )
        inputs = call["batch"].policy_batches["default_policy"]["action_dist_inputs"]
        assert (inputs[:, 4:] == inputs[0, 4:]).all()
        used.append(inputs[0, 4:].numpy())
        return update(**call)

    algorithm.learner_group.update = spied
    for _ in range(iterations):
        algorithm.train()
    return before, used


def test_exploration_narrows_while_the_budget_is_spent():
    options = replace(PPO_OPTIONS, initial_log_std=0.5, final_log_std=-1.5, entropy=0.04, final_entropy=0.02)
    with ppo(2_048, options) as algorithm:
        behind, used = _logged_deviations(algorithm, iterations=2)
        halfway = algorithm.requests / 2_048
        bonus = algorithm.learner_group.foreach_learner(
            lambda learner: float(learner.entropy_coeff_schedulers_per_module["default_policy"].get_current_value())
        )
        while algorithm.requests < 2_048:
            algorithm.train()
        last = algorithm.env_runner.module.log_std.numpy()
    # a batch is learnt from with the deviation that it was sampled with
    assert_allclose(used, behind)
    assert_allclose(used[0], 0.5)
    assert ((used[1] < 0.5) & (used[1] > last)).all()
    assert_allclose(last, -1.5)
    assert_allclose(next(iter(bonus)).get(), 0.04 - 0.02 * halfway, rtol=1e-5)


def test_normalising_is_folded_into_the_served_policy():
    with ppo(1_500) as algorithm:
        while algorithm.requests < 1_500:
            algorithm.train()
        module = algorithm.get_module()
        observations = np.random.default_rng(0).uniform(-1, 1, (20, WIDTH)).astype(np.float32)
        with torch.inference_mode():
            normalised = module.policy(module.normaliser(torch.from_numpy(observations))).numpy()
        served = in_blocks(network_from(module.served_policy()), observations)
        assert float(module.normaliser.count) == 1_500
    assert_allclose(served, normalised, rtol=1e-4, atol=1e-5)
    assert_array_equal(served.shape, (20, 4))
