"""The fidelity report's page of plots: each function takes a tidy table and an Axes, and returns the Axes."""

from collections.abc import Callable

import matplotlib.ticker
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from evaluation.plot_style import BLUE, GREEN, GREY, INK, ORANGE, VERMILLION, blank_figure, house_style

SOURCES = {
    "real": ("real", INK, "-"),
    "model": ("user model", BLUE, "-"),
    "static": ("static", ORANGE, "--"),
    "popularity": ("popularity", VERMILLION, ":"),
}
"""Source -> (name, colour, line)."""


def ratios(distances: pl.DataFrame, axes: Axes) -> Axes:
    """Distance over floor of each aspect and source, on a logarithmic scale; the floor's own spread is grey."""
    titles = distances["title"].unique(maintain_order=True).to_list()
    for place, title in enumerate(titles):
        rows = {row["source"]: row for row in distances.filter(pl.col("title") == title).iter_rows(named=True)}
        floor = rows["real"]
        if floor["distance"] > 0:
            axes.barh(
                place,
                (floor["high"] - floor["low"]) / floor["distance"],
                left=floor["low"] / floor["distance"],
                height=0.7,
                color=GREY,
                alpha=0.3,
                zorder=1,
            )
        for offset, source in ((-0.2, "model"), (0.0, "static"), (0.2, "popularity")):
            row = rows.get(source)
            if row is None or row["ratio"] is None:
                continue
            _, colour, _ = SOURCES[source]
            scale = floor["distance"]
            axes.plot([row["low"] / scale, row["high"] / scale], [place + offset] * 2, color=colour, lw=1.2, zorder=2)
            axes.plot(row["ratio"], place + offset, "osD"[round(offset / 0.2) + 1], color=colour, ms=4, zorder=3)
    axes.axvline(1, color=GREY, lw=0.8, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.set_xlabel("distance to real users over the real-against-real floor")
    axes.set_title("Distances; whiskers and grey: 95 % of halvings")
    return axes


def curve(curves: pl.DataFrame, axes: Axes, name: str, title: str, x: str, y: str) -> Axes:
    """One curve for each source."""
    for source, (label, colour, line) in SOURCES.items():
        rows = curves.filter((pl.col("curve") == name) & (pl.col("source") == source))
        if len(rows):
            axes.plot(rows["x"], rows["y"], line, color=colour, lw=1.4, label=label)
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def roc(scores: pl.DataFrame, tests: pl.DataFrame, axes: Axes) -> Axes:
    """ROC curves of the boosted trees."""
    auc = {row["test"]: row for row in tests.iter_rows(named=True)}
    for test, label, colour, line in (
        ("real halves", "real halves", INK, "-"),
        ("model", "user model", BLUE, "-"),
        ("model, as sequences", "user model, sequence classifier", GREEN, "-."),
        ("static", "static", ORANGE, "--"),
        ("popularity", "popularity", VERMILLION, ":"),
    ):
        rows = scores.filter(pl.col("test") == test)
        false, true, _ = roc_curve(rows["is_simulated"].to_numpy(), rows["score"].to_numpy())
        half = (auc[test]["high"] - auc[test]["low"]) / 2
        axes.plot(false, true, line, color=colour, lw=1.4, label=f"{label}: {auc[test]['auc']:.2f} ± {half:.2f}")
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.6)
    axes.set_xlabel("real users taken for simulated")
    axes.set_ylabel("simulated users found")
    axes.set_title("Told apart from real users: AUC")
    axes.legend(loc="lower right", fontsize=7)
    return axes


def importances(table: pl.DataFrame, axes: Axes, most: int = 10) -> Axes:
    """Permutation importances of the statistics by which the user model is told apart."""
    rows = table.head(most)
    places = np.arange(len(rows))
    axes.barh(places, rows["importance"], xerr=1.96 * rows["error"].to_numpy(), color=BLUE, height=0.7, ecolor=GREY)
    axes.set_yticks(places, [name.replace("_", " ") for name in rows["statistic"]])
    axes.invert_yaxis()
    axes.set_xlabel("loss of AUC when permuted, 95 % interval")
    axes.set_title("Where the user model is told apart")
    return axes


def fidelity_page(
    distances: pl.DataFrame,
    curves: pl.DataFrame,
    tests: pl.DataFrame,
    scores: pl.DataFrame,
    importance: pl.DataFrame,
) -> Figure:
    """All panels on one page; click rates and watch times in a row of their own, where the log has them."""
    answers = [answer for answer in _ANSWERS if answer[0] in curves["curve"].unique()]
    height = 4 if answers else 3
    with house_style():
        figure = blank_figure(15, 4 * height)
        panels = figure.subplots(height, 3)
        ratios(distances, panels[0, 0])
        roc(scores, tests, panels[0, 1])
        importances(importance, panels[0, 2])
        share = "share of users"
        drawn: list[tuple[Axes, str, str, str, str, Callable[[Axes], object] | None]] = [
            (
                panels[1, 0],
                "rank_frequency",
                "Popularity of items",
                "rank of the item",
                "share of all events",
                _log_log,
            ),
            (panels[1, 1], "category_entropy", "Category entropy of a user", "nats", share, None),
            (
                panels[1, 2],
                "category_lags",
                "Items so far apart share a category",
                "lag, items",
                "share of pairs",
                None,
            ),
            (panels[2, 0], "visit_length", "Length of a visit", "items", "share of visits", _exponentials),
            (panels[2, 1], "gap", "Gap between visits", "days", "share of gaps", _exponentials),
            (panels[2, 2], "activity", "Items of a user from the date on", "1 + items", share, _exponentials),
            *((axes, *answer) for axes, answer in zip(panels[3:].flat, answers, strict=False)),
        ]
        for axes, name, title, x, y, scale in drawn:
            curve(curves, axes, name, title, x, y)
            if scale is not None:
                scale(axes)
        for axes in panels[3:].flat[len(answers) :]:
            axes.set_axis_off()
        handles, labels = panels[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _log_log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")


def _exponentials(axes: Axes) -> None:
    """Labels values that are logarithms by what they are logarithms of."""
    low, high = axes.get_xlim()
    powers = np.arange(np.ceil(low / np.log(10)), np.floor(high / np.log(10)) + 1)
    axes.set_xticks(powers * np.log(10), [f"{10.0**power:g}" for power in powers])


_ANSWERS: tuple[tuple[str, str, str, str, Callable[[Axes], object] | None], ...] = (
    ("click_rate", "Click rate of a user", "share of requests", "share of users", None),
    ("watch_time", "Watch time of an item", "1 + seconds", "share of clicks", _exponentials),
    ("user_watch_time", "Mean watch time of a user", "1 + seconds", "share of users", _exponentials),
)
"""Panels of logs that tell of them: curve, title, both labels, scale."""
