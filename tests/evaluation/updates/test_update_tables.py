"""What tables of a study say of decay and of the budget."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from agents.updates.decay import METRICS
from evaluation.runs import Run
from evaluation.updates import study
from evaluation.updates.arena import UpdateArena, table_of
from evaluation.updates.config import UpdateStudyConfig
from evaluation.updates.report import AS_IT_SHOULD, budget_report, decay_table, decay_verdict
from evaluation.updates.stages import decaying
from evaluation.verdict.jobs import Job


@pytest.mark.parametrize(
    ("scenario", "low", "high", "beyond", "told"),
    [
        ("stationary", -0.02, 0.02, None, AS_IT_SHOULD),
        ("stationary", -0.005, 0.021, None, "WRONG: the interval reaches beyond ±2%"),
        ("stationary", -0.021, 0.005, None, "WRONG: the interval reaches beyond ±2%"),
        ("stationary", -0.03, 0.03, None, "WRONG: the interval is wider than ±2%; more visits or worlds are needed"),
        ("stationary", None, None, None, "WRONG: no interval, one world or too few days"),
        *[(name, 0.001, 0.4, 0.001, AS_IT_SHOULD) for name in ("slow_drift", "shock", "news")],
        *[(name, 0.0, 0.4, 0.1, "WRONG: no decay beyond the interval") for name in ("slow_drift", "shock", "news")],
        *[(name, 0.2, 0.4, 0.0, "WRONG: no more than 'returning'") for name in ("slow_drift", "shock", "news")],
        ("shock", 0.2, 0.4, None, "WRONG: no more than 'returning'"),
        ("shock", -0.4, -0.1, -0.2, "WRONG: models gain"),
        ("news", None, None, None, "WRONG: no interval, one world or too few days"),
        ("season", -0.4, -0.1, -0.2, ""),
        ("growth", None, None, None, ""),
        ("returning", -0.4, -0.1, None, ""),
    ],
)
def test_a_scenario_must_do_to_models_what_it_is_made_for(scenario, low, high, beyond, told):
    assert decay_verdict(scenario, low, high, beyond) == told


def losses(arena: UpdateArena, lost: dict[str, list[float]]) -> pl.DataFrame:
    """What a study says of losses by scenario, world by world."""
    for name, values in lost.items():
        for seed, value in enumerate(values):
            table = table_of("decay", name, "logistic", seed)
            arena.run.write_table(table, pl.DataFrame({"seed": [seed], "loss": [value], "error": [0.03]}))
            curve = {"seed": [seed], "day": [1], "visits": [9]} | {name: [0.5] for name in METRICS}
            arena.run.write_table(f"{table}_curves", pl.DataFrame(curve))
    return study._decay(arena)[1]


def test_losses_are_told_beyond_those_of_a_crowd_that_returns(tmp_path):
    config = UpdateStudyConfig(scenarios=("stationary", "news"), rules=("every",), learners=("dqn",), decay_seeds=5)
    specs = {"stationary": "stationary", "news": "news"}
    arena = UpdateArena(None, None, specs, config, Run.create(tmp_path / "run", "updates", {}))
    crowd, more = [0.1, 0.2, 0.1, 0.3, 0.1], [0.30, 0.31, 0.29, 0.30, 0.30]
    lost = {"stationary": [0.0] * 5, "returning": crowd, "news": [a + b for a, b in zip(crowd, more, strict=True)]}
    found = losses(arena, lost)
    assert found["scenario"].to_list() == ["stationary", "news", "returning"]
    assert found["beyond"].to_list() == [None, pytest.approx(0.30), None]
    # what worlds differ by in both is no part of it: t of four degrees of freedom, of `more` alone
    margin = 2.776445 * np.std(more, ddof=1) / np.sqrt(5)
    assert found["beyond_low"][1] == pytest.approx(0.30 - margin) and found["high"][1] - found["low"][1] > 8 * margin
    # of one world, over its users
    one = replace(arena, config=replace(config, decay_seeds=1), run=Run.create(tmp_path / "one", "updates", {}))
    found = losses(one, {"stationary": [0.0], "returning": [0.1], "news": [0.4]})
    assert found["beyond_high"][1] == pytest.approx(0.3 + 1.959964 * 0.03 * np.sqrt(2))


def test_the_control_is_measured_where_a_scenario_must_lose_more(tmp_path):
    arena = UpdateArena(None, None, {"season": "season"}, UpdateStudyConfig(scenarios=("season",)), None)
    assert decaying(arena) == ["season"]
    assert decaying(replace(arena, specs={"news": "news"})) == ["news", "returning"]
    assert decaying(replace(arena, specs={"returning": "returning", "news": "news"})) == ["returning", "news"]


def test_the_table_of_decay_has_a_verdict_for_each_model():
    losses = pl.DataFrame(
        {
            "scenario": ["stationary", "news", "news"],
            "model": ["logistic", "logistic", "din"],
            "loss": [0.0, 0.5, 0.1],
            "low": [-0.01, 0.4, -0.1],
            "high": [0.01, 0.6, 0.3],
            "beyond": [None, 0.2, 0.0],
            "beyond_low": [None, 0.1, -0.1],
            "beyond_high": [None, 0.3, 0.1],
            "seeds": [5, 5, 5],
        }
    )
    table = decay_table(losses)
    assert list(table.columns[-1].cells) == [AS_IT_SHOULD, AS_IT_SHOULD, "WRONG: no decay beyond the interval"]
    assert list(table.columns[3].cells) == ["", "+20.0% (+10.0%, +30.0%)", "+0.0% (-10.0%, +10.0%)"]


def played(policy: str, seed: int, scenario: str = "shock", **more: str) -> pl.DataFrame:
    """Two days, of half a minute of training and one of serving each."""
    row = {"scenario": scenario, "policy": policy, "seed": seed, "seconds": 30.0, "serve_seconds": 60.0}
    return pl.DataFrame([row | more] * 2)


def budget(arena: UpdateArena, monkeypatch, *, decay_seconds: tuple[float | None, ...]) -> pl.DataFrame:
    """Of a made-up study: what was done in each stage lies in the run's tables."""
    run = arena.run
    monkeypatch.setattr("evaluation.updates.stages.AGEING", ())  # no control
    for seed, seconds in enumerate(decay_seconds):
        losses = pl.DataFrame({"model": ["logistic"], "seed": [seed], "loss": [0.1]})
        table = losses if seconds is None else losses.with_columns(seconds=pl.lit(seconds))
        run.write_table(table_of("decay", "shock", "logistic", seed), table)
    for family in arena.config.families:
        spent = {"scenario": "shock", "family": family, "episodes": 20, "seconds": 120.0}
        run.write_table(table_of("tuned", "shock", family), pl.DataFrame([spent]))
    run.write_table("unmet", played("dqn, unmet", 0))
    run.write_table("pipeline", pl.concat([played(policy, 0, ranker="din") for policy in ("never", "dqn")]))
    monkeypatch.setattr(study, "unmet_jobs", lambda arena: [Job("study", "unmet", print)])
    monkeypatch.setattr(study, "pipeline_jobs", lambda arena: [Job("study", "pipeline", print)])
    days = pl.concat([played(policy, seed) for policy in ("never", "dqn", "hindsight") for seed in (0, 1)])
    replays = {"scenario": ["shock"] * 2, "seed": [0, 1], "replays": [30, 32], "search_seconds": [60.0, 120.0]}
    return study._budget(arena, days, pl.DataFrame(replays))


