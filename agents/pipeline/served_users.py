"""What a service keeps of its users: what they consumed and when, to be asked for at any moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from envs.artefacts import content_hash
from envs.catalogue import SECONDS_PER_DAY, Catalogue
from envs.errors import ConfigurationError
from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog, Users


@dataclass(frozen=True)
class UserStates:
    """What is known of N users at their moments of asking."""

    history: NDArray[np.int32]
    """[N, H] items consumed, newest first, -1 where there are fewer."""
    history_days: NDArray[np.float32]
    """[N, H] days since, 0 where there are fewer."""
    excluded: NDArray[np.uint8]
    """[N, ceil(I / 8)] little-endian bits of items that may not be offered."""
    features: NDArray[np.float32]
    """[N, 1 + Fu] see `ServedUsers.features`."""
    place_in_visit: NDArray[np.int64]
    """[N] see `ServedUsers.place_in_visit`."""

    def replaced(self, rows: NDArray[np.int64], by: Self) -> Self:
        """With the states `by` of some users at their `rows`."""
        merged = {}
        for name in (field.name for field in fields(self)):
            merged[name] = getattr(self, name).copy()
            merged[name][rows] = getattr(by, name)
        return type(self)(**merged)


@dataclass(frozen=True, kw_only=True)
class ServedUsers:
    """Consumed items of U known users, in order of user and time; and what is public of users and items."""

    users: Users
    catalogue: Catalogue
    user: NDArray[np.int32]
    """[E] index into `users`."""
    item: NDArray[np.int32]
    """[E] index into `catalogue`."""
    timestamp: NDArray[np.int64]
    """[E] seconds since 1970."""
    has_repeats: bool
    """Whether an item may be recommended that was consumed before."""

    @classmethod
    def of(cls, log: InteractionLog) -> Self:
        """The users of a log, with all that they consumed."""
        events = log.consumed()
        return cls(
            users=log.users,
            catalogue=log.catalogue,
            user=events.user,
            item=events.item,
            timestamp=events.timestamp,
            has_repeats=log.has_repeats,
        )

    def followed_by(self, events: InteractionLog) -> Self:
        """With the consumed rows of `events`, of the same users and catalogue, added.

        Raises:
            ConfigurationError: if the events number other users or items.
        """
        if (len(events.users), len(events.catalogue)) != (len(self.users), len(self.catalogue)):
            raise ConfigurationError(
                f"events of {len(events.users)} users and {len(events.catalogue)} items cannot update a pipeline of "
                f"{len(self.users)} and {len(self.catalogue)}; use the fitted log's users and catalogue."
            )
        new = events.consumed()
        user = np.concatenate([self.user, new.user])
        item = np.concatenate([self.item, new.item])
        timestamp = np.concatenate([self.timestamp, new.timestamp])
        order = np.lexsort((timestamp, user))
        return type(self)(
            users=self.users,
            catalogue=self.catalogue,
            user=user[order],
            item=item[order],
            timestamp=timestamp[order],
            has_repeats=self.has_repeats,
        )

    def guests(self, histories: Mapping[str, Sequence[tuple[str, int]]]) -> Self:
        """People whom the log does not know, with what they consumed elsewhere and the mean attributes of its users.

        Args:
            histories: id of the person -> (id of the item, seconds since 1970) of each consumption, in any order.

        Raises:
            ConfigurationError: if the log knows a person, or does not know an item.
        """
        names = [str(name) for name in histories]
        known = [name for name in names if name in self._number]
        if known:
            raise ConfigurationError(
                f"a history is given for user '{known[0]}', whose history the pipeline keeps; hand new events of known users "
                "to `update`."
            )
        rows = [
            (guest, str(item), int(second))
            for guest, history in enumerate(histories.values())
            for item, second in sorted(history, key=lambda event: event[1])
        ]
        for guest, item, _ in rows:
            if item not in self._item_number:
                raise ConfigurationError(
                    f"the history of user '{names[guest]}' has the item '{item}', which the log does not name; leave it out."
                )
        return type(self)(
            users=Users(
                user_ids=np.array(names, np.str_),
                feature_names=self.users.feature_names,
                features=np.tile(self._mean_features, (len(names), 1)),
            ),
            catalogue=self.catalogue,
            user=np.array([guest for guest, _, _ in rows], np.int32),
            item=np.array([self._item_number[item] for _, item, _ in rows], np.int32),
            timestamp=np.array([second for _, _, second in rows], np.int64),
            has_repeats=self.has_repeats,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of who the users are."""
        return content_hash({"users": self.users.user_ids}, {"features": list(self.users.feature_names)})

    @cached_property
    def last_second(self) -> int:
        """Seconds since 1970 of the last event known, 0 where there is none."""
        return int(self.timestamp.max(initial=0))

    @cached_property
    def item_names(self) -> NDArray[np.str_]:
        """[I] ids of the items, as the log names them."""
        return self.catalogue.item_ids.astype(np.str_)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.searchsorted(self.user, np.arange(len(self.users) + 1)).astype(np.int64)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self.users.user_ids)}

    @cached_property
    def _mean_features(self) -> NDArray[np.float32]:
        return self.users.features.mean(axis=0)

    @cached_property
    def _item_number(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self.catalogue.item_ids)}

    def states(self, user: NDArray[np.int64], now: NDArray[np.int64], size: int) -> UserStates:
        """All that is known of users [N], -1 for strangers, at `now` [N]; histories of `size` items."""
        return UserStates(
            *self.history(user, now, size),
            excluded=self.excluded(user, now),
            features=self.features(user),
            place_in_visit=self.place_in_visit(user, now),
        )

    def numbers(self, user_ids: list[str]) -> NDArray[np.int64]:
        """[N] indices of users by the ids that the log gave them, -1 for strangers."""
        return np.array([self._number.get(name, -1) for name in user_ids], np.int64)

    def features(self, user: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N, 1 + Fu] public: log(1 + items consumed) / 10, then the log's attributes; of strangers the mean attributes."""
        known = np.maximum(user, 0)
        count = np.where(user >= 0, np.diff(self._ends)[known], 0)
        own = self.users.features[known].astype(np.float32)
        if (user < 0).any():
            own[user < 0] = self._mean_features
        return np.column_stack([np.log1p(count) / 10, own]).astype(np.float32)

    def _rows(self, user: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """([N, size] rows of what users last consumed, newest first; [N, size] whether there is such a row)."""
        known = np.maximum(user, 0)
        rows = self._ends[known + 1, None] - 1 - np.arange(size)
        exists = (rows >= self._ends[known, None]) & (user >= 0)[:, None]
        return np.where(exists, rows, 0), exists

    def history(
        self, user: NDArray[np.int64], now: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, size], days since [N, size]), newest first; -1 and 0 where there are fewer.

        Args:
            user: [N] indices, -1 for strangers.
            now: [N] seconds since 1970.
            size: H.
        """
        rows, exists = self._rows(user, size)
        if not len(self.item):
            return np.full(rows.shape, -1, np.int32), np.zeros(rows.shape, np.float32)
        days = np.maximum(now[:, None] - self.timestamp[rows], 0) / SECONDS_PER_DAY
        return np.where(exists, self.item[rows], -1).astype(np.int32), np.where(exists, days, 0).astype(np.float32)

    def place_in_visit(self, user: NDArray[np.int64], now: NDArray[np.int64], most: int = 64) -> NDArray[np.int64]:
        """[N] items consumed so far in the visit that goes on `now`, `most` at most; an hour's pause ends a visit."""
        rows, exists = self._rows(user, most)
        if not len(self.item):
            return np.zeros(len(user), np.int64)
        times = np.where(exists, self.timestamp[rows], np.iinfo(np.int64).min // 2)
        pauses = np.diff(np.column_stack([now, times]), axis=1)
        return np.cumprod((-pauses <= VISIT_GAP_SECONDS) & exists, axis=1).sum(axis=1)

    def excluded(self, user: NDArray[np.int64], now: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[N, ceil(I / 8)] little-endian bits of items that may not be offered: consumed before, not yet born, retired."""
        catalogue, rows = self.catalogue, np.arange(len(user))
        closed = catalogue.birth[None] > now[:, None]
        if catalogue.retired is not None:
            closed |= catalogue.retired[None] <= now[:, None]
        if not self.has_repeats:
            known = np.flatnonzero(user >= 0)
            first, end = self._ends[user[known]], self._ends[user[known] + 1]
            which = np.repeat(rows[known], end - first)
            row = np.arange(len(which)) + np.repeat(first - np.cumsum(end - first) + (end - first), end - first)
            closed[which, self.item[row]] = True
        return np.packbits(closed, axis=1, bitorder="little")
