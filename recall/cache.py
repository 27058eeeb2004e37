"""Memory of the last candidates of each simulated user: most requests follow one that changed nothing about the user."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PLACES = 1 << 15
"""Users remembered at most; a user that shares the place of another pushes it out."""


class RowCache:
    """Arrays of outputs kept under arrays of inputs, one row for each user, compared in full before they are used again.

    So what is returned is what would be computed; only the time differs.
    """

    def __init__(self) -> None:
        self._inputs: list[NDArray[Any]] = []
        self._outputs: list[NDArray[Any]] = []
        self._filled = np.zeros(0, bool)

    def __getstate__(self) -> dict[str, Any]:
        return RowCache().__dict__

    def clear(self) -> None:
        """Forgets everything."""
        self.__init__()  # type: ignore[misc]

    def look_up(
        self, users: NDArray[np.int64], inputs: list[NDArray[Any]]
    ) -> tuple[NDArray[np.bool_], list[NDArray[Any]]]:
        """(found [N], outputs of the rows found) for users [N] and inputs [N, ...]."""
        if not len(self._filled) or any(
            known.shape[1:] != given.shape[1:] for known, given in zip(self._inputs, inputs, strict=True)
        ):
            return np.zeros(len(users), bool), []
        places = users & (len(self._filled) - 1)
        found = self._filled[places].copy()
        for known, given in zip(self._inputs, inputs, strict=True):
            found &= (known[places] == given).all(axis=1)
        return found, [output[places[found]] for output in self._outputs]

    def keep(self, users: NDArray[np.int64], inputs: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> None:
        """Remembers `outputs` [N, ...] of `inputs` [N, ...] for users [N]; the last row of a place stays."""
        capacity = min(MAX_PLACES, 1 << int(2 * len(users) - 1).bit_length())
        fits = len(self._filled) >= capacity and all(
            known.shape[1:] == given.shape[1:]
            for known, given in zip(self._inputs + self._outputs, inputs + outputs, strict=True)
        )
        if not fits:
            self._filled = np.zeros(max(capacity, len(self._filled)), bool)
            self._inputs = [np.empty((len(self._filled), *array.shape[1:]), array.dtype) for array in inputs]
            self._outputs = [np.empty((len(self._filled), *array.shape[1:]), array.dtype) for array in outputs]
        # of users that share a place the last one is kept, so that inputs and outputs stay together
        places, last = np.unique((users & (len(self._filled) - 1))[::-1], return_index=True)
        rows = len(users) - 1 - last
        self._filled[places] = True
        for memory, given in zip(self._inputs + self._outputs, inputs + outputs, strict=True):
            memory[places] = given[rows]
