import json
from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import draw_log, make_model
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import ArtefactError
from envs.users.interest import InterestModel, context_rows
from envs.users.protocol import AGE_KNOTS, age_effect, replay


@given(days=st.lists(st.floats(-50, 80_000), min_size=1, max_size=20))
def test_age_effect_is_linear_interpolation_on_the_log_scale(days):
    model = make_model()
    days = np.array(days, np.float32)
    expected = np.interp(np.log1p(np.maximum(days, 0).astype(np.float64)), AGE_KNOTS, model.age_values)
    assert_allclose(age_effect(model.age_values, days), expected, atol=1e-5)


def test_consumption_moves_interests_as_documented():
    model = make_model(short_decay=0.6, long_rate=0.1, satiation_decay=0.5)
    state = model.start(model.user_parameters[[2, 4]])
    model.consume(state, np.array([1]), np.array([7], np.int32))
    model.consume(state, np.array([1]), np.array([9], np.int32))
    v, m = model.item_embedding, model.categories
    assert_allclose(state.short_term[1], 0.6 * 0.4 * v[7] + 0.4 * v[9], rtol=1e-5)
    assert_allclose(state.long_term[1], 0.9 * (0.9 * model.user_embedding[4] + 0.1 * v[7]) + 0.1 * v[9], rtol=1e-5)
    assert_allclose(state.satiation[1], 0.5 * m[7] + m[9])
    assert_array_equal(state.long_term[0], model.user_embedding[2])
    assert not state.short_term[0].any()


def test_a_pause_of_a_half_life_halves_interest_and_only_a_walk_moves_the_long_term():
    model = make_model(short_half_life_days=2.0, satiation_half_life_days=0.5, walk_sd=0.3)
    state = model.start(model.user_parameters[:2])
    model.consume(state, np.arange(2), np.array([3, 5], np.int32))
    before = state.take(np.arange(2))
    model.pause(state, np.array([0]), np.array([2.0], np.float32), None)
    assert_allclose(state.short_term[0], before.short_term[0] / 2, rtol=1e-6)
    assert_allclose(state.satiation[0], before.satiation[0] / 16, rtol=1e-6)
    assert_array_equal(state.long_term, before.long_term)
    walk = np.ones((1, 4), np.float32)
    model.pause(state, np.array([1]), np.array([4.0], np.float32), walk)
    assert_allclose(state.long_term[1] - before.long_term[1], 0.6, rtol=1e-4)


def test_utility_is_the_sum_of_its_terms():
    model = make_model(short_weight=1.7, long_weight=2.5, satiation_gain=0.4)
    state = model.start(model.user_parameters[:3])
    model.consume(state, np.arange(3), np.array([1, 2, 3], np.int32))
    hour, weekday, place = np.array([1.0, 13.0, 23.9], np.float32), np.array([0, 5, 6]), np.array([0, 3, 20])
    utility = model.preference(state, hour, weekday, place) @ model.item_vectors.T
    for user, contexts in enumerate(([0, 6, 8], [3, 7, 9], [5, 7, 11])):
        interest = 2.5 * state.long_term[user] + 1.7 * state.short_term[user]
        taste = model.context_weights[contexts].sum(axis=0) - 0.4 * state.satiation[user]
        assert_allclose(utility[user], model.item_embedding @ interest + model.categories @ taste, rtol=1e-4, atol=1e-5)


def test_every_context_row_is_within_omega():
    hour, weekday, place = np.meshgrid(np.linspace(0, 23.99, 9), np.arange(7), [0, 1, 4, 16, 400])
    rows = context_rows(hour.ravel(), weekday.ravel(), place.ravel())
    assert rows.min() == 0
    assert set(np.unique(rows)) == set(range(len(make_model().context_weights)))


def test_ratings_lie_on_the_grid_and_rise_with_utility():
    model = make_model(rating_slope=0.5, rating_sd=0.5)
    state = model.start(model.user_parameters[:1])
    users, items, noise = np.zeros(500, np.int64), np.zeros(500, np.int32), np.random.default_rng(0).normal(size=500)
    low = model.rate(state, users, items, np.full(500, -2, np.float32), noise.astype(np.float32))
    high = model.rate(state, users, items, np.full(500, 2, np.float32), noise.astype(np.float32))
    assert set(np.concatenate([low, high])) <= set(model.rating_grid)
    assert (high >= low).all()
    assert (high > low).any()
    bare = replace(model, rating_grid=np.zeros(0, np.float32))
    assert np.isnan(bare.rate(state, users, items, np.zeros(500, np.float32), noise.astype(np.float32))).all()


def test_a_saved_model_comes_back_to_the_bit(tmp_path):
    model = make_model(short_decay=0.123456789)
    model.table.append({"name": "x", "value": 1.5, "low": None, "high": None})
    model.save(tmp_path / "model.npz")
    loaded = InterestModel.load(tmp_path / "model.npz")
    assert loaded.params == model.params
    assert loaded.visits == model.visits
    assert loaded.table == model.table
    for name, array in vars(model).items():
        if isinstance(array, np.ndarray):
            assert_array_equal(getattr(loaded, name), array)
            assert getattr(loaded, name).dtype == array.dtype


@pytest.mark.parametrize("keep", [0, 50, 0.5])
def test_a_damaged_file_is_refused_with_its_name(tmp_path, keep):
    path = tmp_path / "model.npz"
    make_model().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ArtefactError, match=r"model\.npz"):
        InterestModel.load(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    header = json.dumps({"kind": "Index", "format_version": 1, "configuration": {}})
    np.savez(path, __header__=np.frombuffer(header.encode(), np.uint8))
    with pytest.raises(ArtefactError, match="Index"):
        InterestModel.load(path)


def test_replay_of_a_log_is_one_consumption_after_another():
    model = make_model(users=5)
    log = draw_log(model, events=12, visit_share=0.3)
    state = replay(model, log)
    for user in range(5):
        alone = model.start(model.user_parameters[[user]])
        rows = np.flatnonzero(log.user == user)
        for before, row in zip([None, *rows[:-1]], rows, strict=True):
            if before is not None and log.visit[row] != log.visit[before]:
                days = np.array([(log.timestamp[row] - log.timestamp[before]) / 86_400], np.float32)
                model.pause(alone, np.array([0]), days, None)
            model.consume(alone, np.array([0]), log.item[row : row + 1])
        assert_allclose(state.short_term[user], alone.short_term[0], rtol=1e-5)
        assert_allclose(state.long_term[user], alone.long_term[0], rtol=1e-5)
        assert_allclose(state.satiation[user], alone.satiation[0], rtol=1e-5)
