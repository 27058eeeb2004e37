"""How much of what a study of update policies rests on."""

from dataclasses import dataclass

from agents.updates.costs import Prices
from agents.updates.market import UpdateConfig
from agents.updates.models import OTHER_SETTINGS
from agents.updates.policies.hindsight import REPLAYS
from agents.updates.policies.loading import RULES
from envs.errors import ConfigurationError

TUNING_SEED = 1_000
"""First seed of the worlds that policies are tuned and trained on; those that they are judged on have seeds from 0."""


@dataclass(frozen=True, kw_only=True)
class UpdateStudyConfig:
    """Which policies meet which scenarios, and how often."""

    scenarios: tuple[str, ...]
    """By name, or "file.py:Class". One of a user's own is the same world under every seed."""
    days: int = 60
    """Length of an episode."""
    visits: int = 500
    """Visits a day, before what the scenario makes of it."""
    seeds: int = 5
    """Worlds that policies are judged on, one episode in each."""
    tuning_worlds: int = 4
    """Worlds that they are tuned and trained on."""
    episodes: int = 60
    """Episodes that each family of policies may simulate in each scenario, for tuning or training."""
    rules: tuple[str, ...] = RULES
    """Families that are tuned; `never` is there whether it is named or not."""
    learners: tuple[str, ...] = ("dqn", "ppo")
    """Families that are trained."""
    own: tuple[str, ...] = ()
    """Families of a user's own, tuned or trained as they are."""
    replays: int = REPLAYS
    """Schedules that hindsight replays in each judged world."""
    unmet: tuple[str, ...] = ()
    """Scenarios for which a policy is trained on all the others, too, and judged there."""
    rankers: tuple[str, ...] = ()
    """Rankers besides the logistic one: their decay is measured, and the chosen policies are judged on their pipelines, too."""
    ranker_scenarios: tuple[str, ...] = ("shock", "news")
    """Where, in all judged worlds."""
    ranker_epochs: int = 3
    """Passes of a full training of these rankers; few, since policies may have them retrain daily."""
    decay_seeds: int = 5
    """Worlds in which decay is measured."""
    ranker_decay_seeds: int | None = None
    """In how many of these that of the pipelines with other `rankers` is, which take several times as long; None: in all."""
    decay_visits: int = 300
    """Visits a day in these."""
    event_delay: float = 0.0
    """Hours by which events reach the models late."""
    update_price: float = 1.0
    """Factor of what training is charged (assumed): `Prices` as they come, or dearer."""
    seed: int = 0
    """Of tuning's draws and of trainings."""

    def __post_init__(self) -> None:
        least = {
            "days": 2,
            "visits": 1,
            "seeds": 1,
            "tuning_worlds": 1,
            "episodes": 3,
            "replays": 1,
            "ranker_epochs": 1,
            "decay_seeds": 1,
            "decay_visits": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        if self.ranker_decay_seeds is not None and not 1 <= self.ranker_decay_seeds <= self.decay_seeds:
            raise ConfigurationError(
                f"ranker_decay_seeds is {self.ranker_decay_seeds}; it must be from 1 to decay_seeds, {self.decay_seeds}."
            )
        if not self.scenarios or not self.learners:
            raise ConfigurationError("a study of updates needs at least one scenario and one learner.")
        if self.seeds > TUNING_SEED:
            raise ConfigurationError(
                f"seeds is {self.seeds}; at most {TUNING_SEED} worlds can be judged that no policy was tuned on."
            )
        if self.event_delay < 0:
            raise ConfigurationError(f"event_delay is {self.event_delay}; it must be a number of hours from 0 upwards.")
        if not 0 <= self.update_price < float("inf"):
            raise ConfigurationError(f"update_price is {self.update_price}; it must be a number from 0 upwards.")

    @property
    def families(self) -> tuple[str, ...]:
        """All that get episodes; `never` needs none."""
        return tuple(name for name in (*self.rules, *self.learners, *self.own) if name != "never")

    @property
    def judged_seeds(self) -> range:
        """Of worlds and episodes that policies are judged on."""
        return range(self.seeds)

    @property
    def tuning_seeds(self) -> range:
        """Of worlds and episodes that they are tuned and trained on."""
        return range(TUNING_SEED, TUNING_SEED + self.tuning_worlds)

    def environment(self, ranker: str = "logistic") -> UpdateConfig:
        """Episodes on a pipeline with that ranker."""
        prices = Prices(per_billion=self.update_price * Prices().per_billion)
        if ranker == "logistic":
            return UpdateConfig(days=self.days, prices=prices)
        settings = {**OTHER_SETTINGS, "training": {"epochs": self.ranker_epochs}}
        return UpdateConfig(days=self.days, ranker=ranker, settings=settings, prices=prices)
