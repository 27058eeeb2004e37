"""Plots of pipelines against simulated users: outcomes, offline measure against outcome, rounds of the feedback loop."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.plot_style import CYCLE, GREY, INK, PALE, blank_figure, place_labels
from evaluation.serving.config import CONTROL, reward_metric

MARKERS = "osD^vPX<>*"
MEASURE_TITLES = {
    "normalised_reward": ("Reward, normalised", "0 = random, 1 = look-ahead oracle"),
    "reward": ("Reward", "weighted clicks per user"),
    "engagement": ("Engagement", "items consumed per user"),
    "diversity": ("Diversity", "mean distance to the last items consumed"),
    "freshness": ("Freshness", "share of consumption that is fresh"),
}
LOOP_TITLES = {
    "engagement": "Engagement\n(items per user)",
    "coverage": "Coverage\n(share of the catalogue shown)",
    "gini": "Concentration\n(Gini of exposure)",
    "jaccard": "Likeness of users\n(mean Jaccard)",
    "cosine": "Likeness of users\n(mean cosine)",
}


def pipeline_points(table: pl.DataFrame, axes: Axes, rankers: Sequence[str], rerankers: Sequence[str]) -> Axes:
    """Values with intervals, a row for each ranker, a colour and a marker for each re-ranker.

    Args:
        table: ranker, reranker, value, low, high of one measure.
        axes: where to draw.
        rankers: from the top down.
        rerankers: in the order of colours.
    """
    offsets = np.linspace(-0.3, 0.3, max(len(rerankers), 2))
    values = {(row["ranker"], row["reranker"]): row for row in table.iter_rows(named=True)}
    for place, ranker in enumerate(rankers):
        for number, reranker in enumerate(rerankers):
            row = values.get((ranker, reranker))
            if row is None or row["value"] is None:
                continue
            height, colour = place + offsets[number], CYCLE[number % len(CYCLE)]
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [height, height], color=colour, lw=1.1)
            axes.plot(
                row["value"],
                height,
                MARKERS[number % len(MARKERS)],
                color=colour,
                ms=4.2,
                label=reranker if place == 0 else None,
            )
    for place in range(1, len(rankers)):
        axes.axhline(place - 0.5, color=PALE, lw=0.5, zorder=0)
    axes.set_yticks(range(len(rankers)), rankers)
    axes.set_ylim(len(rankers) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    return axes


def offline_against_outcome(offline: pl.DataFrame, outcome: pl.DataFrame, axes: Axes, rerankers: Sequence[str]) -> Axes:
    """One point a pipeline: offline measure across, simulated outcome up, with intervals; the first re-ranker's bear their ranker's
    name.

    Args:
        offline: ranker, reranker, value, low, high.
        outcome: likewise.
        axes: where to draw.
        rerankers: in the order of colours.
    """
    up = {(row["ranker"], row["reranker"]): row for row in outcome.iter_rows(named=True)}
    points, labels, lines = [], [], []
    for row in offline.iter_rows(named=True):
        other, number = up[row["ranker"], row["reranker"]], list(rerankers).index(row["reranker"])
        colour, point = CYCLE[number % len(CYCLE)], (row["value"], other["value"])
        spans = ((row["low"], row["high"]), (point[1],) * 2), ((point[0],) * 2, (other["low"], other["high"]))
        for across, along in spans:
            axes.plot(across, along, color=colour, lw=0.6, alpha=0.35, zorder=1)
        first = row["ranker"] == offline["ranker"][0]
        axes.plot(
            *point,
            MARKERS[number % len(MARKERS)],
            color=colour,
            mec=INK,
            mew=0.4,
            ms=6,
            ls="",
            label=row["reranker"] if first else None,
            zorder=3,
        )
        points.append(point)
        labels.append(row["ranker"] if number == 0 else "")
        lines.append((point, point))
    axes.margins(0.1)
    axes.grid(color=PALE, lw=0.5, zorder=0)
    place_labels(axes, points, labels, lines)
    return axes


def loop_rounds(estimates: pl.DataFrame, axes: Axes) -> Axes:
    """A measure over rounds: a row for each ranker, in which rounds run downwards, joined by a line; the control is grey.

    Args:
        estimates: ranker, round, value, low, high.
        axes: where to draw.
    """
    rankers = estimates["ranker"].unique(maintain_order=True).to_list()
    last = max(int(estimates["round"].to_numpy().max()), 1)
    for row, ranker in enumerate(rankers):
        own = estimates.filter(pl.col("ranker") == ranker).sort("round")
        colour = GREY if ranker == CONTROL else CYCLE[0]
        place = row + 0.6 * (own["round"].to_numpy() / last - 0.5)
        axes.hlines(place, own["low"], own["high"], color=colour, alpha=0.45, lw=1.2)
        axes.plot(own["value"], place, color=colour, lw=1)
        for number, (value, height) in enumerate(zip(own["value"], place, strict=True)):
            is_before = number == 0
            axes.plot(
                value,
                height,
                marker="o",
                ms=4.5,
                ls="",
                color=colour,
                mfc="white" if is_before else colour,
                label=("before learning" if is_before else "after each round") if row == 1 and number < 2 else None,
            )
    axes.set_yticks(range(len(rankers)), [f"{name} slates" if name == CONTROL else name for name in rankers])
    axes.set_ylim(len(rankers) - 0.5, -0.5)
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    for edge in range(1, len(rankers)):
        axes.axhline(edge - 0.5, color=PALE, lw=0.5)
    return axes


def serving_page(serving: pl.DataFrame) -> Figure:
    """Outcomes of all pipelines: a row of panels for each user model and training, a column for each measure."""
    measures = [reward_metric(serving), "engagement", "diversity", "freshness"]
    own = serving.filter(pl.col("reranker").is_not_null() & pl.col("versus").is_null())
    rankers, rerankers = (own[name].unique(maintain_order=True).to_list() for name in ("ranker", "reranker"))
    groups = list(own.select("user_model", "training").unique(maintain_order=True).iter_rows())
    figure = blank_figure(3.3 * len(measures) + 0.6, (0.32 * len(rankers) + 0.75) * len(groups) + 0.6)
    panels = figure.subplots(len(groups), len(measures), squeeze=False, sharex="col", sharey=True)
    for number, (model, training) in enumerate(groups):
        line = panels[number]
        part = own.filter((pl.col("user_model") == model) & (pl.col("training") == training))
        for axes, measure in zip(line, measures, strict=True):
            pipeline_points(part.filter(pl.col("metric") == measure), axes, rankers, rerankers)
            if number == 0:
                axes.set_title(MEASURE_TITLES[measure][0])
            if number == len(groups) - 1:
                axes.set_xlabel(MEASURE_TITLES[measure][1])
        line[0].set_ylabel(f"{model} users,\ntrained on {training.replace('_', ' ')}")
    _legend(figure, panels[0][0], len(rerankers))
    return figure


def correlation_page(serving: pl.DataFrame, correlations: pl.DataFrame) -> Figure:
    """Offline measure against reward: a row of panels for each user model, a column for each training."""
    reward = reward_metric(serving)
    own = serving.filter(pl.col("reranker").is_not_null() & pl.col("versus").is_null())
    rerankers = own["reranker"].unique(maintain_order=True).to_list()
    models, trainings = (own[name].unique(maintain_order=True).to_list() for name in ("user_model", "training"))
    figure = blank_figure(5.6 * len(trainings), 4.3 * len(models) + 0.5)
    panels = figure.subplots(len(models), len(trainings), squeeze=False)
    found = correlations.filter(
        (pl.col("outcome") == "reward") & (pl.col("among") == "all") & (pl.col("measure") == "spearman")
    )
    drawn = []
    for line, model in zip(panels, models, strict=True):
        for axes, training in zip(line, trainings, strict=True):
            here = (pl.col("user_model") == model) & (pl.col("training") == training)
            row = found.filter(here).row(0, named=True)
            told = f"ρ = {row['value']:+.2f} ({row['low']:+.2f}, {row['high']:+.2f})"
            axes.set_title(f"{model} users, trained on {training.replace('_', ' ')}\n{told}")
            axes.set_xlabel("offline: NDCG@10 of the slate for the held-out row")
            axes.set_ylabel(f"{MEASURE_TITLES[reward][0]} ({MEASURE_TITLES[reward][1]})")
            drawn.append((axes, own.filter(here)))
    for axes, part in drawn:
        offline, outcome = (part.filter(pl.col("metric") == metric) for metric in ("ndcg10", reward))
        offline_against_outcome(offline, outcome, axes, rerankers)
    _legend(figure, panels[0][0], len(rerankers))
    return figure


def feedback_page(estimates: pl.DataFrame) -> Figure:
    """A panel for each measure of the feedback loop."""
    own = estimates.filter(pl.col("versus").is_null())
    rankers, rounds = own["ranker"].n_unique(), own["round"].n_unique()
    figure = blank_figure(3.0 * len(LOOP_TITLES) + 0.6, (0.2 + 0.1 * rounds) * rankers + 1.0)
    panels = figure.subplots(1, len(LOOP_TITLES), sharey=True)
    for axes, (measure, title) in zip(panels, LOOP_TITLES.items(), strict=True):
        loop_rounds(own.filter(pl.col("measure") == measure), axes)
        axes.set_title(title)
    panels[0].set_ylabel("ranker, greedy slates")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, title="rounds from top to bottom; bars: 95 % over seeds"
    )
    return figure


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
