"""How much a conclusion rests on what is assumed: 'policy A beats policy B' under every assumed parameter's plausible range.

One assumption at a time is moved to either end of its range, the others stay; the world is made anew, so that the outside option
still gives the popularity policy its click rate. The agents stay as fitted: they learn from the log alone. An agent that learns
from simulated traffic is trained once, in the world of the defaults, so what changes is its users, not its training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from agents.base import Agent
from envs.candidate_source import CandidateSource
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.users.protocol import UserModel
from envs.world import WorldConfig, build_world
from evaluation.comparison import ComparisonConfig, serve
from evaluation.runs import Run
from evaluation.statistics import Estimate, paired_difference

DEFAULTS = "defaults"


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """An assumed parameter with the range in which it plausibly lies."""

    name: str
    holder: str
    """What has it: 'world' (its configuration), or the field of the user model: 'visits', 'choice', 'params'."""
    low: float
    high: float
    reason: str
    """Why the range is plausible."""

    def applied(self, value: float, model: UserModel, config: WorldConfig) -> tuple[UserModel, WorldConfig] | None:
        """Model and configuration with `value` for the parameter; None where the user model has no such parameter."""
        if self.holder == "world":
            return model, replace(config, **{self.name: value})  # type: ignore[arg-type]
        changed = _with_value(model, self.holder, self.name, value)
        return None if changed is None else (changed, config)


ASSUMPTIONS = (
    Assumption(
        name="popular_click_rate",
        holder="world",
        low=0.05,
        high=0.5,
        reason="click rates of lists of ten lie between a few and some fifty per cent",
    ),
    Assumption(
        name="leave_miss",
        holder="visits",
        low=-4.5,
        high=-1.5,
        reason="1 to 18 % leave after one slate without a click",
    ),
    Assumption(name="impatience", holder="visits", low=0.0, high=0.5, reason="no impatience, or e-fold in two misses"),
    Assumption(name="leave_satisfaction", holder="visits", low=-1.5, high=0.0, reason="from no effect to a strong one"),
    Assumption(name="return_satisfaction", holder="visits", low=0.0, high=1.5, reason="from no effect to a strong one"),
    Assumption(name="gap_satisfaction", holder="visits", low=-0.6, high=0.0, reason="from no effect to a strong one"),
    Assumption(
        name="satisfaction_decay", holder="visits", low=0.5, high=0.95, reason="a memory of two to twenty requests"
    ),
    Assumption(
        name="position_slope", holder="choice", low=0.0, high=2.0, reason="no position effect, or twice that of DCG"
    ),
    Assumption(
        name="walk_sd", holder="params", low=0.0, high=0.06, reason="interests stand still, or turn within a year"
    ),
)


def _with_value(model: Any, holder: str, name: str, value: float) -> Any | None:
    """The user model with a parameter replaced, also where it lies in the model that this one is built on."""
    if not is_dataclass(model) or isinstance(model, type):
        return None
    names = {field.name for field in fields(model)}
    if holder in names:
        return replace(model, **{holder: replace(getattr(model, holder), **{name: value})})
    if "base" in names:
        base = _with_value(model.base, holder, name, value)  # type: ignore[attr-defined]
        return None if base is None else replace(model, base=base)
    return None


def parsed_pairs(text: str) -> list[tuple[str, str]]:
    """'mf:popular,mmr:mf' as pairs (A, B).

    Raises:
        ConfigurationError: if it is not of that form.
    """
    pairs = [tuple(part.strip().split(":")) for part in text.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 or not all(pair) or pair[0] == pair[1] for pair in pairs):
        raise ConfigurationError(f"--pairs is '{text}'; give pairs of agents like mf:popular,mmr:mf.")
    return [(pair[0], pair[1]) for pair in pairs]


def sensitivity_table(
    agents: Mapping[str, Agent],
    pairs: Sequence[tuple[str, str]],
    log: InteractionLog,
    model: UserModel,
    config: WorldConfig,
    candidate_source: CandidateSource,
    comparison: ComparisonConfig,
    run: Run,
    report: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Paired differences in reward under the defaults and at both ends of each assumption's range.

    Args:
        agents: fitted agents by name.
        pairs: (A, B) whose difference A minus B is looked at.
        log: the log.
        model: the user model fitted to it.
        config: the world of the defaults.
        candidate_source: the fitted recall stage.
        comparison: whom the agents serve.
        run: keeps the lives under each value, as tables 'sensitivity/...', so that an interrupted run goes on.
        report: is told how many worlds are done.

    Returns:
        One row for each pair, assumption and value: first, second, assumption, value (null under the defaults), difference,
        low, high (95 %, paired over users), conclusion, changed (whether it is another one than under the defaults), reason.
    """
    worlds: list[tuple[str, float | None, str, tuple[UserModel, WorldConfig]]] = [
        (DEFAULTS, None, "all parameters as they are", (model, config))
    ]
    for assumption in ASSUMPTIONS:
        for end in (assumption.low, assumption.high):
            changed = assumption.applied(end, model, config)
            if changed is not None:
                worlds.append((assumption.name, end, assumption.reason, changed))
    rows: list[dict[str, Any]] = []
    for done, (name, value, reason, (user_model, world_config)) in enumerate(worlds, start=1):
        kept = f"sensitivity/{name}" + ("" if value is None else f"_{value:g}")
        if not run.has_table(kept):
            world = build_world(log, user_model, world_config, progress=False)
            lives = [
                serve(agent, world, candidate_source, comparison, name=agent_name).users
                for agent_name, agent in agents.items()
            ]
            run.write_table(kept, pl.concat(lives))
        rewards = {
            str(agent): part.sort("user")["reward"].to_numpy()
            for (agent,), part in run.table(kept).group_by("agent", maintain_order=True)
        }
        for first, second in pairs:
            estimate = paired_difference(rewards[first], rewards[second])
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "assumption": name,
                    "value": value,
                    "difference": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "conclusion": conclusion(estimate, first, second),
                    "reason": reason,
                }
            )
        report(done)
    table = pl.DataFrame(rows, infer_schema_length=None)
    own = table.filter(pl.col("assumption") == DEFAULTS).select("first", "second", default=pl.col("conclusion"))
    return (
        table.join(own, on=["first", "second"], how="left", maintain_order="left")
        .with_columns(changed=pl.col("conclusion") != pl.col("default"))
        .drop("default")
    )


