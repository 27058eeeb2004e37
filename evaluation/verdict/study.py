"""A verdict from end to end: bounds, search, finals, trade-off; and the tables that all of it is told by.

Tables: verdict_bounds, verdict_trials, verdict_summary, verdict_margins, verdict_improvement, verdict_costs,
verdict_points, verdict_volumes, verdict_entropy, verdict_learning.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from evaluation.runs import Run
from evaluation.statistics import Measured
from evaluation.summary import summarise
from evaluation.verdict.arena import Arena
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.contenders import BANDIT, CONSTANT, FAMILIES, RL, SUPERVISED, Contender, contenders_of
from evaluation.verdict.finals import (
    MYOPIC,
    ONE,
    ZERO,
    Finalists,
    bound_table,
    chosen,
    exposures,
    final_plans,
    final_table,
    finals,
    fresh_lives,
    interests,
    learning,
)
from evaluation.verdict.jobs import Workshop
from evaluation.verdict.long_term import interest_entropy
from evaluation.verdict.search import Plan, finalists_of, needed, search, spent_table
from evaluation.verdict.statistics import improvement_estimate
from evaluation.verdict.sweep import sweep


@dataclass(frozen=True)
class Verdict:
    """What was found, as tidy tables."""

    bounds: pl.DataFrame
    """world, policy, reward, low, high, and of the look-ahead oracle minus the myopic one: gain, gain_low, gain_high, and
    gain_share of the myopic one's reward."""
    trials: pl.DataFrame
    """As `search` returns it."""
    summary: pl.DataFrame
    """world and the columns of `evaluation.summary.summarise`, on fresh users."""
    margins: pl.DataFrame
    """world, rl, other_family, other, value, low, high: reward per user of the best RL agent minus that of the best of another
    family, all chosen on tuning users."""
    improvement: pl.DataFrame
    """world ('all' for the mean over worlds), rl, baseline, value, low, high: probability of improvement."""
    costs: pl.DataFrame
    """contender, family, and of search and finals the trials, events and minutes of CPU; prepared_minutes of CPU for the rankers
    that it builds on in both, fitted or taught, which count in full for each who does; and how many trainings were stopped."""
    points: pl.DataFrame
    volumes: pl.DataFrame
    """As `sweep` returns them; empty where there is no trade-off."""
    entropy: pl.DataFrame
    """world and what `interest_entropy` returns."""
    learning: pl.DataFrame
    """world, agent, training_seed, requests, reward."""


def bounds_of(run: Run, worlds: Sequence[str]) -> pl.DataFrame:
    """How much there is to gain in each world, from what `measure_bounds` left; see `Verdict.bounds`."""
    rows = []
    for world in worlds:
        rewards = {
            name: Measured.mean(run.table(bound_table(world, name)).sort("user")["reward"].to_numpy())
            for name in (ZERO, MYOPIC, ONE)
        }
        gain = (rewards[ONE] - rewards[MYOPIC]).estimate()
        share = gain.value / rewards[MYOPIC].value if rewards[MYOPIC].value else float("nan")
        for name, reward in rewards.items():
            own = reward.estimate()
            rows.append(
                {
                    "world": world,
                    "policy": name,
                    "reward": own.value,
                    "low": own.low,
                    "high": own.high,
                    "gain": gain.value,
                    "gain_low": gain.low,
                    "gain_high": gain.high,
                    "gain_share": share,
                }
            )
    return pl.DataFrame(rows)


def reach_verdict(workshop: Workshop, arenas: Mapping[str, Arena], config: VerdictConfig, run: Run) -> Verdict:
    """Searches in the first world, lets the finalists compete in all, and measures everything; what the run has is not done again.

    `measure_bounds` comes first; the caller has it done, so that the bound is told before anything is trained.
    """
    contenders = contenders_of(config)
    worlds = list(arenas)
    trials = search(workshop, contenders, worlds[0], config)
    finalists = finalists_of(trials, contenders, config.finalists)
    finals(workshop, finalists, config)
    best = {world: chosen(run, world, finalists, config) for world in worlds}
    points, volumes = (
        sweep(workshop, worlds[0], best[worlds[0]], finalists, trials, config)
        if config.sweep
        else (pl.DataFrame(), pl.DataFrame())
    )
    found = Verdict(
        bounds=bounds_of(run, worlds),
        trials=trials,
        summary=pl.concat([_summary(run, world, finalists, config, best[world]) for world in worlds]),
        margins=pl.concat([_margins(run, world, finalists, config, best[world]) for world in worlds]),
        improvement=_improvement(run, worlds, finalists, config, best),
        costs=_costs(run, arenas, trials, contenders, finalists, config),
        points=points,
        volumes=volumes,
        entropy=pl.concat(
            [
                _of_world(
                    interest_entropy(interests(run, world, finalists, config), arenas[world].world.config.days), world
                )
                for world in worlds
            ]
        ),
        learning=_learning(run, worlds, finalists, config),
    )
    for name, table in vars(found).items():
        if table.width:
            run.write_table(f"verdict_{name}", table)
    return found


def _of_world(table: pl.DataFrame, world: str) -> pl.DataFrame:
    return table.select(pl.lit(world).alias("world"), pl.all())


def _summary(
    run: Run, world: str, finalists: Finalists, config: VerdictConfig, best: Mapping[str, str]
) -> pl.DataFrame:
    lives = fresh_lives(run, world, finalists, config)
    table = summarise(lives, exposures(run, world, finalists, config), best[SUPERVISED])
    return _of_world(table.with_columns(is_best=pl.col("agent").is_in(list(best.values()))), world)


