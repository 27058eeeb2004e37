"""Slates by a determinantal point process: relevant items that span many directions."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.rerankers import kernels
from agents.rerankers.base import Reranker, RerankerConfig
from agents.rerankers.weighted import standardised
from envs.compiled import over_rows
from envs.errors import ConfigurationError
from envs.observation import Observation


@dataclass(frozen=True, kw_only=True)
class DPPConfig(RerankerConfig):
    """How `DeterminantalPointProcess` weighs."""

    trade_off: float = 0.7
    """theta: weight of relevance in [0, 1]; the rest is the weight of the log-determinant of the slate's likeness."""
    distinctness: float = 0.1
    """delta: share of an item that no other has, in (0, 1]; keeps items of the same categories from being one and the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.trade_off <= 1:
            raise ConfigurationError(f"trade_off is {self.trade_off}; it must lie in [0, 1].")
        if not 0 < self.distinctness <= 1:
            raise ConfigurationError(f"distinctness is {self.distinctness}; it must lie in (0, 1].")


class DeterminantalPointProcess(Reranker):
    """The slate Y of (greedily) largest

        theta * sum of relevance over Y + (1 - theta) * log det S_Y,    S_ij = (1 - delta) cosine(i, j) + delta [i = j]

    which is the log-probability of Y under a determinantal point process with kernel q_i S_ij q_j, q = exp(theta / (2 - 2 theta)
    relevance). Relevance is the ranker's score, standardised over the candidates that may be shown; cosine is of public
    categories, and an item without any is unlike all others.

    Source: Chen, Zhang and Zhou (2018), Fast greedy MAP inference for determinantal point process to improve recommendation
    diversity, algorithm 1 and eq. 21: the Cholesky factor of S_Y grows by a row for each slot, so that a slate
    costs O(K^2 C), not the O(K^4 C) of determinants.
    """

    name: ClassVar[str] = "dpp"
    config_type: ClassVar[type[RerankerConfig]] = DPPConfig
    config: DPPConfig

    def choose(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """Slates [N, K]."""
        candidates = observation.candidates
        slates = np.empty((len(observation), slate_size), np.int64)
        over_rows(
            kernels.fill_determinantal,
            len(observation),
            standardised(scores, candidates.mask == 1),
            np.ascontiguousarray(candidates.mask),
            np.ascontiguousarray(candidates.features),
            self.config.trade_off,
            self.config.distinctness,
            slates,
        )
        return slates
