"""Plots: each function takes a tidy table and an Axes, and returns the Axes; `figures.py` lays them out and writes files.

Colours are those of Okabe and Ito (2008), freshness is in cividis: both can be told apart without red and green. Whiskers
are 95 % intervals of each figure by itself; paired differences, which are much narrower, are in the report's table.
"""

from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from evaluation.plot_style import BLUE, CYCLE, GREY, HALO, INK, PALE, VERMILLION, legend_below, place_labels
from evaluation.summary import initial_name

ROLE_COLOURS = {"baseline": BLUE, "learner": VERMILLION, "oracle": PALE}
ROLE_NAMES = {"baseline": "baseline", "learner": "reinforcement learning", "oracle": "oracle (sees the hidden state)"}
MARKERS = "osD^vPX<>*"
FEW = 8
"""Points whose whiskers can be told apart; those of more are thinner."""

METRIC_LABELS = {
    "reward": ("Reward", "weighted clicks per user"),
    "normalised_reward": ("Reward, normalised", "0 = random, 1 = look-ahead oracle"),
    "engagement": ("Engagement", "items consumed per user"),
}
"""Title and unit of the metrics that have a bar chart."""


def bars(
    summary: pl.DataFrame, axes: Axes, metric: str = "reward", order: list[str] | None = None, legend: bool = True
) -> Axes:
    """One bar for each agent with its interval, the best on top.

    Oracles are hatched; an agent trained by reinforcement learning has a diamond where its own policy stood before
    training, and a pale bar if it is not above that.

    Args:
        summary: one row for each agent and metric: agent, role, untrained, metric, versus (null), value, low, high.
        axes: where to draw.
        metric: which metric.
        order: agents from the top down; None sorts by value.
        legend: whether the roles are explained below.
    """
    rows = _values(summary, metric)
    rows = rows.sort("value", descending=True, nulls_last=True)
    shown = rows.filter(pl.col("role") != "initial")["agent"].to_list()
    order = [agent for agent in order or shown if agent in shown]
    by_agent = {row["agent"]: row for row in rows.iter_rows(named=True)}
    beginnings = False
    decimals = 2 if np.nanmax(np.abs(rows["value"].to_numpy()), initial=0) < 10 else 1
    for place, agent in enumerate(order):
        row = by_agent[agent]
        pale = 0.4 if row["untrained"] else 1.0
        axes.barh(
            place,
            row["value"],
            height=0.72,
            color=ROLE_COLOURS[row["role"]],
            alpha=pale,
            hatch="////" if row["role"] == "oracle" else None,
            edgecolor=GREY if row["role"] == "oracle" else "none",
            linewidth=0.6,
            zorder=2,
        )
        _whisker(axes, row, place)
        initial = by_agent.get(initial_name(agent))
        if initial is not None and np.isfinite(initial["value"]):
            beginnings = True
            axes.plot(initial["value"], place, "D", ms=5, mfc="white", mec=INK, mew=1, zorder=4)
        ends = [end for end in (row["value"], row["high"], initial["value"] if initial else np.nan) if np.isfinite(end)]
        if not ends:
            continue
        note = f"{row['value']:.{decimals}f}" + (" untrained" if row["untrained"] else "")
        axes.annotate(
            note, (max([0.0, *ends]), place), (5, 0), textcoords="offset points", va="center", fontsize=7.5, color=INK
        )
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.axvline(0, color=GREY, lw=0.8, zorder=3)
    axes.margins(x=0.18)
    title, unit = METRIC_LABELS.get(metric, (metric.replace("_", " ").capitalize(), ""))
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.grid(axis="x", color=PALE, lw=0.5, zorder=0)
    axes.tick_params(axis="y", length=0)
    roles = [role for role in ROLE_COLOURS if role in set(rows["role"])]
    handles: list[Patch | Line2D] = [
        Patch(fc=ROLE_COLOURS[role], ec=GREY, hatch="////" if role == "oracle" else "", lw=0.6, label=ROLE_NAMES[role])
        for role in roles
    ]
    if beginnings:
        handles.append(Line2D([], [], ls="", marker="D", mfc="white", mec=INK, label="its policy before training"))
    if legend:
        legend_below(axes, handles)
    return axes


