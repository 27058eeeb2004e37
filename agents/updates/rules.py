"""Update policies that follow a calendar, and the contract that they share with the learnt one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.updates.monitoring import Monitoring, UpdateAction
from envs.errors import ConfigurationError


class UpdatePolicy(Protocol):
    """Decides each morning what is done to the models."""

    def act(self, observation: NDArray[np.float32]) -> int:
        """The action for an observation [S] of `driftrec/ModelUpdate-v0`."""
        ...


@dataclass(frozen=True)
class Never:
    """Keeps the models of day 0."""

    def act(self, observation: NDArray[np.float32]) -> int:
        """Always keep."""
        return UpdateAction.KEEP


@dataclass(frozen=True)
class EveryDays:
    """Updates as soon as the last update is `days` days old."""

    days: int
    """Days between two updates; 1 is daily (from the second day on: on the first there is nothing to learn)."""
    action: UpdateAction = UpdateAction.FULL_RETRAIN
    """What an update is."""

    def act(self, observation: NDArray[np.float32]) -> int:
        """The update when it is due, else keep."""
        monitoring = Monitoring.from_array(observation)
        due = min(monitoring.recall_age, monitoring.ranker_age) > self.days - 0.5
        return self.action if due else UpdateAction.KEEP


RULES: dict[str, Callable[[], UpdatePolicy]] = {
    "never": Never,
    "daily": lambda: EveryDays(1),
    "every 3 days": lambda: EveryDays(3),
    "daily incremental": lambda: EveryDays(1, UpdateAction.UPDATE_BOTH),
    "every 3 days incremental": lambda: EveryDays(3, UpdateAction.UPDATE_BOTH),
}
"""Rules by name; an update is a full refit where the name does not say otherwise."""
DEFAULT_RULES = ("never", "daily", "every 3 days")
"""The rules that are compared unless others are asked for."""


def rule(name: str) -> UpdatePolicy:
    """The rule called `name`.

    Raises:
        ConfigurationError: if there is none.
    """
    if name not in RULES:
        raise ConfigurationError(f"there is no update rule '{name}'; choose from {', '.join(RULES)}.")
    return RULES[name]()
