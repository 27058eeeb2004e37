"""The study of rankers: what it measures, that it resumes, and what it says of bad input."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.options import RankerOptions
from evaluation.ranking import study
from evaluation.ranking.splits import leave_last_out
from evaluation.ranking.study import (
    RankerStudyConfig,
    ranker_figures,
    ranker_study,
    rankers_table,
)
from evaluation.runs import Run

CONFIG = RankerStudyConfig(names=("mf_pointwise", "mf_bpr"), epochs=1)


@contextmanager
def quiet(title, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def rated():
    """A log as MovieLens is: consumed and rated, nothing passed over."""
    log = generate_log(SyntheticConfig(num_users=40, events_per_user=20, num_items=80, embedding_size=4), seed=1)[0]
    consumed = log.consumed()
    rating = np.where(np.isnan(consumed.rating), 3.0, consumed.rating).astype(np.float32)
    rating[::2] = 5.0
    bare = np.full(len(consumed), -1)
    return replace(consumed, rating=rating, request=bare, position=bare.astype(np.int16))


@pytest.fixture(scope="module")
def done(rated, tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("runs") / "rankers", "rankers", {})
    return run, *ranker_study(rated, CONFIG, run, quiet)


def test_every_ranker_is_measured_and_paired_with_popularity(done):
    _, measures, costs = done
    figures = ranker_figures(measures)
    for name in ("popular", "mf_pointwise", "mf_bpr"):
        assert figures[f"ndcg10_{name}_low"] <= figures[f"ndcg10_{name}"] <= figures[f"ndcg10_{name}_high"]
    assert {"auc_mf_pointwise", "auc20_mf_pointwise", "log_loss_mf_pointwise"} <= set(figures)
    assert "auc_mf_bpr" not in figures
    difference = figures["ndcg10_mf_bpr"] - figures["ndcg10_popular"]
    assert figures["ndcg10_mf_bpr_minus_popular"] == pytest.approx(difference)
    assert set(costs["ranker"]) == {"mf_pointwise", "mf_bpr"}
    assert (costs["seconds"].to_numpy() > 0).all()
    assert rankers_table(measures, costs).row_count == 3


def test_popularity_ranks_by_what_had_been_consumed_before(done, rated):
    run, _, _ = done
    ranks = run.table("outcomes/leave_last_out/popular")["rank"].to_numpy()
    split = leave_last_out(rated)
    for case, row in enumerate(split.test_rows[:15]):
        counts = np.bincount(rated.item[rated.timestamp < rated.timestamp[row]], minlength=len(rated.catalogue))
        had = rated.item[(rated.user == rated.user[row]) & (np.arange(len(rated)) < row)]
        others = np.setdiff1d(np.arange(len(rated.catalogue)), had)
        others = others[others != rated.item[row]]
        own = counts[rated.item[row]]
        better, tied = (counts[others] > own).sum(), (counts[others] == own).sum()
        assert ranks[case] == pytest.approx(better + tied / 2)


def test_what_is_done_is_not_fitted_again(done, rated, monkeypatch):
    run, measures, _ = done
    monkeypatch.setattr(study, "_do", lambda *_: pytest.fail("fitted again"))
    again, _ = ranker_study(rated, CONFIG, run, quiet)
    assert again.equals(measures)


def test_a_log_with_exposures_is_judged_by_clicks(tmp_path):
    log = generate_log(SyntheticConfig(num_users=25, events_per_user=12, num_items=60, embedding_size=4), seed=2)[0]
    run = Run.create(tmp_path / "rankers", "rankers", {})
    config = replace(CONFIG, names=("mf_pointwise",))
    measures, _ = ranker_study(log, config, run, quiet)
    names = set(measures.filter(pl.col("ranker") == "mf_pointwise")["measure"])
    assert {"ndcg10", "auc20", "gauc20"} <= names
    assert "auc" not in names
    assert np.isfinite(measures.filter(pl.col("measure") == "auc20")["value"].to_numpy()).all()


def test_bad_options_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'sasrec'"):
        RankerOptions(rankers="sasrek").study()
    with pytest.raises(ConfigurationError, match="twice"):
        RankerOptions(rankers="din,din").study()
    with pytest.raises(ConfigurationError, match="empty"):
        RankerOptions(rankers=" ").study()
    with pytest.raises(ConfigurationError, match="--epochs is 0"):
        RankerOptions(epochs=0)
    with pytest.raises(ConfigurationError, match="--parts names 'onlin'; name some of offline"):
        RankerOptions(parts="offline,onlin")
    with pytest.raises(ConfigurationError, match="--parts is empty"):
        RankerOptions(parts=",")
