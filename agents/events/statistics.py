"""Statistics: what monitoring shows of each day and policy version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from agents.events.facts import Items, slates
from agents.events.samples import PREDICTION
from agents.events.store import Store, days_of
from agents.updates.intervals import Measured
from agents.updates.metrics import calibration_error, population_stability
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.event_log import matrix
from envs.measures import intra_list_distance

_COLUMNS = (
    ("day", pa.int32(), "clock over 86,400, rounded down"),
    ("policy_version", pa.string(), "which models served"),
    ("requests", pa.int64(), "requests served"),
    ("visits", pa.int64(), "visits that had any of them"),
    ("users", pa.int64(), "users who made any of them"),
    ("shown", pa.int64(), "slots filled"),
    ("clicks", pa.int64(), "items consumed"),
    ("ctr", pa.float64(), "clicks per request"),
    ("ctr_low", pa.float64(), "low end of its 95 % interval over users; NaN where they are all alike"),
    ("ctr_high", pa.float64(), "high end of it"),
    ("engagement", pa.float64(), "clicks per visit"),
    ("diversity", pa.float64(), "mean over slates of the distance between the categories of two items"),
    ("freshness", pa.float64(), "share of clicks on items younger than `fresh_days`; NaN without clicks"),
    ("shown_fresh", pa.float64(), "share of filled slots with such an item; NaN without any"),
    ("shown_age_days", pa.float64(), "mean age of the items shown, in days; NaN without any"),
    (
        "newborn_share",
        pa.float64(),
        "share of filled slots with an item born after the version was trained; NaN where unknown",
    ),
    ("predicted_ctr", pa.float64(), "clicks per slot as predicted; NaN where nothing was"),
    (
        "calibration_bias",
        pa.float64(),
        "clicks per slot as predicted, less those that came; NaN where nothing was predicted",
    ),
    ("calibration_error", pa.float64(), "expected calibration error of the predictions, in ten bins; NaN likewise"),
    ("score_psi", pa.float64(), "population stability index of the predictions against the reference; NaN likewise"),
)
STATISTICS = pa.schema(
    [pa.field(name, kind, metadata={"description": told}) for name, kind, told in _COLUMNS], {"name": "statistics"}
)
"""Columns of `statistics`, with what they mean in each field's metadata."""


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig:
    """What monitoring needs to know."""

    fresh_days: float = 14.0
    """Age in days below which an item is fresh, as a run's `fresh_days`."""
    bins: int = 10
    """Bins of predictions."""

    def __post_init__(self) -> None:
        if self.fresh_days <= 0 or self.bins < 2:
            raise ConfigurationError(
                f"fresh_days is {self.fresh_days} and bins {self.bins}; they must be positive, and at least 2."
            )


def statistics(
    events: pa.Table,
    items: Items,
    config: StatisticsConfig | None = None,
    *,
    trained_at: Mapping[str, float] | None = None,
    reference: NDArray[np.floating] | None = None,
) -> pa.Table:
    """A row of `STATISTICS` for each day and policy version that served on it, in that order; none without events.

    Args:
        events: rows as `EventLog` has them, with predictions where `with_predictions` added them.
        items: what is public.
        config: what monitoring needs to know.
        trained_at: policy version -> clock of the newest event that it has learnt from.
        reference: [n] predictions that those of each day are compared with, such as those on the newest samples of the training;
            by default those of the day before among `events`.
    """
    config, trained_at = config or StatisticsConfig(), trained_at or {}
    if not len(events):
        return STATISTICS.empty_table()
    day, version = days_of(events), events["policy_version"].cast(pa.string()).to_numpy(zero_copy_only=False)
    slots = _Slots.of(events, items, day)
    groups = pl.DataFrame({"day": day, "version": version}).with_row_index().group_by("day", "version").agg("index")
    rows = []
    for number, name, members in groups.sort("day", "version").iter_rows():
        compared = slots.predictions(number - 1) if reference is None else np.asarray(reference, np.float64)
        row = _row(events, slots, np.asarray(members), config, trained_at.get(name, np.nan), compared)
        rows.append({"day": number, "policy_version": name, **row})
    return pa.Table.from_pylist(rows, STATISTICS)


