"""The study of update policies as tables for the terminal and as flat figures."""

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl
from rich.table import Table

from evaluation.report import with_margin
from evaluation.updates.stages import AGEING, CONTROL, STEADY
from evaluation.updates.study import UpdateStudy
from evaluation.updates.summary import HINDSIGHT, NEVER, NORMALISED, OWN, RL, alike

_MARKS = {RL: "RL", OWN: "own"}
STEADY_WITHIN = 0.02
"""Within what the loss of fresh users must lie with its interval."""
AS_IT_SHOULD = "as it should"
TOP_FIELDS = 4
"""Fields of the observation that the table of importance names for each scenario."""


def policies_table(
    summary: pl.DataFrame,
    chosen: Collection[str] = (),
    alike: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Table:
    """Update policies of one scenario with 95 % intervals, best reward first.

    Args:
        summary: as `evaluation.updates.summary.summary_table` makes it, of one scenario.
        chosen: those that stand for their side, chosen on tuning seeds.
        alike: learnt policy -> rule that does the same.
        title: what is said above; by default the scenario.
    """
    alike, untrained = alike or {}, untrained_policies(summary)
    seeds = summary["seeds"].drop_nulls().to_numpy().max()
    scaled = NORMALISED in summary["metric"]
    table = Table(title=f"{title or summary['scenario'][0]}: means of a period, ± 95 % intervals over {seeds} seeds")
    table.title_justify = table.caption_justify = "left"
    told = "Engagement: clicks per visit. Reward: engagement minus cost. Minus never: reward, paired on seeds. "
    told += "Retrains and updates per episode; challengers count as retrains. "
    if scaled:
        told += f"Normalised: reward, 0 = {NEVER}, 1 = {HINDSIGHT}. "
    elif HINDSIGHT in summary["policy"]:
        told += f"Rewards are raw: {HINDSIGHT} is not above {NEVER} beyond the interval. "
    if untrained:
        told += "UNTRAINED: not above never, beyond the interval."
    table.caption = told.strip()
    table.add_column("policy")
    headings = ["normalised"] if scaled else []
    for heading in (*headings, "reward", "minus never", "engagement", "cost", "retrains\n+ updates"):
        table.add_column(heading, justify="right", no_wrap=True)
    rewards = summary.filter(pl.col("metric") == "reward").sort("value", descending=True, maintain_order=True)
    for policy, role in rewards.select("policy", "role").iter_rows():
        rows = {row["metric"]: row for row in summary.filter(pl.col("policy") == policy).iter_rows(named=True)}
        paired = {
            name: rows["reward"][f"difference{end}"]
            for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))
        }
        retrains = rows["retrains"]["value"] + rows["challenges"]["value"]
        marks = [_MARKS.get(role, ""), "chosen" if policy in chosen else "", "UNTRAINED" if policy in untrained else ""]
        marks.append(f"does as {alike[policy]}" if policy in alike else "")
        told = ", ".join(mark for mark in marks if mark)
        table.add_row(
            f"{policy}: {told}" if told else policy,
            *([with_margin(rows[NORMALISED], 2)] if scaled else []),
            f"{rows['reward']['value']:.4f}",
            with_margin(paired, 4, sign=True),
            with_margin(rows["engagement"], 4),
            f"{rows['cost']['value']:.4f}",
            f"{retrains:.1f} + {rows['updates']['value']:.1f}",
        )
    return table


def decay_table(losses: pl.DataFrame) -> Table:
    """What frozen models lose in a month, and whether that is what the scenario is made for.

    Args:
        losses: scenario, model, loss, low, high, beyond, beyond_low, beyond_high, seeds.
    """
    table = Table(title="Decay: loss of engagement in days 24 to 30 against days 1 to 7, never refreshed")
    table.title_justify = "left"
    for heading in ("scenario", "model", "loss, 95 % interval", f"beyond '{CONTROL}'", "worlds", "verdict"):
        table.add_column(heading, justify="left" if heading in ("scenario", "model", "verdict") else "right")
    for row in losses.iter_rows(named=True):
        told = [_percents(row, *names) for names in (("loss", "low", "high"), ("beyond", "beyond_low", "beyond_high"))]
        verdict = decay_verdict(row["scenario"], row["low"], row["high"], row["beyond_low"])
        table.add_row(row["scenario"], row["model"], *told, str(row["seeds"]), verdict)
    return table


