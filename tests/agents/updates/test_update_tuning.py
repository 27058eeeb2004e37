"""Policies on whole episodes: playing, hindsight, tuning."""

from dataclasses import replace

import numpy as np
import pytest

from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies.hindsight import best_in_hindsight, neighbours, periodic_schedules
from agents.updates.policies.learnt import LearntPolicy
from agents.updates.policies.playing import Episode, Player, play
from agents.updates.policies.rules import AfterData, Every, Never
from agents.updates.policies.schedule import FixedSchedule
from agents.updates.policies.tuning import configurations_of, facts_of, tune
from envs.errors import AgentError, ConfigurationError


@pytest.fixture(scope="module")
def small(world, config) -> Market:
    return Market(world, replace(config, days=4, visits_per_day=10, requests_per_visit=1))


def test_an_outcome_is_the_mean_of_the_periods(small):
    env = ModelUpdateEnv(small)
    outcome = play(env, Every(2), seed=3)
    env.reset(seed=3)
    steps = [env.step(action) for action in (0, 0, 6, 0)]
    assert outcome.actions == (0, 0, 6, 0)
    assert outcome.reward == pytest.approx(np.mean([step[1] for step in steps]))
    assert outcome.engagement == pytest.approx(np.mean([step[4]["engagement"] for step in steps]))
    assert outcome.cost == pytest.approx(sum(step[4]["cost"] for step in steps) / 4)
    assert outcome.cost > 0
    assert outcome.worth(3.0) == pytest.approx(outcome.engagement - 3 * outcome.cost)


def test_a_fixed_schedule_replays_what_another_policy_did(small):
    env = ModelUpdateEnv(small)
    outcome = play(env, Every(1, UpdateAction.UPDATE_BOTH), seed=1)
    assert play(env, FixedSchedule(outcome.actions), seed=1) == outcome


def test_episodes_side_by_side_come_to_the_same(small, two_workers):
    episodes = [Episode(0, seed, policy) for seed in (0, 1) for policy in (Never(), Every(2))]
    with Player([small]) as player:
        alone = player(episodes)
    told: list[int] = []
    with Player([small], jobs=2) as player:
        assert player(episodes, told.append) == alone
    assert told == [1, 2, 3, 4]


def test_an_unknown_action_ends_an_episode_with_the_policys_name(small):
    with pytest.raises(AgentError, match="'schedule' returned the action 9"):
        play(ModelUpdateEnv(small), FixedSchedule((9,)), seed=0)


def test_periodic_schedules_are_thirty_and_more_and_differ():
    schedules = periodic_schedules(60)
    assert len(set(schedules)) == len(schedules) >= 30
    assert not any(schedules[0])
    assert {schedule[0] for schedule in schedules} == {0}
    weekly = tuple(6 if period and period % 7 == 0 else 0 for period in range(60))
    assert weekly in schedules


def test_neighbours_differ_by_one_update():
    assert set(neighbours((0, 6, 0))) == {
        *((0, 0, 0), (0, 3, 0), (0, 2, 0)),  # left out, of another kind
        (0, 0, 6),  # later; there is nothing to learn any sooner
        *((0, 6, 3), (0, 6, 2), (0, 6, 6)),  # one more
    }


def test_hindsight_is_the_best_of_what_it_replayed(small):
    others = [play(ModelUpdateEnv(small), policy, seed=5) for policy in (Never(), Every(1))]
    told: list[int] = []
    found = best_in_hindsight(small, 5, 12, also=[outcome.actions for outcome in others], report=told.append)
    assert 12 <= found.tried <= 14 and told[-1] == found.tried
    assert all(found.outcome.reward >= outcome.reward for outcome in others)
    assert play(ModelUpdateEnv(small), found.policy, seed=5) == found.outcome
    assert best_in_hindsight(small, 5, 12, price=1e6).outcome.cost == 0
    with pytest.raises(ConfigurationError, match="at least one"):
        best_in_hindsight(small, 5, 0)


