"""Update policies that follow a calendar or count data."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.policies.base import UPDATES, MarketFacts, UpdatePolicy
from envs.errors import ConfigurationError

PERIODS = (1, 2, 3, 5, 7, 14, 30)
"""Numbers of periods between two updates that tuning tries."""


@dataclass
class Never(UpdatePolicy):
    """Keeps the models that the episode began with."""

    name: ClassVar[str] = "never"

    def act(self, observation: NDArray[np.float32]) -> int:
        """Always keep."""
        return UpdateAction.KEEP


@dataclass
class Every(UpdatePolicy):
    """Updates after every so many periods, first when so many are over.

    Raises:
        ConfigurationError: if the number of periods is not positive.
    """

    name: ClassVar[str] = "every"

    periods: int = 7
    """Periods from one update to the next; with 1 each one has an update but the first, before which there is nothing to learn."""
    action: UpdateAction = UpdateAction.FULL_RETRAIN
    """What an update is."""

    def __post_init__(self) -> None:
        if self.periods < 1:
            raise ConfigurationError(f"update policy 'every' has periods={self.periods}; it must be at least 1.")
        self.begin()

    @classmethod
    def grid(cls, facts: MarketFacts) -> list[Self]:
        """Each of `PERIODS` with each kind of update."""
        return [cls(periods, action) for periods in PERIODS for action in UPDATES]

    def begin(self) -> None:
        self._seen = 0

    def act(self, observation: NDArray[np.float32]) -> int:
        """The update where it is due, else keep."""
        due = self._seen > 0 and self._seen % self.periods == 0
        self._seen += 1
        return self.action if due else UpdateAction.KEEP


@dataclass
class AfterData(UpdatePolicy):
    """Updates as soon as there are so many clicks that the models have not learnt from.

    Raises:
        ConfigurationError: if the number of clicks is not positive.
    """

    name: ClassVar[str] = "after_data"

    clicks: float = 1_000
    """Clicks that make an update due."""
    action: UpdateAction = UpdateAction.FULL_RETRAIN
    """What an update is."""

    def __post_init__(self) -> None:
        if not self.clicks > 0:
            raise ConfigurationError(f"update policy 'after_data' has clicks={self.clicks}; it must be positive.")

    @classmethod
    def grid(cls, facts: MarketFacts) -> list[Self]:
        """Seven numbers of clicks, from 0.1 to 6.4 for each visit of a period, with each kind of update."""
        clicks = np.ceil(0.1 * 2.0 ** np.arange(7) * max(facts.visits, 1.0))
        return [cls(int(number), action) for number in clicks for action in UPDATES]

    def act(self, observation: NDArray[np.float32]) -> int:
        """The update where it is due, else keep."""
        due = Monitoring.from_array(observation).clicks_since_training >= self.clicks
        return self.action if due else UpdateAction.KEEP
