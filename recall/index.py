"""Indices over item vectors: which kind is right for a catalogue, and how one is kept in a file.

Measured by `python -m benchmarks.recall_speed kinds` (see docs/recall.md): at 10,000 and at 100,000 items the exact index is the
fastest of those that reach a recall of 0.95, so `build_index` takes it up to `EXACT_ITEMS`; above, it measures on the vectors at
hand.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import ArtefactError, ConfigurationError
from recall.approximate import ApproximateConfig, ApproximateIndex
from recall.exact import InnerProductIndex
from recall.files import INDEX_PART, map_file, write_mapped
from recall.index_base import VectorIndex

__all__ = [
    "Choice",
    "IndexConfig",
    "InnerProductIndex",
    "ServedIndex",
    "VectorIndex",
    "build_index",
    "load_index",
    "measured_choice",
    "save_index",
]

EXACT_ITEMS = 300_000
"""Largest catalogue for which the exact index is taken without asking."""
MEASURED_QUERIES = 512
"""Queries, about, that kinds of index are measured with where one is chosen."""
SETTINGS: tuple[ApproximateConfig | None, ...] = (
    None,
    *(ApproximateConfig(kind="ivf", effort=effort) for effort in (8, 32, 128)),
    *(ApproximateConfig(kind="hnsw", effort=effort) for effort in (128, 256)),
    *(ApproximateConfig(kind="pq", effort=effort) for effort in (2, 4, 8)),
)
"""What `measured_choice` compares: the exact index (None), and approximate ones from little effort to much."""

_KINDS: dict[str, type[VectorIndex]] = {index.kind: index for index in (InnerProductIndex, ApproximateIndex)}


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What an index should reach."""

    kind: str = "auto"
    """auto, exact, ivf, hnsw or pq; auto goes by the number of items and the recall asked for."""
    recall: float = 0.95
    """Share of the truly best items that must be found; 1 means the exact index."""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "exact", "ivf", "hnsw", "pq"):
            raise ConfigurationError(f"there is no index '{self.kind}'; known are auto, exact, ivf, hnsw, pq.")
        if not 0 < self.recall <= 1:
            raise ConfigurationError(f"the recall asked of an index is {self.recall}; it must lie in (0, 1].")


@dataclass(frozen=True)
class Choice:
    """A kind of index with what was measured of it."""

    config: ApproximateConfig | None
    """None for the exact index."""
    recall: float
    """Share of the truly best items that it found."""
    queries_per_s: float
    """Speed of the search."""
    build_seconds: float
    """Time that building took."""

    @property
    def name(self) -> str:
        """Kind and effort: 'exact', 'ivf 32'."""
        return "exact" if self.config is None else f"{self.config.kind} {self.config.effort}"


def build_index(
    vectors: NDArray[np.float32], config: IndexConfig = IndexConfig(), queries: NDArray[np.float32] | None = None
) -> VectorIndex:
    """Builds the index that `config` asks for.

    Args:
        vectors: [I, d] of the items.
        config: kind and recall.
        queries: [Q, d] like those to come, to measure on where `kind` is "auto" and the catalogue is large; some items'
            vectors where None.
    """
    if config.kind == "exact" or (config.kind == "auto" and (len(vectors) <= EXACT_ITEMS or config.recall == 1)):
        return InnerProductIndex(vectors)
    kinds = [setting for setting in SETTINGS if config.kind == "auto" or (setting and setting.kind == config.kind)]
    sample = vectors[:: max(1, len(vectors) // MEASURED_QUERIES)] if queries is None else queries
    chosen = best_choice(measured_choices(vectors, sample, kinds), config.recall)
    return InnerProductIndex(vectors) if chosen.config is None else ApproximateIndex(vectors, chosen.config)


class ServedIndex:
    """The index of those who serve from item vectors: it follows the vectors and what is on offer, and is kept with them."""

    def __init__(self, config: IndexConfig) -> None:
        self.config = config
        self._index: VectorIndex | None = None
        self._is_taken = False

    @property
    def index(self) -> VectorIndex:
        """What is searched, once it was built or taken."""
        if self._index is None:
            raise RuntimeError("an index is built before it is searched")
        return self._index

    def build(
        self,
        vectors: NDArray[np.float32],
        offered: NDArray[np.bool_] | None = None,
        queries: NDArray[np.float32] | None = None,
    ) -> None:
        """Indexes `vectors` [I, d], of which those `offered` [I] are found, all where None.

        The kind is chosen where there was no index of so many items before, with `queries` [Q, d]; else it stays, and nothing is
        measured. An index that was just taken from a file is that of these vectors, and stays as it is.
        """
        if not self._is_taken:
            before = self._index
            if before is None or len(before) != len(vectors):
                self._index = build_index(vectors, self.config, queries)
            else:
                self._index = _built(vectors, before.config if isinstance(before, ApproximateIndex) else None)
        self._is_taken = False
        if offered is not None:
            self.hear(offered)

    def hear(self, offered: NDArray[np.bool_]) -> None:
        """Finds from now on the items that are `offered` [I], without a rebuild."""
        self.index.offer(np.flatnonzero(offered).astype(np.int32))
        self.index.retire(np.flatnonzero(~offered).astype(np.int32))

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings) that `take` takes; a file may hold them beside others."""
        arrays, settings = self.index.state()
        return {f"{INDEX_PART}{name}": array for name, array in arrays.items()}, {
            "kind": self.index.kind,
            "settings": settings,
        }

    def take(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Takes the index of `parts`, to be searched where its arrays lie, with all items on offer; returns the other `arrays`.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: if a part is missing or damaged.
        """
        own = {name.removeprefix(INDEX_PART): array for name, array in arrays.items() if name.startswith(INDEX_PART)}
        self._index = _KINDS[settings["kind"]].from_state(own, settings["settings"])
        self._index.offer(np.arange(len(self._index), dtype=np.int32))
        self._is_taken = True
        return {name: array for name, array in arrays.items() if not name.startswith(INDEX_PART)}


def measured_choice(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], recall: float = 0.95, count: int = 100
) -> Choice:
    """The fastest kind of index that finds a share `recall` of the best `count` items, by measurement."""
    return best_choice(measured_choices(vectors, queries, SETTINGS, count), recall)


