"""Calibrated slates: categories in the proportions in which the user consumed them."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.rerankers import kernels
from agents.rerankers.base import Reranker, RerankerConfig
from agents.rerankers.weighted import standardised
from envs.compiled import over_rows
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation


@dataclass(frozen=True, kw_only=True)
class CalibratedConfig(RerankerConfig):
    """How `Calibrated` weighs."""

    trade_off: float = 0.5
    """lambda: weight of calibration in [0, 1]; the rest is the weight of relevance."""
    smoothing: float = 0.01
    """alpha: share of the user's own proportions that is mixed into the slate's, in (0, 1); keeps the divergence finite."""

    def __post_init__(self) -> None:
        if not 0 <= self.trade_off <= 1:
            raise ConfigurationError(f"trade_off is {self.trade_off}; it must lie in [0, 1].")
        if not 0 < self.smoothing < 1:
            raise ConfigurationError(f"smoothing is {self.smoothing}; it must lie in (0, 1).")


class Calibrated(Reranker):
    """The slate Y of (greedily) largest

        (1 - lambda) * sum of relevance over Y - lambda * KL(p || (1 - alpha) q(Y) + alpha p)

    where p [G] are the mean categories of the observed history, q(Y) those of the slate, and relevance is the ranker's score,
    standardised over the candidates that may be shown. Items without category count neither in p nor in q. A user without
    history has no proportions to be met: the order is that of relevance.

    Source: Steck (2018), Calibrated recommendations, eq. 2, 3, 5 and 6, with equal weights.
    """

    name: ClassVar[str] = "calibrated"
    config_type: ClassVar[type[RerankerConfig]] = CalibratedConfig
    config: CalibratedConfig
    categories_: NDArray[np.float32]
    """[I, G] public categories of the items, for those of the history."""

    def fit(self, log: InteractionLog) -> Self:
        """Takes the items' categories from the catalogue."""
        self.categories_ = log.catalogue.categories
        return self

    def choose(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """Slates [N, K]."""
        candidates = observation.candidates
        slates = np.empty((len(observation), slate_size), np.int64)
        over_rows(
            kernels.fill_calibrated,
            len(observation),
            standardised(scores, candidates.mask == 1),
            np.ascontiguousarray(candidates.mask),
            np.ascontiguousarray(candidates.features),
            self.proportions(observation.history),
            self.config.trade_off,
            self.config.smoothing,
            slates,
        )
        return slates

    def proportions(self, history: NDArray[np.int32]) -> NDArray[np.float64]:
        """[N, G] mean categories of the items in `history` [N, H] that have one; 0 where none has."""
        shares = np.zeros((len(history), self.categories_.shape[1]))
        number = np.zeros(len(history))
        # place by place: what is gathered at once stays small, and a row's sum keeps its order in any batch
        for items in history.T:
            categories = self.categories_[np.maximum(items, 0)] * (items >= 0)[:, None]
            shares += categories
            number += categories.any(axis=1)
        return shares / np.maximum(number, 1)[:, None]
