"""Serving features: what is known of users and items as of a time, kept up to date from the stream or counted from the log.

`LiveFeatures` reads the stream and answers at request speed; `PastFeatures` counts the same numbers from stored events for any
moments, as training samples need them. Both count in ways of their own and share what is made of the counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from agents.events.facts import Items, impressions, requests
from agents.events.shelves import OFFSET
from agents.events.tally import FeatureConfig, Tally, first_step
from agents.rankers.log_history import relative
from envs.artefacts import load_arrays, save_arrays
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError, ConfigurationError

Counts = Mapping[str, NDArray]
USERS, ITEMS = "user", "item"
_TRIALS = {USERS: "requests", ITEMS: "shown"}
"""What clicks are counted of."""
_KIND = "live serving features"


def user_schema(num_categories: int, config: FeatureConfig | None = None) -> pa.Schema:
    """Columns of `serving_features` of users, with what they mean in each field's metadata."""
    config = config or FeatureConfig()
    fields = [
        _field("user", pa.int64(), "who, as in the event log"),
        _field("as_of", pa.float64(), "seconds of the run's clock; nothing that happened then or later is counted"),
        *_rate_fields(USERS, config),
        _field("user_days_since_request", pa.float32(), "days since the last request, NaN before the first"),
        _field("user_days_since_click", pa.float32(), "days since the last click, NaN before the first"),
        _field(
            "user_profile",
            pa.list_(pa.float32(), num_categories),
            "share of clicks by category of the item; 0 without any",
        ),
    ]
    return pa.schema(fields, {"name": "serving_features of users"})


def item_schema(config: FeatureConfig | None = None) -> pa.Schema:
    """Columns of `serving_features` of items, with what they mean in each field's metadata."""
    config = config or FeatureConfig()
    popular = [
        _field(
            f"item_popularity_{days}d",
            pa.float32(),
            f"clicks {told} over the mean of all items, each plus one",
        )
        for days, (_, told) in zip(config.windows_days, _windows(config)[1:], strict=True)
    ]
    fields = [
        _field("item", pa.int32(), "index into the catalogue, -1 for none"),
        _field("as_of", pa.float64(), "seconds of the run's clock; nothing that happened then or later is counted"),
        *_rate_fields(ITEMS, config),
        *popular,
        _field("item_days_since_click", pa.float32(), "days since the last click on it, NaN before the first"),
        _field("item_age_days", pa.float32(), "days since it was born, 0 before"),
    ]
    return pa.schema(fields, {"name": "serving_features of items"})


