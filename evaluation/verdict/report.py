"""A verdict as tables for the terminal and as flat figures."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import polars as pl
from rich.table import Table

from evaluation.verdict.contenders import CONSTANT, RL, SUPERVISED, stem_of
from evaluation.verdict.finals import MYOPIC, ONE, ZERO
from evaluation.verdict.long_term import LASTING_METRICS
from evaluation.verdict.study import Verdict

_MARKS = {SUPERVISED: "supervised", CONSTANT: "constant", RL: "RL", "bandit": "bandit", "oracle": "oracle"}


def bounds_table(bounds: pl.DataFrame) -> Table:
    """How much there is to gain, before anything is trained."""
    table = Table(title="The bound: reward per fresh user, 95 % intervals over users", title_justify="left")
    for heading in ("world", "random", "myopic oracle", "look-ahead oracle", "look-ahead minus myopic", "gain"):
        table.add_column(heading, justify="left" if heading == "world" else "right")
    for (world,), own in bounds.group_by("world", maintain_order=True):
        rows = {row["policy"]: row for row in own.iter_rows(named=True)}
        gain = rows[ONE]
        table.add_row(
            str(world),
            *[f"{rows[name]['reward']:.2f}" for name in (ZERO, MYOPIC, ONE)],
            f"{gain['gain']:+.2f} ({gain['gain_low']:+.2f}, {gain['gain_high']:+.2f})",
            f"{gain['gain_share']:+.1%}",
        )
    return table


def verdict_tables(found: Verdict, minutes: Mapping[str, float]) -> list[Table]:
    """The search, what each contender cost, each world's finals, who beats whom, the trade-off and what lasts."""
    tables = [_search_table(found.trials), _costs_table(found.costs, minutes)]
    for (world,), own in found.summary.group_by("world", maintain_order=True):
        tables.append(_world_table(str(world), own))
    tables.append(_margins_table(found))
    if found.volumes.width:
        tables += [_points_table(found.points), _volumes_table(found.volumes)]
    return tables


def verdict_figures(found: Verdict) -> dict[str, Any]:
    """Flat figures: for each world w `rl_minus_supervised_w` and `rl_minus_constant_w` with `_low` and `_high` (reward per user),
    `best_rl_normalised_w`, `lookahead_minus_myopic_w`, and more of the kind; for each contender c what search and finals took:
    `trials_c`, `events_c` and `minutes_c` (of CPU, with those of the rankers that it builds on)."""
    figures: dict[str, Any] = {}
    for row in found.margins.iter_rows(named=True):
        figures |= _bounded(f"rl_minus_{row['other_family']}_{row['world']}", row)
    for (world,), own in found.summary.group_by("world", maintain_order=True):
        scaled = own.filter((pl.col("metric") == "normalised_reward") & pl.col("is_best") & pl.col("versus").is_null())
        for family in (RL, SUPERVISED, CONSTANT, "bandit"):
            rows = scaled.filter(pl.col("role") == family).to_dicts()
            if rows:
                figures |= _bounded(f"best_{family}_normalised_{world}", rows[0])
            elif family == RL:
                figures[f"best_rl_normalised_{world}"] = None
        figures |= _lasting(str(world), own, found.entropy.filter(pl.col("world") == world))
    for row in found.bounds.filter(pl.col("policy") == ONE).iter_rows(named=True):
        name = f"lookahead_minus_myopic_{row['world']}"
        figures |= {name: row["gain"], f"{name}_low": row["gain_low"], f"{name}_high": row["gain_high"]}
        figures[f"{name}_share"] = row["gain_share"]
    for row in found.improvement.iter_rows(named=True):
        figures |= _bounded(f"probability_of_improvement_{row['world']}", row)
    if found.volumes.width:
        for row in found.volumes.iter_rows(named=True):
            figures |= _bounded(f"hypervolume_{row['objective']}_{row['family']}", row)
    for row in found.costs.iter_rows(named=True):
        figures |= _taken(row)
    return figures


def _taken(costs: Mapping[str, Any]) -> dict[str, Any]:
    name = stem_of(costs["contender"])
    return {
        f"trials_{name}": costs["trials"],
        f"events_{name}": costs["search_events"] + costs["final_events"],
        f"minutes_{name}": costs["search_minutes"] + costs["final_minutes"] + costs["prepared_minutes"],
    }


