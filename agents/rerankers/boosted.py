"""Boosts of fresh and of popular items on top of any ranker."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.rerankers.base import Reranker, RerankerConfig
from agents.rerankers.weighted import best_first, candidate_terms, log_counts
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation


@dataclass(frozen=True, kw_only=True)
class BoostedConfig(RerankerConfig):
    """How much `Boosted` adds, in standard deviations of the request's scores."""

    freshness: float = 0.5
    """Added to a newborn item; falls with its age, see `agents.rerankers.FRESHNESS_DAYS`. Negative for old items."""
    popularity: float = 0.0
    """Added for each standard deviation of popularity, over the request's candidates. Negative for the long tail."""

    def __post_init__(self) -> None:
        for name in ("freshness", "popularity"):
            if not np.isfinite(getattr(self, name)):
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be a finite number.")


class Boosted(Reranker):
    """The candidates of largest

        relevance + w_freshness * exp(-age / 30 days) + w_popularity * popularity

    where relevance (the ranker's score) and popularity (log(1 + times consumed in the policy's log)) are standardised over
    the candidates that may be shown.
    """

    name: ClassVar[str] = "boosted"
    config_type: ClassVar[type[RerankerConfig]] = BoostedConfig
    config: BoostedConfig
    popularity_: NDArray[np.float32]
    """[I] log(1 + times consumed)."""

    def fit(self, log: InteractionLog) -> Self:
        """Counts the log."""
        self.popularity_ = log_counts(log)
        return self

    def choose(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """Slates [N, K]."""
        relevance, freshness, popularity = candidate_terms(observation, self.popularity_, scores)
        gain = relevance + np.float32(self.config.freshness) * freshness
        gain += np.float32(self.config.popularity) * popularity
        return best_first(gain, observation.candidates.mask, slate_size)
