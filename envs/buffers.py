"""Large arrays that are used again once nobody holds them: fresh memory costs more than what is written into it."""

import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

KEPT = 2
"""Pieces of memory kept for each name: while one is shown to a policy, the next is filled."""


class Buffers:
    """Hands out arrays for a name. Their memory is used again only when nothing refers to it any more, neither the array nor
    a view, a tensor or a table made from it without a copy: what was handed out never changes under its holder."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[NDArray[np.uint8]]] = {}
        probe = [np.empty(1, np.uint8)]
        self._unused = sys.getrefcount(probe[0])

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array that nobody else holds; its values are arbitrary."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pieces = self._pieces.setdefault(name, [])
        for place in range(len(pieces)):
            if len(pieces[place]) >= size and sys.getrefcount(pieces[place]) <= self._unused:
                return pieces[place][:size].view(dtype).reshape(shape)
        piece = np.empty(size, np.uint8)
        pieces[:] = [piece, *pieces[: KEPT - 1]]
        return piece.view(dtype).reshape(shape)
