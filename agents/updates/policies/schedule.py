"""An update policy that looks at nothing: a schedule fixed beforehand."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.updates.monitoring import UpdateAction
from agents.updates.policies.base import UpdatePolicy


@dataclass
class FixedSchedule(UpdatePolicy):
    """Carries out one action after the other, then keeps."""

    name: ClassVar[str] = "schedule"

    actions: tuple[int, ...] = ()
    """Actions of the periods in their order."""

    def __post_init__(self) -> None:
        self.begin()

    @property
    def label(self) -> str:
        """The name with the periods of its actions, by the action's number."""
        marks = [f"{period}:{int(action)}" for period, action in enumerate(self.actions) if action]
        return f"{self.name}({' '.join(marks)})"

    def begin(self) -> None:
        self._period = 0

    def act(self, observation: NDArray[np.float32]) -> int:
        """The action of the period that begins."""
        period = self._period
        self._period += 1
        return self.actions[period] if period < len(self.actions) else UpdateAction.KEEP
