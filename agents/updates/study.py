"""Compares update policies: all meet the same episodes, so that differences are paired on the seeds."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
from scipy import stats

from agents.updates.environment import ModelUpdateEnv, UpdateConfig
from agents.updates.rules import UpdatePolicy
from envs.errors import ConfigurationError
from envs.world import World

CONFIDENCE = 0.95
METRICS = ("reward", "engagement", "cost", "trained_samples", "updates", "refits", "seconds")


def run_update_study(
    world: World,
    config: UpdateConfig,
    policies: Mapping[str, UpdatePolicy],
    seeds: Sequence[int],
    report: Callable[[int], None] = lambda days: None,
    jobs: int = 1,
) -> pl.DataFrame:
    """Runs every policy through the episodes of `seeds`.

    Args:
        world: users, log and births.
        config: of the environment.
        policies: by name.
        seeds: of the episodes; the same for all policies, so visitors, taste noise and walks are the same.
        report: called with the number of days simulated so far.
        jobs: number of episodes run side by side, as Ray tasks; 1 runs them in this process.

    Returns:
        One row for each policy, seed and day: policy, seed, day, engagement (clicks per visit), clicks, visits,
        unseen_share, action (as carried out), asked (as chosen), cost, trained_samples, reward, budget_left,
        seconds (measured time of the update).

    Raises:
        ConfigurationError: if there is no policy or no seed, or a seed comes twice.
    """
    if not policies or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError("an update study needs at least one policy and one seed, and each seed once.")
    episodes = [(name, seed) for name in policies for seed in seeds]
    if jobs > 1 and len(episodes) > 1:
        tables = _side_by_side(world, config, policies, episodes, report, jobs)
    else:
        env = ModelUpdateEnv(world, config)
        tables = []
        for number, (name, seed) in enumerate(episodes):
            done = number * config.days
            tables.append(_episode(env, name, policies[name], seed, lambda day, done=done: report(done + day)))  # type: ignore[misc]
    return pl.concat(tables)


def _episode(
    env: ModelUpdateEnv, name: str, policy: UpdatePolicy, seed: int, report: Callable[[int], None]
) -> pl.DataFrame:
    """The days of one episode; `report` is called with their number so far."""
    rows: list[dict[str, object]] = []
    observation, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        observation, reward, _, ended, info = env.step(policy.act(observation))
        rows.append(
            {
                "policy": name,
                "seed": seed,
                "day": info["day"],
                "engagement": info["engagement"],
                "clicks": info["clicks"],
                "visits": info["visits"],
                "unseen_share": info["unseen_share"],
                "action": info["action_taken"],
                "asked": info["action"],
                "cost": info["cost"],
                "trained_samples": info["trained_samples"],
                "reward": reward,
                "budget_left": info["budget_left"],
                "seconds": env.update_seconds,
            }
        )
        report(len(rows))
    return pl.DataFrame(rows)


def _side_by_side(
    world: World,
    config: UpdateConfig,
    policies: Mapping[str, UpdatePolicy],
    episodes: Sequence[tuple[str, int]],
    report: Callable[[int], None],
    jobs: int,
) -> list[pl.DataFrame]:
    """The days of each episode, in the order given, run as Ray tasks."""
    import ray  # starting Ray costs seconds, which a study in this process need not pay

    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        shared = ray.put(world)
        task = ray.remote(num_cpus=1)(_episode_of)
        waiting = [task.remote(shared, config, name, policies[name], seed) for name, seed in episodes]
        unfinished = list(waiting)
        while unfinished:
            _, unfinished = ray.wait(unfinished)
            report((len(waiting) - len(unfinished)) * config.days)
        return ray.get(waiting)
    finally:
        if started:
            ray.shutdown()


def _episode_of(world: World, config: UpdateConfig, name: str, policy: UpdatePolicy, seed: int) -> pl.DataFrame:
    """What a Ray task does."""
    return _episode(ModelUpdateEnv(world, config), name, policy, seed, lambda day: None)


def summarise_updates(days: pl.DataFrame, versus: str = "never") -> pl.DataFrame:
    """Sums over an episode, averaged over seeds, and paired differences.

    Args:
        days: as `run_update_study` returns it.
        versus: policy that the others are compared with; without it among them there are no differences.

    Returns:
        One row for each policy and metric (reward, engagement, cost, trained_samples, updates, refits, seconds):
        policy, metric, value, low, high, difference, difference_low, difference_high. Intervals are 95 % t intervals over
        seeds, differences paired on the seeds; null where one seed tells nothing of the spread, or where there is no `versus`.
    """
    sums = (
        days.with_columns(updates=pl.col("action") > 0, refits=pl.col("action") == 2)
        .group_by("policy", "seed", maintain_order=True)
        .agg(pl.col(METRICS).sum())
        .sort("seed", maintain_order=True)
    )
    of_policy = {name: sums.filter(pl.col("policy") == name) for name in days["policy"].unique(maintain_order=True)}
    rows = []
    for name, table in of_policy.items():
        for metric in METRICS:
            values = table[metric].to_numpy().astype(np.float64)
            value, low, high = _interval(values)
            row = {"policy": name, "metric": metric, "value": value, "low": low, "high": high}
            columns = ("difference", "difference_low", "difference_high")
            differences: tuple[float | None, ...] = (None, None, None)
            if versus in of_policy and versus != name:
                differences = _interval(values - of_policy[versus][metric].to_numpy())
            rows.append(row | dict(zip(columns, differences, strict=True)))
    schema = {"policy": pl.String, "metric": pl.String}
    return pl.DataFrame(rows, schema_overrides=schema | dict.fromkeys(list(rows[0])[2:], pl.Float64))


def daily_means(days: pl.DataFrame) -> dict[str, float]:
    """Flat figures of a study: for each policy the mean engagement, cost and reward of a day, spaces as underscores."""
    means = days.group_by("policy", maintain_order=True).agg(pl.col("engagement", "cost", "reward").mean())
    return {
        f"updates_{metric}_{row['policy'].replace(' ', '_')}": float(row[metric])
        for row in means.iter_rows(named=True)
        for metric in ("engagement", "cost", "reward")
    }


def _interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean of `values` [S] with its t interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    error = float(stats.sem(values))
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - margin, mean + margin
