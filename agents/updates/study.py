"""Compares update policies: all meet the same episodes, so that differences are paired on the seeds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.side_by_side import as_finished, ray_with
from agents.updates.environment import ModelUpdateEnv, UpdateConfig
from agents.updates.intervals import mean_interval
from agents.updates.monitoring import UpdateAction
from agents.updates.rules import UpdatePolicy
from envs.errors import ConfigurationError
from envs.world import World

DAILY = ("reward", "engagement", "cost")
SUMMED = ("trained_samples", "updates", "refits", "seconds")


def run_update_study(
    world: World,
    config: UpdateConfig,
    policies: Mapping[str, UpdatePolicy],
    seeds: Sequence[int],
    report: Callable[[int], None] = lambda days: None,
    jobs: int = 1,
    users: NDArray[np.int64] | None = None,
) -> pl.DataFrame:
    """Runs every policy through the episodes of `seeds`.

    Args:
        world: users, log and births.
        config: of the environment.
        policies: by name.
        seeds: of the episodes; the same for all policies, so visitors, taste noise and walks are the same.
        report: called with the number of days simulated so far.
        jobs: number of episodes run side by side, as Ray tasks; 1 runs them in this process.
        users: log users whose visits make the traffic, by default all.

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
        tables = _side_by_side(world, config, users, policies, episodes, report, jobs)
    else:
        env = ModelUpdateEnv(world, config, users)
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
    users: NDArray[np.int64] | None,
    policies: Mapping[str, UpdatePolicy],
    episodes: Sequence[tuple[str, int]],
    report: Callable[[int], None],
    jobs: int,
) -> list[pl.DataFrame]:
    """The days of each episode, in the order given, run as Ray tasks."""
    import ray

    with ray_with(jobs):
        shared = ray.put(world)
        task = ray.remote(num_cpus=1)(_episode_of)
        calls = [(shared, config, users, name, policies[name], seed) for name, seed in episodes]
        days: dict[int, pl.DataFrame] = {}
        for place, result in as_finished(task, calls):
            days[place] = result
            report(len(days) * config.days)
        return [days[place] for place in range(len(episodes))]


def _episode_of(
    world: World,
    config: UpdateConfig,
    users: NDArray[np.int64] | None,
    name: str,
    policy: UpdatePolicy,
    seed: int,
) -> pl.DataFrame:
    """What a Ray task does."""
    return _episode(ModelUpdateEnv(world, config, users), name, policy, seed, lambda day: None)


def summarise_updates(days: pl.DataFrame, versus: str = "never") -> pl.DataFrame:
    """Means of a day and sums over an episode, averaged over seeds, and paired differences.

    Args:
        days: as `run_update_study` returns it.
        versus: policy that the others are compared with; without it among them there are no differences.

    Returns:
        One row for each policy and metric (a day's reward, engagement and cost; an episode's trained_samples, updates,
        refits, seconds): policy, metric, value, low, high, difference, difference_low, difference_high, seeds. Intervals are
        95 % t intervals over seeds, differences paired on the seeds; null where one seed tells nothing of the spread, or
        where there is no `versus`.
    """
    totals = (
        days.with_columns(
            updates=pl.col("action").is_between(UpdateAction.UPDATE_RECALL, UpdateAction.UPDATE_BOTH),
            refits=pl.col("action") == UpdateAction.FULL_RETRAIN,
        )
        .group_by("policy", "seed", maintain_order=True)
        .agg(pl.col(DAILY).mean(), pl.col(SUMMED).sum())
        .sort("seed", maintain_order=True)
    )
    of_policy = {name: totals.filter(pl.col("policy") == name) for name in days["policy"].unique(maintain_order=True)}
    rows = []
    for name, table in of_policy.items():
        for metric in (*DAILY, *SUMMED):
            values = table[metric].to_numpy().astype(np.float64)
            value, low, high = mean_interval(values)
            row = {"policy": name, "metric": metric, "value": value, "low": low, "high": high}
            columns = ("difference", "difference_low", "difference_high")
            differences: tuple[float | None, ...] = (None, None, None)
            if versus in of_policy and versus != name:
                differences = mean_interval(values - of_policy[versus][metric].to_numpy())
            rows.append(row | dict(zip(columns, differences, strict=True)) | {"seeds": len(values)})
    numbers = dict.fromkeys(list(rows[0])[2:-1], pl.Float64)
    return pl.DataFrame(rows, schema_overrides={"policy": pl.String, "metric": pl.String, **numbers, "seeds": pl.Int64})


def update_figures(summary: pl.DataFrame, versus: str = "never") -> dict[str, float | None]:
    """Flat figures of `summarise_updates`: 'updates_<metric>_<policy>' for a day's engagement, cost and reward, and
    '..._minus_<versus>', each with '_low' and '_high' where there is an interval; spaces as underscores."""
    figures: dict[str, float | None] = {}
    for row in summary.filter(pl.col("metric").is_in(DAILY)).iter_rows(named=True):
        name = f"updates_{row['metric']}_{row['policy'].replace(' ', '_')}"
        for suffix, kind in (("", "value"), (f"_minus_{versus}", "difference")):
            value, low, high = (
                row[column]
                for column in ((kind, "low", "high") if not suffix else (kind, f"{kind}_low", f"{kind}_high"))
            )
            if value is not None:
                figures[name + suffix] = value
            if low is not None:
                figures[f"{name}{suffix}_low"], figures[f"{name}{suffix}_high"] = low, high
    return figures


def is_untrained(summary: pl.DataFrame, policy: str) -> bool:
    """Whether the reward of a learnt policy is not above that of `never`, which is its policy before training."""
    row = summary.filter((pl.col("policy") == policy) & (pl.col("metric") == "reward")).row(0, named=True)
    return not (row["difference_low"] is not None and row["difference_low"] > 0)
