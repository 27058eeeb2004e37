from dataclasses import replace

import numpy as np
from fitted_logs import draw_log, make_model
from numpy.testing import assert_array_equal

from envs.logs.schema import COLUMNS
from envs.users.fit import FitConfig, fit_interest_model
from envs.users.resampling import drawn_users, log_of_users


def test_users_are_drawn_with_replacement_and_stand_at_their_own_places():
    source = drawn_users(1001, 1)
    drawn = np.bincount(np.random.default_rng(1).integers(1001, size=1001), minlength=1001)
    assert_array_equal(np.bincount(source, minlength=1001), drawn)
    assert_array_equal(source[drawn > 0], np.flatnonzero(drawn))
    assert 0.6 < (source == np.arange(1001)).mean() < 0.67
    assert (source != drawn_users(1001, 2)).any()


def test_copies_have_the_rows_of_their_user_and_requests_of_their_own():
    log = draw_log(make_model(users=5), events=4)
    log = replace(log, request=np.where(log.item % 2 == 0, log.user.astype(np.int64), -1))
    log = replace(log, users=replace(log.users, features=np.arange(5, dtype=np.float32)[:, None]))
    log = log.where(~((log.user == 2) & (log.place > 1)))
    copies = log_of_users(log, np.array([2, 1, 2, 3, 2]))
    assert_array_equal(np.diff(copies.user_starts), [2, 4, 2, 4, 2])
    assert_array_equal(copies.users.features[:, 0], [2, 1, 2, 3, 2])
    assert_array_equal(copies.users.user_ids, log.users.user_ids)
    for name in COLUMNS:
        column = getattr(log, name)
        if column is not None and name not in ("user", "request"):
            for place, user in enumerate([2, 1, 2, 3, 2]):
                assert_array_equal(getattr(copies, name)[copies.user == place], column[log.user == user])
    asked = copies.request >= 0
    assert_array_equal(asked[copies.user == 4], (log.request >= 0)[log.user == 2])
    owners = {request: set(copies.user[copies.request == request]) for request in copies.request[asked]}
    assert all(len(users) == 1 for users in owners.values())
    assert len(owners) == len(set(copies.user[asked]))


def test_nobody_copied_is_the_log_itself():
    log = draw_log(make_model(users=5), events=4)
    same = log_of_users(log, np.arange(5))
    for name in COLUMNS:
        assert_array_equal(getattr(same, name), getattr(log, name))


def test_models_of_drawn_users_differ_about_the_fitted_one_in_all_that_is_fitted():
    log = draw_log(make_model(users=80, items=40, strength=2.0, short_weight=3.0), events=40)
    config = FitConfig(epochs=3, embedding_size=8)
    model = fit_interest_model(log, config, progress=False)
    found = [fit_interest_model(log_of_users(log, drawn_users(80, seed)), config, progress=False) for seed in (1, 2, 3)]
    for name in ("item_embedding", "item_bias", "age_values", "rating_item"):
        values = [getattr(other, name) for other in found]
        assert np.abs(values[0] - values[1]).max() > 0.01
    row = next(row for row in model.table if row["name"] == "short_weight")
    weights = np.array([other.params.short_weight for other in found])
    assert 0 < np.abs(weights - model.params.short_weight).max() < 3 * (row["high"] - row["low"])
    leaving = [other.visits.leave_intercept for other in found]
    assert np.ptp(leaving) > 0 and abs(np.mean(leaving) - model.visits.leave_intercept) < 0.5
