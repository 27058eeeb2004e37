"""Channel: items that those consumed recently are consumed together with."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from envs.candidate_source import RecallRequest
from envs.compiled import over_rows
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from recall import kernels
from recall.channels.base import RecallChannel, check_same_shape, with_consumption
from recall.interactions import consumption_matrix, from_parts, new_rows

BLOCK_ITEMS = 2_048
"""Items whose co-occurrences are held at once; bounds memory and changes nothing else."""


@dataclass(frozen=True, kw_only=True)
class ItemToItemConfig:
    """How items are compared, and how a history speaks."""

    neighbours: int = 50
    """M: items kept for each item."""
    shrinkage: float = 10.0
    """Added to the denominator of the cosine, so that few users in common say little."""
    history_decay: float = 0.9
    """Share of its weight that an item keeps for each item consumed since, in (0, 1]."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigurationError(f"neighbours is {self.neighbours}; it must be at least 1.")
        if self.shrinkage < 0:
            raise ConfigurationError(f"shrinkage is {self.shrinkage}; it must not be negative.")
        if not 0 < self.history_decay <= 1:
            raise ConfigurationError(f"history_decay is {self.history_decay}; it must lie in (0, 1].")


class ItemToItem(RecallChannel):
    """Items of the largest sum of likenesses to the recent history; likeness is the shrunk cosine of two items' users.

    likeness(i, j) = users of both / (sqrt(users of i * users of j) + shrinkage).

    Source: Sarwar et al. (2001), Item-based collaborative filtering recommendation algorithms, section 3.
    """

    name: ClassVar[str] = "item_to_item"
    config_type: ClassVar[type] = ItemToItemConfig
    config: ItemToItemConfig
    neighbours_: NDArray[np.int32]
    """[I, M] items most like each, best first, -1 where there are fewer."""
    likeness_: NDArray[np.float32]
    """[I, M] their likeness, 0 where there are fewer."""
    indptr_: NDArray[np.int32]
    """[U + 1] rows of the matrix of consumption (CSR)."""
    indices_: NDArray[np.int32]
    """Columns of the matrix of consumption (CSR)."""

    def fit(self, log: InteractionLog) -> Self:
        """Compares all items of `log`."""
        self._keep(consumption_matrix(with_consumption(self.name, log)))
        width = min(self.config.neighbours, max(len(log.catalogue) - 1, 1))
        self.neighbours_ = np.full((len(log.catalogue), width), -1, np.int32)
        self.likeness_ = np.zeros((len(log.catalogue), width), np.float32)
        self._compare(np.arange(len(log.catalogue)))
        return self

    def update(self, events: InteractionLog) -> None:
        """Compares again the items that `events` touch and those with users in common: the same as a refit, sooner."""
        check_same_shape(self.name, events, *self._consumed.shape)
        new = new_rows(self._consumed, consumption_matrix(events.consumed()))
        if new.nnz:
            self._keep(csr_matrix(self._consumed + new, dtype=np.float32))
            touched = np.zeros(self._consumed.shape[1], np.float32)
            touched[np.unique(new.indices)] = 1
            self._compare(np.flatnonzero(self._consumed.T @ (self._consumed @ touched)))

    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items by the votes of the history."""
        items, scores = np.empty((len(request), n), np.int32), np.empty((len(request), n), np.float32)
        weight = np.float32(self.config.history_decay) ** np.arange(request.history.shape[1], dtype=np.float32)
        over_rows(
            kernels.vote,
            len(request),
            np.ascontiguousarray(request.history),
            weight,
            self.neighbours_,
            self.likeness_,
            np.ascontiguousarray(request.excluded),
            items,
            scores,
        )
        return items, scores

    def restored(self) -> None:
        """Makes the matrix of consumption from its parts."""
        self._consumed = from_parts(self.indptr_, self.indices_, len(self.neighbours_))

    def _keep(self, consumed: csr_matrix) -> None:
        consumed.sort_indices()
        self._consumed, self.indptr_, self.indices_ = consumed, consumed.indptr, consumed.indices

    def _compare(self, items: NDArray[np.int64]) -> None:
        """Finds the neighbours of `items` anew."""
        by_item = csr_matrix(self._consumed.T)
        root = np.sqrt(np.diff(by_item.indptr).astype(np.float32))
        width = self.neighbours_.shape[1]
        for start in range(0, len(items), BLOCK_ITEMS):
            block = items[start : start + BLOCK_ITEMS]
            together = csr_matrix(by_item[block] @ self._consumed)
            together.sort_indices()
            for place, item in enumerate(block):
                row = slice(together.indptr[place], together.indptr[place + 1])
                others, both = together.indices[row], together.data[row]
                likeness = both / (root[item] * root[others] + np.float32(self.config.shrinkage))
                likeness[others == item] = -1
                best = np.argsort(-likeness, kind="stable")[:width]
                best = best[likeness[best] > 0]
                self.neighbours_[item], self.likeness_[item] = -1, 0
                self.neighbours_[item, : len(best)] = others[best]
                self.likeness_[item, : len(best)] = likeness[best]
