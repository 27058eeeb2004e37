from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from fitted_logs import draw_log, make_model
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import ArtefactError
from envs.slate_env import SlateVectorEnv
from envs.users.augru import augru
from envs.users.baselines import popularity_likelihood, static_likelihood
from envs.users.block_weights import UtilityPart, fit_block_weights
from envs.users.dien import DienModel, augru_step
from envs.users.dien_fit import DienConfig, fit_dien_model
from envs.users.dien_network import Network
from envs.users.fit import FitConfig
from envs.users.likelihood import replay_preferences, split_events, user_model_likelihood
from envs.users.protocol import ExtendableUserModel, Trait
from envs.users.row_product import row_product


def make_network(size: int = 5, facets: int = 3, attentive: bool = True, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(4, 3, size, facets, attentive, 0.5).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    return network


@pytest.fixture
def model() -> DienModel:
    return DienModel(base=make_model(), network=make_network().exported(1.0))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop_gru(state, inputs, weight, bias, attention):
    """One step of one user's one facet, gate by gate, number by number."""
    size = len(state)
    following = np.empty(size)
    for unit in range(size):
        reset = sigmoid(inputs[unit] + state @ weight[:, unit] + bias[unit])
        update = sigmoid(inputs[size + unit] + state @ weight[:, size + unit] + bias[size + unit])
        candidate = np.tanh(
            inputs[2 * size + unit] + reset * (state @ weight[:, 2 * size + unit] + bias[2 * size + unit])
        )
        following[unit] = (1 - attention * update) * state[unit] + attention * update * candidate
    return following


# --- the recurrence


def random_recurrence(steps=6, users=3, facets=2, size=4, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(steps, users, 3 * size)),
        rng.random((steps, users, size)),
        rng.normal(size=(size, 3 * size)),
        rng.normal(size=3 * size),
        rng.random((steps, users, facets)),
    )


def test_augru_of_all_users_is_a_plain_loop():
    inputs, keep, weight, bias, attention = random_recurrence()
    before, after = augru(*(torch.from_numpy(array) for array in (inputs, keep, weight, bias, attention)))
    for user in range(3):
        for facet in range(2):
            state = np.zeros(4)
            for step in range(6):
                state = state * keep[step, user]
                assert_allclose(before[step, user, facet], state, atol=1e-12)
                state = loop_gru(state, inputs[step, user], weight, bias, attention[step, user, facet])
                assert_allclose(after[step, user, facet], state, atol=1e-12)


def test_the_simulators_step_is_the_plain_loop():
    inputs, _, weight, bias, attention = (array.astype(np.float32) for array in random_recurrence())
    state = np.random.default_rng(1).normal(size=(3, 2, 4)).astype(np.float32)
    moved = augru_step(state, inputs[0], weight, bias, attention[0])
    for user in range(3):
        for facet in range(2):
            expected = loop_gru(state[user, facet], inputs[0, user], weight, bias, attention[0, user, facet])
            assert_allclose(moved[user, facet], expected, atol=1e-5)


def test_augru_has_the_gradient_of_its_loop():
    arguments = [torch.from_numpy(array).requires_grad_() for array in random_recurrence(steps=3, users=2, size=2)]
    assert torch.autograd.gradcheck(augru, arguments)


def test_with_attention_of_one_it_is_torchs_gru():
    torch.manual_seed(0)
    gru = torch.nn.GRU(3, 4).double()
    inputs = torch.randn(6, 2, 3, dtype=torch.float64)
    # torch's update gate is the share that is kept, DIEN's the share that moves
    turn = torch.ones(12, dtype=torch.float64)
    turn[4:8] = -1
    _, after = augru(
        (inputs @ gru.weight_ih_l0.T + gru.bias_ih_l0) * turn,
        torch.ones(6, 2, 4, dtype=torch.float64),
        gru.weight_hh_l0.T * turn,
        gru.bias_hh_l0 * turn,
        torch.ones(6, 2, 1, dtype=torch.float64),
    )
    assert_allclose(after[:, :, 0].detach(), gru(inputs)[0].detach(), atol=1e-12)


def test_row_products_are_products_whose_bits_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    rows, weight = rng.normal(size=(700, 48)).astype(np.float32), rng.normal(size=(48, 30)).astype(np.float32)
    product = row_product(rows, weight)
    assert_allclose(product, rows @ weight, atol=1e-4)
    for few in (np.array([5]), rng.permutation(700)[:77]):
        assert_array_equal(row_product(rows[few], weight), product[few])


# --- the network in torch and in the simulator


