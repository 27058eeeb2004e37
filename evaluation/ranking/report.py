"""What the studies of rankers tell a person, and their flat figures."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.table import Table

from evaluation.ranking.growth import GROWTH, PLAIN
from evaluation.ranking.study import RankerStudy
from evaluation.ranking.trials import MEASURES, SHARE

_BETTER = {"ndcg10": "NDCG@10, last item", "auc": "AUC, is the last row liked?", "ndcg10_cut": "NDCG@10 after the cut"}
"""Measures by which is told who beats whom, of which larger is better, and what they are called."""
_GROWN = {"ndcg10": "NDCG@10", "auc": "AUC"}
_VARIED = {
    "amount": "Amount of data: the latest share of each user's rows, all else unknown",
    "delay": "Delay: histories lack what happened in the last hour or day, in training too",
    "labels": "Wrong labels in training: another item for NDCG, liked for not liked for AUC",
}


def ranker_tables(study: RankerStudy) -> list[Table]:
    """What was found on held-out rows: measures and costs, the cut in time, who beats whom."""
    tables = [_measures_table(study)]
    tables += [_likes_table(study)] if "auc20" in study.measures["measure"] else []
    tables += [_cut_table(study)]
    paired = [(measure, title) for measure, title in _BETTER.items() if measure in study.pairs["measure"]]
    return tables + [_pairs_table(study.pairs, measure, title) for measure, title in paired]


def growth_tables(growth: pl.DataFrame) -> list[Table]:
    """One table for each of what is varied."""
    return [_growth_table(growth.filter(pl.col("kind") == kind), kind) for kind in GROWTH]


def ranker_figures(study: RankerStudy) -> dict[str, float]:
    """Flat figures: ndcg10_<name>, auc_<name>, auc20_<name> and the like with _low and _high, and differences to popularity; what
    the longest fit took and how many parameters there are."""
    figures: dict[str, float] = {}
    for row in study.measures.iter_rows(named=True):
        for between in ("", "_minus_popular"):
            figures |= _named(f"{row['measure']}_{row['ranker']}{between}", row, between)
    for row in _longest(study.costs).iter_rows(named=True):
        figures |= {f"fit_{name}_{row['ranker']}": row[name] for name in ("seconds", "cpu_seconds")}
        if row["parameters"] is not None:
            figures[f"parameters_{row['ranker']}"] = row["parameters"]
    return figures


def growth_figures(growth: pl.DataFrame) -> dict[str, float]:
    """Flat figures such as ndcg10_din_amount_10 (per cent), auc_gbdt_delay_3600 (seconds) and ndcg10_sasrec_labels_20 (per cent),
    with _low and _high, and differences to the plain level."""
    figures: dict[str, float] = {}
    for row in growth.filter(pl.col("value_minus_plain").is_not_null()).iter_rows(named=True):
        level = GROWTH[row["kind"]][row["level"]]
        level = level if row["kind"] == "delay" else 100 * level
        name = f"{row['measure']}_{row['ranker']}_{row['kind']}_{level:.0f}"
        figures |= _named(name, row, "") | _named(f"{name}_minus_plain", row, "_minus_plain")
    return figures


def _named(name: str, row: Mapping[str, Any], suffix: str) -> dict[str, float]:
    if row[f"value{suffix}"] is None:
        return {}
    return {name: row[f"value{suffix}"]} | {f"{name}_{end}": row[f"{end}{suffix}"] for end in ("low", "high")}


def _longest(costs: pl.DataFrame) -> pl.DataFrame:
    """(ranker, seconds, cpu_seconds, parameters), each the most of any fit."""
    return costs.group_by("ranker", maintain_order=True).agg(pl.col("seconds", "cpu_seconds", "parameters").max())


def _measures_table(study: RankerStudy) -> Table:
    """A row for each ranker, best NDCG first."""
    shown = ("ndcg10", "recall10", "mrr10", "auc", "log_loss")
    columns = ("ndcg10 minus popular", "longest fit, s", "of it processor", "parameters")
    table = Table("ranker", *shown, *columns, title="Rankers, held-out rows")
    costs = {row["ranker"]: row for row in _longest(study.costs).iter_rows(named=True)}
    for name, own in _ranked(study.measures, "ndcg10"):
        cost = costs.get(name)
        known = cost is not None and cost["parameters"] is not None
        table.add_row(
            name,
            *[_told(own.get(measure)) for measure in shown],
            _told(own["ndcg10"], "_minus_popular"),
            f"{cost['seconds']:.0f}" if cost else "–",
            f"{cost['cpu_seconds']:.0f}" if cost else "–",
            f"{cost['parameters']:,}" if cost and known else "–",
        )
    seeds = study.measures["training_seeds"].to_numpy().max()
    table.caption = (
        f"95 % intervals: users resampled{f', and {seeds} training seeds' if seeds > 1 else '; one training seed'}. Ranked: "
        "each user's last item among all unseen ones. auc, log_loss: is each user's last row liked? Rankers that are made to rank "
        "learn from what was consumed, and tell likes by their order alone."
    )
    return table


def _likes_table(study: RankerStudy) -> Table:
    """How rows of each user's last 20 % are told to be liked or not, best AUC first."""
    shown = MEASURES[SHARE]
    table = Table("ranker", *shown, title="Rows of each user's last 20 %: liked or not")
    for name, own in _ranked(study.measures, "auc20"):
        table.add_row(name, *[_told(own.get(measure)) for measure in shown])
    table.caption = (
        "calibration20: told share of likes over the true one, 1 is right. calibration_error20: mean distance of the two over ten "
        "bins. Rankers that are made to rank give no probabilities."
    )
    return table


