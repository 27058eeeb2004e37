"""What was known before each row of a log: history, time, context, ages, how popular items were. Nothing here looks ahead."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.rankers.ranking_input import RankingInput
from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.logs.schema import InteractionLog


class SoFar:
    """Sums of values over the past of a key: how often an item had been consumed before a moment, and the like.

    Args:
        key: [R] what is summed by, from 0 on.
        timestamp: [R] seconds since 1970.
        value: [R] what is summed.
    """

    def __init__(self, key: NDArray[np.integer], timestamp: NDArray[np.int64], value: NDArray[np.float64]) -> None:
        order = np.lexsort((timestamp, key))
        self._first = int(timestamp.min()) if len(timestamp) else 0
        self._span = (int(timestamp.max()) - self._first + 2) if len(timestamp) else 2
        self._sorted = key[order].astype(np.int64) * self._span + (timestamp[order] - self._first)
        self._sum = np.concatenate([[0.0], np.cumsum(value[order], dtype=np.float64)])

    def before(self, key: NDArray[np.integer], timestamp: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums over rows of `key` (any shape) that are older than `timestamp` (broadcast to it); rows of the same second
        are not."""
        base = key.astype(np.int64) * self._span
        moment = np.clip(timestamp - self._first, 0, self._span - 1)
        return self._sum[np.searchsorted(self._sorted, base + moment)] - self._sum[np.searchsorted(self._sorted, base)]


