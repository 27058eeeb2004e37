"""Measures beside scikit-learn's, or beside a plain loop where it has none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn import metrics
from sklearn.calibration import calibration_curve

from evaluation.ranking import UserBootstrap, measures


def rated(rows, users=7, levels=12, seed=0):
    """(labels, scores with ties, user) of so many rows."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, rows) / 4 - 1
    return random.random(rows) < expit(scores), scores, random.integers(0, users, rows)


@given(seed=st.integers(0, 2**16), rows=st.integers(1, 60), levels=st.sampled_from([1, 3, 1000]))
def test_auc_is_scikit_learns(seed, rows, levels):
    labels, scores, _ = rated(rows, levels=levels, seed=seed)
    if labels.all() or not labels.any():
        assert np.isnan(measures.auc(labels, scores))
    else:
        assert_allclose(measures.auc(labels, scores), metrics.roc_auc_score(labels, scores), rtol=1e-12)


@given(seed=st.integers(0, 2**16), rows=st.integers(1, 80), levels=st.sampled_from([1, 3, 1000]))
def test_auc_by_user_is_the_auc_of_each_users_rows(seed, rows, levels):
    labels, scores, user = rated(rows, levels=levels, seed=seed)
    expected = [measures.auc(labels[user == number], scores[user == number]) for number in range(9)]
    assert_allclose(measures.auc_by_user(labels, scores, user, 9), expected, rtol=1e-12)


def test_log_loss_is_scikit_learns():
    labels, logits, _ = rated(500)
    assert_allclose(measures.log_losses(labels, logits).mean(), metrics.log_loss(labels, expit(logits)), rtol=1e-9)


def test_log_loss_of_certain_errors_is_the_logit():
    assert_allclose(measures.log_losses(np.array([True, False]), np.array([-900.0, 900.0])), [900, 900])


def test_reliability_is_scikit_learns_calibration_curve():
    labels, _, _ = rated(1_000)
    probabilities = np.random.default_rng(3).random(1_000)
    told, happened, rows = measures.reliability(labels, probabilities, 8)
    their_happened, their_told = calibration_curve(labels, probabilities, n_bins=8, strategy="quantile")
    assert_array_equal(rows, np.full(8, 125))
    assert_allclose(told, their_told, rtol=1e-12)
    assert_allclose(happened, their_happened, rtol=1e-12)
    error = (np.abs(their_told - their_happened)).mean()
    assert_allclose(measures.calibration_error(labels, probabilities, 8), error, rtol=1e-12)


def test_reliability_of_few_rows_has_as_many_bins():
    assert len(measures.reliability(np.array([True, False]), np.array([0.2, 0.4]))[0]) == 2
    assert np.isnan(measures.calibration_error(np.zeros(0, bool), np.zeros(0)))


@pytest.mark.parametrize("levels", [4, 10_000])
def test_ranks_are_places_in_the_sorted_list(levels):
    random = np.random.default_rng(1)
    scores = random.integers(0, levels, (40, 60)).astype(np.float32)
    targets, seen = random.integers(0, 60, 40).astype(np.int32), random.random((40, 60)) < 0.3
    for row, rank in enumerate(measures.ranks_of_targets(scores, targets, seen)):
        left = [item for item in range(60) if not seen[row, item] or item == targets[row]]
        places = [
            sorted(left, key=lambda item: (-scores[row, item], sign * (item != targets[row]))).index(targets[row])
            for sign in (1, -1)
        ]
        assert rank == np.mean(places)


