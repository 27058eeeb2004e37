"""Base of channels that compare a user's vector with those of items."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.compiled import over_rows
from recall import kernels
from recall.channels.base import RecallChannel
from recall.index import IndexConfig, ServedIndex


def inner_products(
    users: NDArray[np.float32], vectors: NDArray[np.float32], items: NDArray[np.int32]
) -> NDArray[np.float32]:
    """[N, C] of users [N, d] with the vectors [I, d] of `items` [N, C], 0 for those of -1."""
    scores = np.empty(items.shape, np.float32)
    arrays = (np.ascontiguousarray(array) for array in (users, vectors, items))
    over_rows(kernels.score_items, len(items), *arrays, scores)
    return scores


class VectorChannel(RecallChannel):
    """Items of the largest inner product with the user's vector. A subclass learns `item_vectors_` and has `user_vectors`."""

    item_vectors_: NDArray[np.float32]
    """[I, d] of the items."""

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        super().__init__(config, seed)
        self._index = ServedIndex(getattr(self.config, "index", IndexConfig()))
        self._last: tuple[RecallRequest, NDArray[np.float32]] | None = None

    @abstractmethod
    def user_vectors(self, request: RecallRequest) -> NDArray[np.float32]:
        """[N, d] of the users of a request."""

    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items of the largest inner products."""
        return self._index.index.search(self._vectors(request), request.excluded, n)

    def score(self, request: RecallRequest, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N, C] inner products."""
        return inner_products(self._vectors(request), self.item_vectors_, items)

    def typical_queries(self) -> NDArray[np.float32] | None:
        """[Q, d] users' vectors, to choose the kind of index by where that is measured; None takes items' vectors."""
        return None

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Takes newborn items into the index and drops retired ones, without a rebuild."""
        if self.offered is not None:
            self._index.hear(self.offered)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """That of every channel, and the index."""
        arrays, settings = super().state()
        parts, index = self._index.parts()
        return arrays | parts, settings | {"index": index}

    def take(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Takes the index as it was kept, and the rest."""
        super().take(self._index.take(arrays, settings["index"]), settings)

    def restored(self) -> None:
        """Indexes the vectors."""
        self._index.build(self.item_vectors_, self.offered, self.typical_queries())
        self._last = None

    def _vectors(self, request: RecallRequest) -> NDArray[np.float32]:
        """[N, d] of the users; those of the last request are kept, because its candidates are scored next."""
        if self._last is None or self._last[0] is not request:
            self._last = (request, self.user_vectors(request))
        return self._last[1]
