"""Models of a small synthetic log, for tests of the registry and the gate: fitted in milliseconds."""

from agents.updates.models import ServedModels
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from recall.embedding import EmbeddingConfig

SMALL = SyntheticConfig(num_users=40, num_items=60, events_per_user=25, num_categories=5)


def small_log() -> InteractionLog:
    """A log of slates of ten."""
    return generate_log(SMALL, seed=3)[0]


SETTINGS = {"samples": {"label": "consumed", "negatives": 2}, "validation_share": 0.0, "iterations": 100}
"""By which a logistic ranker gets good on so few rows: so good that it is worse with its weights shuffled."""


def small_models(log: InteractionLog, seed: int = 0, ranker: str | None = "logistic") -> ServedModels:
    settings = SETTINGS if ranker == "logistic" else None
    return ServedModels(EmbeddingConfig(dimension=4, iterations=2), seed, ranker=ranker, settings=settings).fit(log)
