"""The catalogue: what everybody may know of the items. No fitted vector, bias or popularity is kept here."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from envs.artefacts import content_hash

Seconds = TypeVar("Seconds", int, NDArray[np.int64])

SECONDS_PER_DAY = 86_400
NEVER = np.iinfo(np.int64).max
"""Time of retirement of an item that is never retired, in a catalogue where others are."""


def weekday_of(second: Seconds) -> Seconds:
    """Day of the week in UTC, Monday 0, of seconds since 1970 (1 January 1970 was a Thursday)."""
    return (second // SECONDS_PER_DAY + 3) % 7


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Public features of I items; an item's index is its place in these arrays."""

    item_ids: NDArray[np.str_]
    """[I] names of the items in the log."""
    titles: NDArray[np.str_]
    """[I] titles, empty where unknown."""
    category_names: tuple[str, ...]
    """G names of categories."""
    categories: NDArray[np.float32]
    """[I, G] membership; each row sums to 1, or to 0 for an item without category."""
    birth: NDArray[np.int64]
    """[I] seconds since 1970 at which the item came into being."""
    retired: NDArray[np.int64] | None = None
    """[I] seconds since 1970 from which on the item is no longer offered, `NEVER` for one that stays; None where no item is
    ever retired."""
    duration_seconds: NDArray[np.float32] | None = None
    """[I] length of the item, NaN where unknown; None where items have none."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def num_categories(self) -> int:
        return len(self.category_names)

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """[I, G] categories scaled to unit length, so that a dot product is the cosine of public features."""
        norm = np.linalg.norm(self.categories, axis=1, keepdims=True)
        return (self.categories / np.maximum(norm, 1e-12)).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the items, their order and their categories; births and retirements may move."""
        arrays = {"items": self.item_ids, "categories": self.categories}
        return content_hash(arrays, {"names": list(self.category_names)})

    def offered(self, items: NDArray[np.integer], now: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether `items` were born and not retired at `now` (seconds since 1970), broadcast against each other."""
        born = self.birth[items] <= now
        return born if self.retired is None else born & (now < self.retired[items])

    def with_birth(self, birth: NDArray[np.int64]) -> "Catalogue":
        """The same items with other birth times."""
        return replace(self, birth=birth)

    def with_offspring(self, parents: NDArray[np.int64]) -> "Catalogue":
        """The items and, behind them, one new item for each of `parents` [B], with its categories, birth, retirement and
        length."""
        together = np.concatenate([np.arange(len(self)), parents])
        names = np.char.add("new-", np.arange(1, len(parents) + 1).astype(np.str_))
        titles = np.char.add("New item ", np.arange(1, len(parents) + 1).astype(np.str_))
        return replace(
            self,
            item_ids=np.concatenate([self.item_ids, names]),
            titles=np.concatenate([self.titles, titles]),
            categories=self.categories[together],
            birth=self.birth[together],
            retired=None if self.retired is None else self.retired[together],
            duration_seconds=None if self.duration_seconds is None else self.duration_seconds[together],
        )
