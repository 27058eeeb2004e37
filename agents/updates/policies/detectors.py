"""Update policies that update when a drift detector of `river` finds that monitoring has turned for the worse."""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.policies.base import UPDATES, MarketFacts, UpdatePolicy
from envs.errors import ConfigurationError

WATCHED = ("engagement", "calibration_error")
"""Figures of monitoring that a detector may watch: the first is worse when it falls, the second when it rises."""


@dataclass
class DriftDetector(UpdatePolicy):
    """Feeds a detector one figure a period, in percent of the first engagement that was seen, and updates when it reports a drift
    for the worse. After an update the detector begins anew.

    Raises:
        ConfigurationError: if a setting is out of its range.
    """

    watched: str = "engagement"
    """What is watched, one of `WATCHED`."""
    action: UpdateAction = UpdateAction.FULL_RETRAIN
    """What an update is."""
    wait: int = 2
    """Fewest periods between two updates; a drift found earlier waits."""

    def __post_init__(self) -> None:
        if self.watched not in WATCHED:
            raise ConfigurationError(
                f"update policy '{self.name}' watches '{self.watched}'; choose from {', '.join(WATCHED)}."
            )
        if self.wait < 1:
            raise ConfigurationError(f"update policy '{self.name}' has wait={self.wait}; it must be at least 1.")
        self.begin()

    @abstractmethod
    def make_detector(self) -> Any:
        """A detector of `river` that has seen nothing."""

    @abstractmethod
    def drifted(self, detector: Any, value: float) -> bool:
        """Whether the detector, once it is shown the value, reports a drift for the worse."""

    @property
    def rises(self) -> bool:
        """Whether the figure that is watched is worse when it rises."""
        return self.watched != "engagement"

    def begin(self) -> None:
        self._detector: Any = None
        self._unit = 0.0
        self._due = False
        self._since = self.wait

    def act(self, observation: NDArray[np.float32]) -> int:
        """The update where it is due, else keep."""
        monitoring = Monitoring.from_array(observation)
        self._unit = self._unit or monitoring.engagement
        if self._unit <= 0:
            return UpdateAction.KEEP  # no traffic yet
        if self._detector is None:
            self._detector = self.make_detector()
        self._since += 1
        self._due |= self.drifted(self._detector, 100 * getattr(monitoring, self.watched) / self._unit)
        if not self._due or self._since < self.wait:
            return UpdateAction.KEEP
        self._detector, self._due, self._since = None, False, 0
        return self.action


@dataclass
class ADWIN(DriftDetector):
    """Compares the means of two parts of a window that grows until they differ.

    Its guarantee is for numbers in [0, 1]; a few dozen numbers in percent are compared by their variance all but alone, so `delta`
    is a dial here and no chance of false alarms.

    Source: Bifet and Gavaldà (2007), Learning from time-changing data with adaptive windowing.
    """

    name: ClassVar[str] = "adwin"

    delta: float = 0.05
    """Significance level, in (0, 1): the larger, the sooner a drift is reported."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ConfigurationError(f"update policy 'adwin' has delta={self.delta}; it must lie between 0 and 1.")
        super().__post_init__()

    @classmethod
    def grid(cls, facts: MarketFacts) -> list[Self]:
        """Five significance levels with each figure and kind of update."""
        levels = (0.002, 0.02, 0.1, 0.4, 0.9)
        return [cls(watched, action, delta=delta) for delta, watched, action in product(levels, WATCHED, UPDATES)]

    def make_detector(self) -> Any:
        from river.drift import ADWIN as Detector  # river takes seconds to import

        return Detector(delta=self.delta, clock=1, min_window_length=2, grace_period=4)

    def drifted(self, detector: Any, value: float) -> bool:
        before = detector.estimation
        detector.update(value)
        worse = detector.estimation > before if self.rises else detector.estimation < before
        return bool(detector.drift_detected and worse)


@dataclass
class PageHinkley(DriftDetector):
    """Sums up by how much the figure was worse than its mean so far, beyond a tolerance.

    Source: Page (1954), Continuous inspection schemes.
    """

    name: ClassVar[str] = "page_hinkley"

    threshold: float = 90.0
    """Sum, in percent times periods, at which a drift is reported."""
    tolerance: float = 0.5
    """Percent by which each period may be worse for nothing."""

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.tolerance >= 0):
            raise ConfigurationError(
                f"update policy 'page_hinkley' has threshold={self.threshold} and tolerance={self.tolerance}; "
                "the first must be positive, the second not negative."
            )
        super().__post_init__()

    @classmethod
    def grid(cls, facts: MarketFacts) -> list[Self]:
        """Five thresholds with each figure and kind of update."""
        sums = (10.0, 30.0, 90.0, 270.0, 810.0)
        return [cls(watched, action, threshold=total) for total, watched, action in product(sums, WATCHED, UPDATES)]

    def make_detector(self) -> Any:
        from river.drift import PageHinkley as Detector  # river takes seconds to import

        mode = "up" if self.rises else "down"
        return Detector(min_instances=3, delta=self.tolerance, threshold=self.threshold, mode=mode)

    def drifted(self, detector: Any, value: float) -> bool:
        detector.update(value)
        return bool(detector.drift_detected)
