"""What is served to whom, and how much of it."""

from dataclasses import dataclass, field

import polars as pl

from agents.rankers.loading import shown_name
from agents.rankers.popularity import Popularity
from agents.rerankers import RERANKERS
from envs.errors import ConfigurationError
from evaluation.comparison import ComparisonConfig, ServingConfig

FLOOR = Popularity.name
"""Name of the ranker by popularity, which is beside all that learn."""
CONTROL = "random"
"""Name of the policy that learns nothing, beside the pipelines of the feedback loop."""
LOG, LOG_AND_EVENTS = "log", "log_and_events"
"""What rankers were trained on."""
TRAININGS = (LOG, LOG_AND_EVENTS)


@dataclass(frozen=True, kw_only=True)
class ServingStudyConfig:
    """What is served to whom, and how much of it."""

    rankers: tuple[str, ...]
    """Rankers by name, or "file.py:Class"; popularity is always beside them."""
    rerankers: tuple[str, ...] = tuple(RERANKERS)
    """Re-rankers, each on top of each ranker."""
    user_models: tuple[str, ...] = ("parametric", "dien")
    """Models of the users who are served."""
    users: int = 200
    """Evaluation users, at most."""
    days: int = 30
    """Horizon of their lives."""
    requests: int = 40_000
    """Simulated requests of training users, about, that the second training learns from."""
    loop_rankers: tuple[str, ...] | None = None
    """Rankers that learn from their own traffic; those of `rankers` and popularity. None for all of them."""
    loop_rounds: int = 5
    """Times that they learn from it."""
    loop_seeds: int = 3
    """Times that the loop is run, under other draws."""
    learnt_users: int | None = None
    """Users of the log, the first so many, from whose rows recall and rankers learn; None for all."""
    epochs: int | None = None
    """Passes of network rankers at most; None for each ranker's own."""
    debias: bool = False
    """Whether simulated events weigh by one over their propensities."""
    draws: int = 2_000
    """Draws of users for the intervals of rank correlations."""
    seed: int = 0
    """Of everything random."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Of the environment."""

    def __post_init__(self) -> None:
        for name, least in (("users", 2), ("days", 1), ("requests", 1), ("loop_rounds", 1), ("loop_seeds", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for reranker in self.rerankers:
            if reranker not in RERANKERS:
                raise ConfigurationError(f"there is no re-ranker '{reranker}'; known are {', '.join(RERANKERS)}.")
        if not self.rerankers or not self.user_models:
            raise ConfigurationError("rerankers and user_models must each name at least one.")

    def comparison(self) -> ComparisonConfig:
        """Whom pipelines serve: users of a comparison, so the same as in `evaluation.comparison`."""
        return ComparisonConfig(
            users=self.users, seed=self.seed, serving=self.serving, traced_users=0, record_events=False
        )

    @property
    def looped(self) -> tuple[str, ...]:
        """Rankers of the feedback loop, the control first."""
        served = (FLOOR, *self.rankers)
        asked = served if self.loop_rankers is None else self.loop_rankers
        return (CONTROL, *(name for name in asked if name in served))


def pipeline_name(ranker: str, reranker: str) -> str:
    """What a pipeline is called in tables."""
    return f"{shown_name(ranker)}+{reranker}"


def reward_metric(serving: pl.DataFrame) -> str:
    """The reward that can be shown for all pipelines: normalised, unless the scale cannot be trusted somewhere."""
    own = serving.filter(pl.col("reranker").is_not_null())
    groups = own.select("user_model", "training").unique()
    scaled = own.filter(pl.col("metric") == "normalised_reward").select("user_model", "training").unique()
    return "normalised_reward" if len(scaled) == len(groups) else "reward"
