"""Policies that leave logs, with slates drawn by known chances whatever was shown before."""

from typing import ClassVar

import numpy as np

from agents.base import Agent

LIKED = np.array([1.0, -0.5, 0.5, 0.0, -1.0, 1.5])
"""Logits of the tiny world's items."""


class Tilted(Agent):
    """Draws slates by Plackett-Luce from the logits `LIKED`."""

    name = "tilted"
    logits: ClassVar[np.ndarray] = LIKED

    def __init__(self, slate_size=10, seed=0):
        super().__init__(slate_size, seed)
        self.random = np.random.default_rng(seed)

    def act(self, observation):
        logits = self.logits[observation.candidates.items]
        return np.argsort(-logits - self.random.gumbel(size=logits.shape), axis=1)[:, : self.slate_size]


class Careless(Tilted):
    """Draws any slate."""

    name = "careless"
    logits = np.zeros(6)
