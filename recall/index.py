"""Exact inner-product search by faiss, with items left out row by row."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import is_excluded
from recall.threads import one_thread

BLOCK_ROWS = 32
"""Queries a call of faiss: always as many, padded by zeros, because the bits of a matrix product change with its shape."""
FETCH_GROWTH = 1.25
"""Rows are searched in groups that fetch alike, from `count` upwards in steps of this factor."""


class InnerProductIndex:
    """A flat faiss index over I item vectors.

    A row's result depends on its query and its excluded items only, to the bit: neither on the other rows nor on how
    much was fetched to get there. Items of equal score come in order of their index.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Indexes `vectors` [I, d]."""
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, np.float32))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def __getstate__(self) -> dict[str, Any]:
        return {"vectors": self.vectors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["vectors"])  # type: ignore[misc]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[I, d] the vectors as the index holds them."""
        return self._index.reconstruct_n(0, len(self))

    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `count` items of largest inner product that are not excluded.

        A row fetches as many items more than wanted as it excludes beyond those that all rows exclude (the unborn), in
        groups of a few sizes; the few rows that this does not serve are searched again with twice as many.

        Args:
            queries: [N, d].
            excluded: [N, ceil(I / 8)] little-endian bits of the items to leave out.
            count: items wanted.

        Returns:
            (items [N, count], scores [N, count]), best first, -1 and 0 where there are fewer.
        """
        items = np.full((len(queries), count), -1, np.int32)
        scores = np.zeros((len(queries), count), np.float32)
        own = np.bitwise_count(excluded & ~np.bitwise_and.reduce(excluded, axis=0)).sum(axis=1, dtype=np.int64)
        group = np.ceil(np.log1p(own / count) / np.log(FETCH_GROWTH)).astype(np.int64)
        for number in np.unique(group):
            rows, fetch = np.flatnonzero(group == number), int(count * FETCH_GROWTH**number) + 1
            while len(rows):
                fetch = min(fetch, len(self))
                items[rows], scores[rows], served = self._search_once(queries[rows], excluded[rows], count, fetch)
                rows, fetch = rows[~served], 2 * fetch
        return items, scores

    def _search_once(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int, fetch: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
        """(items [N, count], scores [N, count], whether they are all that there are [N]) among the best `fetch` items."""
        found, found_scores = self._search_blocks(queries, fetch)
        _order_ties(found, found_scores)
        keep = ~is_excluded(excluded, found)
        complete = fetch == len(self)
        if not complete:
            # of the items that tie with the last one fetched, some may not have been fetched
            keep &= found_scores > found_scores[:, -1:]
        place = np.cumsum(keep, axis=1, dtype=np.int32)
        served = (place[:, -1] >= count) | complete
        row, column = np.nonzero(keep & (place <= count))
        items = np.full((len(queries), count), -1, np.int32)
        scores = np.zeros((len(queries), count), np.float32)
        items[row, place[row, column] - 1] = found[row, column]
        scores[row, place[row, column] - 1] = found_scores[row, column]
        return items, scores, served

    def _search_blocks(self, queries: NDArray[np.float32], fetch: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items, scores) [N, fetch] of the whole catalogue, searched in blocks of `BLOCK_ROWS`."""
        padding = -len(queries) % BLOCK_ROWS
        padded = np.concatenate([queries, np.zeros((padding, queries.shape[1]), np.float32)])
        items = np.empty((len(padded), fetch), np.int32)
        scores = np.empty((len(padded), fetch), np.float32)
        with one_thread():
            for start in range(0, len(padded), BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                scores[block], items[block] = self._index.search(padded[block], fetch)
        return items[: len(queries)], scores[: len(queries)]


def _order_ties(items: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
    """Puts items of equal score in order of their index, in place; `scores` [N, k] descend already."""
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    if len(tied):
        order = np.lexsort((items[tied], -scores[tied]), axis=1)
        items[tied] = np.take_along_axis(items[tied], order, axis=1)
