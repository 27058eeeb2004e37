"""What the environment asks of a recall stage (`recall/` fulfils it), and the plain source it uses when handed none."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
        steps = np.arange(length, dtype=np.int64)
        items = self.shuffled[(start[:, None] + stride[:, None] * steps) % self.prime]
        free = ~is_excluded(request.excluded, items)
        # a kept item moves to the left by the number of excluded ones before it
        place = np.cumsum(free, axis=1) - 1
        kept = free & (place < count)
        chosen = np.full((len(items), count), -1, np.int32)
        rows = np.broadcast_to(np.arange(len(items))[:, None], items.shape)
        chosen[rows[kept], place[kept]] = items[kept]
        return chosen, np.zeros(chosen.shape, np.float32)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
