"""How far simulated users are from real ones, in units of how far real users are from each other.

For many random splits of the users into halves A and B, each statistic is compared between the real users of A and of B (the
floor: what chance alone gives) and between the simulated users of A and the real users of B. Where users were simulated several
times, the splits take turns at these. Both sides of every comparison have
the same size and no user in common, so their means over the splits can be divided by each other. A ratio of 1 says that half of
the users, simulated, are as like the other half as real ones are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from envs.measures import gini
from evaluation.fidelity.statistics import LagPairs, UserSample

Distance = Callable[[UserSample, NDArray[np.bool_], UserSample, NDArray[np.bool_]], float]
"""Takes a sample and a choice of its users [U], twice; gives their distance."""


@dataclass(frozen=True, kw_only=True)
class Aspect:
    """What is compared, and how."""

    name: str
    title: str
    unit: str
    distance: Distance


def _values(name: str, title: str, unit: str) -> Aspect:
    """The aspect of one of a sample's `values`, by Wasserstein's distance."""

    def distance(
        first: UserSample, first_users: NDArray[np.bool_], second: UserSample, second_users: NDArray[np.bool_]
    ) -> float:
        one, other = first.values[name].of(first_users), second.values[name].of(second_users)
        return float(wasserstein_distance(one, other)) if len(one) and len(other) else float("nan")

    return Aspect(name=name, title=title, unit=unit, distance=distance)


def _between_gini(
    first: UserSample, first_users: NDArray[np.bool_], second: UserSample, second_users: NDArray[np.bool_]
) -> float:
    return abs(gini(first.item_counts(first_users)) - gini(second.item_counts(second_users)))


def _between_ranks(
    first: UserSample, first_users: NDArray[np.bool_], second: UserSample, second_users: NDArray[np.bool_]
) -> float:
    one, other = first.item_counts(first_users), second.item_counts(second_users)
    return float(jensenshannon(np.sort(one)[::-1] + 1e-12, np.sort(other)[::-1] + 1e-12, base=2))


def _between_items(
    first: UserSample, first_users: NDArray[np.bool_], second: UserSample, second_users: NDArray[np.bool_]
) -> float:
    one, other = first.item_counts(first_users), second.item_counts(second_users)
    return float(jensenshannon(one + 1e-12, other + 1e-12, base=2))


def _between_lags(
    first: UserSample, first_users: NDArray[np.bool_], second: UserSample, second_users: NDArray[np.bool_]
) -> float:
    one, other = lag_rates(first.repeats, first_users), lag_rates(second.repeats, second_users)
    return float(np.nanmean(np.abs(one - other))) if np.isfinite(one - other).any() else float("nan")


def lag_rates(repeats: LagPairs, users: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[lags] share of pairs of items so far apart that have a category in common; NaN without pairs."""
    pairs = repeats.pairs[users].sum(axis=0)
    return np.where(pairs > 0, repeats.repeats[users].sum(axis=0) / np.maximum(pairs, 1), np.nan)


ASPECTS = (
    Aspect(name="gini", title="Gini of item popularity", unit="|difference|", distance=_between_gini),
    Aspect(
        name="rank_frequency", title="rank-frequency curve", unit="Jensen-Shannon, sqrt bits", distance=_between_ranks
    ),
    Aspect(name="item_shares", title="shares of items", unit="Jensen-Shannon, sqrt bits", distance=_between_items),
    _values("category_entropy", "category entropy of a user", "Wasserstein, nats"),
    Aspect(
        name="category_lags", title="repeated category, lags 1-10", unit="mean |difference|", distance=_between_lags
    ),
    _values("similarity", "similarity of neighbours", "Wasserstein, cosine"),
    _values("item_age", "age of items consumed", "Wasserstein, log(1 + days)"),
    _values("visit_length", "items of a visit", "Wasserstein, log items"),
    _values("gap", "gap between visits", "Wasserstein, log days"),
    _values("activity", "items of a user", "Wasserstein, log(1 + items)"),
    _values("click_rate", "click rate of a user", "Wasserstein, share"),
    _values("watch_time", "watch time of an item", "Wasserstein, log(1 + s)"),
    _values("user_watch_time", "mean watch time of a user", "Wasserstein, log(1 + s)"),
)


def distance_table(
    real: UserSample, simulated: Mapping[str, Sequence[UserSample]], *, splits: int, seed: int, tick: Callable[[], None]
) -> pl.DataFrame:
    """Distances of each source of users to real ones beside the floor.

    Args:
        real: held-out real users.
        simulated: name of the source -> its users, the same as the real ones, simulated once or more often.
        splits: random halvings of the users.
        seed: of the halvings.
        tick: called after each aspect.

    Returns:
        One row for each aspect that the samples have and source ('real' is the floor): aspect, title, unit, source, distance (mean
        over splits), low, high (2.5 and 97.5 % of the splits), ratio (distance over floor; null for the floor).
    """
    count = len(real.repeats.pairs)
    halves = []
    for split in range(splits):
        chosen = np.zeros(count, bool)
        chosen[np.random.default_rng([seed, split]).permutation(count)[: count // 2]] = True
        halves.append(chosen)
    rows = []
    for aspect in ASPECTS:
        found = {
            name: np.array(
                [aspect.distance(sample[k % len(sample)], half, real, ~half) for k, half in enumerate(halves)]
            )
            for name, sample in {"real": [real], **simulated}.items()
            if aspect.name not in OPTIONAL or aspect.name in sample[0].values
        }
        floor = float(np.mean(found["real"])) if "real" in found else float("nan")
        for name, distances in found.items():
            if not np.isfinite(distances).all():
                continue
            low, high = np.quantile(distances, [0.025, 0.975])
            ratio = float(distances.mean()) / floor if name != "real" and floor > 0 else None
            rows.append(
                {
                    "aspect": aspect.name,
                    "title": aspect.title,
                    "unit": aspect.unit,
                    "source": name,
                    "distance": float(distances.mean()),
                    "low": float(low),
                    "high": float(high),
                    "ratio": ratio,
                }
            )
        tick()
    return pl.DataFrame(rows, infer_schema_length=None)


OPTIONAL = ("click_rate", "watch_time", "user_watch_time")
"""Aspects that only logs with exposures, or with watch times, have."""