def test_ranking_measures_are_scikit_learns():
    random = np.random.default_rng(2)
    scores, targets = random.random((50, 30)).astype(np.float32), random.integers(0, 30, 50).astype(np.int32)
    ranks = measures.ranks_of_targets(scores, targets, np.zeros((50, 30), bool))
    relevant = np.eye(30)[targets]
    ndcg = [metrics.ndcg_score(relevant[[row]], scores[[row]], k=10) for row in range(50)]
    assert_allclose(measures.ndcg_at(ranks), ndcg, rtol=1e-9)
    assert_allclose(
        measures.recall_at(ranks).mean(), metrics.top_k_accuracy_score(targets, scores, k=10, labels=range(30))
    )
    whole = metrics.label_ranking_average_precision_score(relevant, scores)  # of one relevant item: its reciprocal rank
    assert_allclose(measures.mrr_at(ranks, top=30).mean(), whole, rtol=1e-9)
    assert_array_equal(measures.mrr_at(ranks) > 0, measures.recall_at(ranks) > 0)


# ---------------------------------------------------------------------- bootstrap
def drawn_users(bootstrap, number):
    """The users of a draw, each as often as it came."""
    return np.repeat(np.arange(bootstrap.num_users), bootstrap._times[number].astype(int))


def test_a_draw_is_the_figure_of_its_users():
    labels, scores, user = rated(300, users=20)
    bootstrap = UserBootstrap(20, draws=5, seed=1)
    values = np.random.default_rng(0).random(20)
    pooled, mean = bootstrap.pooled_auc(labels, scores, user), bootstrap.mean(values)
    assert_allclose(pooled.value, metrics.roc_auc_score(labels, scores), rtol=1e-12)
    for number in range(5):
        users = drawn_users(bootstrap, number)
        rows = np.concatenate([np.flatnonzero(user == one) for one in users])
        assert_allclose(pooled.draws[number], metrics.roc_auc_score(labels[rows], scores[rows]), rtol=1e-9)
        assert_allclose(mean.draws[number], values[users].mean(), rtol=1e-6)


def test_blocks_of_draws_change_nothing(monkeypatch):
    labels, scores, user = rated(300, users=20)
    whole = UserBootstrap(20, draws=50).pooled_auc(labels, scores, user)
    monkeypatch.setattr("agents.updates.bootstrap._CELLS_AT_ONCE", 700)
    assert_array_equal(whole.draws, UserBootstrap(20, draws=50).pooled_auc(labels, scores, user).draws)


def test_the_interval_of_a_mean_is_the_t_interval_nearly():
    values = np.random.default_rng(4).normal(3, 2, 400)
    estimate = UserBootstrap(400, draws=4_000).mean(values).estimate()
    error = values.std(ddof=1) / 20
    assert_allclose([estimate.low, estimate.high], values.mean() + 1.96 * error * np.array([-1, 1]), atol=0.1 * error)


def test_intervals_hold_what_they_say():
    random, inside = np.random.default_rng(5), 0
    for _ in range(300):
        estimate = (
            UserBootstrap(60, draws=300, seed=int(random.integers(2**31))).mean(random.normal(0, 1, 60)).estimate()
        )
        inside += estimate.low <= 0 <= estimate.high
    assert 0.90 <= inside / 300 <= 0.98


def test_differences_are_paired():
    """Two figures that move together with the users differ by far less than either varies."""
    values = np.random.default_rng(6).normal(0, 5, 200)
    bootstrap = UserBootstrap(200)
    first, second = bootstrap.mean(values + 0.1), bootstrap.mean(values)
    assert first.estimate().margin > 0.5
    difference = (first - second).estimate()
    assert difference.above_zero and difference.margin < 1e-6


def test_users_without_a_value_are_left_out():
    values = np.array([1.0, np.nan, 3.0, np.nan])
    assert UserBootstrap(4).mean(values).value == 2


def test_one_user_has_no_interval():
    estimate = UserBootstrap(1).mean(np.array([0.5])).estimate()
    assert estimate.value == 0.5 and np.isnan(estimate.low) and np.isnan(estimate.high)


def test_figures_of_other_draws_are_not_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        _ = UserBootstrap(4).mean(np.ones(4)) - UserBootstrap(5).mean(np.ones(5))
