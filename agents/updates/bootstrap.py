"""Bootstrap over users: every figure of every ranker under the same draws of users, so that differences are paired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.updates.intervals import CONFIDENCE, Estimate
from envs.errors import ConfigurationError

_CELLS_AT_ONCE = 4_000_000
"""Draws times rows that are held in memory at a time."""


@dataclass(frozen=True)
class Resampled:
    """A figure, and what it is under each draw of users."""

    value: float
    draws: NDArray[np.float64]
    """[B] the figure under each draw; NaN where a draw leaves it undefined."""
    num_users: int
    num_seeds: int = 1
    """Training seeds that the figure is a mean of."""

    @classmethod
    def over_seeds(cls, figures: "Sequence[Resampled]", seed: int) -> "Resampled":
        """The mean of a figure over S training seeds, each under the same draws of users. Each draw of users goes with a draw of
        S seeds with replacement, so that both are sources of error.

        Args:
            figures: the figure by each training seed.
            seed: of the draws of training seeds; figures of different rankers take different ones.

        Source: Owen (2007), The pigeonhole bootstrap.
        """
        draws = np.stack([figure.draws for figure in figures])
        count = len(figures)
        drawn = (
            np.random.default_rng(seed).integers(count, size=draws.shape) if count > 1 else np.zeros(draws.shape, int)
        )
        value = float(np.mean([figure.value for figure in figures]))
        return cls(value, np.take_along_axis(draws, drawn, axis=0).mean(axis=0), figures[0].num_users, count)

    def __sub__(self, other: "Resampled") -> "Resampled":
        """The paired difference of two figures under the same draws."""
        if len(self.draws) != len(other.draws) or self.num_users != other.num_users:
            raise ValueError("figures under other draws of users cannot be paired; use one UserBootstrap for both.")
        seeds = min(self.num_seeds, other.num_seeds)
        return Resampled(self.value - other.value, self.draws - other.draws, self.num_users, seeds)

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The value with the interval between quantiles of the draws (percentile bootstrap); NaN bounds for one user alone."""
        known = self.draws[np.isfinite(self.draws)]
        if self.num_users < 2 or not len(known):
            return Estimate(self.value, float("nan"), float("nan"), self.num_users, self.num_seeds)
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(self.value, float(low), float(high), self.num_users, self.num_seeds)


class UserBootstrap:
    """Draws of U users with replacement, B times.

    Args:
        num_users: U.
        draws: B.
        seed: the same seed gives the same draws.

    Source: Efron and Tibshirani (1993), An introduction to the bootstrap, with users as clusters of rows.
    """

    def __init__(self, num_users: int, draws: int = 2_000, seed: int = 0) -> None:
        if num_users < 1 or draws < 1:
            raise ConfigurationError(f"num_users is {num_users} and draws {draws}; both must be at least 1.")
        self.num_users = num_users
        random = np.random.default_rng(seed)
        self._times = random.multinomial(num_users, np.full(num_users, 1 / num_users), draws).astype(np.float32)

    def mean(self, values: NDArray[np.float64]) -> Resampled:
        """The mean of `values` [U]; users for whom it is NaN are left out of it."""
        known = np.isfinite(values)
        return self.ratio(np.where(known, values, 0), known)

    def ratio(self, numerators: NDArray, denominators: NDArray) -> Resampled:
        """The sum of `numerators` [U] over the sum of `denominators` [U]."""
        # one product for both, and for the draw in which each user comes once
        sums = np.stack([numerators, denominators], axis=1).astype(np.float64)
        drawn = self._times.astype(np.float64) @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            total = sums.sum(axis=0)
            return Resampled(float(total[0] / total[1]), drawn[:, 0] / drawn[:, 1], self.num_users)

    def distance(self, differences: NDArray, rows: NDArray) -> Resampled:
        """The sum over B bins of |the sum of `differences` [U, B] over users|, over the sum of `rows` [U].

        What is drawn adds noise to every bin, so that distances are larger under draws than they are. The draws are moved down
        by their mean excess, and not below zero.
        """
        times = self._times.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(np.abs(differences.sum(axis=0)).sum() / rows.sum())
            draws = np.abs(times @ differences).sum(axis=1) / (times @ rows)
        return Resampled(value, np.maximum(draws - (np.nanmean(draws) - value), 0), self.num_users)

    def pooled_auc(self, labels: NDArray[np.bool_], scores: NDArray[np.float64], user: NDArray[np.int64]) -> Resampled:
        """The AUC over all rows [R] together, each counted as often as its user [R] was drawn."""
        order = np.argsort(scores, kind="stable")
        value, positive, who = scores[order], labels[order], user[order]
        ties = np.flatnonzero(np.append(True, value[1:] != value[:-1]))
        times = np.concatenate([np.ones((1, self.num_users), np.float32), self._times])
        step = max(_CELLS_AT_ONCE // max(len(order), 1), 1)
        figures = []
        for first in range(0, len(times), step):
            weight = times[first : first + step, who].astype(np.float64)
            positives, negatives = (np.add.reduceat(weight * kind, ties, axis=1) for kind in (positive, ~positive))
            below = np.cumsum(negatives, axis=1) - negatives / 2
            with np.errstate(invalid="ignore", divide="ignore"):
                figures.append((positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1)))
        together = np.concatenate(figures)
        return Resampled(float(together[0]), together[1:], self.num_users)
