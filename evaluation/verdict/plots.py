"""Plots of a verdict: rewards in each world, margins, the bound, trade-offs, what lasts, and learning."""

from collections.abc import Mapping, Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation import plots
from evaluation.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PANELS_IN_A_LINE,
    VERMILLION,
    blank_figure,
    legend_below,
    panels_page,
)
from evaluation.verdict.contenders import BANDIT, CONSTANT, RL, SUPERVISED
from evaluation.verdict.finals import MYOPIC, ONE, ZERO

LOOK: Mapping[str, tuple[str, str, str]] = {
    RL: (VERMILLION, "o", "reinforcement learning"),
    SUPERVISED: (BLUE, "s", "supervised pipeline"),
    CONSTANT: (GREEN, "D", "constant weights"),
    BANDIT: (ORANGE, "^", "bandit"),
    "oracle": (GREY, "v", "oracle"),
    "baseline": (GREY, "X", "random"),
}
"""Colour, marker and name of each family: told apart by both, so also without colour."""


def rewards(summary: pl.DataFrame, axes: Axes, metric: str) -> Axes:
    """Every policy's reward with its interval, the best at the top; the best of a family is filled.

    Args:
        summary: agent, role, metric, versus, value, low, high, is_best of one world.
        axes: where to draw.
        metric: 'normalised_reward' or 'reward'.
    """
    own = summary.filter((pl.col("metric") == metric) & pl.col("versus").is_null()).sort("value", maintain_order=True)
    for place, row in enumerate(own.iter_rows(named=True)):
        colour, marker, _ = LOOK[row["role"]]
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        filled = row["is_best"] or row["role"] in ("oracle", "baseline")
        axes.plot(row["value"], place, marker, color=colour, mfc=colour if filled else "white", ms=6)
    axes.set_yticks(range(len(own)), own["agent"])
    axes.set_ylim(-0.6, len(own) - 0.4)
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        "0 = random, 1 = look-ahead oracle" if metric == "normalised_reward" else "weighted clicks per user"
    )
    return axes


def margins(table: pl.DataFrame, axes: Axes) -> Axes:
    """Reward of the best RL agent minus that of the best of other families, world by world; right of zero RL is better.

    Args:
        table: world, other_family, other, rl, value, low, high.
        axes: where to draw.
    """
    labels = []
    for place, row in enumerate(reversed(table.to_dicts())):
        colour, marker, _ = LOOK[row["other_family"]]
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        axes.plot(row["value"], place, marker, color=colour, ms=6)
        labels.append(f"{row['world']}: {row['rl']} − {row['other']}")
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    axes.set_title("Best RL agent minus others")
    axes.set_xlabel("reward per user (weighted clicks)")
    return axes


def bounds(table: pl.DataFrame, axes: Axes) -> Axes:
    """What the look-ahead oracle gains over the myopic one, as a share of the latter's reward.

    Args:
        table: world, policy, reward, gain, gain_low, gain_high.
        axes: where to draw.
    """
    own = table.filter(pl.col("policy") == MYOPIC).reverse()
    for place, row in enumerate(own.iter_rows(named=True)):
        value, low, high = (100 * row[name] / row["reward"] for name in ("gain", "gain_low", "gain_high"))
        axes.plot([low, high], [place, place], color=GREY, lw=1.4)
        axes.plot(value, place, "v", color=GREY, ms=6)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(own)), own["world"])
    axes.set_ylim(-0.6, len(own) - 0.4)
    axes.set_title("What planning can gain")
    axes.set_xlabel("look-ahead minus myopic oracle, % of reward")
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    return axes


