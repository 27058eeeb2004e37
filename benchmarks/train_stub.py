"""An environment that costs next to nothing, so that what training on it takes is the cost of the library."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

WIDTH, CHOICES, LIFE = 64, 16, 20


class StubVectorEnv(VectorEnv[Any, Any, Any]):
    """N contextual bandits: the reward of an action is its share of a random linear map of the observation.

    Lives have 20 steps and end by truncation; the first ones are of unequal age, so that they do not all end together. Observations
    are drawn from a fixed pool, as drawing them anew would cost more than all the rest.

    Args:
        num_envs: N.
        mode: next-step autoreset (RLlib) or same-step (Stable-Baselines3).
    """

    def __init__(self, num_envs: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.mode = num_envs, mode
        self.single_observation_space = Box(-np.inf, np.inf, (WIDTH,), np.float32)
        self.single_action_space = Discrete(CHOICES)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        fixed = np.random.default_rng(0)
        self._pool = fixed.standard_normal((4_096 + num_envs, WIDTH), dtype=np.float32)
        worth = self._pool @ fixed.standard_normal((WIDTH, CHOICES), dtype=np.float32) / np.sqrt(WIDTH)
        self._worth = worth.astype(np.float64) + 1
        self._rows = np.arange(num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Observations [N, 64]."""
        self._random = np.random.default_rng(seed)
        self._age = self._rows % LIFE
        self._ended = np.zeros(self.num_envs, bool)
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of all; with next-step autoreset the step after an end only resets and pays nothing."""
        rewards = self._worth[self._start + self._rows, np.asarray(actions)]
        rewards[self._ended] = 0.0
        self._age = np.where(self._ended, 0, self._age + 1)
        ended = self._age >= LIFE
        observations, info = self._observe(), {}
        if self.mode == AutoresetMode.NEXT_STEP:
            self._ended = ended
        elif ended.any():
            info = {"final_obs": observations, "_final_obs": ended}
            self._age[ended] = 0
        return observations, rewards, np.zeros(self.num_envs, bool), ended.copy(), info

    def close(self, **kwargs: Any) -> None:
        """Nothing to close."""

    def _observe(self) -> Any:
        self._start = int(self._random.integers(4_096))
        return self._pool[self._start : self._start + self.num_envs].copy()
