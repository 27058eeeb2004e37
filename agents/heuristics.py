"""Agents with a fixed rule: random, most popular, newest, best by recall score, and maximal marginal relevance."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Training
from agents.rerankers import best_first, log_counts, rerank
from envs.logs.schema import InteractionLog
from envs.observation import Observation
from envs.randomness import Purpose, draw_uniform


class Random(Agent):
    """Shows unmasked candidates in random order, and says with which probability.

    The draws are a hash of the agent's seed, what is observed of the request, and the item: neither the batch nor the order
    of the candidates matters.
    """

    name: ClassVar[str] = "random"

    def act(self, observation: Observation) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Slates [N, K] and propensities [N, K]."""
        items, mask = observation.candidates.items, observation.candidates.mask
        draws = draw_uniform(self.seed, Purpose.AGENT, *(key[:, None] for key in observation.hash_keys()), items)
        number = (mask == 1).sum(axis=1, keepdims=True)
        slot = np.arange(self.slate_size)
        left = np.where(slot < number, number - slot, items.shape[1] - slot)
        return best_first(draws, mask, self.slate_size), (1 / left).astype(np.float32)


class Popular(Agent):
    """Shows the candidates that were consumed most often in the policy's log."""

    name: ClassVar[str] = "popular"
    popularity_: NDArray[np.float32]
    """[I] log(1 + times consumed)."""

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Counts the log."""
        self.popularity_ = log_counts(log)
        return self

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        candidates = observation.candidates
        popularity = self.popularity_[np.maximum(candidates.items, 0)]
        return best_first(popularity, candidates.mask, self.slate_size)


class Freshest(Agent):
    """Shows the newest candidates first."""

    name: ClassVar[str] = "freshest"

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        return best_first(-observation.candidates.age, observation.candidates.mask, self.slate_size)


class MatrixFactorisation(Agent):
    """Shows candidates in the order of their recall score, the inner product of factorised user and item."""

    name: ClassVar[str] = "mf"

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        return best_first(observation.candidates.score, observation.candidates.mask, self.slate_size)


@dataclass(frozen=True, kw_only=True)
class MMRConfig:
    """How `MMR` weighs."""

    trade_off: float = 0.7
    """lambda: weight of relevance in [0, 1]; the rest is the weight of being unlike the items already in the slate."""


class MMR(Agent):
    """Maximal marginal relevance: relevance against likeness to the items already in the slate.

    Relevance is the standardised recall score, likeness the cosine of public categories.
    Source: Carbonell and Goldstein (1998), The use of MMR, diversity-based reranking for reordering documents.
    """

    name: ClassVar[str] = "mmr"
    config = MMRConfig()
    popularity_: NDArray[np.float32]
    """[I] log(1 + times consumed); its weight is 0 here."""

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Counts the log, as the re-ranker asks for it."""
        self.popularity_ = log_counts(log)
        return self

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        weights = np.array([self.config.trade_off, 1 - self.config.trade_off, 0, 0], np.float32)
        return rerank(observation, weights, self.popularity_, self.slate_size)
