"""Agents by Stable-Baselines3 on the same environment and actions, and the face of a vector environment that it takes.

`sb3:PPO`, `sb3:A2C`, `sb3:DQN`, `sb3:SAC`, `sb3:TD3` and `sb3:DDPG` differ in little more than their options. Each has a plain
network over the summary of a request; what of SB3's model is kept is that network's weights. A checkpoint holds the whole model,
its replay buffer and traffic: a training that was cut short goes on from it to the bit.
"""

import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from tensorboardX import SummaryWriter
from torch import nn

from agents.actions import (
    PRESETS,
    WEIGHT_CENTRE,
    SlateActionWrapper,
    resolve_action,
    weights_of_actions,
    weights_of_presets,
)
from agents.base import Training, TrainingStopped
from agents.rl.advantages import RewardScale
from agents.rl.checkpoints import Checkpoints, Progress
from agents.rl.networks import arrays_of, one_thread
from agents.rl.seeding import generator_states, seeded_generators, set_generators
from agents.rl.served import LearningCurve, ReinforcedAgent, Trained, Weights
from agents.rl.traffic import read_learner, write_learner
from agents.summary import PublicItems
from envs.errors import ConfigurationError

_NOTHING: dict[str, Any] = {}
"""Info of a user whose life goes on; shared, so that a step makes no object per user."""


