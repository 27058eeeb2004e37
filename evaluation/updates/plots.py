"""Plots of the study of update policies: fronts, timelines, margins, what a policy looks at, and how models decay.

Roles have a colour and a shape each, actions a shape and a fill, so that both can be told apart without colour.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from agents.updates.intervals import mean_interval
from agents.updates.monitoring import UpdateAction
from agents.updates.policies.loading import RULES
from evaluation import plots
from evaluation.monitoring_plots import PANELS, over_days
from evaluation.plot_style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    INK,
    PALE,
    VERMILLION,
    blank_figure,
    legend_below,
    panels_page,
    place_labels,
)
from evaluation.updates.summary import HINDSIGHT, NEVER, OWN, REFERENCE, RL, RULE

LOOK: Mapping[str, tuple[str, str, str]] = {
    RULE: (BLUE, "s", "tuned rule"),
    RL: (VERMILLION, "o", "reinforcement learning"),
    OWN: (GREEN, "P", "own policy"),
    REFERENCE: (GREY, "v", "hindsight (replays schedules on the judged seed)"),
}
"""Colour, marker and name of each role."""
MARKS: Mapping[UpdateAction, tuple[str, bool, str]] = {
    UpdateAction.UPDATE_RECALL: ("<", False, "update recall"),
    UpdateAction.UPDATE_RANKER: (">", False, "update ranker"),
    UpdateAction.UPDATE_BOTH: ("^", True, "update both"),
    UpdateAction.ROLL_BACK: ("x", True, "roll back"),
    UpdateAction.CHALLENGER: ("D", False, "challenger: train, or promote or drop"),
    UpdateAction.FULL_RETRAIN: ("s", True, "full retrain"),
}
"""Marker of each action, whether it is filled, and its name."""
DECAYING = {
    "engagement": "engagement (clicks per visit)",
    "recall_100": "recall@100",
    "ndcg_10": "NDCG@10",
    "calibration_error": "calibration error (ECE)",
}
"""Axis labels of the columns of a decay curve."""
WATCHED = ("engagement", "ctr", "newborn_share", "calibration_error", "score_psi")
"""Measures of monitoring that are shown, see `evaluation.monitoring_plots.PANELS`."""
INTERVALS = "Bars: 95 % intervals over seeds."
SHORT = {"update_recall": "recall", "update_ranker": "ranker", "update_both": "both", "full_retrain": "retrain"}
"""Updates in labels of plots."""
BY_LEVEL = ("adwin", "page_hinkley", "cara")
"""Rules whose numbers say little to a reader; tables have them."""


def short(label: str) -> str:
    """A rule's label for a plot: 'every(3, update_both)' is 'every 3: both'; others stay as they are."""
    name, _, settings = label.removesuffix(")").partition("(")
    if name not in RULES or not settings:
        return label
    parts = settings.split(", ")
    numbers = [f"{float(part):.4g}" for part in parts if name not in BY_LEVEL and part[0].isdigit()]
    return " ".join([name, *numbers]) + "".join(f": {SHORT[part]}" for part in parts if part in SHORT)


def front(points: pl.DataFrame, axes: Axes) -> Axes:
    """Engagement beyond never's against cost; the line is the front of the tuned rules, level beyond its right end.

    Small updates cost a hundredth of a full retrain, so the cost axis is logarithmic, but for the decade at zero.

    Args:
        points: as `points_table` returns it, of one scenario.
        axes: where to draw.
    """
    costs, gains = points["cost"].to_numpy(), points["gain"].to_numpy()
    hull = points.filter(pl.col("on_rules_front")).sort("cost")
    right = max(float(costs.max()), 1e-12) * 1.5
    least = 10 ** np.floor(np.log10(costs[costs > 0].min(initial=right)))
    along = np.array([0.0, *np.geomspace(least, right, 200)])
    axes.plot(along, np.interp(along, hull["cost"], hull["gain"]), color=BLUE, lw=1.2, zorder=1)
    whiskers = []
    for row in points.iter_rows(named=True):
        colour, marker, _ = LOOK[row["role"]]
        for low, high, level, across in (
            (row["cost_low"], row["cost_high"], row["gain"], True),
            (row["gain_low"], row["gain_high"], row["cost"], False),
        ):
            if low is not None:
                low, high = (max(low, 0.0), min(high, right)) if across else (low, high)
                ends = ((low, level), (high, level)) if across else ((level, low), (level, high))
                axes.plot(*zip(*ends, strict=True), color=colour, lw=0.7, alpha=0.5, zorder=2)
                whiskers.append(ends)
        axes.plot(row["cost"], row["gain"], marker, color=colour, mfc=colour if row["on_front"] else "white", ms=6)
    axes.set_title("Engagement against cost")
    axes.set_xlabel("cost of updates (clicks per visit)")
    axes.set_ylabel("engagement beyond never's (clicks per visit)")
    axes.grid(color=PALE, lw=0.5)
    axes.set_xscale("symlog", linthresh=least)
    axes.set_xlim(-0.3 * least, 1.3 * right)
    axes.set_ylim(*_around(gains, 0.35))
    points_at = list(zip(costs.tolist(), gains.tolist(), strict=True))
    place_labels(axes, points_at, [short(name) for name in points["policy"]], whiskers)
    return axes


