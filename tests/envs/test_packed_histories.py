"""Histories come out of their bytes as they went in, item for item and second for second."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs import plain_kernels, request_kernels
from envs.packed_histories import PackedHistories

DAY = 86_400
USERS, ITEMS, SIZE = 200, 20_000, 9


@pytest.fixture(scope="module")
def histories() -> list[tuple[np.ndarray, np.ndarray]]:
    """(items, clocks) of each user: of none up to forty events, seconds to decades apart, some in the same second."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, USERS)
    steps = [np.floor(rng.integers(0, 2, count) * 10 ** rng.uniform(0, 8.5, count)) for count in lengths]
    own = [rng.choice(ITEMS, count, replace=False).astype(np.int32) for count in lengths]
    return [(items, 50_000 - np.cumsum(gaps)[::-1]) for items, gaps in zip(own, steps, strict=True)]


@pytest.fixture(scope="module")
def packed(histories) -> PackedHistories:
    user = np.repeat(np.arange(USERS), [len(items) for items, _ in histories])
    items, clocks = (np.concatenate(parts) for parts in zip(*histories, strict=True))
    return PackedHistories.of(np.full(USERS, 50_000.0), user, items, clocks)


def empty(users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.full((users, SIZE), -1, np.int32),
        np.zeros((users, SIZE), np.float32),
        np.zeros((users, ITEMS // 8), np.uint8),
    )


@pytest.mark.parametrize("excludes_seen", [True, False])
def test_what_is_unpacked_is_what_was_packed(histories, packed: PackedHistories, excludes_seen: bool) -> None:
    rows = np.random.default_rng(1).permutation(USERS)[:150]
    history, days, seen = empty(150)
    packed.unpack(rows, np.full(150, 50_000.0), excludes_seen, history, days, seen)
    for place, row in enumerate(rows):
        items, clocks = histories[row]
        count = min(len(items), SIZE)
        assert_array_equal(history[place, :count], items[::-1][:count])
        assert_array_equal(days[place, :count], (clocks[::-1][:count] / DAY).astype(np.float32))
        assert (history[place, count:] == -1).all() and (days[place, count:] == 0).all()
        known = np.flatnonzero(np.unpackbits(seen[place], bitorder="little"))
        assert_array_equal(known, np.sort(items) if excludes_seen else [])


def test_a_short_step_takes_one_byte(packed: PackedHistories) -> None:
    tight = PackedHistories.of(
        np.array([5.0, 9.0]), np.array([0, 0, 1]), np.array([1, 127, 3]), np.array([1.0, 5.0, 9.0])
    )
    assert len(tight.coded) == 6 and tight.size.tolist() == [4, 2] and tight.size.dtype == np.uint8
    assert packed.size.sum() == len(packed.coded)


@pytest.mark.parametrize("excludes_seen", [True, False])
def test_the_kernel_does_what_its_twin_says(packed: PackedHistories, excludes_seen: bool) -> None:
    last = np.cumsum(packed.size, dtype=np.int64)
    inputs = (last - packed.size, last, packed.coded, np.full(USERS, 50_000.0), excludes_seen)
    mine, plain = empty(USERS), empty(USERS)
    request_kernels.unpack_past(0, USERS, *inputs, *mine)
    plain_kernels.unpack_past(*inputs, *plain)
    for one, two in zip(mine, plain, strict=True):
        assert_array_equal(one, two)


def test_nothing_is_packed_of_nobody() -> None:
    none = PackedHistories.of(np.zeros(3), np.zeros(0, int), np.zeros(0, np.int32), np.zeros(0))
    history, days, seen = empty(2)
    none.unpack(np.array([0, 2]), np.zeros(2), True, history, days, seen)
    assert none.size.tolist() == [0, 0, 0] and (history == -1).all() and not seen.any()
