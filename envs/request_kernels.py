"""Kernels of what stands around the engine in a request: sampled candidates, the observation, slates, memory.

`envs.plain_kernels` says in plain numpy what each computes.
"""

from typing import Any

import numba
import numpy as np

from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import (
    Bytes1,
    Bytes2,
    Bytes2Out,
    Doubles1,
    Flags2,
    Flags2Out,
    Floats1,
    Floats2,
    Floats2Out,
    Floats3Out,
    Int,
    Ints1,
    Ints2,
    Ints2Out,
    Kernel,
    Longs1,
    Longs1Out,
    Longs2,
)


@numba.njit
def _age(clock: Any, birth: Any) -> Any:
    return np.float32(max((clock - birth) / SECONDS_PER_DAY, 0.0))


@numba.njit
def _has_bit(bits: Any, place: Any) -> Any:
    return (bits[place >> 3] >> np.uint8(place & 7)) & 1 == 1


@Kernel
def sample_candidates(
    begin: Int,
    end: Int,
    shuffled: Ints1,
    start: Longs1,
    stride: Longs1,
    length: Int,
    excluded: Bytes2,
    chosen: Ints2Out,
) -> None:
    """Walks through the `shuffled` catalogue [P] from `start` [N] by `stride` [N], at most `length` steps, and keeps what is
    not `excluded`; -1 fills the rest of `chosen` [N, C]."""
    count = chosen.shape[1]
    for n in range(begin, end):
        place, at = 0, start[n]
        for _ in range(length):
            item = shuffled[at]
            if item >= 0 and not _has_bit(excluded[n], item):
                chosen[n, place] = item
                place += 1
                if place == count:
                    break
            at += stride[n]
            if at >= len(shuffled):
                at -= len(shuffled)
        for rest in range(place, count):
            chosen[n, rest] = -1


@Kernel
def describe_candidates(
    begin: Int,
    end: Int,
    items: Ints2,
    scores: Floats2,
    excluded: Bytes2,
    clock: Doubles1,
    birth_clock: Doubles1,
    categories: Floats2,
    mask: Flags2Out,
    features: Floats3Out,
    number: Longs1Out,
) -> None:
    """Mask [N, C] and features [N, C, 2 + G] (score, age in days, categories) of candidates, and how many may be shown."""
    width = categories.shape[1]
    for n in range(begin, end):
        allowed = 0
        for c in range(items.shape[1]):
            item, row = items[n, c], features[n, c]
            if item < 0 or _has_bit(excluded[n], item):
                mask[n, c] = 0
                for g in range(width + 2):
                    row[g] = 0
                continue
            allowed += 1
            mask[n, c] = 1
            row[0] = scores[n, c]
            row[1] = _age(clock[n], birth_clock[item])
            for g in range(width):
                row[2 + g] = categories[item, g]
        number[n] = allowed


@Kernel
def tell_history(
    begin: Int,
    end: Int,
    history: Ints2,
    history_clock: Floats2,
    clock: Doubles1,
    told: Ints2Out,
    days: Floats2Out,
) -> None:
    """A copy of `history` [N, H], and the days since each item was consumed."""
    for n in range(begin, end):
        now = clock[n] / SECONDS_PER_DAY
        for h in range(history.shape[1]):
            told[n, h] = history[n, h]
            since = np.float32(max(now - history_clock[n, h], 0.0))
            days[n, h] = since if history[n, h] >= 0 else np.float32(0)


@Kernel
def show(
    begin: Int,
    end: Int,
    actions: Longs2,
    items: Ints2,
    mask: Flags2,
    clock: Doubles1,
    birth_clock: Doubles1,
    slates: Ints2Out,
    age_days: Floats2Out,
) -> None:
    """Items [N, K] of the candidates that were picked, -1 where one is masked or stands above already; and their ages."""
    for n in range(begin, end):
        for k in range(actions.shape[1]):
            place = actions[n, k]
            shown = mask[n, place] == 1
            for above in range(k):
                shown &= actions[n, above] != place
            item = items[n, place] if shown else np.int32(-1)
            slates[n, k] = item
            age_days[n, k] = _age(clock[n], birth_clock[max(item, 0)])


@Kernel
def remember(
    begin: Int,
    end: Int,
    rows: Longs1,
    items: Ints1,
    clock: Doubles1,
    excludes_seen: Int,
    history: Ints2Out,
    history_clock: Floats2Out,
    seen: Bytes2Out,
) -> None:
    """Puts the item that each of the users `rows` consumed before the others of its history, and marks it as seen."""
    for m in range(begin, end):
        n = rows[m]
        for h in range(history.shape[1] - 1, 0, -1):
            history[n, h] = history[n, h - 1]
            history_clock[n, h] = history_clock[n, h - 1]
        history[n, 0] = items[n]
        history_clock[n, 0] = np.float32(clock[n] / SECONDS_PER_DAY)
        if excludes_seen:
            seen[n, items[n] >> 3] |= np.uint8(1 << (items[n] & 7))


@Kernel
def unpack_lives(
    begin: Int,
    end: Int,
    offset: Longs1,
    items: Ints1,
    days: Floats1,
    excludes_seen: Int,
    history: Ints2Out,
    history_clock: Floats2Out,
    seen: Bytes2Out,
) -> None:
    """Puts what each user consumed in its life, items `offset[n]` to `offset[n + 1]` in order of time, before its history."""
    size = history.shape[1]
    for n in range(begin, end):
        first, last = offset[n], offset[n + 1]
        for h in range(size - 1, last - first - 1, -1):
            history[n, h] = history[n, h - (last - first)]
            history_clock[n, h] = history_clock[n, h - (last - first)]
        for place in range(min(last - first, size)):
            history[n, place] = items[last - 1 - place]
            history_clock[n, place] = days[last - 1 - place]
        if excludes_seen:
            for at in range(first, last):
                seen[n, items[at] >> 3] |= np.uint8(1 << (items[at] & 7))


@numba.njit
def _number(coded: Any, at: Any) -> Any:
    """(number that begins at a byte, byte behind it): seven bits a byte, the lowest first; the eighth says that more follow."""
    value, shift = np.int64(0), np.int64(0)
    while coded[at] >= 128:
        value |= np.int64(coded[at] & np.uint8(127)) << shift
        shift += 7
        at += 1
    return value | np.int64(coded[at]) << shift, at + 1


@Kernel
def unpack_past(
    begin: Int,
    end: Int,
    first: Longs1,
    last: Longs1,
    coded: Bytes1,
    start: Doubles1,
    excludes_seen: Int,
    history: Ints2Out,
    history_clock: Floats2Out,
    seen: Bytes2Out,
) -> None:
    """Puts what each user consumed before its life, bytes `first` [N] to `last` [N] of `coded`, into its empty history. They
    tell of each event, from the newest back, the whole seconds until the next one (of the newest, until the life's `start` [N])
    and the item."""
    for n in range(begin, end):
        at, clock, place = first[n], np.int64(start[n]), 0
        while at < last[n]:
            step, at = _number(coded, at)
            item, at = _number(coded, at)
            clock -= step
            if place < history.shape[1]:
                history[n, place] = item
                history_clock[n, place] = np.float32(clock / SECONDS_PER_DAY)
                place += 1
            if excludes_seen:
                seen[n, item >> 3] |= np.uint8(1 << (item & 7))
