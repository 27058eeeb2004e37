"""The model part as a service: recall, ranking and re-ranking as one object."""

from agents.pipeline.agent import PipelineAgent
from agents.pipeline.config import PipelineConfig
from agents.pipeline.pipeline import Pipeline, Recommendations

__all__ = ["Pipeline", "PipelineAgent", "PipelineConfig", "Recommendations"]
