from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, logsumexp
from scipy.stats import chisquare, spearmanr

from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.logs import InteractionLog, load_log
from envs.logs import synthetic as synthetic_module
from envs.logs.synthetic import START, SyntheticConfig, generate_log
from envs.users.interest import InterestModel
from envs.users.protocol import position_logits

SMALL = SyntheticConfig(num_users=40, num_items=120, events_per_user=25, days=60)
COLUMNS = ("user", "item", "timestamp", "clicked", "rating", "request", "position")


@pytest.fixture(scope="module")
def generated() -> tuple[InteractionLog, InterestModel]:
    return generate_log(SyntheticConfig(), seed=3)


def test_a_seed_gives_the_same_bits_and_another_seed_another_log():
    one, model = generate_log(SMALL, seed=5)
    again, model_again = generate_log(SMALL, seed=5)
    for column in COLUMNS:
        assert_array_equal(getattr(one, column), getattr(again, column))
    assert_array_equal(model.user_embedding, model_again.user_embedding)
    assert_array_equal(one.catalogue.birth, again.catalogue.birth)
    other, _ = generate_log(SMALL, seed=6)
    assert len(other) != len(one) or (other.item != one.item).any()


def test_a_users_life_depends_on_neither_block_nor_batch(monkeypatch):
    whole, _ = generate_log(SMALL, seed=5)
    monkeypatch.setattr(synthetic_module, "BLOCK_USERS", 7)
    in_blocks, _ = generate_log(SMALL, seed=5)
    for column in COLUMNS:
        assert_array_equal(getattr(whole, column), getattr(in_blocks, column))


def test_load_log_knows_it_by_name():
    assert load_log("synthetic", seed=1).name == "synthetic"


def test_sizes_and_marks(generated):
    log, model = generated
    config = SyntheticConfig()
    assert len(log.users) == config.num_users and len(log.catalogue) == config.num_items
    consumed = log.consumed()
    assert len(consumed) / len(log.users) == pytest.approx(config.events_per_user, rel=0.3)
    assert {row["source"] for row in model.table} == {"known"}
    assert {"short_decay", "gap_log_mean", "outside", "item_embedding"} <= {row["name"] for row in model.table}
    assert np.linalg.norm(model.item_embedding, axis=1).mean() == pytest.approx(1, abs=1e-5)
    assert_allclose(model.categories.sum(axis=1), 1)
    assert_array_equal(model.categories, log.catalogue.categories)
    assert model.user_embedding.shape == (config.num_users, config.embedding_size)
    assert abs(spearmanr(model.item_bias, log.catalogue.birth).statistic) < 0.15
    assert 0.1 < np.mean(log.catalogue.birth > START) < 0.3


def test_nobody_consumes_an_item_twice_or_before_its_birth(generated):
    log, _ = generated
    assert not log.has_repeats
    assert (log.catalogue.birth[log.item] <= log.timestamp).all()
    assert log.timestamp.max() < START + SyntheticConfig().days * SECONDS_PER_DAY


def test_a_request_is_one_user_at_one_time_with_distinct_items_and_at_most_one_click(generated):
    log, _ = generated
    requests, first, inverse = np.unique(log.request, return_index=True, return_inverse=True)
    assert_array_equal(log.user, log.user[first][inverse])
    assert_array_equal(log.timestamp, log.timestamp[first][inverse])
    assert np.bincount(inverse, weights=log.clicked).max() == 1
    assert len(np.unique(inverse * len(log.catalogue) + log.item)) == len(log)
    assert len(np.unique(inverse * 100 + log.position)) == len(log)
    assert log.position.max() == SyntheticConfig().slate_size - 1
    assert_array_equal(requests, np.arange(len(requests)))
    assert (np.diff(log.request) >= 0).all()
    assert_array_equal(np.isnan(log.rating), ~log.clicked)
    assert set(np.unique(log.rating[log.clicked])) <= {1, 2, 3, 4, 5}


def test_without_exposures_only_the_same_clicks_are_left(generated):
    log, _ = generated
    clicks, _ = generate_log(SyntheticConfig(with_exposures=False), seed=3)
    consumed = log.consumed()
    for column in ("user", "item", "timestamp", "rating"):
        assert_array_equal(getattr(clicks, column), getattr(consumed, column))
    assert not clicks.has_exposures and (clicks.request == -1).all() and (clicks.position == -1).all()


