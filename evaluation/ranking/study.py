"""Rankers beside each other on one log: fitted, judged by ranks and by probabilities, kept part by part in a run folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table

from agents.rankers.base import Ranker
from agents.rankers.catalogue_ranker import CatalogueRanker
from agents.rankers.loading import resolve_ranker
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import Label
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from evaluation.progress import Progress
from evaluation.ranking.bootstrap import Resampled, UserBootstrap
from evaluation.ranking.outcomes import FullRanking, Pointwise, liked
from evaluation.ranking.splits import Split, last_share, leave_last_out
from evaluation.runs import Run
from evaluation.statistics import Estimate

RANKER_PARTS = ("offline", "serving")
"""Parts of the report, in the order in which they are made; a later one may read the tables of an earlier one."""
POPULARITY = "popular"
"""Name of the baseline that every ranker is paired with: items by how often they had been consumed until then."""
RANKED, LAST, SHARE = "leave_last_out", "last_row", "last_share"
"""The three tasks: rank the catalogue for each user's last item; tell whether the last row, or rows of the last 20 %, are liked."""
_MEASURES = {
    RANKED: ("ndcg10", "recall10", "mrr10"),
    LAST: ("auc", "log_loss"),
    SHARE: ("auc20", "gauc20", "log_loss20"),
}


class Popularity:
    """Scores items by the log of how often anybody had consumed them before the request."""

    def score(self, batch: RankingInput) -> NDArray[np.float32]:
        """[N, C]; `batch.counts` must be told."""
        if batch.counts is None:
            raise ConfigurationError("popularity was asked without counts; take the inputs from a LogHistory.")
        return np.where(batch.items >= 0, np.log(batch.counts + 1e-6), -np.inf).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class RankerStudyConfig:
    """What is compared, and how."""

    names: tuple[str, ...]
    """Rankers by name, or "file.py:Class"."""
    epochs: int | None = None
    """Passes of network rankers at most; None for each ranker's own."""
    rating_threshold: float = 4.0
    """Ratings from here on are liked."""
    seed: int = 0
    """Of fits and of the bootstrap."""


