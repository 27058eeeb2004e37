"""From per-user results to figures: metrics, paired differences, normalised reward, flat names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from evaluation.statistics import Measured, Refitted, is_untrained, normalised


@dataclass(frozen=True)
class Metric:
    """A figure per agent: the mean of a per-user column, or the ratio of two columns' sums."""

    name: str
    numerator: str
    denominator: str | None = None

    def of(self, values: Mapping[str, NDArray[np.float64]], among: NDArray[np.bool_] | None = None) -> Measured:
        """From per-user columns [S, U]; of the users `among` [U] only, where given."""
        figure = Measured.mean(values[self.numerator], among)
        return figure if self.denominator is None else figure / Measured.mean(values[self.denominator], among)


RETURN_DAYS = (1, 7)
"""Days within which users are counted as having come back after their first visit."""

METRICS = (
    Metric("reward", "reward"),
    Metric("reward_per_request", "reward", "requests"),
    Metric("engagement", "clicks"),
    Metric("click_rate", "clicks", "requests"),
    Metric("rating", "rating_sum", "ratings"),
    Metric("diversity", "diversity_sum", "clicks"),
    Metric("freshness", "fresh_clicks", "clicks"),
    Metric("consumed_age_days", "consumed_age_sum", "clicks"),
    Metric("category_entropy", "category_entropy"),
    Metric("intra_list_distance", "list_distance_sum", "requests"),
    Metric("requests", "requests"),
    Metric("visits", "visits"),
    *(Metric(f"day_{days}_return", f"day_{days}", f"day_{days}_told") for days in RETURN_DAYS),
)
"""Figures with an interval, from columns of the per-user table. Diversity and freshness are those of what was consumed,
per item consumed; day-1 and day-7 return are the shares of users whose second visit begins within that many days of the
first one's last request, of those whose first visit ends early enough before the horizon to tell."""

CATALOGUE_METRICS = ("coverage", "gini", "born_exposed", "days_to_exposure")
"""Figures without an interval: coverage and Gini of exposure, the share of the items born in the run that anybody was shown,
and the mean days from birth to first exposure of those."""


def initial_name(agent: str) -> str:
    """Name of the row of an agent's own policy before training."""
    return f"{agent} (initial)"


def summarise(users: pl.DataFrame, agents: pl.DataFrame, reference: str = "mf") -> pl.DataFrame:
    """Figures of each agent with 95 % intervals, and paired differences to the reference agent.

    Args:
        users: per-user results, as in `Served.users`; all agents must have served the same users. With a column `user_model`, rows
            of 0 are of the fitted user model, others of those fitted to drawn users, with the users that were drawn: they widen
            the intervals.
        agents: per-agent results, as in `Served.agents`.
        reference: the agent that differences are taken to; left out where it is not in the comparison.

    Returns:
        One row for each agent, metric and `versus`: agent, role, untrained, metric, versus (null for the figure itself,
        else the agent that was subtracted: the reference, or an RL agent's own policy before training), value, low, high,
        num_users, num_seeds. 'normalised_reward' is there unless the gap between random and look-ahead oracle is within
        noise. `CATALOGUE_METRICS` describe the catalogue, not users: they have no interval.
    """
    roles = dict(users.select("agent", "role").unique(maintain_order=True).iter_rows())
    measured = {metric.name: {agent: _measured(metric, users, agent) for agent in roles} for metric in METRICS}
    rewards = measured["reward"]
    scaled = normalised(rewards)
    if scaled is not None:
        measured["normalised_reward"] = scaled
    untrained = {
        agent: role == "learner"
        and initial_name(agent) in rewards
        and is_untrained(rewards[agent], rewards[initial_name(agent)])
        for agent, role in roles.items()
    }
    rows = []
    for agent, role in roles.items():
        label = {"agent": agent, "role": role, "untrained": untrained[agent]}
        for metric, values in measured.items():
            against = [None, *[name for name in (reference, initial_name(agent)) if name in values and name != agent]]
            for versus in against:
                figure = values[agent] if versus is None else values[agent] - values[versus]
                estimate = figure.estimate()
                rows.append({**label, "metric": metric, "versus": versus, **vars(estimate)})
        exposure = agents.filter(pl.col("agent") == agent)
        for metric in CATALOGUE_METRICS:
            unsure = {"low": None, "high": None, "num_users": rewards[agent].influence.shape[1]}
            rows.append(
                {
                    **label,
                    "metric": metric,
                    "versus": None,
                    "value": exposure[metric].mean(),
                    **unsure,
                    "num_seeds": len(exposure),
                }
            )
    schema = {"agent": pl.String, "role": pl.String, "untrained": pl.Boolean, "metric": pl.String, "versus": pl.String}
    numbers = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "num_users": pl.Int64, "num_seeds": pl.Int64}
    return pl.DataFrame(rows, schema={**schema, **numbers}).with_columns(pl.col("value", "low", "high").fill_nan(None))