class LogHistory:
    """The past of each row of a log, as a service would have seen it at that row's time.

    A row's history are the items that its user consumed in rows above it; of a slate (rows that share a request) all rows have
    the history from before the slate. Popularity counts rows of anybody that are older by a second at least. Where events reach
    the service late, or not all of them, histories, activity and popularity tell of those alone that are known by then; what
    a user had consumed (`consumed_by`) is a fact all the same.

    Args:
        log: rows of whom the past is asked; its consumed rows are the past.
        history_size: H, items of a history.
        counts: [I] times consumed before the log begins, by default none: for logs of events that go on from another log.
        counted: [R] rows that popularity may count, by default all: for rows that `counts` has in already.
        earlier: [U] items that each user consumed before the log begins.
        delay: seconds until an event is known; only those as old as this, or older, are.
        known: [R] rows that are ever known, by default all.
    """

    def __init__(
        self,
        log: InteractionLog,
        history_size: int,
        counts: NDArray[np.float64] | None = None,
        counted: NDArray[np.bool_] | None = None,
        earlier: NDArray[np.int64] | None = None,
        *,
        delay: float = 0.0,
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        self.log, self.history_size, self.delay = log, history_size, int(delay)
        """Seconds until an event is known."""
        self._base = np.zeros(len(log.catalogue)) if counts is None else counts
        self._earlier = np.zeros(len(log.users), np.int64) if earlier is None else earlier
        told = log.clicked if known is None else log.clicked & known
        consumed = np.flatnonzero(told)
        self._item, self._time = log.item[consumed], log.timestamp[consumed]
        self._first = np.searchsorted(log.user[consumed], np.arange(len(log.users)))
        self._reached = np.searchsorted(consumed, self.slate_start)
        self._end = self._reached
        if self.delay:
            self._end = np.minimum(self._end, self._ends_by(log.user[consumed], log.timestamp - self.delay))
        popular = told if counted is None else told & counted
        ones = np.ones(int(popular.sum()))
        self._popularity = SoFar(log.item[popular], log.timestamp[popular], ones)
        self._all_times = np.sort(log.timestamp[popular])

    @cached_property
    def slate_start(self) -> NDArray[np.int64]:
        """[R] first row of the slate that each row belongs to; a row that belongs to none is its own."""
        log, rows = self.log, np.arange(len(self.log))
        if not len(log):
            return rows
        same = (np.diff(log.user) == 0) & (np.diff(log.request) == 0) & (log.request[1:] >= 0)
        return np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, rows))

    @cached_property
    def place_in_visit(self) -> NDArray[np.int64]:
        """[R] requests in the visit before the row's own; rows without exposures count one each."""
        starts = np.flatnonzero(self.slate_start == np.arange(len(self.log)))
        visit, user = self.log.visit[starts], self.log.user[starts]
        begins = np.concatenate([[True], (np.diff(visit) != 0) | (np.diff(user) != 0)])[: len(starts)]
        order = np.arange(len(starts))
        place = order - np.maximum.accumulate(np.where(begins, order, 0))
        return place[np.searchsorted(starts, self.slate_start)]

    def _ends_by(self, user: NDArray[np.int32], moment: NDArray[np.int64]) -> NDArray[np.int64]:
        """[R] number of known events, whose users are `user`, of each row's user and those before that lie at its `moment` [R] or
        earlier."""
        log = self.log
        first, last = (int(log.timestamp.min()), int(log.timestamp.max())) if len(log) else (0, 0)
        span = last - first + 2
        keys = user.astype(np.int64) * span + (self._time - first + 1)
        return np.searchsorted(
            keys, log.user.astype(np.int64) * span + np.clip(moment - first + 1, 0, span - 1), side="right"
        )

    @cached_property
    def _consumed_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(sorted keys of (user, item), row of its first consumption)."""
        rows = np.flatnonzero(self.log.clicked)
        keys, first = np.unique(
            self.log.user[rows].astype(np.int64) * len(self.log.catalogue) + self.log.item[rows], return_index=True
        )
        return keys, rows[first]

    def consumed_by(
        self, rows: NDArray[np.int64], items: NDArray[np.int32], *, ever: bool = False
    ) -> NDArray[np.bool_]:
        """[B, C] whether the users of `rows` [B] had consumed `items` [B, C] before those rows, or at any time of the log
        with `ever`."""
        keys, first = self._consumed_pairs
        if not len(keys):
            return np.zeros(items.shape, bool)
        wanted = self.log.user[rows].astype(np.int64)[:, None] * len(self.log.catalogue) + items
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[at] == wanted
        return found if ever else found & (first[at] < self.slate_start[rows][:, None])

    def unread(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] items that the users of `rows` [B] had consumed last, of which nothing is known yet."""
        return self._reached[rows] - self._end[rows]

    def offered(self, rows: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.bool_]:
        """[B, C] whether `items` [B, C] were born and not retired at the time of `rows` [B]."""
        return self.log.catalogue.offered(items, self.log.timestamp[rows][:, None])

    def histories(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [B, H], days since [B, H]) of the histories of `rows` [B], newest first; -1 and 0 where there are fewer."""
        at = self._end[rows][:, None] - 1 - np.arange(self.history_size)
        known = at >= self._first[self.log.user[rows]][:, None]
        at = np.where(known, at, 0)
        if not len(self._item):
            return np.full(at.shape, -1, np.int32), np.zeros(at.shape, np.float32)
        days = (self.log.timestamp[rows][:, None] - self._time[at]) / SECONDS_PER_DAY
        return np.where(known, self._item[at], -1).astype(np.int32), np.where(known, days, 0).astype(np.float32)

    def counts(self, rows: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[B, C] times that `items` [B, C] had been consumed by the time of `rows` [B], over the mean of all items; -1 has 0."""
        now = self.log.timestamp[rows] - self.delay
        own = self._base[items] + self._popularity.before(np.maximum(items, 0), now[:, None])
        total = self._base.sum() + np.searchsorted(self._all_times, now)
        return np.where(items >= 0, relative(own, total[:, None], len(self._base)), 0).astype(np.float32)

    def inputs(self, rows: NDArray[np.int64], items: NDArray[np.int32]) -> RankingInput:
        """The question whether the users of `rows` [B] would take `items` [B, C] at the time of these rows.

        The day of the run is 0, since a log's rows belong to none.
        """
        log = self.log
        now, user = log.timestamp[rows], log.user[rows].astype(np.int64)
        history, history_days = self.histories(rows)
        activity = self._earlier[user] + self._end[rows] - self._first[user]
        context = (
            (now % SECONDS_PER_DAY) / 3_600,
            weekday_of(now),
            self.place_in_visit[rows],
            np.zeros(len(rows)),
        )
        ages = np.maximum(now[:, None] - log.catalogue.birth[items], 0) / SECONDS_PER_DAY
        return RankingInput(
            user=user,
            user_features=np.column_stack([np.log1p(activity) / 10, log.users.features[user]]).astype(np.float32),
            history=history,
            history_days=history_days,
            context=np.column_stack(context).astype(np.float32),
            items=items,
            ages=np.where(items >= 0, ages, 0).astype(np.float32),
            counts=self.counts(rows, items),
        )


def relative(count: NDArray[np.float64], total: NDArray[np.float64] | float, num_items: int) -> NDArray[np.float64]:
    """Times consumed over the mean of all items, both with one added for each item, so that an empty log has ones."""
    return (1 + count) / (1 + total / num_items)