def _rewards(run: Run, world: str, contender: Contender, config: VerdictConfig) -> NDArray[np.float64]:
    """[S, U] rewards of the fresh users under a finalist."""
    tables = [run.table(final_table(world, contender, seed)) for seed in config.training_seeds()]
    return np.stack([table.sort("user")["reward"].to_numpy().astype(np.float64) for table in tables])


def _margins(
    run: Run, world: str, finalists: Finalists, config: VerdictConfig, best: Mapping[str, str]
) -> pl.DataFrame:
    rewards = {
        contender.family: Measured.mean(_rewards(run, world, contender, config))
        for contender, _ in finalists
        if best[contender.family] == contender.name
    }
    rows = []
    for family in (SUPERVISED, CONSTANT, BANDIT):
        if family in rewards:
            difference = (rewards[RL] - rewards[family]).estimate()
            rows.append(
                {
                    "world": world,
                    "rl": best[RL],
                    "other_family": family,
                    "other": best[family],
                    "value": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                }
            )
    return pl.DataFrame(rows)


def _improvement(
    run: Run, worlds: Sequence[str], finalists: Finalists, config: VerdictConfig, best: Mapping[str, Mapping[str, str]]
) -> pl.DataFrame:
    """Of the best RL agent over the better of supervised pipeline and constant, as the tuning users saw them."""
    by_name = {contender.name: contender for contender, _ in finalists}
    ours, theirs, rows = [], [], []
    for world in worlds:
        baseline = _better_baseline(run, world, by_name, config, best[world])
        ours.append(_rewards(run, world, by_name[best[world][RL]], config))
        theirs.append(_rewards(run, world, by_name[baseline], config))
        estimate = improvement_estimate(ours[-1:], theirs[-1:], draws=config.draws, seed=config.seed)
        rows.append({"world": world, "rl": best[world][RL], "baseline": baseline, **_bounds(estimate)})
    estimate = improvement_estimate(ours, theirs, draws=config.draws, seed=config.seed)
    rows.append({"world": "all", "rl": "best", "baseline": "best", **_bounds(estimate)})
    return pl.DataFrame(rows)


def _bounds(estimate: Any) -> dict[str, float]:
    return {name: getattr(estimate, name) for name in ("value", "low", "high")}


def _better_baseline(
    run: Run, world: str, by_name: Mapping[str, Contender], config: VerdictConfig, best: Mapping[str, str]
) -> str:
    means = {}
    for family in (SUPERVISED, CONSTANT):
        contender = by_name[best[family]]
        tables = [run.table(final_table(world, contender, seed, "tuning")) for seed in config.training_seeds()]
        means[contender.name] = float(pl.concat(tables)["reward"].to_numpy().mean())
    return max(means, key=lambda name: means[name])


def _costs(
    run: Run,
    arenas: Mapping[str, Arena],
    trials: pl.DataFrame,
    contenders: Sequence[Contender],
    finalists: Finalists,
    config: VerdictConfig,
) -> pl.DataFrame:
    """Rankers are fitted and taught once for all who use them; so their minutes add up to more than was spent."""
    by_name, searched = {contender.name: contender for contender in contenders}, next(iter(arenas))
    rows: list[dict[str, Any]] = []
    for (name, family), own in trials.group_by("contender", "family", maintain_order=True):
        plans = final_plans(arenas, [entry for entry in finalists if entry[0].name == name], config)
        trained = [
            run.table(spent_table(final_table(world, contender, seed))) for world, contender, _, _, seed in plans
        ]
        tried = [
            (searched, by_name[str(name)], json.loads(settings), requests, config.seed)
            for settings, requests in own.select("settings", "requests").iter_rows()
        ]
        final = pl.concat(trained) if trained else pl.DataFrame({"requests": [0], "seconds": [0.0], "stopped": [False]})
        rows.append(
            {
                "contender": name,
                "family": family,
                "trials": len(own),
                "search_budget": int(own["requests"].sum()),
                "search_events": int(own["spent"].sum()),
                "search_minutes": float(own["seconds"].sum()) / 60,
                "trainings": len(trained),
                "final_events": int(final["requests"].sum()),
                "final_minutes": float(final["seconds"].sum()) / 60,
                "prepared_minutes": _prepared_minutes(run, arenas, [*tried, *plans]),
                "stopped": int(own["stopped"].sum()) + int(final["stopped"].sum()),
            }
        )
    order = {family: place for place, family in enumerate(FAMILIES)}
    return pl.DataFrame(sorted(rows, key=lambda row: order[row["family"]]))


def _prepared_minutes(run: Run, arenas: Mapping[str, Arena], plans: Sequence[Plan]) -> float:
    """Minutes of CPU for fits of the rankers that the plans build on, and for their lessons, each counted once."""
    made = [needed(arenas[plan[0]], plan) for plan in plans]
    tables = {job.table for jobs in made for kind in ("rankers", "lessons") for job in jobs[kind]}
    return sum(float(run.table(table)["seconds"][0]) for table in sorted(tables)) / 60


def shared_minutes(run: Run) -> dict[str, float]:
    """Minutes of CPU spent on what all contenders share: fits of rankers, events, lessons."""
    minutes = {}
    for kind in ("rankers", "events", "taught"):
        tables = (run.folder / "tables" / "verdict" / kind).rglob("*.parquet")
        minutes[kind] = sum(float(pl.read_parquet(path)["seconds"][0]) for path in tables) / 60
    return minutes


def _learning(run: Run, worlds: Sequence[str], finalists: Finalists, config: VerdictConfig) -> pl.DataFrame:
    curves = [(world, learning(run, world, finalists, config)) for world in worlds]
    tables = [_of_world(table, world) for world, table in curves if table is not None]
    return pl.concat(tables) if tables else pl.DataFrame()
