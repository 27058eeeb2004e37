"""PPO by Stable-Baselines3 on the same environment and actions, and the face of a vector environment that it takes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from agents.actions import SlateActionWrapper, WeightsAction, weights_of_actions
from agents.base import Training
from agents.rl.advantages import RewardScale
from agents.rl.networks import arrays_of, one_thread
from agents.rl.seeding import seeded_generators
from agents.rl.served import LearningCurve, ReinforcedAgent, Trained, Weights
from agents.summary import PublicItems

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
class SB3PPOOptions:
    """Settings of SB3's PPO; the same as of RLlib's where both have them."""

    num_envs: int = 256
    """Users simulated side by side."""
    batch: int = 4096
    """Requests between two updates of the policy."""
    minibatch: int = 512
    """Requests of one gradient step."""
    epochs: int = 6
    """Passes over each batch."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    gamma: float = 0.95
    """Discount per request."""
    gae_lambda: float = 0.9
    """Weight of longer returns in the advantage estimates."""
    clip: float = 0.2
    """Change of an action's probability beyond which an update gains nothing more."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    initial_log_std: float = -0.7
    """Log of the exploration's standard deviation before training, in units of the action."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of the value."""


class SB3PPOAgent(ReinforcedAgent):
    """Sets re-ranking weights by a policy that Stable-Baselines3's PPO learns."""

    name = "sb3_ppo"
    options_class = SB3PPOOptions
    autoreset_mode = AutoresetMode.SAME_STEP

    @staticmethod
    def weights_of_outputs(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weights [N, 4] of the network's means [N, 4], clipped to the box as SB3 does."""
        return weights_of_actions(np.clip(outputs, -1, 1))

    @staticmethod
    def wrapped(env: Any, items: PublicItems) -> SlateActionWrapper:
        """The environment with weights as actions."""
        return WeightsAction(env, items)

    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains by Stable-Baselines3, which steps all users equally often.

        The number of users is chosen so that the budget is spent to the request, or to the few requests that are left over by
        a number with no fitting divisor.
        """
        options: SB3PPOOptions = self.options
        num_envs = most_even(training.requests, options.num_envs)
        steps = training.requests // num_envs
        updates = min(max(1, round(training.requests / options.batch)), steps)
        with one_thread(), seeded_generators(training.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the last minibatch of an epoch is shorter is meant
            env = SB3VecEnv(make_env(num_envs), RewardScale(num_envs, options.gamma))
            curve = LearningCurve(training.report)
            lengths = [len(part) for part in np.array_split(np.arange(steps), updates)]
            model = _model(options, env, lengths[0], training.seed)
            initial = _policy_arrays(model)
            callback = _Curve(env, curve)
            for length in lengths:
                if length != model.n_steps:
                    model.n_steps = model.rollout_buffer.buffer_size = length
                    model.rollout_buffer.reset()
                model.learn(length * num_envs, callback, reset_num_timesteps=False)
            return Trained(initial, _policy_arrays(model), curve.points())


def most_even(number: int, most: int) -> int:
    """Of the counts from half of `most` to `most`, the one that leaves the least of `number` over; the largest of equals."""
    most = min(number, most)
    return min(range(most, most // 2, -1), key=lambda count: number % count)


def _model(options: SB3PPOOptions, env: SB3VecEnv, steps: int, seed: int) -> PPO:
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=steps,
        batch_size=min(options.minibatch, steps * env.num_envs),
        n_epochs=options.epochs,
        learning_rate=options.learning_rate,
        gamma=options.gamma,
        gae_lambda=options.gae_lambda,
        clip_range=options.clip,
        ent_coef=options.entropy,
        policy_kwargs={
            "net_arch": list(options.hidden),
            "activation_fn": nn.Tanh,
            "log_std_init": options.initial_log_std,
        },
        normalize_advantage=steps * env.num_envs > 1,
        seed=seed,
        device="cpu",
    )
    # SB3 draws small weights; from zeros, the untrained policy is the order of the recall scores, as RLlib's is here
    action_layer: Any = model.policy.action_net
    nn.init.zeros_(action_layer.weight)
    return model


def _policy_arrays(model: PPO) -> Weights:
    """Weights of the network from observation to mean action."""
    return arrays_of(nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net))


class _Curve(BaseCallback):
    """Adds a point to the learning curve after each batch of requests."""

    def __init__(self, env: SB3VecEnv, curve: LearningCurve) -> None:
        super().__init__()
        self._env, self._curve = env, curve

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._curve.add(self.num_timesteps, self._env.reward_per_request())
