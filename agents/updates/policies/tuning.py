"""Finds the best configuration of a family of update policies; every family is given the same number of episodes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import polars as pl

from agents.side_by_side import ray_with
from agents.updates.costs import Cost
from agents.updates.market import Market
from agents.updates.policies.base import MarketFacts, UpdatePolicy
from agents.updates.policies.learnt import LearntPolicy
from agents.updates.policies.loading import UPDATE_POLICY, resolve_update_policy
from agents.updates.policies.playing import Episode, Outcome, Player
from envs.errors import ConfigurationError
from envs.loading import made_from

_VALIDATION_SHARE = 1 / 5
"""Of a learnt family's episodes, those that its configurations are compared on."""


@dataclass(frozen=True)
class Tuned:
    """A family's best configuration, and how all of them fared."""

    family: str
    policy: UpdatePolicy
    """The one of the largest mean worth among those that got the most episodes."""
    configurations: tuple[UpdatePolicy, ...]
    """All that were tried."""
    outcomes: pl.DataFrame
    """One row for each configuration and episode: configuration (its number), label, market (its number), seed, engagement, cost,
    reward (means over periods), worth (reward, with the cost times the price)."""
    episodes: int
    """That were simulated, for training and trying."""
    seconds: float
    """Measured."""

    def means(self) -> pl.DataFrame:
        """One row for each configuration, in their order: configuration, label, episodes, engagement, cost, reward, worth."""
        return (
            self.outcomes.group_by("configuration", "label")
            .agg(pl.len().alias("episodes"), pl.col("engagement", "cost", "reward", "worth").mean())
            .sort("configuration")
        )


def tune(
    family: str,
    markets: Sequence[Market],
    seeds: Sequence[int],
    episodes: int,
    price: float = 1.0,
    *,
    jobs: int = 1,
    seed: int = 0,
    report: Callable[[int], None] = lambda episodes: None,
) -> Tuned:
    """The best configuration of a family within a number of simulated episodes.

    What is not learnt is tried: all configurations play the same episodes, half of what is left of the budget; the better half of
    them go on, and so forth until the budget is spent or every episode played. A learnt family spends four fifths of its
    episodes on training, and what is left on trying the networks at the last points of its learning curve in the same way.

    Args:
        family: one of `update_policy_names()`, or "file.py:Class".
        markets: to tune on.
        seeds: of the tuning episodes; each market has each of them.
        episodes: to simulate at most. Where there are fewer than configurations, so many of these are drawn.
        price: factor of the cost in what is maximised.
        jobs: episodes side by side; the result is the same.
        seed: of trainings, and of what is drawn.
        report: called with the number of episodes so far.

    Raises:
        AgentError: if there is no such family, or a policy fails.
        ConfigurationError: if there is no market, seed or episode, or too few episodes to train with.
    """
    if not markets or not seeds or episodes < 1:
        raise ConfigurationError(
            f"tuning '{family}' was given {len(markets)} markets, {len(seeds)} seeds and {episodes} episodes; "
            "it needs at least one of each."
        )
    begin = perf_counter()
    tried = _Tried(episodes_of(markets, seeds), price)
    # before any Ray, which has to be told of classes in users' files
    configurations = configurations_of(family, facts_of(markets[0]))
    with ExitStack() as stack:
        if jobs > 1:
            stack.enter_context(ray_with(jobs))
        player = stack.enter_context(Player(markets, jobs))
        learnt, spent = [policy for policy in configurations if isinstance(policy, LearntPolicy)], 0
        if learnt:
            spent = _train(learnt, markets, episodes, price, jobs, seed, report)
            networks: list[UpdatePolicy] = [network for policy in learnt for network in policy.candidates()]
            configurations = networks[: episodes - spent]
        else:
            drawn = np.random.default_rng(seed).permutation(len(configurations))[:episodes]
            configurations = [configurations[place] for place in sorted(drawn)]
        _halve(player, configurations, tried, episodes - spent, lambda count: report(spent + count))
    best = tried.best(range(len(configurations)))[0]
    return Tuned(
        family=family,
        policy=configurations[best],
        configurations=tuple(configurations),
        outcomes=tried.table(configurations),
        episodes=spent + tried.count,
        seconds=perf_counter() - begin,
    )