class SB3VecEnv(VecEnv):
    """A vector environment with same-step autoreset, as Stable-Baselines3 takes it.

    Args:
        env: must observe one box and reset itself in the step in which a life ends: so there is no phantom step, and the final
            observation comes in `info["final_obs"]` [N, S].
        reward_scale: divides rewards by the running standard deviation of the discounted return; None for not.

    Raises:
        ValueError: if the environment resets itself otherwise.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], reward_scale: RewardScale | None = None) -> None:
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError("SB3VecEnv needs an environment with AutoresetMode.SAME_STEP.")
        self.env = env
        self.render_mode = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._reward_scale = reward_scale
        self._earned, self._requests = 0.0, 0

    def reset(self) -> NDArray[np.float32]:
        """Observations [N, S]; takes the seed given by `seed`."""
        observations, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """(observations [N, S], rewards [N], dones [N], infos); of a life that ended, the info has its final observation."""
        observations, rewards, terminated, truncated, info = self.env.step(self._actions)
        done = terminated | truncated
        self._earned += float(rewards.sum())
        self._requests += self.num_envs
        infos = [_NOTHING] * self.num_envs
        for slot in np.flatnonzero(done):
            infos[slot] = {
                "terminal_observation": info["final_obs"][slot],
                "TimeLimit.truncated": bool(truncated[slot] and not terminated[slot]),
            }
        rewards = rewards.astype(np.float32)
        if self._reward_scale is not None:
            everybody = np.ones((1, self.num_envs), bool)
            rewards = self._reward_scale.scaled(rewards[None], done[None], everybody)[0]
        return observations, rewards, done, infos

    @property
    def earns_numbers(self) -> bool:
        """Whether all rewards since the last call of `reward_per_request` were finite."""
        return bool(np.isfinite(self._earned))

    def reward_per_request(self) -> float:
        """Mean reward (not scaled) of the requests since the last call."""
        mean = self._earned / max(self._requests, 1)
        self._earned, self._requests = 0.0, 0
        return mean

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for each of the users."""
        return [getattr(self.env, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Calls the vector environment's method once."""
        return [getattr(self.env, method_name)(*args, **kwargs)] * self._count(indices)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Users have no wrappers of their own."""
        return [False] * self._count(indices)

    def _count(self, indices: int | Sequence[int] | None) -> int:
        return len(list(self._get_indices(indices)))


@dataclass(frozen=True, kw_only=True)
class SB3Options:
    """Settings that all algorithms have; the defaults suit some 40,000 requests."""

    action: str = ""
    """Action space, 'weights' or 'presets'; empty for what suits the algorithm."""
    num_envs: int = 256
    """Users simulated side by side."""
    learning_rate: float = 1e-3
    """Adam's step size (A2C: RMSprop's)."""
    gamma: float = 0.95
    """Discount per request."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of the value."""
    further: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the algorithm's class in Stable-Baselines3, by name, which the other settings do not say; JSON must
    hold them."""

    @property
    def curve_every(self) -> int:
        """Fewest requests between two points of the learning curve."""
        return 1

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the algorithm's class that these settings stand for."""
        return {"learning_rate": self.learning_rate, "gamma": self.gamma}


@dataclass(frozen=True, kw_only=True)
class OnPolicyOptions(SB3Options):
    """Settings of algorithms that learn from what they have just sampled."""

    batch: int = 4096
    """Requests between two updates of the policy."""
    gae_lambda: float = 0.9
    """Weight of longer returns in the advantage estimates."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    initial_log_std: float = -0.7
    """Log of the exploration's standard deviation before training, in units of the action."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {"gae_lambda": self.gae_lambda, "ent_coef": self.entropy, **super().arguments}


@dataclass(frozen=True, kw_only=True)
class SB3PPOOptions(OnPolicyOptions):
    """Settings of SB3's PPO; the same as of RLlib's where both have them."""

    minibatch: int = 512
    """Requests of one gradient step."""
    epochs: int = 6
    """Passes over each batch."""
    clip: float = 0.2
    """Change of an action's probability beyond which an update gains nothing more."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {"n_epochs": self.epochs, "clip_range": self.clip, **super().arguments}


@dataclass(frozen=True, kw_only=True)
class SB3A2COptions(OnPolicyOptions):
    """Settings of SB3's A2C: one gradient step for each batch, so batches are smaller."""

    batch: int = 1024
    """Requests between two updates of the policy; each is one gradient step."""
    learning_rate: float = 3e-3
    """RMSprop's step size."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyOptions(SB3Options):
    """Settings of algorithms that learn from a replay buffer."""

    buffer: int = 100_000
    """Requests that the replay buffer keeps (the newest)."""
    minibatch: int = 512
    """Transitions of one gradient step."""
    gradient_steps: int = 4
    """Gradient steps after each vector step."""
    warm_up_share: float = 0.1
    """Share of the budget that is sampled before learning begins."""
    iteration: int = 2_000
    """Requests between two points of the learning curve."""

    @property
    def curve_every(self) -> int:
        return self.iteration

    @property
    def arguments(self) -> dict[str, Any]:
        return {"batch_size": self.minibatch, "gradient_steps": self.gradient_steps, **super().arguments}


@dataclass(frozen=True, kw_only=True)
class SB3DQNOptions(OffPolicyOptions):
    """Settings of SB3's DQN, which is neither double nor duelling; the same as of RLlib's where both have them."""

    learning_rate: float = 5e-4
    """Adam's step size."""
    gamma: float = 0.9
    """Discount per request."""
    target_every: int = 2_000
    """Requests between two copies of the network to its target."""
    epsilon_end: float = 0.1
    """Share of random choices from `explore_share` of the budget on; linear from 1 before."""
    explore_share: float = 0.6
    """Share of the budget over which exploration falls."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "target_update_interval": self.target_every,
            "exploration_final_eps": self.epsilon_end,
            "exploration_fraction": self.explore_share,
            **super().arguments,
        }


@dataclass(frozen=True, kw_only=True)
class ActorCriticOptions(OffPolicyOptions):
    """Settings of SB3's SAC, TD3 and DDPG."""

    noise: float = 0.3
    """Standard deviation of the exploration of TD3 and DDPG, in units of the action; SAC has its own."""


class SB3Agent(ReinforcedAgent):
    """Sets re-ranking weights, or chooses presets of them, by a policy that an algorithm of Stable-Baselines3 learns.

    Raises:
        ConfigurationError: if the options name an action space that does not exist or does not suit the algorithm, or further
            arguments that JSON cannot hold.
    """

    algorithm: ClassVar[type[BaseAlgorithm]]
    suits: ClassVar[tuple[str, ...]]
    """Action spaces that the algorithm can act in; the first where none is asked for."""
    squashes: ClassVar[bool] = False
    """Whether the network's outputs are brought into the box by tanh; else they are clipped to it."""
    autoreset_mode = AutoresetMode.SAME_STEP

    def __init__(self, slate_size: int = 10, seed: int = 0, options: Any = None) -> None:
        super().__init__(slate_size, seed, options)
        self.action = self.options.action or self.suits[0]
        self._check_options()
        self.num_outputs = len(PRESETS) if self.action == "presets" else len(WEIGHT_CENTRE)

    def weights_of_outputs(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weights [N, 4] of the network's outputs [N, A], without exploration."""
        if self.action == "presets":
            return weights_of_presets(outputs.argmax(axis=1))
        return weights_of_actions(np.tanh(outputs) if self.squashes else np.clip(outputs, -1, 1))

    def wrapped(self, env: Any, items: PublicItems) -> SlateActionWrapper:
        """The environment with the actions of the options."""
        kind: Any = resolve_action(self.action)
        return kind(env, items)

    @abstractmethod
    def make_model(self, env: SB3VecEnv, requests: int, seed: int) -> BaseAlgorithm:
        """The untrained model for a budget of `requests`."""

    @abstractmethod
    def policy_network(self, model: Any) -> nn.Sequential:
        """The network from observation to mean action, logits or values."""

    @abstractmethod
    def learn(self, model: Any, watch: "_Watch", requests: int) -> None:
        """Trains the model until it has spent `requests`, which the number of users divides, under the eyes of `watch`."""

    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains by Stable-Baselines3, which steps all users equally often; goes on from a checkpoint in `training.folder`.

        The number of users is chosen so that the budget is spent to the request, or to the few requests that are left over by
        a number with no fitting divisor.

        Raises:
            TrainingStopped: if a weight or the reward is not finite; the newest checkpoint is of before.
            ArtefactError: if the folder's checkpoint is damaged, or one of another training.
        """
        num_envs = most_even(training.requests, self.options.num_envs)
        requests = training.requests // num_envs * num_envs
        with one_thread(), seeded_generators(training.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the last minibatch of an epoch is shorter is meant
            scale = RewardScale(num_envs, self.options.gamma) if issubclass(self.algorithm, OnPolicyAlgorithm) else None
            env = SB3VecEnv(make_env(num_envs), scale)
            model = self._model(env, requests, training.seed)
            watch = _Watch(self, model, training, requests)
            try:
                self.learn(model, watch, requests)
                watch.keep()
            finally:
                watch.close()
            return watch.trained()

    def _model(self, env: SB3VecEnv, requests: int, seed: int) -> BaseAlgorithm:
        try:
            return self.make_model(env, requests, seed)
        except TypeError as error:
            if not self.options.further:
                raise
            raise ConfigurationError(
                f"'further' of agent '{self.name}' does not fit ({error}); name arguments of Stable-Baselines3's "
                f"{self.algorithm.__name__} that no other setting says."
            ) from error

    def _check_options(self) -> None:
        if self.action not in self.suits:
            raise ConfigurationError(
                f"agent '{self.name}' does not fit action space '{resolve_action(self.action).name}': Stable-Baselines3's "
                f"{self.algorithm.__name__} has a plain network over summaries here, and acts in {' or '.join(self.suits)}."
            )
        try:
            json.dumps(self.options.further)
        except TypeError as error:
            raise ConfigurationError(
                f"'further' of agent '{self.name}' holds what JSON cannot ({error}); the agent could not be saved."
            ) from error


class OnPolicyAgent(SB3Agent):
    """An agent whose algorithm learns from what it has just sampled."""

    suits = ("weights", "presets")

    def make_model(self, env: SB3VecEnv, requests: int, seed: int) -> BaseAlgorithm:
        options: OnPolicyOptions = self.options
        policy: dict[str, Any] = {"net_arch": list(options.hidden), "activation_fn": nn.Tanh}
        if self.action == "weights":
            policy["log_std_init"] = options.initial_log_std
        kind: Any = self.algorithm
        steps = self._lengths(env, requests)[0]
        model = kind(
            "MlpPolicy",
            env,
            n_steps=steps,
            policy_kwargs=policy,
            normalize_advantage=steps * env.num_envs > 1,
            seed=seed,
            device="cpu",
            **self.further_arguments(steps * env.num_envs),
            **options.arguments,
            **options.further,
        )
        # SB3 draws small weights; from zeros, the untrained policy is the order of the recall scores, as RLlib's is here
        nn.init.zeros_(model.policy.action_net.weight)
        return model

    def further_arguments(self, batch: int) -> dict[str, Any]:
        """Arguments that depend on the number of requests of a batch."""
        return {}

    def policy_network(self, model: Any) -> nn.Sequential:
        return nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net)

    def learn(self, model: Any, watch: "_Watch", requests: int) -> None:
        spent = 0
        for length in self._lengths(model.env, requests):
            spent += length * model.n_envs
            if spent <= model.num_timesteps:
                continue  # before a checkpoint
            if length != model.n_steps:
                model.n_steps = model.rollout_buffer.buffer_size = length
                model.rollout_buffer.reset()
            model.learn(length * model.n_envs, watch, reset_num_timesteps=False)

    def _lengths(self, env: SB3VecEnv, requests: int) -> list[int]:
        """Vector steps of each batch, the longest first."""
        steps = requests // env.num_envs
        updates = min(max(1, round(requests / self.options.batch)), steps)
        return [len(part) for part in np.array_split(np.arange(steps), updates)]


class SB3PPOAgent(OnPolicyAgent):
    """PPO."""

    name = "sb3:PPO"
    options_class = SB3PPOOptions
    algorithm = PPO

    def further_arguments(self, batch: int) -> dict[str, Any]:
        return {"batch_size": min(self.options.minibatch, batch)}


class SB3A2CAgent(OnPolicyAgent):
    """Advantage actor-critic."""

    name = "sb3:A2C"
    options_class = SB3A2COptions
    algorithm = A2C


class OffPolicyAgent(SB3Agent):
    """An agent whose algorithm learns from a replay buffer."""

    def make_model(self, env: SB3VecEnv, requests: int, seed: int) -> BaseAlgorithm:
        options: OffPolicyOptions = self.options
        kind: Any = self.algorithm
        model = kind(
            "MlpPolicy",
            env,
            buffer_size=max(min(options.buffer, requests), env.num_envs),
            learning_starts=round(options.warm_up_share * requests),
            train_freq=1,
            policy_kwargs={"net_arch": list(options.hidden), "activation_fn": nn.Tanh},
            seed=seed,
            device="cpu",
            **self.further_arguments(env),
            **options.arguments,
            **options.further,
        )
        last = [layer for layer in self.policy_network(model) if isinstance(layer, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        for network, target in self.targets(model):
            target.load_state_dict(network.state_dict())
        return model

    def further_arguments(self, env: SB3VecEnv) -> dict[str, Any]:
        """Arguments that depend on the environment."""
        return {}

    @abstractmethod
    def targets(self, model: Any) -> list[tuple[nn.Module, nn.Module]]:
        """(network, target) of those whose last layer `make_model` changes."""

    def learn(self, model: Any, watch: "_Watch", requests: int) -> None:
        if model.num_timesteps < requests:
            model.learn(requests - model.num_timesteps, watch, reset_num_timesteps=False)


class SB3DQNAgent(OffPolicyAgent):
    """Deep Q-network."""

    name = "sb3:DQN"
    options_class = SB3DQNOptions
    algorithm = DQN
    suits = ("presets",)

    def policy_network(self, model: Any) -> nn.Sequential:
        return model.q_net.q_net

    def targets(self, model: Any) -> list[tuple[nn.Module, nn.Module]]:
        return [(model.q_net, model.q_net_target)]


class SB3SACAgent(OffPolicyAgent):
    """Soft actor-critic."""

    name = "sb3:SAC"
    options_class = ActorCriticOptions
    algorithm = SAC
    suits = ("weights",)
    squashes = True

    def policy_network(self, model: Any) -> nn.Sequential:
        return nn.Sequential(*model.actor.latent_pi, model.actor.mu)

    def targets(self, model: Any) -> list[tuple[nn.Module, nn.Module]]:
        return []  # SAC's actor has none


class SB3TD3Agent(OffPolicyAgent):
    """Twin delayed deterministic policy gradients."""

    name = "sb3:TD3"
    options_class = ActorCriticOptions
    algorithm: ClassVar[type[BaseAlgorithm]] = TD3
    suits = ("weights",)
    squashes = True

    def further_arguments(self, env: SB3VecEnv) -> dict[str, Any]:
        count = env.action_space.shape[0]  # type: ignore[index]
        return {"action_noise": NormalActionNoise(np.zeros(count), np.full(count, self.options.noise))}

    def policy_network(self, model: Any) -> nn.Sequential:
        return model.actor.mu

    def targets(self, model: Any) -> list[tuple[nn.Module, nn.Module]]:
        return [(model.actor, model.actor_target)]


class SB3DDPGAgent(SB3TD3Agent):
    """Deep deterministic policy gradients."""

    name = "sb3:DDPG"
    algorithm = DDPG


def most_even(number: int, most: int) -> int:
    """Of the counts from half of `most` to `most`, the one that leaves the least of `number` over; the largest of equals."""
    most = min(number, most)
    return min(range(most, most // 2, -1), key=lambda count: number % count)


class _SavedModel:
    """A model with its traffic and the generators that it draws from, as `Checkpoints` write and restore it."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def save_to_path(self, path: str) -> None:
        """Writes it into a folder."""
        write_learner(path, (vars(self._model), generator_states()), self._model.env)

    def restore_from_path(self, path: str) -> None:
        """Takes it back, in the world of the model's present traffic."""
        attributes, generators = read_learner(path, self._model.env)
        vars(self._model).update(attributes)
        set_generators(generators)


class _Watch(BaseCallback):
    """Draws the learning curve, writes checkpoints, and ends a training before numbers that are not finite spoil what was learnt.

    Where `training.folder` has a checkpoint, the model is brought to where that stands.
    """

    def __init__(self, agent: SB3Agent, model: Any, training: Training, limit: int) -> None:
        super().__init__()
        self._agent, self._trained, self._limit = agent, model, limit
        self._curve, self._last, self._written = LearningCurve(training.report), 0, 0
        self._initial = self._good = self._policy()
        self._checkpoints = Checkpoints.of(agent, training, list(model.observation_space.shape))
        resumed = self._checkpoints.progress() if self._checkpoints is not None else None
        if self._checkpoints is not None and resumed is not None:
            self._checkpoints.restore(_SavedModel(model))
            self._initial, self._good, self._written = resumed.initial, self._policy(), resumed.requests
            self._curve.go_on(resumed.learning_curve)
            if len(resumed.learning_curve):
                self._last = int(resumed.learning_curve[-1, 0])
            training.report(resumed.requests)
        self._writer = SummaryWriter(str(training.folder)) if training.folder is not None else None

    def trained(self) -> Trained:
        """What was learnt so far."""
        return Trained(self._initial, self._good, self._curve.points())

    def keep(self) -> None:
        """Keeps the policy's weights, and writes a checkpoint if one is due.

        Raises:
            TrainingStopped: if a weight or a reward is not finite: what was sampled since the last checkpoint may be learnt from
                long after.
        """
        weights, spent = self._policy(), self._trained.num_timesteps
        self._check(self._trained.env.earns_numbers, "the reward")
        self._check(all(np.isfinite(array).all() for array in weights.values()), "a weight")
        self._good = weights
        if self._checkpoints is not None and spent > self._written and (self._checkpoints.due or spent >= self._limit):
            self._checkpoints.write(_SavedModel(self._trained), Progress(spent, self._initial, self._curve.points()))
            self._written = spent

    def close(self) -> None:
        """Closes the curves for TensorBoard."""
        if self._writer is not None:
            self._writer.close()

    def _policy(self) -> Weights:
        return arrays_of(self._agent.policy_network(self._trained))

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.keep()

    def _on_rollout_end(self) -> None:
        if self.num_timesteps < min(self._last + self._agent.options.curve_every, self._limit):
            return
        reward = self._trained.env.reward_per_request()
        self._check(np.isfinite(reward), "the reward")
        self._curve.add(self.num_timesteps, reward)
        self._last = self.num_timesteps
        if self._writer is not None:
            figures = {name: value for name, value in self.logger.name_to_value.items() if name.startswith("train/")}
            for name, value in {"reward": reward, **figures}.items():
                self._writer.add_scalar(name, value, self.num_timesteps)

    def _check(self, well: bool | np.bool_, what: str) -> None:
        if not well:
            raise TrainingStopped(
                f"agent '{self._agent.name}' cannot go on: {what} is not finite after {self._trained.num_timesteps:,} requests. "
                "Lower learning_rate, or look for rewards that are no numbers.",
                self.trained(),
            )
