"""Popularity as a ranker: the floor under all that learn."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.rankers.base import Progress, Ranker
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import Samples


class Popularity(Ranker):
    """The log of how often anybody has consumed an item, the same for every user; it counts on with each update."""

    name: ClassVar[str] = "popular"
    block_pairs: ClassVar[int | None] = 100_000

    def _fit(self, training: Samples, validation: Samples, progress: Progress | None, folder: Path | None) -> None:
        """The base has counted already."""

    def _update(self, samples: Samples) -> None:
        """The base has counted already."""

    def _score(self, batch: RankingInput) -> NDArray[np.float32]:
        assert batch.counts is not None
        return np.log(np.maximum(batch.counts, 1e-6)).astype(np.float32)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The base has restored the counts."""
