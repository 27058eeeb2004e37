"""Do pipelines that are better offline serve better? Rank correlations over pipelines, with what other users would give."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from envs.errors import ConfigurationError
from evaluation.statistics import CONFIDENCE

FEWEST = 3
"""Pipelines with different outcomes below which no correlation is told."""
FEW_RANKERS = 5
"""Rankers below which a correlation is told with a warning: pipelines of one ranker hang together."""

MOST_TWINS = 0.1
"""Share of pipelines that may do what others do, above which a correlation is told with a warning."""
_DECIMALS = 12
"""Of means that are ranked, so that rounding errors part no ties."""


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation over P pipelines, with two intervals; all NaN where the design allows none."""

    value: float
    low: float
    high: float
    """Interval if other users had been drawn, the pipelines as they are."""
    low_rankers: float
    high_rankers: float
    """Interval if other users and other rankers had been drawn, each with all of its pipelines."""
    pipelines: int
    distinct: int
    """Pipelines that differ in what they gave offline or simulated."""
    rankers: int

    def warning(self) -> str:
        """What makes the design too small; empty where nothing does."""
        if not np.isfinite(self.value):
            return (
                f"no rank correlation: {self.distinct} of {self.pipelines} pipelines differ, and at least {FEWEST} must, "
                "offline and simulated."
            )
        few = [f"only {self.rankers} rankers"] if self.rankers < FEW_RANKERS else []
        if self.distinct < (1 - MOST_TWINS) * self.pipelines:
            few.append(f"{self.pipelines - self.distinct} of {self.pipelines} pipelines do what others do")
        return f"weak design: {' and '.join(few)}; the correlation rests on little." if few else ""


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] Spearman's rho over the last axis of [B, P] each, ties by mean ranks; NaN where one side does not vary."""
    ranks = [rankdata(side, axis=-1) for side in (first, second)]
    centred = [rank - rank.mean(axis=-1, keepdims=True) for rank in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.sqrt((centred[0] ** 2).sum(axis=-1) * (centred[1] ** 2).sum(axis=-1))
        return (centred[0] * centred[1]).sum(axis=-1) / norm


def kendall(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] Kendall's tau-b over the last axis of [B, P] each; NaN where one side does not vary.

    Source: Kendall (1945), The treatment of ties in ranking problems.
    """
    found = np.empty(len(first))
    step = max(4_000_000 // max(first.shape[1] ** 2, 1), 1)
    for begin in range(0, len(first), step):
        signs = [
            np.sign(side[:, :, None] - side[:, None, :])
            for side in (first[begin : begin + step], second[begin : begin + step])
        ]
        both, *own = [
            (one * other).sum(axis=(1, 2)) for one, other in ((signs[0], signs[1]), (signs[0],) * 2, (signs[1],) * 2)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            found[begin : begin + step] = both / np.sqrt(own[0] * own[1])
    return found


MEASURES = {"spearman": spearman, "kendall": kendall}


def rank_correlations(
    offline: NDArray[np.float64],
    simulated: NDArray[np.float64],
    *,
    rankers: int,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, RankCorrelation]:
    """Spearman's and Kendall's correlation between the means over users of two measures of the same pipelines.

    Users are drawn with replacement; a user who stands on both sides is drawn for both. As each draw adds the noise of users once
    more, the draws lie lower in size than the value where the value is large: the interval errs towards no correlation.

    Args:
        offline: [P, U] measure of each pipeline for each user, NaN where a user has none.
        simulated: [P, U] the other measure, likewise.
        rankers: number of rankers; pipelines stand ranker by ranker, equally many of each.
        draws: B.
        seed: of the draws.

    Raises:
        ConfigurationError: if the shapes disagree.
    """
    if offline.shape != simulated.shape or not rankers or len(offline) % rankers:
        raise ConfigurationError(
            f"measures of shapes {offline.shape} and {simulated.shape} of {rankers} rankers do not fit; give [P, U] each, "
            "equally many pipelines of each ranker."
        )
    random = np.random.default_rng(seed)
    pipelines, users = offline.shape
    times = np.concatenate([np.ones((1, users)), random.multinomial(users, np.full(users, 1 / users), draws)])
    means = [_means(side, times) for side in (offline, simulated)]
    size = pipelines // rankers
    drawn = random.integers(0, rankers, (draws, rankers))
    columns = (drawn[:, :, None] * size + np.arange(size)).reshape(draws, -1)
    others = [np.take_along_axis(mean[1:], columns, axis=1) for mean in means]
    told = np.column_stack([mean[0] for mean in means])
    distinct = len(np.unique(told, axis=0))
    enough = min(distinct, *(len(np.unique(side)) for side in told.T)) >= FEWEST
    found = {}
    for name, measure in MEASURES.items():
        values = measure(*means)
        ends = (*_ends(values[1:]), *_ends(measure(*others))) if enough else (float("nan"),) * 4
        found[name] = RankCorrelation(
            value=float(values[0]) if enough else float("nan"),
            low=ends[0],
            high=ends[1],
            low_rankers=ends[2],
            high_rankers=ends[3],
            pipelines=pipelines,
            distinct=distinct,
            rankers=rankers,
        )
    return found


def _means(values: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, P] means over users under each draw; users without a value are left out."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (times @ np.where(known, values, 0).T) / (times @ known.T.astype(np.float64))
    return np.round(means, _DECIMALS)


def _ends(draws: NDArray[np.float64]) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
