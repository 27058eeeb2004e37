"""Training samples: a row for each item shown, with what came of it and what was known when it was asked for."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agents.events.facts import FACTS, Items, impressions
from agents.events.features import PastFeatures, item_schema, user_schema
from agents.events.store import Store
from agents.events.tally import FeatureConfig
from envs.errors import ConfigurationError
from envs.event_log import EventLog, matrix

PREDICTION = "prediction"
"""Column that events may have: list of K float32, the chance of a click that the policy told for each slot, NaN for none."""
_OUTCOMES = (
    ("user", pa.int64(), "who was asked for; one life of a simulated user"),
    ("log_user", pa.int32(), "index of the log's user"),
    ("visit", pa.int32(), "number of the user's visit"),
    ("request", pa.int32(), "number of the user's request"),
    ("clock", pa.float64(), "event time: seconds of the run's clock"),
    ("policy_version", pa.string(), "which models showed it"),
    ("slot", pa.int16(), "slot of the slate, 0 at the top"),
    ("item", pa.int32(), "item shown: index into the catalogue"),
    ("clicked", pa.bool_(), "label: whether this item was consumed"),
    ("rating", pa.float32(), "rating of what was consumed, else NaN"),
    ("propensity", pa.float32(), "chance with which it came into its slot, given the slots above; NaN where unknown"),
    ("prediction", pa.float32(), "chance of a click that the policy told; NaN where it told none"),
)


def samples_schema(num_categories: int, config: FeatureConfig | None = None) -> pa.Schema:
    """Columns of `training_samples`, with what they mean in each field's metadata."""
    fields = [pa.field(name, kind, metadata={"description": told}) for name, kind, told in _OUTCOMES]
    features = [
        field for schema in (user_schema(num_categories, config), item_schema(config)) for field in list(schema)[2:]
    ]
    return pa.schema(fields + features, {"name": "training_samples"})


def with_predictions(events: EventLog | pa.Table, predictions: NDArray[np.floating]) -> pa.Table:
    """The events with the chances of a click [R, K] that were told for the items of their slates.

    Raises:
        ConfigurationError: if the shape is not that of the slates.
    """
    table = events.table if isinstance(events, EventLog) else events
    shape = matrix(table, "slate").shape if len(table) else predictions.shape
    if predictions.shape != shape:
        raise ConfigurationError(
            f"predictions have the shape {predictions.shape}, the slates {shape}; give one a slot."
        )
    if not len(table):
        return table
    flat = pa.array(np.ascontiguousarray(predictions, np.float32).reshape(-1))
    return table.append_column(PREDICTION, pa.FixedSizeListArray.from_arrays(flat, shape[1]))


def training_samples(
    events: pa.Table, items: Items, config: FeatureConfig | None = None, *, past: Sequence[pa.Table] = ()
) -> pa.Table:
    """A row for each item that `events` show, in their order, then by slot; features as of the request.

    What happened at a request's own time or later is in none of its features: neither its outcome, nor that of requests at the
    same moment.

    Args:
        events: rows as `EventLog` has them, whose samples are wanted.
        items: what is public.
        config: which features.
        past: earlier events that features are counted from too; columns `facts.FACTS` suffice.

    Returns:
        Rows of `samples_schema`.
    """
    config = config or FeatureConfig()
    schema = samples_schema(items.categories.shape[1], config)
    if not len(events):
        return schema.empty_table()
    known = pa.concat_tables([table.select(FACTS) for table in (*past, events) if len(table)])
    features = PastFeatures(known, items, config)
    shown = impressions(events)
    row, slot, item, clicked = (shown[name].to_numpy() for name in ("row", "slot", "item", "clicked"))
    clock = events["clock"].to_numpy()
    # a user's features are the same for all items of its slate
    of_user = features.users(events["user"].to_numpy(), clock).take(row)
    of_item = features.item_table(item, clock[row])
    columns: dict[str, NDArray | pa.Array | pa.ChunkedArray] = {
        name: events[name].to_numpy()[row] for name in ("user", "log_user", "visit", "request", "clock")
    }
    versions = events["policy_version"].cast(pa.string())
    columns |= {"policy_version": versions.take(row), "slot": slot, "item": item, "clicked": clicked}
    columns["rating"] = np.where(clicked, events["rating"].to_numpy()[row], np.nan).astype(np.float32)
    for name in ("propensity", PREDICTION):
        told = name in events.column_names
        columns[name] = matrix(events, name)[row, slot] if told else np.full(len(row), np.nan, np.float32)
    for table in (of_user, of_item):
        columns |= {name: table[name] for name in table.column_names[2:]}
    arrays = [
        column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, schema.field(name).type)
        for name, column in ((field.name, columns[field.name]) for field in schema)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def daily_samples(store: Store, day: int, items: Items, config: FeatureConfig | None = None) -> pa.Table:
    """The samples of a stored day, with features from it and the days before."""
    past = [store.day(earlier, FACTS) for earlier in store.partitions() if earlier < day]
    return training_samples(store.day(day), items, config, past=past)
