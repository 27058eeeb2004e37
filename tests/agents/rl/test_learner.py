"""One update of ours is RLlib's own update on the same batch."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from agents.rl.learner import ArrayDQNLearner, ArrayPPOLearner, minibatches
from agents.rl.modules import DuelingModule, GaussianPolicyModule
from agents.rl.rllib import quiet_rllib

ROWS, WIDTH = 120, 6
PPO = {"use_kl_loss": False, "clip_param": 0.1, "vf_loss_coeff": 0.5, "entropy_coeff": 0.0}
DQN = {"num_atoms": 1, "double_q": True, "td_error_loss_fn": "huber", "target_network_update_freq": 1, "tau": 0.5}


def ppo_batch(seed=0):
    torch.manual_seed(seed)
    means, actions = torch.randn(ROWS, 4) * 0.3, torch.randn(ROWS, 4)
    logits = torch.cat([means, torch.full((ROWS, 4), -0.5)], dim=1)
    logp = torch.distributions.Normal(means, np.exp(-0.5)).log_prob(actions).sum(1)
    return {
        "obs": torch.randn(ROWS, WIDTH),
        "actions": actions,
        "action_logp": logp,
        "action_dist_inputs": logits,
        "advantages": torch.randn(ROWS),
        "value_targets": 3 * torch.randn(ROWS),
    }


def dqn_batch(seed=0):
    torch.manual_seed(seed)
    return {
        "obs": torch.randn(ROWS, WIDTH),
        "new_obs": torch.randn(ROWS, WIDTH),
        "actions": torch.randint(5, (ROWS,)),
        "rewards": 3 * torch.randn(ROWS),
        "terminateds": torch.rand(ROWS) < 0.3,
        "truncateds": torch.zeros(ROWS, dtype=torch.bool),
        "n_step": torch.randint(1, 4, (ROWS,)).float(),
        "weights": torch.rand(ROWS),
    }


def group(learner, config, settings, actions, module, **model):
    observations = gymnasium.spaces.Box(-9, 9, (WIDTH,), np.float32)
    spaces = (observations, actions)
    configured = (
        config()
        .environment(observation_space=observations, action_space=actions, env_config={"limit": 100})
        .training(**{"lr": 1e-3, "gamma": 0.9, "grad_clip": 0.5, "grad_clip_by": "global_norm"} | settings)
        .learners(learner_class=learner)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=module, model_config={"hidden": (8, 8), **model}))
        .debugging(seed=1)
    )
    with quiet_rllib():
        return configured.build_learner_group(spaces={"__env__": spaces, "default_policy": spaces})


def ppo_group(learner, **settings):
    box = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    return group(learner, PPOConfig, PPO | settings, box, GaussianPolicyModule, initial_log_std=-0.7)


def dqn_group(learner, **settings):
    return group(learner, DQNConfig, DQN | settings, gymnasium.spaces.Discrete(5), DuelingModule)


def updated(learners, columns, times=2, **how):
    """(weights, optimiser's state, results) after updates on a copy of the columns."""
    for call in range(times):
        batch = MultiAgentBatch({"default_policy": SampleBatch(copy.deepcopy(columns))}, env_steps=ROWS)
        (results,) = learners.update(batch=batch, timesteps={"num_env_steps_sampled_lifetime": 10 * call}, **how)
    state = learners.get_state()["learner"]
    return state["rl_module"]["default_policy"], state["optimizer"]["default_policy_default_optimizer"], results


def perturbed(make, learner, **settings):
    """Learners whose weights are far from where they began, the same for all."""
    learners = make(learner, **settings)

    def move(learner):
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in learner.module["default_policy"].parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)

    learners.foreach_learner(move)
    return learners


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({}, {}),
        ({"entropy_coeff": 0.02, "vf_clip_param": 4.0}, {"num_epochs": 3, "minibatch_size": 40}),
        ({"grad_clip": None}, {"num_epochs": 2, "minibatch_size": 50}),
    ],
)
def test_ppo_learns_what_rllib_learns(settings, how):
    theirs = updated(perturbed(ppo_group, PPOTorchLearner, **settings), ppo_batch(), **how)
    ours = updated(perturbed(ppo_group, ArrayPPOLearner, **settings), ppo_batch(), **how)
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "how"), [({}, {"minibatch_size": 40}), ({"double_q": False, "td_error_loss_fn": "mse"}, {})]
)
def test_dqn_learns_what_rllib_learns(settings, how):
    theirs = updated(perturbed(dqn_group, DQNTorchLearner, **settings), dqn_batch(), **how)
    ours = updated(perturbed(dqn_group, ArrayDQNLearner, **settings), dqn_batch(), **how)
    assert_same(ours, theirs)
    errors = [results["default_policy"]["td_error"].peek(compile=False) for results in (ours[2], theirs[2])]
    assert_allclose(*(np.concatenate([np.ravel(part) for part in found]) for found in errors), rtol=1e-4, atol=1e-5)


def assert_same(ours, theirs):
    """Weights, optimiser and results, up to the order in which sums are taken."""
    for name, array in theirs[0].items():
        assert_allclose(ours[0][name], array, rtol=1e-4, atol=2e-6, err_msg=name)
    for place, moments in theirs[1]["state"]["state"].items():
        for name, array in moments.items():
            assert_allclose(ours[1]["state"]["state"][place][name], array, rtol=2e-3, atol=1e-6, err_msg=name)
    left_out = {"module_to_env", "learner_connector_sum_episodes_length_in"}
    assert not {name for name in theirs[2]["default_policy"] if name not in ours[2]["default_policy"]} - left_out
    for name, figure in theirs[2]["default_policy"].items():
        if "throughput" not in name and name != "td_error":
            found = [np.asarray(results.peek(), float) for results in (ours[2]["default_policy"][name], figure)]
            assert_allclose(*found, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_gradient_that_is_no_number_ends_the_update():
    learners = ppo_group(ArrayPPOLearner)
    spoilt = ppo_batch()
    spoilt["advantages"][3] = np.nan
    before = learners.get_state()["learner"]["rl_module"]["default_policy"]
    after, _, results = updated(learners, spoilt, times=1)
    assert all(np.array_equal(before[name], array) for name, array in after.items())
    assert np.isnan(results["default_policy"]["total_loss"].peek())


@pytest.mark.parametrize("shuffle", [False, True])
def test_minibatches_go_round_and_round(shuffle):
    torch.manual_seed(0)
    parts = list(minibatches(10, 4, 5, shuffle))
    assert [len(part) for part in parts] == [4] * 5
    order = torch.cat(parts).numpy()
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert (order[:10] != order[10:]).any() == shuffle
