from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import draw_log, make_model

from envs.users.fit import FitConfig, fit_interest_model
from envs.users.parameter_table import bootstrap

CONFIG = FitConfig(embedding_size=4, epochs=2)


@pytest.fixture(scope="module")
def log():
    return draw_log(make_model(users=60, items=40, seed=1, short_weight=3.0, long_weight=2.0), events=40, seed=2)


@pytest.fixture(scope="module")
def rows(log):
    return {row["name"]: row for row in fit_interest_model(log, CONFIG, progress=False).table}


def test_what_is_fitted_has_an_interval_and_what_is_not_a_reason(rows):
    for name, row in rows.items():
        if row["source"] == "fitted":
            assert row["low"] is not None, name
            assert row["low"] <= row["value"] <= row["high"], name
        else:
            assert row["source"] == "assumed"
            assert row["low"] is None, name
        assert row["note"], name


def test_spreads_between_users_are_in_the_table(rows):
    for name in ("user_embedding_spread", "leave_spread", "return_spread", "gap_spread", "rating_user_spread"):
        assert rows[name]["value"] > 0
    assert 1 <= rows["user_embedding_directions"]["value"] <= 4


def test_ageing_is_in_the_table(rows):
    for name, symbol in (("leave_ageing", "h_7"), ("gap_ageing", "g_6")):
        assert (rows[name]["symbol"], rows[name]["source"]) == (symbol, "fitted")
        assert rows[name]["low"] < rows[name]["value"] < rows[name]["high"]


def test_what_is_left_out_is_assumed(log):
    left_out = replace(CONFIG, without=("context", "age"))
    rows = {row["name"]: row for row in fit_interest_model(log, left_out, progress=False).table}
    for name in ("context_weights", "age_effect_0_days"):
        assert rows[name]["source"] == "assumed"
        assert rows[name]["value"] == pytest.approx(0, abs=1e-6)
        assert "left out" in rows[name]["note"]


def test_bootstrap_intervals_have_the_width_of_theory():
    rows = np.random.default_rng(0).normal(5, 2, (400, 1))
    low, high = bootstrap(rows, lambda drawn: float(drawn.mean()), resamples=500)
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert low < rows.mean() < high
