"""Tables for the terminal, made by rich from tidy tables, and flat figures as plain lines."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, TextIO

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from envs.users.ablation import AblationRow
from evaluation.summary import RETURN_DAYS, initial_name, num_users_and_seeds

PLAIN_WIDTH = 120
"""Columns of a table where there is no terminal."""

_MARKS = {"oracle": "oracle", "initial": "before training"}


def make_console(file: TextIO | None = None) -> Console:
    """A console of the terminal's width, or of `PLAIN_WIDTH` columns without colours where there is none."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=PLAIN_WIDTH)


def comparison_table(summary: pl.DataFrame, reference: str = "mf") -> Table:
    """One row for each agent: figures with 95 % intervals, the best reward first, policies before training below theirs.

    Reward is normalised (0 = random, 1 = look-ahead oracle) where the summary has it, else raw. The last column of
    figures is the paired difference in reward to the reference agent, in the reward's raw unit.

    Args:
        summary: as `evaluation.summary.summarise` makes it.
        reference: the agent of the paired differences; the column is left out where there is none.
    """
    users, seeds = num_users_and_seeds(summary)
    scaled = "normalised_reward" in summary["metric"]
    paired = summary.filter((pl.col("metric") == "reward") & (pl.col("versus") == reference))
    table = Table(title=f"Comparison on the same {users} users, ± 95 % intervals", title_justify="left")
    table.caption = _caption(scaled, bool(len(paired)), seeds, reference)
    table.caption_justify = "left"
    table.add_column("agent", no_wrap=True)
    decimals = {
        "normalised_reward" if scaled else "reward": 3 if scaled else 2,
        "engagement": 2,
        "diversity": 3,
        "freshness": 3,
    }
    headings = ("engagement", "diversity", "freshness", "return")
    for heading in ("reward, normalised" if scaled else "reward", *headings):
        table.add_column(heading, justify="right")
    if len(paired):
        table.add_column(f"reward minus {reference}", justify="right")
    table.add_column("", no_wrap=True)
    for agent in _ordered(summary):
        rows = summary.filter(pl.col("agent") == agent)
        own = {row["metric"]: row for row in rows.filter(pl.col("versus").is_null()).iter_rows(named=True)}
        cells = [with_margin(own.get(metric), places) for metric, places in decimals.items()]
        cells.append(" ".join(_alone(own.get(f"day_{days}_return")) for days in RETURN_DAYS))
        if len(paired):
            difference = (
                paired.filter(pl.col("agent") == agent).row(0, named=True) if agent in paired["agent"] else None
            )
            cells.append(with_margin(difference, 2, sign=True))
        role, untrained = rows["role"][0], bool(rows["untrained"][0])
        style = "bold" if untrained else "dim" if role in ("oracle", "initial") else ""
        table.add_row(agent, *cells, "UNTRAINED" if untrained else _MARKS.get(role, ""), style=style)
    return table


def changed_sentence(changed: pl.DataFrame, num_user_models: int) -> str:
    """What the fitted parameters' uncertainty does to the conclusions.

    Args:
        changed: as `evaluation.summary.changed_conclusions` makes it.
        num_user_models: user models of drawn users that the intervals hold.
    """
    told = (
        f"Intervals hold the fitted parameters' uncertainty: {num_user_models} user models, each fitted to users drawn with "
        "replacement. "
    )
    if not len(changed):
        return told + "No paired difference in reward is decided otherwise for it."
    each = [
        f"{row['agent']} minus {row['versus']} ({row['low']:.2f} to {row['high']:.2f} without it, "
        f"{row['low_after']:.2f} to {row['high_after']:.2f} with it)"
        for row in changed.iter_rows(named=True)
    ]
    return told + "Decided otherwise for it: " + ", ".join(each) + "."


def _caption(scaled: bool, paired: bool, seeds: int, reference: str) -> str:
    told = [
        "Engagement: items consumed per user. Diversity and freshness: of what was consumed, per item. "
        "Return: shares of users who are back within a day and a week of their first visit."
    ]
    if scaled:
        told.append("Reward: 0 = random, 1 = look-ahead oracle.")
    else:
        told.append("Reward is raw: random or look-ahead oracle is missing, or their gap is within noise.")
    if paired:
        told.append(f"Minus {reference}: paired on users, in weighted clicks.")
    told.append("UNTRAINED: not above its own policy before training. Oracles see the hidden state.")
    if seeds == 1:
        told.append("A single training seed: the intervals do not say what another training would give.")
    else:
        told.append(f"Intervals are over users and {seeds} training seeds.")
    return " ".join(told)


def _ordered(summary: pl.DataFrame) -> list[str]:
    """Agents by reward, the best first; the policy before training follows its agent."""
    rewards = summary.filter((pl.col("metric") == "reward") & pl.col("versus").is_null())
    ranked = rewards.sort("value", descending=True, nulls_last=True, maintain_order=True)["agent"].to_list()
    beginnings = {initial_name(agent) for agent in ranked}
    ordered = []
    for agent in ranked:
        if agent not in beginnings:
            ordered += [agent, *([initial_name(agent)] if initial_name(agent) in ranked else [])]
    return ordered


