"""Cost-aware retraining: updates when keeping the models is estimated to cost more than updating them."""

from collections import deque
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.policies.base import UPDATES, MarketFacts, UpdatePolicy
from envs.errors import ConfigurationError


@dataclass
class CARA(UpdatePolicy):
    """Cost-aware retraining in the manner of CARA, with a threshold on the staleness cost or on its sum.

    Kept of the paper: staleness and retraining have a cost in one unit; each batch brings the decision to keep or to retrain; it
    is to retrain when the staleness cost of the present model is beyond a threshold (CARA-T), or what it has summed up to since the
    last retraining is (CARA-CT); the threshold is the one of least total cost of a whole run on earlier data, here on tuning
    markets. The periodic variant is the policy `every`.

    Different: the paper's staleness cost is the model's loss on labelled data that resembles the queries; here it is what
    monitoring shows, the clicks per visit that are lost against the first periods after the last update. So a fall of engagement
    that no update could mend counts as staleness, too. The retraining cost is what the last update took from the budget, at its
    price, and before the first one that of a full retrain; thresholds are multiples of it, so that they hold at other prices and as
    the data grow. The sum does not fall below 0, else good luck would be saved up. And an update may be an incremental one.

    Raises:
        ConfigurationError: if a setting is out of its range.

    Source: Mahadevan and Mathioudakis (2024), Cost-aware retraining for machine learning (arXiv 2310.04216).
    """

    name: ClassVar[str] = "cara"

    threshold: float = 1.0
    """Multiple of the retraining cost beyond which the staleness cost leads to an update."""
    cumulative: bool = True
    """Whether the staleness cost is summed since the last update."""
    action: UpdateAction = UpdateAction.FULL_RETRAIN
    """What an update is."""
    retrain_price: float = field(default=0.01, repr=False)
    """Retraining cost before the first update, in clicks per visit of one period."""
    budget_price: float = field(default=1.0, repr=False)
    """Price of the whole budget, in the same unit; monitoring shows which share of it an update took."""
    periods: int = field(default=3, repr=False)
    """Periods over which engagement is averaged, after an update and at last."""

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.retrain_price >= 0 and self.budget_price >= 0 and self.periods > 0):
            raise ConfigurationError(
                f"update policy 'cara' has threshold={self.threshold}, retrain_price={self.retrain_price}, "
                f"budget_price={self.budget_price}, periods={self.periods}; "
                "the first and the last must be positive, the prices not negative."
            )
        self.begin()

    @classmethod
    def grid(cls, facts: MarketFacts) -> list[Self]:
        """Five thresholds on the cost or its sum, with each kind of update, at the market's prices."""
        multiples = (0.25, 1.0, 4.0, 16.0, 64.0)
        return [
            cls(multiple, cumulative, action, facts.retrain_price, facts.budget_price)
            for multiple, cumulative, action in product(multiples, (True, False), UPDATES)
        ]

    def begin(self) -> None:
        self._retrain_price = self.retrain_price
        self._budget_left: float | None = None
        self._staleness = 0.0
        self._restart()

    def act(self, observation: NDArray[np.float32]) -> int:
        """The update where it is due, else keep."""
        monitoring = Monitoring.from_array(observation)
        self._hear_of_the_budget(monitoring.budget_left)
        if not self._fresh and monitoring.engagement <= 0:
            return UpdateAction.KEEP  # no traffic yet
        self._latest.append(monitoring.engagement)
        if len(self._fresh) < self.periods:
            self._fresh.append(monitoring.engagement)
            return UpdateAction.KEEP
        lost = float(np.mean(self._fresh) - np.mean(self._latest))
        before = self._staleness if self.cumulative else 0.0
        self._staleness = max(before + lost, 0.0)
        due = self._staleness > self.threshold * self._retrain_price
        return self.action if due else UpdateAction.KEEP

    def _hear_of_the_budget(self, left: float) -> None:
        """What was taken from the budget since the last look is what an update cost; then staleness begins anew."""
        taken = 0.0 if self._budget_left is None else self._budget_left - left
        self._budget_left = left
        if taken > 0:
            self._retrain_price = self.budget_price * taken
            self._restart()

    def _restart(self) -> None:
        self._staleness = 0.0
        self._fresh: list[float] = []
        self._latest: deque[float] = deque(maxlen=self.periods)