def tradeoff(summary: pl.DataFrame, axes: Axes) -> Axes:
    """Engagement against diversity of consumption, freshness of consumption as colour, one labelled point an agent.

    Squares are oracles, diamonds are agents trained by reinforcement learning, with a line from their own policy before
    training and a star behind the name if they are not above that. `summary` as for `bars`.
    """
    wide = {
        metric: {row["agent"]: row for row in _values(summary, metric).iter_rows(named=True)}
        for metric in ("diversity", "engagement", "freshness")
    }
    freshness = {agent: row["value"] for agent, row in wide["freshness"].items()}
    known = [value for value in freshness.values() if value is not None and np.isfinite(value)]
    colours = ScalarMappable(Normalize(0, max([*known, 0.01])), "cividis")
    points, labels, lines = [], [], []
    for agent, across in wide["diversity"].items():
        up = wide["engagement"][agent]
        if not (np.isfinite(across["value"]) and np.isfinite(up["value"])):
            continue
        role = up["role"]
        initial = role == "initial"
        marker = {"oracle": "s", "learner": "D", "initial": "D"}.get(role, "o")
        fresh = freshness.get(agent)
        colour = colours.to_rgba(fresh) if fresh is not None and np.isfinite(fresh) else "white"
        thin = 0.8 if len(wide["diversity"]) <= FEW else 0.3
        for row, direction in ((across, "xerr"), (up, "yerr")):
            whisker: dict[str, Any] = {direction: [[row["value"] - row["low"]], [row["high"] - row["value"]]]}
            if np.isfinite(whisker[direction]).all():
                axes.errorbar(across["value"], up["value"], ecolor=GREY, elinewidth=thin, zorder=2, **whisker)
        axes.scatter(
            across["value"],
            up["value"],
            s=22 if initial else 52,
            marker=marker,
            color=[colour],
            edgecolor=INK,
            linewidth=0.7,
            zorder=3,
        )
        points.append((across["value"], up["value"]))
        lines.append(((across["low"], up["value"]), (across["high"], up["value"])))
        lines.append(((across["value"], up["low"]), (across["value"], up["high"])))
        labels.append("" if initial else agent + ("*" if up["untrained"] else ""))
        begin = wide["diversity"].get(initial_name(agent)), wide["engagement"].get(initial_name(agent))
        if begin[0] and begin[1]:
            line = ([begin[0]["value"], across["value"]], [begin[1]["value"], up["value"]])
            axes.plot(*line, color=VERMILLION, lw=1, zorder=1.5)
    axes.margins(0.16)
    axes.set_title("Engagement against diversity")
    axes.set_xlabel("diversity of what is consumed (mean distance to the last items consumed)")
    axes.set_ylabel("engagement (items consumed per user)")
    axes.grid(color=PALE, lw=0.5, zorder=0)
    bar = axes.figure.colorbar(colours, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label("freshness (share of consumption that is fresh)")
    bar.outline.set_visible(False)  # type: ignore[operator]
    roles = set(summary["role"])
    handles = [
        Line2D([], [], ls="", marker=marker, mfc="white", mec=INK, label=name)
        for role, marker, name in (
            ("baseline", "o", "baseline"),
            ("learner", "D", "reinforcement learning"),
            ("oracle", "s", "oracle"),
        )
        if role in roles
    ]
    if "initial" in roles:
        handles.append(Line2D([], [], color=VERMILLION, lw=1, label="from the policy before training"))
    if any(label.endswith("*") for label in labels):
        handles.append(Line2D([], [], ls="", label="* untrained: not above that policy"))
    legend_below(axes, handles)
    place_labels(axes, points, labels, lines)
    return axes


def interest(trajectory: pl.DataFrame, axes: Axes, categories: list[str] | None = None) -> Axes:
    """Interest of one user under one policy, request by request, as areas that add up to 1.

    White lines part the visits, each with its day below.

    Args:
        trajectory: request, visit, day, category, share.
        axes: where to draw.
        categories: those with an area of their own, from the bottom up; the rest is one grey area. None takes the six
            largest.
    """
    categories = categories or top_categories(trajectory)
    moments = trajectory.select("request", "visit", "day").unique().sort("request")
    requests = moments["request"].to_numpy()
    shares = []
    for category in categories:
        rows = trajectory.filter(pl.col("category") == category).sort("request")
        shares.append(np.interp(requests, rows["request"], rows["share"]) if len(rows) else np.zeros(len(requests)))
    rest = np.maximum(1 - np.sum(shares, axis=0), 0) if shares else np.ones(len(requests))
    colours = [CYCLE[number % len(CYCLE)] for number in range(len(categories))]
    axes.stackplot(requests, *shares, rest, labels=[*categories, "other"], colors=[*colours, PALE], edgecolor="none")
    axes.set_ylim(0, 1)
    if len(requests) > 1:
        axes.set_xlim(requests[0], requests[-1])
    begins = moments.filter(pl.col("visit").diff().fill_null(1) > 0)
    told = -np.inf
    for request, _, day in begins.iter_rows():
        axes.axvline(request, color="white", lw=0.9)
        if request - told > 0.09 * max(np.ptp(requests), 1):
            told = request
            axes.annotate(
                f"day {day:.0f}",
                (request, 1),
                (2, -2),
                textcoords="offset points",
                va="top",
                fontsize=6.5,
                color=INK,
                path_effects=HALO,
            )
    axes.set_title("Interest")
    axes.set_xlabel("request (white lines: a new visit)")
    axes.set_ylabel("share of interest")
    return axes


def top_categories(trajectory: pl.DataFrame, count: int = 6) -> list[str]:
    """The categories with the largest mean share, the largest first."""
    means = (
        trajectory.group_by("category")
        .agg(pl.col("share").mean())
        .sort(["share", "category"], descending=[True, False])
    )
    return means["category"].head(count).to_list()


def learning_curves(curves: pl.DataFrame, axes: Axes, references: pl.DataFrame | None = None) -> Axes:
    """Reward of a request while agents learn; thin lines are training seeds, thick ones their mean.

    Args:
        curves: agent, training_seed, requests, reward (mean reward of a request, of training users).
        axes: where to draw.
        references: agent, role, value: levels measured on the evaluation users; those of role 'initial' are dotted in the
            colour of their agent, others dashed in grey with their name.
    """
    agents = curves["agent"].unique(maintain_order=True).to_list()
    for number, agent in enumerate(agents):
        colour = CYCLE[number % len(CYCLE)]
        rows = curves.filter(pl.col("agent") == agent)
        runs = [_whole(part.sort("requests")) for part in rows.partition_by("training_seed", maintain_order=True)]
        if len(runs) > 1:
            for run in runs:
                axes.plot(run["requests"], run["reward"], color=colour, lw=0.7, alpha=0.45)
        grid = np.unique(np.concatenate([run["requests"].to_numpy() for run in runs]))
        grid = grid[
            (grid >= max(run["requests"][0] for run in runs)) & (grid <= min(run["requests"][-1] for run in runs))
        ]
        mean = np.mean([np.interp(grid, run["requests"], run["reward"]) for run in runs], axis=0)
        # where colours come again, marks tell the lines apart
        round_ = number // len(CYCLE)
        marker = MARKERS[round_ % len(MARKERS)] if round_ or len(grid) < 3 else None
        axes.plot(grid, mean, color=colour, lw=1.8, marker=marker, ms=5, markevery=max(1, len(grid) // 8), label=agent)
        if references is not None:
            for value in references.filter(pl.col("agent") == initial_name(agent))["value"]:
                axes.axhline(value, color=colour, lw=1.2, ls=":")
    if references is not None:
        if references["role"].is_in(["initial"]).any():
            axes.plot([], [], color=GREY, lw=1.2, ls=":", label="before training, in the agent's colour")
        others = references.filter(pl.col("role") != "initial")
        for (agent, value), style in zip(
            others.select("agent", "value").iter_rows(), ("--", "-.", (0, (1, 3))), strict=False
        ):
            axes.axhline(value, color=GREY, lw=1, ls=style, label=f"{agent} (evaluation users)")
    axes.set_title("Learning curves")
    axes.set_xlabel("simulated requests spent on training")
    axes.set_xlim(left=0)
    axes.set_ylabel("reward per request")
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    axes.grid(color=PALE, lw=0.5)
    if agents:
        legend_below(axes)
    return axes


def _whole(run: pl.DataFrame) -> pl.DataFrame:
    """A curve without its last point where that is the mean of few requests, those left over at the end: it would be noise."""
    spans = np.diff(run["requests"].to_numpy(), prepend=0)
    return run[:-1] if len(run) > 2 and spans[-1] < np.median(spans) / 4 else run


def _values(summary: pl.DataFrame, metric: str) -> pl.DataFrame:
    """The rows of a metric itself, not of differences; nulls as NaN."""
    rows = summary.filter((pl.col("metric") == metric) & pl.col("versus").is_null())
    return rows.with_columns(pl.col("value", "low", "high").cast(pl.Float64).fill_null(np.nan))


def _whisker(axes: Axes, row: dict[str, Any], place: int) -> None:
    """The interval of a horizontal bar, if there is one."""
    if np.isfinite([row["low"], row["high"]]).all():
        spans = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], place, xerr=spans, ecolor=INK, elinewidth=1, capsize=2, fmt="none", zorder=3)


def differences(table: pl.DataFrame, axes: Axes) -> Axes:
    """Paired differences in reward between two agents under each assumption; filled where the conclusion is another one.

    Args:
        table: assumption, value, first, second, difference, low, high, changed, as `evaluation.sensitivity` makes it, of one pair.
        axes: where to draw.
    """
    labels = []
    for place, row in enumerate(table.iter_rows(named=True)):
        colour = VERMILLION if row["changed"] else BLUE
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4, zorder=2)
        axes.plot(row["difference"], place, "D" if row["changed"] else "o", color=colour, ms=5, zorder=3)
        labels.append(row["assumption"].replace("_", " ") + ("" if row["value"] is None else f" {row['value']:g}"))
    axes.axvline(0, color=GREY, lw=0.8)
    axes.axvline(table["difference"][0], color=GREY, lw=0.8, ls=":")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("difference in reward, weighted clicks per user; 95 %")
    axes.set_title(f"{table['first'][0]} minus {table['second'][0]}; diamonds: another conclusion")
    return axes


def points(table: pl.DataFrame, axes: Axes) -> Axes:
    """Values with their intervals, one below the other, the first at the bottom.

    Args:
        table: (ranker, value, low, high).
        axes: drawn into.
    """
    for place, row in enumerate(table.iter_rows(named=True)):
        axes.plot([row["low"], row["high"]], [place, place], color=BLUE, linewidth=1.4)
        axes.plot(row["value"], place, "o", color=BLUE, markersize=5)
    axes.set_yticks(range(len(table)), table["ranker"].to_list())
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes
