"""Maximal marginal relevance on top of any ranker."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.rerankers.base import Reranker, RerankerConfig
from agents.rerankers.weighted import fill_slates, standardised
from envs.errors import ConfigurationError
from envs.observation import Observation


@dataclass(frozen=True, kw_only=True)
class MMRRerankerConfig(RerankerConfig):
    """How `MaximalMarginalRelevance` weighs."""

    trade_off: float = 0.7
    """lambda: weight of relevance in [0, 1]; the rest is the weight of being unlike the items already in the slate."""

    def __post_init__(self) -> None:
        if not 0 <= self.trade_off <= 1:
            raise ConfigurationError(f"trade_off is {self.trade_off}; it must lie in [0, 1].")


class MaximalMarginalRelevance(Reranker):
    """Slot by slot the candidate of largest

        lambda * relevance - (1 - lambda) * largest cosine of public categories to an item already in the slate

    where relevance is the ranker's score, standardised over the candidates that may be shown.
    Source: Carbonell and Goldstein (1998), The use of MMR, diversity-based reranking for reordering documents.
    """

    name: ClassVar[str] = "mmr"
    config_type: ClassVar[type[RerankerConfig]] = MMRRerankerConfig
    config: MMRRerankerConfig

    def choose(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """Slates [N, K]."""
        relevance = standardised(scores, observation.candidates.mask == 1)
        diversity = np.full(len(observation), 1 - self.config.trade_off, np.float32)
        return fill_slates(relevance * np.float32(self.config.trade_off), diversity, observation.candidates, slate_size)
