"""DQN by RLlib, choosing one of a few presets of re-ranking weights for each request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TD_ERROR_KEY,
)

from agents.actions import PRESETS, PresetAction, SlateActionWrapper, weights_of_presets
from agents.base import Training
from agents.rl.batched_env_runner import EpsilonGreedyEnvRunner, Share
from agents.rl.collecting import BatchedAlgorithm
from agents.rl.learner import ArrayDQNLearner
from agents.rl.modules import DuelingModule
from agents.rl.replay import ReplayBuffer, draw
from agents.rl.served import ReinforcedAgent, Trained
from agents.rl.training import trained_by_rllib
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
    prioritise: float = 0.0
    """Exponent of a transition's last error in the odds of its being drawn again; 0 draws all alike."""
    correct: float = 0.4
    """Exponent that corrects for unequal odds, at the start; it rises to 1 over the budget."""
    runners: int = 0
    """Workers that sample, each with `num_envs` users; 0 samples in the training process."""
    normalise: bool = False
    """Whether observations are brought to mean 0 and deviation 1; summaries are bounded, so they need not be."""


class BatchedDQN(BatchedAlgorithm, DQN):
    """DQN whose env runners return whole rollouts, and whose replay buffers are made of arrays, one for each env runner."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.replays: dict[int, ReplayBuffer] = {}
        self.draws = np.random.default_rng(self.config.seed)

    def training_step(self) -> None:
        """Samples and learns until `iteration` more requests are spent, or the budget is."""
        settings = self.config.env_config
        options, limit = settings["options"], settings["limit"]
        goal = min(self.requests + options.iteration, limit)
        while self.requests < goal:
            for share in self.collect(1, epsilon=exploration(options, self.requests / limit)):
                self._replay_of(share).add(share.batch)
            if self.requests >= options.warm_up_share * limit:
                self._learn(options, self.requests)

    def _replay_of(self, share: Share) -> ReplayBuffer:
        if share.runner not in self.replays:
            options, (_, envs, width) = self.config.env_config["options"], share.batch.observations.shape
            steps = max(1, options.buffer // (envs * max(1, self.config.num_env_runners)))
            self.replays[share.runner] = ReplayBuffer(steps, envs, width, options.prioritise)
        return self.replays[share.runner]

    def _learn(self, options: DQNOptions, spent: int) -> None:
        count = options.minibatch * options.gradient_steps
        correction = options.correct + (1 - options.correct) * spent / self.config.env_config["limit"]
        drawn = draw(list(self.replays.values()), count, options.n_step, self.config.gamma, self.draws, correction)
        batch = SampleBatch({name: torch.from_numpy(column) for name, column in drawn.columns.items()})
        learnt = self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=count),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: spent},
            minibatch_size=options.minibatch,
        )
        errors = [results[DEFAULT_MODULE_ID].pop(TD_ERROR_KEY) for results in learnt]
        if options.prioritise:
            drawn.judge(np.concatenate([np.asarray(part) for part in errors[0].peek(compile=False)]).ravel())
        self.metrics.aggregate(learnt, key=LEARNER_RESULTS)
        self.hand_back_weights()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The algorithm's state with the replay buffers."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        return state | {"replays": self.replays, "draws": self.draws}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` returned."""
        super().set_state(state)
        self.replays, self.draws = state["replays"], state["draws"]


def exploration(options: DQNOptions, share_spent: float) -> float:
    """Share of random choices when `share_spent` of the budget is spent: flat, falling linearly, flat."""
    falling = (share_spent - options.warm_up_share) / max(options.explore_share - options.warm_up_share, 1e-9)
    return float(np.interp(falling, (0.0, 1.0), (options.epsilon_start, options.epsilon_end)))


class BatchedDQNConfig(DQNConfig):
    """Configuration of `BatchedDQN`."""

    def __init__(self) -> None:
        super().__init__(algo_class=BatchedDQN)
        self.learners(learner_class=ArrayDQNLearner)


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
        """Trains by RLlib; goes on from a checkpoint in `training.folder`."""
        options: DQNOptions = self.options
        return trained_by_rllib(
            self,
            make_env,
            training,
            config=dqn_config(options),
            env_runner=EpsilonGreedyEnvRunner,
            module=DuelingModule,
            model_config={"hidden": options.hidden, "normalise": options.normalise},
        )
