"""Plots of the studies of rankers: quality under each level of what is varied, and differences of each pair."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.plot_style import CYCLE, GREY, PALE, blank_figure
from evaluation.ranking.growth import GROWTH

_MARKERS = "osD^vPX"
_GROWN = {"ndcg10": "NDCG@10, last item among all unseen", "auc": "AUC, is the last row liked?"}
_VARIED = {
    "amount": "share of each user's rows that is there, the latest ones",
    "delay": "time until an event is known, in training and when asked",
    "labels": "share of wrong labels in training",
}
_PAIRED = {"ndcg10": "NDCG@10", "auc": "AUC"}


def growth_page(growth: pl.DataFrame, kind: str) -> Figure:
    """Quality of each ranker under each level of one `kind` of `GROWTH`, a panel for each measure."""
    own = growth.filter(pl.col("kind") == kind)
    shown = {measure: title for measure, title in _GROWN.items() if measure in own["measure"]}
    figure = blank_figure(4.6 * len(shown) + 1.2, 3.6)
    rankers = own["ranker"].unique(maintain_order=True).to_list()
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (measure, title) in zip(panels, shown.items(), strict=True):
        levels(own.filter(pl.col("measure") == measure), axes, list(GROWTH[kind]), rankers)
        axes.set_title(title)
        axes.set_xlabel(_VARIED[kind])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def levels(table: pl.DataFrame, axes: Axes, order: list[str], rankers: list[str]) -> Axes:
    """Values with their intervals, a line for each ranker, set apart a little so that whiskers can be told from each other.

    Args:
        table: (ranker, level, value, low, high).
        axes: drawn into.
        order: the levels from left to right.
        rankers: which colour and place is whose.
    """
    for number, ranker in enumerate(rankers):
        own = {row["level"]: row for row in table.filter(pl.col("ranker") == ranker).iter_rows(named=True)}
        if not own:
            continue
        x = np.arange(len(order)) + 0.06 * (number - (len(rankers) - 1) / 2)
        value, low, high = (np.array([own[level][end] for level in order], float) for end in ("value", "low", "high"))
        colour = GREY if ranker == "popular" else CYCLE[number % len(CYCLE)]
        axes.vlines(x, low, high, color=colour, linewidth=1.2)
        axes.plot(x, value, _MARKERS[number % len(_MARKERS)] + "-", color=colour, linewidth=1.0, ms=4.5, label=ranker)
    axes.set_xticks(range(len(order)), order)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def pairs_page(pairs: pl.DataFrame) -> Figure:
    """The difference of each pair of rankers, a panel for each measure; bold where its interval is off zero."""
    shown = {measure: title for measure, title in _PAIRED.items() if measure in pairs["measure"]}
    figure = blank_figure(5.4 * len(shown), 4.6)
    for axes, (measure, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        differences(pairs.filter(pl.col("measure") == measure), axes)
        axes.set_title(f"{title}, row minus column")
    figure.supxlabel(
        "Bold: the 95 % interval of the paired difference is off zero; pale: it is not.",
        fontsize=7.5,
        color=GREY,
        x=0.01,
        ha="left",
    )
    return figure


def differences(table: pl.DataFrame, axes: Axes) -> Axes:
    """Differences of ordered pairs as a square, the best ranker at the top and at the left.

    Args:
        table: (first, second, value, low, high).
        axes: drawn into.
    """
    order = table.group_by("first").agg(pl.col("value").mean()).sort("value", descending=True)["first"].to_list()
    square = np.full((len(order), len(order)), np.nan)
    for row in table.iter_rows(named=True):
        at = order.index(row["first"]), order.index(row["second"])
        square[at] = row["value"]
        clear = row["low"] > 0 or row["high"] < 0
        axes.text(
            at[1],
            at[0],
            f"{row['value']:+.3f}",
            ha="center",
            va="center",
            fontsize=6,
            weight="bold" if clear else "normal",
            color="black" if clear else GREY,
        )
    most = float(np.nanmax(np.abs(square))) if np.isfinite(square).any() else 1.0
    axes.imshow(square, cmap="RdBu", vmin=-1.6 * most, vmax=1.6 * most)
    axes.set_xticks(range(len(order)), order, rotation=45, ha="right")
    axes.set_yticks(range(len(order)), order)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return axes
