"""How much of what a verdict rests on."""

from dataclasses import dataclass, field

from envs.errors import ConfigurationError
from envs.measures import RewardWeights
from evaluation.comparison import ComparisonConfig, ServingConfig

KEPT = 3
"""Of so many configurations one goes on to the next rung, with so many times the simulated events."""


@dataclass(frozen=True, kw_only=True)
class VerdictConfig:
    """Who is in it, and what each contender gets."""

    rankers: tuple[str, ...]
    """Supervised contenders: a pipeline around each ranker, by name or "file.py:Class"."""
    learners: tuple[str, ...]
    """Agents trained by reinforcement, by name or "file.py:Class"."""
    bandits: tuple[str, ...] = ()
    """Contextual bandits, which have rows of their own and do not count as reinforcement learning."""
    configurations: int = 20
    """Configurations tried of each contender."""
    requests: int = 8_000
    """Simulated events of a configuration on the last rung, and of each training of a finalist."""
    tuning_users: int = 100
    """Users on whom configurations, finalists and *best* are chosen, at most."""
    fresh_users: int = 300
    """Users on whom all is measured, at most; nobody has met them before."""
    seeds: int = 5
    """Trainings of each finalist."""
    finalists: int = 3
    """Contenders of each family that go on to all worlds."""
    sweep: tuple[RewardWeights, ...] = ()
    """Rewards under which the best of each family are trained anew in the first world, for the Pareto fronts."""
    sweep_seeds: int = 1
    """Trainings under each of these rewards."""
    epochs: int | None = None
    """Passes of network rankers over the log, at most; None for each ranker's own."""
    traced_users: int = 64
    """Users whose hidden interest is recorded at each request, at most."""
    draws: int = 1_000
    """Draws of users behind intervals that have no formula."""
    seed: int = 0
    """Of everything random."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Of the environment."""

    def __post_init__(self) -> None:
        least = {
            "configurations": 1,
            "requests": 1,
            "tuning_users": 2,
            "fresh_users": 2,
            "seeds": 1,
            "finalists": 1,
            "sweep_seeds": 1,
            "draws": 2,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        for name in ("rankers", "learners"):
            if not getattr(self, name):
                raise ConfigurationError(f"{name} is empty; a verdict needs at least one on each side.")

    def comparison(self) -> ComparisonConfig:
        """How lives are served; whom, is said each time."""
        return ComparisonConfig(seed=self.seed, serving=self.serving, traced_users=0, record_events=False)

    def training_seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings."""
        return tuple(range(self.seed, self.seed + self.seeds))


@dataclass(frozen=True)
class Rung:
    """A round of successive halving."""

    configurations: int
    """How many are trained in it."""
    requests: int
    """Simulated events of each."""


def rungs(configurations: int, requests: int) -> list[Rung]:
    """Rounds in which ever fewer configurations get ever more events: a third goes on, with three times as many.

    Each configuration is trained anew in each round, because schedules (exploration, warm-up, how batches divide the
    budget) hang on the budget.

    Args:
        configurations: of the first round.
        requests: events of a configuration of the last.

    Source: Jamieson and Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization.
    """
    number = 1
    while KEPT**number <= configurations:
        number += 1
    return [
        Rung(-(-configurations // KEPT**place), max(requests // KEPT ** (number - 1 - place), 1))
        for place in range(number)
    ]
