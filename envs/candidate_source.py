"""What the environment asks of a recall stage (`recall/` fulfils it), and the plain source it uses when handed none."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from envs import request_kernels
from envs.catalogue_calendar import ItemCalendar
from envs.compiled import over_rows
from envs.randomness import Purpose, draw_bits


@dataclass(frozen=True)
class RecallRequest:
    """What a recall stage may know of N requests: only what was observed."""

    user: NDArray[np.int64]
    """[N] index into the log's users."""
    history: NDArray[np.int32]
    """[N, H] items last consumed, newest first, -1 where there are fewer."""
    excluded: NDArray[np.uint8]
    """[N, ceil(I / 8)] bits of items that may not be offered: consumed before, or not yet born. Little-endian bit order,
    as `np.packbits(mask, axis=1, bitorder="little")` makes it."""
    key: NDArray[np.int64]
    """[N, 2] (simulated user, request) for counter-based draws."""

    def __len__(self) -> int:
        return len(self.user)


class CandidateSource(Protocol):
    """Finds candidates in the whole catalogue for all N requests in one call."""

    def candidates(self, request: RecallRequest, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Returns (items [N, count], scores [N, count]), best first, -1 and 0 where there are fewer; no item twice."""
        ...


class CatalogueListener(ABC):
    """Base of candidate sources that hear of births and retirements.

    The users of an environment live at clocks of their own, and several environments may share a source. So an event says what
    has changed since the source last heard, for anybody who is served now: an item is born when the first of them has
    reached its birth, and retired when the last of them has passed its retirement. What must not be offered to a single user
    stands in its request all the same (`RecallRequest.excluded`); the events are for indices and the like.
    """

    offered: NDArray[np.bool_] | None = None
    """[I] what was on offer when the source last heard; None before."""

    def hear(self, offered: NDArray[np.bool_]) -> None:
        """Takes in what is on offer now, [I]."""
        before = np.zeros(len(offered), bool) if self.offered is None else self.offered
        if self.offered is None or (before != offered).any():
            self.offered = offered
            born, retired = np.flatnonzero(offered & ~before), np.flatnonzero(before & ~offered)
            self.items_changed(born.astype(np.int32), retired.astype(np.int32))

    @abstractmethod
    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Items that are on offer from now on, and items that are no longer; the first call names all that is on offer."""


def tell_changes(source: CandidateSource, calendar: ItemCalendar, clock: NDArray[np.float64]) -> None:
    """Tells `source`, if it listens, of births and retirements up to the clocks [N] of the users it serves."""
    if isinstance(source, CatalogueListener):
        source.hear(calendar.open_to_some(clock))


def is_excluded(excluded: NDArray[np.uint8], items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[N, C] whether each of `items` [N, C] is excluded for its row; items of -1 are."""
    bits = np.take_along_axis(excluded, np.maximum(items, 0) >> 3, axis=1) >> (items & 7).astype(np.uint8)
    return ((bits & 1) == 1) | (items < 0)


class SampledCandidates:
    """Draws candidates uniformly from the public catalogue: what a bare `gymnasium.make` recalls with.

    Each request walks through a shuffled catalogue in its own stride, so that no item comes twice, and keeps what is not
    excluded; a request whose walk meets too many excluded items has fewer candidates.
    """

    OVERDRAW = 1.5
    """Length of the walk per candidate asked for, so that excluded items can be left out."""

    def __init__(self, num_items: int, seed: int = 0) -> None:
        self.num_items = num_items
        self.seed = seed
        self.prime = next(n for n in range(max(num_items, 2), 2 * max(num_items, 2) + 1) if _is_prime(n))
        shuffled = np.argsort(draw_bits(seed, Purpose.CANDIDATES, np.arange(num_items))).astype(np.int32)
        # the walk runs over residues of a prime; those beyond the catalogue hold no item
        self.shuffled = np.concatenate([shuffled, np.full(self.prime - num_items, -1, np.int32)])

    def candidates(self, request: RecallRequest, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Returns (items [N, count], scores [N, count] of 0)."""
        user, number = request.key.T
        bits = draw_bits(self.seed, Purpose.CANDIDATES, user, number)
        start = (bits & np.uint64(0xFFFFFFFF)).astype(np.int64) % self.prime
        stride = 1 + (bits >> np.uint64(32)).astype(np.int64) % (self.prime - 1)
        length = min(self.prime, int(np.ceil(count * self.OVERDRAW)))
        chosen = np.empty((len(request), count), np.int32)
        over_rows(
            request_kernels.sample_candidates,
            len(request),
            self.shuffled,
            start,
            stride,
            length,
            np.ascontiguousarray(request.excluded),
            chosen,
        )
        return chosen, np.zeros(chosen.shape, np.float32)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
