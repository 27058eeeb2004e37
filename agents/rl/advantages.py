"""Returns and advantages as operations on whole arrays [T, N]: T steps of N environments."""

import numpy as np
from numpy.typing import NDArray


def generalised_advantages(
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    ended: NDArray[np.bool_],
    real: NDArray[np.bool_],
    *,
    gamma: float,
    lambda_: float,
) -> NDArray[np.float32]:
    """Generalised advantage estimates.

    A life that is truncated, or that goes on after the last row, is worth the value of the observation that follows; only
    termination is worth nothing. With next-step autoreset the observation after the last step of a life is its final
    one, so `values[t + 1]` is the right value at every real step.

    Args:
        rewards: [T, N].
        values: [T + 1, N] of the observation before each step, and after the last one.
        terminated: [T, N] the life ended for good at this step.
        ended: [T, N] terminated or truncated at this step.
        real: [T, N] False for rows that are no request (the step that only resets): they are 0 in the result and no
            advantage passes through them.
        gamma: discount per request.
        lambda_: weight of longer returns, in [0, 1].

    Returns:
        [T, N] float32.

    Source: Schulman et al. (2016), High-dimensional continuous control using generalized advantage estimation, eq. 16.
    """
    advantages = np.zeros(rewards.shape, np.float32)
    carry = np.zeros(rewards.shape[1:], np.float32)
    for step in reversed(range(len(rewards))):
        surprise = rewards[step] + gamma * values[step + 1] * ~terminated[step] - values[step]
        carry = np.where(real[step], surprise + gamma * lambda_ * ~ended[step] * carry, 0).astype(np.float32)
        advantages[step] = carry
    return advantages


class RewardScale:
    """Divides rewards by the running standard deviation of the discounted return, so that step sizes fit any reward.

    Source: Engstrom et al. (2020), Implementation matters in deep policy gradients, section 2 (reward scaling).
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self._returns = np.zeros(num_envs)
        self._count, self._mean, self._spread = 0, 0.0, 0.0

    @property
    def scale(self) -> float:
        """What rewards are divided by; 1 before anything was seen."""
        return float(np.sqrt(self._spread / self._count)) if self._count > 1 and self._spread > 0 else 1.0

    def scaled(
        self, rewards: NDArray[np.float32], ended: NDArray[np.bool_], real: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """[T, N] rewards over the scale after these rows; rows that are no request count for nothing."""
        for step in range(len(rewards)):
            self._returns = np.where(real[step], self.gamma * self._returns + rewards[step], self._returns)
            self._take_in(self._returns[real[step]])
            self._returns[ended[step]] = 0
        return (rewards / self.scale).astype(np.float32)

    def _take_in(self, sample: NDArray[np.float64]) -> None:
        # Chan et al. (1979): moments of a union from the moments of its parts
        if not len(sample):
            return
        total, step = self._count + len(sample), float(sample.mean()) - self._mean
        self._spread += float(sample.var()) * len(sample) + step**2 * self._count * len(sample) / total
        self._mean += step * len(sample) / total
        self._count = total