def ranker_study(
    log: InteractionLog, config: RankerStudyConfig, run: Run, progress: Progress
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Fits every ranker for every task that it can do; what is in the run folder is not fitted again.

    Returns:
        (measures: ranker, measure, value, low, high, and the same of the paired difference to popularity where there is one;
        costs: ranker, task, seconds of the fit, parameters).
    """
    splits = {RANKED: leave_last_out(log)}
    labels = liked(log, config.rating_threshold) if _has_labels(log) else None
    if labels is not None:
        splits[SHARE] = last_share(log)
        # in a log with exposures the last consumed rows are all liked, which nothing can be told from
        splits |= {} if log.has_exposures else {LAST: splits[RANKED]}
    todo = [(name, task) for name in (POPULARITY, *config.names) for task in _tasks(name, tuple(splits))]
    with progress("rankers, fits", len(todo)) as report:
        for done, (name, task) in enumerate(todo):
            if not run.has_table(f"outcomes/{task}/{_file_name(name)}"):
                _do(name, task, splits[task], labels, config, run)
            report(done + 1)
    costs = pl.concat([run.table(f"costs/{task}/{_file_name(name)}") for name, task in todo if name != POPULARITY])
    measures = _measured(todo, run, config.seed)
    run.write_table("rankers", measures)
    run.write_table("ranker_costs", costs)
    return measures, costs


def _has_labels(log: InteractionLog) -> bool:
    return log.has_exposures or bool(np.isfinite(log.rating).any())


def _tasks(name: str, possible: tuple[str, ...]) -> tuple[str, ...]:
    ranks_only = name == POPULARITY or issubclass(resolve_ranker(name), CatalogueRanker)
    return (RANKED,) if ranks_only else possible


def _file_name(name: str) -> str:
    return name.rpartition(":")[2]


def _do(
    name: str,
    task: str,
    split: Split,
    labels: NDArray[np.bool_] | None,
    config: RankerStudyConfig,
    run: Run,
) -> None:
    """Fits one ranker for one task and keeps what became of it: first the cost, then the outcome, which says that it is done."""
    scorer: Popularity | Ranker = Popularity()
    if name != POPULARITY:
        label: Label = "consumed" if task == RANKED else "click" if split.log.has_exposures else "rating"
        ranker, begin = _ranker(name, label, config), time.perf_counter()
        ranker.fit(split.training_log, split.validation_log)
        cost = {
            "ranker": [_file_name(name)],
            "task": [task],
            "seconds": [time.perf_counter() - begin],
            "parameters": [ranker.num_parameters],
        }
        run.write_table(f"costs/{task}/{_file_name(name)}", pl.DataFrame(cost))
        scorer = ranker
    if task == RANKED:
        ranking = FullRanking.of(scorer, split)
        outcome = pl.DataFrame({"user": ranking.user, "rank": ranking.rank})
    else:
        assert labels is not None
        points = Pointwise.of(scorer, split, labels)
        outcome = pl.DataFrame({"user": points.user, "label": points.label, "logit": points.logit})
    run.write_table(f"outcomes/{task}/{_file_name(name)}", outcome)


def _ranker(name: str, label: Label, config: RankerStudyConfig) -> Ranker:
    kind = resolve_ranker(name)
    own: Any = kind.config_class()
    own = replace(own, samples=replace(own.samples, label=label, rating_threshold=config.rating_threshold))
    if config.epochs is not None and isinstance(own, NetworkRankerConfig):
        own = replace(own, training=replace(own.training, epochs=config.epochs))
    return kind(own, config.seed)


def _measured(todo: Sequence[tuple[str, str]], run: Run, seed: int) -> pl.DataFrame:
    """One row for each ranker and measure."""
    rows, bootstraps = [], dict[int, UserBootstrap]()
    baseline: dict[str, Resampled] = {}
    for name, task in todo:
        outcome = run.table(f"outcomes/{task}/{_file_name(name)}")
        users = int(outcome["user"].max() or 0) + 1  # type: ignore[arg-type, operator]
        bootstrap = bootstraps.setdefault(users, UserBootstrap(users, seed=seed))
        found = _figures(task, outcome, bootstrap)
        if name == POPULARITY:
            baseline = found
        for measure, figure in found.items():
            row: dict[str, Any] = {"ranker": _file_name(name), "measure": measure} | _ends(figure.estimate(), "")
            paired = measure in baseline and name != POPULARITY
            difference = (figure - baseline[measure]).estimate() if paired else None
            rows.append(row | _ends(difference, "_minus_popular"))
    return pl.DataFrame(rows, infer_schema_length=None)


def _figures(task: str, outcome: pl.DataFrame, bootstrap: UserBootstrap) -> dict[str, Resampled]:
    user = outcome["user"].to_numpy()
    if task == RANKED:
        return FullRanking(user, outcome["rank"].to_numpy()).figures(bootstrap)
    points = Pointwise(user, outcome["label"].to_numpy(), outcome["logit"].to_numpy())
    suffix = "20" if task == SHARE else ""
    return {
        f"{name}{suffix}": figure
        for name, figure in points.figures(bootstrap).items()
        if f"{name}{suffix}" in _MEASURES[task]
    }


def _ends(estimate: Estimate | None, suffix: str) -> dict[str, float | None]:
    values = (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
    return dict(zip((f"value{suffix}", f"low{suffix}", f"high{suffix}"), values, strict=True))


def rankers_table(measures: pl.DataFrame, costs: pl.DataFrame) -> Table:
    """What a person reads: a row for each ranker, best NDCG first."""
    shown = ("ndcg10", "recall10", "auc", "log_loss", "auc20")
    table = Table("ranker", *shown, "ndcg10 minus popular", "fit, s", "parameters", title="Rankers, held-out rows")
    order = measures.filter(pl.col("measure") == "ndcg10").sort("value", descending=True)["ranker"].to_list()
    for name in order:
        own = {row["measure"]: row for row in measures.filter(pl.col("ranker") == name).iter_rows(named=True)}
        cost = costs.filter(pl.col("ranker") == name)
        table.add_row(
            name,
            *[_told(own.get(measure), "") for measure in shown],
            _told(own["ndcg10"], "_minus_popular"),
            f"{cost['seconds'].sum():.0f}" if len(cost) else "–",
            f"{int(cost['parameters'].to_numpy().max()):,}" if len(cost) else "–",
        )
    table.caption = (
        "95 % intervals: users resampled. Ranked: each user's last item among all unseen ones. auc, log_loss: is each user's "
        "last row liked? auc20: rows of each user's last 20 %. Seconds of all fits."
    )
    return table


def _told(row: Mapping[str, Any] | None, suffix: str) -> str:
    if row is None or row[f"value{suffix}"] is None:
        return "–"
    return f"{row[f'value{suffix}']:.4f} ({row[f'low{suffix}']:.4f}, {row[f'high{suffix}']:.4f})"


def ranker_figures(measures: pl.DataFrame) -> dict[str, float]:
    """Flat figures: ndcg10_<name>, auc_<name>, auc20_<name> and the like with _low and _high, and differences to popularity."""
    figures: dict[str, float] = {}
    for row in measures.iter_rows(named=True):
        for between in ("", "_minus_popular"):
            if row[f"value{between}"] is not None:
                name = f"{row['measure']}_{row['ranker']}{between}"
                figures[name] = row[f"value{between}"]
                figures |= {f"{name}_{end}": row[f"{end}{between}"] for end in ("low", "high")}
    return figures
