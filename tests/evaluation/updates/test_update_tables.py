"""What tables of a study say of decay and of the budget."""

from dataclasses import replace

import polars as pl
import pytest

from evaluation.runs import Run
from evaluation.updates import study
from evaluation.updates.arena import UpdateArena, table_of
from evaluation.updates.config import UpdateStudyConfig
from evaluation.updates.report import AS_IT_SHOULD, budget_report, decay_table, decay_verdict
from evaluation.verdict.jobs import Job


@pytest.mark.parametrize(
    ("scenario", "low", "high", "told"),
    [
        ("stationary", -0.02, 0.02, AS_IT_SHOULD),
        ("stationary", -0.005, 0.021, "WRONG: the interval reaches beyond ±2%"),
        ("stationary", -0.021, 0.005, "WRONG: the interval reaches beyond ±2%"),
        ("stationary", -0.03, 0.03, "WRONG: the interval is wider than ±2%; more visits or worlds are needed"),
        ("stationary", None, None, "WRONG: no interval, one world or too few days"),
        *[(name, 0.001, 0.4, AS_IT_SHOULD) for name in ("slow_drift", "shock", "news")],
        *[(name, 0.0, 0.4, "WRONG: no decay beyond the interval") for name in ("slow_drift", "shock", "news")],
        ("shock", -0.4, -0.1, "WRONG: models gain"),
        ("news", None, None, "WRONG: no interval, one world or too few days"),
        ("season", -0.4, -0.1, ""),
        ("growth", None, None, ""),
    ],
)
def test_a_scenario_must_do_to_models_what_it_is_made_for(scenario, low, high, told):
    assert decay_verdict(scenario, low, high) == told


def test_the_table_of_decay_has_a_verdict_for_each_model():
    losses = pl.DataFrame(
        {
            "scenario": ["stationary", "news", "news"],
            "model": ["logistic", "logistic", "din"],
            "loss": [0.0, 0.5, 0.1],
            "low": [-0.01, 0.4, -0.1],
            "high": [0.01, 0.6, 0.3],
            "seeds": [5, 5, 5],
        }
    )
    verdicts = list(decay_table(losses).columns[-1].cells)
    assert verdicts == [AS_IT_SHOULD, AS_IT_SHOULD, "WRONG: no decay beyond the interval"]


def played(policy: str, seed: int, scenario: str = "shock", **more: str) -> pl.DataFrame:
    """Two days, of half a minute of training and one of serving each."""
    row = {"scenario": scenario, "policy": policy, "seed": seed, "seconds": 30.0, "serve_seconds": 60.0}
    return pl.DataFrame([row | more] * 2)


def budget(arena: UpdateArena, monkeypatch, *, decay_seconds: tuple[float | None, ...]) -> pl.DataFrame:
    """Of a made-up study: what was done in each stage lies in the run's tables."""
    run = arena.run
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
        ("hindsight", "replays", 62, 3.0),
        ("all", "making of 2 markets", None, 1.0),
    ]
    # a run whose first jobs were done before this was measured goes on
    again = replace(arena, run=Run.create(tmp_path / "older", "updates", {}))
    table = budget(again, monkeypatch, decay_seconds=(None, 30.0))
    assert table.row(0) == ("frozen, logistic", "decay", 2, None)
    assert table.row(-1) == ("all", "making of 0 markets", None, None)
    assert list(budget_report(table).columns[-1].cells)[:2] == ["–", "2.0"]
