"""Our rankers beside RecBole 1.2.1's on MovieLens 100K: same split, same items held out, seen items masked, differences paired.

Run: python -m benchmarks.recbole_compare EXPORTS OUT [NAME ...] [--seeds 3]

EXPORTS is what benchmarks/recbole_export.py wrote. Each of ours is fitted in up to four configurations, no more than the twin's
export has, to RecBole's order of rows; the one that is best on each user's last row but one is fitted with further training
seeds, and once more without each of its parts. OUT keeps what was fitted, and nothing is fitted twice. NAME is one of ours:
mf_bpr, neumf, gru4rec, sasrec, din, dien.
The figures of those named go to OUT/recbole.json and OUT/recbole.png, and are printed.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from agents.rankers.base import Ranker, RankerConfig
from agents.rankers.din import DIN
from agents.rankers.gru4rec import GRU4Rec
from agents.rankers.loading import resolve_ranker
from agents.rankers.network_inputs import Sizes
from agents.rankers.network_ranker import NetworkRanker
from agents.rankers.samples import Samples
from agents.rankers.sasrec import SASRec
from agents.rankers.sequence_ranker import SequenceRanker
from agents.rankers.training import OBJECTIVE
from benchmarks.recbole_join import Export, chosen, in_recbole_order, joined, read_exports, read_rows
from envs.artefacts import load_json, save_json, written_whole
from envs.errors import ConfigurationError
from envs.logs import load_log
from evaluation.plot_style import BLUE, GREY, PALE, VERMILLION, house_style
from evaluation.progress import progress
from evaluation.ranking import FullRanking, Pointwise, Resampled, Split, UserBootstrap, leave_last_out, liked
from evaluation.report import print_figures

RANKED = ("ndcg10", "recall10")
CLICKS = ("auc", "log_loss")
TWINS: Mapping[str, str] = {
    "mf_bpr": "BPR",
    "neumf": "NeuMF",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "din": "DIN",
    "dien": "DIEN",
}
"""Name of ours -> RecBole's model."""
CLICKERS = ("din", "dien")
"""Those of ours that tell clicks beside RecBole's. They are fitted once more, by default, to rank the catalogue: among ours these
belong to what ranks best, and RecBole has no twin of them there."""
TRIED: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "mf_bpr": ({}, {"training.embedding_decay": 0.3}, {"training.embedding_decay": 0.03}, {"width": 32}),
    "neumf": ({}, {"dropout": 0.3}, {"training.embedding_decay": 0.3}),
    "gru4rec": ({}, {"dropout": 0.5}),
    "sasrec": ({}, {"dropout": 0.5}),
    "din": ({}, {"dropout": 0.4}, {"training.embedding_decay": 0.6}),
    "dien": ({}, {"dropout": 0.4}),
}
"""Name -> configurations tried, each what differs from our defaults; `training.x` is a field of the training's configuration."""


class _Even(nn.Module):
    """An activation that is the same for all items of a history."""

    def forward(self, items: Tensor, history: Tensor) -> Tensor:
        """[N, C, H]."""
        return items.new_ones(*items.shape[:2], history.shape[1]) / history.shape[1] ** 0.5


class _NoUser(nn.Module):
    """Vectors of users that are all 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, user: Tensor, user_features: Tensor) -> Tensor:
        """[N, width]."""
        return user_features.new_zeros(len(user), self.width)


class DINWithoutAttention(DIN):
    """DIN that sums up the history without regard to the item scored."""

    def make_network(self, sizes: Sizes) -> nn.Module:
        """See the class."""
        network: Any = super().make_network(sizes)
        network.activation = _Even()
        return network


class DINWithoutUser(DIN):
    """DIN that reads neither the user's vector nor the user's attributes, as RecBole's."""

    def make_network(self, sizes: Sizes) -> nn.Module:
        """See the class."""
        network: Any = super().make_network(sizes)
        network.user_vectors = _NoUser(self.config.width)
        return network


class _SoftmaxOverSeen(SequenceRanker):
    """A sequence model whose softmax has the items that the user consumed before, too; it is judged like the others."""

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """See the class."""
        samples, stretches = batch
        return super().loss(network, (_with_repeats(samples), stretches))


class GRU4RecOverSeen(_SoftmaxOverSeen, GRU4Rec):
    """See `_SoftmaxOverSeen`."""


class SASRecOverSeen(_SoftmaxOverSeen, SASRec):
    """See `_SoftmaxOverSeen`."""


def _with_repeats(samples: Samples) -> Samples:
    """The samples, as of a log in which items may be consumed again."""
    other, history = object.__new__(Samples), object.__new__(type(samples.history))
    vars(history).update(vars(samples.history))
    history.log = replace(samples.history.log, has_repeats=True)
    vars(other).update(vars(samples) | {"history": history})
    return other


