from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.updates.models import ServedModels
from agents.updates.traffic import AWAY_DAYS, PipelineConfig, Traffic
from envs.catalogue import SECONDS_PER_DAY
from recall.embedding import EmbeddingConfig

PIPELINE = PipelineConfig(num_candidates=40)


@pytest.fixture(scope="module")
def models(world) -> ServedModels:
    return ServedModels(EmbeddingConfig(iterations=3)).fit(world.policy_log)


def traffic(world, pipeline: PipelineConfig = PIPELINE, seed: int = 0, requests: int = 3) -> Traffic:
    return Traffic(world, np.arange(world.num_users), pipeline, requests, seed)


def test_a_day_is_summed_from_its_events(world, models):
    day = traffic(world).serve(0, 50, models)
    table = day.events.table
    assert len(table) == day.requests == 150 and day.visits == 50
    assert day.clicks == (table["item"].to_numpy() >= 0).sum()
    assert day.shown == (np.array(table["slate"].to_pylist()) >= 0).sum()
    assert day.engagement == day.clicks / 50 and day.click_rate == day.clicks / 150


def test_everybody_visits_at_most_once_a_day_and_days_differ(world, models):
    served = traffic(world)
    visitors = [np.unique(served.serve(day, 50, models).events.table["log_user"].to_numpy()) for day in (0, 1)]
    assert [len(users) for users in visitors] == [50, 50]
    assert not np.array_equal(*visitors)
    assert served.serve(2, 10 * world.num_users, models).visits == world.num_users


def test_clocks_lie_on_the_day_and_time_since_consumption_grows(world, models):
    served = traffic(world)
    rows = np.arange(world.num_users)
    ages = []
    for day in (0, 3):
        visitors = served._arrive(rows, day)
        assert (visitors.clock // SECONDS_PER_DAY == day).all()
        observation = served._observe(rows, visitors, models.recall.user_vectors(served._history[rows]), models)
        ages.append(observation.history_days)
    known = served._history >= 0
    assert (ages[0][known] >= 0).all() and ages[0][known].max() > 0
    assert ages[1][known] - ages[0][known] == pytest.approx(3, abs=1e-2)


def test_interests_decay_and_wander_between_visits(world):
    served = traffic(world)
    rows = np.arange(world.num_users)
    start = served._state.interest
    model = world.user_model
    half_life = model.params.short_half_life_days
    for day in (0, 20):
        away = AWAY_DAYS + day
        arrived = served._arrive(rows, day).interest
        np.testing.assert_allclose(
            arrived.short_term, start.short_term * 0.5 ** (away / half_life), rtol=1e-4, atol=1e-7
        )
        moved = arrived.long_term - start.long_term
        assert moved.std() == pytest.approx(model.params.walk_sd * np.sqrt(away), rel=0.1)


def test_the_last_slot_explores_the_young_only(world, models):
    served = traffic(world, requests=1)
    served.serve(0, 1, models)
    day = served.serve(5, 60, models)
    slates = np.array(day.events.table["slate"].to_pylist())
    age = 5 + 1 - world.birth_clock[slates[:, -1]] / SECONDS_PER_DAY
    assert (slates[:, -1] >= 0).all()
    assert (age <= PIPELINE.explore_days + 1).all()
    # and it shows many of them, not the same to all
    assert len(np.unique(slates[:, -1])) > 5


def test_without_exploration_all_slots_are_ranked(world, models):
    pipeline = replace(PIPELINE, explore_slots=0)
    day = traffic(world, pipeline).serve(0, 30, models)
    slates = np.array(day.events.table["slate"].to_pylist())
    candidates = np.array(day.events.table["candidates"].to_pylist())
    assert (slates >= 0).all()
    assert all(np.isin(slate, row).all() for slate, row in zip(slates, candidates, strict=True))


def test_served_vectors_follow_the_history(world, models):
    """Keeping the vectors of those who clicked nothing gives what computing all anew would."""
    served = traffic(world)
    rows = np.arange(40)
    whole = models.recall.user_vectors(served._history[rows])
    parts = [models.recall.user_vectors(served._history[rows[start : start + 7]]) for start in range(0, 40, 7)]
    assert_array_equal(whole, np.concatenate(parts))


def test_clicks_enter_the_observed_history_and_are_not_offered_again(world, models):
    served = traffic(world)
    before = served._history.copy()
    table = served.serve(0, world.num_users, models).events.table
    user, item = table["log_user"].to_numpy(), table["item"].to_numpy()
    clicked = item >= 0
    for who in np.unique(user[clicked]):
        mine = item[clicked & (user == who)][::-1]
        assert_array_equal(served._history[who], np.concatenate([mine, before[who]])[: before.shape[1]])
    again = served.serve(1, world.num_users, models).events.table
    consumed = set(zip(user[clicked].tolist(), item[clicked].tolist(), strict=True))
    shown = {
        (who, shown)
        for who, slate in zip(again["log_user"].to_pylist(), again["slate"].to_pylist(), strict=True)
        for shown in slate
    }
    assert consumed and not consumed & shown
