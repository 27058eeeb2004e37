"""Statistics that a mean does not cover: intervals of anything measured per training, probability of improvement, Pareto fronts.

Means, ratios and their differences have their interval from `evaluation.statistics`. What is no mean (a hypervolume)
is worked out for each training by itself, and its interval is a t interval over these values, with the users, whom all
trainings share, drawn again with replacement.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from evaluation.statistics import CONFIDENCE, Estimate

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""[D, U] weights of users, each row of mean 1, -> [S, D] values of S trainings."""


def over_trainings_and_users(
    statistic: Statistic, users: int, *, draws: int, seed: int, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean over trainings of a statistic, with a t interval over trainings, users resampled within.

    The variance of the mean is that between trainings over their number, plus that over draws of users. With one
    training it is that of the users alone, and `Estimate.num_seeds` says so. Degrees of freedom are Welch and
    Satterthwaite's. Both parts hold some of the chance of single lives, so the interval is a little wide.

    Args:
        statistic: weighs users, and returns the values of all trainings.
        users: U.
        draws: D, of users with replacement.
        seed: of the draws.
        confidence: of the interval.
    """
    values = statistic(np.ones((1, users)))[:, 0]
    seeds = len(values)
    random = np.random.default_rng(seed)
    weights = random.multinomial(users, np.full(users, 1 / users), size=draws).astype(np.float64)
    by_user = float(statistic(weights).mean(axis=0).var(ddof=1))
    by_training = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance, value = by_user + by_training, float(values.mean())
    if users < 2 or not np.isfinite(variance):
        return Estimate(value, float("nan"), float("nan"), users, seeds)
    if variance == 0:
        return Estimate(value, value, value, users, seeds)
    spread = by_user**2 / (users - 1) + (by_training**2 / (seeds - 1) if seeds > 1 else 0.0)
    margin = float(stats.t.ppf((1 + confidence) / 2, variance**2 / spread)) * np.sqrt(variance)
    return Estimate(value, value - margin, value + margin, users, seeds)


def probability_of_improvement(first: ArrayLike, second: ArrayLike) -> float:
    """Chance that a training of the first does better than one of the second, averaged over tasks; ties count half.

    Args:
        first: [M, N] scores of N trainings in each of M tasks.
        second: [M, K] likewise.

    Source: Agarwal et al. (2021), Deep reinforcement learning at the edge of the statistical precipice, section 4.3,
    whose library rliable defines it by the Mann-Whitney U statistic of each task.
    """
    ours, theirs = np.atleast_2d(np.asarray(first, np.float64)), np.atleast_2d(np.asarray(second, np.float64))
    better = ours[:, :, None] > theirs[:, None, :]
    equal = ours[:, :, None] == theirs[:, None, :]
    return float((better + 0.5 * equal).mean(axis=(1, 2)).mean())


def improvement_estimate(
    first: list[NDArray[np.float64]], second: list[NDArray[np.float64]], *, draws: int, seed: int
) -> Estimate:
    """`probability_of_improvement` of mean rewards, with the 95 % percentile interval of a bootstrap stratified by task.

    In each draw trainings of either side and the users, whom both sides share, are drawn again within each task.

    Args:
        first: of each task the rewards [N, U] of N trainings and U users.
        second: likewise [K, U].
        draws: of the bootstrap.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    found = []
    for draw in range(draws + 1):
        ours, theirs = [], []
        for mine, others in zip(first, second, strict=True):
            if draw:
                users = random.integers(mine.shape[1], size=mine.shape[1])
                mine = mine[random.integers(len(mine), size=len(mine))][:, users]
                others = others[random.integers(len(others), size=len(others))][:, users]
            ours.append(mine.mean(axis=1))
            theirs.append(others.mean(axis=1))
        found.append(float(np.mean([probability_of_improvement(*pair) for pair in zip(ours, theirs, strict=True)])))
    low, high = np.quantile(found[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(found[0], float(low), float(high), min(each.shape[1] for each in first), min(map(len, first)))


def pareto_front(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[P] which of points [P, M] no other beats: at least as large in all M objectives and larger in one."""
    at_least = np.all(points[:, None] <= points[None], axis=2)
    larger = np.any(points[:, None] < points[None], axis=2)
    beaten: NDArray[np.bool_] = np.any(at_least & larger, axis=1)
    return ~beaten


def hypervolume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Volume that is beaten by at least one of a few points, from a reference point upwards.

    By inclusion and exclusion, exact; its work doubles with each point.

    Args:
        points: [..., P, M], P points of M objectives, larger is better.
        reference: [..., M]; what lies below it in an objective counts as nothing.

    Returns:
        [...] volumes.

    Source: Zitzler and Thiele (1998), Multiobjective optimization using evolutionary algorithms, where it is the size
    of the space covered.
    """
    above = np.maximum(points - reference[..., None, :], 0)
    total = np.zeros(above.shape[:-2])
    for size in range(1, above.shape[-2] + 1):
        sign = 1 if size % 2 else -1
        for chosen in combinations(range(above.shape[-2]), size):
            total += sign * above[..., chosen, :].min(axis=-2).prod(axis=-1)
    return total