def _lasting(world: str, summary: pl.DataFrame, entropy: pl.DataFrame) -> dict[str, Any]:
    """What lasts of the best of each family: visits, day-7 return, and the entropy of interests on the last day; for RL the visits
    and returns also less those of the best supervised pipeline."""
    figures: dict[str, Any] = {}
    best = summary.filter(pl.col("is_best"))
    for row in best.filter(pl.col("metric").is_in(LASTING_METRICS)).iter_rows(named=True):
        if row["versus"] is None:
            figures |= _bounded(f"{row['metric']}_{row['role']}_{world}", row)
        elif row["role"] == RL:
            figures |= _bounded(f"{row['metric']}_rl_minus_supervised_{world}", row)
    last = entropy.filter(pl.col("day") == pl.col("day").max())
    for agent, family in best.select("agent", "role").unique(maintain_order=True).iter_rows():
        rows = last.filter(pl.col("agent") == agent).to_dicts()
        figures |= _bounded(f"interest_entropy_{family}_{world}", rows[0])
    return figures


def _bounded(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}


def _search_table(trials: pl.DataFrame) -> Table:
    best = trials.filter(pl.col("kept") & (pl.col("rung") == pl.col("rung").max().over("contender")))
    table = Table(title="The search: best configuration of each contender, by tuning users", title_justify="left")
    for heading in ("contender", "family", "tried", "reward", "of the defaults", "configuration"):
        table.add_column(heading, justify="right" if heading in ("tried", "reward", "of the defaults") else "left")
    for row in best.sort("reward", descending=True, maintain_order=True).iter_rows(named=True):
        own = trials.filter((pl.col("contender") == row["contender"]) & (pl.col("configuration") == 0))
        plain = own.sort("rung").row(-1, named=True)
        last = plain["rung"] == row["rung"]
        table.add_row(
            row["contender"],
            _MARKS[row["family"]],
            str(trials.filter((pl.col("contender") == row["contender"]) & (pl.col("rung") == 0)).height),
            f"{row['reward']:.3f}",
            f"{plain['reward']:.3f}" if last else f"out in rung {plain['rung'] + 1}",
            row["settings"],
        )
    return table


def _costs_table(costs: pl.DataFrame, minutes: Mapping[str, float]) -> Table:
    table = Table(title="What each contender had", title_justify="left", caption_justify="left")
    searched, final = ("trials", "events allowed", "used", "CPU min"), ("trainings in finals", "events", "CPU min")
    headings = (*searched, *final, "rankers' CPU min", "stopped")
    for heading in ("contender", "family", *headings):
        table.add_column(heading, justify="left" if heading in ("contender", "family") else "right")
    for row in costs.iter_rows(named=True):
        table.add_row(
            row["contender"],
            _MARKS[row["family"]],
            str(row["trials"]),
            f"{row['search_budget']:,}",
            f"{row['search_events']:,}",
            f"{row['search_minutes']:.1f}",
            str(row["trainings"]),
            f"{row['final_events']:,}",
            f"{row['final_minutes']:.1f}",
            f"{row['prepared_minutes']:.1f}",
            str(row["stopped"] or ""),
        )
    table.caption = (
        "Rankers that a contender builds on, fitted and taught, count in full for each who does. Made once for all were fits of "
        f"rankers in {minutes['rankers']:.1f} minutes of CPU, events in {minutes['events']:.1f}, rankers' lessons in "
        f"{minutes['taught']:.1f}. Pipelines that learn from the log alone use no events. Stopped: trainings whose losses were "
        "no longer finite, judged by what they had learnt."
    )
    return table