PARTS: Mapping[str, tuple[str, type[Ranker] | None, Mapping[str, Any]]] = {
    "gru4rec_softmax_over_seen": ("gru4rec", GRU4RecOverSeen, {}),
    "sasrec_softmax_over_seen": ("sasrec", SASRecOverSeen, {}),
    "din_without_attention": ("din", DINWithoutAttention, {}),
    "din_without_user": ("din", DINWithoutUser, {}),
    "dien_without_auxiliary_loss": ("dien", None, {"auxiliary_weight": 0.0}),
    "dien_without_augru": ("dien", None, {"attentive": False}),
}
"""What is taken out -> (of which of ours, the class that lacks it, what differs in the configuration)."""


@dataclass(frozen=True)
class Trial:
    """One fit of ours."""

    name: str
    """Of the figures."""
    twin: str
    """Name of ours that it is, or is a changed form of."""
    kind: type[Ranker]
    change: Mapping[str, Any]
    number: int
    """Of the configuration."""
    seed: int
    is_ranked: bool
    """Whether it ranks the catalogue, else it tells clicks."""

    def path(self, folder: Path) -> Path:
        """Where its account is kept; the outcome lies beside it."""
        return folder / f"{self.name}-{self.number}-{self.seed}.json"


def configured(kind: type[Ranker], change: Mapping[str, Any], label: str) -> RankerConfig:
    """The defaults of a ranker with what differs, learning `label`.

    Raises:
        ConfigurationError: if a name is not one of the configuration's.
    """
    config: Any = kind.config_class()
    config = replace(config, samples=replace(config.samples, label=label))
    for name, value in change.items():
        part, _, own = name.rpartition(".")
        try:
            inner = replace(getattr(config, part), **{own: value}) if part else value
            config = replace(config, **{part or own: inner})
        except (AttributeError, TypeError) as error:
            raise ConfigurationError(f"'{name}' is no setting of {kind.__name__}.") from error
    return config


def perform(trial: Trial, split: Split, folder: Path) -> dict[str, Any]:
    """The account of a trial, whose outcome is kept beside it; fitted unless the folder has it under the same configuration."""
    path, change = trial.path(folder), dict(trial.change)
    if path.exists() and (account := load_json(path))["configuration"] == change:
        return account
    ranker: Any = trial.kind(
        configured(trial.kind, change, "consumed" if trial.is_ranked else "rating"), seed=trial.seed
    )
    began, cpu_began = time.perf_counter(), time.process_time()
    with progress(f"{trial.name}, configuration {trial.number}, seed {trial.seed}", 1) as report:
        assert isinstance(ranker, NetworkRanker)
        ranker.fit(split.training_log, split.validation_log)
        report(1)
    account = {
        "name": trial.name,
        "configuration": change,
        "valid": -min(figures[OBJECTIVE] for figures in ranker.passes_),
        "passes": len(ranker.passes_),
        "parameters": sum(weight.numel() for weight in ranker.network_.parameters()),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu_began, 1),
    }
    size = ranker.config.samples.history_size
    if trial.is_ranked:
        outcome = pl.DataFrame({"rank": FullRanking.of(ranker, split, size).rank})
    else:
        points = Pointwise.of(ranker, split, liked(split.log), size)
        outcome = pl.DataFrame({"label": points.label, "logit": points.logit})
    with written_whole(path.with_suffix(".parquet")) as part:
        outcome.write_parquet(part)
    save_json(path, account)
    return account


def measured(outcome: pl.DataFrame, bootstrap: UserBootstrap) -> dict[str, Resampled]:
    """The measures of an outcome, a row a user: `rank`, or `label` and `logit`."""
    user = np.arange(len(outcome), dtype=np.int64)
    if "rank" in outcome.columns:
        ranking = FullRanking(user, outcome["rank"].to_numpy().astype(np.float64)).figures(bootstrap)
        return {name: ranking[name] for name in RANKED}
    points = Pointwise(user, outcome["label"].to_numpy().astype(bool), outcome["logit"].to_numpy().astype(np.float64))
    found = points.figures(bootstrap)
    return {name: found[name] for name in CLICKS}


def outcome_of(table: pl.DataFrame) -> pl.DataFrame:
    """RecBole's test, from a joined export, in the form of ours."""
    if "test_rank" in table.columns:
        return table.select(rank="test_rank")
    probability = table["test_score"].to_numpy().clip(1e-7, 1 - 1e-7)
    return pl.DataFrame({"label": table["test_label"] == 1, "logit": logit(probability)})


