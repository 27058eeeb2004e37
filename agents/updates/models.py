"""The models that serve a day: embeddings, their index and item counts, with snapshot and rollback."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from envs.logs.schema import InteractionLog
from recall.embedding import EmbeddingConfig, EmbeddingRecall


@dataclass(frozen=True)
class Snapshot:
    """The models at one moment; opaque, to be handed to `ServedModels.rollback`."""

    recall: EmbeddingRecall
    counts: NDArray[np.int64]
    version: str


class ServedModels:
    """What the pipeline serves with: recall embeddings and their index, MF scores, and how often each item was consumed.

    The MF score of an item is the inner product of its embedding with the user's, folded in from the observed history; so
    one factorisation gives both recall and scores, and an update moves both.
    """

    def __init__(self, config: EmbeddingConfig, seed: int = 0) -> None:
        self.recall = EmbeddingRecall(config, seed)
        self.version = ""
        """Names the state of the models in the event log: number of full refits, dot, updates since."""

    def fit(self, log: InteractionLog) -> Self:
        """Learns everything anew from `log`."""
        self.recall.fit(log)
        self.counts_ = log.item_counts()
        generation = int(self.version.split(".")[0]) + 1 if self.version else 0
        self.version = f"{generation}.0"
        return self

    def update(self, events: InteractionLog) -> None:
        """Takes in events that the models have not learnt from yet."""
        self.recall.update(events)
        self.counts_ = self.counts_ + events.item_counts()
        generation, number = self.version.split(".")
        self.version = f"{generation}.{int(number) + 1}"

    @property
    def trained_samples(self) -> int:
        """Interactions that the last `fit` or `update` went through, each counted once per half-pass."""
        return self.recall.trained_samples_

    @property
    def known(self) -> NDArray[np.bool_]:
        """[I] items that had rows when the models were last fitted or updated."""
        return self.counts_ > 0

    @property
    def popularity(self) -> NDArray[np.float32]:
        """[I] log(1 + times consumed)."""
        return np.log1p(self.counts_).astype(np.float32)

    def snapshot(self) -> Snapshot:
        """A copy that later updates do not touch."""
        return Snapshot(deepcopy(self.recall), self.counts_.copy(), self.version)

    def rollback(self, snapshot: Snapshot) -> None:
        """Serves `snapshot` again, to the bit; the snapshot can be used again."""
        self.recall = deepcopy(snapshot.recall)
        self.counts_ = snapshot.counts.copy()
        self.version = snapshot.version


def joined(logs: list[InteractionLog]) -> InteractionLog:
    """The consumed rows of several logs of the same users and catalogue, as one log under the name of the first."""
    parts = [log.consumed() for log in logs]
    return InteractionLog.from_rows(
        name=logs[0].name,
        users=logs[0].users,
        catalogue=logs[0].catalogue,
        user=np.concatenate([part.user for part in parts]),
        item=np.concatenate([part.item for part in parts]),
        timestamp=np.concatenate([part.timestamp for part in parts]),
        rating=np.concatenate([part.rating for part in parts]),
    )
