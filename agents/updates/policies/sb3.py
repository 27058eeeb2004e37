"""Update policies by algorithms of Stable-Baselines3 that choose among actions; an invalid action counts as keep."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from gymnasium.vector import AutoresetMode
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from agents.rl.advantages import RewardScale
from agents.rl.networks import arrays_of, one_thread
from agents.rl.sb3 import SB3VecEnv
from agents.rl.seeding import seeded_generators
from agents.rl.served import LearningCurve
from agents.updates.policies.learnt import (
    SNAPSHOTS,
    Course,
    Learnt,
    LearntPolicy,
    OnPolicyOptions,
    ReplayOptions,
    Weights,
)


class SB3UpdatePolicy(LearntPolicy):
    """Takes the action of the largest number, which an algorithm of Stable-Baselines3 learns from whole rounds of episodes."""

    sees_mask = False
    algorithm: ClassVar[type[BaseAlgorithm]]

    @abstractmethod
    def make_model(self, env: SB3VecEnv, course: Course) -> BaseAlgorithm:
        """The untrained model; it follows the habit."""

    @abstractmethod
    def network_of(self, model: Any) -> nn.Sequential:
        """From observation to logits or values."""

    @abstractmethod
    def reward_scale(self, course: Course) -> RewardScale | None:
        """What rewards are divided by; None for nothing."""

    def train(self, course: Course) -> Learnt:
        """Trains by Stable-Baselines3."""
        with one_thread(), seeded_generators(course.seed):
            env = SB3VecEnv(course.make_envs(AutoresetMode.SAME_STEP), self.reward_scale(course))
            try:
                env.seed(course.seed)
                model = self.make_model(env, course)
                watch = _Watch(course, lambda: arrays_of(self.network_of(model)))
                rounds = course.steps // (course.periods * course.num_envs)
                model.learn(rounds * course.periods * course.num_envs, watch)
            finally:
                env.close()
            watch.keep()
            return list(watch.snapshots), watch.curve.points()


class _OnPolicy(SB3UpdatePolicy):
    options_class = OnPolicyOptions

    def reward_scale(self, course: Course) -> RewardScale | None:
        return RewardScale(course.num_envs, self.options.gamma)

    def make_model(self, env: SB3VecEnv, course: Course) -> BaseAlgorithm:
        options: OnPolicyOptions = self.options
        kind: Any = self.algorithm
        model = kind(
            "MlpPolicy",
            env,
            n_steps=course.periods,
            learning_rate=options.learning_rate,
            gamma=options.gamma,
            gae_lambda=options.gae_lambda,
            ent_coef=options.entropy,
            policy_kwargs={"net_arch": list(options.hidden), "activation_fn": nn.Tanh},
            normalize_advantage=course.periods * course.num_envs > 1,
            seed=course.seed,
            device="cpu",
            **self.further_arguments(course),
        )
        nn.init.zeros_(model.policy.action_net.weight)
        nn.init.zeros_(model.policy.action_net.bias)
        model.policy.action_net.bias.data[course.habit] = options.initial_habit
        return model

    def further_arguments(self, course: Course) -> dict[str, Any]:
        """Of the algorithm."""
        return {}

    def network_of(self, model: Any) -> nn.Sequential:
        return nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net)


class SB3PPOUpdate(_OnPolicy):
    """PPO."""

    name = "sb3:PPO"
    algorithm = PPO

    def further_arguments(self, course: Course) -> dict[str, Any]:
        """A minibatch has as many periods as an episode."""
        return {"batch_size": max(course.periods, 2), "n_epochs": 8}


class SB3A2CUpdate(_OnPolicy):
    """Advantage actor-critic."""

    name = "sb3:A2C"
    algorithm = A2C


class SB3DQNUpdate(SB3UpdatePolicy):
    """Deep Q-network, neither double nor duelling."""

    name = "sb3:DQN"
    options_class = ReplayOptions
    algorithm = DQN

    def reward_scale(self, course: Course) -> RewardScale | None:
        return None

    def make_model(self, env: SB3VecEnv, course: Course) -> BaseAlgorithm:
        options: ReplayOptions = self.options
        kind: Any = self.algorithm
        model = kind(
            "MlpPolicy",
            env,
            learning_rate=options.learning_rate,
            gamma=options.gamma,
            buffer_size=max(course.steps, course.num_envs),
            batch_size=options.minibatch,
            gradient_steps=options.gradient_steps,
            train_freq=1,
            learning_starts=round(options.warm_up_share * course.steps),
            target_update_interval=options.target_every,
            exploration_final_eps=options.epsilon_end,
            exploration_fraction=0.6,
            policy_kwargs={"net_arch": list(options.hidden), "activation_fn": nn.Tanh},
            seed=course.seed,
            device="cpu",
        )
        last = [layer for layer in self.network_of(model) if isinstance(layer, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        last.bias.data[course.habit] = options.initial_habit
        model.q_net_target.load_state_dict(model.q_net.state_dict())
        return model

    def network_of(self, model: Any) -> nn.Sequential:
        return model.q_net.q_net


class _Watch(BaseCallback):
    """Draws the learning curve, a point for each round of episodes, and keeps the last networks."""

    def __init__(self, course: Course, network: Callable[[], Weights]) -> None:
        super().__init__()
        self.curve, self._every = LearningCurve(course.report), course.periods * course.num_envs
        self.snapshots: deque[tuple[int, Weights]] = deque(maxlen=SNAPSHOTS)
        self._network = network

    def keep(self) -> None:
        """Keeps the network as it is."""
        if self.num_timesteps:
            self.snapshots.append((self.num_timesteps, self._network()))

    def _on_rollout_start(self) -> None:
        # what was sampled before has been learnt from by now
        if self.num_timesteps % self._every == 0:
            self.keep()

    def _on_step(self) -> bool:
        if self.num_timesteps % self._every == 0:
            env: Any = self.training_env
            self.curve.add(self.num_timesteps, env.reward_per_request())
        return True
