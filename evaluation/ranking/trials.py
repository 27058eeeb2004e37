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
from agents.rankers.network_ranker import NetworkRanker, NetworkRankerConfig
from agents.rankers.popularity import Popularity
from agents.rankers.samples import Label
from agents.updates.bootstrap import Resampled, UserBootstrap
from envs.logs.schema import InteractionLog
from evaluation.progress import Progress
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
    SHARE: ("auc20", "gauc20", "log_loss20", "calibration20", "calibration_error20"),
    CUT: tuple(f"{name}_cut{group}" for name in ("ndcg10", "recall10") for group in ("", "_warm", "_cold")),
}
"""What each task is measured by."""
BY_ORDER = ("auc", "auc20", "gauc20")
"""Those measures of the tasks about likes that need no probabilities: all that is asked of what is made to rank."""


@dataclass(frozen=True, kw_only=True)
class RankerStudyConfig:
    """What is compared, and how."""

    names: tuple[str, ...]
    """Rankers by name, or "file.py:Class"."""
    grown: tuple[str, ...] = ()
    """Those of them whose growth with the data is studied."""
    epochs: int | None = None
    """Passes of network rankers at most; None for each ranker's own."""
    debias: bool = False
    """Whether rows weigh by one over the propensity that the log tells."""
    rating_threshold: float = 4.0
    """Ratings from here on are liked."""
    ranker_seeds: int = 1
    """Times that each ranker is fitted, with seeds counted up from `seed`."""
    seed: int = 0
    """Of fits and of the bootstrap."""


def knows_by_attributes(name: str) -> bool:
    """Whether a ranker knows a cold user by attributes alone: one with a vector for each user that reads no history."""
    kind = Popularity if name == POPULARITY else resolve_ranker(name)
    return issubclass(kind, NetworkRanker) and not kind.reads_history


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

    @property
    def ranks_only(self) -> bool:
        """See `ranks_only`."""
        return ranks_only(self.name)

    def table(self, kind: str, number: int = 0) -> str:
        """Name of the run's table of `kind` (outcomes, costs) by training seed `number`."""
        return f"{kind}/{self.place(number)}"

    def place(self, number: int = 0) -> str:
        """The trial by training seed `number`, as a path."""
        place = self.task + (f"/{self.condition}" if self.condition else "")
        return f"{place}/{self.ranker}" + (f"-seed{number}" if number else "")


def ranks_only(name: str) -> bool:
    """Whether a ranker is made to rank: it learns from what was consumed, and its scores are no probabilities of a like."""
    return name == POPULARITY or issubclass(resolve_ranker(name), CatalogueRanker)


def has_labels(log: InteractionLog) -> bool:
    """Whether the log tells what was liked from what was not."""
    return log.has_exposures or bool(np.isfinite(log.rating).any())


def last_split(log: InteractionLog) -> dict[str, Split]:
    """The tasks about each user's last row that the log allows. In one with exposures the last consumed rows are all liked, which
    nothing can be told from."""
    split = leave_last_out(log)
    return {RANKED: split} | ({LAST: split} if has_labels(log) and not log.has_exposures else {})


def perform(title: str, trials: Sequence[Trial], config: RankerStudyConfig, run: Run, progress: Progress) -> None:
    """Fits and judges what is not in the run folder yet. Curves of fits go to its folder `tensorboard`."""
    todo, fits = [(trial, number) for trial in trials for number in _seeds(trial, config)], _Fits()
    with progress(title, len(todo)) as report:
        for done, (trial, number) in enumerate(todo):
            if not run.has_table(trial.table("outcomes", number)):
                _perform(trial, number, config, run, fits)
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
    by_seed = [_figures(trial, outcome, bootstrap) for outcome in outcomes]
    # rankers take other draws of their seeds, since those of two rankers have nothing in common
    own = int.from_bytes(trial.ranker.encode()) % 2**32
    return {name: Resampled.over_seeds([figures[name] for figures in by_seed], own) for name in by_seed[0]}


def _seeds(trial: Trial, config: RankerStudyConfig) -> range:
    return range(1 if trial.name == POPULARITY else config.ranker_seeds)


def _perform(trial: Trial, number: int, config: RankerStudyConfig, run: Run, fits: "_Fits") -> None:
    """Keeps what became of a trial: first the cost, then the outcome, which says that it is done."""
    split = trial.split
    ranker: Ranker = Popularity()
    if trial.name == POPULARITY:
        ranker.fit(split.training_log, split.validation_log)
    else:
        ranker, spent = fits.fitted(trial, number, config, run)
        about = {
            "ranker": trial.ranker,
            "task": trial.task,
            "condition": trial.condition,
            "training_seed": number,
        }
        cost = about | spent | {"parameters": _num_parameters(ranker)}
        schema = {"parameters": pl.Int64}
        run.write_table(trial.table("costs", number), pl.DataFrame([cost], schema_overrides=schema))
    history_size = ranker.config.samples.history_size
    if trial.task in (RANKED, CUT):
        ranking = FullRanking.of(ranker, split, history_size)
        outcome = pl.DataFrame({"user": ranking.user, "rank": ranking.rank, "cold": split.is_cold})
    else:
        points = Pointwise.of(ranker, split, liked(split.log, config.rating_threshold), history_size)
        outcome = pl.DataFrame({"user": points.user, "label": points.label, "logit": points.logit})
    run.write_table(trial.table("outcomes", number), outcome)


class _Fits:
    """Fits rankers, and keeps those of the last ranker and split, for a task that asks for the very same fit."""

    def __init__(self) -> None:
        self._of: tuple[str, Split, Label] | None = None
        self._by_seed: dict[int, tuple[Ranker, dict[str, float]]] = {}

    def fitted(self, trial: Trial, number: int, config: RankerStudyConfig, run: Run) -> tuple[Ranker, dict[str, float]]:
        """(the ranker of a trial, seconds that its fit took)."""
        split, label = trial.split, _label(trial)
        if self._of is None or self._of[0] != trial.name or self._of[1] is not split or self._of[2] != label:
            self._of, self._by_seed = (trial.name, split, label), {}
        if number not in self._by_seed:
            ranker = _ranker(trial, label, config, config.seed + number)
            begin, begin_cpu = time.perf_counter(), time.process_time()
            ranker.fit(split.training_log, split.validation_log, folder=run.curves_path(trial.place(number)))
            spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
            self._by_seed[number] = ranker, spent
        return self._by_seed[number]


def _label(trial: Trial) -> Label:
    if trial.task in (RANKED, CUT) or trial.ranks_only:
        return "consumed"
    return "click" if trial.split.log.has_exposures else "rating"


def _ranker(trial: Trial, label: Label, config: RankerStudyConfig, seed: int) -> Ranker:
    kind = resolve_ranker(trial.name)
    own: Any = kind.config_class()
    samples = replace(
        own.samples,
        label=label,
        rating_threshold=config.rating_threshold,
        event_delay=trial.split.delay,
        debias=config.debias,
    )
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


def _figures(trial: Trial, outcome: pl.DataFrame, bootstrap: UserBootstrap) -> dict[str, Resampled]:
    user, task = outcome["user"].to_numpy(), trial.task
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
        if trial.ranks_only:
            return {name: found[name] for name in MEASURES[task] if name in BY_ORDER}
    return {name: found[name] for name in MEASURES[task]}
