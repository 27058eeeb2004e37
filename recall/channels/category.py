"""Channel: what is popular in the categories that a user consumes, in proportion."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.compiled import over_rows
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from recall import kernels
from recall.channels.base import RecallChannel, check_same_shape, with_consumption


@dataclass(frozen=True, kw_only=True)
class CategoryConfig:
    """How a user's share of the categories is read off its history."""

    history_decay: float = 0.9
    """Share of its weight that an item keeps for each item consumed since, in (0, 1]."""
    prior_items: float = 2.0
    """Weight of everybody's shares, in items: what a user without history is served by."""

    def __post_init__(self) -> None:
        if not 0 < self.history_decay <= 1:
            raise ConfigurationError(f"history_decay is {self.history_decay}; it must lie in (0, 1].")
        if not self.prior_items > 0:
            raise ConfigurationError(f"prior_items is {self.prior_items}; it must be positive.")


class Category(RecallChannel):
    """Gives each category as many places as its share of the user's recent history, and fills them by popularity.

    Places are shared out by D'Hondt's method, so every beginning of the list is in proportion too.
    """

    name: ClassVar[str] = "category"
    config_type: ClassVar[type] = CategoryConfig
    config: CategoryConfig
    categories_: NDArray[np.float32]
    """[I, G] memberships."""
    counts_: NDArray[np.int64]
    """[I] consumptions."""
    num_users_: int
    """Users of the fitted log."""

    def fit(self, log: InteractionLog) -> Self:
        """Counts the consumed rows of `log`."""
        self.counts_ = with_consumption(self.name, log).item_counts()
        self.categories_ = log.catalogue.categories
        self.num_users_ = len(log.users)
        self.restored()
        return self

    def update(self, events: InteractionLog) -> None:
        """Counts the consumed rows of `events` too."""
        check_same_shape(self.name, events, self.num_users_, len(self.counts_))
        self.counts_ = self.counts_ + events.item_counts()
        self.restored()

    def profiles(self, history: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N, G] shares of the categories, summing to 1, of users who consumed `history` [N, H], newest first."""
        weight = (history >= 0) * np.float32(self.config.history_decay) ** np.arange(history.shape[1], dtype=np.float32)
        profile = (self.config.prior_items * self._everybody)[None] + np.zeros((len(history), 1), np.float32)
        for place in range(history.shape[1]):  # summed place by place, so that the bits do not depend on the batch
            profile += weight[:, place, None] * self.categories_[history[:, place]]
        return np.ascontiguousarray(profile / np.maximum(profile.sum(axis=1, keepdims=True), 1e-12), np.float32)

    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items by D'Hondt's quotients, which are the scores."""
        items, scores = np.empty((len(request), n), np.int32), np.empty((len(request), n), np.float32)
        over_rows(
            kernels.share_out,
            len(request),
            self.profiles(request.history),
            self._starts,
            self._members,
            np.ascontiguousarray(request.excluded),
            items,
            scores,
        )
        return items, scores

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Lists what is on offer."""
        self.restored()

    def restored(self) -> None:
        """Lists each category's items on offer by popularity, and everybody's shares."""
        everybody = self.counts_.astype(np.float64) @ self.categories_
        self._everybody = (everybody / max(everybody.sum(), 1e-12)).astype(np.float32)
        order = np.argsort(-self.counts_, kind="stable").astype(np.int32)
        if self.offered is not None:
            order = order[self.offered[order]]
        members = [order[self.categories_[order, category] > 0] for category in range(self.categories_.shape[1])]
        self._starts = np.cumsum([0, *map(len, members)]).astype(np.int64)
        self._members = np.concatenate([*members, np.zeros(0, np.int32)])
