"""Exact inner-product search: a matrix product tile by tile, and only what may be among the best leaves the cache.

A matrix product of a block of queries with a tile of items fits into the second cache, where it is compared with a threshold
for each query: few scores pass. The first threshold comes from a sample of the catalogue, and is chosen so low that it seldom
cuts off too much; where it has, the row is searched again without one. So the result is exact, and no score is written to memory.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.compiled import over_rows
from recall import kernels
from recall.index_base import VectorIndex
from recall.threads import one_thread

BLOCK_ROWS = 64
"""Queries of a matrix product: always as many, padded by zeros, because the bits of a product change with its shape."""
TILE_ITEMS = 1_024
"""Items of a matrix product; the scores of a block fit into a core's second cache."""
SAMPLE_ITEMS = 512
"""Items that a first threshold is estimated from."""
SAFETY = 3.0
"""Standard deviations by which a first threshold is set below its estimate."""
SPARE_KEYS = 512
"""Room for candidates of a row beyond twice those wanted."""


class InnerProductIndex(VectorIndex):
    """An exact index over I item vectors.

    A row's result depends on its query and its excluded items only, to the bit. Items of equal score come in order of
    their index.
    """

    kind: ClassVar[str] = "exact"

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Indexes `vectors` [I, d]."""
        self.dimension = vectors.shape[1]
        self._tiles = np.zeros((0, self.dimension, TILE_ITEMS), np.float32)
        self._item_at = np.zeros((0, TILE_ITEMS), np.int32)
        self._place_of = np.zeros(0, np.int64)
        # in a shuffled order the first places are a sample of the catalogue
        self._append(np.asarray(vectors, np.float32), np.random.default_rng(0).permutation(len(vectors)))

    def __len__(self) -> int:
        return len(self._place_of)

    def __getstate__(self) -> dict[str, Any]:
        arrays, settings = self.state()
        return {"arrays": {name: np.array(array) for name, array in arrays.items()}, "settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(type(self).from_state(state["arrays"], state["settings"]).__dict__)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[I, d] the vectors, retired items' too."""
        tile, place = np.divmod(self._place_of, TILE_ITEMS)
        return np.ascontiguousarray(self._tiles[tile, :, place])

    def add(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Takes in new items behind those that are there: their numbers [M]. Nothing that was indexed is touched.

        Raises:
            ConfigurationError: if the vectors are of another dimension.
        """
        self.check_dimension(vectors.shape[1])
        return self._append(np.asarray(vectors, np.float32), np.arange(len(vectors)))

    def retire(self, items: NDArray[np.int32]) -> None:
        """Finds `items` no more."""
        self._item_at = np.array(self._item_at)
        self._item_at.reshape(-1)[self._place_of[items]] = -1

    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `count` items of largest inner product that are not excluded; see `VectorIndex.search`."""
        self.check_request(queries, excluded)
        items, scores = np.full((len(queries), count), -1, np.int32), np.zeros((len(queries), count), np.float32)
        if count == 0 or not len(self):
            return items, scores
        queries = np.ascontiguousarray(queries, np.float32)
        excluded = np.ascontiguousarray(excluded)
        expected = count * min(SAMPLE_ITEMS, len(self)) / len(self)
        rank = int(np.ceil(expected + SAFETY * np.sqrt(expected))) + 1
        short = np.zeros(len(queries), bool)
        with one_thread():
            over_rows(self._search_rows, len(queries), queries, excluded, rank, items, scores, short)
            again = np.flatnonzero(short)
            if len(again):
                rest = items[again], scores[again]
                over_rows(self._search_rows, len(again), queries[again], excluded[again], TILE_ITEMS + 1, *rest, short)
                items[again], scores[again] = rest
        return items, scores

    def _search_rows(
        self,
        begin: int,
        end: int,
        queries: NDArray[np.float32],
        excluded: NDArray[np.uint8],
        rank: int,
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        short: NDArray[np.bool_],
    ) -> None:
        """Fills rows `begin` to `end` of `items` and `scores`; `short` where a first threshold left too few."""
        count, sample = items.shape[1], min(SAMPLE_ITEMS, len(self))
        block = np.zeros((BLOCK_ROWS, self.dimension), np.float32)
        product = np.empty((BLOCK_ROWS, TILE_ITEMS), np.float32)
        thresholds = np.empty(BLOCK_ROWS, np.float32)
        capacity = min(2 * count, len(self._item_at) * TILE_ITEMS) + SPARE_KEYS
        keys = np.empty((BLOCK_ROWS, capacity), np.uint64)
        sizes = np.empty(BLOCK_ROWS, np.int64)
        for start in range(begin, end, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, end))
            number = rows.stop - rows.start
            block[:number], block[number:] = queries[rows], 0
            sizes[:] = 0
            for number_of_tile, (tile, item_at) in enumerate(zip(self._tiles, self._item_at, strict=True)):
                np.dot(block, tile, out=product)
                if number_of_tile == 0:
                    kernels.start_thresholds(0, number, product, sample, item_at, excluded[rows], rank, thresholds)
                kernels.collect(0, number, product, item_at, excluded[rows], count, thresholds, keys, sizes)
            short[rows] = (sizes[:number] < count) & (thresholds[:number] > -np.inf)
            kernels.write_best(0, number, keys, sizes, items[rows], scores[rows])

    def _append(self, vectors: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.int32]:
        """Puts `vectors` [M, d] into the next places, in `order` [M]; returns their numbers."""
        first = len(self)
        numbers = np.arange(first, first + len(vectors), dtype=np.int32)
        tiles = -(-(first + len(vectors)) // TILE_ITEMS)
        if tiles > len(self._tiles):
            more = tiles - len(self._tiles)
            self._tiles = np.concatenate([self._tiles, np.zeros((more, self.dimension, TILE_ITEMS), np.float32)])
            self._item_at = np.concatenate([self._item_at, np.full((more, TILE_ITEMS), -1, np.int32)])
        elif len(vectors) and not (self._tiles.flags.writeable and self._item_at.flags.writeable):
            self._tiles, self._item_at = np.array(self._tiles), np.array(self._item_at)
        tile, place = np.divmod(np.arange(first, first + len(vectors)), TILE_ITEMS)
        self._tiles[tile, :, place] = vectors[order]
        self._item_at[tile, place] = numbers[order]
        places = np.empty(len(vectors), np.int64)
        places[order] = np.arange(first, first + len(vectors))
        self._place_of = np.concatenate([self._place_of, places])
        return numbers

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings) that `from_state` takes."""
        arrays: dict[str, NDArray[Any]] = {"tiles": self._tiles, "item_at": self._item_at, "place_of": self._place_of}
        return arrays, {"dimension": self.dimension}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The index of a `state`; arrays may be read-only, and are copied when something changes."""
        index = cls.__new__(cls)
        index.dimension = int(settings["dimension"])
        index._tiles, index._item_at, index._place_of = (arrays[name] for name in ("tiles", "item_at", "place_of"))
        if index._tiles.shape[1:] != (index.dimension, TILE_ITEMS):
            raise ValueError("tiles of another size")
        return index
