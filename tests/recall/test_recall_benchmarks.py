"""The benchmarks of recall and rankers at small size: their figures are there, and those that are no timings are right."""

import json
import sys

import numpy as np
import pytest

from benchmarks import ranker_speed, recall_quality, recall_speed
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import build_world


@pytest.fixture(scope="module")
def small():
    return generate_log(SyntheticConfig(num_users=40, events_per_user=20, num_items=150, embedding_size=4), seed=0)


def test_speed_of_recall_is_of_an_exact_search(monkeypatch, capsys):
    monkeypatch.setattr(recall_speed, "SIZES", {"10k": 400})
    monkeypatch.setattr(recall_speed, "QUERIES", 64)
    monkeypatch.setattr(recall_speed, "ROUNDS", 3)
    figures = recall_speed.beside_faiss()
    assert figures["recall10k_at_100"] > 0.999, "of equal products one may stand for the other"
    assert figures["recall10k_vs_faiss_flat"] > 0 and figures["recall10k_per_s"] > 0


def test_share_of_the_truly_best_is_counted_row_by_row():
    truth = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall_speed.shared(np.array([[4, 3, 9, 10], [5, 1, 2, 3]]), truth) == pytest.approx(3 / 8)


def test_shares_of_a_request_s_time_are_shares_of_one_whole(small, monkeypatch, capsys):
    monkeypatch.setattr(recall_speed, "QUERIES", 40)
    shares = recall_speed.shares_of(build_world(*small), requests=3)
    stages = [shares[f"share_{name}"] for name in ("recall", "rerank", "environment")]
    assert min(stages) > 0 and sum(stages) == pytest.approx(1)
    assert shares["share_fold_in"] + shares["share_search"] <= shares["share_recall"]


def test_rankers_are_timed_and_their_products_counted(monkeypatch, capsys):
    sizes = {"REQUESTS": 32, "NUM_ITEMS": 120, "NUM_USERS": 30, "SLOW_REQUESTS": 8, "ROUNDS": 1}
    for name, value in {**sizes, "RANKERS": {"mf": "mf_pointwise", "neumf": "neumf", "logistic": "logistic"}}.items():
        monkeypatch.setattr(ranker_speed, name, value)
    figures = ranker_speed.measured()
    assert all(figures[f"{name}_pairs_per_s"] > 0 for name in ("mf", "neumf", "logistic"))
    assert figures["neumf_flops_per_pair"] > figures["mf_flops_per_pair"]
    assert "logistic_flops_per_pair" not in figures, "what has no network has no products to be bound by"


def test_quality_prints_what_it_writes(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recall_quality, "load_log", lambda name: small[0])
    monkeypatch.setattr(sys, "argv", ["recall_quality", "generated", "als=0.5,popular=0.5,fresh=0"])
    monkeypatch.chdir(tmp_path)
    recall_quality.main()
    written = json.loads((tmp_path / "results" / "recall_quality.json").read_text(encoding="utf-8"))
    lines = [line.split(": ") for line in capsys.readouterr().out.splitlines() if line.startswith("recall100_")]
    printed = {name: float(value) for name, value in lines}
    assert {"recall100_merged", "recall100_als_low", "recall100_popularity"} <= set(printed)
    assert printed == {name: pytest.approx(written[name], abs=1e-4) for name in printed}
