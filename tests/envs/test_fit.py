from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from fitted_logs import DAY, EPOCH, draw_log, make_catalogue, make_model, make_users
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import LogError
from envs.logs import load_log
from envs.logs.schema import InteractionLog
from envs.users.baselines import popularity_likelihood, static_likelihood
from envs.users.calibration import FREE_START, Arrays, age_basis, age_precision, calibrate, preference_slopes
from envs.users.dien_fit import DienConfig, fit_dien_model
from envs.users.fit import FitConfig, fit_interest_model, fit_key, fit_or_load
from envs.users.interest import InterestModel, context_rows
from envs.users.likelihood import (
    EventLikelihood,
    Part,
    replay_preferences,
    split_events,
    user_model_likelihood,
)
from envs.users.measure import likelihood_reports
from envs.users.protocol import age_effect
from envs.users.training import Scalars, catalogue_loss, make_batch, preferences, user_batches

QUICK = FitConfig(embedding_size=4, epochs=4)


@pytest.fixture
def model():
    return make_model(
        short_decay=0.6,
        short_weight=1.5,
        long_weight=2.0,
        long_rate=0.05,
        satiation_decay=0.7,
        satiation_gain=0.5,
        short_half_life_days=1.5,
        satiation_half_life_days=0.7,
    )


@pytest.fixture
def log(model):
    return draw_log(model, events=20, visit_share=0.3)


# --- the protocol


def test_split_follows_each_users_own_places(log):
    split = split_events(log, max_events=15)
    for user in range(len(log.users)):
        assert_array_equal(split.part[split.user == user], [0] * 10 + [1] * 2 + [2] * 3)
    assert_array_equal(split.item, log.item[log.place < 15])


def test_shuffling_keeps_parts_visits_and_times_but_not_the_order(log):
    split, shuffled = split_events(log), split_events(log, shuffle_seed=3)
    assert_array_equal(split.timestamp, shuffled.timestamp)
    assert_array_equal(split.part, shuffled.part)
    assert (split.item != shuffled.item).any()
    visit = log.visit[split.row]
    group = (split.user * 1000 + visit) * 3 + split.part
    for number in np.unique(group):
        assert_array_equal(np.sort(split.item[group == number]), np.sort(shuffled.item[group == number]))
    assert_array_equal(log.item[shuffled.row], shuffled.item)


def test_a_log_without_consumed_events_is_refused(log):
    empty = log.where(np.zeros(len(log), bool))
    with pytest.raises(LogError, match="no consumed event"):
        fit_interest_model(empty, QUICK, progress=False)


