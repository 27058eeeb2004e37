"""The contract of a recall channel: one way to find candidates in the whole catalogue."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import CatalogueListener, RecallRequest
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.settings import with_settings
from recall.files import load_recall, write_mapped


class RecallChannel(CatalogueListener, ABC):
    """Finds items for users. A channel of your own needs `name`, `fit` and `recall`.

    `fit` learns from the policy's log; what is learnt stands in attributes that end in `_`: arrays, or plain numbers. A
    channel whose log goes on hears of it by `update`, and of births and retirements by `items_changed`.
    """

    name: ClassVar[str]
    """Name in configurations, tables and reports."""
    config_type: ClassVar[type | None] = None
    """Dataclass of the channel's settings; None where it has none."""

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        """Stores the settings (those of `config_type()` where None) and the seed of everything random."""
        self.config = self.config_type() if config is None and self.config_type else config
        self.seed = seed

    @abstractmethod
    def fit(self, log: InteractionLog) -> Self:
        """Learns from `log`, forgetting all that was learnt before."""

    @abstractmethod
    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Finds items for N requests.

        Returns:
            (items [N, n], scores [N, n]), best first, -1 and 0 where there are fewer. No item stands twice in a row, and none
            is among the request's `excluded` ones. A row depends on its own request only.
        """

    def update(self, events: InteractionLog) -> None:
        """Takes in new rows of the same users and catalogue, if the channel learns from them."""

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Takes in births and retirements. Requests exclude what is not on offer, so a channel may ignore them."""

    def score(self, request: RecallRequest, items: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """[N, C] scores of any items [N, C] (those of -1 mean nothing), on the scale of `recall`'s; None where it has none."""
        return None

    def save(self, path: Path) -> None:
        """Writes what was learnt, whole or not at all."""
        write_mapped(path, f"recall channel {self.name}", *self.state())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ArtefactError: if the file is missing, damaged or holds something else.
        """
        arrays, settings = load_recall(path, f"recall channel {cls.name}")
        return cls.from_state(arrays, settings, path)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings that JSON can hold): all that `from_state` needs.

        Raises:
            ConfigurationError: if a learnt attribute is neither an array nor a number, so that it would be lost.
        """
        learnt = {name: value for name, value in vars(self).items() if name.endswith("_") and not name.startswith("_")}
        arrays = {name: value for name, value in learnt.items() if isinstance(value, np.ndarray)}
        numbers = {name: value for name, value in learnt.items() if name not in arrays}
        for name, value in numbers.items():
            if not isinstance(value, int | float | str | bool):
                raise ConfigurationError(
                    f"channel '{self.name}' keeps '{name}', a {type(value).__name__}, which would be lost when it is saved; "
                    "keep arrays and numbers, or override state and from_state."
                )
        config = None if self.config is None else asdict(self.config)
        return arrays, {"config": config, "seed": self.seed, "numbers": numbers}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], path: Path) -> Self:
        """The channel whose `state` this was; `path` is named where a part is missing.

        Raises:
            ArtefactError: if a part is missing or of another kind.
        """
        try:
            own = (
                with_settings(cls.config_type(), settings["config"], f"channel '{cls.name}'")
                if cls.config_type
                else None
            )
            channel = cls(own, settings["seed"])
            channel.take(arrays, settings)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ConfigurationError) as error:
            raise ArtefactError(f"'{path}' lacks a part of channel '{cls.name}' ({error}); make it again.") from error
        return channel

    def take(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        for name, value in {**arrays, **settings["numbers"]}.items():
            setattr(self, name, value)
        self.restored()

    def restored(self) -> None:
        """Makes what follows from the learnt attributes; called when they were read from a file."""


def check_same_shape(name: str, events: InteractionLog, num_users: int, num_items: int) -> None:
    """Refuses events that number other users or items than the fitted log did.

    Raises:
        ConfigurationError: if they do.
    """
    if (len(events.users), len(events.catalogue)) != (num_users, num_items):
        raise ConfigurationError(
            f"events of {len(events.users)} users and {len(events.catalogue)} items cannot update channel '{name}', which was "
            f"fitted to {num_users} and {num_items}; use the fitted log's users and catalogue."
        )


def with_consumption(name: str, log: InteractionLog) -> InteractionLog:
    """The consumed rows of `log`.

    Raises:
        ConfigurationError: if there are none.
    """
    events = log.consumed()
    if not len(events):
        raise ConfigurationError(f"log '{log.name}' has no consumed rows for channel '{name}' to learn from.")
    return events
