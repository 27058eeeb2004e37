from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import draw_log, make_model

from envs.errors import ConfigurationError
from envs.users import ablation as module
from envs.users.ablation import ablation, ablation_figures, evolution_gain, verdict
from envs.users.fit import FitConfig, fit_interest_model
from envs.users.likelihood import split_events, user_model_likelihood
from envs.users.measure import SHUFFLE_SEED

CONFIG = FitConfig(embedding_size=4, epochs=6, learning_rate_decay=0.85, item_weight_decay=0.1)


@pytest.fixture(scope="module")
def log():
    truth = make_model(
        users=100,
        items=50,
        seed=1,
        short_decay=0.7,
        short_weight=5.0,
        long_weight=2.0,
        long_rate=0.0,
        satiation_gain=0.0,
    )
    return draw_log(truth, events=40, seed=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("term", "fields"),
    [
        ("short_term", {"short_weight": 0.0}),
        ("satiation", {"satiation_gain": 0.0}),
        ("drift", {"long_rate": 0.0}),
    ],
)
def test_a_fit_without_a_term_has_none_of_it_and_says_so(log, term, fields):
    model = fit_interest_model(log, replace(CONFIG, epochs=1, without=(term,)), progress=False)
    for name, value in fields.items():
        assert getattr(model.params, name) == pytest.approx(value, abs=1e-6)
        row = next(row for row in model.table if row["name"] == name)
        assert row["source"] == "assumed"
        assert "left out" in row["note"]


@pytest.fixture(scope="module")
def still_log():
    """Users of strong tastes that do not move."""
    truth = make_model(users=60, items=40, short_weight=0.0, long_weight=8.0, long_rate=0.0, satiation_gain=0.0)
    return draw_log(truth, events=30, seed=3)


def test_nothing_moves_without_evolution(still_log):
    log = still_log
    model = fit_interest_model(log, replace(CONFIG, without=("evolution",)), progress=False)
    assert (model.params.short_weight, model.params.satiation_gain) == pytest.approx((0, 0), abs=1e-6)
    assert model.params.long_rate == pytest.approx(0, abs=1e-6)
    users, hour = np.arange(len(log.users)), np.zeros(len(log.users), np.float32)
    state, moment = model.start(model.user_parameters), (hour, np.zeros_like(users), np.zeros_like(users))
    before = model.preference(state, *moment).copy()
    assert np.ptp(before, axis=0).max() > 0.01
    for item in range(3):
        model.consume(state, users, np.full(len(users), item, np.int32))
        model.pause(state, users, np.full(len(users), 3.0, np.float32), None)
    np.testing.assert_allclose(model.preference(state, *moment), before, atol=1e-6)


def test_gain_of_evolution_and_what_survives_the_shuffle_are_paired_by_user(still_log, cache):
    log, quick = still_log, replace(CONFIG, epochs=1)
    gain = evolution_gain(log, quick, progress=False)
    rows = {
        row.shuffled: row
        for row in ablation(log, quick, False, terms=("evolution",), shuffled_terms=("evolution",))
        if row.term == "evolution"
    }
    for shuffled, found, nll in ((False, gain.as_logged, gain.nll), (True, gain.shuffled, gain.nll_shuffled)):
        row = rows[shuffled]
        assert (found, nll) == ((row.gain, row.gain_low, row.gain_high), row.nll)
    # by hand, from models fitted here
    of_order = []
    for seed in (None, SHUFFLE_SEED):
        split = split_events(log, shuffle_seed=seed)
        full, still = (
            user_model_likelihood(fit_interest_model(log, config, False, seed), log.catalogue.birth, split)
            for config in (quick, replace(quick, without=("evolution",)))
        )
        of_order.append(np.bincount(full.user, still.masked - full.masked))
    lost, events = of_order[0] - of_order[1], len(full.user)
    counts = np.bincount(full.user)
    mean = lost.sum() / events
    half = 1.96 * np.sqrt(((lost - counts * mean) ** 2).sum()) / events
    assert gain.lost == pytest.approx((mean, mean - half, mean + half), abs=1e-5)
    assert gain.figures()["evolution_gain_lost_low"] == gain.lost[1]
    assert gain.figures()["nll_no_evolution_shuffled"] == gain.nll_shuffled


def test_arrays_stay_at_zero_without_their_terms(log):
    without = ("context", "age", "own_start", "recalibration")
    model = fit_interest_model(log, replace(CONFIG, epochs=1, without=without), progress=False)
    assert not model.context_weights.any()
    assert not model.age_values.any()
    assert not model.user_embedding.any()


def test_an_unknown_term_is_refused():
    with pytest.raises(ConfigurationError, match="'long'"):
        FitConfig(without=("long",))


@pytest.mark.slow
def test_what_made_the_log_buys_something_and_the_rest_does_not(log, cache):
    rows = {
        (row.term, row.shuffled): row
        for row in ablation(log, CONFIG, False, terms=("short_term", "satiation"), shuffled_terms=("short_term",))
    }
    short, satiation = rows["short_term", False], rows["satiation", False]
    assert short.gain_low > 0.05
    assert short.verdict.startswith("buys 0.")
    assert abs(satiation.gain) < 0.05
    assert rows["all_but_popularity", False].gain > short.gain
    shuffled = split_events(log, shuffle_seed=SHUFFLE_SEED)
    of_shuffled = [
        user_model_likelihood(fit_interest_model(log, config, False, SHUFFLE_SEED), log.catalogue.birth, shuffled)
        for config in (CONFIG, replace(CONFIG, without=("short_term",)))
    ]
    gain = of_shuffled[1].mean()[0] - of_shuffled[0].mean()[0]
    assert rows["short_term", True].gain == pytest.approx(gain, abs=1e-6)
    assert gain < short.gain - 0.02  # some of what the last items tell is their order
    model = fit_interest_model(log, CONFIG, progress=False)
    full = user_model_likelihood(model, log.catalogue.birth, split_events(log)).mean()[0]
    assert short.nll - short.gain == pytest.approx(full, abs=1e-6)
    assert ablation_figures([short, rows["short_term", True]]) == {
        "ablation_short_term": short.gain,
        "ablation_short_term_shuffled": rows["short_term", True].gain,
    }


def test_an_interrupted_study_goes_on_from_the_cache(log, cache, monkeypatch):
    quick = replace(CONFIG, epochs=1)
    first = ablation(log, quick, False, terms=("age",), shuffled_terms=())
    monkeypatch.setattr(module, "catalogue_choice_model", lambda *_: pytest.fail("fitted again"))
    assert ablation(log, quick, False, terms=("age",), shuffled_terms=()) == first
    for path in cache.rglob("*.events.npz"):
        path.write_bytes(b"damaged")
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        ablation(log, quick, False, terms=("age",), shuffled_terms=())


def test_a_term_whose_interval_holds_zero_buys_nothing():
    assert verdict(0.02, 0.01, 0.03) == "buys 0.020 nats"
    assert verdict(0.02, -0.01, 0.05).startswith("buys nothing")
    assert verdict(-0.02, -0.03, -0.01).startswith("costs 0.020 nats")
    assert verdict(np.nan, np.nan, np.nan).startswith("cannot be told")
