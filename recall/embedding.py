"""Recall by matrix factorisation: alternating least squares on the policy's log, users folded in from what was observed.

The factors minimise sum over all users u and items i of c_ui (p_ui - x_u . y_i)^2 + regularisation (|x_u|^2 + |y_i|^2),
where p_ui = 1 and c_ui = 1 + confidence for items consumed, p_ui = 0 and c_ui = 1 for all others.

Source: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets, eq. 3 and 4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from implicit.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from envs.candidate_source import CatalogueListener, RecallRequest
from envs.catalogue import Catalogue
from envs.compiled import over_rows
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.settings import with_settings
from recall import kernels
from recall.cache import RowCache
from recall.files import check_catalogue, load_recall, write_mapped
from recall.index import MEASURED_QUERIES, IndexConfig, InnerProductIndex, ServedIndex
from recall.interactions import category_means, consumption_matrix, from_parts, new_rows, stand_at_category_means
from recall.threads import one_thread

SOLVE_ROWS = 256
"""Rows of like length that an update solves together."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """How the embeddings of `EmbeddingRecall` are learnt and used."""

    dimension: int = 32
    """d: numbers in an embedding."""
    iterations: int = 15
    """Passes over users and items of a full fit."""
    regularisation: float = 30.0
    """Penalty on the squared length of an embedding."""
    confidence: float = 10.0
    """Weight of an item consumed beyond the weight 1 of an item not consumed."""
    history_decay: float = 0.9
    """Share of that confidence kept per item consumed since, where a user is folded in from a history."""
    update_passes: int = 2
    """Passes of an incremental update over the users and items that new events touch."""
    newcomer_share: float = 0.1
    """Share of the candidates that goes, at least, to the best of the items without rows in the log: their vectors lie near
    the middle of their categories, so they would seldom be found among the rest. 0 leaves it to the scores."""
    exposure: bool = False
    """Whether an item counts as not consumed only in the share of the log's events since its birth, and leans on the mean of its
    categories for the rest. Without it one that was born yesterday looks like one that nobody ever wanted."""
    num_threads: int = 1
    """Threads of a full fit; the result does not depend on them."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """How items are searched."""

    def __post_init__(self) -> None:
        if not 0 <= self.newcomer_share <= 1:
            raise ConfigurationError(f"newcomer_share is {self.newcomer_share}; it must lie in [0, 1].")


class EmbeddingRecall(CatalogueListener):
    """Candidates by the inner product of a user's and an item's embedding; fulfils `CandidateSource`.

    An item without rows in the log (held back, or born in the run) stands at the mean of its categories' items until an
    update or a refit has seen it. It is a newcomer from the moment of its birth until an update or refit has seen it, or until
    it is retired; before it hears of births and retirements, all items count as on offer.
    """

    item_vectors_: NDArray[np.float32]
    """[I, d] embeddings of the items."""
    user_vectors_: NDArray[np.float32]
    """[U, d] embeddings of the log's users, the other side of the factorisation; requests are served by `user_vectors`."""
    trained_samples_: int
    """Interactions that the last `fit` or `update` went through, each counted once per half-pass: its cost."""

    def __init__(self, config: EmbeddingConfig = EmbeddingConfig(), seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self._index = ServedIndex(config.index)
        self._cache, self._cached_count = RowCache(), 0

    def fit(self, log: InteractionLog) -> Self:
        """Learns embeddings from the consumed rows of `log`, forgetting all that was learnt before.

        Raises:
            ConfigurationError: if the log has no consumed rows.
        """
        events = log.consumed()
        if not len(events):
            raise ConfigurationError(f"log '{log.name}' has no consumed rows to learn embeddings from.")
        self._categories, self._catalogue = log.catalogue.categories, log.catalogue.fingerprint
        self._consumed = consumption_matrix(events)
        with one_thread():
            model = AlternatingLeastSquares(
                factors=self.config.dimension,
                regularization=self.config.regularisation,
                alpha=1.0,
                iterations=self.config.iterations,
                use_cg=False,
                num_threads=self.config.num_threads,
                random_state=self.seed,
            )
            model.fit(self._consumed * np.float32(1 + self.config.confidence), show_progress=False)
        self.user_vectors_ = np.asarray(model.user_factors, np.float32)
        vectors = np.array(model.item_factors, np.float32)
        self._birth = log.catalogue.birth
        self._num_events, self._events_since = len(events), self._since_birth(events)
        self.trained_samples_ = 2 * self.config.iterations * self._consumed.nnz
        if self.config.exposure:
            young = np.flatnonzero((self._rows_of_items() > 0) & (self._exposure < 1))
            by_item = csr_matrix(self._consumed.T)[young]
            with one_thread():
                self._solve_items(young, by_item, vectors)
            self.trained_samples_ += by_item.nnz
        self._set_items(vectors)
        return self

    def update(self, events: InteractionLog, *, only_new: bool = False) -> None:
        """Takes in new rows: solves the users and items that they touch against the other side, some passes.

        Rows that are known already teach nothing new and cost nothing.

        Args:
            events: the rows.
            only_new: whether only users and items without rows before are solved (folded in), all others staying where they are.

        Raises:
            ConfigurationError: if `events` counts users or items that the fitted log did not.
        """
        consumed = events.consumed()
        new = consumption_matrix(consumed)
        if new.shape != self._consumed.shape:
            raise ConfigurationError(
                f"events of {new.shape[0]} users and {new.shape[1]} items cannot update embeddings of "
                f"{self._consumed.shape[0]} and {self._consumed.shape[1]}; use the fitted log's users and catalogue."
            )
        new = new_rows(self._consumed, new)
        users, items = np.unique(new.nonzero()[0]), np.unique(new.nonzero()[1])
        if only_new:
            users = users[np.diff(self._consumed.indptr)[users] == 0]
            items = items[np.bincount(self._consumed.indices, minlength=new.shape[1])[items] == 0]
        self._consumed = csr_matrix(self._consumed + new, dtype=np.float32)
        self._consumed.sort_indices()
        self._num_events += len(consumed)
        self._events_since = self._events_since + self._since_birth(consumed)
        by_user, by_item = self._consumed[users], csr_matrix(self._consumed.T)[items]
        vectors = self.item_vectors_.copy()
        with one_thread():
            for _ in range(self.config.update_passes):
                self.user_vectors_[users] = self._solve_rows(by_user, vectors)
                self._solve_items(items, by_item, vectors)
        self._set_items(vectors)
        self.trained_samples_ = self.config.update_passes * (by_user.nnz + by_item.nnz)

    def user_vectors(self, history: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N, d] embeddings of users who consumed `history` [N, H] (newest first, -1 where there are fewer).

        A user without history gets the mean embedding of the log's users.
        """
        decay = np.float32(self.config.history_decay) ** np.arange(history.shape[1], dtype=np.float32)
        vectors = _solve(self.item_vectors_, self._gram, history, np.float32(self.config.confidence) * decay)
        vectors[(history < 0).all(axis=1)] = self._mean_user
        return vectors

    def candidates(self, request: RecallRequest, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, count], scores [N, count]) of the largest inner products, best first; see `CandidateSource`.

        Where fewer newcomers than `newcomer_share` are among them, the best newcomers take the places of the last others.
        A request that equals the last one of its simulated user in history and excluded items gets the same answer
        without a search.
        """
        if count != self._cached_count:
            self._cache, self._cached_count = RowCache(), count
        items = np.empty((len(request), count), np.int32)
        scores = np.empty((len(request), count), np.float32)
        users = request.key[:, 0]
        inputs: list[NDArray[Any]] = [request.history, request.excluded]
        found, known = self._cache.look_up(users, inputs)
        if found.any():
            items[found], scores[found] = known
        rows = np.flatnonzero(~found)
        if len(rows):
            items[rows], scores[rows] = self.search(
                self.user_vectors(request.history[rows]), request.excluded[rows], count
            )
            self._cache.keep(users[rows], [array[rows] for array in inputs], [items[rows], scores[rows]])
        return items, scores

    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, count], scores [N, count]) for users of vectors `queries` [N, d], best first, newcomers among them."""
        items, scores = self._index.index.search(queries, excluded, count)
        wanted = min(int(np.ceil(self.config.newcomer_share * count)), len(self._newcomers))
        if not wanted:
            return items, scores
        found = self._newcomer_index.search(queries, excluded, wanted)
        chosen, chosen_scores = np.empty_like(items), np.empty_like(scores)
        over_rows(kernels.place_newcomers, len(items), items, scores, self._is_newcomer, *found, chosen, chosen_scores)
        return chosen, chosen_scores

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Takes newborn items into the index and among the newcomers, and drops retired ones, without a rebuild."""
        if self.offered is not None:
            self._index.hear(self.offered)
        self._index_newcomers()

    def save(self, path: Path) -> None:
        """Writes embeddings and interactions, whole or not at all."""
        write_mapped(path, "EmbeddingRecall", *self.state())

    @classmethod
    def load(cls, path: Path, catalogue: Catalogue | None = None) -> Self:
        """Reads what `save` wrote; the index is searched where it lies in the file, so candidates are the same to the bit.

        Args:
            path: the file.
            catalogue: the catalogue that is to be served; one that the embeddings were not fitted on is refused.

        Raises:
            ArtefactError: if the file is missing, damaged, or holds something else or embeddings of another catalogue.
        """
        recall = cls.from_state(*load_recall(path, "EmbeddingRecall"), path)
        check_catalogue(path, recall._catalogue, len(recall.item_vectors_), catalogue)
        return recall

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings that JSON can hold): all that `from_state` needs."""
        arrays: dict[str, NDArray[Any]] = {
            "item_vectors": self.item_vectors_,
            "user_vectors": self.user_vectors_,
            "categories": self._categories,
            "indptr": self._consumed.indptr,
            "indices": self._consumed.indices,
            "birth": self._birth,
            "events_since": self._events_since,
        }
        parts, index = self._index.parts()
        return arrays | parts, {
            "config": asdict(self.config),
            "seed": self.seed,
            "trained_samples": self.trained_samples_,
            "num_events": self._num_events,
            "catalogue": self._catalogue,
            "index": index,
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], path: Path) -> Self:
        """The embeddings whose `state` this was; `path` is named where a part is missing.

        Raises:
            ArtefactError: if a part is missing or of another kind.
        """
        try:
            recall = cls(with_settings(EmbeddingConfig(), settings["config"], cls.__name__), settings["seed"])
            arrays = recall._index.take(arrays, settings["index"])
            recall.trained_samples_, recall._catalogue = settings["trained_samples"], settings["catalogue"]
            recall.user_vectors_, recall._categories = arrays["user_vectors"], arrays["categories"]
            recall._birth, recall._events_since = arrays["birth"], arrays["events_since"]
            recall._num_events = settings["num_events"]
            recall._consumed = from_parts(arrays["indptr"], arrays["indices"], len(arrays["item_vectors"]))
            recall._set_items(arrays["item_vectors"])
        except (KeyError, TypeError, ValueError, RuntimeError, ConfigurationError) as error:
            raise ArtefactError(f"'{path}' lacks a part of an EmbeddingRecall ({error}); make it again.") from error
        return recall

    def _set_items(self, vectors: NDArray[np.float32]) -> None:
        """Stands items without rows at their categories' mean, and makes all that follows from the vectors [I, d]."""
        seen = np.bincount(self._consumed.indices, minlength=len(vectors)) > 0
        stand_at_category_means(vectors, seen, self._categories)
        self.item_vectors_ = vectors
        with one_thread():
            self._gram = self._regularised_gram(vectors)
        active = np.diff(self._consumed.indptr) > 0
        self._mean_user = self.user_vectors_[active].mean(axis=0)
        queries = self.user_vectors_[:: max(1, len(self.user_vectors_) // MEASURED_QUERIES)]
        self._index.build(vectors, self.offered, queries)
        self._is_newcomer = ~seen
        self._index_newcomers()
        self._cache.clear()

    def _index_newcomers(self) -> None:
        """Makes the index of the items without rows that are on offer."""
        offered = np.ones(len(self._is_newcomer), bool) if self.offered is None else self.offered
        self._newcomers = np.flatnonzero(self._is_newcomer & offered)
        self._newcomer_index = InnerProductIndex(self.item_vectors_, self._newcomers)

    def _regularised_gram(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return vectors.T @ vectors + np.float32(self.config.regularisation) * np.eye(
            self.config.dimension, dtype=np.float32
        )

    @property
    def _exposure(self) -> NDArray[np.float32]:
        """[I] share of the log's events since each item's birth."""
        return (self._events_since / max(self._num_events, 1)).astype(np.float32)

    def _since_birth(self, events: InteractionLog) -> NDArray[np.int64]:
        """[I] number of `events` since each item's birth."""
        return len(events) - np.searchsorted(np.sort(events.timestamp), self._birth)

    def _rows_of_items(self) -> NDArray[np.int64]:
        """[I] users who consumed each item."""
        return np.bincount(self._consumed.indices, minlength=self._consumed.shape[1])

    def _solve_items(self, items: NDArray[np.int64], by_item: csr_matrix, vectors: NDArray[np.float32]) -> None:
        """Solves `items` [M], whose consumers are the rows of `by_item` [M, U], in place of their rows of `vectors` [I, d].

        With `exposure` those who did not consume an item weigh e, its exposure, instead of 1 (Liang et al. 2016, Modeling user
        exposure in recommendation, eq. 3, with the exposure known), and it is held to (1 - e) times the mean of its categories
        instead of to 0.
        """
        exposure = self._exposure[items] if self.config.exposure else np.ones(len(items), np.float32)
        old = np.flatnonzero(exposure >= 1)
        vectors[items[old]] = self._solve_rows(by_item[old], self.user_vectors_)
        young = np.flatnonzero(exposure < 1)
        if not len(young):
            return
        settled = (self._rows_of_items() > 0) & (self._exposure >= 1)
        middle = category_means(vectors, settled, self._categories, items[young]) if settled.any() else 0.0
        users, identity = self.user_vectors_, np.eye(self.config.dimension, dtype=np.float32)
        gram, regularisation = users.T @ users, np.float32(self.config.regularisation)
        prior = regularisation * (1 - exposure[young])[:, None] * middle
        for rows, index in _padded_rows(by_item[young]):
            own = users[np.maximum(index, 0)] * (index >= 0)[:, :, None]
            left = exposure[young[rows], None, None] * gram + regularisation * identity
            left = left + np.float32(self.config.confidence) * (own.transpose(0, 2, 1) @ own)
            right = np.float32(1 + self.config.confidence) * own.sum(axis=1) + prior[rows]
            vectors[items[young[rows]]] = np.linalg.solve(left, right[:, :, None])[:, :, 0]

    def _solve_rows(self, consumed: csr_matrix, others: NDArray[np.float32]) -> NDArray[np.float32]:
        """[M, d] vectors of the M rows of `consumed` given the other side's; one half-step of the factorisation."""
        gram = self._regularised_gram(others)
        solved = np.empty((consumed.shape[0], self.config.dimension), np.float32)
        for rows, index in _padded_rows(consumed):
            confidence = np.full(index.shape[1], self.config.confidence, np.float32)
            solved[rows] = _solve(others, gram, index, confidence)
        return solved


def _padded_rows(matrix: csr_matrix) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Rows of a sparse matrix in blocks of like length: (rows [M], columns [M, longest], -1 where there are fewer)."""
    lengths = np.diff(matrix.indptr)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), SOLVE_ROWS):
        rows = order[start : start + SOLVE_ROWS]
        place = np.arange(lengths[rows].max(initial=0))
        inside = place < lengths[rows, None]
        columns = np.full(inside.shape, -1, np.int32)
        columns[inside] = matrix.indices[(matrix.indptr[rows, None] + place)[inside]]
        yield rows, columns


def _solve(
    vectors: NDArray[np.float32], gram: NDArray[np.float32], index: NDArray[np.int32], confidence: NDArray[np.float32]
) -> NDArray[np.float32]:
    """[M, d] minimisers for rows that consumed `index` [M, H], -1 for nothing, with `confidence` [H] by place.

    Solves (Y'Y + regularisation + Y'(C - 1)Y) x = Y'C p row by row; `gram` [d, d] is the first two terms.
    """
    solved = np.empty((len(index), vectors.shape[1]), np.float32)
    arrays = (np.ascontiguousarray(array) for array in (vectors, gram, index, confidence))
    over_rows(kernels.fold_in, len(index), *arrays, solved)
    return solved
