"""Channel: what was consumed most of late."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from recall.channels.base import RecallChannel, check_same_shape, with_consumption
from recall.channels.ranking import ranked, walk


@dataclass(frozen=True, kw_only=True)
class PopularConfig:
    """How popularity fades."""

    half_life_days: float = 14.0
    """Days after which a consumption counts half."""

    def __post_init__(self) -> None:
        if not self.half_life_days > 0:
            raise ConfigurationError(f"half_life_days is {self.half_life_days}; it must be positive.")


class Popular(RecallChannel):
    """Items of the largest sum of 2^(-age of the consumption / half-life), the same for everybody."""

    name: ClassVar[str] = "popular"
    config_type: ClassVar[type] = PopularConfig
    config: PopularConfig
    popularity_: NDArray[np.float64]
    """[I] decayed counts at `latest_`."""
    latest_: int
    """Time of the last row so far, seconds since 1970."""
    num_users_: int
    """Users of the fitted log."""

    def fit(self, log: InteractionLog) -> Self:
        """Counts the consumed rows of `log`."""
        events = with_consumption(self.name, log)
        self.num_users_ = len(log.users)
        self.latest_ = int(events.timestamp.max())
        self.popularity_ = self._counts(events)
        self.restored()
        return self

    def update(self, events: InteractionLog) -> None:
        """Lets what was counted fade and adds `events`, whenever they were."""
        check_same_shape(self.name, events, self.num_users_, len(self.popularity_))
        events = events.consumed()
        if len(events):
            before, self.latest_ = self.latest_, max(self.latest_, int(events.timestamp.max()))
            self.popularity_ *= 2.0 ** (-(self.latest_ - before) / SECONDS_PER_DAY / self.config.half_life_days)
            self.popularity_ += self._counts(events)
            self.restored()

    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The most popular items that a request allows."""
        return walk(self._ranking, self.popularity_, request, n)

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Ranks what is on offer."""
        self.restored()

    def restored(self) -> None:
        """Ranks the items on offer by what was counted."""
        self._ranking = ranked(self.popularity_, self.offered)

    def _counts(self, events: InteractionLog) -> NDArray[np.float64]:
        days = (self.latest_ - events.timestamp) / SECONDS_PER_DAY
        weight = 2.0 ** (-days / self.config.half_life_days)
        return np.bincount(events.item, weights=weight, minlength=len(events.catalogue)).astype(np.float64)