def test_the_budget_has_every_stage_and_policy(tmp_path, monkeypatch):
    config = UpdateStudyConfig(scenarios=("shock",), rules=("every",), learners=("dqn",), decay_seeds=2)
    arena = UpdateArena(None, None, {"shock": "shock"}, config, Run.create(tmp_path / "run", "updates", {}))
    arena._note_making("shock", 20.0)
    arena._note_making("shock", 40.0)
    table = budget(arena, monkeypatch, decay_seconds=(60.0, 30.0))
    assert table.rows() == [
        ("frozen, logistic", "decay", 2, 1.5),
        ("every", "tuning or training", 20, 2.0),
        ("dqn", "tuning or training", 20, 2.0),
        ("never", "judging", 2, 6.0),
        ("dqn", "judging", 2, 6.0),
        ("dqn, unmet", "judging where it never was", 1, 3.0),
        ("never", "pipeline of din", 1, 3.0),
        ("dqn", "pipeline of din", 1, 3.0),
        ("chosen rules", "monitoring", 1, None),
        ("hindsight", "replays", 62, 3.0),
        ("all", "making of 2 markets", None, 1.0),
    ]
    # a run whose first jobs were done before this was measured goes on
    again = replace(arena, run=Run.create(tmp_path / "older", "updates", {}))
    table = budget(again, monkeypatch, decay_seconds=(None, 30.0))
    assert table.row(0) == ("frozen, logistic", "decay", 2, None)
    assert table.row(-1) == ("all", "making of 0 markets", None, None)
    assert list(budget_report(table).columns[-1].cells)[:2] == ["–", "2.0"]