def _percents(row: Mapping[str, Any], value: str, low: str, high: str) -> str:
    if row[value] is None:
        return ""
    return f"{row[value]:+.1%} " + ("(–)" if row[low] is None else f"({row[low]:+.1%}, {row[high]:+.1%})")


def decay_verdict(scenario: str, low: float | None, high: float | None, beyond_low: float | None) -> str:
    """Whether a scenario does to models what it is made for: `AS_IT_SHOULD`, or what is WRONG; nothing where nothing is demanded.

    Args:
        scenario: its name.
        low: end of the 95 % interval of the loss.
        high: the other end.
        beyond_low: lower end of what is lost beyond the control, where the same users come back and nothing else happens.
    """
    if scenario != STEADY and scenario not in AGEING:
        return ""
    if low is None or high is None:
        return "WRONG: no interval, one world or too few days"
    if scenario == STEADY:
        if low >= -STEADY_WITHIN and high <= STEADY_WITHIN:
            return AS_IT_SHOULD
        if high - low > 2 * STEADY_WITHIN:
            return f"WRONG: the interval is wider than ±{STEADY_WITHIN:.0%}; more visits or worlds are needed"
        return f"WRONG: the interval reaches beyond ±{STEADY_WITHIN:.0%}"
    if low <= 0:
        return "WRONG: models gain" if high < 0 else "WRONG: no decay beyond the interval"
    if beyond_low is None or beyond_low <= 0:
        return f"WRONG: no more than '{CONTROL}'"
    return AS_IT_SHOULD


def margins_report(table: pl.DataFrame) -> Table:
    """RL against the tuned rules' front.

    Args:
        table: as `margins_table` makes it, with trained_on.
    """
    found = Table(title="RL minus the tuned rules' front, at RL's cost: engagement, paired on seeds")
    found.title_justify = found.caption_justify = "left"
    for heading in ("scenario", "RL", "trained on", "difference", "95 % interval", "against", "verdict"):
        found.add_column(heading, justify="right" if heading in ("difference", "95 % interval") else "left")
    for row in table.iter_rows(named=True):
        known = row["low"] is not None
        found.add_row(
            row["scenario"],
            row["rl"],
            row["trained_on"] or "the same",
            f"{row['value']:+.4f}",
            f"({row['low']:+.4f}, {row['high']:+.4f})" if known else "–",
            row["against"],
            f"does as {row['alike']}" if row["alike"] else _verdict(row) if known else "one seed tells nothing",
        )
    return found


def _verdict(row: Mapping[str, Any]) -> str:
    if row["low"] <= 0 <= row["high"]:
        return "not told apart"
    return "RL is better" if row["low"] > 0 else "rules win"


def importance_report(table: pl.DataFrame) -> Table:
    """The fields that matter most to each learnt policy.

    Args:
        table: scenario, policy and the columns of `importance`.
    """
    found = Table(title="What learnt policies look at: share of decisions that change when a field is shuffled")
    found.title_justify = "left"
    for heading in ("scenario", "policy", "fields"):
        found.add_column(heading)
    for (scenario, policy), own in table.group_by("scenario", "policy", maintain_order=True):
        top = own.sort("changed", descending=True, maintain_order=True).head(TOP_FIELDS)
        told = [
            f"{name} {_share(changed)}" for name, changed in top.select("field", "changed").iter_rows() if changed > 0
        ]
        found.add_row(str(scenario), str(policy), ", ".join(told) or "nothing: it always does the same")
    return found


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.005 else "<1%"


