"""What the environment asks of a recall stage; `recall/` fulfils it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
