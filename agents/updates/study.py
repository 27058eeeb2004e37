"""Runs update policies through the same episodes, so that differences are paired on the seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from agents.side_by_side import in_order, ray_with
from agents.updates.environment import ModelUpdateEnv
from agents.updates.intervals import mean_interval
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies.base import UpdatePolicy
from agents.updates.policies.playing import periods_of
from envs.errors import ConfigurationError

DAILY = ("reward", "engagement", "cost")
SUMMED = ("trained_samples", "work", "updates", "retrains", "challenges", "rollbacks", "seconds")
TOLD = (
    "day",
    "engagement",
    "diversity",
    "freshness",
    "clicks",
    "visits",
    "unseen_share",
    "cost",
    "trained_samples",
    "work",
    "budget_left",
    "model_version",
    "gate",
)
"""Columns that are those of the infos."""
_TYPES: dict[str, Any] = {"gate": pl.String, "observation": pl.List(pl.Float32), "mask": pl.List(pl.Int8)}
_ACTIONS = {
    "updates": (UpdateAction.UPDATE_RECALL, UpdateAction.UPDATE_RANKER, UpdateAction.UPDATE_BOTH),
    "retrains": (UpdateAction.FULL_RETRAIN,),
    "challenges": (UpdateAction.CHALLENGER,),
    "rollbacks": (UpdateAction.ROLL_BACK,),
}


def run_update_study(
    markets: Sequence[Market],
    policies: Mapping[str, UpdatePolicy],
    seeds: Sequence[int],
    report: Callable[[int], None] = lambda periods: None,
    jobs: int = 1,
) -> pl.DataFrame:
    """Runs every policy through the episodes of `seeds`.

    Args:
        markets: one for all episodes, or one for each seed.
        policies: by name; each is begun anew with every episode.
        seeds: of the episodes; the same for all policies, so visitors, taste noise and walks are the same.
        report: called with the number of periods simulated so far.
        jobs: number of episodes run side by side, as Ray tasks; 1 runs them in this process.

    Returns:
        One row for each policy, seed and period: policy, seed, period (from 0), day (of the run), engagement (clicks per visit; a
        period shorter than a day counts as its share of the day's visits), diversity, freshness (likewise), clicks,
        visits, unseen_share, action (as carried out), asked (as chosen), cost, trained_samples, work, reward,
        budget_left, model_version, gate (why the gate decided as it did; null), seconds and serve_seconds (measured, of
        the update and of traffic), observation and mask (what the policy saw when it chose, and which actions were
        valid).

    Raises:
        AgentError: if a policy returns something that is no action, or a user's policy fails.
        ConfigurationError: if there is no policy or no seed, a seed comes twice, or markets are neither one nor one for each seed.
    """
    if not policies or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError("an update study needs at least one policy and one seed, and each seed once.")
    if len(markets) not in (1, len(seeds)):
        raise ConfigurationError(
            f"there are {len(markets)} markets for {len(seeds)} seeds; give one for all, or one each."
        )
    of_seed = dict(zip(seeds, markets if len(markets) > 1 else [markets[0]] * len(seeds), strict=True))
    episodes = [(name, seed) for name in policies for seed in seeds]
    if jobs > 1 and len(episodes) > 1:
        return pl.concat(_side_by_side(of_seed, policies, episodes, report, jobs))
    tables, done = [], 0
    for name, seed in episodes:
        begun = done

        def told(periods: int, begun: int = begun) -> None:
            report(begun + periods)

        table = run_episode(of_seed[seed], name, policies[name], seed, told)
        done += len(table)
        tables.append(table)
    return pl.concat(tables)


def run_episode(
    market: Market, name: str, policy: UpdatePolicy, seed: int, report: Callable[[int], None] = lambda periods: None
) -> pl.DataFrame:
    """The periods of one episode, as `run_update_study` has them; `report` is called with their number so far.

    Raises:
        AgentError: if the policy returns something that is no action, or a user's policy fails.
    """
    env = ModelUpdateEnv(market)
    rows: list[dict[str, object]] = []
    for period in periods_of(env, policy, seed):
        rows.append(
            {"policy": name, "seed": seed, "period": len(rows)}
            | {key: period.info[key] for key in TOLD}
            | {
                "action": period.info["action_taken"],
                "asked": period.info["action"],
                "reward": period.reward,
                "seconds": env.update_seconds,
                "serve_seconds": env.serve_seconds,
                "observation": period.observation.tolist(),
                "mask": period.mask.tolist(),
            }
        )
        report(len(rows))
    return pl.DataFrame(rows, schema_overrides=_TYPES)


def watch_episode(market: Market, policy: UpdatePolicy, seed: int) -> pl.DataFrame:
    """What monitoring shows of an episode under a policy: rows of `agents.events.statistics.STATISTICS`.

    Raises:
        AgentError: if the policy returns something that is no action, or a user's policy fails.
    """
    env = ModelUpdateEnv(market)
    for _ in periods_of(env, policy, seed):
        pass
    assert env.episode is not None
    return pl.DataFrame(pl.from_arrow(env.episode.statistics()))


def _side_by_side(
    of_seed: Mapping[int, Market],
    policies: Mapping[str, UpdatePolicy],
    episodes: Sequence[tuple[str, int]],
    report: Callable[[int], None],
    jobs: int,
) -> list[pl.DataFrame]:
    """The periods of each episode, in the order given, run as Ray tasks."""
    import ray

    with ray_with(jobs):
        shared = {id(market): ray.put(market) for market in of_seed.values()}
        task = ray.remote(num_cpus=1)(run_episode)
        calls = [(shared[id(of_seed[seed])], name, policies[name], seed) for name, seed in episodes]
        done = 0

        def told(place: int, table: pl.DataFrame) -> None:
            nonlocal done
            done += len(table)
            report(done)

        return in_order(task, calls, told)


def summarise_updates(days: pl.DataFrame, versus: str = "never") -> pl.DataFrame:
    """Means of a period and sums over an episode, averaged over seeds, and paired differences.

    Args:
        days: as `run_update_study` returns it.
        versus: policy that the others are compared with; without it among them there are no differences.

    Returns:
        One row for each policy and metric (a period's reward, engagement and cost; an episode's trained_samples, work and numbers
        of updates, retrains, challenges and rollbacks; seconds): policy, metric, value, low, high, difference, difference_low,
        difference_high, seeds. Intervals are 95 % t intervals over seeds, differences paired on the seeds; null where one seed
        tells nothing of the spread, or where there is no `versus`.
    """
    counted = {name: pl.col("action").is_in([int(action) for action in actions]) for name, actions in _ACTIONS.items()}
    totals = (
        days.with_columns(**counted)
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
