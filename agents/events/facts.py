"""What happened, as flat tables of polars: requests, what they showed, and what is public of the items."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.event_log import matrix

FACTS = ("user", "clock", "slate", "slot", "item")
"""Columns of events that features are counted from."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """What everybody may know of I items, on the clock of a run."""

    categories: NDArray[np.float32]
    """[I, G] membership; each row sums to 1, or to 0 for an item without category."""
    directions: NDArray[np.float32]
    """[I, G] categories scaled to unit length."""
    birth_clock: NDArray[np.float64]
    """[I] seconds of the run's clock at which the item came into being."""

    @classmethod
    def of(cls, catalogue: Catalogue, reference_time: int) -> Self:
        """The items of a catalogue.

        Args:
            catalogue: of the policies' log.
            reference_time: seconds since 1970 of the run's clock 0.
        """
        birth = (catalogue.birth - reference_time).astype(np.float64)
        return cls(categories=catalogue.categories, directions=catalogue.directions, birth_clock=birth)

    def __len__(self) -> int:
        return len(self.birth_clock)


def requests(events: pa.Table) -> pl.DataFrame:
    """A row for each request: user, clock, item (-1 for none)."""
    return pl.DataFrame(
        {
            "user": _numbers(events, "user", np.int64),
            "clock": _numbers(events, "clock", np.float64),
            "item": _numbers(events, "item", np.int32),
        }
    )


def impressions(events: pa.Table) -> pl.DataFrame:
    """A row for each item shown, in order of requests, then slots: request (its row in `events`), slot, item, clock, clicked."""
    slate = slates(events)
    row, slot = np.nonzero(slate >= 0)
    return pl.DataFrame(
        {
            "row": row,
            "slot": slot.astype(np.int16),
            "item": slate[row, slot].astype(np.int32),
            "clock": _numbers(events, "clock", np.float64)[row],
            "clicked": _numbers(events, "slot", np.int64)[row] == slot,
        }
    )


def slates(events: pa.Table) -> NDArray[np.int32]:
    """[R, K] items shown, -1 for an empty slot; [0, 0] without events."""
    return matrix(events, "slate") if len(events) else np.zeros((0, 0), np.int32)


def _numbers(events: pa.Table, name: str, kind: type) -> NDArray:
    return events[name].to_numpy().astype(kind) if len(events) else np.zeros(0, kind)
