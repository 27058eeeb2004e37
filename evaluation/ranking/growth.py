"""How the quality of rankers grows with the amount of data, and what late events and wrong labels cost them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from envs.logs.schema import InteractionLog
from evaluation.progress import Progress
from evaluation.ranking.splits import Split, late_events, latest_share, wrong_items, wrong_likes
from evaluation.ranking.trials import (
    POPULARITY,
    RANKED,
    RankerStudyConfig,
    Trial,
    figures_of,
    last_split,
    perform,
    ranks_only,
)
from evaluation.runs import Run
from evaluation.statistics import Estimate

GROWTH = {
    "amount": {"10 %": 0.1, "30 %": 0.3, "100 %": 1.0},
    "delay": {"none": 0.0, "an hour": 3_600.0, "a day": 86_400.0},
    "labels": {"0 %": 0.0, "5 %": 0.05, "20 %": 0.2},
}
"""What is varied, and its levels as they are shown: the share of each user's rows that is there, the seconds until an event is
known, the share of labels that are wrong."""
GROWN = ("gbdt", "mf_bpr", "neumf", "din", "sasrec")
"""Rankers whose growth is studied unless others are named: one of each kind, of those that take the least time to fit."""
PLAIN = {"amount": "100 %", "delay": "none", "labels": "0 %"}
"""Level of each at which nothing differs from the plain task."""


@dataclass(frozen=True, eq=False)
class _Level:
    """One level of what is varied, for one task."""

    kind: str
    level: str
    task: str
    split: Split
    condition: str


def growth_study(log: InteractionLog, config: RankerStudyConfig, run: Run, progress: Progress) -> pl.DataFrame:
    """Fits each ranker of `config.grown` under each level of `GROWTH` for the tasks about users' last rows; those that are made
    to rank for the ranks alone.

    Returns:
        (kind, level, ranker, measure, value, low, high, and the same of the paired difference to the plain level): a row for each.
    """
    levels = [level for task, split in last_split(log).items() for level in _levels(task, split, config)]
    trials = {
        (level, name): Trial(name=name, task=level.task, split=level.split, condition=level.condition)
        for name in (POPULARITY, *config.grown)
        for level in levels
        if level.task == RANKED or not ranks_only(name)
    }
    plain = {trial.table("outcomes"): trial for trial in trials.values()}
    perform("rankers, growth", list(plain.values()), config, run, progress)
    figures = {place: figures_of(trial, config, run) for place, trial in plain.items()}
    rows = []
    for (level, name), trial in trials.items():
        base = figures[Trial(name=name, task=level.task, split=level.split).table("outcomes")]
        for measure, figure in figures[trial.table("outcomes")].items():
            row: dict[str, Any] = {"kind": level.kind, "level": level.level, "ranker": trial.ranker, "measure": measure}
            difference = (figure - base[measure]).estimate() if trial.condition else None
            rows.append(row | ends(figure.estimate()) | ends(difference, "_minus_plain"))
    table = pl.DataFrame(rows, infer_schema_length=None)
    run.write_table("ranker_growth", table)
    run.write_csv("ranker_growth", table)
    return table


def _levels(task: str, split: Split, config: RankerStudyConfig) -> list[_Level]:
    """Every level of every kind; those that change nothing are the plain task."""
    change: Mapping[str, Callable[[Split, float], Split]] = {
        "amount": latest_share,
        "delay": late_events,
        "labels": partial(wrong_items, seed=config.seed)
        if task == RANKED
        else partial(wrong_likes, rating_threshold=config.rating_threshold, seed=config.seed),
    }
    found = []
    for kind, levels in GROWTH.items():
        for level, value in levels.items():
            if level == PLAIN[kind]:
                found.append(_Level(kind, level, task, split, ""))
            else:
                found.append(_Level(kind, level, task, change[kind](split, value), f"{kind}-{value:g}"))
    return found


def ends(estimate: Estimate | None, suffix: str = "") -> dict[str, float | None]:
    """Columns of an estimate: value, low, high, with a suffix each; None where there is none."""
    values = (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
    return dict(zip((f"value{suffix}", f"low{suffix}", f"high{suffix}"), values, strict=True))
