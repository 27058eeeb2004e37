"""What training costs: counted, so that it is the same on every machine, and measured beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from envs.errors import ConfigurationError


@dataclass(frozen=True)
class Cost:
    """What one or several trainings cost; costs add up."""

    samples: int = 0
    """Samples that were trained on, each counted once a pass."""
    work: int = 0
    """Samples times the numbers that the model learns, summed over models."""
    seconds: float = field(default=0.0, compare=False)
    """Measured; two costs are equal whatever they took."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.samples + other.samples, self.work + other.work, self.seconds + other.seconds)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What training is charged, in clicks per visit."""

    per_billion: float = 2.5e-4
    """Clicks per visit that a billion samples times parameters must earn on one day to pay for themselves (assumed: a full retrain
    on ml-100k and 1,500 drawn users then costs 0.015 clicks per visit, a sixteenth of what slates earn there, so that doing it
    nightly out of habit is worth a thought)."""

    def __post_init__(self) -> None:
        if not 0 <= self.per_billion < float("inf"):
            raise ConfigurationError(f"per_billion is {self.per_billion}; a price must be finite and not negative.")

    def of(self, cost: Cost) -> float:
        """The price of a cost; measured seconds do not matter."""
        return self.per_billion * cost.work / 1e9


class Stopwatch:
    """Seconds that passed inside `measured()`."""

    seconds: float = 0.0


@contextmanager
def measured() -> Iterator[Stopwatch]:
    """Times a block: `seconds` of what it yields are known once the block has ended."""
    watch, begin = Stopwatch(), perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = perf_counter() - begin
