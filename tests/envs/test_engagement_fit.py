from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import DAY, EPOCH, make_catalogue, make_model, make_users
from numpy.testing import assert_allclose

from envs.logs.schema import InteractionLog
from envs.users.engagement_fit import expected_on_grid, fit_engagement
from envs.users.fit import FitConfig, fit_key
from envs.users.likelihood import split_events

USERS, ITEMS, EVENTS = 60, 40, 200


def draw_log(cut, seed=0, slope=0.4, noise=0.5, drift=0.0, watch=False, durations=None, duration_slope=0.0):
    """(log, utilities): scores of levels, utility and noise, which `cut` turns into values."""
    rng = np.random.default_rng(seed)
    count = USERS * EVENTS
    user, item = np.repeat(np.arange(USERS, dtype=np.int32), EVENTS), rng.integers(0, ITEMS, count).astype(np.int32)
    utility = rng.normal(1.5, 1, count).astype(np.float32)
    place = np.tile(np.arange(EVENTS), USERS)
    score = 2.6 + rng.normal(0, 0.3, USERS)[user] + rng.normal(0, 0.3, ITEMS)[item] + slope * utility
    score += drift * place / EVENTS * rng.choice([-1, 1], USERS)[user]
    catalogue = make_catalogue(np.ones((ITEMS, 1), np.float32))
    if durations is not None:
        score += duration_slope * np.log1p(durations)[item]
        catalogue = replace(catalogue, duration_seconds=durations)
    value = cut(score + noise * rng.normal(size=count)).astype(np.float32)
    log = InteractionLog.from_rows(
        name="engaged",
        users=make_users(USERS),
        catalogue=catalogue,
        user=user,
        item=item,
        timestamp=EPOCH + place * DAY,
        rating=None if watch else value,
        watch_seconds=value if watch else None,
    )
    return log, utility


def stars(score):
    return np.clip(np.round(score), 1, 5)


def test_slope_and_noise_come_back_with_intervals_that_hold_them():
    log, utility = draw_log(lambda score: score)
    fit = fit_engagement(log, split_events(log), utility)
    assert fit.unit == "rating"
    assert len(fit.grid) == 64
    assert fit.slope_interval[0] < 0.4 < fit.slope_interval[1]
    assert fit.slope == pytest.approx(0.4, abs=0.05)
    assert fit.sd == pytest.approx(0.5, abs=0.06)
    assert fit.sd_interval[0] < fit.sd < fit.sd_interval[1]
    assert fit.user_spread == pytest.approx(0.3, abs=0.08)
    assert fit.test_rmse == pytest.approx(0.5, abs=0.06)
    assert fit.test_rmse < 0.75 * fit.test_rmse_of_mean


def test_stars_stay_on_the_grid_and_are_calibrated_on_the_test_part():
    log, utility = draw_log(lambda score: stars(score + 1), noise=1.0)
    fit = fit_engagement(log, split_events(log), utility)
    assert list(fit.grid) == [1, 2, 3, 4, 5]
    low, high = fit.calibration_interval
    assert low <= fit.calibration_error <= high
    assert fit.calibration_error < 0.1


def test_recent_events_decide_the_level_of_users_who_drift():
    drifting, utility = draw_log(lambda score: score, drift=2.0, noise=0.2, slope=0)
    steady, _ = draw_log(lambda score: score, drift=0.0, noise=0.5, slope=0)
    assert fit_engagement(drifting, split_events(drifting), utility).half_life == 20
    assert fit_engagement(steady, split_events(steady), utility).half_life >= 60


def test_watch_time_is_given_in_seconds_and_follows_duration():
    durations = np.exp(np.random.default_rng(3).normal(3, 0.8, ITEMS)).astype(np.float32)
    log, utility = draw_log(np.expm1, watch=True, durations=durations, duration_slope=0.5, slope=0.1, noise=0.4)
    split = split_events(log)
    fit = fit_engagement(log, split, utility)
    assert fit.unit == "watch_seconds"
    assert fit.duration_slope == pytest.approx(0.5, abs=0.15)
    assert fit.sd == pytest.approx(0.4, abs=0.06)
    seen = log.watch_seconds[split.row][split.part == 2]
    assert fit.calibration_error < 0.1 * seen.mean()
    model = replace(
        make_model(users=USERS, items=ITEMS),
        rating_item=fit.item,
        rating_grid=fit.grid,
        rating_cuts=fit.cuts,
        params=replace(make_model().params, rating_slope=fit.slope, rating_sd=fit.sd),
    )
    state = model.start(model.user_parameters)
    state.traits[:, 2] = fit.user
    rng = np.random.default_rng(0)
    rows, items = split.user[split.part == 2], split.item[split.part == 2].astype(np.int32)
    of_test = utility[split.part == 2]
    drawn = model.rate(state, rows, items, of_test, rng.normal(size=len(rows)).astype(np.float32))
    assert np.isin(drawn, fit.grid).all()
    assert np.mean(drawn) == pytest.approx(np.mean(seen), rel=0.08)
    assert np.quantile(drawn, 0.9) == pytest.approx(np.quantile(seen, 0.9), rel=0.15)
    expected = model.expected_rating(state, rows, items, of_test)
    assert np.mean(expected) == pytest.approx(np.mean(seen), rel=0.08)


def test_a_log_without_engagement_has_an_empty_grid():
    log, utility = draw_log(lambda score: np.full_like(score, np.nan))
    fit = fit_engagement(log, split_events(log), utility)
    assert fit.unit == ""
    assert not len(fit.grid)
    assert np.isnan(fit.test_rmse)


def test_expected_value_is_the_mean_of_draws():
    rng, model = np.random.default_rng(0), make_model(users=1, items=3)
    state = model.start(model.user_parameters)
    rows, items = np.zeros(200_000, np.int64), np.zeros(200_000, np.int32)
    for utility in (-3.0, 0.0, 2.0):
        each = np.full(200_000, utility, np.float32)
        drawn = model.rate(state, rows, items, each, rng.normal(size=200_000).astype(np.float32))
        expected = model.expected_rating(state, rows[:1], items[:1], each[:1])[0]
        assert expected == pytest.approx(drawn.mean(), abs=0.01)
        score = model.user_traits[0, 2] + model.rating_item[0] + model.params.rating_slope * utility
        again = expected_on_grid(np.array([score]), model.params.rating_sd, model.rating_grid, model.rating_cuts)
        assert_allclose(expected, again[0], rtol=1e-5)


def test_a_fit_is_known_by_watch_times_and_durations_too():
    durations = np.full(ITEMS, 30, np.float32)
    log, _ = draw_log(np.expm1, watch=True, durations=durations)
    others = [
        replace(log, watch_seconds=log.watch_seconds + 1),
        replace(log, catalogue=replace(log.catalogue, duration_seconds=durations + 1)),
    ]
    assert len({fit_key(each, FitConfig()) for each in [log, *others]}) == 3
