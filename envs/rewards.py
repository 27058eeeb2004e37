"""What a request earns: a scalar for each user, made of what was seen of its answer.

`RewardWeights` (in `envs.measures`) is the reward of driftrec; another is a class with one method, `of`, also in a user's own file.
docs/worlds.md shows one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.errors import ConfigurationError, DriftrecError
from envs.loading import FromFile, Kind, failing_in, made_from


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What N requests brought; nothing of it is hidden from policies."""

    engagement: NDArray[np.float32]
    """[N] 1 where an item was consumed, else 0."""
    diversity: NDArray[np.float32]
    """[N] distance (0 to 1) of what was consumed from the last items consumed; 0 where nothing was."""
    freshness: NDArray[np.float32]
    """[N] 1 where what was consumed is younger than the run's `fresh_days`, else 0."""
    rating: NDArray[np.float32]
    """[N] rating, or seconds watched; NaN where nothing was consumed or the log tells neither."""
    item: NDArray[np.int32]
    """[N] item consumed, -1 for none."""
    slot: NDArray[np.int64]
    """[N] its slot, 0 at the top, -1 for none or where it is not decided yet (see `envs.hidden_state.HiddenState.payoff`)."""
    slates: NDArray[np.int32]
    """[N, K] items shown, -1 for an empty slot."""
    left: NDArray[np.bool_]
    """[N] whether the user left the visit after the request."""
    catalogue: Catalogue
    """Of the items."""

    def __len__(self) -> int:
        return len(self.engagement)


class Reward(FromFile, ABC):
    """Base of all rewards; one of a user's file is made without arguments and holds nothing that changes."""

    @abstractmethod
    def of(self, parts: Parts) -> NDArray[np.floating[Any]]:
        """[N] finite numbers: what each of N requests earned."""


REWARD = Kind(
    name="reward",
    wanted="a subclass of envs.rewards.Reward",
    error=ConfigurationError,
    known={"weights": "envs.measures:RewardWeights"},
)
"""Rewards that come with driftrec, and how others are found."""


def reward_from(spec: str) -> Reward:
    """The reward that `spec` names: 'weights' with their defaults, or 'path/to/file.py:Class'.

    Raises:
        ConfigurationError: if there is no such name, file or class, the class is no reward, lacks `of`, or cannot be made without
            arguments.
    """
    found: Any = REWARD.find(spec)
    path, _, class_name = spec.rpartition(":")
    of: Any = getattr(found, "of", None)
    if not callable(of) or getattr(of, "__isabstractmethod__", False):
        raise ConfigurationError(
            f"class '{class_name}' in '{path}' lacks the method of(self, parts), which returns what each request earned [N]; "
            "add it."
        )
    if not issubclass(found, Reward):
        raise ConfigurationError(
            f"class '{class_name}' in '{path}' is not a subclass of envs.rewards.Reward; write 'class {class_name}(Reward):' "
            "and import Reward by 'from envs.rewards import Reward'."
        )
    return made_from(REWARD, spec, found)


def earned(reward: Reward, parts: Parts) -> NDArray[np.float64]:
    """[N] what requests earned.

    Raises:
        ConfigurationError: if a reward of a user's own fails, or returns another shape or numbers that are not finite.
    """
    try:
        values = np.asarray(reward.of(parts))
    except DriftrecError:
        raise
    except Exception as error:
        if type(reward).__module__.partition(".")[0] == "envs":
            raise
        raise ConfigurationError(failing_in("reward", reward, "of", error)) from error
    numbers = np.issubdtype(values.dtype, np.number) or values.dtype == bool
    if values.shape != (len(parts),) or not numbers or not np.isfinite(values).all():
        fault = (
            "a number that is not finite"
            if numbers and values.shape == (len(parts),)
            else f"{values.dtype} {values.shape}"
        )
        raise ConfigurationError(
            f"reward '{type(reward).__name__}': of returned {fault}; it must return {len(parts)} finite numbers, one for each "
            "request."
        )
    return values.astype(np.float64)
