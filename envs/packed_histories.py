"""Histories from before a life, in as few bytes as lose nothing.

A history is a row of numbers, from its newest event back: the whole seconds until the next event (of the newest: until the life
begins), then the item. A number takes a byte for each seven of its bits (LEB128), so an event of an ongoing visit takes three
or four bytes, where the arrays that it is unpacked to take eight and a bit for each item of the catalogue.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs import request_kernels
from envs.compiled import over_rows

_BITS = 7


@dataclass(frozen=True)
class PackedHistories:
    """Histories of N users."""

    size: NDArray[np.unsignedinteger]
    """[N] bytes of each."""
    coded: NDArray[np.uint8]
    """[B] user by user."""

    @classmethod
    def of(
        cls,
        start: NDArray[np.float64],
        user: NDArray[np.int64],
        item: NDArray[np.int32],
        clock: NDArray[np.float64],
    ) -> "PackedHistories":
        """Packs what users consumed: `item` [M] at `clock` [M], whole seconds, user by user and in order of time; `user` [M] is
        a row of `start` [N], the clocks at which their lives begin."""
        newest_first = np.lexsort((-np.arange(len(user)), user))
        user, item, clock = user[newest_first], item[newest_first], clock[newest_first]
        behind = np.append(np.nan, clock[:-1])
        is_newest = np.diff(user, prepend=-1) > 0
        step = np.where(is_newest, start[user], behind) - clock
        number = np.column_stack([step, item]).astype(np.int64).reshape(-1)
        length = np.ones(len(number), np.int64)
        for bits in range(_BITS, 64 - _BITS, _BITS):
            length += number >= 1 << bits
        behind_number = np.cumsum(length)
        coded = np.zeros(int(length.sum()), np.uint8)
        for place in range(int(length.max(initial=0))):
            has = length > place
            more = length[has] > place + 1
            coded[behind_number[has] - length[has] + place] = (number[has] >> _BITS * place) & 127 | more << _BITS
        size = np.bincount(np.repeat(user, 2), weights=length, minlength=len(start)).astype(np.int64)
        return cls(size.astype(np.min_scalar_type(int(size.max(initial=0)))), coded)

    def unpack(
        self,
        rows: NDArray[np.int64],
        start: NDArray[np.float64],
        excludes_seen: bool,
        history: NDArray[np.int32],
        history_days: NDArray[np.float32],
        seen: NDArray[np.uint8],
    ) -> None:
        """Puts the histories of users `rows` [M], whose lives began at `start` [M], into empty arrays: the last items [M, H],
        newest first, days of the run at which they were consumed [M, H], and the bits of all items [M, ceil(I / 8)]."""
        if not len(self.coded):
            return
        last = np.cumsum(self.size, dtype=np.int64)[rows]
        first = last - self.size[rows]
        over_rows(
            request_kernels.unpack_past,
            len(rows),
            first,
            last,
            self.coded,
            start,
            excludes_seen,
            history,
            history_days,
            seen,
        )
