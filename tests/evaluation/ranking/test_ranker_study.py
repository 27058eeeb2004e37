"""The study of rankers: what it measures, that it resumes, and what it says of bad input."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from sklearn import metrics

from agents.rankers.mf_bpr import MFBPR
from agents.rankers.samples import Samples
from agents.rankers.sasrec import SASRec
from agents.updates.bootstrap import UserBootstrap
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.figures import save_figures
from evaluation.options import RankerOptions
from evaluation.ranking import Pointwise, liked, trials
from evaluation.ranking.growth import GROWTH, PLAIN, growth_study
from evaluation.ranking.report import growth_figures, growth_tables, ranker_figures, ranker_tables
from evaluation.ranking.splits import global_cut, leave_last_out
from evaluation.ranking.study import ranker_study
from evaluation.ranking.trials import LAST, RankerStudyConfig
from evaluation.runs import Run
from simulate import main

CONFIG = RankerStudyConfig(names=("mf_pointwise", "mf_bpr"), grown=("mf_pointwise", "mf_bpr"), epochs=1)


@contextmanager
def silent(title, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def rated():
    """A log as MovieLens is: consumed and rated, nothing passed over."""
    log = generate_log(SyntheticConfig(num_users=40, events_per_user=20, num_items=80, embedding_size=4), seed=1)[0]
    consumed = log.consumed()
    rating = np.where(np.isnan(consumed.rating), 3.0, consumed.rating).astype(np.float32)
    rating[::2] = 5.0
    bare = np.full(len(consumed), -1)
    # some users come when the others are gone
    timestamp = consumed.timestamp + np.where(consumed.user % 5 == 4, 10**9, 0)
    return replace(consumed, rating=rating, request=bare, position=bare.astype(np.int16), timestamp=timestamp)


@pytest.fixture(scope="module")
def done(rated, tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("runs") / "rankers", "rankers", {})
    return run, ranker_study(rated, CONFIG, run, silent)


def test_every_ranker_is_measured_and_paired_with_popularity(done):
    _, study = done
    figures = ranker_figures(study)
    for name in ("popular", "mf_pointwise", "mf_bpr"):
        assert figures[f"ndcg10_{name}_low"] <= figures[f"ndcg10_{name}"] <= figures[f"ndcg10_{name}_high"]
    assert {"auc_mf_pointwise", "auc20_mf_pointwise", "log_loss_mf_pointwise"} <= set(figures)
    # one that is made to rank is judged by its order, and tells no probabilities
    assert {"auc_mf_bpr_low", "auc20_mf_bpr_high", "gauc20_mf_bpr", "auc20_popular"} <= set(figures)
    assert not {"log_loss_mf_bpr", "log_loss20_mf_bpr", "calibration20_mf_bpr", "log_loss_popular"} & set(figures)
    assert {"calibration20_mf_pointwise_low", "calibration_error20_mf_pointwise_high"} <= set(figures)
    difference = figures["ndcg10_mf_bpr"] - figures["ndcg10_popular"]
    assert figures["ndcg10_mf_bpr_minus_popular"] == pytest.approx(difference)
    assert set(study.costs["ranker"]) == {"mf_pointwise", "mf_bpr"}
    assert (study.costs["seconds"].to_numpy() > 0).all() and (study.costs["cpu_seconds"].to_numpy() > 0).all()
    assert figures["parameters_mf_bpr"] > 80 and figures["fit_seconds_mf_bpr"] > 0
    tables = ranker_tables(study)
    assert [table.row_count for table in tables] == [3] * 6
    told = [column.header for table in tables for column in table.columns]
    assert {"mrr10", "gauc20", "calibration20", "calibration_error20"} <= set(told)


def test_the_order_of_a_ranker_of_consumed_items_tells_likes(done, rated):
    run, study = done
    split = leave_last_out(rated)
    ranker = trials._ranker(trials.Trial(name="mf_bpr", task=LAST, split=split), "consumed", CONFIG, 0)
    ranker.fit(split.training_log, split.validation_log)
    scores = Pointwise.of(ranker, split, liked(rated)).logit
    label = rated.rating[split.test_rows] >= 4
    assert ranker_figures(study)["auc_mf_bpr"] == pytest.approx(metrics.roc_auc_score(label, scores))
    assert_array_equal(run.table("outcomes/last_row/mf_bpr")["logit"].to_numpy(), scores)


def test_one_fit_serves_both_tasks_about_the_last_row(rated, tmp_path, monkeypatch):
    fits, fit = [], MFBPR.fit
    monkeypatch.setattr(
        MFBPR, "fit", lambda self, *args, **named: (fits.append(self.seed), fit(self, *args, **named))[1]
    )
    run = Run.create(tmp_path / "rankers", "rankers", {})
    ranker_study(rated, replace(CONFIG, names=("mf_bpr",), ranker_seeds=2), run, silent)
    assert fits == [0, 1] * 3  # the last row twice, the last share, the cut


def test_a_ranker_is_asked_with_as_long_a_history_as_it_reads(rated, tmp_path, monkeypatch):
    asked, score = set(), SASRec.score
    monkeypatch.setattr(SASRec, "score", lambda self, batch: (asked.add(batch.history.shape[1]), score(self, batch))[1])
    ranker_study(rated, replace(CONFIG, names=("sasrec",)), Run.create(tmp_path / "rankers", "rankers", {}), silent)
    assert asked == {SASRec.config_class().samples.history_size} == {50}


def test_curves_of_fits_are_kept_for_tensorboard(done):
    run, _ = done
    for place in ("leave_last_out/mf_bpr", "last_share/mf_pointwise", "global_cut/mf_pointwise"):
        assert list(run.curves_path(place).glob("events*")), place


@pytest.mark.parametrize("study", [ranker_study, growth_study])
def test_propensities_reach_the_samples_where_debias_is_asked_for(study, rated, tmp_path, monkeypatch):
    weights, make = [], Samples.__init__

    def recorded(self, *args, **named):
        make(self, *args, **named)
        weights.extend(np.unique(self._weight[self.rows]))

    monkeypatch.setattr(Samples, "__init__", recorded)
    log = replace(rated, propensity=np.where(rated.item % 2, 0.2, 0.9).astype(np.float32))
    for debias in (False, True):
        weights.clear()
        run = Run.create(tmp_path / f"run{debias}", "rankers", {})
        study(log, replace(CONFIG, names=("mf_bpr",), grown=("mf_bpr",), debias=debias), run, silent)
        assert (len(set(weights)) > 1) == debias


def test_debias_is_refused_where_nothing_tells_propensities(tmp_path, capsys):
    arguments = ["rankers", "--dataset", "synthetic", "--fast", "--rankers", "mf_bpr", "--parts", "offline,growth"]
    assert main([*arguments, "--debias", "--out", str(tmp_path / "run")]) == 2
    assert "--debias weighs by the chance" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_comes_after_the_cut_is_told_apart_by_cold_and_warm_users(done, rated):
    run, study = done
    split = global_cut(rated)
    ranks = run.table("outcomes/global_cut/mf_bpr")
    assert len(ranks) == split.test.sum() and 0 < split.is_cold.sum() < len(ranks)
    user = rated.user[split.test_rows]
    gain = np.where(ranks["rank"] < 10, 1 / np.log2(ranks["rank"].to_numpy() + 2), 0)
    figures = ranker_figures(study)
    for suffix, among in (("", gain >= 0), ("_warm", ~split.is_cold), ("_cold", split.is_cold)):
        expected = np.mean([gain[among & (user == one)].mean() for one in np.unique(user[among])])
        assert figures[f"ndcg10_cut{suffix}_mf_bpr"] == pytest.approx(expected)
    assert "ndcg10_cut_cold_popular" in figures and "ndcg10_cut_warm_mf_bpr_minus_popular" in figures


def test_who_knows_cold_users_by_attributes_alone_is_marked(done):
    _, study = done
    assert study.by_attributes == ("mf_pointwise", "mf_bpr")
    cut = next(table for table in ranker_tables(study) if table.title.startswith("One cut"))
    names, *columns = [list(column.cells) for column in cut.columns]
    marked = {name: [column[row].endswith("*") for column in columns] for row, name in enumerate(names)}
    assert marked["mf_bpr"] == [False, False, True] * 2 and not any(marked["popular"])


def test_every_ranker_is_paired_with_every_other(done):
    run, study = done
    figures = ranker_figures(study)
    own = {(row["measure"], row["first"], row["second"]): row for row in study.pairs.iter_rows(named=True)}
    for first, second in (("mf_pointwise", "mf_bpr"), ("mf_bpr", "popular"), ("popular", "mf_pointwise")):
        row, turned = own["ndcg10", first, second], own["ndcg10", second, first]
        assert row["value"] == pytest.approx(figures[f"ndcg10_{first}"] - figures[f"ndcg10_{second}"])
        assert row["low"] <= row["value"] <= row["high"]
        assert (turned["low"], turned["high"]) == (pytest.approx(-row["high"]), pytest.approx(-row["low"]))
    # a paired interval is not the one of two samples of users
    ranks = [run.table(f"outcomes/leave_last_out/{name}")["rank"].to_numpy() for name in ("mf_pointwise", "mf_bpr")]
    gains = [np.where(rank < 10, 1 / np.log2(rank + 2), 0) for rank in ranks]
    users = run.table("outcomes/leave_last_out/mf_bpr")["user"].to_numpy()
    difference = np.zeros(users.max() + 1)
    difference[users] = gains[0] - gains[1]
    expected = UserBootstrap(len(difference), seed=0).mean(difference).estimate()
    assert own["ndcg10", "mf_pointwise", "mf_bpr"]["low"] == pytest.approx(expected.low, abs=1e-9)
    assert ("auc", "mf_bpr", "mf_pointwise") in own and ("log_loss", "mf_bpr", "mf_pointwise") not in own
    assert pl.read_csv(run.folder / "ranker_pairs.csv").shape == study.pairs.shape


def test_popularity_ranks_by_what_had_been_consumed_before(done, rated):
    run, _ = done
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
    run, study = done
    monkeypatch.setattr(trials, "_perform", lambda *_: pytest.fail("fitted again"))
    again = ranker_study(rated, CONFIG, run, silent)
    assert again.measures.equals(study.measures) and again.pairs.equals(study.pairs)


def test_the_spread_of_training_seeds_is_in_the_intervals(done, rated, tmp_path):
    run, _ = done
    several = Run.create(tmp_path / "rankers", "rankers", {})
    config = replace(CONFIG, names=("mf_bpr",), ranker_seeds=3)
    measures = ranker_study(rated, config, several, silent).measures
    assert set(measures.filter(pl.col("ranker") == "mf_bpr")["training_seeds"]) == {3}
    by_seed = [several.table(f"outcomes/leave_last_out/mf_bpr{end}") for end in ("", "-seed1", "-seed2")]
    assert by_seed[0].equals(run.table("outcomes/leave_last_out/mf_bpr"))
    recalls = [(table["rank"].to_numpy() < 10).mean() for table in by_seed]
    assert len(set(recalls)) > 1
    found = {row["measure"]: row for row in measures.filter(pl.col("ranker") == "mf_bpr").iter_rows(named=True)}
    assert found["recall10"]["value"] == pytest.approx(np.mean(recalls))


@pytest.fixture(scope="module")
def grown(done, rated):
    return growth_study(rated, CONFIG, done[0], silent)


def test_growth_begins_at_the_plain_task_and_is_paired_with_it(done, grown):
    _, study = done
    plain = ranker_figures(study)
    rows = {
        tuple(row[name] for name in ("kind", "level", "ranker", "measure")): row for row in grown.iter_rows(named=True)
    }
    for kind, levels in GROWTH.items():
        for measure, ranker in (("ndcg10", "mf_bpr"), ("auc", "mf_pointwise")):
            base = rows[kind, PLAIN[kind], ranker, measure]
            assert base["value"] == pytest.approx(plain[f"{measure}_{ranker}"])
            assert base["value_minus_plain"] is None
            for level in levels:
                row = rows[kind, level, ranker, measure]
                assert row["low"] <= row["value"] <= row["high"]
                if level != PLAIN[kind]:
                    assert row["value_minus_plain"] == pytest.approx(row["value"] - base["value"])
    assert rows["amount", "10 %", "mf_bpr", "ndcg10"]["value_minus_plain"] != 0
    assert rows["labels", "20 %", "mf_pointwise", "log_loss"]["value_minus_plain"] != 0
    assert rows["delay", "a day", "popular", "ndcg10"]["value_minus_plain"] != 0
    # popularity is not taught
    assert rows["labels", "20 %", "popular", "ndcg10"]["value_minus_plain"] == 0
    figures = growth_figures(grown)
    assert figures["ndcg10_mf_bpr_amount_10"] == rows["amount", "10 %", "mf_bpr", "ndcg10"]["value"]
    assert figures["auc_mf_pointwise_delay_3600_minus_plain_low"] <= figures["auc_mf_pointwise_delay_3600_minus_plain"]
    assert "ndcg10_mf_bpr_labels_5_high" in figures
    assert [table.row_count for table in growth_tables(grown)] == [4, 4, 4]


def test_growth_alone_fits_the_plain_task_once(rated, tmp_path, monkeypatch):
    done_trials = []
    perform = trials._perform
    monkeypatch.setattr(trials, "_perform", lambda trial, *rest: (done_trials.append(trial), perform(trial, *rest)))
    run = Run.create(tmp_path / "rankers", "rankers", {})
    growth_study(rated, replace(CONFIG, grown=("mf_bpr",)), run, silent)
    conditions = [trial.condition for trial in done_trials if trial.name == "mf_bpr"]
    assert sorted(conditions) == sorted(
        ["", "amount-0.1", "amount-0.3", "delay-3600", "delay-86400", "labels-0.05", "labels-0.2"]
    )


def test_what_was_found_is_drawn(done, grown):
    names = {path.stem for path in save_figures(done[0])}
    assert {"rankers", "ranker_pairs", "growth_amount", "growth_delay", "growth_labels"} <= names


OWN = '''
import numpy as np
from agents.rankers import Ranker


class Newest(Ranker):
    """Scores by age; learns nothing, and cannot be saved."""

    name = "newest"

    def _fit(self, training, validation, progress, folder):
        pass

    def _update(self, samples):
        pass

    def _score(self, batch):
        return -batch.ages
'''


def test_a_ranker_from_a_file_goes_through_all_parts(rated, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    config = RankerOptions(rankers=f"{tmp_path / 'own.py'}:Newest", fast=True).study()
    assert config.grown == config.names
    run = Run.create(tmp_path / "run", "rankers", {})
    figures = ranker_figures(ranker_study(rated, config, run, silent))
    figures |= growth_figures(growth_study(rated, config, run, silent))
    assert {"ndcg10_Newest", "auc20_Newest", "ndcg10_cut_cold_Newest", "auc_Newest_labels_20"} <= set(figures)
    assert "parameters_Newest" not in figures
    # it learns nothing, so that nothing of this matters to it
    assert figures["ndcg10_Newest_amount_10_minus_plain"] == figures["auc_Newest_labels_20_minus_plain"] == 0


def test_a_log_with_exposures_is_judged_by_clicks(tmp_path):
    log = generate_log(SyntheticConfig(num_users=25, events_per_user=12, num_items=60, embedding_size=4), seed=2)[0]
    run = Run.create(tmp_path / "rankers", "rankers", {})
    config = replace(CONFIG, names=("mf_pointwise",))
    measures = ranker_study(log, config, run, silent).measures
    names = set(measures.filter(pl.col("ranker") == "mf_pointwise")["measure"])
    assert {"ndcg10", "auc20", "gauc20"} <= names
    assert "auc" not in names
    assert np.isfinite(measures.filter(pl.col("measure") == "auc20")["value"].to_numpy()).all()
    grown = growth_study(log, config, run, silent)
    assert set(grown["measure"]) == {"ndcg10", "recall10", "mrr10"}


def test_bad_options_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'sasrec'"):
        RankerOptions(rankers="sasrek").study()
    with pytest.raises(ConfigurationError, match="twice"):
        RankerOptions(rankers="din,din").study()
    with pytest.raises(ConfigurationError, match="empty"):
        RankerOptions(rankers=" ").study()
    with pytest.raises(ConfigurationError, match="--epochs is 0"):
        RankerOptions(epochs=0)
    with pytest.raises(ConfigurationError, match="--ranker-seeds is 0"):
        RankerOptions(ranker_seeds=0)
    with pytest.raises(ConfigurationError, match="--growth-rankers is empty"):
        RankerOptions(growth_rankers=",").study()
    with pytest.raises(ConfigurationError, match="did you mean 'din'"):
        RankerOptions(growth_rankers="dinn").study()


def test_which_rankers_grow():
    assert RankerOptions().study().grown == ("gbdt", "mf_bpr", "neumf", "din", "sasrec")
    assert RankerOptions(rankers="dien,din").study().grown == ("din",)
    assert RankerOptions(rankers="dien,gru4rec").study().grown == ("dien", "gru4rec")
    assert RankerOptions(rankers="dien", growth_rankers="gbdt").study().grown == ("gbdt",)


def test_bad_parts_are_refused():
    with pytest.raises(ConfigurationError, match="--parts names 'onlin'; name some of offline"):
        RankerOptions(parts="offline,onlin")
    with pytest.raises(ConfigurationError, match="--parts is empty"):
        RankerOptions(parts=",")
