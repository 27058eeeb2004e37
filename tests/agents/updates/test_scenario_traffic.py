from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.updates.market import Market, UpdateConfig
from agents.updates.models import ServedModels
from agents.updates.traffic import AWAY_DAYS, Beginnings, PipelineConfig, Traffic
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.scenarios import TrafficPlan, scenario
from envs.world import WorldConfig, build_world
from envs.worlds import made
from recall.embedding import EmbeddingConfig

PIPELINE = PipelineConfig(num_candidates=30, explore_slots=0)


@pytest.fixture(scope="module")
def fitted():
    generated = generate_log(SyntheticConfig(num_users=40, num_items=80, events_per_user=20), seed=3)
    return lambda: generated


@pytest.fixture(scope="module")
def growing(fitted):
    return made(scenario("growth", fitted=fitted, days=6, visits_per_day=20, doubling_days=3.0, seed=1))


@pytest.fixture(scope="module")
def models(growing) -> ServedModels:
    return ServedModels(EmbeddingConfig(dimension=4, iterations=2), ranker=None).fit(growing.policy_log)


def traffic(world, plan: TrafficPlan, seed: int = 0, beginnings=None, requests: int = 1) -> Traffic:
    return Traffic(world, world.simulated_users, PIPELINE, requests, seed, plan, beginnings)


def users_of(day) -> np.ndarray:
    return np.unique(day.events.table["user"].to_numpy()) if day.visits else np.zeros(0, int)


def test_who_arrives_visits_from_that_day_on_and_traffic_grows(growing, models):
    served = traffic(growing, TrafficPlan(visits_per_day=20, grows=True))
    due = [served.due_visits(day) for day in range(6)]
    assert due[0] == pytest.approx(20, abs=8) and due == sorted(due) and due[-1] > 1.5 * due[0]
    came = [users_of(served.serve(day, 1000, models)) for day in range(6)]
    for day, users in enumerate(came):
        assert_array_equal(users, growing.simulated_users[growing.start_day[growing.simulated_users] <= day])
    first = next(user for user in came[3] if growing.start_day[user] == 3)
    row = np.flatnonzero(growing.simulated_users == first)[0]
    assert (served._history[row] >= 0).sum() <= 3 and served._state.visit[row] == 3


def test_fresh_users_come_once_and_have_been_away_as_long_whatever_the_day(growing, models):
    plan = TrafficPlan(fresh_users=True)
    users = growing.present_users
    served = Traffic(growing, users, PIPELINE, 1, 0, plan)
    came = []
    for day in range(3):
        rows = served._visitors(day, 15)
        served._begin(rows, day)
        away = day * SECONDS_PER_DAY + growing.start_second[users[rows]] - served._state.clock[rows]
        assert away == pytest.approx(AWAY_DAYS * SECONDS_PER_DAY)
        came.append(users_of(served.serve(day, 15, models)))
    assert [len(each) for each in came] == [15] * 3 and len(np.unique(np.concatenate(came))) == 45
    with pytest.raises(ConfigurationError, match="fresh users"):
        served.serve(3, len(users), models)
    other = Traffic(growing, users, PIPELINE, 1, 1, plan)
    assert not np.array_equal(users_of(other.serve(0, 15, models)), came[0])


