"""The study of update policies from end to end, and the tables that all of it is told by.

Tables: updates_decay, updates_losses, updates_tuning, updates (days of all judged episodes), updates_points, updates_summary,
updates_margins, updates_importance, updates_learning, updates_budget, updates_monitoring, updates_pipelines.
"""

from dataclasses import dataclass
from math import nan
from typing import Any

import polars as pl

from agents.updates.decay import Decay
from agents.updates.policies.loading import resolve_update_policy
from evaluation.updates.arena import UpdateArena, table_of
from evaluation.updates.stages import (
    CONTROL,
    STEADY,
    STUDY,
    chosen_learner,
    decay_jobs,
    decay_seeds,
    decaying,
    hindsight_jobs,
    importance_jobs,
    judged,
    judging_jobs,
    pipeline_jobs,
    teaching_jobs,
    tuned,
    tuning_jobs,
    unmet_jobs,
    unmet_scenarios,
    watching_jobs,
)
from evaluation.updates.summary import HINDSIGHT, RULE, margins_table, points_table, summary_table
from evaluation.verdict.jobs import Workshop

__all__ = ["STUDY", "UpdateStudy", "study_updates"]

_LOSSES = ("loss", "low", "high", "beyond", "beyond_low", "beyond_high")
SPREADSHEETS = ("decay", "summary", "margins", "budget", "monitoring", "pipelines")
"""Tables that are written as CSV, too."""


@dataclass(frozen=True)
class UpdateStudy:
    """What was found, as tidy tables."""

    decay: pl.DataFrame
    """scenario, model, day, metric, value, low, high."""
    losses: pl.DataFrame
    """scenario, model, loss, low, high, seeds: `decay_30_days`; beyond, beyond_low, beyond_high: that minus the loss in the control
    `returning`, paired on seeds, null where that was not measured, and of the controls."""
    tuning: pl.DataFrame
    """scenario, family, learnt, configuration, label, market, seed, engagement, cost, reward, worth, chosen, episodes, seconds."""
    days: pl.DataFrame
    """scenario, role and what `run_update_study` returns, of all entrants and hindsight."""
    points: pl.DataFrame
    """As `points_table` returns it."""
    summary: pl.DataFrame
    """As `summary_table` returns it, with chosen."""
    margins: pl.DataFrame
    """As `margins_table` returns it, with trained_on: '' where that is the scenario itself, else the other scenarios."""
    importance: pl.DataFrame
    """scenario, policy and what `importance` returns."""
    learning: pl.DataFrame
    """scenario, agent, training_seed, requests (periods), reward (of a period, beyond that of the habit)."""
    budget: pl.DataFrame
    """policy, stage, episodes, minutes; null where they were not measured, or there are no episodes."""
    monitoring: pl.DataFrame
    """scenario, policy and columns of `agents.events.statistics.STATISTICS`, of the first judged world under the chosen rule."""
    pipelines: pl.DataFrame
    """ranker and the columns of `summary_table`, of the chosen policies on pipelines with other rankers; empty without."""


def study_updates(workshop: Workshop, arena: UpdateArena) -> UpdateStudy:
    """Measures decay, tunes and trains, chooses, judges, looks back, and writes everything; what the run has is not done again."""
    workshop.do("decay", decay_jobs(arena))
    workshop.do("tuning and training", tuning_jobs(arena))
    workshop.do("judging", judging_jobs(arena))
    workshop.do("hindsight", hindsight_jobs(arena))
    workshop.do("what monitoring shows", watching_jobs(arena))
    workshop.do("what policies look at", importance_jobs(arena))
    workshop.do("training on other scenarios", teaching_jobs(arena))
    workshop.do("judging where they never were", unmet_jobs(arena))
    workshop.do("pipelines of other rankers", pipeline_jobs(arena))
    run, names = arena.run, list(arena.specs)
    chosen = {name: chosen_learner(arena, name) for name in names}
    looked_back = arena.tables(*[job.table for job in hindsight_jobs(arena)])
    days = pl.concat([*[judged(arena, name) for name in names], looked_back.drop("replays", "search_seconds")])
    days = days.sort(
        pl.col("scenario").replace_strict(dict(zip(names, range(len(names)), strict=True))), maintain_order=True
    )
    decay, losses = _decay(arena)
    found = UpdateStudy(
        decay=decay,
        losses=losses,
        tuning=pl.concat([tuned(arena, name) for name in names]),
        days=days,
        points=points_table(days),
        summary=summary_table(days).with_columns(
            chosen=pl.col("policy") == pl.col("scenario").replace_strict(chosen, return_dtype=pl.String)
        ),
        margins=_margins(arena, days, chosen),
        importance=arena.tables(*[job.table for job in importance_jobs(arena)]),
        learning=_learning(arena),
        budget=_budget(arena, days, looked_back),
        monitoring=arena.tables(*[job.table for job in watching_jobs(arena)]),
        pipelines=_pipelines(arena),
    )
    for name, table in vars(found).items():
        if table.width:
            run.write_table("updates" if name == "days" else f"updates_{name}", table)
            if name in SPREADSHEETS:
                run.write_csv(f"updates_{name}", table)
    return found