def timeline(days: pl.DataFrame, upper: Axes, lower: Axes, shown: Sequence[str] | None = None) -> tuple[Axes, Axes]:
    """Engagement over the days under each policy, and below it a row of marks for each policy: what it did, and when.

    Lines are means over seeds, with a 95 % band around never's from three seeds on: those of all would cover each other. The marks
    are those of the first seed.

    Args:
        days: policy, seed, day, engagement, action; of one scenario.
        upper: axes of the lines.
        lower: axes of the marks; shares its x axis with `upper`.
        shown: policies, in order; None takes all.
    """
    policies = list(shown) if shown is not None else days["policy"].unique(maintain_order=True).to_list()
    levels = []
    first = days.filter(pl.col("seed") == days["seed"].min())
    for number, policy in enumerate(policies):
        colour = CYCLE[number % len(CYCLE)]
        line = _by_day(days.filter(pl.col("policy") == policy))
        upper.plot(line["day"], line["value"], color=colour, ls=("-", "--", "-.")[number % 3], lw=1.4, label=policy)
        levels.append(line["value"].to_numpy())
        if policy == NEVER and days["seed"].n_unique() > 2:  # the band of two seeds would cover everything
            upper.fill_between(line["day"], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
        own = first.filter(pl.col("policy") == policy)
        lower.axhline(-number, color=PALE, lw=0.5, zorder=0)
        for action, (marker, filled, _) in MARKS.items():
            at = own.filter(pl.col("action") == int(action))["day"].to_numpy()
            face = colour if filled else "white"
            lower.plot(at, np.full(len(at), -number), marker, color=colour, mfc=face, ms=4, mew=0.9)
    upper.set_ylim(*_around(np.concatenate(levels), 0.3))
    upper.set_title("Engagement as the models age")
    upper.set_ylabel("clicks per visit")
    upper.grid(color=PALE, lw=0.5)
    lower.set_yticks([-number for number in range(len(policies))], [short(policy) for policy in policies])
    for number, name in enumerate(lower.get_yticklabels()):
        name.set_color(CYCLE[number % len(CYCLE)])
    lower.set_ylim(-len(policies) + 0.4, 0.6)
    lower.tick_params(axis="y", length=0)
    lower.set_xlabel("day")
    return upper, lower


def _around(values: NDArray[np.float64], share: float) -> tuple[float, float]:
    """Limits of an axis that shows `values` with room; intervals of very few seeds would leave nothing else to be seen."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = share * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _by_day(days: pl.DataFrame) -> pl.DataFrame:
    """day, value, low, high of engagement, over seeds; of one policy."""
    rows = [
        {"day": day, **dict(zip(("value", "low", "high"), mean_interval(part["engagement"].to_numpy()), strict=True))}
        for (day,), part in days.sort("day").group_by("day", maintain_order=True)
    ]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("value", "low", "high"), pl.Float64))


def margins(table: pl.DataFrame, axes: Axes) -> Axes:
    """RL minus the tuned rules' front, scenario by scenario; right of zero RL is better.

    Args:
        table: scenario, rl, value, low, high.
        axes: where to draw.
    """
    labels = []
    for place, row in enumerate(reversed(table.to_dicts())):
        colour, marker, _ = LOOK[RL]
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        axes.plot(row["value"], place, marker, color=colour, ms=6)
        labels.append(f"{row['scenario']}: {row['rl']}")
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_title("RL minus the tuned rules' front, at RL's cost")
    axes.set_xlabel("engagement (clicks per visit)")
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    return axes


def importances(table: pl.DataFrame, axes: Axes) -> Axes:
    """Share of decisions that change when a field is shuffled: filled for any change, hollow for acting or not.

    Args:
        table: field and the columns of `importance`, of one scenario; the first row is drawn on top.
        axes: where to draw.
    """
    for place, row in enumerate(reversed(table.to_dicts())):
        for kind, offset, face in (("changed", 0.13, VERMILLION), ("flipped", -0.13, "white")):
            level = place + offset
            if row[f"{kind}_low"] is not None:
                ends = [max(row[f"{kind}_low"], 0), min(row[f"{kind}_high"], 1)]
                axes.plot(ends, [level, level], color=VERMILLION, lw=1)
            axes.plot(row[kind], level, "o", color=VERMILLION, mfc=face, ms=4.5)
    axes.set_yticks(range(len(table)), [name.replace("_", " ") for name in reversed(table["field"].to_list())])
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlim(left=0)
    axes.margins(x=0.05)
    axes.set_title("What the policy looks at")
    axes.set_xlabel("share of decisions that change when shuffled")
    axes.grid(axis="x", color=PALE, lw=0.5)
    axes.set_axisbelow(True)
    return axes


def decay(table: pl.DataFrame, axes: Axes, metric: str) -> Axes:
    """A measure of models that nobody refreshes, against days since training; a line a model, with 95 % bands over worlds.

    Args:
        table: model, day, metric, value, low, high; of one scenario.
        axes: where to draw.
        metric: which.
    """
    for number, model in enumerate(table["model"].unique(maintain_order=True)):
        own = table.filter((pl.col("model") == model) & (pl.col("metric") == metric)).sort("day")
        colour = CYCLE[number % len(CYCLE)]
        axes.plot(own["day"], own["value"], color=colour, ls=("-", "--", ":")[number % 3], lw=1.6, label=model)
        known = own.drop_nulls(["low", "high"])
        axes.fill_between(known["day"], known["low"], known["high"], color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("days since training")
    axes.set_ylabel(DECAYING[metric])
    axes.grid(color=PALE, lw=0.5)
    return axes


# ------------------------------------------------------------------------------------------------------------- the pages
def front_page(points: pl.DataFrame) -> Figure:
    """A front for each scenario."""
    figure, panels = panels_page(points["scenario"].n_unique(), 5.2, 4.0, 0.6)
    for axes, (scenario, own) in zip(panels, _scenarios(points), strict=False):
        front(own, axes)
        axes.set_title(f"{scenario}: engagement against cost")
    roles = [role for role in LOOK if role in points["role"]]
    handles = [Line2D([], [], color=LOOK[role][0], marker=LOOK[role][1], ls="", label=LOOK[role][2]) for role in roles]
    handles.append(Line2D([], [], color=BLUE, lw=1.2, label="front of the tuned rules"))
    title = f"{INTERVALS} Gains are paired with never, seed by seed. Filled: on the front of all but hindsight. "
    title += "Both: recall and ranker."
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=8)
    return figure


def timeline_page(days: pl.DataFrame, chosen: Mapping[str, Sequence[str]]) -> Figure:
    """Lines and marks for each scenario.

    Args:
        days: scenario, policy, seed, day, engagement, action.
        chosen: scenario -> the policies that are shown.
    """
    scenarios = _scenarios(days)
    columns = min(len(scenarios), 2)
    lines = -(-len(scenarios) // columns)
    most = max(len(chosen[scenario]) for scenario, _ in scenarios)
    figure = blank_figure(6.4 * columns, (2.6 + 0.22 * most) * lines + 0.8)
    heights = [3.0, 0.3 * most + 0.2] * lines
    panels = figure.subplots(2 * lines, columns, squeeze=False, sharex="col", height_ratios=heights)
    for place in range(lines * columns):
        upper, lower = panels[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        if place >= len(scenarios):
            upper.set_visible(False)
            lower.set_visible(False)
            continue
        scenario, own = scenarios[place]
        timeline(own, upper, lower, chosen[scenario])
        upper.set_title(f"{scenario}: engagement as the models age")
        lower.tick_params(labelbottom=True)
    handles = [
        Line2D([], [], ls="", marker=marker, color=GREY, mfc=GREY if filled else "white", ms=5, label=name)
        for marker, filled, name in MARKS.values()
    ]
    title = "Marks: actions in the first seed, in the policy's colour. Lines: means over seeds; band: 95 % interval of never's."
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=8)
    return figure


def margins_page(table: pl.DataFrame) -> Figure:
    """Margins of all scenarios, those of policies that never met the scenario in a panel of their own.

    Args:
        table: as `margins_table` returns it, with trained_on ('' where the policy was trained on the scenario itself).
    """
    met, unmet = table.filter(pl.col("trained_on") == ""), table.filter(pl.col("trained_on") != "")
    shown = [
        (met, "RL minus the tuned rules' front, at RL's cost"),
        (unmet, "Likewise, trained on other scenarios only"),
    ]
    shown = [(own, title) for own, title in shown if len(own)]
    figure = blank_figure(5.6 * len(shown), 0.34 * max(len(own) for own, _ in shown) + 1.4)
    for axes, (own, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        margins(own, axes)
        axes.set_title(title)
    _footnote(figure, "Bars: 95 % intervals over seeds, paired.")
    return figure


def importance_page(table: pl.DataFrame) -> Figure:
    """What learnt policies look at: a panel for each that ever decides otherwise, and a line for those that always do the same."""
    by_policy = table.group_by("scenario", "policy", maintain_order=True)
    found = [(str(scenario), str(name), own) for (scenario, name), own in by_policy]
    looking = [(scenario, name, own) for scenario, name, own in found if own["changed"].max() > 0]  # type: ignore[operator]
    still = [f"{name} in {scenario}" for scenario, name, own in found if own["changed"].max() == 0]
    figure, panels = panels_page(max(len(looking), 1), 4.2, 0.24 * table["field"].n_unique() + 1.0, 0.6)
    for axes, (scenario, name, own) in zip(panels, looking or found, strict=False):
        importances(own, axes)
        axes.set_title(f"{scenario}: what {name} looks at")
    told = f"Filled: another action. Hollow: acts instead of keeping, or keeps. {INTERVALS}"
    _footnote(figure, told + (f"\nAlways the same is done by {', '.join(still)}." if still else ""))
    return figure


def decay_page(table: pl.DataFrame) -> Figure:
    """A row for each measure and a column for each scenario."""
    figure, panels = _grid(table, decay, list(DECAYING), 2.6)
    for axes, (scenario, _) in zip(panels[0], _scenarios(table), strict=True):
        axes.set_title(f"{scenario}: never refreshed")
    for row in panels:
        row[0].set_ylim(bottom=0)  # now that all that share it are drawn
    legend_below(panels[-1][0])
    _footnote(figure, "Bands: 95 % intervals over worlds.")
    return figure


def learning_page(curves: pl.DataFrame) -> Figure:
    """Learning curves of each scenario."""
    figure, panels = panels_page(curves["scenario"].n_unique(), 5.2, 3.8, 0.6)
    for axes, (scenario, own) in zip(panels, _scenarios(curves), strict=False):
        plots.learning_curves(own, axes)
        axes.set_title(f"{scenario}: while learning, with exploration")
        axes.set_xlabel("simulated days of training")
        axes.set_ylabel("a day's reward beyond the habit's (clicks per visit)")
    return figure


def watched_page(table: pl.DataFrame) -> Figure:
    """What monitoring shows: a row for each measure and a column for each scenario.

    Args:
        table: scenario, policy and the columns of `agents.events.statistics.STATISTICS`.
    """
    figure, panels = _grid(table, over_days, WATCHED, 1.9)
    for axes, (scenario, own) in zip(panels[0], _scenarios(table), strict=True):
        axes.set_title(f"{scenario}: {short(own['policy'][0])}\n{PANELS[WATCHED[0]][0]}")
    for axes in panels[-1]:
        axes.set_xlabel("day")
    told = "One episode a scenario. Points: versions of the models, which begin to serve at the lines."
    _footnote(figure, f"{told} Bars: 95 % intervals over users.")
    return figure


def shown_policies(points: pl.DataFrame, chosen: Mapping[str, str]) -> dict[str, list[str]]:
    """Policies of each scenario that the timeline shows: never, the two rules of best reward, the chosen RL policy, hindsight."""
    shown = {}
    for scenario, own in _scenarios(points):
        by_reward = own.sort(pl.col("engagement") - pl.col("cost"), descending=True, maintain_order=True)
        rules = [name for name in by_reward.filter(pl.col("role") == RULE)["policy"] if name != NEVER][:2]
        wanted = [NEVER, *rules, *([chosen[scenario]] if scenario in chosen else []), HINDSIGHT]
        shown[scenario] = [name for name in wanted if name in own["policy"]]
    return shown


def _scenarios(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    names = table["scenario"].unique(maintain_order=True)
    return [(name, table.filter(pl.col("scenario") == name)) for name in names]


def _grid(
    table: pl.DataFrame, draw: Callable[[pl.DataFrame, Axes, str], Axes], measures: Sequence[str], height: float
) -> tuple[Figure, NDArray[Any]]:
    """A figure and its drawn panels [measures, scenarios], in rows of `height` inches; labels are at the left and bottom."""
    scenarios = _scenarios(table)
    figure = blank_figure(3.4 * len(scenarios), height * len(measures))
    panels = figure.subplots(len(measures), len(scenarios), squeeze=False, sharex=True, sharey="row")
    for row, measure in zip(panels, measures, strict=True):
        for axes, (_, own) in zip(row, scenarios, strict=True):
            draw(own, axes, measure)
            axes.label_outer()
    return figure, panels


def _footnote(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7.5, color=GREY, x=0.01, ha="left")
