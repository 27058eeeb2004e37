"""Model-update runs in a run folder: what is trained or judged there already is not done again."""

from collections.abc import Mapping
from contextlib import nullcontext

import polars as pl

from agents.side_by_side import ray_with
from agents.updates.dqn import UpdateDQN, UpdateDQNOptions
from agents.updates.market import UpdateConfig
from agents.updates.rules import UpdatePolicy
from agents.updates.study import run_update_study
from envs.world import World
from evaluation.comparison import EVALUATION_SEED_OFFSET, split_users
from evaluation.options import CompareOptions, UpdateOptions, WorldOptions
from evaluation.progress import progress
from evaluation.runs import Run


def update_config(options: WorldOptions) -> UpdateConfig:
    """Traffic of the model-update runs; the horizon is the world's, five days at most with --fast."""
    days = min(options.days, 5) if options.fast else options.days
    return UpdateConfig(days=days, visits_per_day=300, requests_per_visit=4)


def train_update_dqn(run: Run, world: World, config: UpdateConfig, options: UpdateOptions) -> UpdateDQN:
    """The learnt update policy, from the run folder if it is there already."""
    path = run.agent_path("update_dqn")
    if path.exists():
        return UpdateDQN.load(path)
    episodes = options.episodes or 1
    users, _ = split_users(world, options.seed)
    with progress("training the DQN, days", episodes * config.days) as report:
        dqn = UpdateDQN(UpdateDQNOptions(episodes=episodes), seed=options.seed).fit(world, config, report, users)
    curve = pl.DataFrame(dqn.learning_curve_, schema=["requests", "reward"])
    run.write_table(
        "learning", curve.select(pl.lit("dqn").alias("agent"), pl.lit(options.seed).alias("training_seed"), pl.all())
    )
    dqn.save(path)
    return dqn


def judge_updates(
    run: Run,
    world: World,
    config: UpdateConfig,
    policies: Mapping[str, UpdatePolicy],
    options: CompareOptions | UpdateOptions,
) -> pl.DataFrame:
    """Days of all update policies on the same seeds and on users that none was trained on.

    Policies that the run folder has already are not judged again.
    """
    first = options.seed + EVALUATION_SEED_OFFSET
    seeds = range(first, first + (options.update_seeds or 0))
    _, users = split_users(world, options.seed)
    jobs = 1 if options.fast else options.jobs
    missing = [name for name in policies if not run.has_table(f"updates/{name}")]
    with ray_with(jobs) if missing and jobs > 1 else nullcontext():
        for name in missing:
            with progress(f"model updates, {name}, days", len(seeds) * config.days) as report:
                days = run_update_study(world, config, {name: policies[name]}, seeds, report, jobs, users)
            run.write_table(f"updates/{name}", days)
    days = pl.concat([run.table(f"updates/{name}") for name in policies])
    run.write_table("updates", days)
    return days
