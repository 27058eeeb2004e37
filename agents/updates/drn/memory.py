"""What DRN remembers of the requests that it served, linked user by user: the newest of them, in a ring of arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN, NOTHING = -1, -2
"""In `Memory.following`: nothing is known to follow yet, and nothing will."""


@dataclass(frozen=True)
class Remembered:
    """M requests with what came of them."""

    rows: NDArray[np.float32]
    """[M, W] flat rows."""
    places: NDArray[np.int64]
    """[M, K] candidates that were shown."""
    shown: NDArray[np.bool_]
    """[M, K] whether the slot held an item."""
    earned: NDArray[np.float32]
    """[M, K] what each slot earned."""
    active: NDArray[np.float32]
    """[M] activeness of the user at the next request, 0 where there is none."""
    next_rows: NDArray[np.float32]
    """[M, W] the user's next requests; zeros where there is none."""
    goes_on: NDArray[np.bool_]
    """[M] whether there is one."""


class Memory:
    """A ring of the newest requests; a request goes by its number, counted from the first ever served.

    Args:
        size: requests to keep.
        width: W, numbers of a flat row.
        slots: K.
    """

    def __init__(self, size: int, width: int, slots: int) -> None:
        self.size, self.served = size, 0
        self.rows = np.zeros((size, width), np.float32)
        self.user = np.zeros(size, np.int64)
        self.days = np.zeros(size)
        """Clock of each request, in days."""
        self.places = np.zeros((size, slots), np.int64)
        self.items = np.full((size, slots), -1, np.int32)
        """-1 for an empty slot."""
        self.credits = np.zeros((size, slots), np.float32)
        """Of the rival, see `interleaved`."""
        self.duel = np.zeros(size, np.int64)
        """Number of the rival that took part, -1 for none."""
        self.waiting = np.zeros(size, bool)
        """Whether an answer may still come."""
        self.answered = np.zeros(size, bool)
        self.earned = np.zeros((size, slots), np.float32)
        self.active = np.zeros(size, np.float32)
        """Activeness of the user at the next request."""
        self.following = np.full(size, UNKNOWN, np.int64)
        """Number of the user's next request, `UNKNOWN` or `NOTHING`."""
        self.latest = np.zeros(0, np.int64)
        """[U] number of each user's last request, `UNKNOWN` where none is to be linked."""

    def add(
        self, user: NDArray[np.int64], activeness: NDArray[np.floating], **columns: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Remembers N requests (at most `size`) and links each to the one before of the same user.

        Args:
            user: [N].
            activeness: [N] of the users, right after they asked.
            columns: rows, days, places, items, credits and duel, [N, ...] each.

        Returns:
            [N] their numbers.
        """
        numbers = self.served + np.arange(len(user))
        self.served += len(user)
        self._grow(int(user.max(initial=-1)) + 1)
        before = self.latest[user]
        kept = before >= self.served - self.size
        at = before[kept] % self.size
        open_still = self.following[at] == UNKNOWN
        self.following[at[open_still]] = numbers[kept][open_still]
        self.active[at[open_still]] = activeness[kept][open_still]
        self.latest[user] = numbers
        at = numbers % self.size
        for name, column in {"user": user, **columns}.items():
            getattr(self, name)[at] = column
        self.waiting[at], self.answered[at], self.earned[at] = True, False, 0
        self.active[at], self.following[at] = 0, UNKNOWN
        return numbers

    def answer(self, numbers: NDArray[np.int64], earned: NDArray[np.floating]) -> None:
        """Takes in what each slot of requests `numbers` [M] earned [M, K]."""
        at = numbers % self.size
        self.waiting[at], self.answered[at], self.earned[at] = False, True, earned

    def end(self, user: NDArray[np.int64]) -> None:
        """Nothing follows on the last requests of users `user` [M]: they have left for good."""
        self.following[self.latest[user] % self.size] = NOTHING
        self.latest[user] = UNKNOWN

    def close(self) -> None:
        """Forgets who is who and what is not answered, as other users are served from now on; answers on which nothing followed so
        far are dropped."""
        self.latest[:] = UNKNOWN
        self.waiting[:] = False
        self.answered &= self.following != UNKNOWN

    def unanswered(self) -> NDArray[np.int64]:
        """Numbers of the requests whose answers may still come, oldest first."""
        numbers = self.numbers()
        return numbers[self.waiting[numbers % self.size]]

    def learnable(self, absent_since: float) -> NDArray[np.int64]:
        """Numbers of answered requests of which it is known what followed: another request, the end, or nothing for so long that
        `absent_since`, in days, lies behind the request."""
        numbers = self.numbers()
        at = numbers % self.size
        settled = (self.following[at] != UNKNOWN) | (self.days[at] <= absent_since)
        return numbers[self.answered[at] & settled]

    def take(self, numbers: NDArray[np.int64]) -> Remembered:
        """What is remembered of requests `numbers` [M]."""
        at = numbers % self.size
        following = self.following[at]
        goes_on = following >= 0
        next_rows = np.where(goes_on[:, None], self.rows[following % self.size], np.float32(0))
        return Remembered(
            rows=self.rows[at],
            places=self.places[at],
            shown=self.items[at] >= 0,
            earned=self.earned[at],
            active=np.where(goes_on, self.active[at], np.float32(0)),
            next_rows=next_rows,
            goes_on=goes_on,
        )

    def numbers(self) -> NDArray[np.int64]:
        """Numbers of all that is remembered, oldest first."""
        return np.arange(max(0, self.served - self.size), self.served)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that it goes on from; places in the ring that were never filled are left out."""
        filled = min(self.served, self.size)
        ring = {name: getattr(self, name)[:filled] for name in self._columns()}
        return {**ring, "latest": self.latest, "served": np.array(self.served)}

    def take_back(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from what `arrays` gave.

        Raises:
            KeyError, ValueError: if a part is missing or of another shape.
        """
        self.served, self.latest = int(arrays["served"]), arrays["latest"].copy()
        filled = min(self.served, self.size)
        for name in self._columns():
            column = getattr(self, name)
            if arrays[name].shape != (filled, *column.shape[1:]):
                raise ValueError(f"the remembered '{name}' are of shape {arrays[name].shape}")
            column[:filled] = arrays[name]

    def _columns(self) -> tuple[str, ...]:
        own = ("rows", "user", "days", "places", "items", "credits", "duel")
        return (*own, "waiting", "answered", "earned", "active", "following")

    def _grow(self, users: int) -> None:
        if users > len(self.latest):
            self.latest = np.concatenate([self.latest, np.full(users - len(self.latest), UNKNOWN)])
