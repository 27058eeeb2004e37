"""The small part of a comparison that is about model updates: a few habits in the comparison's own world."""

from collections.abc import Mapping
from contextlib import nullcontext

import polars as pl

from agents.side_by_side import ray_with
from agents.updates.market import Market, UpdateConfig
from agents.updates.policies.base import UpdatePolicy
from agents.updates.policies.rules import Every, Never
from agents.updates.study import run_update_study
from envs.world import World
from evaluation.comparison import EVALUATION_SEED_OFFSET, split_users
from evaluation.options import CompareOptions
from evaluation.progress import progress
from evaluation.runs import Run
from evaluation.updates.summary import NEVER, RULE

HABITS: Mapping[str, UpdatePolicy] = {NEVER: Never(), "daily": Every(1), "every 3 days": Every(3)}
"""Full retrains by the calendar."""
SCENARIO = "this world"
"""What tables call the comparison's world."""


def update_config(options: CompareOptions) -> UpdateConfig:
    """Traffic of the habits; the horizon is the world's, five days at most with --fast."""
    days = min(options.days, 5) if options.fast else options.days
    return UpdateConfig(days=days, visits_per_day=300, requests_per_visit=4)


def judge_habits(run: Run, world: World, options: CompareOptions) -> pl.DataFrame:
    """Days of `HABITS` on the same seeds, and on users whom no agent was trained on, with the columns scenario and role.

    Policies that the run folder has already are not judged again.
    """
    first = options.seed + EVALUATION_SEED_OFFSET
    seeds = range(first, first + (options.update_seeds or 0))
    config, (_, users) = update_config(options), split_users(world, options.seed)
    jobs = 1 if options.fast else options.jobs
    missing = [name for name in HABITS if not run.has_table(f"updates/{name}")]
    if missing:
        market = Market(world, config, users)
        with ray_with(jobs) if jobs > 1 else nullcontext():
            for name in missing:
                with progress(f"model updates, {name}, days", len(seeds) * config.days) as report:
                    days = run_update_study([market], {name: HABITS[name]}, seeds, report, jobs)
                run.write_table(f"updates/{name}", days)
    days = pl.concat([run.table(f"updates/{name}") for name in HABITS])
    days = days.select(pl.lit(SCENARIO).alias("scenario"), pl.lit(RULE).alias("role"), pl.all())
    run.write_table("updates", days)
    return days
