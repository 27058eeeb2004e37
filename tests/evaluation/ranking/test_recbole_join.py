from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from numpy.testing import assert_array_equal

from agents.rankers.loading import resolve_ranker
from agents.rankers.sasrec import SASRec, SASRecConfig
from agents.rankers.training import TrainingConfig
from benchmarks.recbole_compare import (
    TRIED,
    TWINS,
    DINWithoutAttention,
    DINWithoutUser,
    SASRecOverSeen,
    compared,
    configured,
    knowing_users,
    measured,
    outcome_of,
    page,
)
from benchmarks.recbole_join import Export, chosen, in_recbole_order, joined, read_exports, read_rows
from envs.artefacts import save_json
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.ranking import UserBootstrap, leave_last_out, liked


@pytest.fixture(scope="module")
def log():
    log = generate_log(SyntheticConfig(num_users=20, num_items=60, events_per_user=20), seed=5)[0].consumed()
    return replace(log, rating=np.random.default_rng(0).integers(1, 6, len(log)).astype(np.float32))


@pytest.fixture(scope="module")
def split(log):
    return leave_last_out(log)


def rows_of(log, order):
    return pl.DataFrame({"user_id": log.users.user_ids[log.user], "item_id": log.catalogue.item_ids[log.item]})[order]


def export_of(split, users_backwards=True, **columns):
    """As RecBole's, users in another order than ours."""
    log, test, valid = split.log, split.test_rows, np.flatnonzero(split.validation)
    table = pl.DataFrame(
        {
            "user_id": log.users.user_ids[log.user[test]],
            "valid_item": log.catalogue.item_ids[log.item[valid]],
            "test_item": log.catalogue.item_ids[log.item[test]],
            **columns,
        }
    )
    return Export({"valid": 0.5}, table.reverse() if users_backwards else table, "export.csv")


def test_the_log_takes_the_order_of_the_export(log):
    last = np.flatnonzero(log.user == 3)[-2:]
    order = np.arange(len(log))
    order[last] = last[::-1]
    found = in_recbole_order(log, rows_of(log, order))
    assert_array_equal(found.item, log.item[order])
    assert_array_equal(found.rating, log.rating[order])
    assert_array_equal(found.timestamp, log.timestamp)
    assert found.item[last[1]] != log.item[last[1]]


def test_users_may_be_mixed_in_the_export(log):
    place = log.place  # first rows of all users, then all second rows, ...
    assert_array_equal(in_recbole_order(log, rows_of(log, np.lexsort((log.user, place)))).item, log.item)


def test_rows_of_another_data_set_are_refused(log):
    rows = rows_of(log, np.arange(len(log)))
    for other in (rows[:-1], rows.with_columns(item_id=pl.lit("nowhere")), pl.concat([rows[:-1], rows[:1]])):
        with pytest.raises(ArtefactError, match="export anew"):
            in_recbole_order(log, other)


def test_ranks_are_joined_by_user(split):
    rank = np.arange(len(split.test_rows), dtype=np.float64)
    table = joined(export_of(split, test_rank=rank, valid_rank=rank), split)
    assert_array_equal(outcome_of(table)["rank"].to_numpy(), rank)


@pytest.mark.parametrize("part", ["valid_item", "test_item"])
def test_other_items_held_out_are_refused(split, part):
    export = export_of(split)
    items = export.table[part].to_list()
    items[4] = next(name for name in split.log.catalogue.item_ids.tolist() if name != items[4])
    other = replace(export, table=export.table.with_columns(pl.Series(part, items)))
    with pytest.raises(ArtefactError, match=rf"for 1 users.*{part}"):
        joined(other, split)


def test_missing_and_doubled_users_are_refused(split):
    export = export_of(split)
    for table in (export.table[1:], pl.concat([export.table[1:], export.table[1:2]])):
        with pytest.raises(ArtefactError, match="users"):
            joined(replace(export, table=table), split)


def test_other_labels_are_refused(split):
    labels = liked(split.log)
    valid, test = labels[split.validation].astype(int), labels[split.test_rows].astype(int)
    score = np.linspace(0.1, 0.9, len(test))
    columns = {"valid_label": valid, "test_label": test, "valid_score": score, "test_score": score}
    table = joined(export_of(split, **columns), split, labels)
    outcome = outcome_of(table)
    assert_array_equal(outcome["label"].to_numpy(), test == 1)
    assert 1 / (1 + np.exp(-outcome["logit"].to_numpy())) == pytest.approx(score)
    with pytest.raises(ArtefactError, match="label"):
        joined(export_of(split, **columns | {"test_label": 1 - test}), split, labels)


def test_the_configuration_best_on_validation_is_chosen(split, tmp_path):
    for number, valid in enumerate((0.1, 0.3, 0.2)):
        save_json(tmp_path / f"BPR-{number}.json", {"valid": valid, "number": number})
        export_of(split).table.write_csv(tmp_path / f"BPR-{number}.csv")
    exports = read_exports(tmp_path, "BPR")
    assert [export.account["number"] for export in exports] == [0, 1, 2]
    assert chosen(exports).account["number"] == 1
    joined(chosen(exports), split)  # numbers as names of users and items stay names
    assert read_exports(tmp_path, "DIN") == []


def test_missing_tables_are_refused_with_the_cure(tmp_path):
    with pytest.raises(ArtefactError, match="recbole_export"):
        read_rows(tmp_path)
    save_json(tmp_path / "BPR-0.json", {"valid": 0.1})
    with pytest.raises(ArtefactError, match=r"BPR-0\.csv"):
        read_exports(tmp_path, "BPR")


