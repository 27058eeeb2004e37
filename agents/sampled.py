"""A policy that leaves a log which can be weighed: it draws its slates, and says with which probability."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.actions.ranker_scores import RankerScores
from agents.base import Agent
from agents.rankers.base import Ranker
from agents.rerankers import best_first
from agents.rerankers.weighted import standardised
from envs.observation import Observation
from envs.randomness import Purpose, draw_gumbel


class Sampled(Agent):
    """Draws each slot's item with a chance in proportion to exp(standardised score / temperature), of those that are left.

    Slates are drawn at once by sorting score / temperature plus Gumbel noise, which is a hash of the agent's seed, what is observed
    of the request, and the item.

    Args:
        slate_size: K.
        seed: of the draws.
        temperature: near 0 the slate is that of the score, large it is any.
        ranker: fitted, whose score it is; None for that of recall.

    Source: Plackett (1975), The analysis of permutations; Yellott (1977), for the Gumbel noise.
    """

    name: ClassVar[str] = "sampled"

    def __init__(
        self, slate_size: int = 10, seed: int = 0, temperature: float = 0.5, ranker: Ranker | None = None
    ) -> None:
        super().__init__(slate_size, seed)
        self.temperature = temperature
        self._scores = None if ranker is None else RankerScores([ranker])

    def act(self, observation: Observation) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Slates [N, K] and propensities [N, K]."""
        items, shown = observation.candidates.items, observation.candidates.mask == 1
        noise = draw_gumbel(self.seed, Purpose.AGENT, *(key[:, None] for key in observation.hash_keys()), items)
        recalled = observation.candidates.score
        scores = self._scores(observation)[:, :, 0] if self._scores else standardised(recalled, shown)
        logits = scores / np.float32(self.temperature)
        slates = best_first(logits + noise, observation.candidates.mask, self.slate_size)
        worth = np.where(shown, np.exp(logits.astype(np.float64)), 0)
        drawn = np.take_along_axis(worth, slates, axis=1)
        # what is left before each slot, summed from the end so that nothing is lost to rounding
        others = worth.sum(axis=1, keepdims=True) - drawn.sum(axis=1, keepdims=True)
        left = np.maximum(others, 0) + np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1]
        return slates, np.where(drawn > 0, drawn / np.maximum(left, 1e-300), 1).astype(np.float32)