@pytest.mark.parametrize("attentive", [True, False])
def test_the_network_over_all_events_is_the_simulators_replay(attentive):
    base, scale = make_model(), 1.7
    network = make_network(attentive=attentive)
    model = DienModel(base=base, network=network.exported(scale))
    rng = np.random.default_rng(0)
    steps, users = 7, 6
    items = rng.integers(30, size=(steps, users))
    days = np.where(rng.random((steps, users)) < 0.4, rng.exponential(2, (steps, users)), 0).astype(np.float32)
    days[0] = 0
    embedding = torch.from_numpy(base.item_embedding * np.float32(scale))
    with torch.no_grad():
        facets, extracted = network(embedding[items], torch.from_numpy(base.categories[items]), torch.from_numpy(days))
        utility = facets.flatten(2) @ network.facet_vectors(embedding).T
    state = model.start(model.user_parameters)
    context = np.zeros(users, np.float32), np.zeros(users, np.int64), np.zeros(users, np.int64)
    for step in range(steps):
        paused = np.flatnonzero(days[step])
        model.pause(state, paused, days[step, paused], None)
        own = model.preference(state, *context)[:, base.item_vectors.shape[1] :]
        assert_allclose(
            own @ model.item_vectors[:, base.item_vectors.shape[1] :].T, utility[step], rtol=1e-4, atol=1e-4
        )
        model.consume(state, np.arange(users), items[step].astype(np.int32))
        assert_allclose(state.extracted, extracted[step], atol=1e-5)


def test_two_pauses_are_one_of_their_sum(model):
    one, two = (model.start(model.user_parameters) for _ in range(2))
    rows = np.arange(6)
    for state in (one, two):
        model.consume(state, rows, np.arange(6, dtype=np.int32))
    model.pause(one, rows, np.full(6, 3, np.float32), None)
    for days in (1, 2):
        model.pause(two, rows, np.full(6, days, np.float32), None)
    for state in (one, two):
        model.consume(state, rows, np.arange(6, 12, dtype=np.int32))
    for f in fields(one):
        assert_allclose(getattr(one, f.name), getattr(two, f.name), atol=1e-6)
    assert not one.days_away.any()


def test_an_items_shares_sum_to_one_and_one_facet_takes_all(model):
    shares = model.network.facet_shares(model.base.item_embedding)
    assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert shares.std() > 0.05
    single = DienModel(base=model.base, network=make_network(facets=1).exported(1.0))
    width = model.base.item_vectors.shape[1]
    assert_allclose(single.item_vectors[:, width : width + 4], model.base.item_embedding, rtol=1e-6)


# --- the protocol


def test_a_users_state_does_not_depend_on_the_batch(model):
    rng = np.random.default_rng(0)
    many = np.arange(90) % 6
    together, alone = model.start(model.user_parameters[many]), model.start(model.user_parameters[[4]])
    for _ in range(5):
        items = rng.integers(30, size=90).astype(np.int32)
        model.consume(together, np.arange(90), items)
        model.consume(alone, np.array([0]), items[[76]])
    assert many[76] == 4
    for f in fields(alone):
        assert_array_equal(getattr(alone, f.name)[0], getattr(together, f.name)[76])


def test_a_focused_user_weighs_facets_more_as_all_else(model):
    users = model.user_parameters[[2, 2]].copy()
    users[1, -len(Trait) + Trait.FOCUS] = 0.5
    state = model.start(users)
    model.consume(state, np.arange(2), np.array([3, 3], np.int32))
    zeros = np.zeros(2, np.int64)
    plain, focused = model.preference(state, zeros.astype(np.float32), zeros, zeros) @ model.item_vectors.T
    assert_allclose(focused, 1.5 * plain + 0.5 * model.item_bias, rtol=1e-4, atol=1e-4)