def _cut_table(study: RankerStudy) -> Table:
    """What comes after one moment for all, of known and of new users."""
    shown = [f"{name}_cut{group}" for name in ("ndcg10", "recall10") for group in ("", "_warm", "_cold")]
    titles = [f"{name}, {group}" for name in ("ndcg10", "recall10") for group in ("all", "warm", "cold")]
    table = Table("ranker", *titles, title="One cut in time for all users")
    for name, own in _ranked(study.measures, "ndcg10_cut"):
        marks = ["*" if name in study.by_attributes and measure.endswith("_cold") else "" for measure in shown]
        table.add_row(name, *[_told(own.get(measure)) + mark for measure, mark in zip(shown, marks, strict=True)])
    table.caption = (
        "Learnt from the first 70 % of all rows; ranked: each user's next items, ten at most, after the first 80 %. Cold users "
        "have no row to learn from: their first five items are history only. * reads no history: it knows cold users by their "
        "attributes alone, and nothing of the five."
    )
    return table


def _pairs_table(pairs: pl.DataFrame, measure: str, title: str) -> Table:
    """Which ranker beats which: a row and a column for each, best first."""
    own = pairs.filter(pl.col("measure") == measure)
    order = own.group_by("first").agg(pl.col("value").mean()).sort("value", descending=True)["first"].to_list()
    signs = {(row["first"], row["second"]): _sign(row) for row in own.iter_rows(named=True)}
    table = Table("", *order, "beats", title=f"Who beats whom: {title}")
    for first in order:
        line = [signs.get((first, second), "") for second in order]
        table.add_row(first, *line, f"{line.count('>')} of {len(order) - 1}")
    table.caption = (
        "> the row's ranker is better, < worse: the 95 % interval of the paired difference is off zero; · neither."
    )
    return table


def _sign(row: Mapping[str, Any]) -> str:
    return ">" if row["low"] > 0 else "<" if row["high"] < 0 else "·"


def _growth_table(growth: pl.DataFrame, kind: str) -> Table:
    """A row for each ranker and measure: every level, and the change from the plain one."""
    levels = list(GROWTH[kind])
    changed = [level for level in levels if level != PLAIN[kind]]
    table = Table("ranker", "measure", *levels, *[f"{level} minus {PLAIN[kind]}" for level in changed])
    table.title = _VARIED[kind]
    for measure, title in _GROWN.items():
        for name in growth.filter(pl.col("measure") == measure)["ranker"].unique(maintain_order=True):
            rows = growth.filter((pl.col("measure") == measure) & (pl.col("ranker") == name))
            own = {row["level"]: row for row in rows.iter_rows(named=True)}
            values = [_told(own[level]) for level in levels]
            table.add_row(name, title, *values, *[_told(own[level], "_minus_plain") for level in changed])
    return table


def _ranked(measures: pl.DataFrame, by: str) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """(ranker, its rows by measure), the largest `by` first."""
    order = measures.filter(pl.col("measure") == by).sort("value", descending=True)["ranker"].to_list()
    return [
        (name, {row["measure"]: row for row in measures.filter(pl.col("ranker") == name).iter_rows(named=True)})
        for name in order
    ]


def _told(row: Mapping[str, Any] | None, suffix: str = "") -> str:
    if row is None or row[f"value{suffix}"] is None:
        return "–"
    return f"{row[f'value{suffix}']:.4f} ({row[f'low{suffix}']:.4f}, {row[f'high{suffix}']:.4f})"
