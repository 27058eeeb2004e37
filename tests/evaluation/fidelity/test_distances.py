from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.catalogue import SECONDS_PER_DAY
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.fidelity.calendar import CalendarEvents
from evaluation.fidelity.distances import distance_table, lag_rates
from evaluation.fidelity.exposures import exposure_values
from evaluation.fidelity.free_running import Sequences
from evaluation.fidelity.sequence_features import LAGS
from evaluation.fidelity.statistics import LagPairs, UserSample, UserValues, calendar_values, category_repeats

NAMES = ("category_entropy", "similarity", "item_age", "visit_length", "gap", "activity")


def sample(users: int, seed: int, shift: float = 0.0, items: int = 50) -> UserSample:
    """Users whose every value is normal about `shift`, and who take low-numbered items."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), 8)
    item = np.minimum(rng.geometric(0.1, len(user)) - 1, items - 1)
    return UserSample(
        num_items=items,
        events=Sequences(num_users=users, user=user, item=item, timestamp=np.arange(len(user))),
        values={name: UserValues(user=np.arange(users), value=rng.normal(shift, 1, users)) for name in NAMES},
        repeats=LagPairs(repeats=rng.binomial(20, 0.4, (users, len(LAGS))), pairs=np.full((users, len(LAGS)), 20)),
    )


def test_users_of_the_same_kind_are_as_far_as_the_floor_and_others_farther() -> None:
    table = distance_table(
        sample(400, 0),
        {"same": [sample(400, 1), sample(400, 3)], "other": [sample(400, 2, shift=1.0)]},
        splits=30,
        seed=0,
        tick=lambda: None,
    )
    ratio = {(row["source"], row["aspect"]): row["ratio"] for row in table.iter_rows(named=True)}
    for name in (*NAMES, "gini", "rank_frequency", "item_shares", "category_lags"):
        assert ratio["real", name] is None
        assert 0.5 < ratio["same", name] < 2.0, name
    for name in NAMES:
        assert ratio["other", name] > 3
    floor = table.row(by_predicate=(pl.col("source") == "real") & (pl.col("aspect") == "gap"), named=True)
    assert floor["low"] < floor["distance"] < floor["high"]


def test_a_distance_of_shifted_values_is_the_shift() -> None:
    table = distance_table(
        sample(3000, 0), {"other": [sample(3000, 2, shift=2.0)]}, splits=5, seed=0, tick=lambda: None
    )
    row = table.row(by_predicate=(pl.col("source") == "other") & (pl.col("aspect") == "gap"), named=True)
    assert row["distance"] == pytest.approx(2.0, abs=0.1)


def test_visits_are_cut_by_an_hour_and_gaps_include_the_one_before() -> None:
    hour = 3600
    calendar = CalendarEvents(
        num_users=3,
        users=np.array([0, 2]),
        last_known=np.array([0, 9 * SECONDS_PER_DAY]),
        user=np.array([0, 0, 0, 0, 2]),
        timestamp=np.array([100, 100 + hour, 101 + 2 * hour, 102 + 2 * hour, 10 * SECONDS_PER_DAY]),
    )
    assert_array_equal(calendar.items, [4, 1])
    found = calendar_values(calendar)
    assert_array_equal(found["activity"].user, [0, 2])
    assert_allclose(np.expm1(found["activity"].value), [4, 1])
    assert_array_equal(found["visit_length"].user, [0, 0, 2])
    assert_allclose(np.exp(found["visit_length"].value), [2, 2, 1])
    assert_array_equal(found["gap"].user, [0, 2])
    assert_allclose(np.exp(found["gap"].value), [(hour + 1) / SECONDS_PER_DAY, 1])


def test_repeated_categories_are_counted_by_lag_and_inside_users_only() -> None:
    directions = np.eye(2)[[0, 1, 0]]
    events = Sequences(
        num_users=2,
        user=np.array([0, 0, 0, 1]),
        item=np.array([0, 1, 2, 0]),
        timestamp=np.arange(4),
    )
    found = category_repeats(events, directions)
    assert_array_equal(found.pairs[:, :3], [[2, 1, 0], [0, 0, 0]])
    assert_array_equal(found.repeats[:, :3], [[0, 1, 0], [0, 0, 0]])
    assert_array_equal(lag_rates(found, np.ones(2, bool))[:3], [0, 1, np.nan])


def test_click_rates_of_the_true_model_are_the_logs_and_those_of_a_wrong_outside_are_not() -> None:
    config = SyntheticConfig(num_users=150, num_items=100, events_per_user=40)
    log, model = generate_log(config, seed=2)
    users = np.arange(150)
    real = exposure_values(None, log, users, seed=0)["click_rate"]
    ours = exposure_values(model, log, users, seed=0)["click_rate"]
    assert_array_equal(real.user, ours.user)
    assert ours.value.mean() == pytest.approx(real.value.mean(), abs=0.04)
    shy = replace(model, choice=replace(model.choice, outside=60.0))
    assert exposure_values(shy, log, users, seed=0)["click_rate"].value.max() == 0
    assert exposure_values(None, log.consumed(), users, seed=0) == {}
