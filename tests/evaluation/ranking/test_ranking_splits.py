from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs.errors import ConfigurationError, LogError
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.ranking import global_cut, last_share, leave_last_out


@pytest.fixture(scope="module")
def shown():
    """A log with exposures."""
    return generate_log(SyntheticConfig(num_users=60, num_items=120, events_per_user=25), seed=3)[0]


@pytest.fixture(scope="module")
def consumed(shown):
    return shown.consumed()


def rows_of(log, user):
    return np.flatnonzero(log.user == user)


def few_rows(log, count):
    """The first `count` rows of each user."""
    return log.where(log.place < count)


@pytest.mark.parametrize("with_exposures", [False, True])
def test_leave_last_out_holds_out_the_last_two_items_consumed(shown, consumed, with_exposures):
    log = shown if with_exposures else consumed
    split = leave_last_out(log)
    for user in range(len(log.users)):
        rows = rows_of(log, user)
        taken = rows[log.clicked[rows]]
        if len(taken) < 3:
            assert not split.test[rows].any() and split.training[rows].all()
            continue
        assert_array_equal(np.flatnonzero(split.test[rows]) + rows[0], taken[-1:])
        assert_array_equal(np.flatnonzero(split.validation[rows]) + rows[0], taken[-2:-1])
        assert_array_equal(taken[split.training[taken]], taken[:-2])
        if with_exposures:
            # nothing of the held-out slates, or after them, is learnt from
            learnt = rows[split.training[rows]]
            assert not np.isin(log.request[learnt], log.request[taken[-2:]]).any()
            assert learnt.max(initial=-1) < taken[-2]


def test_users_of_two_items_are_not_predicted(consumed):
    short = consumed.where((consumed.user > 3) | (consumed.place < 2))
    split = leave_last_out(short)
    assert not np.isin(short.user[split.test], [0, 1, 2, 3]).any()
    with pytest.raises(LogError, match="nothing to predict"):
        leave_last_out(few_rows(consumed, 2))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_last_share_cuts_each_user(consumed, share):
    split = last_share(consumed, share, 0.1)
    for user in range(len(consumed.users)):
        rows = rows_of(consumed, user)
        first, second = (int(np.floor(len(rows) * kept + 1e-9)) for kept in (1 - share - 0.1, 1 - share))
        assert_array_equal(rows[split.training[rows]], rows[:first])
        assert_array_equal(rows[split.validation[rows]], rows[first:second])
        assert_array_equal(rows[split.test[rows]], rows[second:])


def test_last_share_keeps_slates_whole(shown):
    split = last_share(shown)
    for part in (split.training, split.validation, split.test):
        assert not np.isin(shown.request[part], shown.request[~part]).any()
    assert 0.15 < split.test.mean() < 0.3


def test_global_cut_has_one_moment_for_all(consumed):
    split = global_cut(consumed, 0.3, 0.1, fold_in=0, most_per_user=10_000)
    time = consumed.timestamp
    assert time[split.training].max() < time[split.validation].min()
    assert time[split.validation].max() < time[split.test].min()
    assert_array_equal(split.training | split.validation | split.test, np.ones(len(consumed), bool))
    assert abs(split.test.mean() - 0.3) < 0.01


def test_global_cut_folds_cold_users_in(consumed):
    # users of even number come late: their first event is in the last third
    late = consumed.user % 2 == 0
    span = int(np.ptp(consumed.timestamp)) + 1
    timestamp = np.where(late, consumed.timestamp + span, consumed.timestamp)
    log = replace(consumed, timestamp=timestamp)
    split = global_cut(log, 0.5, 0.1, fold_in=4, most_per_user=3)
    cut = log.timestamp[split.validation].max() + 1
    cold_users = []
    for user in range(len(log.users)):
        rows = rows_of(log, user)
        after = log.timestamp[rows] >= cut
        if not split.training[rows].any():
            cold_users.append(user)
            after[:4] = False
        assert_array_equal(rows[split.test[rows]], rows[after][:3])
    assert 20 < len(cold_users) < 40
    assert_array_equal(split.is_cold, np.isin(log.user[split.test_rows], cold_users))


@pytest.mark.parametrize("make", [leave_last_out, last_share, global_cut])
@pytest.mark.parametrize("with_exposures", [False, True])
def test_no_row_is_for_two_things(shown, consumed, make, with_exposures):
    log = shown if with_exposures else consumed
    split = make(log)
    assert_array_equal(split.training.astype(int) + split.validation + split.test <= 1, np.ones(len(log), bool))
    # no user's row to learn from lies after one to predict
    last = np.full(len(log.users), -1)
    np.maximum.at(last, log.user[split.training], np.flatnonzero(split.training))
    assert (split.test_rows > last[log.user[split.test_rows]]).all()
    assert len(split.training_log) == split.training.sum() and len(split.validation_log) == split.validation.sum()


def test_splits_of_file_order_do_not_hang_on_names(consumed):
    """Rows of one second keep the order of the file: the last of them is the one to predict."""
    log = InteractionLog.from_rows(
        name="ties",
        users=consumed.users,
        catalogue=consumed.catalogue,
        user=np.zeros(5, np.int32),
        item=np.array([4, 3, 2, 1, 0], np.int32),
        timestamp=np.array([1, 2, 2, 2, 2]),
    )
    split = leave_last_out(log)
    assert log.item[split.test_rows].tolist() == [0]
    assert log.item[split.validation].tolist() == [1]


@pytest.mark.parametrize("make", [last_share, global_cut])
@pytest.mark.parametrize("shares", [(0, 0.1), (1, 0), (0.6, 0.4), (0.2, -0.1)])
def test_shares_that_leave_nothing_are_refused(consumed, make, shares):
    with pytest.raises(ConfigurationError, match="leave nothing to learn from"):
        make(consumed, *shares)


@pytest.mark.parametrize("wrong", [{"fold_in": -1}, {"most_per_user": 0}])
def test_wrong_numbers_are_refused(consumed, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        global_cut(consumed, **wrong)


@pytest.mark.parametrize("make", [leave_last_out, last_share, global_cut])
def test_an_empty_log_is_refused(consumed, make):
    with pytest.raises(LogError, match="nothing to predict"):
        make(consumed.where(np.zeros(len(consumed), bool)))
