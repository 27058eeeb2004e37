"""One fit of a ranker and what it foretold: the unit of the studies of rankers, kept in the run folder once it is done."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from agents.rankers.base import Ranker
from agents.rankers.catalogue_ranker import CatalogueRanker
from agents.rankers.loading import resolve_ranker, shown_name
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.popularity import Popularity
from agents.rankers.samples import Label
from envs.logs.schema import InteractionLog
from evaluation.progress import Progress
from evaluation.ranking.bootstrap import Resampled, UserBootstrap
from evaluation.ranking.outcomes import FullRanking, Pointwise, liked
from evaluation.ranking.splits import Split, leave_last_out
from evaluation.runs import Run

POPULARITY = Popularity.name
"""Name of the baseline that every ranker is paired with: items by how often they had been consumed until then."""
RANKED, LAST, SHARE, CUT = "leave_last_out", "last_row", "last_share", "global_cut"
"""The four tasks: rank the catalogue for each user's last item; tell whether the last row, or rows of the last 20 %, are liked;
rank the catalogue for what comes after one moment for all."""
MEASURES = {
    RANKED: ("ndcg10", "recall10", "mrr10"),
    LAST: ("auc", "log_loss"),
    SHARE: ("auc20", "gauc20", "log_loss20"),
    CUT: tuple(f"{name}_cut{group}" for name in ("ndcg10", "recall10") for group in ("", "_warm", "_cold")),
}
"""What each task is measured by."""


@dataclass(frozen=True, kw_only=True)
class RankerStudyConfig:
    """What is compared, and how."""

    names: tuple[str, ...]
    """Rankers by name, or "file.py:Class"."""
    grown: tuple[str, ...] = ()
    """Those of them whose growth with the data is studied."""
    epochs: int | None = None
    """Passes of network rankers at most; None for each ranker's own."""
    rating_threshold: float = 4.0
    """Ratings from here on are liked."""
    ranker_seeds: int = 1
    """Times that each ranker is fitted, with seeds counted up from `seed`."""
    seed: int = 0
    """Of fits and of the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A ranker that is fitted, and judged, once for each training seed."""

    name: str
    """`POPULARITY`, a ranker's name, or "file.py:Class"."""
    task: str
    """One of `RANKED`, `LAST`, `SHARE`, `CUT`."""
    split: Split
    """What is learnt from and what is predicted."""
    condition: str = ""
    """What differs from the plain task, as a word for file names; empty for nothing."""

    @property
    def ranker(self) -> str:
        """What the ranker is called in tables."""
        return shown_name(self.name)

    def table(self, kind: str, number: int = 0) -> str:
        """Name of the run's table of `kind` (outcomes, costs) by training seed `number`."""
        place = f"{kind}/{self.task}" + (f"/{self.condition}" if self.condition else "")
        return f"{place}/{self.ranker}" + (f"-seed{number}" if number else "")


def tasks_of(name: str, possible: Sequence[str]) -> tuple[str, ...]:
    """Those of the `possible` tasks that a ranker can do: one that is made to rank gives no probabilities."""
    ranks_only = name == POPULARITY or issubclass(resolve_ranker(name), CatalogueRanker)
    return tuple(task for task in possible if task in (RANKED, CUT) or not ranks_only)


def has_labels(log: InteractionLog) -> bool:
    """Whether the log tells what was liked from what was not."""
    return log.has_exposures or bool(np.isfinite(log.rating).any())


def last_split(log: InteractionLog) -> dict[str, Split]:
    """The tasks about each user's last row that the log allows. In one with exposures the last consumed rows are all liked, which
    nothing can be told from."""
    split = leave_last_out(log)
    return {RANKED: split} | ({LAST: split} if has_labels(log) and not log.has_exposures else {})


def perform(title: str, trials: Sequence[Trial], config: RankerStudyConfig, run: Run, progress: Progress) -> None:
    """Fits and judges what is not in the run folder yet."""
    todo = [(trial, number) for trial in trials for number in _seeds(trial, config)]
    with progress(title, len(todo)) as report:
        for done, (trial, number) in enumerate(todo):
            if not run.has_table(trial.table("outcomes", number)):
                _perform(trial, number, config, run)
            report(done + 1)


