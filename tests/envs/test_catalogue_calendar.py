import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from envs.catalogue_calendar import ItemCalendar

CLOCKS = st.lists(st.tuples(st.integers(-3, 6), st.integers(-3, 7)), min_size=1, max_size=20)


@given(lives=CLOCKS)
def test_bits_say_who_is_born_and_not_retired(lives: list[tuple[int, int]]) -> None:
    birth, retire = np.array(lives, float).T
    calendar = ItemCalendar(birth_clock=birth, retire_clock=np.where(retire > 6, np.inf, retire))
    for clock in np.arange(0, 8, 0.5):
        open_now = (birth <= clock) & (clock < calendar.retire_clock)
        bits = calendar.closed(np.array([clock]))
        assert_array_equal(np.unpackbits(bits, axis=1, bitorder="little", count=len(birth))[0] == 0, open_now)
        assert_array_equal(calendar.is_open(clock), open_now)
        assert_array_equal(calendar.open_to_some(np.array([clock])), open_now)


def test_open_to_some_is_the_union_over_the_clocks() -> None:
    calendar = ItemCalendar(birth_clock=np.array([-1.0, 2.0, 5.0]), retire_clock=np.array([3.0, np.inf, 6.0]))
    assert_array_equal(calendar.open_to_some(np.array([0.0, 4.0])), [True, True, False])
    assert_array_equal(calendar.open_to_some(np.array([4.0, 5.0])), [False, True, True])


def test_thousands_of_births_take_one_row_for_each_moment() -> None:
    moments = np.random.default_rng(0).integers(1, 500, 20_000) * 3600.0
    calendar = ItemCalendar(birth_clock=moments, retire_clock=np.full(20_000, np.inf))
    clocks, bits = calendar.changes
    assert bits.shape == (len(np.unique(moments)) + 1, 2_500) and len(clocks) < 500
