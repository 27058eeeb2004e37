"""DQN by RLlib, choosing one of a few presets of re-ranking weights for each request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TD_ERROR_KEY,
)

from agents.actions import PRESETS, PresetAction, SlateActionWrapper, weights_of_presets
from agents.base import Training
from agents.rl.batched_env_runner import EpsilonGreedyEnvRunner
from agents.rl.modules import DuelingModule
from agents.rl.networks import arrays_of
from agents.rl.replay import ReplayBuffer
from agents.rl.rllib import local_algorithm
from agents.rl.served import LearningCurve, ReinforcedAgent, Trained
from agents.summary import PublicItems


@dataclass(frozen=True, kw_only=True)
class DQNOptions:
    """Settings of DQN; the defaults suit some 40,000 requests."""

    num_envs: int = 256
    """Users simulated side by side; one vector step lies between two rounds of gradient steps."""
    buffer: int = 100_000
    """Requests that the replay buffer keeps (the newest)."""
    minibatch: int = 512
    """Transitions of one gradient step."""
    gradient_steps: int = 4
    """Gradient steps after each vector step."""
    warm_up_share: float = 0.1
    """Share of the budget that is sampled before learning begins."""
    learning_rate: float = 5e-4
    """Adam's step size."""
    gamma: float = 0.9
    """Discount per request."""
    n_step: int = 3
    """Requests whose rewards are summed before the value of the next one is trusted."""
    target_every: int = 2_000
    """Requests between two copies of the network to its target."""
    epsilon_start: float = 1.0
    """Share of random choices while warming up."""
    epsilon_end: float = 0.1
    """Share of random choices from `explore_share` of the budget on; linear between."""
    explore_share: float = 0.6
    """Share of the budget over which exploration falls."""
    iteration: int = 2_000
    """Requests between two points of the learning curve."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""


class BatchedDQN(DQN):
    """DQN whose env runner returns whole rollouts, and whose replay buffer is made of arrays."""

    # RLlib types these as perhaps None; they are set when `training_step` runs
    config: Any
    metrics: Any
    learner_group: Any
    env_runner_group: Any

    def setup(self, config: Any) -> None:
        super().setup(config)
        settings, runner = self.config.env_config, self.env_runner
        self.replay = ReplayBuffer(
            max(1, settings["options"].buffer // runner.num_envs),
            runner.num_envs,
            runner.env.single_observation_space.shape[0],
        )
        self.draws = np.random.default_rng(self.config.seed)

    def training_step(self) -> None:
        """Samples and learns until `iteration` more requests are spent, or the budget is."""
        settings, sampler = self.config.env_config, self.env_runner.sampler
        goal = min(sampler.requests + settings["options"].iteration, settings["limit"])
        while sampler.requests < goal:
            self._sample(settings["options"], settings["limit"])
            if sampler.requests >= settings["options"].warm_up_share * settings["limit"]:
                self._learn(settings["options"], sampler.requests)
        self.metrics.aggregate([self.env_runner.get_metrics()], key=ENV_RUNNER_RESULTS)

    def _sample(self, options: DQNOptions, limit: int) -> None:
        spent = self.env_runner.sampler.requests
        epsilon = exploration(options, spent / limit)
        self.replay.add(self.env_runner.sample(num_timesteps=1, limit=limit - spent, epsilon=epsilon))

    def _learn(self, options: DQNOptions, spent: int) -> None:
        count = options.minibatch * options.gradient_steps
        columns = self.replay.sample(count, options.n_step, options.gamma, self.draws)
        batch = SampleBatch({name: torch.from_numpy(column) for name, column in columns.items()})
        learnt = self.learner_group.update(
            batch=MultiAgentBatch({"default_policy": batch}, env_steps=count),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: spent},
            minibatch_size=options.minibatch,
        )
        for results in learnt:
            for of_module in results.values():
                of_module.pop(TD_ERROR_KEY, None)
        self.metrics.aggregate(learnt, key=LEARNER_RESULTS)
        self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=False)


def exploration(options: DQNOptions, share_spent: float) -> float:
    """Share of random choices when `share_spent` of the budget is spent: flat, falling linearly, flat."""
    falling = (share_spent - options.warm_up_share) / max(options.explore_share - options.warm_up_share, 1e-9)
    return float(np.interp(falling, (0.0, 1.0), (options.epsilon_start, options.epsilon_end)))


class BatchedDQNConfig(DQNConfig):
    """Configuration of `BatchedDQN`."""

    def __init__(self) -> None:
        super().__init__(algo_class=BatchedDQN)


def dqn_config(options: DQNOptions) -> BatchedDQNConfig:
    """RLlib's configuration of double DQN without distributional values."""
    config = BatchedDQNConfig().training(
        lr=options.learning_rate,
        gamma=options.gamma,
        n_step=options.n_step,
        double_q=True,
        num_atoms=1,
        target_network_update_freq=options.target_every,
        tau=1.0,
        grad_clip=10,
        grad_clip_by="global_norm",
        td_error_loss_fn="huber",
    )
    # an iteration is one `training_step`: RLlib would repeat it until so many requests or seconds are spent
    return config.reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)


class DQNAgent(ReinforcedAgent):
    """Chooses presets of re-ranking weights by the values that DQN learns."""

    name = "dqn"
    options_class = DQNOptions
    num_outputs = len(PRESETS)

    @staticmethod
    def weights_of_outputs(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weights [N, 4] of the preset with the largest advantage [N, presets]; the first of equals."""
        return weights_of_presets(outputs.argmax(axis=1))

    @staticmethod
    def wrapped(env: Any, items: PublicItems) -> SlateActionWrapper:
        """The environment with presets as actions."""
        return PresetAction(env, items)

    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains by RLlib in this process."""
        options: DQNOptions = self.options
        config = dqn_config(options)
        with local_algorithm(
            config,
            make_env=lambda: make_env(min(options.num_envs, training.requests)),
            env_runner=EpsilonGreedyEnvRunner,
            module=DuelingModule,
            model_config={"hidden": options.hidden},
            limit=training.requests,
            options=options,
            seed=training.seed,
        ) as algorithm:
            runner = algorithm.env_runner
            initial = arrays_of(runner.module.policy)
            curve = LearningCurve(training.report)
            while runner.sampler.requests < training.requests:
                algorithm.train()
                curve.add(runner.sampler.requests, runner.reward_per_request())
            return Trained(initial, arrays_of(runner.module.policy), curve.points())
