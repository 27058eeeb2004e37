"""The contract of update policies."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from operator import index
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.updates.monitoring import ACTION_CHOICES, UpdateAction
from envs.errors import AgentError
from envs.loading import FromFile, failing_in

UPDATES = (UpdateAction.UPDATE_BOTH, UpdateAction.UPDATE_RANKER, UpdateAction.FULL_RETRAIN)
"""What an update is, for policies that decide when to update but not what that is: one of these, as tuning finds."""


@dataclass(frozen=True, kw_only=True)
class MarketFacts:
    """What is known of a market before any episode, by which policies scale their configurations."""

    periods: int
    """Periods of an episode."""
    visits: float
    """Visits of a period."""
    retrain_price: float
    """Price of the first full retrain, in clicks per visit."""
    budget_price: float
    """Price of the whole budget, in clicks per visit."""


class UpdatePolicy(FromFile, ABC):
    """Decides before each period of traffic what is done to the served models."""

    name: ClassVar[str]

    @classmethod
    def grid(cls, facts: MarketFacts) -> list[Self]:
        """The configurations among which tuning chooses; by default the one that needs no arguments."""
        return [cls()]

    @property
    def label(self) -> str:
        """The name with its settings."""
        if not is_dataclass(self):
            return self.name
        settings = (getattr(self, field.name) for field in fields(self) if field.repr)
        told = [value.name.lower() if isinstance(value, UpdateAction) else f"{value}" for value in settings]
        return f"{self.name}({', '.join(told)})" if told else self.name

    def begin(self) -> None:
        """A new episode begins: forgets what was seen of the last one."""

    @abstractmethod
    def act(self, observation: NDArray[np.float32]) -> int:
        """The action for an observation [S] of `driftrec/ModelUpdate-v0`; an invalid one counts as keep."""

    def act_among(self, observation: NDArray[np.float32], mask: NDArray[np.int8]) -> int:
        """The action for an observation [S] where those with 1 in `mask` [A] are valid; by default that of `act`."""
        return self.act(observation)


def decide(policy: UpdatePolicy, observation: NDArray[np.float32], mask: NDArray[np.int8]) -> UpdateAction:
    """What a policy chooses for an observation [S] where those with 1 in `mask` [A] are valid.

    Raises:
        AgentError: if what the policy returns is no action, or a user's policy fails.
    """
    try:
        chosen = policy.act_among(observation, mask)
    except Exception as error:
        if type(policy).__module__.startswith("agents."):
            raise
        raise AgentError(failing_in("update policy", policy, "act", error) + ".") from error
    try:
        return UpdateAction(index(chosen))
    except (TypeError, ValueError) as error:
        raise AgentError(
            f"update policy '{policy.name}' returned the action {chosen!r}; choose from {ACTION_CHOICES}."
        ) from error