def _alone(row: Mapping[str, Any] | None) -> str:
    """'.47' for a share; a dash where there is no figure."""
    if row is None or row["value"] is None or not isfinite(row["value"]):
        return "–"
    return f"{row['value']:.2f}".removeprefix("0")


def with_margin(row: Mapping[str, Any] | None, decimals: int, sign: bool = False) -> str:
    """'0.47 ± 0.04'; a dash where there is no figure."""
    if row is None or row["value"] is None or not isfinite(row["value"]):
        return "–"
    plus = "+" if sign else ""
    if row["low"] is None or not isfinite(row["low"]):
        return f"{row['value']:{plus}.{decimals}f}"
    return f"{row['value']:{plus}.{decimals}f} ± {(row['high'] - row['low']) / 2:.{decimals}f}"


def parameter_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The user model's parameters, fitted and assumed.

    Args:
        rows: name, symbol, value, low, high (None where there is no interval), source, note; as `InterestModel.table`.
    """
    table = Table(title="Parameters of the user model", title_justify="left")
    for heading in ("parameter", "symbol"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True)
    table.add_column("note", overflow="fold")
    rows = list(rows)
    remarks = _shared_remarks([str(row.get("note") or "") for row in rows])
    table.caption = Text("\n".join(f"({letter}) {remark}" for remark, letter in remarks.items()))
    table.caption_justify = "left"
    for row in rows:
        known = row.get("low") is not None and row.get("high") is not None
        interval = f"{_number(row['low'])} to {_number(row['high'])}" if known else ""
        cells = [str(row["name"]), str(row.get("symbol") or ""), _number(row.get("value")), interval]
        parts = [part.strip() for part in str(row.get("note") or "").split(";")]
        shared = "".join(f" ({remarks[part]})" for part in parts if part in remarks)
        cells += [str(row.get("source") or ""), "; ".join(part for part in parts if part not in remarks) + shared]
        cells[-1] = cells[-1].strip()
        # Text, because a note may hold square brackets, which rich would read as markup
        table.add_row(*[Text(cell) for cell in cells], style="" if row.get("source") == "fitted" else "dim")
    return table


def _shared_remarks(notes: Iterable[str]) -> dict[str, str]:
    """Parts of notes (between semicolons) that three rows or more share -> the letter that stands for each."""
    counts = Counter(part.strip() for note in notes for part in set(note.split(";")) if part.strip())
    shared = [part for part, count in counts.items() if count >= 3]
    return dict(zip(shared, "abcdefghijklmnopqrstuvwxyz", strict=False))


def likelihood_table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Test log-likelihoods of several user models, in nats per event (less is better).

    Args:
        reports: name of a model -> masked, masked_half_width, unmasked, unmasked_half_width, test_events, fit_seconds, as
            in `InterestModel.fit_report`; what is missing is left blank. 'Masked' leaves out items consumed before.
    """
    table = Table(title="Negative test log-likelihood, nats per event", title_justify="left")
    table.add_column("user model", no_wrap=True)
    for heading in ("masked", "unmasked", "test events", "seconds"):
        table.add_column(heading, justify="right")
    for name, report in reports.items():
        cells = []
        for figure in ("masked", "unmasked"):
            half = report.get(f"{figure}_half_width")
            value = report.get(figure)
            cells.append("" if value is None else f"{value:.3f}" + ("" if half is None else f" ± {half:.3f}"))
        events, seconds = report.get("test_events"), report.get("fit_seconds")
        cells += ["" if events is None else f"{events:,}", "" if seconds is None else f"{seconds:.1f}"]
        table.add_row(name, *cells)
    return table


def ablation_table(rows: Iterable[AblationRow]) -> Table:
    """What each term of the user model buys on held-out events, in nats per event."""
    table = Table(
        title="What each term buys: nats per test event, masked, events clustered by user", title_justify="left"
    )
    for heading in ("without", "order of events"):
        table.add_column(heading, no_wrap=True)
    for heading in ("log-likelihood", "buys", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("so the term", overflow="fold")
    for row in rows:
        table.add_row(
            row.term,
            "shuffled in visits" if row.shuffled else "as logged",
            f"{row.nll:.3f} ± {row.nll_half_width:.3f}",
            f"{row.gain:+.3f}",
            f"{row.gain_low:+.3f} to {row.gain_high:+.3f}",
            row.verdict,
        )
    return table


def print_figures(figures: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Flat figures as `name: value`, one a line, bare numbers: for scripts, and so printed last."""
    for name, value in figures.items():
        print(f"{name}: {_bare(value)}", file=file or sys.stdout)


def _bare(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float | int) else str(value)
