from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn import metrics

from envs.errors import LogError
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.ranking import (
    FullRanking,
    Pointwise,
    UserBootstrap,
    global_cut,
    last_share,
    leave_last_out,
    liked,
    measures,
)


class FromTable:
    """Scores item i for user u by a table, and keeps what it was asked."""

    def __init__(self, table):
        self.table, self.asked = table, []

    def score(self, batch):
        self.asked.append(batch)
        return self.table[batch.user[:, None], batch.items]


@pytest.fixture(scope="module")
def log():
    return generate_log(SyntheticConfig(num_users=50, num_items=80, events_per_user=20), seed=4)[0]


@pytest.fixture(scope="module")
def scorer(log):
    return FromTable(np.random.default_rng(0).normal(0, 1, (len(log.users), len(log.catalogue))).astype(np.float32))


def test_full_ranking_is_over_what_the_user_had_not_consumed(log, scorer):
    split = leave_last_out(log)
    ranking = FullRanking.of(scorer, split)
    for row, rank in zip(split.test_rows, ranking.rank, strict=True):
        before = np.arange(len(log)) < row
        seen = set(log.item[before & (log.user == log.user[row]) & log.clicked].tolist())
        scores = scorer.table[log.user[row]]
        better = [
            item for item in range(len(log.catalogue)) if item not in seen and scores[item] > scores[log.item[row]]
        ]
        assert rank == len(better)
    figures = ranking.figures(UserBootstrap(len(ranking.rank)))
    assert figures["recall10"].value == (ranking.rank < 10).mean()
    assert figures["mrr10"].value == pytest.approx(np.where(ranking.rank < 10, 1 / (1 + ranking.rank), 0).mean())
    assert set(figures) == {"recall10", "ndcg10", "mrr10"}


def test_where_items_are_consumed_again_all_are_ranked(log, scorer):
    again = replace(log, has_repeats=True)
    whole, unseen = (FullRanking.of(scorer, leave_last_out(each)).rank for each in (again, log))
    assert (whole >= unseen).all() and (whole > unseen).any()


def test_a_row_is_asked_with_what_lies_before_it(log, scorer):
    split = leave_last_out(log)
    scorer.asked.clear()
    FullRanking.of(scorer, split)
    history = np.concatenate([batch.history for batch in scorer.asked])
    for row, items in zip(split.test_rows, history, strict=True):
        before = (log.user == log.user[row]) & (np.arange(len(log)) < row) & log.clicked
        same_slate = (log.request == log.request[row]) & (log.request >= 0)
        known = log.item[before & ~same_slate][::-1][:20]
        assert_array_equal(items[: len(known)], known)
        assert (items[len(known) :] == -1).all()


def test_how_many_are_asked_at_once_changes_nothing(log, scorer, monkeypatch):
    split = leave_last_out(log)
    whole = FullRanking.of(scorer, split).rank
    monkeypatch.setattr("evaluation.ranking.outcomes._PAIRS_AT_ONCE", 7 * len(log.catalogue))
    assert_array_equal(FullRanking.of(scorer, split).rank, whole)


def test_a_users_cases_count_as_one_user(log, scorer):
    split = global_cut(log, 0.4, 0.1, fold_in=2, most_per_user=5)
    ranking = FullRanking.of(scorer, split)
    users = log.user[split.test_rows]
    hits = [(ranking.rank[users == user] < 10).mean() for user in np.unique(users)]
    bootstrap = UserBootstrap(len(hits))
    assert_allclose(ranking.figures(bootstrap)["recall10"].value, np.mean(hits))
    some = users < np.median(users)
    few = [(ranking.rank[users == user] < 10).mean() for user in np.unique(users[some])]
    assert_allclose(ranking.among(some).figures(bootstrap)["recall10"].value, np.mean(few))


def test_passed_over_rows_have_no_rank(log, scorer):
    with pytest.raises(LogError, match="only consumed items have a rank"):
        FullRanking.of(scorer, last_share(log))


def test_pointwise_figures_are_scikit_learns(log, scorer):
    split = last_share(log)
    pointwise = Pointwise.of(scorer, split, liked(log))
    rows = split.test_rows
    logit, label, users = scorer.table[log.user[rows], log.item[rows]], log.clicked[rows], log.user[rows]
    figures = {name: figure.value for name, figure in pointwise.figures(UserBootstrap(len(np.unique(users)))).items()}
    assert_allclose(figures["auc"], metrics.roc_auc_score(label, logit), rtol=1e-9)
    assert_allclose(figures["log_loss"], metrics.log_loss(label, expit(logit.astype(float))), rtol=1e-6)
    assert_allclose(figures["calibration"], expit(logit).mean() / label.mean(), rtol=1e-6)
    both = [user for user in np.unique(users) if 0 < label[users == user].mean() < 1]
    each = [metrics.roc_auc_score(label[users == user], logit[users == user]) for user in both]
    assert_allclose(figures["gauc"], np.average(each, weights=[(users == user).sum() for user in both]), rtol=1e-9)
    told, happened, count = measures.reliability(label, expit(logit.astype(float)))
    assert_allclose(figures["calibration_error"], np.average(np.abs(told - happened), weights=count), rtol=1e-6)


def test_the_interval_of_the_calibration_error_is_about_the_error(log, scorer):
    """Draws of users add noise to each bin, which alone must not lift the interval over the error."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(80), 10)
    logit = random.normal(size=800)
    error = Pointwise(user, random.random(800) < expit(logit), logit).figures(UserBootstrap(80))["calibration_error"]
    assert error.estimate().low < error.value < error.estimate().high


def test_a_distance_under_draws_is_the_plain_one_moved_alike():
    random = np.random.default_rng(1)
    differences, rows = random.normal(0.4, 1, (30, 4)), random.integers(1, 9, 30)
    bootstrap = UserBootstrap(30, draws=50)
    found, times = bootstrap.distance(differences, rows), bootstrap._times.astype(float)
    plain = np.array([np.abs(drawn @ differences).sum() / (drawn @ rows) for drawn in times])
    assert_allclose(found.value, np.abs(differences.sum(axis=0)).sum() / rows.sum())
    assert_allclose(found.draws, plain - plain.mean() + found.value)


def test_labels_that_are_all_alike_have_no_auc(log, scorer):
    split = last_share(log)
    figures = Pointwise.of(scorer, split, np.ones(len(log), bool)).figures(UserBootstrap(len(log.users)))
    for name in ("auc", "gauc"):
        assert np.isnan(figures[name].value) and np.isnan(figures[name].estimate().low)
    assert np.isfinite(figures["log_loss"].value)


def test_liked_is_clicked_or_rated_well(log):
    assert_array_equal(liked(log), log.clicked)
    rated = log.consumed()
    assert_array_equal(liked(rated, 3.0), rated.rating >= 3)
    with pytest.raises(LogError, match="neither exposures nor ratings"):
        liked(replace(rated, rating=np.full(len(rated), np.nan, np.float32)))
