"""Channel: the newest items."""

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.catalogue import SECONDS_PER_DAY
from envs.logs.schema import InteractionLog
from recall.channels.base import RecallChannel
from recall.channels.ranking import ranked, walk


class Fresh(RecallChannel):
    """Items born last, of those that a request allows (which are born); of one birth, those consumed most in the log first."""

    name: ClassVar[str] = "fresh"
    birth_days_: NDArray[np.float64]
    """[I] days from the log's last row to the item's birth: negative for items born before."""
    counts_: NDArray[np.int64]
    """[I] consumptions, which order items of one birth."""

    def fit(self, log: InteractionLog) -> Self:
        """Reads births off the catalogue."""
        last = int(log.timestamp.max(initial=0))
        self.birth_days_ = (log.catalogue.birth - last) / SECONDS_PER_DAY
        self.counts_ = log.item_counts()
        self.restored()
        return self

    def update(self, events: InteractionLog) -> None:
        """Counts consumptions."""
        self.counts_ = self.counts_ + events.item_counts()
        self.restored()

    def recall(self, request: RecallRequest, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The newest items that a request allows; scores are `birth_days_`."""
        return walk(self._ranking, self.birth_days_, request, n)

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Ranks what is on offer."""
        self.restored()

    def restored(self) -> None:
        """Ranks the items on offer by birth, then by count."""
        place = np.empty(len(self.counts_))
        place[np.lexsort((np.arange(len(place)), -self.counts_, -self.birth_days_))] = np.arange(len(place))
        self._ranking = ranked(-place, self.offered)
