"""Rankers beside each other on held-out rows of one log: fitted, judged by ranks and by probabilities, each paired with each."""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import polars as pl

from agents.rankers.loading import shown_name
from agents.updates.bootstrap import Resampled
from envs.logs.schema import InteractionLog
from evaluation.progress import Progress
from evaluation.ranking.growth import ends
from evaluation.ranking.splits import global_cut, last_share
from evaluation.ranking.trials import (
    CUT,
    POPULARITY,
    SHARE,
    RankerStudyConfig,
    Trial,
    costs_of,
    figures_of,
    has_labels,
    knows_by_attributes,
    last_split,
    perform,
)
from evaluation.runs import Run

RANKER_PARTS = ("offline", "growth", "serving")
"""Parts of the report, in the order in which they are made; a later one may read the tables of an earlier one."""


@dataclass(frozen=True)
class RankerStudy:
    """What was found."""

    measures: pl.DataFrame
    """(ranker, measure, value, low, high, and the same of the paired difference to popularity where there is one)."""
    pairs: pl.DataFrame
    """(measure, first, second, value, low, high): the paired difference first - second, for each order of each pair."""
    costs: pl.DataFrame
    """See `trials.costs_of`."""
    by_attributes: tuple[str, ...]
    """Rankers that know a cold user by attributes alone, as they are called in tables."""


def ranker_study(log: InteractionLog, config: RankerStudyConfig, run: Run, progress: Progress) -> RankerStudy:
    """Fits every ranker for every task; what is in the run folder is not fitted again.

    Rankers that are made to rank learn from what was consumed in all tasks; of likes their order alone is judged.

    Raises:
        LogError: if the log is too short for a split, or has no moment with rows before and behind it.
    """
    splits = last_split(log) | ({SHARE: last_share(log)} if has_labels(log) else {}) | {CUT: global_cut(log)}
    trials = [
        Trial(name=name, task=task, split=splits[task]) for name in (POPULARITY, *config.names) for task in splits
    ]
    perform("rankers, fits", trials, config, run, progress)
    figures = {
        (trial.ranker, measure): figure
        for trial in trials
        for measure, figure in figures_of(trial, config, run).items()
    }
    by_attributes = tuple(shown_name(name) for name in config.names if knows_by_attributes(name))
    study = RankerStudy(_measured(figures), _paired(figures), costs_of(trials, config, run), by_attributes)
    for name, table in (
        ("rankers", study.measures),
        ("ranker_pairs", study.pairs),
        ("ranker_costs", study.costs),
    ):
        run.write_table(name, table)
        run.write_csv(name, table)
    return study


def _measured(figures: dict[tuple[str, str], Resampled]) -> pl.DataFrame:
    """One row for each ranker and measure."""
    rows = []
    for (ranker, measure), figure in figures.items():
        row: dict[str, Any] = {"ranker": ranker, "measure": measure, "training_seeds": figure.num_seeds}
        baseline = figures.get((POPULARITY, measure)) if ranker != POPULARITY else None
        difference = None if baseline is None else (figure - baseline).estimate()
        rows.append(row | ends(figure.estimate()) | ends(difference, "_minus_popular"))
    return pl.DataFrame(rows, infer_schema_length=None)


def _paired(figures: dict[tuple[str, str], Resampled]) -> pl.DataFrame:
    """One row for each measure and ordered pair of rankers that have it."""
    rows = [
        {"measure": measure, "first": first, "second": second} | ends((figure - figures[second, measure]).estimate())
        for ((first, measure), figure), ((second, other), _) in permutations(figures.items(), 2)
        if measure == other
    ]
    schema = {"measure": pl.String, "first": pl.String, "second": pl.String} | dict.fromkeys(
        ("value", "low", "high"), pl.Float64
    )
    return pl.DataFrame(rows, schema=schema)
