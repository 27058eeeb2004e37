"""Plots of monitoring: the statistics of events by day and policy version (`agents.events.statistics`)."""

from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.plot_style import BLUE, GREY, INK, PALE, blank_figure

PANELS = {
    "ctr": ("Click rate", "clicks per request"),
    "engagement": ("Engagement", "clicks per visit"),
    "diversity": ("Diversity", "mean distance within a slate"),
    "shown_fresh": ("Fresh items shown", "share of slots"),
    "newborn_share": ("Items born since training", "share of slots"),
    "calibration_error": ("Calibration", "expected calibration error"),
    "score_psi": ("Shift of scores", "population stability index"),
}
"""Measure -> title and unit, in the order of the page."""
_MOST_NAMES = 10
"""Versions whose names are written; of more there are only the lines."""


def monitoring_page(table: pl.DataFrame) -> Figure:
    """All measures of `statistics` that are known, a panel each; what was predicted only where something was.

    Args:
        table: rows of `agents.events.statistics.STATISTICS`.
    """
    known = [measure for measure in PANELS if table[measure].is_not_nan().any()]
    rows = max((len(known) + 1) // 2, 1)
    figure = blank_figure(8, 2.2 * rows)
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    for measure, axes in zip(known, panels, strict=False):
        over_days(table, axes, measure)
    for axes in panels[len(known) :]:
        axes.set_axis_off()
    for axes in panels[max(len(known) - 2, 0) : len(known)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("day")
    return figure


def over_days(table: pl.DataFrame, axes: Axes, measure: str) -> Axes:
    """A measure over the days: points of each policy version, a line through their means by requests, and a vertical line where a
    version serves for the first time. The click rate has the 95 % interval of each point.

    Args:
        table: day, policy_version, requests and the measure (for `ctr`, `ctr_low` and `ctr_high` too).
        axes: where to draw.
        measure: one of `PANELS`.
    """
    title, unit = PANELS[measure]
    points = table.filter(pl.col(measure).is_not_nan()).sort("day")
    weight = pl.col("requests") / pl.col("requests").sum()
    daily = points.group_by("day", maintain_order=True).agg((pl.col(measure) * weight).sum())
    if measure == "ctr":
        sure = points.filter(pl.col("ctr_low").is_not_nan())
        axes.vlines(sure["day"], sure["ctr_low"], sure["ctr_high"], color=GREY, lw=0.9)
    axes.plot(daily["day"], daily[measure], color=BLUE, lw=1.4)
    axes.plot(points["day"], points[measure], "o", color=BLUE, ms=3.2, mec="white", mew=0.4)
    if measure == "score_psi":
        axes.axhline(0.25, color=GREY, lw=0.8, ls=":")
        axes.annotate(
            "large", (1, 0.25), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7, color=GREY
        )
    begins = table.group_by("policy_version").agg(pl.col("day").min()).sort("day", "policy_version")
    for version, day in begins.iter_rows():
        axes.axvline(day, color=PALE, lw=0.8, zorder=0)
        if len(begins) <= _MOST_NAMES:
            place: dict[str, Any] = {
                "xytext": (1.5, -1),
                "textcoords": "offset points",
                "xycoords": ("data", "axes fraction"),
            }
            axes.annotate(version, (day, 1), va="top", fontsize=6.5, color=INK, **place)
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.set_axisbelow(True)
    return axes