def num_users_and_seeds(summary: pl.DataFrame) -> tuple[int, int]:
    """Number of users and of training seeds (the most that any agent has) behind a summary."""
    return max(summary["num_users"].to_list(), default=0), max(summary["num_seeds"].to_list(), default=0)


def changed_conclusions(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Paired differences in reward whose interval excludes zero in one of two summaries (as of `summarise`) only.

    Returns:
        agent, versus, value, low, high, low_after, high_after.
    """
    keys = ["agent", "versus"]
    pairs = [
        summary.filter((pl.col("metric") == "reward") & pl.col("versus").is_not_null()).select(
            *keys, "value", "low", "high"
        )
        for summary in (before, after)
    ]
    both = pairs[0].join(pairs[1].drop("value"), on=keys, suffix="_after", maintain_order="left")

    def decided(suffix: str) -> pl.Expr:
        return (pl.col(f"low{suffix}") > 0) | (pl.col(f"high{suffix}") < 0)

    return both.filter(decided("") != decided("_after"))


def _measured(metric: Metric, users: pl.DataFrame, agent: str) -> Measured:
    """A metric of one agent, with its values under user models of drawn users where `users` has them."""
    own = users.filter(pl.col("agent") == agent)
    if "user_model" not in users.columns:
        return metric.of(_columns(own))
    fitted = own.filter(pl.col("user_model") == 0)
    known = fitted["user"].unique().sort().to_numpy()
    columns = _columns(fitted)
    refitted = []
    for number in sorted(set(own["user_model"]) - {0}):
        theirs = own.filter(pl.col("user_model") == number)
        among = np.isin(known, theirs["user"].to_numpy())
        padded = {name: np.zeros_like(column) for name, column in columns.items()}
        for name, column in _columns(theirs).items():
            padded[name][:, among] = column
        refitted.append(Refitted(under=metric.of(padded, among), fitted=metric.of(columns, among)))
    return replace(metric.of(columns), refitted=tuple(refitted))


def _columns(rows: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Per-user columns [S, U] of one agent's rows, users in order."""
    rows = rows.sort("training_seed", "user")
    seeds = rows["training_seed"].n_unique()
    names = {name for metric in METRICS for name in (metric.numerator, metric.denominator) if name}
    return {name: rows[name].to_numpy().astype(np.float64).reshape(seeds, -1) for name in names}


def flat_figures(summary: pl.DataFrame) -> dict[str, float | int | None]:
    """The summary as flat names: '<metric>_<agent>', with '_low' and '_high' where there is an interval, and
    '<metric>_<agent>_minus_<other>' for paired differences."""
    users, seeds = num_users_and_seeds(summary)
    figures: dict[str, float | int | None] = {"num_users": users, "num_training_seeds": seeds}
    for row in summary.iter_rows(named=True):
        name = f"{row['metric']}_{_flat(row['agent'])}" + (f"_minus_{_flat(row['versus'])}" if row["versus"] else "")
        figures[name] = row["value"]
        if row["low"] is not None:
            figures[f"{name}_low"], figures[f"{name}_high"] = row["low"], row["high"]
    for agent, flag in (
        summary.filter(pl.col("role") == "learner").select("agent", "untrained").unique().sort("agent").iter_rows()
    ):
        figures[f"untrained_{_flat(agent)}"] = int(flag)
    return figures


def _flat(agent: str) -> str:
    return agent.replace(" (initial)", "_initial").replace(" ", "_")