def test_hours_share_out_the_visits_of_the_day(growing, models):
    daily = traffic(growing, TrafficPlan(visits_per_day=20))
    hourly = traffic(growing, TrafficPlan(visits_per_day=20, period_hours=1))
    for day in (0, 1):
        whole = daily.serve(day, 20, models)
        parts = [hourly.serve(24 * day + hour, 20, models) for hour in range(24)]
        assert sum(part.visits for part in parts) == 20 and max(part.visits for part in parts) < 20
        assert_array_equal(np.sort(np.concatenate([users_of(part) for part in parts])), users_of(whole))
        assert sum(part.clicks for part in parts) == whole.clicks
        for hour, part in enumerate(parts):
            if part.visits:
                clock = part.events.table["clock"].to_numpy()
                assert (clock // 3600 == 24 * day + hour).all()
            else:
                assert part.click_rate == part.engagement == part.unseen_share == 0


def test_beginnings_are_made_together_once_and_shared(growing, models, monkeypatch):
    """With the first users who come all others are made, as long as there are few; then nobody is made again."""
    plan, users = TrafficPlan(visits_per_day=20), growing.simulated_users
    make, counts = type(growing).start_state, []

    def start_state(self, users, lap):
        counts.append(len(users))
        return make(self, users, lap)

    monkeypatch.setattr(type(growing), "start_state", start_state)

    def days(together: int, beginnings: Beginnings | None) -> list:
        monkeypatch.setattr("agents.updates.traffic.MADE_TOGETHER", together)
        served = traffic(growing, plan, beginnings=beginnings)
        return [served.serve(day, 20, models).events.table.drop(["propensity", "rating"]) for day in range(3)]

    alone = days(1, None)
    assert len(counts) > 1 and sum(counts) < len(users)
    counts.clear()
    shared = Beginnings(growing, users, PIPELINE.history_size)
    assert days(2_048, shared) == days(2_048, shared) == alone
    assert counts == [len(users)]


def test_wandering_modifiers_are_heard(fitted):
    """The step of a user's interest between two visits is the modifier's."""
    plain = made(scenario("slow_drift", fitted=fitted, days=6, visits_per_day=10))
    still = replace(
        plain, user_model=replace(plain.user_model, modifiers=(replace(plain.user_model.modifiers[0], shared=1.0),))
    )
    moved = []
    for world in (plain, still):
        served = traffic(world, TrafficPlan())
        rows = np.arange(20)
        served._begin(rows, 0)
        before = served._state.interest.long_term[rows].copy()
        rate, centre = world.user_model.modifiers[0].rest(world.user_model.scenes[0])
        away = 1 + AWAY_DAYS
        rested = centre + np.exp(-rate * away) * (before - centre)
        moved.append(served._arrive(rows, 1).interest.long_term - rested)
    # with all of the walk shared, users who were away about equally long move about alike
    assert moved[1].std(axis=0).mean() < 0.4 * moved[0].std(axis=0).mean()
    assert np.abs(moved[1]).max() > 0


def test_the_ranker_orders_the_slates(growing):
    models = ServedModels(EmbeddingConfig(dimension=4, iterations=2), ranker=None).fit(growing.policy_log)

    class Backwards:
        """The same models, but the larger an item's number, the better."""

        def __getattr__(self, name):
            return getattr(models, name)

        def rank(self, observation):
            return observation.candidates.items.astype(np.float32)

    pipeline = replace(PIPELINE, freshness=0.0)
    day = Traffic(growing, growing.simulated_users, pipeline, 1, 0).serve(0, 10, Backwards())
    slates = np.array(day.events.table["slate"].to_pylist())
    candidates = np.array(day.events.table["candidates"].to_pylist())
    assert_array_equal(slates, -np.sort(-candidates, axis=1)[:, :10])
    assert_array_equal(day.scores, slates)


def test_a_world_without_anybody_there_yet_has_no_traffic(fitted):
    world = build_world(*fitted(), WorldConfig(days=3, arrivals_per_day=3.0), progress=False)
    arriving = np.arange(world.first_arriving, world.num_users)
    late = arriving[world.start_day[arriving] > 0]
    models = ServedModels(EmbeddingConfig(dimension=4, iterations=1), ranker=None).fit(world.policy_log)
    served = Traffic(world, late, PIPELINE, 1, 0, TrafficPlan(visits_per_day=5, grows=True))
    day = served.serve(0, served.due_visits(0), models)
    assert day.visits == 0 and day.engagement == day.click_rate == day.unseen_share == 0


def test_models_know_what_the_crowd_consumed_last_but_nothing_of_who_is_still_to_come(fitted):
    small = UpdateConfig(days=6, ranker=None, pipeline=PIPELINE, embedding=EmbeddingConfig(dimension=4, iterations=1))
    market = Market.of(scenario("growth", fitted=fitted, days=6, visits_per_day=20, doubling_days=3.0, seed=1), small)
    world, log = market.world, market.log
    drawn = np.flatnonzero((np.arange(world.num_users) >= world.num_logged) & (world.start_day <= 0))
    items, days = world.history(20, drawn)
    for place, user in enumerate(drawn):
        rows = log.user == user
        there = items[place] >= 0
        assert_array_equal(log.item[rows][::-1], items[place][there])
        # histories that requests show are of the same moments
        seconds = (days[place][there] - AWAY_DAYS) * SECONDS_PER_DAY
        assert np.abs(log.timestamp[rows][::-1] - world.reference_time - seconds).max(initial=0) < 2
    assert (log.timestamp < world.reference_time + SECONDS_PER_DAY).all()
    assert set(np.unique(log.user)) == {*np.unique(world.policy_log.consumed().user), *drawn[items[:, 0] >= 0]}
    fresh = Market.of(scenario("stationary", fitted=fitted, days=6, visits_per_day=20), small)
    assert len(fresh.log) == len(fresh.world.policy_log.consumed())
