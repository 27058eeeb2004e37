import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from update_runs import run, same, varied

from agents.updates.environment import ModelUpdateEnv, UpdateConfig
from agents.updates.monitoring import Monitoring
from agents.updates.traffic import PipelineConfig
from envs.errors import ConfigurationError

PLAN = [0, 1, 2, 0, 1, 2]


def test_gymnasium_accepts_it(env):
    check_env(env, skip_render_check=True)


def test_stable_baselines_accepts_it(env):
    check_env_sb3(env)


def test_it_is_made_by_name_from_its_package():
    made = gymnasium.make("agents:driftrec/ModelUpdate-v0", config=UpdateConfig(days=1, visits_per_day=5))
    observation, _ = made.reset(seed=0)
    assert made.observation_space.contains(observation)


def test_same_seed_and_actions_give_the_same_bits(world, config, env):
    first = run(env, PLAN, seed=3)
    # other episodes in between leave no trace
    run(env, [2, 2], seed=4)
    assert same(first, run(env, PLAN, seed=3))
    assert same(first, run(ModelUpdateEnv(world, config), PLAN, seed=3))
    assert not same(first, run(env, PLAN, seed=4))


def test_an_episode_is_truncated_after_its_days_and_must_be_reset(env, config):
    days = run(env, [0] * config.days)
    assert [day[3] for day in days] == [False] * (config.days - 1) + [True]
    assert not any(day[2] for day in days)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_step_before_reset_is_refused(env):
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


@pytest.mark.parametrize("action", [3, -1, "refit", None])
def test_an_unknown_action_is_refused_by_name(env, action):
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"keep.*incremental.*refit"):
        env.step(action)


def test_cost_is_the_price_of_half_passes_over_the_interactions(world, config, env):
    days = run(env, [0, 2])
    clicks_of_day_0 = days[0][4]["clicks"]
    # nobody consumes an item twice here, so interactions are rows
    interactions = world.policy_log.clicked.sum() + clicks_of_day_0
    samples = 2 * config.embedding.iterations * interactions
    assert days[0][4]["trained_samples"] == 0 and days[0][4]["cost"] == 0
    assert days[1][4]["trained_samples"] == samples
    assert days[1][4]["cost"] == pytest.approx(config.price_per_million_samples * samples / 1e6, rel=1e-12)
    assert days[1][1] == pytest.approx(days[1][4]["engagement"] - days[1][4]["cost"], abs=1e-12)


def test_an_incremental_update_costs_the_rows_of_those_it_touches(world, config, env):
    run(env, [0])
    events = env.history[0].events.to_log(world.policy_log, world.reference_time).consumed()
    before = world.policy_log.consumed()
    users, items = np.unique(events.user), np.unique(events.item)
    by_user = np.isin(before.user, users).sum() + len(events)
    by_item = np.isin(before.item, items).sum() + len(events)
    info = env.step(1)[4]
    assert info["trained_samples"] == config.embedding.update_passes * (by_user + by_item)


def test_an_update_without_events_costs_nothing_and_changes_nothing(env):
    env.reset(seed=0)
    vectors = env.models.recall.item_vectors_.copy()
    info = env.step(1)[4]
    assert info["action_taken"] == 1 and info["trained_samples"] == 0
    assert_array_equal(env.models.recall.item_vectors_, vectors)


def test_an_exhausted_budget_turns_updates_into_keep(world, config):
    env = ModelUpdateEnv(world, varied(config, budget_refits=1.5))
    infos = [day[4] for day in run(env, [2, 2, 2, 1, 0])]
    # the second refit begins with half a refit left and overdraws
    assert [info["action_taken"] for info in infos] == [2, 2, 0, 0, 0]
    assert [info["budget_exhausted"] for info in infos] == [False, False, True, True, False]
    assert infos[0]["budget_left"] == pytest.approx(1 / 3) and infos[1]["budget_left"] == 0
    assert sum(info["trained_samples"] for info in infos[2:]) == 0


def test_without_a_budget_nothing_is_updated(world, config):
    env = ModelUpdateEnv(world, varied(config, budget_refits=0))
    assert [day[4]["action_taken"] for day in run(env, [2, 1])] == [0, 0]


def test_a_day_without_traffic_is_no_division_by_zero(world, config):
    env = ModelUpdateEnv(world, varied(config, visits_per_day=0))
    for observation, reward, _, _, info in run(env, [0, 1, 2]):
        assert env.observation_space.contains(observation)
        assert info["visits"] == info["clicks"] == 0
        assert math.isclose(reward, -info["cost"])


def test_traffic_follows_the_weekday(world, config):
    coming = world.reference_weekday
    factors = tuple(0.0 if day == (coming + 1) % 7 else 0.5 for day in range(7))
    env = ModelUpdateEnv(world, varied(config, weekday_traffic=factors))
    days = run(env, [0, 0, 0])
    assert [day[4]["visits"] for day in days] == [20, 0, 20]
    # a closed day leaves the last known click rate and its trend
    assert days[1][0][:2].tolist() == days[0][0][:2].tolist()


