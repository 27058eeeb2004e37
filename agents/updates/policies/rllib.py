"""RLlib's DQN and PPO for update policies: modules and exploration that know which actions are valid."""

from collections import deque
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agents.rl.batched_env_runner import AdvantageEnvRunner, BatchedEnvRunner, EpsilonGreedyEnvRunner
from agents.rl.dqn import DQNOptions, dqn_config
from agents.rl.modules import DuelingModule, Normalising
from agents.rl.networks import mlp
from agents.rl.plackett_luce import masked_logits
from agents.rl.ppo import PPOOptions, ppo_config
from agents.rl.rllib import local_algorithm
from agents.rl.served import LearningCurve
from agents.updates.policies.learnt import (
    ACTIONS,
    SNAPSHOTS,
    Course,
    Learnt,
    UpdateDQNOptions,
    UpdatePPOOptions,
    Weights,
)


def mask_of(observations: Tensor) -> Tensor:
    """[..., A] of observations [..., S + A]."""
    return observations[..., -len(ACTIONS) :]


class MaskedDuelingModule(DuelingModule):
    """As its base; invalid actions have the value `MASKED`. `model_config` has `habit` and `initial_habit`, too."""

    def setup(self) -> None:
        """Makes the networks; untrained, the habit is worth most and the others are all alike."""
        super().setup()
        policy: Any = self.policy
        with torch.no_grad():
            policy[-1].bias[self.model_config["habit"]] = self.model_config["initial_habit"]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Values [N, A]."""
        values = super().compute_q_values(batch)[QF_PREDS]
        return {QF_PREDS: masked_logits(values, mask_of(batch[Columns.OBS]))}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Values [N, A] by the target networks."""
        values = super().forward_target(batch)[QF_PREDS]
        return {QF_PREDS: masked_logits(values, mask_of(batch[Columns.OBS]))}


class MaskedPolicyModule(Normalising, TorchRLModule, ValueFunctionAPI):
    """Chances of the valid actions, and a value, in two separate networks. `model_config`: `hidden` widths, `habit`,
    `initial_habit`, `normalise`."""

    observation_space: Any
    model_config: Any

    def setup(self) -> None:
        """Makes the networks; untrained, the habit is the likeliest and the others are all alike."""
        width, hidden = self.observation_space.shape[0], tuple(self.model_config["hidden"])
        self.begin(width, self.model_config)
        self.policy = mlp((width, *hidden, len(ACTIONS)), last_gain=0.0)
        self.value = mlp((width, *hidden, 1), last_gain=0.0)
        with torch.no_grad():
            last: Any = self.policy[-1]
            last.bias[self.model_config["habit"]] = self.model_config["initial_habit"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = batch[Columns.OBS]
        logits = self.policy(self.observed(observations))
        return {Columns.ACTION_DIST_INPUTS: masked_logits(logits, mask_of(observations))}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Values [...] of observations [..., S + A]."""
        return self.value(self.observed(batch[Columns.OBS])).squeeze(-1)


class MaskedEnvRunner(EpsilonGreedyEnvRunner):
    """Explores among the valid actions."""

    def any_actions(self, observations: Tensor) -> Tensor:
        """Actions [N]: the habit where it is valid, else to keep; in place n another one, all alike, with a chance of 1/2, 1/4,
        1/8 or 1/16, by turns."""
        rows, valid, usual = torch.arange(len(observations)), mask_of(observations), self.module.model_config["habit"]
        habit = torch.where(valid[:, usual] == 1, usual, 0)
        others = valid.clone()
        others[rows, habit] = 0
        strays = (torch.rand(len(observations)) < 0.5 ** (rows % 4 + 1)) & (others.sum(dim=1) > 0)
        # multinomial refuses rows of zeros, which do not stray anyway
        drawn = torch.multinomial(others + (others.sum(dim=1, keepdim=True) == 0), 1).squeeze(1)
        return torch.where(strays, drawn, habit)


def trained_by_dqn(options: UpdateDQNOptions, course: Course) -> Learnt:
    """Networks of the advantages, and the learning curve."""
    sampling = DQNOptions(
        num_envs=course.num_envs,
        buffer=course.steps + 2 * course.num_envs * (course.steps // course.periods + 1),  # all of it, with resets
        minibatch=options.minibatch,
        learning_rate=options.learning_rate,
        target_every=options.target_every,
        gradient_steps=options.gradient_steps,
        warm_up_share=options.warm_up_share,
        epsilon_end=options.epsilon_end,
        gamma=options.gamma,
        n_step=options.n_step,
        iteration=course.num_envs * course.periods,
    )
    return _trained(dqn_config(sampling), course, MaskedEnvRunner, MaskedDuelingModule, options, sampling)


def trained_by_ppo(options: UpdatePPOOptions, course: Course) -> Learnt:
    """Networks of the policy, and the learning curve."""
    sampling = PPOOptions(
        num_envs=course.num_envs,
        batch=options.batch_episodes * course.periods,
        minibatch=options.minibatch,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        gamma=options.gamma,
        gae_lambda=options.gae_lambda,
        clip=options.clip,
        entropy=options.entropy,
    )
    return _trained(
        ppo_config(sampling, course.steps), course, AdvantageEnvRunner, MaskedPolicyModule, options, sampling
    )


def _trained(
    config: AlgorithmConfig,
    course: Course,
    env_runner: type[BatchedEnvRunner],
    module: type[nn.Module],
    options: UpdateDQNOptions | UpdatePPOOptions,
    sampling: DQNOptions | PPOOptions,
) -> Learnt:
    model_config = {
        "hidden": options.hidden,
        "normalise": True,
        "habit": int(course.habit),
        "initial_habit": options.initial_habit,
    }
    envs = course.make_envs(AutoresetMode.NEXT_STEP)
    try:
        with local_algorithm(
            config,
            make_env=lambda: envs,
            env_runner=env_runner,
            module=module,
            model_config=model_config,
            seed=course.seed,
            limit=course.steps,
            options=sampling,
        ) as algorithm:
            curve, snapshots = LearningCurve(course.report), deque[tuple[int, Weights]](maxlen=SNAPSHOTS)
            while algorithm.requests < course.steps:
                algorithm.train()
                curve.add(algorithm.requests, algorithm.reward_per_request())
                snapshots.append((algorithm.requests, algorithm.get_module().served_policy()))
            return list(snapshots), curve.points()
    finally:
        envs.close()
