"""Exact inner-product search: scores are computed tile by tile, and only what may be among the best leaves the cache.

The scores of a query with a tile of items are compared, while they are in the first cache, with a threshold: few pass. The first
threshold comes from a sample of the catalogue, and is chosen so low that it seldom cuts off too much; where it has, the row is
searched again without one. So the result is exact, and no score is written to memory. Behind the sample the longest vectors stand
first, so that a query can leave out the tiles whose vectors are too short to reach its threshold.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.compiled import over_rows
from recall import kernels
from recall.index_base import VectorIndex

TILE_ITEMS = 512
"""Items whose scores are computed together; those of a query fit into a core's first cache, the vectors into the second."""
LANES = 4
"""Numbers of a vector that a kernel takes at once; vectors are filled up with zeros to a multiple."""
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

    def __init__(self, vectors: NDArray[np.float32], items: NDArray[np.int64] | None = None) -> None:
        """Indexes `vectors` [I, d].

        Args:
            vectors: of all items.
            items: those to be found, in ascending order; all where None. The others are as good as retired, and cost nothing.
        """
        vectors = np.asarray(vectors, np.float32)
        self.dimension = vectors.shape[1]
        self._tiles = np.zeros((0, _padded(self.dimension), TILE_ITEMS), np.float32)
        self._longest = np.zeros(0, np.float32)
        self._item_at = np.zeros((0, TILE_ITEMS), np.int32)
        self._place_of = np.full(len(vectors), -1, np.int64)
        found = np.arange(len(vectors)) if items is None else np.asarray(items)
        order = found[_sample_and_longest_first(vectors[found])]
        self._append(vectors[order], order)

    def __len__(self) -> int:
        return len(self._place_of)

    def __getstate__(self) -> dict[str, Any]:
        arrays, settings = self.state()
        return {"arrays": {name: np.array(array) for name, array in arrays.items()}, "settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(type(self).from_state(state["arrays"], state["settings"]).__dict__)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[I, d] the vectors, retired items' too; 0 for items that were never to be found."""
        vectors = np.zeros((len(self), self.dimension), np.float32)
        indexed = np.flatnonzero(self._place_of >= 0)
        tile, place = np.divmod(self._place_of[indexed], TILE_ITEMS)
        vectors[indexed] = self._tiles[tile, : self.dimension, place]
        return vectors

    def add(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Takes in new items behind those that are there: their numbers [M]. Nothing that was indexed is touched.

        Raises:
            ConfigurationError: if the vectors are of another dimension.
        """
        self.check_dimension(vectors.shape[1])
        numbers = np.arange(len(self), len(self) + len(vectors))
        self._place_of = np.concatenate([self._place_of, np.full(len(vectors), -1)])
        self._append(np.asarray(vectors, np.float32), numbers)
        return numbers.astype(np.int32)

    def retire(self, items: NDArray[np.int32]) -> None:
        """Finds `items` no more."""
        self._item_at = np.array(self._item_at)
        places = self._place_of[items]
        self._item_at.reshape(-1)[places[places >= 0]] = -1

    def offer(self, items: NDArray[np.int32]) -> None:
        """Finds `items` again."""
        places = self._place_of[items]
        items, places = items[places >= 0], places[places >= 0]
        if (self._item_at.reshape(-1)[places] != items).any():
            self._item_at = np.array(self._item_at)
            self._item_at.reshape(-1)[places] = items

    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `count` items of largest inner product that are not excluded; see `VectorIndex.search`."""
        self.check_request(queries, excluded)
        items, scores = np.full((len(queries), count), -1, np.int32), np.zeros((len(queries), count), np.float32)
        places = self._places
        if count == 0 or not places:
            return items, scores
        sample = min(SAMPLE_ITEMS, places)
        expected = count * sample / places
        rank = int(np.ceil(expected + SAFETY * np.sqrt(expected))) + 1
        short = self._search(queries, excluded, sample, rank, items, scores)
        if len(short):
            rest = items[short], scores[short]
            self._search(queries[short], excluded[short], sample, sample + 1, *rest)
            items[short], scores[short] = rest
        return items, scores

    def _search(
        self,
        queries: NDArray[np.float32],
        excluded: NDArray[np.uint8],
        sample: int,
        rank: int,
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Fills `items` and `scores`; returns the rows that the first threshold left too few of. A rank that the sample does
        not have means no threshold."""
        short = np.empty(len(queries), bool)
        padded = np.zeros((len(queries), self._tiles.shape[1]), np.float32)
        padded[:, : self.dimension] = queries
        capacity = min(2 * items.shape[1], len(self._item_at) * TILE_ITEMS) + SPARE_KEYS
        over_rows(
            kernels.search_tiles,
            len(queries),
            padded,
            np.sqrt(np.einsum("nd,nd->n", padded, padded)),
            self._tiles,
            self._longest,
            self._item_at,
            np.ascontiguousarray(excluded),
            sample,
            rank,
            capacity,
            items,
            scores,
            short,
        )
        return np.flatnonzero(short)

    @property
    def _places(self) -> int:
        """Places that are taken, by retired items too."""
        return int(np.count_nonzero(self._place_of >= 0))

    def _append(self, vectors: NDArray[np.float32], numbers: NDArray[np.int64]) -> None:
        """Puts `vectors` [M, d] of the items `numbers` [M] into the next places, in this order."""
        first = self._places
        tiles = -(-(first + len(vectors)) // TILE_ITEMS)
        if tiles > len(self._tiles):
            more = tiles - len(self._tiles)
            self._tiles = np.concatenate(
                [self._tiles, np.zeros((more, _padded(self.dimension), TILE_ITEMS), np.float32)]
            )
            self._item_at = np.concatenate([self._item_at, np.full((more, TILE_ITEMS), -1, np.int32)])
        elif len(vectors) and not (self._tiles.flags.writeable and self._item_at.flags.writeable):
            self._tiles, self._item_at = np.array(self._tiles), np.array(self._item_at)
        self._place_of = np.array(self._place_of)
        self._place_of[numbers] = np.arange(first, first + len(vectors))
        tile, place = np.divmod(self._place_of[numbers], TILE_ITEMS)
        self._tiles[tile, : self.dimension, place] = vectors
        self._item_at[tile, place] = numbers
        longest = np.zeros(len(self._tiles), np.float32)
        longest[: len(self._longest)] = self._longest
        np.maximum.at(longest, tile, _bounds(vectors))
        self._longest = longest

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings) that `from_state` takes."""
        arrays: dict[str, NDArray[Any]] = {
            "tiles": self._tiles,
            "longest": self._longest,
            "item_at": self._item_at,
            "place_of": self._place_of,
        }
        return arrays, {"dimension": self.dimension}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The index of a `state`; arrays may be read-only, and are copied when something changes."""
        index = cls.__new__(cls)
        index.dimension = int(settings["dimension"])
        names = ("tiles", "longest", "item_at", "place_of")
        index._tiles, index._longest, index._item_at, index._place_of = (arrays[name] for name in names)
        if index._tiles.shape[1:] != (_padded(index.dimension), TILE_ITEMS):
            raise ValueError("tiles of another size")
        return index


def _padded(dimension: int) -> int:
    return -(-dimension // LANES) * LANES


def _bounds(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[M] lengths, enlarged by more than what rounding can add to a sum of d products and to the lengths of both sides."""
    most = 1 + (vectors.shape[1] + 8) * float(np.finfo(np.float32).eps)
    return (np.linalg.norm(vectors.astype(np.float64), axis=1) * most).astype(np.float32)


def _sample_and_longest_first(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """[M] places of the vectors: first a sample of all lengths, evenly spread, then the others, the longest first."""
    order = np.argsort(-_bounds(vectors), kind="stable")
    sampled = np.zeros(len(order), bool)
    sampled[np.linspace(0, len(order) - 1, min(SAMPLE_ITEMS, len(order))).astype(np.int64)] = True
    return np.concatenate([order[sampled], order[~sampled]])
