"""Approximate indices by faiss: inverted lists, a navigable small world, and product quantisation with refinement."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import is_excluded
from envs.errors import ConfigurationError
from recall.index_base import VectorIndex

KINDS = ("ivf", "hnsw", "pq")
FETCH_GROWTH = 1.25
"""Rows are searched in groups that fetch alike, from the items wanted upwards in steps of this factor."""
TRAINING_ITEMS = 65_536
"""Most items that cells and codes are learnt from."""


@dataclass(frozen=True, kw_only=True)
class ApproximateConfig:
    """How an approximate index is built and searched."""

    kind: str = "ivf"
    """ivf: inverted lists; hnsw: a graph; pq: product quantisation of 4 bits, searched by registers and refined by the vectors."""
    lists: int = 0
    """Inverted lists of an ivf; 0 for twice the root of the number of items."""
    effort: int = 0
    """How much is looked at: lists (ivf), nodes kept in the search (hnsw), multiples of the items wanted that are refined (pq); 0
    for an eighth of the lists, 128 and 4."""
    links: int = 32
    """Neighbours of a node of the graph."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"there is no approximate index '{self.kind}'; known are {', '.join(KINDS)}.")


class ApproximateIndex(VectorIndex):
    """A faiss index that may miss some of the best items.

    Excluded items are left out of what was fetched: a row fetches as many more as it excludes beyond those that all rows exclude,
    and again twice as many where that was too few.
    """

    kind: ClassVar[str] = "approximate"
    _bytes: NDArray[np.uint8] | None = None
    """What the faiss index reads where it lies, in a file; None where the index owns its memory."""

    def __init__(self, vectors: NDArray[np.float32], config: ApproximateConfig = ApproximateConfig()) -> None:
        """Builds an index of `vectors` [I, d].

        Raises:
            ConfigurationError: if there are too few items to learn cells or codes from.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        self.config, self.dimension = config, vectors.shape[1]
        self._retired = np.zeros(len(vectors), bool)
        self._index = _trained(vectors, config)
        self._index.add(vectors)

    def __len__(self) -> int:
        return len(self._retired)

    def __getstate__(self) -> dict[str, Any]:
        arrays, settings = self.state()
        return {"arrays": arrays, "settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(type(self).from_state(state["arrays"], state["settings"]).__dict__)

    def add(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Puts new items into the cells, the graph or the codes that are there; returns their numbers [M]."""
        self.check_dimension(vectors.shape[1])
        first = len(self)
        self._own()
        self._index.add(np.ascontiguousarray(vectors, np.float32))
        self._retired = np.concatenate([self._retired, np.zeros(len(vectors), bool)])
        return np.arange(first, len(self), dtype=np.int32)

    def retire(self, items: NDArray[np.int32]) -> None:
        """Finds `items` no more."""
        self._retired = self._retired.copy()
        self._retired[items] = True

    def offer(self, items: NDArray[np.int32]) -> None:
        """Finds `items` again."""
        if self._retired[items].any():
            self._retired = self._retired.copy()
            self._retired[items] = False

    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best `count` items that are found and not excluded; see `VectorIndex.search`."""
        self.check_request(queries, excluded)
        items = np.full((len(queries), count), -1, np.int32)
        scores = np.zeros((len(queries), count), np.float32)
        retired = np.packbits(self._retired, bitorder="little")
        closed = excluded[:, : len(retired)] | retired
        own = np.bitwise_count(closed & ~np.bitwise_and.reduce(closed, axis=0)).sum(axis=1, dtype=np.int64)
        group = np.ceil(np.log1p(own / max(count, 1)) / np.log(FETCH_GROWTH)).astype(np.int64)
        for number in np.unique(group):
            rows, fetch = np.flatnonzero(group == number), int(count * FETCH_GROWTH**number)
            while len(rows) and count:
                fetch = min(fetch, len(self))
                items[rows], scores[rows] = self._search_once(queries[rows], closed[rows], count, fetch)
                rows = rows[(items[rows, -1] < 0) & (fetch < len(self))]
                fetch = 2 * fetch + 1
        return items, scores

    def _search_once(
        self, queries: NDArray[np.float32], closed: NDArray[np.uint8], count: int, fetch: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if self.config.kind == "hnsw":
            self._index.hnsw.efSearch = max(self.config.effort or 128, fetch)
        found_scores, found = self._index.search(np.ascontiguousarray(queries, np.float32), fetch)
        found = found.astype(np.int32)
        keep = ~is_excluded(closed, found)
        place = np.cumsum(keep, axis=1)
        row, column = np.nonzero(keep & (place <= count))
        items = np.full((len(queries), count), -1, np.int32)
        scores = np.zeros((len(queries), count), np.float32)
        items[row, place[row, column] - 1] = found[row, column]
        scores[row, place[row, column] - 1] = found_scores[row, column]
        return items, scores

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings) that `from_state` takes."""
        arrays = {"faiss": faiss.serialize_index(self._index), "retired": self._retired}
        return arrays, {"config": asdict(self.config), "dimension": self.dimension}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The index of a `state`."""
        index = cls.__new__(cls)
        index.config, index.dimension = ApproximateConfig(**settings["config"]), int(settings["dimension"])
        index._retired = arrays["retired"]
        index._bytes = arrays["faiss"]
        index._index = _read_in_place(arrays["faiss"])
        if index._index.ntotal != len(index._retired) or index._index.d != index.dimension:
            raise ValueError("an index of another size")
        _set_effort(index._index, index.config)
        return index

    def _own(self) -> None:
        """Copies an index that still lies in a file, before it changes."""
        if self._bytes is not None:
            self._index = faiss.deserialize_index(faiss.serialize_index(self._index))
            _set_effort(self._index, self.config)
            self._bytes = None


def _read_in_place(data: NDArray[np.uint8]) -> Any:
    """A faiss index that reads its vectors from `data`, which must be kept as long as the index."""
    library: Any = faiss
    return library.read_index(library.ZeroCopyIOReader(library.swig_ptr(data), len(data)))


def _trained(vectors: NDArray[np.float32], config: ApproximateConfig) -> Any:
    number, dimension = vectors.shape
    if config.kind == "hnsw":
        index: Any = faiss.IndexHNSWFlat(dimension, config.links, faiss.METRIC_INNER_PRODUCT)
    else:
        lists = config.lists or max(1, round(2 * np.sqrt(number)))
        text = f"IVF{lists},Flat" if config.kind == "ivf" else f"PQ{dimension}x4fs,RFlat"
        fewest = lists if config.kind == "ivf" else 16
        if number < fewest:
            raise ConfigurationError(
                f"{number} items are too few for an index of kind '{config.kind}', which needs {fewest}; use kind 'exact'."
            )
        index = faiss.index_factory(dimension, text, faiss.METRIC_INNER_PRODUCT)
        step = -(-number // TRAINING_ITEMS)
        index.train(vectors[::step])
    _set_effort(index, config)
    return index


def _set_effort(index: Any, config: ApproximateConfig) -> None:
    if config.kind == "ivf":
        faiss.extract_index_ivf(index).nprobe = config.effort or max(1, faiss.extract_index_ivf(index).nlist // 8)
    elif config.kind == "pq":
        refined: Any = faiss.downcast_index(index)
        refined.k_factor = config.effort or 4