def costs_of(trials: Sequence[Trial], config: RankerStudyConfig, run: Run) -> pl.DataFrame:
    """(ranker, task, condition, training_seed, seconds: of the fit by the clock, cpu_seconds: of the processor, parameters);
    popularity costs nothing and is left out."""
    return pl.concat(
        [
            run.table(trial.table("costs", number))
            for trial in trials
            if trial.name != POPULARITY
            for number in _seeds(trial, config)
        ]
    )


def figures_of(trial: Trial, config: RankerStudyConfig, run: Run) -> dict[str, Resampled]:
    """The measures of a trial, as means over training seeds, under draws of users that all trials on the same users share."""
    seeds = _seeds(trial, config)
    outcomes = [run.table(trial.table("outcomes", number)) for number in seeds]
    users = int(outcomes[0]["user"].to_numpy().max()) + 1
    bootstrap = UserBootstrap(users, seed=config.seed)
    by_seed = [_figures(trial.task, outcome, bootstrap) for outcome in outcomes]
    # rankers take other draws of their seeds, since those of two rankers have nothing in common
    own = int.from_bytes(trial.ranker.encode()) % 2**32
    return {name: Resampled.over_seeds([figures[name] for figures in by_seed], own) for name in by_seed[0]}


def _seeds(trial: Trial, config: RankerStudyConfig) -> range:
    return range(1 if trial.name == POPULARITY else config.ranker_seeds)


def _perform(trial: Trial, number: int, config: RankerStudyConfig, run: Run) -> None:
    """Keeps what became of a trial: first the cost, then the outcome, which says that it is done."""
    split, ranks = trial.split, trial.task in (RANKED, CUT)
    ranker: Ranker = Popularity()
    if trial.name == POPULARITY:
        ranker.fit(split.training_log, split.validation_log)
    else:
        label: Label = "consumed" if ranks else "click" if split.log.has_exposures else "rating"
        ranker = _ranker(trial, label, config, config.seed + number)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        ranker.fit(split.training_log, split.validation_log)
        cost = {
            "ranker": trial.ranker,
            "task": trial.task,
            "condition": trial.condition,
            "training_seed": number,
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - begin_cpu,
            "parameters": _num_parameters(ranker),
        }
        schema = {"parameters": pl.Int64}
        run.write_table(trial.table("costs", number), pl.DataFrame([cost], schema_overrides=schema))
    if ranks:
        ranking = FullRanking.of(ranker, split)
        outcome = pl.DataFrame({"user": ranking.user, "rank": ranking.rank, "cold": split.is_cold})
    else:
        points = Pointwise.of(ranker, split, liked(split.log, config.rating_threshold))
        outcome = pl.DataFrame({"user": points.user, "label": points.label, "logit": points.logit})
    run.write_table(trial.table("outcomes", number), outcome)


def _ranker(trial: Trial, label: Label, config: RankerStudyConfig, seed: int) -> Ranker:
    kind = resolve_ranker(trial.name)
    own: Any = kind.config_class()
    samples = replace(own.samples, label=label, rating_threshold=config.rating_threshold, event_delay=trial.split.delay)
    own = replace(own, samples=samples)
    if config.epochs is not None and isinstance(own, NetworkRankerConfig):
        own = replace(own, training=replace(own.training, epochs=config.epochs))
    return kind(own, seed)


def _num_parameters(ranker: Ranker) -> int | None:
    """None for a ranker of a user's own that cannot be saved."""
    try:
        return ranker.num_parameters
    except NotImplementedError:
        return None


def _figures(task: str, outcome: pl.DataFrame, bootstrap: UserBootstrap) -> dict[str, Resampled]:
    user = outcome["user"].to_numpy()
    if task in (RANKED, CUT):
        ranking = FullRanking(user, outcome["rank"].to_numpy())
        if task == RANKED:
            return ranking.figures(bootstrap)
        cold = outcome["cold"].to_numpy()
        groups = {"_cut": ranking, "_cut_warm": ranking.among(~cold), "_cut_cold": ranking.among(cold)}
        found = {
            f"{name}{suffix}": figure
            for suffix, group in groups.items()
            for name, figure in group.figures(bootstrap).items()
        }
    else:
        points = Pointwise(user, outcome["label"].to_numpy(), outcome["logit"].to_numpy())
        suffix = "20" if task == SHARE else ""
        found = {f"{name}{suffix}": figure for name, figure in points.figures(bootstrap).items()}
    return {name: found[name] for name in MEASURES[task]}