def test_likelihood_is_that_of_a_plain_loop(model, log):
    split = split_events(log)
    likelihood = user_model_likelihood(model, log.catalogue.birth, split)
    masked, unmasked = [], []
    for user in range(len(log.users)):
        state = model.start(model.user_parameters[[user]])
        rows = np.flatnonzero(log.user == user)
        for place, row in enumerate(rows):
            clock = log.timestamp[row]
            if place and log.visit[row] != log.visit[row - 1]:
                days = (clock - log.timestamp[row - 1]) / DAY
                model.pause(state, np.array([0]), np.array([days], np.float32), None)
            hour, weekday = np.array([clock % DAY / 3600], np.float32), np.array([(clock // DAY + 3) % 7])
            preference = model.preference(state, hour, weekday, log.place_in_visit[[row]])[0]
            age = ((clock - log.catalogue.birth) / DAY).astype(np.float32)
            utility = (model.item_vectors @ preference + model.item_bias + age_effect(model.age_values, age)).astype(
                np.float64
            )
            if place >= 8 * len(rows) // 10:
                unmasked.append(np.log(np.exp(utility).sum()) - utility[log.item[row]])
                left = np.setdiff1d(np.arange(len(utility)), log.item[rows[:place]])
                masked.append(np.log(np.exp(utility[left]).sum()) - utility[log.item[row]])
            model.consume(state, np.array([0]), log.item[[row]])
    assert_allclose(likelihood.masked, masked, rtol=1e-5)
    assert_allclose(likelihood.unmasked, unmasked, rtol=1e-5)


def test_where_items_repeat_nothing_is_masked(model, log):
    repeats = replace(
        log, item=np.where(log.place == 19, log.item[log.user_starts[log.user]], log.item), has_repeats=True
    )
    likelihood = user_model_likelihood(model, log.catalogue.birth, split_events(repeats))
    assert np.isfinite(likelihood.masked).all()
    assert_array_equal(likelihood.masked, likelihood.unmasked)


def test_interval_of_the_mean_clusters_events_by_user():
    user = np.repeat(np.arange(50), 4)
    of_user = np.random.default_rng(0).normal(size=50)
    one = EventLikelihood(user=np.arange(50), masked=of_user, unmasked=of_user)
    four = EventLikelihood(user=user, masked=of_user[user], unmasked=of_user[user])
    assert_allclose(four.mean(), one.mean())
    assert_allclose(one.mean()[1], 1.96 * of_user.std() / np.sqrt(50))


# --- torch against numpy


def torch_arrays(model, split):
    return Arrays(
        embedding=torch.from_numpy(model.item_embedding),
        categories=torch.from_numpy(model.categories),
        bias=torch.from_numpy(model.item_bias),
        start=torch.from_numpy(model.user_embedding),
        omega=torch.from_numpy(model.context_weights),
        contexts=torch.from_numpy(context_rows(split.hour, split.weekday, split.place_in_visit)),
    )


def torch_scalars(model):
    def logit(share):
        return torch.tensor(share, dtype=torch.float64).logit().float()

    p = model.params
    return Scalars.from_free(
        {
            "short_decay": logit(p.short_decay),
            "long_rate": logit(p.long_rate),
            "satiation_decay": logit(p.satiation_decay),
            "short_half_life_days": torch.tensor(p.short_half_life_days).log(),
            "satiation_half_life_days": torch.tensor(p.satiation_half_life_days).log(),
            "short_weight": torch.tensor(p.short_weight),
            "long_weight": torch.tensor(p.long_weight),
            "satiation_gain": torch.tensor(p.satiation_gain),
        }
    )


@pytest.mark.parametrize(("low", "high"), [(0, 14), (14, 16), (16, 20)])
def test_torch_preferences_and_likelihood_are_those_of_the_simulator(model, log, low, high):
    split = split_events(log)
    arrays = torch_arrays(model, split)
    ends = np.full(split.num_users, low), np.full(split.num_users, high)
    batch = make_batch(split, np.array([4, 1, 2, 0, 3, 5]), *ends)
    preference = preferences(
        batch,
        torch_scalars(model),
        arrays.embedding,
        arrays.categories,
        arrays.start[batch.users],
        arrays.context_taste(batch),
    )
    replayed = replay_preferences(model, split)[batch.event.numpy(), : preference.shape[1]]
    assert_allclose(preference.numpy(), replayed, atol=2e-5)

    plain = replace(model, age_values=np.zeros_like(model.age_values))
    vectors = torch.cat([arrays.embedding, arrays.categories], dim=1)
    total = catalogue_loss(preference, vectors, arrays.bias, batch.target, batch.earlier)
    part = Part.FIT if low == 0 else Part.STOP if low == 14 else Part.TEST
    expected = user_model_likelihood(plain, log.catalogue.birth, split, part)
    assert_allclose(total.item(), expected.masked.sum(), rtol=1e-5)


def test_catalogue_loss_has_the_gradient_of_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    preference, vectors, bias = (torch.randn(*shape, generator=generator) for shape in ((9, 3), (7, 3), (7,)))
    target = torch.arange(9) % 7
    earlier = (torch.tensor([0, 4, 4, 8]), torch.tensor([5, 1, 2, 6]))
    ours = [x.clone().requires_grad_() for x in (preference, vectors, bias)]
    (2 * catalogue_loss(*ours, target, earlier)).backward()
    plain = [x.clone().requires_grad_() for x in (preference, vectors, bias)]
    utility = (plain[0] @ plain[1].T + plain[2]).index_put(earlier, torch.tensor(-torch.inf))
    (2 * torch.nn.functional.cross_entropy(utility, target, reduction="sum")).backward()
    for one, other in zip(ours, plain, strict=True):
        assert_allclose(one.grad, other.grad, atol=1e-5)


def test_slopes_of_the_second_stage_are_the_derivatives_of_preferences(model, log):
    split = split_events(log)
    arrays = torch_arrays(model, split)
    batch = make_batch(split, np.arange(6), np.full(6, 12), np.full(6, 17))
    free = {name: torch.tensor(value + 0.3) for name, value in FREE_START.items()} | {"start_scale": torch.tensor(1.2)}

    def prefer(values):
        start = values["start_scale"] * arrays.start[batch.users]
        scalars = Scalars.from_free(values)
        taste = arrays.context_taste(batch)
        return preferences(batch, scalars, arrays.embedding, arrays.categories, start, taste)

    preference, slopes = preference_slopes(batch, free, arrays)
    assert_allclose(preference, prefer(free), atol=1e-5)
    for number, name in enumerate(free):
        up, down = (prefer({**free, name: free[name] + step}) for step in (0.01, -0.01))
        assert_allclose(slopes[:, number], (up - down) / 0.02, atol=2e-3, err_msg=name)
        assert slopes[:, number].abs().max() > 0.01


def test_batches_hold_every_user_with_events_once():
    size = np.array([0, 5, 100, 3, 0, 40, 7])
    for rng in (None, np.random.default_rng(0)):
        batches = list(user_batches(size, 50, rng))
        assert sorted(np.concatenate(batches)) == [1, 2, 3, 5, 6]
    assert list(user_batches(np.zeros(3, np.int64), 50)) == []


def test_age_basis_gives_the_age_effect(model):
    days = np.array([-3, 0, 0.5, 17, 400, 9_000, 1e6], np.float32)
    assert_allclose(age_basis(days) @ model.age_values, age_effect(model.age_values, days), atol=1e-5)


# --- the fit


TRUE_DYNAMICS = {
    "short_decay": 0.7,
    "short_weight": 4.0,
    "long_weight": 2.0,
    "long_rate": 0.02,
    "satiation_decay": 0.8,
    "satiation_gain": 0.6,
    "short_half_life_days": 1.0,
    "satiation_half_life_days": 1.0,
}


@pytest.fixture(scope="module")
def recovered():
    truth = make_model(users=200, items=60, seed=1, **TRUE_DYNAMICS)
    log = draw_log(truth, events=50, seed=2)
    config = FitConfig(embedding_size=4, epochs=8, learning_rate_decay=0.85, item_weight_decay=0.1)
    return truth, log, fit_interest_model(log, config, progress=False)


def test_the_fit_finds_the_dynamics_that_made_the_log(recovered):
    truth, _, model = recovered
    # Embeddings are learnt from some 7,000 events, and their errors draw weights and memories towards zero.
    assert 0.5 < model.params.short_decay < 0.8
    assert 2.0 < model.params.short_weight < 5.0
    assert 0.3 < model.params.satiation_gain < 0.9
    assert 0.6 < model.params.satiation_decay < 0.95
    assert model.params.long_rate < 0.15
    assert np.corrcoef(model.item_bias, truth.item_bias)[0, 1] > 0.6


def test_the_fit_comes_close_to_the_truth_and_beats_what_stands_still(recovered):
    truth, log, model = recovered
    split = split_events(log)
    best = user_model_likelihood(truth, log.catalogue.birth, split).mean()[0]
    still = min(likelihood(split).mean()[0] for likelihood in (static_likelihood, popularity_likelihood))
    assert best < model.fit_report["masked"] < best + 0.5 * (still - best)


def test_given_embeddings_the_second_stage_and_its_intervals_find_the_truth():
    truth = make_model(users=300, items=60, seed=1, **TRUE_DYNAMICS)
    log = draw_log(truth, events=50, seed=5, visit_share=0.2)
    split = split_events(log)
    low, high = np.zeros(300, np.int64), np.full(300, 35)
    start = {name: value + 0.3 for name, value in FREE_START.items()} | {"short_weight": 3.0}
    ages = np.zeros(len(truth.age_values))
    precision = age_precision(slope_sd=10.0, bend_sd=10.0)
    found = calibrate(
        split, torch_arrays(truth, split), log.catalogue.birth, start, ages, precision, low, high, lambda: None
    )
    free = {
        name: np.log(value / (1 - value))
        if name in ("short_decay", "long_rate", "satiation_decay")
        else np.log(value)
        if name.endswith("days")
        else value
        for name, value in TRUE_DYNAMICS.items()
    }
    free |= {"start_scale": 1.0, "bias_scale": 1.0}
    off = {name: (found.free[name] - value) / found.sd[name] for name, value in free.items()}
    assert max(abs(score) for score in off.values()) < 3.3, off
    assert np.mean([abs(score) < 1.96 for score in off.values()]) >= 0.7, off
    for name, sd in {"short_decay": 0.15, "short_weight": 0.2, "satiation_gain": 0.2}.items():
        assert found.sd[name] < sd
    often = age_basis((log.timestamp - log.catalogue.birth[log.item]) / DAY).mean(axis=0) > 0.05
    assert often.sum() >= 3
    error = found.age_values[often] - truth.age_values[often]
    assert np.abs(error - error.mean()).max() < 0.2


def test_what_is_reported_is_what_is_simulated(recovered):
    _, log, model = recovered
    again = user_model_likelihood(model, log.catalogue.birth, split_events(log))
    assert model.fit_report["masked"] == again.mean()[0]
    assert model.fit_report["unmasked"] == again.mean(masked=False)[0]


def test_embeddings_have_a_mean_norm_of_one(recovered):
    _, _, model = recovered
    assert_allclose(np.linalg.norm(model.item_embedding, axis=1).mean(), 1, rtol=1e-5)


def test_every_parameter_is_in_the_table_with_source_and_note(recovered):
    _, _, model = recovered
    rows = {row["name"]: row for row in model.table}
    assert set(asdict(model.params)) | set(asdict(model.visits)) <= set(rows)
    for row in rows.values():
        assert set(row) == {"name", "symbol", "value", "low", "high", "source", "note"}
        assert row["source"] in ("fitted", "assumed")
        assert row["note"]
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
    for name in ("short_decay", "short_weight", "long_rate", "satiation_gain", "leave_intercept", "rating_slope"):
        assert rows[name]["source"] == "fitted"
        assert rows[name]["low"] is not None
    for name, value in {**asdict(model.params), **asdict(model.visits)}.items():
        assert rows[name]["value"] == pytest.approx(value)


def test_the_rating_head_finds_slope_and_spread(recovered):
    truth, _, model = recovered
    assert abs(model.params.rating_slope - truth.params.rating_slope) < 0.08
    assert abs(model.params.rating_sd - truth.params.rating_sd) < 0.2
    assert model.fit_report["rating_calibration_error"] < 0.15


def test_same_seed_same_fit(log):
    one, two = (fit_interest_model(log, QUICK, progress=False) for _ in range(2))
    assert_array_equal(one.item_embedding, two.item_embedding)
    assert one.params == two.params


@pytest.mark.parametrize("lengths", [[1], [1, 2, 3], [0, 5, 1, 0], [30, 1]])
def test_tiny_logs_are_fitted_without_a_crash(lengths):
    user = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    place = np.concatenate([np.arange(length) for length in lengths])
    log = InteractionLog.from_rows(
        name="tiny",
        users=make_users(len(lengths)),
        catalogue=make_catalogue(np.eye(3, dtype=np.float32)[np.arange(40) % 3]),
        user=user,
        item=place.astype(np.int32),
        timestamp=EPOCH + place * 5000,
    )
    model = fit_interest_model(log, QUICK, progress=False)
    assert all(np.isfinite(value) for value in (*asdict(model.params).values(), *asdict(model.visits).values()))
    for array in (model.item_vectors, model.item_bias, model.user_embedding, model.age_values, model.user_traits):
        assert np.isfinite(array).all()
    assert not len(model.rating_grid)


# --- the cache


def test_a_fit_is_kept_and_a_damaged_one_is_made_anew(log, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path))
    first = fit_or_load(log, QUICK, progress=False)
    (path,) = (tmp_path / "fits").iterdir()
    written = path.stat().st_mtime_ns
    again = fit_or_load(log, QUICK, progress=False)
    assert path.stat().st_mtime_ns == written
    assert_array_equal(again.item_embedding, first.item_embedding)
    assert again.fit_report == first.fit_report
    path.write_bytes(path.read_bytes()[:1000])
    anew = fit_or_load(log, QUICK, progress=False)
    assert_array_equal(anew.item_embedding, first.item_embedding)
    assert path.stat().st_size > 1000


def test_a_fit_whose_users_lack_traits_is_made_anew(log, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path))
    first = fit_or_load(log, QUICK, progress=False)
    (path,) = (tmp_path / "fits").iterdir()
    replace(first, user_traits=first.user_traits[:, :4]).save(path)
    dien = fit_dien_model(log, DienConfig(parametric=QUICK, size=4, epochs=1), progress=False)
    assert dien.base.user_traits.shape == first.user_traits.shape
    assert_array_equal(InterestModel.load(path).user_traits, first.user_traits)


def test_the_key_knows_data_and_configuration(log):
    key = fit_key(log, QUICK)
    assert key == fit_key(log.where(np.ones(len(log), bool)), QUICK)
    assert key != fit_key(log.where(np.arange(len(log)) > 0), QUICK)
    assert key != fit_key(log, replace(QUICK, seed=1))


def test_reports_of_all_models_come_from_the_cache_the_second_time(log, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path))
    reports = likelihood_reports(log, QUICK, shuffled=True, progress=False)
    names = ["evolving", "static", "popularity"]
    assert list(reports) == names + [f"{name}, shuffled" for name in names]
    assert all(np.isfinite(report["masked"]) and report["masked"] <= report["unmasked"] for report in reports.values())
    assert likelihood_reports(log, QUICK, shuffled=True, progress=False) == reports


def test_free_start_names_the_scalars():
    assert Scalars.from_free({name: torch.tensor(value) for name, value in FREE_START.items()}).short_weight == 1


# --- the real log


@pytest.mark.slow
def test_movielens_is_predicted_better_than_the_bar():
    model = fit_interest_model(load_log("ml-100k", progress=False), progress=False)
    assert model.fit_report["masked"] <= 5.90