def tradeoff(points: pl.DataFrame, axes: Axes, objective: str, unit: str, *, legend: bool) -> Axes:
    """Engagement against another objective, a point for each reward; points of the joint Pareto front are filled.

    Args:
        points: contender, family, engagement, diversity, freshness with _low and _high, on_front.
        axes: where to draw.
        objective: 'diversity' or 'freshness'.
        unit: of it.
        legend: whether contenders are named.
    """
    for (name, family), own in points.group_by("contender", "family", maintain_order=True):
        colour, marker, _ = LOOK[str(family)]
        own = own.sort(objective)
        axes.plot(own[objective], own["engagement"], color=colour, lw=0.8, alpha=0.6)
        for number, row in enumerate(own.iter_rows(named=True)):
            at, up = row[objective], row["engagement"]
            axes.plot([row[f"{objective}_low"], row[f"{objective}_high"]], [up, up], color=colour, lw=0.6, alpha=0.5)
            axes.plot([at, at], [row["engagement_low"], row["engagement_high"]], color=colour, lw=0.6, alpha=0.5)
            fill = colour if row["on_front"] else "white"
            axes.plot(at, up, marker, color=colour, mfc=fill, ms=6, label=None if number else str(name))
    axes.set_xlabel(f"{objective} ({unit})")
    axes.set_ylabel("engagement (items consumed per user)")
    axes.grid(color=PALE, lw=0.5)
    if legend:
        legend_below(axes)
    return axes


def entropy(table: pl.DataFrame, axes: Axes, roles: Mapping[str, str], *, legend: bool) -> Axes:
    """How wide interests stay over the days, with 95 % bands.

    Args:
        table: agent, day, value, low, high of one world.
        axes: where to draw.
        roles: agent -> family, of those that are drawn.
        legend: whether they are named.
    """
    for agent, role in roles.items():
        own = table.filter(pl.col("agent") == agent).sort("day")
        colour, marker, _ = LOOK[role]
        style = "--" if agent == ONE else ":" if role in ("oracle", "baseline") else "-"
        axes.plot(own["day"], own["value"], color=colour, ls=style, marker=marker, ms=3.5, markevery=3, label=agent)
        if own["low"].is_finite().all():
            axes.fill_between(own["day"], own["low"], own["high"], color=colour, alpha=0.12, lw=0)
    axes.set_xlabel("day of the run")
    axes.set_ylabel("entropy of hidden interest (nats)")
    axes.grid(color=PALE, lw=0.5)
    if legend:
        legend_below(axes)
    return axes


# ------------------------------------------------------------------------------------------------------------- the pages
def verdict_page(summary: pl.DataFrame) -> Figure:
    """A panel of rewards for each world."""
    worlds = summary["world"].unique(maintain_order=True).to_list()
    metric = "normalised_reward" if _scaled_everywhere(summary) else "reward"
    agents = summary.group_by("world").agg(pl.col("agent").n_unique())["agent"].to_numpy().max()
    figure, panels = panels_page(len(worlds), 4.6, 0.27 * agents + 1.3, 0.6)
    for axes, world in zip(panels, worlds, strict=True):
        rewards(summary.filter(pl.col("world") == world), axes, metric)
        axes.set_title(f"{world}: reward" + (", normalised" if metric == "normalised_reward" else ""))
    users, seeds = (summary[name].to_numpy().max() for name in ("num_users", "num_seeds"))
    roles = [role for role in LOOK if role in summary["role"]]
    told = f"bars: 95 % over {users} fresh users, trainings: {seeds}; filled: chosen on tuning users"
    _legend(figure, roles, told, 2 * min(len(worlds), PANELS_IN_A_LINE))
    return figure


def margins_page(table: pl.DataFrame, bound: pl.DataFrame) -> Figure:
    """Margins, beside what planning can gain."""
    figure = blank_figure(12, 0.3 * max(len(table), 3) + 1.6)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    margins(table, left)
    bounds(bound, right)
    figure.supxlabel("Bars: 95 % intervals.", fontsize=7.5, color=GREY, x=0.01, ha="left")
    return figure


def volumes(table: pl.DataFrame, axes: Axes, unit: str) -> Axes:
    """Hypervolumes with their intervals, a column for each contender.

    Args:
        table: contender, family, value, low, high of one objective.
        axes: where to draw.
        unit: of the volume.
    """
    for place, row in enumerate(table.iter_rows(named=True)):
        colour, marker, _ = LOOK[row["family"]]
        axes.plot([place, place], [row["low"], row["high"]], color=colour, lw=1.4)
        axes.plot(place, row["value"], marker, color=colour, ms=6)
    axes.set_xticks(range(len(table)), table["contender"], rotation=30, ha="right")
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_title("Hypervolume")
    axes.set_ylabel(unit)
    axes.grid(axis="y", color=PALE, lw=0.5)
    return axes


