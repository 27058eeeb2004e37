"""Whole pipelines on held-out rows: would the slate for each user's next request have held the item that the user took?"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agents.pipeline import Pipeline
from agents.updates import metrics as measures
from envs.observation import Observation
from evaluation.ranking.splits import Split

_CASES_AT_ONCE = 512


@dataclass(frozen=True)
class HeldOutRequests:
    """The request before each held-out item, with the candidates that recall finds for it; the same for all pipelines over one
    recall."""

    user: NDArray[np.int64]
    """[M] user of each case in the log."""
    target: NDArray[np.int32]
    """[M] item that was consumed."""
    parts: list[Observation]
    """The M requests, in order, some at a time."""

    @classmethod
    def of(cls, split: Split, pipeline: Pipeline) -> Self:
        """The requests of the rows to predict; `pipeline` knows what users had consumed before."""
        log, rows = split.log, split.test_rows
        user, now = log.user[rows].astype(np.int64), log.timestamp[rows]
        pieces = [slice(first, first + _CASES_AT_ONCE) for first in range(0, len(rows), _CASES_AT_ONCE)]
        return cls(user, log.item[rows], [pipeline.observe(user[piece], now[piece])[0] for piece in pieces])

    def found(self) -> NDArray[np.bool_]:
        """[M] whether recall found the item that was consumed."""
        items = np.concatenate([part.candidates.items for part in self.parts])
        return (items == self.target[:, None]).any(axis=1)

    def ranks(self, pipeline: Pipeline, k: int) -> NDArray[np.float64]:
        """[M] slot of the item in the slate of k that `pipeline` would have shown, 0 for the top; infinite where it is in none."""
        slates = []
        for part in self.parts:
            _, slots = pipeline.choose(part, k)
            place = np.arange(len(slots))[:, None]
            shown = part.candidates.mask[place, slots] == 1
            slates.append(np.where(shown, part.candidates.items[place, slots], -1))
        hit = np.concatenate(slates) == self.target[:, None]
        return np.where(hit.any(axis=1), hit.argmax(axis=1), np.inf)

    def gains(self, pipeline: Pipeline, k: int = measures.TOP) -> NDArray[np.float64]:
        """[M] NDCG at k of the slate."""
        return measures.ndcg_at(self.ranks(pipeline, k), k)