def _decay(arena: UpdateArena) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(curves, losses) of every scenario and model."""
    curves, losses = [], []
    models = ("logistic", *arena.config.rankers)
    measured = {(name, model): _decay_of(arena, name, model) for name in decaying(arena) for model in models}
    for (name, model), found in measured.items():
        keys = [pl.lit(name).alias("scenario"), pl.lit(model).alias("model")]
        curves.append(found.summary().select(*keys, pl.all()))
        control = None if name in (CONTROL, STEADY) else measured.get((CONTROL, model))
        ends = (*found.loss(), *((nan, nan, nan) if control is None else _beyond(found, control)))
        told = dict(zip(_LOSSES, (None if value != value else value for value in ends), strict=True))
        losses.append({"scenario": name, "model": model, **told, "seeds": len(found.losses)})
    return pl.concat(curves), pl.DataFrame(losses, schema_overrides=dict.fromkeys(_LOSSES, pl.Float64))


def _decay_of(arena: UpdateArena, name: str, model: str) -> Decay:
    tables = [table_of("decay", name, model, seed) for seed in decay_seeds(arena, model)]
    return Decay(arena.tables(*[f"{table}_curves" for table in tables]), arena.tables(*tables))


def _beyond(found: Decay, control: Decay) -> tuple[float, float, float]:
    """What is lost beyond the control, with its interval, seed by seed: the same users were drawn."""
    both = found.losses.join(control.losses, on="seed", suffix="_control", maintain_order="left")
    error = (pl.col("error") ** 2 + pl.col("error_control") ** 2).sqrt().alias("error")
    return Decay(found.curves, both.select("seed", pl.col("loss") - pl.col("loss_control"), error)).loss()


def _margins(arena: UpdateArena, days: pl.DataFrame, chosen: dict[str, str]) -> pl.DataFrame:
    """RL minus the rules' front: of the chosen policies, and of those that never met the scenario."""
    tables = [margins_table(days, chosen).with_columns(trained_on=pl.lit(""))]
    for name in unmet_scenarios(arena):
        own = arena.tables(*[table_of("unmet", name, seed) for seed in arena.config.judged_seeds])
        rules = days.filter((pl.col("scenario") == name) & (pl.col("role") == RULE))
        others = ", ".join(other for other in arena.specs if other != name)
        table = margins_table(pl.concat([rules, own]), {name: own["policy"][0]})
        tables.append(table.with_columns(trained_on=pl.lit(others)))
    return pl.concat(tables)


def _learning(arena: UpdateArena) -> pl.DataFrame:
    curves = []
    for name in arena.specs:
        for family in arena.config.families:
            table = f"{table_of('tuned', name, family)}_curve"
            if arena.run.has_table(table):
                keys = [pl.lit(name).alias("scenario"), pl.lit(family).alias("agent")]
                seed = pl.lit(arena.config.seed).alias("training_seed")
                curves.append(arena.run.table(table).select(*keys, seed, pl.all()))
    return pl.concat(curves)


def _budget(arena: UpdateArena, days: pl.DataFrame, looked_back: pl.DataFrame) -> pl.DataFrame:
    """Episodes and minutes of one core, all scenarios together; null where they were not measured, or there are no episodes."""
    rows: list[dict[str, Any]] = []

    def add(policy: object, stage: str, episodes: int | None, seconds: float | None) -> None:
        minutes = None if seconds is None else seconds / 60
        rows.append({"policy": str(policy), "stage": stage, "episodes": episodes, "minutes": minutes})

    def add_tuned(stage: str, tables: list[str]) -> None:
        for (family,), own in arena.tables(*tables).group_by("family", maintain_order=True):
            spent = own.select("scenario", "episodes", "seconds").unique()
            name = resolve_update_policy(str(family)).name if family in arena.config.own else family
            add(name, stage, int(spent["episodes"].sum()), float(spent["seconds"].sum()))

    def add_played(stage: str, played: pl.DataFrame) -> None:
        for (policy,), own in played.group_by("policy", maintain_order=True):
            seconds = float((own["seconds"] + own["serve_seconds"]).sum())
            add(policy, stage, own.select("scenario", "seed").n_unique(), seconds)

    for (model,), own in arena.tables(*[job.table for job in decay_jobs(arena)]).group_by("model", maintain_order=True):
        # runs that began before these were measured have none
        measured = "seconds" in own.columns and not own["seconds"].has_nulls()
        add(f"frozen, {model}", "decay", len(own), float(own["seconds"].sum()) if measured else None)
    add_tuned("tuning or training", [job.table for job in tuning_jobs(arena)])
    if unmet_scenarios(arena):
        add_tuned("training on other scenarios", [job.table for job in teaching_jobs(arena)])
    add_played("judging", days.filter(pl.col("policy") != HINDSIGHT))
    if unmet := [job.table for job in unmet_jobs(arena)]:
        add_played("judging where it never was", arena.tables(*unmet))
    if pipelines := [job.table for job in pipeline_jobs(arena)]:
        for (ranker,), own in arena.tables(*pipelines).group_by("ranker", maintain_order=True):
            add_played(f"pipeline of {ranker}", own)
    add("chosen rules", "monitoring", len(arena.specs), None)
    replayed = looked_back.select("scenario", "seed", "replays", "search_seconds").unique()
    add(HINDSIGHT, "replays", int(replayed["replays"].sum()), float(replayed["search_seconds"].sum()))
    made = arena.makings()
    add("all", f"making of {len(made)} markets", None, sum(made) if made else None)
    return pl.DataFrame(rows, schema_overrides={"episodes": pl.Int64, "minutes": pl.Float64})


def _pipelines(arena: UpdateArena) -> pl.DataFrame:
    tables = [job.table for job in pipeline_jobs(arena)]
    if not tables:
        return pl.DataFrame()
    days = arena.tables(*tables)
    rankers = days["ranker"].unique(maintain_order=True)
    of_ranker = {ranker: days.filter(pl.col("ranker") == ranker).drop("ranker") for ranker in rankers}
    return pl.concat(
        [summary_table(own).select(pl.lit(ranker).alias("ranker"), pl.all()) for ranker, own in of_ranker.items()]
    )
