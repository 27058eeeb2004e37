from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import DAY, EPOCH, draw_log, make_catalogue, make_model, make_users

from envs.logs.schema import InteractionLog
from envs.users import selection
from envs.users.baselines import popularity_likelihood
from envs.users.fit import FitConfig, fit_interest_model
from envs.users.likelihood import split_events
from envs.users.selection import choose_config, strengthened

QUICK = FitConfig(embedding_size=4, epochs=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path))
    monkeypatch.setattr(selection, "WIDTHS", (2, 4))
    return tmp_path


@pytest.fixture(scope="module")
def log():
    return draw_log(make_model(users=60, items=40, seed=1, short_weight=3.0, long_weight=2.0), events=40, seed=2)


def test_the_best_candidate_is_chosen_and_kept(log, cache, monkeypatch):
    choice = choose_config(log, QUICK, progress=False)
    assert len(choice.tried) == len(selection.STRENGTHS) + 1
    best = min(choice.tried, key=lambda candidate: candidate.stop_nll)
    assert choice.config == strengthened(QUICK, best.embedding_size, best.strength)
    assert choice.users == 60
    assert f"d {best.embedding_size}" in choice.sentence()
    monkeypatch.setattr(selection, "train", lambda *_: pytest.fail("searched again"))
    assert choose_config(log, QUICK, progress=False) == choice


def test_defaults_stand_where_they_were_chosen_before(log, cache, monkeypatch):
    monkeypatch.setattr(selection, "train", lambda *_: pytest.fail("searched"))
    known = replace(log, name="ml-100k")
    assert choose_config(known, QUICK, progress=False).config is QUICK
    with pytest.raises(pytest.fail.Exception, match="searched"):
        choose_config(known, QUICK, search=True, progress=False)


def test_a_large_log_is_searched_on_a_sample_of_its_users(log, cache, monkeypatch):
    monkeypatch.setattr(selection, "_CELLS", 1)
    monkeypatch.setattr(selection, "_MIN_EVENTS", 400)
    assert choose_config(log, QUICK, progress=False).users == 10


def test_strength_moves_every_decay():
    strong = strengthened(FitConfig(), 16, 3.0)
    assert strong.embedding_size == 16
    assert strong.item_weight_decay == pytest.approx(3 * FitConfig().item_weight_decay)
    assert strong.user_weight_decay == pytest.approx(3 * FitConfig().user_weight_decay)
    assert strong.bias_weight_decay > FitConfig().bias_weight_decay
    assert strengthened(FitConfig(), 32, 1.0) == FitConfig()


def thin_log(users: int, items: int, events: int = 60, seed: int = 0) -> InteractionLog:
    """Few events of each user among many items, repeats allowed; items differ in popularity and in nothing else."""
    rng = np.random.default_rng(seed)
    popularity = 1 / (rng.permutation(items) + 5.0)
    item = rng.choice(items, users * events, p=popularity / popularity.sum())
    gaps = np.where(rng.random((users, events)) < 0.1, rng.exponential(2, (users, events)) * DAY, 60).astype(np.int64)
    return InteractionLog.from_rows(
        name="thin",
        users=make_users(users),
        catalogue=make_catalogue(np.eye(12, dtype=np.float32)[rng.integers(12, size=items)]),
        user=np.repeat(np.arange(users, dtype=np.int32), events),
        item=item.astype(np.int32),
        timestamp=EPOCH + gaps.cumsum(axis=1).ravel(),
    )


def thin_log_of_drifting_tastes(users: int, items: int, taste: float, events: int = 60) -> InteractionLog:
    """The same of users whose tastes are of standard deviation `taste` in logits and drift, 5 % of them anew with each event."""
    rng = np.random.default_rng(0)
    bias = -np.log(rng.permutation(items) + 5.0)
    vectors, tastes = rng.normal(size=(items, 4)) / 2, rng.normal(size=(users, 4))
    log = thin_log(users, items, events)
    item = np.empty((users, events), np.int32)
    for place in range(events):
        utility = taste * tastes @ vectors.T + bias
        item[:, place] = np.argmax(utility + rng.gumbel(size=utility.shape), axis=1)
        tastes = 0.95 * tastes + np.sqrt(1 - 0.95**2) * rng.normal(size=tastes.shape)
    groups = np.argmax(vectors @ rng.normal(size=(4, 12)), axis=1)
    return InteractionLog.from_rows(
        name="thin",
        users=log.users,
        catalogue=make_catalogue(np.eye(12, dtype=np.float32)[groups]),
        user=log.user,
        item=item.ravel(),
        timestamp=log.timestamp,
    )


@pytest.mark.slow
@pytest.mark.parametrize("taste", [0.0, 1.5])
def test_among_ten_thousand_items_the_model_is_not_worse_than_popularity_whatever_there_is_to_learn(taste):
    log = thin_log_of_drifting_tastes(users=100, items=10_000, taste=taste)
    assert log.has_repeats
    model = fit_interest_model(log, FitConfig(epochs=4), progress=False)
    popular = popularity_likelihood(split_events(log)).mean()[0]
    assert model.fit_report["masked"] <= popular + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("shuffle_seed", [None, 1])
def test_on_a_thin_log_the_model_is_never_worse_than_popularity(shuffle_seed):
    log = thin_log(users=120, items=1_500)
    assert log.has_repeats
    model = fit_interest_model(log, FitConfig(epochs=3), progress=False, shuffle_seed=shuffle_seed)
    popular = popularity_likelihood(split_events(log, shuffle_seed=shuffle_seed))
    assert model.fit_report["masked"] <= popular.mean()[0] + 1e-5
    assert model.fit_report["unmasked"] <= popular.mean(masked=False)[0] + 1e-5
    weights = [row for row in model.table if row["name"] in ("short_weight", "long_weight", "satiation_gain")]
    assert len(weights) == 3
    for row in weights:
        assert row["source"] == "assumed"
        assert "popularity" in row["note"]


def test_a_log_with_structure_does_not_fall_back_to_popularity(log):
    model = fit_interest_model(log, FitConfig(embedding_size=4, epochs=6), progress=False)
    assert not model.fit_report["follows_popularity"]
    assert model.fit_report["masked"] < popularity_likelihood(split_events(log)).mean()[0]
