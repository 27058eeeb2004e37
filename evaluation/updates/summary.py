"""What judged episodes say, as tidy tables: rewards between never and hindsight, fronts, margins, what a policy looks at.

`days` is what `agents.updates.study.run_update_study` returns, with the columns scenario and role. A policy's engagement, cost and
reward of a seed are means over the periods of its episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.updates.fronts import AboveFront, Front, above_front
from agents.updates.intervals import mean_interval
from agents.updates.policies.base import UpdatePolicy, decide
from agents.updates.study import DAILY, summarise_updates
from envs.errors import ConfigurationError
from evaluation.statistics import Measured, normalised

NEVER, HINDSIGHT = "never", "hindsight"
"""Ends of the normalised reward."""
NORMALISED = "normalised_reward"
RULE, RL, REFERENCE, OWN = "rule", "rl", "reference", "own"
"""Roles: tuned rules (of which never is one), learnt policies, hindsight, and those of a user's own."""
_NUMBERS = dict.fromkeys(("value", "low", "high"), pl.Float64)


def by_seed(days: pl.DataFrame) -> pl.DataFrame:
    """One row for each scenario, policy and seed: scenario, policy, role, seed, mean reward, engagement and cost of a period."""
    return (
        days.group_by("scenario", "policy", "role", "seed", maintain_order=True)
        .agg(pl.col(DAILY).mean())
        .sort("seed", maintain_order=True)
        .sort("scenario", "policy", maintain_order=True)
    )


def summary_table(days: pl.DataFrame) -> pl.DataFrame:
    """What `summarise_updates` says of each scenario, and rewards between `never` (0) and `hindsight` (1).

    Returns:
        One row for each scenario, policy and metric: scenario, role and the columns of `summarise_updates`. The metric
        'normalised_reward' is there where hindsight's reward is above never's beyond their interval, paired on seeds; elsewhere the
        raw reward has to do.
    """
    tables = []
    for scenario, own in _of_scenarios(days):
        summary = summarise_updates(own, versus=NEVER)
        rewards = {name: Measured.mean(table["reward"].to_numpy()) for name, table in _policies(own).items()}
        rows = [
            {"policy": name, "metric": NORMALISED, "value": found.value, "low": found.low, "high": found.high}
            for name, reward in (normalised(rewards, zero=NEVER, one=HINDSIGHT) or {}).items()
            for found in [reward.estimate()]
        ]
        scaled = pl.DataFrame(rows, schema=dict(list(summary.schema.items())[:5]))
        roles = own.select("policy", "role").unique(maintain_order=True)
        both = pl.concat([summary, scaled], how="diagonal").join(roles, on="policy", how="left", maintain_order="left")
        tables.append(both.select(pl.lit(scenario).alias("scenario"), pl.col("role"), pl.exclude("role")))
    return pl.concat(tables)


def points_table(days: pl.DataFrame) -> pl.DataFrame:
    """Where each policy lies: engagement against cost.

    Returns:
        One row for each scenario and policy: scenario, policy, role, and of cost, engagement and gain (engagement beyond never's,
        paired on seeds) the mean over seeds with _low and _high; on_front: whether it is on the scenario's front of all but
        hindsight; on_rules_front: on that of the rules.
    """
    rows: list[dict[str, Any]] = []
    for scenario, own in _of_scenarios(days):
        policies = _policies(own)
        means = {name: (float(t["cost"].mean()), float(t["engagement"].mean())) for name, t in policies.items()}  # type: ignore[arg-type]
        fronts = [
            Front.of({name: point for name, point in means.items() if _role(own, name) in roles}).names
            for roles in ((RULE, RL, OWN), (RULE,))
        ]
        for name, table in policies.items():
            row: dict[str, Any] = {"scenario": scenario, "policy": name, "role": _role(own, name)}
            gains = table["engagement"] - policies[NEVER]["engagement"]
            for metric, values in (("cost", table["cost"]), ("engagement", table["engagement"]), ("gain", gains)):
                ends = mean_interval(values.to_numpy())
                row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), ends, strict=True))
            rows.append(row | {"on_front": name in fronts[0], "on_rules_front": name in fronts[1]})
    names = [f"{metric}{end}" for metric in ("cost", "engagement", "gain") for end in ("", "_low", "_high")]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(names, pl.Float64))


def alike(days: pl.DataFrame) -> dict[str, str]:
    """Learnt policy -> the first rule that does the same in every judged episode, where there is one; of one scenario.

    A training may end where it began, with a habit: then what it has over the rules is nothing that was learnt.
    """
    done = {
        name: own.sort("seed", "day", maintain_order=True)["action"].to_list()
        for (name,), own in days.group_by("policy", maintain_order=True)
    }
    rules = [str(name) for name in done if _role(days, str(name)) == RULE]
    found = {}
    for name in map(str, done):
        same = [rule for rule in rules if done[rule] == done[name]]
        if _role(days, name) == RL and same:
            found[name] = same[0]
    return found


def margin(days: pl.DataFrame, policy: str) -> AboveFront:
    """How far a policy lies above the front of the tuned rules, in one scenario.

    Args:
        days: of one scenario.
        policy: its name there.
    """
    policies = _policies(days)
    rules = {
        name: (table["cost"].to_numpy(), table["engagement"].to_numpy())
        for name, table in policies.items()
        if _role(days, name) == RULE
    }
    own = policies[policy]
    return above_front(own["cost"].to_numpy(), own["engagement"].to_numpy(), rules)