def daily_statistics(
    store: Store,
    day: int,
    items: Items,
    config: StatisticsConfig | None = None,
    *,
    trained_at: Mapping[str, float] | None = None,
    reference: NDArray[np.floating] | None = None,
) -> pa.Table:
    """The statistics of a stored day; without a `reference` its predictions are compared with those of the day before."""
    events = store.day(day)
    if reference is None and PREDICTION in events.column_names and day - 1 in store.partitions():
        before = store.day(day - 1, ["slate", PREDICTION])
        told = matrix(before, PREDICTION)[slates(before) >= 0].astype(np.float64)
        reference = told[~np.isnan(told)]
    return statistics(events, items, config, trained_at=trained_at, reference=reference)


@dataclass(frozen=True, kw_only=True)
class _Slots:
    """[R, K] arrays of what was shown."""

    slate: NDArray[np.int32]
    clicked: NDArray[np.bool_]
    age_days: NDArray[np.float64]
    birth_clock: NDArray[np.float64]
    prediction: NDArray[np.float64]
    distance: NDArray[np.float32]
    """[R] of each slate."""
    day: NDArray[np.int64]
    """[R]"""

    @classmethod
    def of(cls, events: pa.Table, items: Items, day: NDArray[np.int64]) -> "_Slots":
        slate = slates(events)
        birth = items.birth_clock[np.maximum(slate, 0)]
        told = PREDICTION in events.column_names
        return cls(
            slate=slate,
            clicked=(events["slot"].to_numpy()[:, None] == np.arange(slate.shape[1])) & (slate >= 0),
            age_days=np.maximum(events["clock"].to_numpy()[:, None] - birth, 0) / SECONDS_PER_DAY,
            birth_clock=birth,
            prediction=matrix(events, PREDICTION).astype(np.float64) if told else np.full(slate.shape, np.nan),
            distance=intra_list_distance(items.directions, slate),
            day=day,
        )

    def predictions(self, day: int) -> NDArray[np.float64]:
        """[n] all that was predicted on a day."""
        told = self.prediction[self.day == day]
        return told[(self.slate[self.day == day] >= 0) & ~np.isnan(told)]


def _row(
    events: pa.Table,
    slots: _Slots,
    members: NDArray[np.int64],
    config: StatisticsConfig,
    trained_at: float,
    reference: NDArray[np.float64],
) -> dict[str, Any]:
    """The figures of the requests `members`."""
    user, visit = (events[name].to_numpy()[members] for name in ("user", "visit"))
    clicks = events["item"].to_numpy()[members] >= 0
    filled, clicked = slots.slate[members] >= 0, slots.clicked[members]
    fresh = slots.age_days[members] < config.fresh_days
    who, place = np.unique(user, return_inverse=True)
    rate = Measured.ratio(np.bincount(place, clicks), np.bincount(place)).estimate()
    # users who all do the same tell nothing of how much they may differ
    low, high = np.clip([rate.low, rate.high], 0, 1) if rate.low < rate.high else (np.nan, np.nan)
    visits = len(np.unique(np.column_stack([user, visit]), axis=0))
    prediction = slots.prediction[members]
    told = filled & ~np.isnan(prediction)
    labels, chances = clicked[told], prediction[told]
    return {
        "requests": len(members),
        "visits": visits,
        "users": len(who),
        "shown": int(filled.sum()),
        "clicks": int(clicks.sum()),
        "ctr": rate.value,
        "ctr_low": low,
        "ctr_high": high,
        "engagement": float(clicks.sum() / visits),
        "diversity": float(slots.distance[members].mean()),
        "freshness": _mean(fresh[clicked]),
        "shown_fresh": _mean(fresh[filled]),
        "shown_age_days": _mean(slots.age_days[members][filled]),
        "newborn_share": _mean(slots.birth_clock[members][filled] > trained_at) if trained_at == trained_at else np.nan,
        "predicted_ctr": _mean(chances),
        "calibration_bias": _mean(chances) - _mean(labels),
        "calibration_error": calibration_error(labels, chances, config.bins),
        "score_psi": population_stability(reference, chances, config.bins),
    }


def _mean(values: NDArray) -> float:
    """The mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")
