"""Small environments whose best action is known, and a policy that does nothing clever."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.errors import AgentError

BEST_PRESET = 2
BEST_WEIGHTS = np.array([0.0, 0.4, 0.5, -0.3], np.float32)
PHANTOM_REWARD = 1e6
WIDTH = 6


class Bandit(VectorEnv):
    """Lives of `length` steps in which one action is best whatever is observed.

    The first number of an observation is the step of the life over its length: 1 only in a final observation. In next-step
    autoreset, the step that only resets pays `PHANTOM_REWARD`, which must never reach a learner.
    """

    def __init__(
        self, num_envs: int, mode: AutoresetMode, discrete: bool, length: int = 7, terminates: bool = False
    ) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.length, self.terminates, self.mode = num_envs, length, terminates, mode
        self.single_observation_space = spaces.Box(-3, 3, (WIDTH,), np.float32)
        self.single_action_space = spaces.Discrete(5) if discrete else spaces.Box(-1, 1, (4,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.discrete = discrete
        self.steps_taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.random = np.random.default_rng(seed)
        # lives of unequal age, so that they do not all end in the same step
        self.place = np.arange(self.num_envs) % self.length
        self.ended = np.zeros(self.num_envs, bool)
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert self.discrete or (np.abs(actions) <= 1).all(), "an action outside its box reached the environment"
        self.steps_taken += 1
        phantom = self.ended.copy()
        good = actions == BEST_PRESET if self.discrete else -((actions - BEST_WEIGHTS) ** 2).sum(axis=1)
        rewards = np.where(phantom, PHANTOM_REWARD, good).astype(np.float64)
        self.place = np.where(phantom, 0, self.place + 1)
        done = self.place >= self.length
        info: dict[str, Any] = {}
        if self.mode == AutoresetMode.NEXT_STEP:
            self.ended = done.copy()
        elif done.any():
            info = {"final_obs": self._observe(), "_final_obs": done}
            self.place[done] = 0
        no = np.zeros(self.num_envs, bool)
        return self._observe(), rewards, done if self.terminates else no, no if self.terminates else done, info

    def _observe(self) -> Any:
        observation = self.random.uniform(-1, 1, (self.num_envs, WIDTH)).astype(np.float32)
        observation[:, 0] = self.place / self.length
        return observation

    def close_extras(self, **kwargs: Any) -> None:
        pass


class BrokenBandit(Bandit):
    """Fails after some steps, as an environment with a bug does."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.steps_taken == 5:
            raise AgentError("the environment is out of order")
        return super().step(actions)


class WiderBandit(Bandit):
    """Tells one number more, which means nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.single_observation_space = spaces.Box(-3, 3, (WIDTH + 1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _observe(self) -> Any:
        return np.pad(super()._observe(), ((0, 0), (0, 1)))