def test_tuning_spends_the_budget_on_what_does_well(small):
    told: list[int] = []
    tuned = tune("every", [small], [0, 1, 2], 30, report=told.append)
    means = tuned.means()
    assert len(means) == len(tuned.configurations) == 21
    assert tuned.episodes == told[-1] == means["episodes"].sum() <= 30
    most = means["episodes"].max()
    assert 1 < most <= 3 and means["episodes"].min() == 1
    best = means.filter(means["episodes"] == most)["worth"].max()
    assert means.filter(means["label"] == tuned.policy.label)["worth"].item() == best
    assert tuned.policy in tuned.configurations
    again = tune("every", [small], [0, 1, 2], 30)
    assert again.policy == tuned.policy and again.outcomes.equals(tuned.outcomes)


def test_a_dear_price_makes_tuning_choose_what_costs_nothing(small):
    tuned = tune("after_data", [small], [0], 18, price=1e6)
    chosen = tuned.means().filter(tuned.means()["label"] == tuned.policy.label)
    assert chosen["cost"].item() == 0
    assert tuned.means()["cost"].max() > 0


def test_with_fewer_episodes_than_configurations_some_are_drawn(small):
    tuned = tune("every", [small], [0], 3)
    assert len(tuned.configurations) == tuned.episodes == 3
    with pytest.raises(ConfigurationError, match="at least one of each"):
        tune("every", [], [0], 3)
    with pytest.raises(AgentError, match="no update policy"):
        tune("hourly", [small], [0], 3)


def test_grids_are_scaled_to_the_market(small):
    facts = facts_of(small)
    assert facts.visits == 10 and facts.periods == 4
    env = ModelUpdateEnv(small)
    env.reset(seed=0), env.step(0)
    *_, info = env.step(UpdateAction.FULL_RETRAIN)
    assert facts.retrain_price == pytest.approx(info["cost"], rel=0.2)
    assert (1 - info["budget_left"]) * facts.budget_price == pytest.approx(info["cost"])
    clicks = {policy.clicks for policy in configurations_of("after_data", facts)}
    assert clicks == {policy.clicks for policy in AfterData.grid(facts)} and min(clicks) == 1.0


OWN = """
from agents.updates.policies import UpdatePolicy

class Daily(UpdatePolicy):
    name = "daily"

    def act(self, observation):
        return 3

class Either(Daily):
    name = "either"

    @classmethod
    def grid(cls, facts):
        return [cls(action) for action in (3, 6)]

    def __init__(self, action):
        self.action = action

    def act(self, observation):
        return self.action
"""


def test_a_policy_of_a_users_own_is_tuned_side_by_side(small, tmp_path, two_workers):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    tuned = tune(f"{path}:Daily", [small], [0, 1], 2, jobs=2)
    assert tuned.episodes == 2 and tuned.means()["label"].to_list() == ["daily"]
    assert tuned.means()["cost"].item() > 0
    both = tune(f"{path}:Either", [small], [0], 2, jobs=2)
    assert [policy.action for policy in both.configurations] == [3, 6]


def test_learnt_families_spend_their_episodes_on_training(small, monkeypatch):
    trained: list[tuple[int, float]] = []

    def fit(self, markets, episodes, *, price, jobs, report):
        trained.append((episodes, price))
        report(episodes)
        return self

    monkeypatch.setattr(LearntPolicy, "fit", fit)
    monkeypatch.setattr(LearntPolicy, "candidates", lambda self: [self])
    monkeypatch.setattr(LearntPolicy, "act_among", lambda self, observation, mask: 0)
    told: list[int] = []
    tuned = tune("dqn", [small], [0, 1, 2, 3], 10, price=2.0, seed=5, report=told.append)
    assert trained == [(8, 2.0)]
    assert tuned.episodes == 10 == told[-1] and len(tuned.outcomes) == 2
    assert tuned.policy.seed == 5