def test_measures_of_ranks_and_of_clicks():
    bootstrap = UserBootstrap(4, draws=50)
    figures = measured(pl.DataFrame({"rank": [0.0, 1.0, 10.0, 500.0]}), bootstrap)
    assert figures["recall10"].value == 0.5
    assert figures["ndcg10"].value == pytest.approx((1 + 1 / np.log2(3)) / 4)
    figures = measured(pl.DataFrame({"label": [True, False, True, False], "logit": [2.0, -1.0, 0.0, 1.0]}), bootstrap)
    assert figures["auc"].value == 0.75


def test_knowing_how_users_rate_helps_scores_that_know_nothing(log, split):
    generous = (log.user % 2 == 0).astype(bool)
    labels = np.where(np.random.default_rng(1).random(len(log)) < 0.1, ~generous, generous)
    count = len(split.test_rows)
    score = np.random.default_rng(2).uniform(0.4, 0.6, (2, count))
    columns = {"valid_score": score[0], "test_score": score[1]} | {
        f"{part}_label": labels[rows].astype(int) for part, rows in (("valid", split.validation), ("test", split.test))
    }
    table = joined(export_of(split, False, **columns), split, labels)
    bootstrap = UserBootstrap(count, draws=50)
    before, after = (
        measured(o, bootstrap)["auc"].value for o in (outcome_of(table), knowing_users(table, split, labels))
    )
    assert after > 0.8 > before


def test_every_configuration_tried_is_one_of_the_ranker():
    for name in TWINS:
        assert 1 <= len(TRIED[name]) <= 4
        for change in TRIED[name]:
            config = configured(resolve_ranker(name), change, "consumed")
            assert (config == configured(resolve_ranker(name), {}, "consumed")) == (not change)
    assert configured(SASRec, {"training.embedding_decay": 0.7}, "consumed").training.embedding_decay == 0.7
    for unknown in ("widht", "training.widht", "trianing.epochs"):
        with pytest.raises(ConfigurationError, match=unknown):
            configured(SASRec, {unknown: 1}, "consumed")


def test_the_softmax_over_seen_items_has_more_items_under_the_sum(split):
    config = SASRecConfig(width=8, training=TrainingConfig(epochs=1))
    losses = {}
    for kind in (SASRec, SASRecOverSeen):
        ranker = kind(config, seed=0).fit(split.training_log, split.validation_log)
        losses[kind] = ranker.passes_[0]["loss"]
    assert losses[SASRecOverSeen] > losses[SASRec]


@pytest.mark.parametrize("kind", [DINWithoutAttention, DINWithoutUser])
def test_what_is_taken_out_of_din_no_longer_matters(split, kind):
    config = replace(configured(kind, {}, "rating"), training=TrainingConfig(epochs=1))
    ranker = kind(config, seed=0).fit(split.training_log, split.validation_log)
    network = ranker.network_
    if kind is DINWithoutUser:
        vectors = network.user_vectors(torch.tensor([0, 1]), torch.ones(2, ranker.num_user_features_))
        assert not vectors.any() and vectors.shape == (2, config.width)
    else:
        items, history = torch.randn(2, 3, config.width), torch.randn(2, 5, config.width)
        weights = network.activation(items, history)
        assert weights.shape == (2, 3, 5) and (weights == weights[0, 0, 0]).all()


def test_what_is_there_is_drawn():
    figures = {
        f"{name}{end}": value
        for name in ("ndcg10_mf_bpr", "ndcg10_recbole_mf_bpr", "ndcg10_din", "auc_din", "auc_recbole_din")
        for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.6))
    }
    ranked, told = page(figures).axes
    assert [label.get_text() for label in ranked.get_yticklabels()] == ["mf_bpr\nBPR", "din\nno twin"]
    assert [label.get_text() for label in told.get_yticklabels()] == ["din\nDIN"]
    assert len(ranked.lines) == 2


def test_all_of_ours_that_rank_stand_against_the_best_of_recbole_s(split, tmp_path, monkeypatch):
    """DIN ranks the catalogue too; what ranks best, whoever it is, is paired with RecBole's best."""
    monkeypatch.setattr("benchmarks.recbole_compare.configured", quick)
    last = [str(name) for name in split.log.catalogue.item_ids[split.log.item[split.test_rows]]]
    ranks = export_of(split, test_rank=np.full(len(last), 55), valid_rank=np.full(len(last), 55))
    accounts = {"cpu_seconds": 1.0, "parameters": 1, "passes": 1, "configuration": {}, "valid": 0.5}
    exports = {"mf_bpr": [replace(ranks, account=accounts)]}
    figures = compared(["mf_bpr", "din"], split, exports, tmp_path, 1)
    of_ours = {name: figures[f"ndcg10_{name}"] for name in ("mf_bpr", "din")}
    assert figures["best_ndcg10_ours"] == max(of_ours, key=of_ours.__getitem__)
    assert figures["best_ndcg10_recbole"] == "BPR" and figures["ndcg10_recbole_mf_bpr"] == 0
    assert figures["ndcg10_difference_best"] == pytest.approx(max(of_ours.values()))
    assert 0 < figures["auc_din"] < 1 and "auc_mf_bpr" not in figures
    assert (tmp_path / "din_ranking-0-0.json").exists()


def quick(kind, change, label):
    """As `configured`, for one short pass."""
    config = configured(kind, {}, label)
    return replace(config, training=TrainingConfig(epochs=1))
