"""Channel: embeddings by Bayesian personalised ranking."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from implicit.cpu.bpr import BayesianPersonalizedRanking
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from envs.candidate_source import RecallRequest
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from recall.channels.base import check_same_shape, with_consumption
from recall.channels.vectors import VectorChannel
from recall.index import MEASURED_QUERIES, IndexConfig
from recall.interactions import consumption_matrix, from_parts, new_rows, stand_at_category_means
from recall.threads import one_thread


@dataclass(frozen=True, kw_only=True)
class BPRConfig:
    """How the vectors are learnt, and how users are folded in."""

    dimension: int = 32
    """d: numbers in a vector, besides the items' bias."""
    iterations: int = 100
    """Passes over the interactions of a full fit."""
    update_iterations: int = 5
    """Passes of an update."""
    learning_rate: float = 0.05
    """Step of the stochastic gradient."""
    regularisation: float = 0.01
    """Penalty on the squared length of a vector."""
    history_decay: float = 0.9
    """Share of its weight that an item of the history keeps for each item consumed since, in (0, 1]."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """How items are searched."""

    def __post_init__(self) -> None:
        if not 0 < self.history_decay <= 1:
            raise ConfigurationError(f"history_decay is {self.history_decay}; it must lie in (0, 1].")


class BPR(VectorChannel):
    """Items of the largest inner product with the user's vector, learnt so that consumed items come before others.

    A user is folded in from the history: a ridge regression tells a fitted user's vector from the decayed mean of the vectors of
    its items, and is applied to what a request was observed to have consumed. So users that the log did not know, and the
    latest clicks, count as well. Items without rows stand at the means of their categories.

    Source: Rendle et al. (2009), BPR: Bayesian personalized ranking from implicit feedback, figure 4; by `implicit`.
    """

    name: ClassVar[str] = "bpr"
    config_type: ClassVar[type] = BPRConfig
    config: BPRConfig
    user_factors_: NDArray[np.float32]
    """[U, d + 1] of the log's users, the last number 1."""
    item_factors_: NDArray[np.float32]
    """[I, d + 1] as learnt, the last number the item's bias."""
    fold_: NDArray[np.float32]
    """[d + 1, d] from (mean of the history's items, 1) to the user's vector."""
    categories_: NDArray[np.float32]
    """[I, G] memberships."""
    indptr_: NDArray[np.int32]
    """[U + 1] rows of the matrix of consumption (CSR)."""
    indices_: NDArray[np.int32]
    """Columns of the matrix of consumption (CSR)."""

    def fit(self, log: InteractionLog) -> Self:
        """Learns vectors from the consumed rows of `log`."""
        events = with_consumption(self.name, log)
        self.categories_ = log.catalogue.categories
        self._train(consumption_matrix(events), self.config.iterations, warm=False)
        self._learn_fold(events)
        return self

    def update(self, events: InteractionLog) -> None:
        """Goes on with some passes over all interactions, `events` among them; how users are folded in stays."""
        check_same_shape(self.name, events, len(self.user_factors_), len(self.item_factors_))
        new = new_rows(self._consumed, consumption_matrix(events.consumed()))
        if new.nnz:
            together = csr_matrix(self._consumed + new, dtype=np.float32)
            self._train(together, self.config.update_iterations, warm=True)

    def user_vectors(self, request: RecallRequest) -> NDArray[np.float32]:
        """[N, d + 1] of users with the request's histories; a user without history has the mean user's."""
        mean, total = self._mean_of(request.history)
        folded = np.ones((len(mean), self.config.dimension + 1), np.float32)
        # summed coordinate by coordinate, so that the bits do not depend on the batch
        folded[:, :-1] = self.fold_[-1]
        for place in range(self.config.dimension):
            folded[:, :-1] += mean[:, place, None] * self.fold_[place]
        folded[total == 0, :-1] = self._mean_user
        return folded

    def typical_queries(self) -> NDArray[np.float32]:
        """[Q, d + 1] vectors of some users of the log."""
        return self.user_factors_[:: max(1, len(self.user_factors_) // MEASURED_QUERIES)]

    def restored(self) -> None:
        """Makes what follows from the factors."""
        self._consumed = from_parts(self.indptr_, self.indices_, len(self.item_factors_))
        active = np.diff(self.indptr_) > 0
        self._mean_user = self.user_factors_[active, :-1].mean(axis=0)
        self.item_vectors_ = self.item_factors_.copy()
        seen = np.bincount(self.indices_, minlength=len(self.item_factors_)) > 0
        stand_at_category_means(self.item_vectors_, seen, self.categories_)
        super().restored()

    def _train(self, consumed: csr_matrix, iterations: int, warm: bool) -> None:
        consumed.sort_indices()
        model = BayesianPersonalizedRanking(
            factors=self.config.dimension,
            learning_rate=self.config.learning_rate,
            regularization=self.config.regularisation,
            iterations=iterations,
            num_threads=1,
            random_state=self.seed,
        )
        if warm:
            model.user_factors, model.item_factors = self.user_factors_.copy(), self.item_factors_.copy()
        with one_thread():
            model.fit(consumed, show_progress=False)
        self.user_factors_, self.item_factors_ = model.user_factors, model.item_factors
        self.indptr_, self.indices_ = consumed.indptr, consumed.indices
        self.restored()

    def _learn_fold(self, events: InteractionLog) -> None:
        """Regresses the users' vectors on the means of their last items."""
        newest = events.user_starts[1:][events.user] - 1 - np.arange(len(events))
        weight = np.float32(self.config.history_decay) ** newest.astype(np.float32)
        users, width = len(events.users), self.config.dimension
        rows = csr_matrix((weight, (events.user, events.item)), shape=(users, len(self.item_vectors_)))
        total = np.asarray(rows.sum(axis=1))
        active = total[:, 0] > 0
        with one_thread():
            inputs = np.ones((int(active.sum()), width + 1))
            inputs[:, :-1] = (rows @ self.item_vectors_[:, :-1])[active] / total[active]
            # a penalty of a hundredth of a user on each coefficient keeps the regression regular where users are few
            gram = inputs.T @ inputs + np.diag([*[1e-2] * width, 0.0])
            self.fold_ = np.linalg.solve(gram, inputs.T @ self.user_factors_[active, :-1]).astype(np.float32)

    def _mean_of(self, history: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(decayed mean [N, d] of the vectors of the items of a history [N, H], total weight [N])."""
        mean = np.zeros((len(history), self.config.dimension), np.float32)
        total = np.zeros(len(history), np.float32)
        for place in range(history.shape[1]):
            weight = (history[:, place] >= 0) * np.float32(self.config.history_decay**place)
            mean += weight[:, None] * self.item_vectors_[history[:, place], :-1]
            total += weight
        return (mean / np.maximum(total, 1e-12)[:, None]).astype(np.float32), total