def utilities_by_replay(log: InteractionLog, model: InterestModel) -> np.ndarray:
    """[R] utility of each shown item, by an own walk through each user's rows in plain numpy, from the known start."""
    params, utility = model.params, np.zeros(len(log))
    hours = log.timestamp / 3600 % 24
    days = (log.timestamp // SECONDS_PER_DAY + 3) % 7
    ages = (log.timestamp - log.catalogue.birth[log.item]) / SECONDS_PER_DAY
    effect = np.interp(np.log1p(ages), np.arange(8) * 1.5, model.age_values)
    for user in range(len(log.users)):
        p = model.user_embedding[user].astype(float)
        s, f, in_visit, last = np.zeros_like(p), np.zeros(log.catalogue.num_categories), 0, None
        rows = np.arange(log.user_starts[user], log.user_starts[user + 1])
        for request in np.split(rows, np.flatnonzero(np.diff(log.request[rows])) + 1):
            now = log.timestamp[request[0]]
            if last is not None and now - last > 3600:
                pause = (now - last) / SECONDS_PER_DAY
                s, f, in_visit = s * 0.5**pause, f * 0.5**pause, 0
            last = now
            omega = (
                model.context_weights[int(hours[request[0]] // 4)]
                + model.context_weights[6 + int(days[request[0]] >= 5)]
                + model.context_weights[8 + sum(in_visit >= edge for edge in (1, 4, 16))]
            )
            items = log.item[request]
            utility[request] = (
                model.item_embedding[items] @ (p + params.short_weight * s)
                + model.categories[items] @ (omega - params.satiation_gain * f)
                + model.item_bias[items]
                + effect[request]
            )
            for item in log.item[request[log.clicked[request]]]:
                v = model.item_embedding[item]
                s = params.short_decay * s + (1 - params.short_decay) * v
                p = p + params.long_rate * (v - p)
                f = params.satiation_decay * f + model.categories[item]
                in_visit += 1
    return utility


def test_clicks_follow_the_known_choice_probabilities():
    config = SyntheticConfig(num_users=150)
    log, model = generate_log(config, seed=11)
    # the random walk of long-term interest is small (and the only part that the replay leaves out)
    placed = utilities_by_replay(log, model) + position_logits(config.slate_size)[log.position]
    table = np.full((log.request[-1] + 1, config.slate_size + 1), -np.inf)
    table[:, -1] = model.fit_report["outside"]
    table[log.request, log.position] = placed
    chance = np.exp(table - logsumexp(table, axis=1, keepdims=True))
    clicked = np.zeros_like(table)
    clicked[log.request, log.position] = log.clicked
    clicked[:, -1] = 1 - clicked[:, :-1].sum(axis=1)
    # all options of all requests, grouped by their chance: each group has as many clicks as its chances add up to
    groups = np.digitize(chance.ravel(), np.quantile(chance[chance > 0], np.linspace(0, 1, 13)[1:-1]))
    observed = np.bincount(groups, weights=clicked.ravel(), minlength=12)
    expected = np.bincount(groups, weights=chance.ravel(), minlength=12)
    assert observed.sum() == pytest.approx(expected.sum())
    assert (np.abs(observed - expected) < 0.04 * expected + 2.5 * np.sqrt(expected)).all()
    assert chisquare(clicked.sum(axis=0), chance.sum(axis=0)).pvalue > 1e-4
    # the test can tell: without position weights the slots' counts are refuted
    wrong = table.copy()
    wrong[:, :-1] -= position_logits(config.slate_size)
    wrong_chance = np.exp(wrong - logsumexp(wrong, axis=1, keepdims=True))
    assert chisquare(clicked.sum(axis=0), wrong_chance.sum(axis=0)).pvalue < 1e-12


def test_items_with_higher_utility_are_clicked_more(generated):
    log, model = generated
    shown = np.bincount(log.item, minlength=len(log.catalogue))
    rate = log.item_counts() / np.maximum(shown, 1)
    often = shown >= 200
    appeal = model.item_bias + (model.item_embedding @ model.user_embedding.T).mean(axis=1)
    assert spearmanr(appeal[often], rate[often]).statistic > 0.7


def test_visits_and_gaps_follow_the_known_parameters():
    # without the pull of satisfaction the hazards are known in closed form
    log, model = generate_log(SyntheticConfig(num_users=400), seed=2)
    visits = model.visits
    ends = np.append(np.flatnonzero(np.diff(log.visit) != 0), len(log) - 1)
    gaps = log.timestamp[ends[:-1] + 1] - log.timestamp[ends[:-1]]
    gaps = np.log(gaps[log.user[ends[:-1] + 1] == log.user[ends[:-1]]] / SECONDS_PER_DAY)
    # long gaps are cut off by the end of the log, so the observed ones are a little shorter
    assert visits.gap_log_mean - 0.6 < gaps.mean() < visits.gap_log_mean + 0.1
    assert gaps.std() == pytest.approx(visits.gap_log_sd, rel=0.2)
    last_rows = np.append(np.flatnonzero(np.diff(log.request) != 0), len(log) - 1)
    clicked = np.bincount(log.request, weights=log.clicked)[log.request[last_rows]] > 0
    leaves = np.append(
        (np.diff(log.visit[last_rows]) != 0) | (np.diff(log.user[last_rows]) != 0), True
    )  # includes churn and the end of the log
    assert leaves[clicked].mean() == pytest.approx(expit(visits.leave_intercept + visits.leave_log_place), rel=0.35)
    assert leaves[~clicked].mean() < 0.7 * leaves[clicked].mean()


def test_traits_tell_something_of_tastes(generated):
    log, model = generated
    design = np.column_stack([np.ones(len(log.users)), log.users.features])
    fitted = design @ np.linalg.lstsq(design, model.user_embedding, rcond=None)[0]
    explained = 1 - np.var(model.user_embedding - fitted, axis=0).sum() / np.var(model.user_embedding, axis=0).sum()
    assert explained > 0.5


@pytest.mark.parametrize(
    "wrong",
    [{"num_users": 0}, {"click_rate": 1.0}, {"born_during": 1.0}, {"events_per_user": 0.5}, {"past_years": 0.0}],
)
def test_wrong_configurations_are_refused_by_the_name_of_the_option(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        replace(SyntheticConfig(), **wrong)


@pytest.mark.parametrize(
    "size", [{"num_items": 5}, {"num_items": 1}, {"num_users": 1}, {"slate_size": 1}, {"num_tastes": 1}]
)
def test_small_worlds_work(size):
    log, model = generate_log(replace(SMALL, **size, born_during=0.0), seed=0)
    assert len(log.users) == len(model.user_embedding) and not log.has_repeats