def knowing_users(table: pl.DataFrame, split: Split, labels: NDArray[np.bool_]) -> pl.DataFrame:
    """A joined export's test, told anew by a logistic regression on RecBole's logit and how generously each user rated in what was
    learnt from, fitted to the validation rows: what the model would tell, had it known the user's generosity."""
    log, users = split.log, len(split.log.users)
    given = np.bincount(log.user[split.training], minlength=users)
    positive = np.bincount(log.user[split.training], labels[split.training], users)
    share = positive.sum() / given.sum()
    generosity = logit((positive + 5 * share) / (given + 5))[log.user[split.test_rows]]
    told = [logit(table[f"{part}_score"].to_numpy().clip(1e-7, 1 - 1e-7)) for part in ("valid", "test")]
    model = LogisticRegression(C=1e3).fit(np.column_stack([told[0], generosity]), table["valid_label"].to_numpy())
    again = model.decision_function(np.column_stack([told[1], generosity]))
    return pl.DataFrame({"label": table["test_label"] == 1, "logit": again})


def trials_of(
    name: str, accounts: Callable[[Trial], dict[str, Any]], seeds: int, limit: int | None = None
) -> tuple[list[Trial], list[Trial]]:
    """(the trials of the configuration of ours that is best on validation, one a training seed; those of what is taken out of it),
    all performed by `accounts`. Of the configurations the first `limit` are tried."""
    kind, is_ranked = resolve_ranker(name), name not in CLICKERS
    first = [Trial(name, name, kind, change, number, 0, is_ranked) for number, change in enumerate(TRIED[name][:limit])]
    best = max(first, key=lambda trial: accounts(trial)["valid"])
    without = [
        Trial(part, name, other or kind, {**best.change, **change}, best.number, 0, is_ranked)
        for part, (of, other, change) in PARTS.items()
        if of == name
    ]
    again = [replace(best, seed=seed) for seed in range(seeds)]
    for trial in (*without, *again):
        accounts(trial)
    return again, without


def compared(
    names: Sequence[str], split: Split, exports: Mapping[str, list[Export]], folder: Path, seeds: int
) -> dict[str, Any]:
    """Flat figures of all `names`, fitted where the folder lacks them.

    For each of ours: its measures (of `CLICKERS` those of ranking too), those of RecBole's twin as `<measure>_recbole_<name>`, and
    `<measure>_difference_<name>`, each with `_low` and `_high`.
    Parts taken out: `<measure>_lost_<part>`, positive where the part was of use (of log-loss, negative).
    """
    bootstrap, labels = UserBootstrap(len(split.test_rows)), liked(split.log)
    figures: dict[str, Any] = {}
    best: dict[str, dict[str, dict[str, Resampled]]] = {"ours": {}, "recbole": {}}

    def tell(name: str, figure: Resampled) -> None:
        found = figure.estimate()
        figures.update({name: found.value, f"{name}_low": found.low, f"{name}_high": found.high})

    for name in names:
        # ours is searched no longer than its twin was
        limit = len(exports[name]) if exports.get(name) else None
        again, without = trials_of(name, partial(perform, split=split, folder=folder), seeds, limit)
        by_seed = [measured(pl.read_parquet(trial.path(folder).with_suffix(".parquet")), bootstrap) for trial in again]
        own = int.from_bytes(name.encode()) % 2**32
        ours = {key: Resampled.over_seeds([one[key] for one in by_seed], own) for key in by_seed[0]}
        best["ours"][name] = dict(ours)
        for key, figure in ours.items():
            tell(f"{key}_{name}", figure)
        for trial in without:
            lacking = measured(pl.read_parquet(trial.path(folder).with_suffix(".parquet")), bootstrap)
            for key, figure in lacking.items():
                tell(f"{key}_{trial.name}", figure)
                tell(f"{key}_lost_{trial.name}", by_seed[0][key] - figure)
        account = load_json(again[0].path(folder))
        figures |= {f"{key}_{name}": account[key] for key in ("cpu_seconds", "parameters", "passes")}
        figures |= {f"configurations_{name}": len(TRIED[name][:limit]), f"chosen_{name}": str(account["configuration"])}
        figures[f"training_seeds_{name}"] = seeds
        if name in CLICKERS:
            ranking = [Trial(f"{name}_ranking", name, resolve_ranker(name), {}, 0, seed, True) for seed in range(seeds)]
            costs = [perform(trial, split, folder)["cpu_seconds"] for trial in ranking]
            outcomes = [pl.read_parquet(trial.path(folder).with_suffix(".parquet")) for trial in ranking]
            ranks = [measured(outcome, bootstrap) for outcome in outcomes]
            best["ours"][name] |= {key: Resampled.over_seeds([one[key] for one in ranks], own) for key in ranks[0]}
            for key in ranks[0]:
                tell(f"{key}_{name}", best["ours"][name][key])
            figures[f"cpu_seconds_{name}_ranking"] = costs[0]
        if not exports.get(name):
            continue
        export = chosen(exports[name])
        table = joined(export, split, None if again[0].is_ranked else labels)
        theirs = measured(outcome_of(table), bootstrap)
        best["recbole"][name] = theirs
        for key, figure in theirs.items():
            tell(f"{key}_recbole_{name}", figure)
            tell(f"{key}_difference_{name}", ours[key] - figure)
        if not again[0].is_ranked:
            for key, figure in measured(knowing_users(table, split, labels), bootstrap).items():
                tell(f"{key}_recbole_{name}_knowing_users", figure)
        figures |= {f"{key}_recbole_{name}": export.account[key] for key in ("cpu_seconds", "parameters", "passes")}
        figures[f"configurations_recbole_{name}"] = len(exports[name])
        figures[f"chosen_recbole_{name}"] = str(export.account["configuration"])
    for key in ("ndcg10", "auc"):
        sides = {side: {n: f[key] for n, f in found.items() if key in f} for side, found in best.items()}
        if all(sides.values()):
            first, second = (max(found, key=lambda n: found[n].value) for found in sides.values())
            figures |= {f"best_{key}_ours": first, f"best_{key}_recbole": TWINS[second]}
            tell(f"{key}_difference_best", sides["ours"][first] - sides["recbole"][second])
    for side, found in best.items():
        if {"din", "dien"} <= found.keys():
            tell(f"auc_dien_minus_din_{side}", found["dien"]["auc"] - found["din"]["auc"])
    return figures


