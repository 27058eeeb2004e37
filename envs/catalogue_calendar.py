"""When items are offered: births and retirements on the clock of a run."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ItemCalendar:
    """From when to when each of I items is offered.

    Changes are few distinct moments (`build_world` moves those of the run to whole hours), so what is closed between two of
    them is kept as one row of bits.
    """

    birth_clock: NDArray[np.float64]
    """[I] seconds since the run's start at which the item is born; negative for old items."""
    retire_clock: NDArray[np.float64]
    """[I] seconds since the run's start from which on it is no longer offered; infinite for items that stay."""

    def __len__(self) -> int:
        return len(self.birth_clock)

    @cached_property
    def changes(self) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """(clocks [E] of births and retirements in order, bits [E + 1, ceil(I / 8)] of the items closed after so many of
        them, little-endian)."""
        ever_open = self.birth_clock < self.retire_clock
        coming = ever_open & (self.birth_clock > 0)
        going = ever_open & (self.retire_clock > 0) & np.isfinite(self.retire_clock)
        clocks = np.unique(np.concatenate([self.birth_clock[coming], self.retire_clock[going]]))
        closed = ~ever_open | (self.birth_clock > 0) | (self.retire_clock <= 0)
        bits = np.empty((len(clocks) + 1, (len(self) + 7) // 8), np.uint8)
        bits[0] = np.packbits(closed, bitorder="little")
        born = np.split(
            *_by_place(np.flatnonzero(coming), np.searchsorted(clocks, self.birth_clock[coming]), len(clocks))
        )
        gone = np.split(
            *_by_place(np.flatnonzero(going), np.searchsorted(clocks, self.retire_clock[going]), len(clocks))
        )
        for number in range(len(clocks)):
            closed[born[number]] = False
            closed[gone[number]] = True
            bits[number + 1] = np.packbits(closed, bitorder="little")
        return clocks, bits

    def closed(self, clock: NDArray[np.float64]) -> NDArray[np.uint8]:
        """[N, ceil(I / 8)] bits of the items that are not offered at `clock` [N]: not yet born, or retired."""
        clocks, bits = self.changes
        return bits[np.searchsorted(clocks, clock, side="right")]

    def open_to_some(self, clock: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[I] whether an item is offered at one of the moments `clock` [N] at least."""
        clocks, bits = self.changes
        moments = np.unique(np.searchsorted(clocks, clock, side="right"))
        closed_to_all = np.bitwise_and.reduce(bits[moments], axis=0)
        return np.unpackbits(closed_to_all, bitorder="little", count=len(self)) == 0

    def is_open(self, clock: float) -> NDArray[np.bool_]:
        """[I] whether an item is offered at `clock`, which may lie before the run."""
        return (self.birth_clock <= clock) & (clock < self.retire_clock)


def _by_place(
    items: NDArray[np.int64], places: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(items in order of their place, where to split them so that there is a part for each of `count` places)."""
    order = np.argsort(places, kind="stable")
    return items[order], np.searchsorted(places[order], np.arange(1, count))
