"""A pipeline among agents: it serves simulated users as it would serve those of a service."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent
from agents.pipeline.pipeline import Pipeline
from envs.observation import Observation


class PipelineAgent(Agent):
    """Ranks and re-ranks by a fitted pipeline. The environment's candidate source is to be the pipeline's recall.

    Args:
        pipeline: fitted.
        slate_size: K.
    """

    name: ClassVar[str] = "pipeline"

    def __init__(self, pipeline: Pipeline, slate_size: int = 10) -> None:
        super().__init__(slate_size)
        self.pipeline = pipeline

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        return self.pipeline.choose(observation, self.slate_size)[1]
