"""Tastes of a user's own: found again where users differ, left out where they do not."""

from dataclasses import replace

import numpy as np
from fitted_logs import draw_log, make_model
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from envs.logs.schema import InteractionLog
from envs.users.assembly import with_own_tastes
from envs.users.interest import InterestModel
from envs.users.likelihood import Part, split_events, user_model_likelihood
from envs.users.taste_traits import TASTES, fit_taste_traits, item_novelty, rare_item_offsets

USERS, ITEMS = 150, 60
SPREAD = np.array([0.8, 0.6, 0.25])


def drawn(spread: NDArray[np.float64]) -> tuple[InteractionLog, InterestModel, NDArray[np.float64]]:
    """(log, the model that made it but for its users' tastes, these [U, 3])."""
    rng = np.random.default_rng(1)
    model = make_model(users=USERS, items=ITEMS, strength=2.0, seed=1)
    model = replace(model, item_novelty=rng.normal(size=ITEMS), fit_report={"follows_popularity": False})
    tastes = spread * rng.normal(size=(USERS, 3))
    traits = model.user_traits.copy()
    traits[:, TASTES] = tastes
    return draw_log(replace(model, user_traits=traits), events=40), model, tastes


def test_tastes_are_found_again() -> None:
    log, model, tastes = drawn(SPREAD)
    found = fit_taste_traits(model, model.item_novelty, log.catalogue.birth, split_events(log))
    assert found.gain > 0
    for column, least in enumerate((0.4, 0.4, 0.3)):
        assert np.corrcoef(found.users[:, column], tastes[:, column])[0, 1] > least
    assert_allclose(found.spread[:2], SPREAD[:2], rtol=0.6)


def test_tastes_of_ones_own_predict_held_out_events() -> None:
    log, model, _ = drawn(SPREAD)
    split, birth = split_events(log), log.catalogue.birth
    found = fit_taste_traits(model, model.item_novelty, birth, split)
    traits = model.user_traits.copy()
    traits[:, TASTES] = found.users
    with_tastes = user_model_likelihood(replace(model, user_traits=traits), birth, split).mean()[0]
    assert with_tastes < user_model_likelihood(model, birth, split).mean()[0] - 0.01


def test_users_who_do_not_differ_are_given_next_to_none() -> None:
    log, model, _ = drawn(np.zeros(3))
    found = fit_taste_traits(model, model.item_novelty, log.catalogue.birth, split_events(log))
    assert found.users.std(axis=0).max() < 0.1


def test_rare_items_get_the_share_that_held_out_events_give_them() -> None:
    _, model, _ = drawn(np.zeros(3))
    model = replace(model, item_bias=model.item_bias - 4 * (np.arange(ITEMS) >= 30))
    log = draw_log(model, events=40)
    split, birth = split_events(log), log.catalogue.birth
    rare = split.counts(Part.FIT) <= 5
    assert rare.any()
    wrong = replace(model, item_bias=model.item_bias - np.where(rare, 3.0, 0.0))
    offsets = rare_item_offsets(wrong, birth, split)
    assert offsets[rare].mean() > 0.5
    assert_array_equal(offsets[~rare], 0)
    mended = replace(wrong, item_bias=wrong.item_bias + offsets)
    test = {
        name: user_model_likelihood(m, birth, split).mean()[0] for name, m in (("wrong", wrong), ("mended", mended))
    }
    assert test["mended"] < test["wrong"]


def test_novelty_is_standardised_by_what_is_consumed() -> None:
    birth, counts = np.array([0, 100, 200, 10**9]), np.array([1, 2, 1, 0])
    novelty = item_novelty(birth, counts)
    assert_allclose(counts @ novelty, 0, atol=1e-6)
    assert_allclose(counts @ novelty**2, 4, rtol=1e-6)
    assert novelty[3] == 4
    assert_array_equal(item_novelty(np.zeros(4, int), counts), 0)


def test_a_model_that_follows_popularity_is_left_alone() -> None:
    log, model, _ = drawn(SPREAD)
    model = replace(model, fit_report={"follows_popularity": True})
    assert with_own_tastes(model, log, split_events(log)) is model