def test_taken_users_live_their_own_lives_and_are_put_back(model):
    state = model.start(model.user_parameters)
    model.consume(state, np.arange(6), np.arange(6, dtype=np.int32))
    before = state.evolved.copy()
    some = state.take(np.array([1, 4]))
    model.consume(some, np.arange(2), np.array([7, 8], np.int32))
    assert_array_equal(state.evolved, before)
    state.put(np.array([1, 4]), some)
    assert (state.evolved[[1, 4]] != before[[1, 4]]).any(axis=(1, 2)).all()
    assert_array_equal(state.evolved[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    assert_array_equal(state.long_term[[1, 4]], some.long_term)


def test_new_items_get_shares_from_their_embeddings(model):
    assert isinstance(model, ExtendableUserModel)
    parents = np.array([3, 3, 9])
    noise = np.random.default_rng(0).normal(size=(3, model.item_noise_width)).astype(np.float32)
    extended = model.with_items(parents, noise)
    assert extended.item_vectors.shape == (33, model.item_vectors.shape[1])
    assert_array_equal(extended.item_vectors[:30], model.item_vectors)
    state = extended.start(extended.user_parameters)
    extended.consume(state, np.arange(6), np.array([30, 31, 32, 0, 1, 2], np.int32))
    assert np.isfinite(state.evolved).all()


def test_a_saved_model_comes_back_and_another_kind_is_refused(model, tmp_path):
    model = replace(model, table=[{"name": "x"}], fit_report={"masked": 1.5})
    model.save(tmp_path / "dien.npz")
    loaded = DienModel.load(tmp_path / "dien.npz")
    assert_array_equal(loaded.item_vectors, model.item_vectors)
    for f in fields(model.network):
        assert_array_equal(getattr(loaded.network, f.name), getattr(model.network, f.name))
    assert (loaded.table, loaded.fit_report) == (model.table, model.fit_report)
    model.base.save(tmp_path / "parametric.npz")
    with pytest.raises(ArtefactError, match="InterestModel"):
        DienModel.load(tmp_path / "parametric.npz")


def test_the_engine_runs_it(model):
    log = draw_log(model.base, events=8)
    env = SlateVectorEnv(6, log=log, user_model=model, slate_size=3, num_candidates=10)
    env.reset(seed=0)
    for _ in range(3):
        _, reward, *_ = env.step(np.tile(np.arange(3), (6, 1)))
        assert np.isfinite(reward).all()


# --- the fit


@pytest.mark.slow
def test_the_fit_beats_what_stands_still_and_reports_what_is_simulated():
    truth = make_model(users=150, items=40, seed=1, short_decay=0.7, short_weight=4.0, long_weight=2.0)
    log = draw_log(truth, events=40, seed=2)
    parametric = FitConfig(embedding_size=4, epochs=8, learning_rate_decay=0.85, item_weight_decay=0.1)
    model = fit_dien_model(log, DienConfig(parametric=parametric, size=8, epochs=6), progress=False)
    split = split_events(log)
    still = min(likelihood(split).mean()[0] for likelihood in (static_likelihood, popularity_likelihood))
    best = user_model_likelihood(truth, log.catalogue.birth, split).mean()[0]
    assert best < model.fit_report["masked"] < best + 0.5 * (still - best)
    again = user_model_likelihood(model, log.catalogue.birth, split)
    assert model.fit_report["masked"] == again.mean()[0]
    rows = {row["name"]: row for row in model.table}
    assert set(asdict(model.base.params)) | set(asdict(model.visits)) <= set(rows)
    assert {"facet_weight", "rating_slope"} <= set(rows)
    for name, value in asdict(model.base.params).items():
        assert rows[name]["value"] == pytest.approx(value)


def test_factors_that_were_wrong_are_found_again():
    truth = make_model(users=300, items=40, seed=3, short_weight=3.0, satiation_gain=0.0, short_decay=0.7)
    log = draw_log(truth, events=30, seed=4)
    split = split_events(log)
    preference = replay_preferences(truth, split)
    wrong = np.array([2.0, 0.5])
    parts = [
        UtilityPart(preference[:, :4] / np.float32(wrong[0]), truth.item_vectors[:, :4]),
        UtilityPart(np.ones((len(split), 1), np.float32), truth.item_bias[:, None] / np.float32(wrong[1])),
        UtilityPart(preference[:, 4:], truth.item_vectors[:, 4:]),
    ]
    found = fit_block_weights(parts, truth.age_values, log.catalogue.birth, split, np.arange(len(split)), seed=0)
    assert_allclose(found.weight[:2], wrong, rtol=0.1)
    error = (found.weight - [*wrong, 1]) / found.half_width * 1.96
    assert np.abs(error).max() < 3.3
    assert (found.half_width[:2] < 0.2 * wrong).all()


def test_a_log_without_an_early_stopping_part_is_left_to_the_parametric_model():
    log = draw_log(make_model(), events=5)
    parametric = FitConfig(embedding_size=4, epochs=1)
    model = fit_dien_model(log, DienConfig(parametric=parametric, size=4, epochs=1), progress=False)
    assert not model.fit_report["facets_kept"]
    assert not model.network.output.any()
    alone = user_model_likelihood(model.base, log.catalogue.birth, split_events(log)).mean()[0]
    assert model.fit_report["masked"] == pytest.approx(alone, rel=1e-6)
