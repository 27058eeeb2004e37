"""What a linear bandit believes of its weights: ridge regression kept as sums, so that a batch is learnt in one product."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass
class LinearBelief:
    """A Gaussian over weights [D], up to the scale of the noise.

    Source: Li et al. (2010), A contextual-bandit approach to personalized news article recommendation, algorithm 1, lines 8, 12 and
    13; Agrawal and Goyal (2013), Thompson sampling for contextual bandits with linear payoffs, algorithm 1.
    """

    precision: NDArray[np.float64]
    """A [D, D] = ridge * identity + sum of x xᵀ."""
    earned: NDArray[np.float64]
    """b [D] = sum of x * reward."""

    @classmethod
    def blank(cls, width: int, ridge: float) -> Self:
        """Before anything was seen: weights of 0, as sure of them as `ridge` rows would be."""
        return cls(ridge * np.eye(width), np.zeros(width))

    def add(self, features: NDArray[np.floating], rewards: NDArray[np.floating]) -> None:
        """Takes in rows [R, D] and what each earned [R]; the order of the rows does not matter, but to the last bits."""
        rows = features.astype(np.float64)
        self.precision = self.precision + rows.T @ rows
        self.earned = self.earned + rows.T @ rewards.astype(np.float64)

    def mean(self) -> NDArray[np.float64]:
        """[D] A⁻¹ b."""
        return np.asarray(np.linalg.solve(self.precision, self.earned), np.float64)

    def root(self) -> NDArray[np.float64]:
        """[D, D] R with R Rᵀ = A⁻¹: |xᵀ R| is the width of the interval of xᵀθ, and θ + R z is a draw of the weights."""
        return np.asarray(np.linalg.inv(np.linalg.cholesky(self.precision)).T, np.float64)