def tradeoff_page(points: pl.DataFrame, table: pl.DataFrame) -> Figure:
    """Both trade-offs, each with its hypervolumes."""
    figure = blank_figure(15, 4.4)
    panels = figure.subplots(1, 4, width_ratios=[4, 2.2, 4, 2.2])
    units = {"diversity": "summed per user", "freshness": "fresh items per user"}
    for number, (objective, unit) in enumerate(units.items()):
        left, right = panels[2 * number : 2 * number + 2]
        tradeoff(points, left, objective, unit, legend=number == 0)
        left.set_title(f"Engagement against {objective}")
        volumes(table.filter(pl.col("objective") == objective), right, f"items × {objective}")
    figure.supxlabel("Filled: Pareto front of all. Bars: 95 % intervals.", fontsize=7.5, color=GREY, x=0.01, ha="left")
    return figure


def long_term_page(table: pl.DataFrame, summary: pl.DataFrame) -> Figure:
    """A row for each world: entropy of interest over the days, visits, day-7 return."""
    worlds = table["world"].unique(maintain_order=True).to_list()
    figure = blank_figure(13, 3.9 * len(worlds))
    panels = figure.subplots(len(worlds), 3, squeeze=False, width_ratios=[3, 2, 2])
    for line, world in zip(panels, worlds, strict=True):
        own = summary.filter(pl.col("world") == world)
        roles = _shown_roles(own)
        entropy(table.filter(pl.col("world") == world), line[0], roles, legend=True)
        line[0].set_title(f"{world}: how wide interests stay")
        for axes, metric, unit in ((line[1], "visits", "per user"), (line[2], "day_7_return", "share of users")):
            rows = own.filter(
                (pl.col("metric") == metric) & pl.col("versus").is_null() & pl.col("agent").is_in(list(roles))
            ).sort("value", maintain_order=True)
            for place, row in enumerate(rows.iter_rows(named=True)):
                colour, marker, _ = LOOK[row["role"]]
                if row["low"] is not None:
                    axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
                if row["value"] is not None:
                    axes.plot(row["value"], place, marker, color=colour, ms=6)
            axes.set_yticks(range(len(rows)), rows["agent"])
            axes.set_title("Visits" if metric == "visits" else "Back within 7 days")
            axes.set_xlabel(unit)
            axes.grid(axis="x", color=PALE, lw=0.5)
    return figure


def learning_page(curves: pl.DataFrame, summary: pl.DataFrame) -> Figure:
    """Sample efficiency, a panel for each world; the best supervised pipeline and constant are lines."""
    worlds = curves["world"].unique(maintain_order=True).to_list()
    figure, panels = panels_page(len(worlds), 6, 4.8)
    for axes, world in zip(panels, worlds, strict=True):
        levels = summary.filter(
            (pl.col("world") == world)
            & (pl.col("metric") == "reward_per_request")
            & pl.col("versus").is_null()
            & pl.col("is_best")
            & pl.col("role").is_in([SUPERVISED, CONSTANT])
        )
        plots.learning_curves(curves.filter(pl.col("world") == world), axes, levels)
        axes.set_title(f"{world}: reward while learning, with exploration")
    return figure


def _shown_roles(summary: pl.DataFrame) -> dict[str, str]:
    """Random, the look-ahead oracle and the best of each family."""
    rows = (
        summary.filter(pl.col("is_best") | pl.col("agent").is_in([ZERO, ONE]))
        .select("agent", "role")
        .unique(maintain_order=True)
    )
    return dict(rows.iter_rows())


def _scaled_everywhere(summary: pl.DataFrame) -> bool:
    own = summary.filter(pl.col("metric") == "normalised_reward")
    return own["world"].n_unique() == summary["world"].n_unique()


def _legend(figure: Figure, roles: Sequence[str], title: str, columns: int) -> None:
    handles = [Line2D([], [], color=LOOK[role][0], marker=LOOK[role][1], ls="", label=LOOK[role][2]) for role in roles]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title, title_fontsize=8)