def best_choice(choices: Sequence[Choice], recall: float) -> Choice:
    """The fastest of those that reach `recall`, else the one that comes nearest."""
    reaching = [choice for choice in choices if choice.recall >= recall]
    if reaching:
        return max(reaching, key=lambda choice: choice.queries_per_s)
    return max(choices, key=lambda choice: choice.recall)


def measured_choices(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    settings: Sequence[ApproximateConfig | None],
    count: int = 100,
    rounds: int = 3,
) -> list[Choice]:
    """Recall and speed (median of interleaved rounds) of indices over `vectors` [I, d], asked with `queries` [Q, d]."""
    nothing = np.zeros((len(queries), (len(vectors) + 7) // 8), np.uint8)
    count = min(count, len(vectors))
    truth = InnerProductIndex(vectors).search(queries, nothing, count)[0]
    indices, built = [], []
    for setting in settings:
        begin = time.perf_counter()
        indices.append(_built(vectors, setting))
        built.append(time.perf_counter() - begin)
    recalls = [_overlap(index.search(queries, nothing, count)[0], truth) for index in indices]
    seconds_of = [[timed(partial(index.search, queries, nothing, count)) for index in indices] for _ in range(rounds)]
    speeds = len(queries) / np.median(seconds_of, axis=0)
    rows = zip(settings, recalls, speeds, built, strict=True)
    return [Choice(setting, recall, float(speed), seconds) for setting, recall, speed, seconds in rows]


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def save_index(path: Path, index: VectorIndex) -> None:
    """Writes an index to one file, whole or not at all."""
    write_mapped(path, index.kind, *index.state())


def load_index(path: Path, dimension: int | None = None, check: bool = True) -> VectorIndex:
    """Maps an index file into memory: what is searched is read from the file, and shared by all processes that map it.

    Args:
        path: of a file that `save_index` wrote.
        dimension: d that the index must have; None for any.
        check: whether checksums are compared, which reads the file once; a truncated file is refused without them too.

    Raises:
        ArtefactError: if the file is missing, truncated, damaged, foreign, or of another dimension.
    """
    kind, arrays, settings = map_file(path, "an index", check)
    try:
        index = _KINDS[kind].from_state(arrays, settings)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtefactError(f"'{path}' lacks a part of an index ({error}); make it again.") from error
    if dimension is not None and index.dimension != dimension:
        raise ArtefactError(
            f"'{path}' holds vectors of dimension {index.dimension}, not {dimension}; build the index anew."
        )
    return index


def _built(vectors: NDArray[np.float32], setting: ApproximateConfig | None) -> VectorIndex:
    return InnerProductIndex(vectors) if setting is None else ApproximateIndex(vectors, setting)


def _overlap(items: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    """Share of `truth` [N, n] that is among `items` [N, n]."""
    together = np.sort(np.concatenate([items, truth], axis=1), axis=1)
    return float((together[:, 1:] == together[:, :-1]).sum() / truth.size)
