"""What tuning and hindsight choose, on made-up episodes whose outcomes are known."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies.base import UpdatePolicy
from agents.updates.policies.hindsight import best_in_hindsight, neighbours, periodic_schedules
from agents.updates.policies.playing import Outcome, periods_of
from agents.updates.policies.schedule import FixedSchedule
from agents.updates.policies.tuning import facts_of, tune


@pytest.fixture(scope="module")
def small(world, config) -> Market:
    return Market(world, replace(config, days=4, visits_per_day=10, requests_per_visit=1))


@dataclass
class Payoff:
    """Plays made-up episodes: an outcome by its actions alone, whoever takes them and whatever the seed."""

    engagement: Callable[[tuple[int, ...]], float]
    cost: Callable[[tuple[int, ...]], float] = lambda actions: 0.0
    played: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, env: ModelUpdateEnv, policy: FixedSchedule, seed: int) -> Outcome:
        self.played.append(policy.actions)
        engagement, cost = self.engagement(policy.actions), self.cost(policy.actions)
        return Outcome(engagement, cost, engagement - cost, policy.actions)


def test_hindsight_begins_with_the_schedules_of_others_and_goes_by_the_reward(small, monkeypatch):
    """One that no search of its own would find in so few replays pays off; full retrains cost more than they gain."""
    found_by_others = (0, 1, 4, 1)

    def retrains(actions: tuple[int, ...]) -> int:
        return actions.count(UpdateAction.FULL_RETRAIN)

    payoff = Payoff(
        lambda actions: 9.0 if actions == found_by_others else np.count_nonzero(actions) + 10.0 * retrains(actions),
        lambda actions: 20.0 * retrains(actions),
    )
    monkeypatch.setattr("agents.updates.policies.playing.play", payoff)
    found = best_in_hindsight(small, 5, 12, also=[found_by_others])
    assert found.policy.actions == found_by_others and found.tried == len(payoff.played) == 13
    # two of three replays are of schedules with a period, the others of neighbours of the best so far
    assert payoff.played[:9] == [found_by_others, *periodic_schedules(4)[:8]]
    assert set(payoff.played[9:]) <= set(neighbours(found_by_others))
    payoff.played.clear()
    alone = best_in_hindsight(small, 5, 12).outcome
    assert alone.reward == max(payoff.engagement(actions) - payoff.cost(actions) for actions in payoff.played)
    assert alone.engagement < max(map(payoff.engagement, payoff.played))


def test_the_better_half_goes_on(small, monkeypatch):
    ranks = [3, 6, 0, 7, 1, 5, 2, 4]
    schedules = [FixedSchedule((place,)) for place in range(8)]
    monkeypatch.setattr("agents.updates.policies.tuning.configurations_of", lambda family, market: schedules)
    monkeypatch.setattr("agents.updates.policies.playing.play", Payoff(lambda actions: float(ranks[actions[0]])))
    tuned = tune("every", [small], range(5), 20)
    episodes = tuned.means()["episodes"].to_list()
    # 20 // 2 episodes are for eight, 12 // 2 for four, 8 // 2 for two; the best has then one left to play
    assert [episodes[ranks.index(rank)] for rank in range(8)] == [1, 1, 1, 1, 2, 2, 4, 5]
    assert tuned.policy is schedules[ranks.index(7)]


class LastValid(UpdatePolicy):
    """Takes the valid action of the largest number."""

    name = "last valid"

    def act(self, observation):
        raise AssertionError("the mask is known")

    def act_among(self, observation, mask):
        return int(np.flatnonzero(mask)[-1])


def test_policies_are_told_which_actions_are_valid(small):
    played = list(periods_of(ModelUpdateEnv(small), LastValid(), seed=0))
    asked = [period.info["action"] for period in played]
    assert asked == [UpdateAction.KEEP] + [UpdateAction.FULL_RETRAIN] * 3
    assert asked == [period.info["action_taken"] for period in played]


def test_prices_of_hours_are_those_of_a_reward_by_the_hour(world, config):
    daily = Market(world, replace(config, days=2, visits_per_day=24))
    hourly = Market(world, replace(config, days=2, visits_per_day=24, period_hours=6))
    assert hourly.first_cost == daily.first_cost and hourly.budget == daily.budget
    assert facts_of(daily).visits == 24 and facts_of(hourly).visits == 6
    assert facts_of(hourly).retrain_price == pytest.approx(4 * facts_of(daily).retrain_price)
    assert facts_of(hourly).budget_price == pytest.approx(4 * facts_of(daily).budget_price)