def page(figures: Mapping[str, Any]) -> Figure:
    """A panel for NDCG@10 and one for AUC: ours and RecBole's, dots with intervals."""
    figure = Figure(figsize=(8.6, 3.2))
    FigureCanvasAgg(figure)
    for axes, key, title in zip(
        figure.subplots(1, 2),
        ("ndcg10", "auc"),
        ("NDCG@10, seen items masked", "AUC, rating of 4 or more"),
        strict=True,
    ):
        dots(figures, key, axes).set_title(title)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def dots(figures: Mapping[str, Any], key: str, axes: Axes) -> Axes:
    """A row for each of ours that has the measure `key`, its twin below it; 95 % intervals over users."""
    names = [name for name in TWINS if f"{key}_{name}" in figures]
    for side, colour, marker, shift in (("", BLUE, "o", -0.14), ("recbole_", VERMILLION, "D", 0.14)):
        rows = [(row, f"{key}_{side}{name}") for row, name in enumerate(names) if f"{key}_{side}{name}" in figures]
        y = [row + shift for row, _ in rows]
        ends = [[figures[f"{column}_{end}"] for _, column in rows] for end in ("low", "high")]
        axes.hlines(y, ends[0], ends[1], color=colour, linewidth=1.4)
        axes.plot(
            [figures[column] for _, column in rows],
            y,
            marker,
            color=colour,
            ms=5,
            label="RecBole 1.2.1" if side else "ours",
        )
    twins = [TWINS[name] if f"{key}_recbole_{name}" in figures else "no twin" for name in names]
    axes.set_yticks(range(len(names)), [f"{name}\n{twin}" for name, twin in zip(names, twins, strict=True)])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_color(GREY)
    return axes


def main() -> None:
    """Fits what is asked for and reports all that there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, help="what recbole_export.py wrote")
    parser.add_argument("out", type=Path, help="where fits, figures and plot go")
    parser.add_argument("names", nargs="*", help="some of ours; all, unless told otherwise")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of the chosen configuration")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(TWINS)):
        parser.error(f"no such ranker: {', '.join(unknown)}; there are {', '.join(TWINS)}.")
    torch.set_num_threads(1)
    split = leave_last_out(in_recbole_order(load_log("ml-100k"), read_rows(asked.exports)))
    exports = {name: read_exports(asked.exports, model) for name, model in TWINS.items()}
    labels = liked(split.log)
    for name, found in exports.items():  # before anything is fitted
        for export in found:
            joined(export, split, labels if name in CLICKERS else None)
    asked.out.mkdir(parents=True, exist_ok=True)
    figures = compared(asked.names or list(TWINS), split, exports, asked.out, asked.seeds)
    save_json(asked.out / "recbole.json", figures)
    with house_style(), written_whole(asked.out / "recbole.png") as part:
        page(figures).savefig(part, format="png")
    print_figures(figures)


if __name__ == "__main__":
    main()