def test_visits_do_not_depend_on_the_actions(env):
    visitors = [
        [np.unique(day.events.table["log_user"].to_numpy()).tolist() for day in env.history]
        for plan in ([0, 0, 0], [2, 1, 2])
        if run(env, plan)
    ]
    assert visitors[0] == visitors[1]


def test_monitoring_tells_ages_events_and_budget(env, config):
    *_, last = run(env, [0, 2, 0, 1])
    seen = Monitoring.from_array(last[0])
    assert seen.days_since_refit == pytest.approx(3) and seen.days_since_update == pytest.approx(1)
    assert seen.clicks_since_update == pytest.approx(last[4]["clicks"])
    assert seen.budget_left == pytest.approx(last[4]["budget_left"])
    assert seen.click_rate == pytest.approx(last[4]["clicks"] / last[4]["requests"])
    assert seen.unseen_share == pytest.approx(last[4]["unseen_share"])
    assert seen.day_share == pytest.approx(4 / config.days)
    rates = [day.click_rate for day in env.history]
    assert seen.click_trend == pytest.approx(rates[3] - np.mean(rates[:3]), abs=1e-6)


def test_monitoring_survives_the_array():
    monitoring = Monitoring(
        click_rate=0.2,
        click_trend=-0.01,
        unseen_share=0.05,
        days_since_refit=12,
        days_since_update=3,
        clicks_since_update=700,
        budget_left=0.4,
        weekday_sin=0.5,
        weekday_cos=-0.5,
        day_share=0.6,
    )
    back = Monitoring.from_array(monitoring.to_array())
    assert all(getattr(back, name) == pytest.approx(value, rel=1e-6) for name, value in vars(monitoring).items())


def test_the_observation_comes_from_events_alone(env, world):
    """Recomputed from the event log, the catalogue and what was done: nothing hidden is needed to make it."""
    known = world.policy_log.item_counts() > 0
    env.reset(seed=1)
    for action in (0, 0, 1, 2, 0):
        if action:
            for day in env.history:
                known |= day.events.to_log(world.policy_log, world.reference_time).item_counts() > 0
        observation = env.step(action)[0]
        table = env.history[-1].events.table
        slates = np.array(table["slate"].to_pylist())
        seen = Monitoring.from_array(observation)
        assert seen.click_rate == pytest.approx((table["item"].to_numpy() >= 0).mean())
        assert seen.unseen_share == pytest.approx((~known[slates[slates >= 0]]).mean(), abs=1e-7)


def test_perturbed_users_change_nothing_of_the_first_request(world, config):
    """Until somebody answers, slates depend on logs and public features only."""
    model = world.user_model
    other = replace(world, user_model=replace(model, item_bias=model.item_bias[::-1].copy()), outside=-3.0)
    tables = []
    for place in (world, other):
        env = ModelUpdateEnv(place, varied(config, requests_per_visit=1, days=1))
        env.reset(seed=0)
        env.step(0)
        tables.append(env.history[0].events.table)
    assert tables[0]["slate"].to_pylist() == tables[1]["slate"].to_pylist()
    assert tables[0]["candidates"].to_pylist() == tables[1]["candidates"].to_pylist()
    assert tables[0]["item"].to_pylist() != tables[1]["item"].to_pylist()


def test_nothing_unborn_or_consumed_is_shown(env, world, config):
    run(env, [0] * config.days)
    consumed = np.unpackbits(
        world.seen(np.arange(world.num_users)), axis=1, bitorder="little", count=world.num_items
    ).astype(bool)
    young = 0
    for day in env.history:
        events = day.events.to_log(world.policy_log, world.reference_time)
        assert (events.timestamp - world.reference_time >= world.birth_clock[events.item]).all()
        assert not consumed[events.user, events.item].any()
        young += world.born_in_run[events.item].sum()
        consumed[events.user[events.clicked], events.item[events.clicked]] = True
    assert young > 0


def test_no_slate_holds_an_item_twice(env, config):
    run(env, [1] * config.days)
    for day in env.history:
        for slate in day.events.table["slate"].to_pylist():
            shown = [item for item in slate if item >= 0]
            assert len(set(shown)) == len(shown)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("days", 0),
        ("visits_per_day", -1),
        ("requests_per_visit", 0),
        ("price_per_million_samples", -1.0),
        ("budget_refits", float("nan")),
        ("weekday_traffic", (1.0,) * 6),
        ("weekday_traffic", (2.0,) * 7),
    ],
)
def test_a_configuration_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        UpdateConfig(**{name: value})


def test_a_pipeline_or_users_that_do_not_fit_are_refused(world, config):
    with pytest.raises(ConfigurationError, match="num_candidates"):
        ModelUpdateEnv(world, varied(config, pipeline=PipelineConfig(num_candidates=world.num_items + 1)))
    with pytest.raises(ConfigurationError, match="explore_slots"):
        PipelineConfig(explore_slots=10, slate_size=10)
    with pytest.raises(ConfigurationError, match="users"):
        ModelUpdateEnv(world, config, users=np.array([world.num_users]))


def test_render_tells_the_last_day(env):
    env.reset(seed=0)
    assert env.render() == "No day yet."
    env.step(0)
    assert "models 0.0, 40 visits" in env.render()