def _world_table(world: str, summary: pl.DataFrame) -> Table:
    own = summary.filter(pl.col("versus").is_null())
    metric = "normalised_reward" if "normalised_reward" in own["metric"] else "reward"
    users, seeds = own["num_users"].to_numpy().max(), own["num_seeds"].to_numpy().max()
    trainings = f"{seeds} trainings" if seeds > 1 else "one training, which says nothing of what another would give"
    table = Table(
        title=f"World {world}: {users} fresh users, {trainings}", title_justify="left", caption_justify="left"
    )
    scaled = "reward, normalised" if metric == "normalised_reward" else "reward"
    table.add_column("policy", no_wrap=True)
    for heading in (scaled, "engagement", "diversity", "freshness", "visits", "day-7 return"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    order = own.filter(pl.col("metric") == metric).sort("value", descending=True, maintain_order=True)
    for agent, role in order.select("agent", "role").iter_rows():
        rows = {row["metric"]: row for row in own.filter(pl.col("agent") == agent).iter_rows(named=True)}
        table.add_row(
            agent,
            *[_interval(rows[name], 3 if name == "normalised_reward" else 2) for name in (metric, "engagement")],
            *[_interval(rows[name], 2) for name in ("diversity", "freshness", "visits", "day_7_return")],
            _MARKS.get(role, "") + (", best" if rows[metric]["is_best"] else ""),
        )
    if metric == "normalised_reward":
        table.caption = "Reward: 0 = random, 1 = look-ahead oracle, of the means. ± 95 % intervals."
    return table


def _margins_table(found: Verdict) -> Table:
    table = Table(
        title="The verdict: reward per user of the best RL agent minus that of others",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("world", "RL", "minus", "difference", "95 % interval", "verdict"):
        table.add_column(heading, justify="right" if heading in ("difference", "95 % interval") else "left")
    seeds = int(found.summary["num_seeds"].to_numpy().max())
    for row in found.margins.iter_rows(named=True):
        table.add_row(
            row["world"],
            row["rl"],
            f"{row['other']} ({_MARKS[row['other_family']]})",
            f"{row['value']:+.3f}",
            f"({row['low']:+.3f}, {row['high']:+.3f})",
            _told(row, seeds),
        )
    told = [
        f"{row['world']}: {row['value']:.2f} ({row['low']:.2f}, {row['high']:.2f}) over {row['baseline']}"
        for row in found.improvement.iter_rows(named=True)
    ]
    table.caption = "Probability of improvement over the better of supervised and constant: " + "; ".join(told) + "."
    return table


def _told(row: Mapping[str, Any], seeds: int) -> str:
    if row["low"] <= 0 <= row["high"]:
        return "not told apart"
    return f"RL is {'better' if row['low'] > 0 else 'worse'}" + ("" if seeds > 1 else " in this one training")


def _points_table(points: pl.DataFrame) -> Table:
    table = Table(title="The trade-off: what each gives per user under other rewards", title_justify="left")
    for heading in (
        "contender",
        "weight of diversity",
        "of freshness",
        "engagement",
        "diversity",
        "fresh items",
        "Pareto front",
    ):
        table.add_column(heading, justify="left" if heading in ("contender", "Pareto front") else "right")
    for row in points.iter_rows(named=True):
        given = [
            _interval({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}, 2)
            for name in ("engagement", "diversity", "freshness")
        ]
        weights = (f"{row['diversity_weight']:g}", f"{row['freshness_weight']:g}")
        table.add_row(row["contender"], *weights, *given, "yes" if row["on_front"] else "")
    return table


def _volumes_table(volumes: pl.DataFrame) -> Table:
    table = Table("contender", "family", title="Hypervolume: what a contender's policies cover", title_justify="left")
    table.caption_justify = "left"
    table.caption = (
        "Items consumed × summed diversity, and × fresh items, per user, above nothing consumed; ± 95 % intervals."
    )
    for objective in volumes["objective"].unique(maintain_order=True):
        table.add_column(f"engagement and {objective}", justify="right")
    for (name, family), own in volumes.group_by("contender", "family", maintain_order=True):
        table.add_row(str(name), _MARKS[str(family)], *[_interval(row, 2) for row in own.iter_rows(named=True)])
    return table


def _interval(row: Mapping[str, Any], decimals: int) -> str:
    """The value and half the width of its 95 % interval."""
    value, low, high = (row[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    told = f"{value:.{decimals}f}"
    known = low is not None and high is not None and isfinite(low) and isfinite(high)
    return f"{told} ± {(high - low) / 2:.{decimals}f}" if known and high > low else told