def budget_report(table: pl.DataFrame) -> Table:
    """Episodes and minutes of each policy.

    Args:
        table: policy, stage, episodes, minutes; null where they were not measured, or there are no episodes.
    """
    found = Table(title="Episodes and minutes of one core, all scenarios together", title_justify="left")
    for heading in ("policy", "stage", "episodes", "minutes"):
        found.add_column(heading, justify="right" if heading in ("episodes", "minutes") else "left")
    for row in table.iter_rows(named=True):
        episodes, minutes = (row[name] is not None for name in ("episodes", "minutes"))
        told = f"{row['episodes']:,}" if episodes else "–", f"{row['minutes']:.1f}" if minutes else "–"
        found.add_row(row["policy"], row["stage"], *told)
    return found


def study_tables(found: UpdateStudy) -> list[Table]:
    """Decay, each scenario's policies, RL against the rules' front, what it looks at, other pipelines, and what all of it took."""
    tables = [decay_table(found.losses)]
    for (scenario,), own in found.summary.group_by("scenario", maintain_order=True):
        chosen = own.filter(pl.col("chosen"))["policy"].unique().to_list()
        same = alike(found.days.filter(pl.col("scenario") == scenario))
        tables.append(policies_table(own, chosen, same))
    if found.pipelines.width:
        for (ranker, _), own in found.pipelines.group_by("ranker", "scenario", maintain_order=True):
            tables.append(policies_table(own, title=f"{own['scenario'][0]}, ranker {ranker}"))
    return [*tables, margins_report(found.margins), importance_report(found.importance), budget_report(found.budget)]


def untrained_policies(summary: pl.DataFrame) -> list[str]:
    """Learnt policies of one scenario whose reward is not above that of `never`, beyond the interval."""
    rewards = summary.filter((pl.col("metric") == "reward") & (pl.col("role") == RL))
    return rewards.filter(~(pl.col("difference_low").fill_null(-1.0) > 0))["policy"].to_list()


def study_figures(found: UpdateStudy) -> dict[str, Any]:
    """Flat figures: for each scenario w `rl_minus_best_rule_w` (engagement), `rl_unmet_minus_best_rule_w` where a policy that never
    met w was judged there, `decay_30_days_w` (of other models than the default `decay_30_days_w_<model>`) and what of it is beyond
    that of `returning`, `decay_beyond_returning_w`, `rl_normalised_w` and `hindsight_minus_never_w` (reward), each with `_low` and
    `_high`."""
    margins, losses, summary = found.margins, found.losses, found.summary
    figures: dict[str, Any] = {}
    for row in margins.iter_rows(named=True):
        kind = "rl_unmet_minus_best_rule" if row["trained_on"] else "rl_minus_best_rule"
        figures |= _bounded(f"{kind}_{row['scenario']}", row["value"], row["low"], row["high"])
    for row in losses.iter_rows(named=True):
        behind = "" if row["model"] == losses["model"][0] else f"_{row['model']}"
        name = f"{row['scenario']}{behind}"
        figures |= _bounded(f"decay_30_days_{name}", row["loss"], row["low"], row["high"])
        if row["beyond"] is not None:
            ends = (row["beyond"], row["beyond_low"], row["beyond_high"])
            figures |= _bounded(f"decay_beyond_{CONTROL}_{name}", *ends)
    for row in margins.filter(pl.col("trained_on") == "").iter_rows(named=True):
        own = summary.filter(pl.col("scenario") == row["scenario"])
        rewards = own.filter((pl.col("metric") == NORMALISED) & (pl.col("policy") == row["rl"])).to_dicts()
        name = f"rl_normalised_{row['scenario']}"
        figures |= _bounded(name, *[rewards[0][end] if rewards else None for end in ("value", "low", "high")])
        best = own.filter((pl.col("metric") == "reward") & (pl.col("policy") == HINDSIGHT)).to_dicts()
        ends = ("difference", "difference_low", "difference_high")
        figures |= _bounded(
            f"hindsight_minus_never_{row['scenario']}", *[best[0][end] if best else None for end in ends]
        )
    return figures


def _bounded(name: str, value: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}
