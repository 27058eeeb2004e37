"""Channel: the embeddings of `recall.embedding`, alternating least squares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.logs.schema import InteractionLog
from recall.channels.base import RecallChannel
from recall.channels.vectors import inner_products
from recall.embedding import EmbeddingConfig, EmbeddingRecall


class ALS(RecallChannel):
    """Items of the largest inner product with the user's vector, which is folded in from the history.

    Newcomers get no places of their own here unless the configuration says so: channels beside it bring them.
    """

    name: ClassVar[str] = "als"
    config_type: ClassVar[type] = EmbeddingConfig
    config: EmbeddingConfig

    def __init__(self, config: EmbeddingConfig | None = None, seed: int = 0) -> None:
        super().__init__(config or EmbeddingConfig(newcomer_share=0.0), seed)
        self._recall = EmbeddingRecall(self.config, seed)
        self._last: tuple[RecallRequest, NDArray[np.float32]] | None = None

    def fit(self, log: InteractionLog) -> Self:
        """Learns embeddings from the consumed rows of `log`."""
        self._recall.fit(log)
        self._last = None
        return self

    def update(self, events: InteractionLog) -> None:
        """Solves the users and items that `events` touch."""
        self._recall.update(events)
        self._last = None

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Tells the embeddings, which keep newcomers apart."""
        if self.offered is not None:
            self._recall.hear(self.offered)

    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items of the largest inner products."""
        return self._recall.search(self._vectors(request), request.excluded, n)

    def score(self, request: RecallRequest, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N, C] inner products."""
        return inner_products(self._vectors(request), self._recall.item_vectors_, items)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """That of the embeddings."""
        return self._recall.state()

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], path: Path) -> Self:
        """The channel around the embeddings that were kept."""
        recall = EmbeddingRecall.from_state(arrays, settings, path)
        channel = cls(recall.config, recall.seed)
        channel._recall = recall
        return channel

    def _vectors(self, request: RecallRequest) -> NDArray[np.float32]:
        """[N, d] of the users; those of the last request are kept, because its candidates are scored next."""
        if self._last is None or self._last[0] is not request:
            self._last = (request, self._recall.user_vectors(request.history))
        return self._last[1]