def _field(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


def _rate_fields(key: str, config: FeatureConfig) -> list[pa.Field]:
    """Counts and click rates, of all time and of each window."""
    trials = _TRIALS[key]
    what = "requests" if key == USERS else "slots that showed it"
    fields = []
    for window, told in _windows(config):
        fields += [
            _field(f"{key}_{trials}{window}", pa.int64(), f"{what} {told}"),
            _field(f"{key}_clicks{window}", pa.int64(), f"clicks {told}"),
            _field(
                f"{key}_click_rate{window}",
                pa.float32(),
                f"clicks over {what} {told}, smoothed to the rate of everybody",
            ),
        ]
    return fields


def _windows(config: FeatureConfig) -> list[tuple[str, str]]:
    """(ending of the columns' names, description) of all time and of each window."""
    lengths = [
        (f"_{days}d", "in the last day" if days == 1 else f"in the last {days} days") for days in config.windows_days
    ]
    return [("", "before"), *lengths]


class PastFeatures:
    """Features of users and items at any moments of a log, counted from its events.

    Args:
        events: the log, or all of it that may be counted; columns `facts.FACTS` are read. Any order.
        items: what is public.
        config: which features.
    """

    def __init__(self, events: pa.Table, items: Items, config: FeatureConfig | None = None) -> None:
        self.items, self.config = items, config or FeatureConfig()
        asked = requests(events).with_columns(
            pl.lit(1).alias("trials"), pl.col("item").ge(0).cast(pl.Int64).alias("clicks")
        )
        shown = impressions(events).with_columns(
            pl.lit(1).alias("trials"), pl.col("clicked").cast(pl.Int64).alias("clicks")
        )
        clicked = np.maximum(asked["item"].to_numpy(), 0)
        profile = items.categories[clicked].astype(np.float64) * asked["clicks"].to_numpy()[:, None]
        asked = asked.with_columns(pl.Series(name, profile[:, g]) for g, name in enumerate(_categories(items)))
        self._past = {
            USERS: _Past(asked, USERS, ["trials", "clicks", *_categories(items)]),
            ITEMS: _Past(shown, ITEMS, ["trials", "clicks"]),
        }

    def users(self, user: ArrayLike, clock: ArrayLike) -> pa.Table:
        """Features of users [N], each as of its clock [N] (or of one clock), by `user_schema`."""
        return _user_table(self._counts(USERS, user, clock), self.items, self.config)

    def item_table(self, item: ArrayLike, clock: ArrayLike) -> pa.Table:
        """Features of items [N], each as of its clock [N] (or of one clock), by `item_schema`."""
        return _item_table(self._counts(ITEMS, item, clock), self.items, self.config)

    def _counts(self, key: str, who: ArrayLike, clock: ArrayLike) -> Counts:
        """The counts as of each clock: see `_user_table`."""
        past, who = self._past[key], np.asarray(who, np.int64)
        as_of = np.broadcast_to(np.asarray(clock, np.float64), who.shape)
        known = as_of - self.config.event_delay
        now, everybody = past.before(who, known), past.before(None, known)
        counts: dict[str, NDArray] = {key: who, "as_of": as_of}
        counts |= {name: now[name].to_numpy() for name in now.columns}
        counts |= {f"all_{name}": everybody[name].to_numpy() for name in ("trials", "clicks")}
        for window, days in zip(_windows(self.config)[1:], self.config.windows_days, strict=True):
            begin = first_step(known, days, self.config.step_seconds).astype(np.float64) * self.config.step_seconds
            earlier, all_earlier = past.before(who, begin), past.before(None, begin)
            for name in ("trials", "clicks"):
                counts[f"{name}{window[0]}"] = (now[name] - earlier[name]).to_numpy()
                counts[f"all_{name}{window[0]}"] = (everybody[name] - all_earlier[name]).to_numpy()
        return counts


class _Past:
    """Running sums over each key, and over all, to be looked up at any moment.

    Args:
        facts: `key`, clock, and the columns that are summed.
        key: whose past.
        summed: which columns.
    """

    def __init__(self, facts: pl.DataFrame, key: str, summed: Sequence[str]) -> None:
        self._key = key
        facts = facts.select(pl.col(key).cast(pl.Int64), "clock", *summed).sort("clock", maintain_order=True)
        last = [
            pl.when(pl.col(name) > 0).then("clock").otherwise(-np.inf).cum_max().over(key).alias(f"last_{name}")
            for name in ("trials", "clicks")
        ]
        self._own = facts.select(key, "clock", *(pl.col(name).cum_sum().over(key) for name in summed), *last)
        self._all = facts.select("clock", *(pl.col(name).cum_sum() for name in ("trials", "clicks")))
        self._empty = {"last_trials": -np.inf, "last_clicks": -np.inf}

    def before(self, who: NDArray[np.int64] | None, moment: NDArray[np.float64]) -> pl.DataFrame:
        """The sums over what is older than `moment` [N], of `who` [N] or of all, in the order of the question."""
        asked = pl.DataFrame({"clock": moment}).with_row_index("place")
        known = self._all if who is None else self._own
        if who is not None:
            asked = asked.with_columns(pl.Series(self._key, who))
        found = asked.sort("clock").join_asof(
            known,
            on="clock",
            by=None if who is None else self._key,
            strategy="backward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        names = [name for name in known.columns if name not in (self._key, "clock")]
        return found.sort("place").select(pl.col(name).fill_null(self._empty.get(name, 0)) for name in names)


class LiveFeatures:
    """Features of users and items as of now, from events as a stream hands them on.

    Events may come early or late: one is counted from the first question on whose time it is older than (by `event_delay`).
    One that was seen before is passed over by its `offset`, so a stream that hands on events at least once is counted once.

    Args:
        items: what is public.
        config: which features.
    """

    def __init__(self, items: Items, config: FeatureConfig | None = None) -> None:
        self.items, self.config = items, config or FeatureConfig()
        self.position = 0
        """Offset of the next event to be taken in."""
        self._now = -np.inf
        self._tallies = {
            USERS: Tally(2 + items.categories.shape[1], self.config),
            ITEMS: Tally(2, self.config),
        }

    def update(self, events: pa.Table) -> None:
        """Takes in a micro-batch as `Consumer.poll` returns it (or events without offsets, each of them new)."""
        if OFFSET in events.column_names and len(events):
            offset = events[OFFSET].to_numpy()
            events = events.filter(pa.array(offset >= self.position))
            self.position = max(self.position, int(offset.max()) + 1)
        if not len(events):
            return
        asked, shown = requests(events), impressions(events)
        user, clock, item = (asked[name].to_numpy() for name in ("user", "clock", "item"))
        clicked = (item >= 0).astype(np.float64)[:, None]
        profile = self.items.categories[np.maximum(item, 0)] * clicked
        self._tallies[USERS].expect(user, clock, np.concatenate([np.ones_like(clicked), clicked, profile], axis=1))
        clicks = shown["clicked"].to_numpy().astype(np.float64)
        values = np.column_stack([np.ones(len(clicks)), clicks])
        self._tallies[ITEMS].expect(shown["item"].to_numpy().astype(np.int64), shown["clock"].to_numpy(), values)

    def users(self, user: ArrayLike, now: float) -> pa.Table:
        """Features of users [N] as of `now`, by `user_schema`.

        Raises:
            ConfigurationError: if `now` lies before that of an earlier question.
        """
        return _user_table(self._counts(USERS, user, now), self.items, self.config)

    def item_table(self, item: ArrayLike, now: float) -> pa.Table:
        """Features of items [N] as of `now`, by `item_schema`.

        Raises:
            ConfigurationError: if `now` lies before that of an earlier question.
        """
        return _item_table(self._counts(ITEMS, item, now), self.items, self.config)

    def save(self, path: Path) -> None:
        """Writes all that was counted, whole or not at all."""
        arrays = {
            f"{key}.{name}": array for key, tally in self._tallies.items() for name, array in tally.arrays().items()
        }
        now = None if np.isneginf(self._now) else self._now
        save_arrays(path, _KIND, arrays, {"position": self.position, "now": now, "config": asdict(self.config)})

    @classmethod
    def load(cls, path: Path, items: Items) -> Self:
        """Reads what `save` wrote; go on with a consumer at `position`.

        Raises:
            ArtefactError: if the file is damaged, foreign, or of another number of categories.
        """
        arrays, kept = load_arrays(path, _KIND)
        config = kept["config"]
        live = cls(items, FeatureConfig(**{**config, "windows_days": tuple(config["windows_days"])}))
        live.position, live._now = kept["position"], -np.inf if kept["now"] is None else kept["now"]
        for key, tally in live._tallies.items():
            if arrays[f"{key}.sums"].shape[1] != tally.width:
                raise ArtefactError(f"'{path}' has features of other categories than the catalogue; make it again.")
            tally.take_back({name.split(".")[1]: array for name, array in arrays.items() if name.split(".")[0] == key})
        return live

    def _counts(self, key: str, who: ArrayLike, now: float) -> Counts:
        """The counts as of `now`: see `_user_table`."""
        if not (np.isfinite(now) and now >= self._now):
            raise ConfigurationError(
                f"features are asked for as of {now:.10g} s after those of {self._now:.10g} s; use PastFeatures for the past."
            )
        self._now = float(now)
        for tally in self._tallies.values():
            tally.move_on(now - self.config.event_delay)
        who = np.asarray(who, np.int64)
        sums, last, recent = self._tallies[key].of(who)
        all_sums, all_recent = self._tallies[key].of_all()
        counts: dict[str, NDArray] = {key: who, "as_of": np.full(len(who), self._now)}
        for place, name in enumerate(("trials", "clicks")):
            counts |= {name: sums[:, place].astype(np.int64), f"last_{name}": last[:, place]}
            counts[f"all_{name}"] = np.full(len(who), int(all_sums[place]))
            for number, (window, _) in enumerate(_windows(self.config)[1:]):
                counts[f"{name}{window}"] = recent[:, number, place].astype(np.int64)
                counts[f"all_{name}{window}"] = np.full(len(who), int(all_recent[number, place]))
        if key == USERS:
            counts |= {name: sums[:, 2 + place] for place, name in enumerate(_categories(self.items))}
        return counts


def _categories(items: Items) -> list[str]:
    return [f"profile_{number}" for number in range(items.categories.shape[1])]


def _user_table(counts: Counts, items: Items, config: FeatureConfig) -> pa.Table:
    """What is made of the counts.

    Args:
        counts: user, as_of; trials, clicks and the same of everybody (all_...), of all time and of each window; last_trials and
            last_clicks, clocks; clicks by category.
        items: how many categories.
        config: which features.
    """
    profile = np.column_stack([counts[name] for name in _categories(items)])
    clicks = np.maximum(profile.sum(axis=1, keepdims=True), 1e-12)
    return _table(
        counts,
        user_schema(profile.shape[1], config),
        config,
        user_days_since_request=_days_since(counts, "last_trials"),
        user_days_since_click=_days_since(counts, "last_clicks"),
        user_profile=_lists(profile / clicks),
    )


def _item_table(counts: Counts, items: Items, config: FeatureConfig) -> pa.Table:
    """What is made of the counts: as `_user_table`, of items and without categories."""
    item = counts["item"]
    age = (counts["as_of"] - items.birth_clock[np.maximum(item, 0)]) / SECONDS_PER_DAY
    popularity = {
        f"item_popularity{window}": relative(counts[f"clicks{window}"], counts[f"all_clicks{window}"], len(items))
        for window, _ in _windows(config)[1:]
    }
    return _table(
        counts,
        item_schema(config),
        config,
        **popularity,
        item_days_since_click=_days_since(counts, "last_clicks"),
        item_age_days=np.where(item >= 0, np.maximum(age, 0), 0),
    )


def _table(counts: Counts, schema: pa.Schema, config: FeatureConfig, **others: NDArray | pa.Array) -> pa.Table:
    """The features in the order and types of their schema."""
    key = schema.names[0]
    columns: dict[str, NDArray | pa.Array] = {
        key: counts[key],
        "as_of": counts["as_of"],
        **others,
    }
    for window, _ in _windows(config):
        trials, clicks, all_trials, all_clicks = (
            counts[f"{name}{window}"] for name in ("trials", "clicks", "all_trials", "all_clicks")
        )
        everybody = (all_clicks + 1) / (all_trials + 2)
        columns[f"{key}_{_TRIALS[key]}{window}"], columns[f"{key}_clicks{window}"] = trials, clicks
        columns[f"{key}_click_rate{window}"] = (clicks + config.smoothing * everybody) / (trials + config.smoothing)
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _days_since(counts: Counts, name: str) -> NDArray[np.float64]:
    last = counts[name]
    return np.where(np.isfinite(last), (counts["as_of"] - last) / SECONDS_PER_DAY, np.nan)


def _lists(values: NDArray[np.float64]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
