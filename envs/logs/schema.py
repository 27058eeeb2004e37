"""The interaction log: one typed, columnar object that every loader returns and every fit takes."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.errors import LogError

COLUMNS = (
    *("user", "item", "timestamp", "clicked", "rating", "request", "position"),
    *("watch_seconds", "random_exposure", "propensity"),
)
"""Columns of a log, one value a row; the last three may be missing."""
VISIT_GAP_SECONDS = 3_600
"""A pause of more than an hour between two events of a user begins a new visit."""


@dataclass(frozen=True, kw_only=True)
class Users:
    """Public attributes of U users; a user's index is its place in these arrays."""

    user_ids: NDArray[np.str_]
    """[U] names of the users in the log."""
    feature_names: tuple[str, ...]
    """Names of the columns of `features`."""
    features: NDArray[np.float32]
    """[U, Fu] attributes as numbers of order one (age in centuries, one-hot gender, ...); Fu may be 0."""

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclass(frozen=True, kw_only=True)
class InteractionLog:
    """R rows in order of user, then time, then place in the file.

    A row is an item consumed (`clicked`) or, where the log has exposures, shown and passed over. `where` and
    `from_rows` keep the order and all columns.
    """

    name: str
    """Name of the data set."""
    users: Users
    catalogue: Catalogue
    user: NDArray[np.int32]
    """[R] index into `users`."""
    item: NDArray[np.int32]
    """[R] index into `catalogue`."""
    timestamp: NDArray[np.int64]
    """[R] seconds since 1970, UTC."""
    clicked: NDArray[np.bool_]
    """[R] True where the item was consumed, False where it was shown and passed over."""
    rating: NDArray[np.float32]
    """[R] rating in the log's own unit (stars), NaN where there is none."""
    request: NDArray[np.int64]
    """[R] number that rows of one slate share, -1 where the log has no exposures."""
    position: NDArray[np.int16]
    """[R] slot in the slate, 0 at the top, -1 where unknown."""
    watch_seconds: NDArray[np.float32] | None = None
    """[R] seconds that the item was watched, NaN where unknown; None where the log tells of none."""
    random_exposure: NDArray[np.bool_] | None = None
    """[R] whether the item was shown at random, not by a recommender; None where the log does not tell."""
    propensity: NDArray[np.float32] | None = None
    """[R] chance with which the policy put the item into its slot, given the slots above it, NaN where unknown; None where the
    log tells of none."""
    has_repeats: bool = False
    """Whether a user may consume an item more than once."""
    skipped_rows: int = 0
    """Corrupt rows that the loader left out because it was told to."""

    def __post_init__(self) -> None:
        rows = len(self.user)
        for name in COLUMNS[1:]:
            if getattr(self, name) is not None and len(getattr(self, name)) != rows:
                raise LogError(f"log '{self.name}': column '{name}' has {len(getattr(self, name))} rows, not {rows}.")
        for name, count in (("user", len(self.users)), ("item", len(self.catalogue))):
            column = getattr(self, name)
            if rows and (column.min() < 0 or column.max() >= count):
                row = int(np.argmax((column < 0) | (column >= count)))
                raise LogError(
                    f"log '{self.name}': row {row} has {name} {column[row]}, but {name}s are numbered 0 to {count - 1}."
                )
        if rows:
            later = self.timestamp[1:] >= self.timestamp[:-1]
            order = (self.user[1:] > self.user[:-1]) | ((self.user[1:] == self.user[:-1]) & later)
            if not order.all():
                raise LogError(
                    f"log '{self.name}': row {int(np.argmin(order)) + 1} is out of order; sort by user, time."
                )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def has_exposures(self) -> bool:
        """Whether the log tells what was shown and passed over."""
        return bool((~self.clicked).any())

    @cached_property
    def user_starts(self) -> NDArray[np.int64]:
        """[U + 1] first row of each user, and the number of rows last."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1)).astype(np.int64)

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """[R] number of the row among its user's rows, from 0."""
        return np.arange(len(self)) - self.user_starts[self.user]

    @cached_property
    def visit(self) -> NDArray[np.int32]:
        """[R] number of the visit among its user's visits, from 0; a pause of more than an hour begins a new one."""
        if not len(self):
            return np.zeros(0, np.int32)
        begins = np.diff(self.timestamp, prepend=self.timestamp[:1]) > VISIT_GAP_SECONDS
        begins[self.place == 0] = False
        total = np.cumsum(begins)
        return (total - total[self.user_starts[self.user]]).astype(np.int32)

    @cached_property
    def place_in_visit(self) -> NDArray[np.int64]:
        """[R] number of the row within its visit, from 0."""
        if not len(self):
            return np.zeros(0, np.int64)
        begins = (self.place == 0) | (np.diff(self.visit, prepend=self.visit[:1]) != 0)
        return np.arange(len(self)) - np.maximum.accumulate(np.where(begins, np.arange(len(self)), 0))

    def where(self, rows: NDArray[np.bool_]) -> "InteractionLog":
        """The log of the rows for which `rows` [R] is True; users and catalogue stay whole, so indices stay valid."""
        known = [name for name in COLUMNS if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name)[rows] for name in known})

    def consumed(self) -> "InteractionLog":
        """The log of clicked rows only."""
        return self.where(self.clicked)

    def item_counts(self) -> NDArray[np.int64]:
        """[I] how often each item was consumed."""
        return np.bincount(self.item[self.clicked], minlength=len(self.catalogue))

    @classmethod
    def from_rows(
        cls,
        *,
        name: str,
        users: Users,
        catalogue: Catalogue,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        timestamp: NDArray[np.int64],
        clicked: NDArray[np.bool_] | None = None,
        rating: NDArray[np.float32] | None = None,
        request: NDArray[np.int64] | None = None,
        position: NDArray[np.int16] | None = None,
        watch_seconds: NDArray[np.float32] | None = None,
        random_exposure: NDArray[np.bool_] | None = None,
        propensity: NDArray[np.float32] | None = None,
        skipped_rows: int = 0,
    ) -> "InteractionLog":
        """Sorts rows of any order by user and time (ties in the given order) and fills in missing columns."""
        rows = len(user)
        order = _order(user, timestamp)

        def ordered(column: NDArray, kind: type) -> NDArray:
            return column.astype(kind) if order is None else column[order].astype(kind, copy=False)

        clicked = np.ones(rows, bool) if clicked is None else clicked
        return cls(
            name=name,
            users=users,
            catalogue=catalogue,
            user=ordered(user, np.int32),
            item=ordered(item, np.int32),
            timestamp=ordered(timestamp, np.int64),
            clicked=ordered(clicked, np.bool_),
            rating=np.full(rows, np.nan, np.float32) if rating is None else ordered(rating, np.float32),
            request=np.full(rows, -1, np.int64) if request is None else ordered(request, np.int64),
            position=np.full(rows, -1, np.int16) if position is None else ordered(position, np.int16),
            watch_seconds=None if watch_seconds is None else ordered(watch_seconds, np.float32),
            random_exposure=None if random_exposure is None else ordered(random_exposure, np.bool_),
            propensity=None if propensity is None else ordered(propensity, np.float32),
            has_repeats=_has_repeats(user, item, clicked, len(catalogue)),
            skipped_rows=skipped_rows,
        )


def _order(user: NDArray[np.int32], timestamp: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """[R] the rows by user, time and given place; None where they stand so already."""
    if not len(user):
        return None
    first = int(timestamp.min())
    span = int(timestamp.max()) - first + 1
    if int(user.max()) + 1 > np.iinfo(np.int64).max // span:
        return np.lexsort((timestamp, user))
    # one key of both: its stable sort makes use of rows that come user by user, and needs no memory for the places
    key = user.astype(np.int64)
    key *= span
    key += timestamp
    key -= first
    return None if (key[1:] >= key[:-1]).all() else np.argsort(key, kind="stable")


def _has_repeats(user: NDArray[np.int32], item: NDArray[np.int32], clicked: NDArray[np.bool_], num_items: int) -> bool:
    """Whether a user consumed an item more than once."""
    pair = user.astype(np.int64)
    pair *= num_items
    pair += item
    if not clicked.all():
        pair = pair[clicked]
    pair.sort()
    return bool((pair[1:] == pair[:-1]).any())