def margins_table(days: pl.DataFrame, chosen: Mapping[str, str]) -> pl.DataFrame:
    """RL minus the tuned rules' front.

    Args:
        days: of all scenarios.
        chosen: scenario -> the learnt policy that stands for its side there, chosen on tuning seeds.

    Returns:
        One row for each scenario: scenario, rl, cost (RL's), value, low, high (engagement), against (what of the front costs as
        much), alike (the rule that does the same, see `alike`; else empty), seeds. A policy that is a rule cannot lie above the
        front of rules; what chance put there counts as 0.
    """
    rows = []
    for scenario, name in chosen.items():
        own = days.filter(pl.col("scenario") == scenario)
        found = margin(own, name)
        twin = alike(own).get(name, "")
        ends = [found.value, found.low, found.high]
        if twin:
            ends = [None if end is None else min(end, 0.0) for end in ends]
        against = " + ".join(f"{share:.0%} {rule}" for rule, share in found.mixture.weights.items() if share > 0)
        rows.append(
            {
                "scenario": scenario,
                "rl": name,
                "cost": found.cost,
                **dict(zip(("value", "low", "high"), ends, strict=True)),
                "against": against,
                "alike": twin,
                "seeds": len(found.by_seed),
            }
        )
    return pl.DataFrame(rows, schema_overrides=_NUMBERS)


@dataclass(frozen=True)
class Field:
    """Numbers of the observation that are shuffled together."""

    name: str
    columns: tuple[int, ...]


def fields_of(names: Sequence[str]) -> list[Field]:
    """The observation's fields; a sine and a cosine of one angle are one field ('weekday')."""
    fields: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        fields.setdefault(name.removesuffix("_sin").removesuffix("_cos"), []).append(column)
    return [Field(name, tuple(columns)) for name, columns in fields.items()]


def importance(
    policy: UpdatePolicy,
    episodes: Sequence[tuple[NDArray[np.float32], NDArray[np.int8]]],
    names: Sequence[str],
    *,
    draws: int = 10,
    seed: int = 0,
) -> pl.DataFrame:
    """What a policy looks at: the share of its decisions that change when one field is shuffled over recorded observations.

    A field is shuffled within each episode, so that it keeps its values and loses its moment. A policy that remembers is begun anew
    before every pass through an episode.

    Args:
        policy: whose decisions they are.
        episodes: of each, the observations [T, S] as the policy met them and the masks [T, A] of valid actions, which stay as they
            were.
        names: of the S numbers.
        draws: shuffles of each field.
        seed: of the shuffles.

    Returns:
        One row for each field: field, changed (share of decisions that become another action), flipped (share that turn from acting
        to keeping or back), each a mean over episodes with its 95 % t interval over them, _low and _high (null with one).

    Source: Breiman (2001), Random forests, section 10, with decisions in place of errors.

    Raises:
        ConfigurationError: if there is no observation.
    """
    if not episodes or any(len(observations) == 0 for observations, _ in episodes):
        raise ConfigurationError("importance needs one episode or more, each with a decision.")
    random = np.random.default_rng(seed)
    usual = [_decisions(policy, *episode) for episode in episodes]
    rows = []
    for field in fields_of(names):
        shares = np.zeros((len(episodes), 2))
        for number, (observations, masks) in enumerate(episodes):
            for _ in range(draws):
                shuffled = observations.copy()
                shuffled[:, field.columns] = observations[random.permutation(len(observations))][:, field.columns]
                other = _decisions(policy, shuffled, masks)
                shares[number, 0] += np.mean(other != usual[number]) / draws
                shares[number, 1] += np.mean((other > 0) != (usual[number] > 0)) / draws
        row: dict[str, Any] = {"field": field.name}
        for kind, values in zip(("changed", "flipped"), shares.T, strict=True):
            row |= dict(zip((kind, f"{kind}_low", f"{kind}_high"), mean_interval(values), strict=True))
        rows.append(row)
    ends = [f"{kind}{end}" for kind in ("changed", "flipped") for end in ("", "_low", "_high")]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(ends, pl.Float64))


def _decisions(policy: UpdatePolicy, observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:
    """Of one episode [T]."""
    policy.begin()
    chosen = [decide(policy, observation, mask) for observation, mask in zip(observations, masks, strict=True)]
    return np.array(chosen, np.int64)


def _of_scenarios(days: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    return [(name, days.filter(pl.col("scenario") == name)) for name in days["scenario"].unique(maintain_order=True)]


def _policies(days: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """name -> its means by seed, seeds in the same order; of one scenario.

    Raises:
        ConfigurationError: if policies were judged on different seeds.
    """
    table = by_seed(days)
    found = {name: table.filter(pl.col("policy") == name) for name in days["policy"].unique(maintain_order=True)}
    seeds = {tuple(own["seed"]) for own in found.values()}
    if len(seeds) > 1:
        raise ConfigurationError("policies of a scenario were judged on different seeds; judge all on the same.")
    return found


def _role(days: pl.DataFrame, policy: str) -> str:
    return str(days.filter(pl.col("policy") == policy)["role"][0])