def conclusion(estimate: Estimate, first: str, second: str) -> str:
    """Which of the two is better, or 'undecided' where the interval has zero in it."""
    if estimate.low > 0:
        return f"{first} is better"
    return f"{second} is better" if estimate.high < 0 else "undecided"


def sensitivity_report(table: pl.DataFrame) -> Table:
    """For the terminal: one row for each assumption and value, a column for each pair.

    Args:
        table: as `sensitivity_table` makes it.
    """
    pairs = list(table.select("first", "second").unique(maintain_order=True).iter_rows())
    shown = Table(title="Difference in reward under each assumption, ± 95 % intervals over users", title_justify="left")
    shown.caption = "A star: the conclusion (which is better, or undecided) is another one than under the defaults."
    shown.caption_justify = "left"
    shown.add_column("assumption", no_wrap=True)
    shown.add_column("value", justify="right")
    for first, second in pairs:
        shown.add_column(f"{first} minus {second}", justify="right", no_wrap=True)
    shown.add_column("range, because", overflow="fold")
    for (name, value), rows in table.group_by("assumption", "value", maintain_order=True):
        of = {(row["first"], row["second"]): row for row in rows.iter_rows(named=True)}
        cells = [
            f"{of[pair]['difference']:+.2f} ± {(of[pair]['high'] - of[pair]['low']) / 2:.2f}"
            + (" *" if of[pair]["changed"] else "")
            for pair in pairs
        ]
        shown.add_row(str(name), "" if value is None else f"{value:g}", *cells, rows["reason"][0])
    return shown


def sensitivity_figures(table: pl.DataFrame) -> dict[str, float | int]:
    """For each pair: the difference under the defaults, the least and the most over all assumptions, and in how many of the
    other worlds the conclusion is another one."""
    figures: dict[str, float | int] = {}
    for (first, second), rows in table.group_by("first", "second", maintain_order=True):
        name = f"reward_{first}_minus_{second}"
        own = rows.filter(pl.col("assumption") == DEFAULTS).row(0, named=True)
        figures |= {name: own["difference"], f"{name}_low": own["low"], f"{name}_high": own["high"]}
        figures[f"{name}_least"] = float(np.min(rows["difference"].to_numpy()))
        figures[f"{name}_most"] = float(np.max(rows["difference"].to_numpy()))
        figures[f"conclusions_changed_{first}_minus_{second}"] = int(rows["changed"].sum())
    figures["worlds"] = table.select("assumption", "value").unique().height
    return figures
