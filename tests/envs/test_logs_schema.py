import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from envs.catalogue import Catalogue
from envs.errors import LogError
from envs.logs import InteractionLog, Users
from envs.logs.schema import VISIT_GAP_SECONDS

NUM_USERS, NUM_ITEMS = 5, 6
USERS = Users(
    user_ids=np.arange(NUM_USERS).astype(str), feature_names=(), features=np.zeros((NUM_USERS, 0), np.float32)
)
CATALOGUE = Catalogue(
    item_ids=np.arange(NUM_ITEMS).astype(str),
    titles=np.full(NUM_ITEMS, ""),
    category_names=("a",),
    categories=np.ones((NUM_ITEMS, 1), np.float32),
    birth=np.zeros(NUM_ITEMS, np.int64),
)


def make_log(rows: list[tuple[int, int, int, bool]]) -> InteractionLog:
    table = np.array(rows, np.int64).reshape(-1, 4)
    return InteractionLog.from_rows(
        name="made",
        users=USERS,
        catalogue=CATALOGUE,
        user=table[:, 0].astype(np.int32),
        item=table[:, 1].astype(np.int32),
        timestamp=table[:, 2],
        clicked=table[:, 3].astype(bool),
        rating=np.arange(len(table), dtype=np.float32),  # the place in the file, to follow rows through the sort
    )


rows_of_any_order = st.lists(
    st.tuples(
        st.integers(0, NUM_USERS - 1),
        st.integers(0, NUM_ITEMS - 1),
        # few distinct times, about the gap between visits, so that ties and both sides of the gap come up
        st.sampled_from([0, 1, VISIT_GAP_SECONDS, VISIT_GAP_SECONDS + 1, 2 * VISIT_GAP_SECONDS, 9 * VISIT_GAP_SECONDS]),
        st.booleans(),
    ),
    max_size=40,
)


@given(rows_of_any_order)
def test_rows_are_sorted_by_user_then_time_then_place_in_the_file(rows):
    log = make_log(rows)
    expected = sorted(range(len(rows)), key=lambda place: (rows[place][0], rows[place][2], place))
    assert_array_equal(log.rating, expected)
    assert_array_equal(log.item, [rows[place][1] for place in expected])
    assert_array_equal(log.clicked, [rows[place][3] for place in expected])


@given(rows_of_any_order)
def test_places_and_visits_are_those_of_a_walk_through_the_rows(rows):
    log = make_log(rows)
    place, visit, place_in_visit = [], [], []
    for row in range(len(log)):
        if row == 0 or log.user[row] != log.user[row - 1]:
            now = (0, 0, 0)
        elif log.timestamp[row] - log.timestamp[row - 1] > VISIT_GAP_SECONDS:
            now = (now[0] + 1, now[1] + 1, 0)
        else:
            now = (now[0] + 1, now[1], now[2] + 1)
        place.append(now[0])
        visit.append(now[1])
        place_in_visit.append(now[2])
    assert_array_equal(log.place, place)
    assert_array_equal(log.visit, visit)
    assert_array_equal(log.place_in_visit, place_in_visit)


@given(rows_of_any_order)
def test_users_rows_lie_between_their_starts(rows):
    log = make_log(rows)
    for user in range(NUM_USERS):
        assert_array_equal(
            np.flatnonzero(log.user == user), np.arange(log.user_starts[user], log.user_starts[user + 1])
        )


@given(rows_of_any_order)
def test_consumed_keeps_the_clicked_rows_and_their_order(rows):
    log = make_log(rows)
    consumed = log.consumed()
    assert_array_equal(consumed.rating, log.rating[log.clicked])
    assert len(consumed.users) == NUM_USERS and consumed.clicked.all()
    assert log.has_exposures == (not log.clicked.all()) and not consumed.has_exposures
    assert_array_equal(log.item_counts(), [np.sum(consumed.item == item) for item in range(NUM_ITEMS)])
    pairs = list(zip(consumed.user.tolist(), consumed.item.tolist(), strict=True))
    assert log.has_repeats == (len(set(pairs)) < len(pairs))


def test_times_too_far_apart_for_one_key_are_sorted_all_the_same():
    log = make_log([(1, 0, 2**62, True), (0, 1, 2**62, True), (1, 2, -(2**62), True), (0, 3, -(2**62), False)])
    assert_array_equal(log.user, [0, 0, 1, 1])
    assert_array_equal(log.item, [3, 1, 2, 0])


def test_rows_out_of_order_or_range_and_columns_of_other_lengths_are_refused():
    good = {
        "name": "made",
        "users": USERS,
        "catalogue": CATALOGUE,
        "user": np.array([0, 0, 1], np.int32),
        "item": np.array([1, 2, 1], np.int32),
        "timestamp": np.array([5, 6, 1], np.int64),
        "clicked": np.ones(3, bool),
        "rating": np.full(3, np.nan, np.float32),
        "request": np.full(3, -1, np.int64),
        "position": np.full(3, -1, np.int16),
    }
    assert len(InteractionLog(**good)) == 3
    for column, value, sentence in [
        ("timestamp", np.array([6, 5, 1], np.int64), "row 1 is out of order"),
        ("user", np.array([0, 1, 0], np.int32), "row 2 is out of order"),
        ("item", np.array([1, 6, 1], np.int32), "row 1 has item 6, but items are numbered 0 to 5"),
        ("item", np.array([1, 2, -1], np.int32), "row 2 has item -1"),
        ("user", np.array([0, 0, 5], np.int32), "row 2 has user 5"),
        ("rating", np.zeros(2, np.float32), "column 'rating' has 2 rows, not 3"),
    ]:
        with pytest.raises(LogError, match=sentence):
            InteractionLog(**{**good, column: value})
