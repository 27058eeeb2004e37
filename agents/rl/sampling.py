"""Sampling whole arrays from a vector environment: no Python object per user or step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

Choose = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Observations [N, S] -> (actions, columns to be kept beside them)."""


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments; a request takes one step, or K where it is answered slot by slot."""

    observations: NDArray[np.float32]
    """[T + 1, N, S] before each step, and after the last."""
    actions: Tensor
    """[T, N, ...] as the policy drew them (a box's actions not yet clipped)."""
    extras: dict[str, Tensor]
    """[T, N, ...] further columns of the policy."""
    rewards: NDArray[np.float32]
    """[T, N]."""
    terminated: NDArray[np.bool_]
    """[T, N] ended for good."""
    ended: NDArray[np.bool_]
    """[T, N] terminated or truncated."""
    real: NDArray[np.bool_]
    """[T, N] whether the row is a step to learn from; see `RolloutSampler`."""
    told: dict[str, NDArray[Any]] = field(default_factory=dict)
    """[T, N, ...] what the environment's `info` told after each step, of the names that the sampler was asked to keep."""


class RolloutSampler:
    """Steps a next-step autoreset environment and marks which rows are steps to learn from.

    After a life ends, the next step of its slot only resets and ignores the action: such a *phantom* row is not real. Nor are
    the rows in which a user waits for others to fill their slots (`info["active"]` is False in both). Where a budget ends
    inside a request of all users, the surplus users' rows are not real either, so that exactly the budget is learnt from.

    Budgets are counted in requests: where the environment has `steps_per_request`, so many steps are one request, and a
    rollout holds whole requests.

    Args:
        env: the environment.
        seed: of its first reset.
        told: names in `info` of what is kept beside the steps, each [N, ...].

    Raises:
        ValueError: if the environment has another autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int | None, told: tuple[str, ...] = ()) -> None:
        if env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise ValueError("RolloutSampler needs an environment with next-step autoreset.")
        self.told = told
        self.env = env
        self.requests = 0
        """Requests sampled so far."""
        self.earned = 0.0
        """Their rewards together."""
        self._observations, _ = env.reset(seed=seed)
        self._ended = np.zeros(env.num_envs, bool)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._finished: list[NDArray[np.float64]] = []

    def sample(self, choose: Choose, requests: int, limit: int | None = None) -> Rollout:
        """Answers requests of all environments equally often until at least `requests`, and at most `limit`, are real."""
        rows: list[dict[str, Any]] = []
        goal = requests if limit is None else min(requests, limit)
        count = 0
        while count < goal or not rows:
            steps = [self._step(choose) for _ in range(self.steps_per_request)]
            answered = np.flatnonzero(steps[-1]["real"])
            if limit is not None and count + len(answered) > limit:
                for step in steps:
                    step["real"][answered[limit - count :]] = False
            count += int(steps[-1]["real"].sum())
            rows += steps
        self.requests += count
        self.earned += sum(float(row["rewards"][row["real"]].sum()) for row in rows)
        extras = rows[0]["extras"]
        return Rollout(
            observations=np.stack([*(row["observations"] for row in rows), self._observations]),
            actions=torch.stack([row["actions"] for row in rows]),
            extras={name: torch.stack([row["extras"][name] for row in rows]) for name in extras},
            rewards=np.stack([row["rewards"] for row in rows]),
            terminated=np.stack([row["terminated"] for row in rows]),
            ended=np.stack([row["ended"] for row in rows]),
            real=np.stack([row["real"] for row in rows]),
            told={name: np.stack([row["told"][name] for row in rows]) for name in self.told},
        )

    @property
    def steps_per_request(self) -> int:
        """Steps in which the environment answers one request."""
        return getattr(self.env, "steps_per_request", 1)

    def finished_lives(self) -> NDArray[np.float64]:
        """[L, 2] (requests, return) of the lives that ended since the last call."""
        finished = np.concatenate([np.zeros((0, 2)), *self._finished])
        self._finished = []
        return finished / (self.steps_per_request, 1)

    def _step(self, choose: Choose) -> dict[str, Any]:
        before = self._observations
        with torch.inference_mode():
            actions, extras = choose(torch.from_numpy(before))
        for_env = actions.numpy()
        if isinstance(self.env.single_action_space, Box):
            for_env = np.clip(for_env, self.env.single_action_space.low, self.env.single_action_space.high)
        self._observations, rewards, terminated, truncated, info = self.env.step(for_env)
        # an environment that tells nothing has nobody wait
        real = np.array(info.get("active", ~self._ended))
        ended = terminated | truncated
        self._returns += rewards * real
        self._lengths += real
        if ended.any():
            self._finished.append(np.stack([self._lengths[ended], self._returns[ended]], axis=1))
            self._returns[ended], self._lengths[ended] = 0, 0
        self._ended = ended
        return {
            "observations": before,
            "actions": actions,
            "extras": extras,
            "rewards": rewards.astype(np.float32),
            "terminated": terminated.copy(),
            "ended": ended,
            "real": real,
            "told": {name: np.array(info[name]) for name in self.told},
        }