def configurations_of(family: str, facts: MarketFacts) -> list[UpdatePolicy]:
    """The configurations that tuning tries, scaled to a market's traffic and prices.

    Raises:
        AgentError: if there is no such family.
    """
    kind = resolve_update_policy(family)
    if kind.grid.__func__ is UpdatePolicy.grid.__func__:  # type: ignore[attr-defined]
        return [made_from(UPDATE_POLICY, family, kind)]
    return list(kind.grid(facts))


def facts_of(market: Market) -> MarketFacts:
    """What is known of a market before any episode."""
    prices, due = market.config.prices, market.traffic(0).due_visits
    per_day = market.plan.periods_per_day
    return MarketFacts(
        periods=market.periods,
        visits=float(np.mean([due(period) for period in range(market.periods)])) / per_day,
        retrain_price=prices.of(market.first_cost) * per_day,
        budget_price=prices.of(Cost(work=round(market.budget))) * per_day,
    )


def episodes_of(markets: Sequence[Market], seeds: Sequence[int]) -> list[tuple[int, int]]:
    """(number of the market, seed) of all episodes, by turns of the markets."""
    return [(market, seed) for seed in seeds for market in range(len(markets))]


class _Tried:
    """What configurations came to in the episodes that they have played: the first ones of all, in their order."""

    def __init__(self, episodes: list[tuple[int, int]], price: float) -> None:
        self.episodes, self.price = episodes, price
        self.outcomes: dict[int, list[Outcome]] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self.outcomes.values()))

    def play(
        self,
        player: Player,
        configurations: Sequence[UpdatePolicy],
        chosen: Sequence[int],
        each: int,
        report: Callable[[int], None] = lambda episodes: None,
    ) -> None:
        """Lets the chosen configurations play `each` further episodes."""
        before = self.count
        places, calls = [], []
        for number in chosen:
            played = len(self.outcomes.get(number, ()))
            for market, seed in self.episodes[played : played + each]:
                places.append(number)
                calls.append(Episode(market, seed, configurations[number]))
        for number, outcome in zip(places, player(calls, lambda count: report(before + count)), strict=True):
            self.outcomes.setdefault(number, []).append(outcome)

    def best(self, chosen: Sequence[int]) -> list[int]:
        """The chosen, those of most episodes first, of these the largest mean worth."""
        return sorted(chosen, key=lambda number: (-len(self.outcomes[number]), -self.worth(number)))

    def worth(self, number: int) -> float:
        return float(np.mean([outcome.worth(self.price) for outcome in self.outcomes[number]]))

    def table(self, configurations: Sequence[UpdatePolicy]) -> pl.DataFrame:
        return pl.DataFrame(
            [
                {
                    "configuration": number,
                    "label": configurations[number].label,
                    "market": market,
                    "seed": seed,
                    "engagement": outcome.engagement,
                    "cost": outcome.cost,
                    "reward": outcome.reward,
                    "worth": outcome.worth(self.price),
                }
                for number in sorted(self.outcomes)
                for (market, seed), outcome in zip(self.episodes, self.outcomes[number], strict=False)
            ]
        )


def _halve(
    player: Player,
    configurations: Sequence[UpdatePolicy],
    tried: _Tried,
    episodes: int,
    report: Callable[[int], None],
) -> None:
    """Successive halving. Source: Jamieson and Talwalkar (2016), Non-stochastic best arm identification, algorithm 1."""
    alive = list(range(len(configurations)))
    played = 0
    while played < len(tried.episodes):
        alive = alive[: episodes - tried.count]
        if not alive:
            break
        left = episodes - tried.count
        share = left if len(alive) == 1 else left // 2
        each = min(max(share // len(alive), 1), len(tried.episodes) - played)
        tried.play(player, configurations, alive, each, report)
        played += each
        alive = tried.best(alive)[: -(-len(alive) // 2)]


def _train(
    learnt: Sequence[LearntPolicy],
    markets: Sequence[Market],
    episodes: int,
    price: float,
    jobs: int,
    seed: int,
    report: Callable[[int], None],
) -> int:
    """Trains every configuration on an equal share of the episodes; returns how many these were together."""
    each = (episodes - max(len(learnt), round(_VALIDATION_SHARE * episodes))) // len(learnt)
    for number, policy in enumerate(learnt):
        policy.seed = seed
        done = number * each
        policy.fit(markets, each, price=price, jobs=jobs, report=lambda count, done=done: report(done + count))  # type: ignore[misc]
    return each * len(learnt)
