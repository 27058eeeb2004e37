import math
import pickle
from dataclasses import replace
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from update_runs import run, same, varied

from agents.rankers.log_history import LogHistory
from agents.updates.costs import Prices
from agents.updates.environment import ModelUpdateEnv
from agents.updates.episode import known_action
from agents.updates.gate import GateConfig
from agents.updates.market import Market, UpdateConfig
from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.traffic import PipelineConfig
from envs.errors import ConfigurationError
from envs.event_log import EventLog, matrix
from envs.measures import consumed_diversity

KEEP, RECALL, RANKER, BOTH, BACK, CHALLENGER, RETRAIN = UpdateAction
PLAN = [KEEP, RECALL, RANKER, CHALLENGER, RETRAIN, BACK]


def infos(steps: list[tuple]) -> list[dict]:
    return [step[4] for step in steps]


def test_gymnasium_accepts_it(env):
    check_env(env, skip_render_check=True)


def test_stable_baselines_accepts_it(env):
    check_env_sb3(env, warn=False)


def test_it_is_made_by_name_from_its_package(market):
    made = gymnasium.make("agents:driftrec/ModelUpdate-v0", market=market)
    observation, info = made.reset(seed=0)
    assert made.observation_space.contains(observation) and made.action_space.n == 7
    assert info["action_mask"].tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_same_seed_and_actions_give_the_same_bits(market, world, config, env):
    first = run(env, PLAN, seed=3)
    # other episodes in between leave no trace, nor does being sent to another process
    run(env, [KEEP, RETRAIN], seed=4)
    assert same(first, run(env, PLAN, seed=3))
    assert same(first, run(ModelUpdateEnv(pickle.loads(pickle.dumps(market))), PLAN, seed=3))
    assert same(first[:2], run(ModelUpdateEnv(world, config), PLAN[:2], seed=3))
    assert not same(first[:1], run(env, PLAN[:1], seed=4))


def test_a_market_in_memory_that_nobody_may_write_to_gives_the_same_bits(world, config, env):
    """As Ray hands on what its tasks share."""
    buffers: list[pickle.PickleBuffer] = []
    fresh = pickle.dumps(Market(world, config), protocol=5, buffer_callback=buffers.append)
    shared = pickle.loads(fresh, buffers=[memoryview(buffer.raw()).toreadonly() for buffer in buffers])
    assert same(run(env, PLAN, seed=3), run(ModelUpdateEnv(shared), PLAN, seed=3))


def test_an_episode_is_truncated_after_its_days_and_must_be_reset(env, config):
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(KEEP)
    days = run(env, [KEEP] * config.days)
    assert [day[3] for day in days] == [False] * (config.days - 1) + [True]
    assert not any(day[2] for day in days)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(KEEP)


@pytest.mark.parametrize("action", [7, -1, "retrain", None, 1.9, 1.0, "3", np.float32(1)])
def test_an_unknown_action_is_refused_by_name(env, action):
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"keep.*update_both.*roll_back.*challenger.*full_retrain"):
        env.step(action)


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1), RECALL])
def test_a_whole_number_of_any_kind_is_an_action(action):
    assert known_action(action) is RECALL


# ---------------------------------------------------------------------- actions
def test_what_cannot_be_done_is_masked_and_taken_as_keep(env):
    """On the first day there is nothing to learn and nothing to go back to; an update leaves the other part's data new."""
    _, info = env.reset(seed=0)
    plan = [BACK, RETRAIN, RECALL, RECALL, BACK]
    masks = [info["action_mask"].tolist()]
    kept = ModelUpdateEnv(env.market)
    kept.reset(seed=0)
    for action in plan:
        _, reward, _, _, info = env.step(action)
        assert info["action_taken"] == (action if masks[-1][action] else KEEP)
        assert info["rejected"] == (not masks[-1][action])
        masks.append(info["action_mask"].tolist())
        if action == BACK and len(masks) == 2:
            assert reward == kept.step(KEEP)[1]
    assert masks[0] == [1, 0, 0, 0, 0, 0, 0]
    assert masks[1] == [1, 1, 1, 1, 0, 1, 1]  # a day of clicks
    assert masks[2] == [1, 1, 1, 1, 1, 1, 1]  # a full retrain can be undone


def test_every_part_learns_what_it_has_not_learnt_and_costs_its_work(env, market, world):
    run(env, [KEEP, RECALL], seed=1)
    before = env.models.snapshot()
    events = EventLog.joined([day.events for day in env.history[:2]]).clicked()
    info = env.step(RANKER)[4]
    # the ranker had learnt from neither day; recall stays
    log = events.to_log(world.policy_log, world.reference_time)
    twin = type(env.models).of(market.first)
    cost = twin.update_ranker(log)
    assert info["trained_samples"] == cost.samples > 0 and info["work"] == cost.work
    assert_array_equal(env.models.ranker.coefficients_, twin.ranker.coefficients_)
    assert_array_equal(env.models.recall.item_vectors_, before.recall.item_vectors_)
    assert info["cost"] == pytest.approx(market.config.prices.of(cost), rel=1e-12)


def test_a_full_retrain_learns_from_the_log_and_all_events(env, market, world):
    run(env, [KEEP, KEEP], seed=1)
    clicks = sum(day.clicks for day in env.history)
    info = env.step(RETRAIN)[4]
    assert env.models.counts_.sum() == len(market.log) + clicks
    assert info["work"] == pytest.approx(market.first_cost.work, rel=0.2)


def test_an_update_learns_nothing_twice_and_the_next_full_retrain_all_again(env, market, world):
    run(env, [KEEP, BOTH], seed=1)
    twin = type(env.models).of(env.models.snapshot())
    info = env.step(BOTH)[4]
    log = env.history[1].events.clicked().to_log(world.policy_log, world.reference_time)
    assert info["work"] == (twin.update_recall(log) + twin.update_ranker(log)).work > 0
    assert_array_equal(env.models.recall.item_vectors_, twin.recall.item_vectors_)
    assert_array_equal(env.models.ranker.coefficients_, twin.ranker.coefficients_)
    for _ in range(2):
        clicks = sum(day.clicks for day in env.history)
        env.step(RETRAIN)
        assert env.models.counts_.sum() == len(market.log) + clicks


def test_an_update_leaves_the_age_of_a_part_that_has_nothing_new(world, config):
    """The second day is closed: by the third, recall has the first day to learn from, and the ranker has learnt it."""
    factors = tuple(float(day != (world.reference_weekday + 1) % 7) for day in range(7))
    env = ModelUpdateEnv(world, varied(config, weekday_traffic=factors))
    _, second, third = run(env, [KEEP, RANKER, BOTH])
    assert second[4]["visits"] == 0 and third[4]["action_taken"] == BOTH and third[4]["work"] > 0
    seen = Monitoring.from_array(third[0])
    assert (seen.recall_age, seen.ranker_age) == pytest.approx((1, 2))


def test_a_window_forgets_what_is_older(world, config):
    env = ModelUpdateEnv(world, varied(config, window_days=1.0))
    run(env, [KEEP, KEEP, RETRAIN])
    assert env.models.window.first >= world.reference_time + 86_400
    assert env.models.counts_.sum() == env.history[1].clicks


def test_rolling_back_restores_served_scores_to_the_bit(env, market):
    inputs = LogHistory(market.log, 50).inputs(np.arange(40), np.tile(np.arange(20, dtype=np.int32), (40, 1)))
    run(env, [KEEP], seed=2)
    scores = [env.models.score(inputs)]
    for action in (RETRAIN, RECALL, BACK, BACK):
        info = env.step(action)[4]
        assert info["action_taken"] == action
        scores.append(env.models.score(inputs))
    assert not np.array_equal(scores[0], scores[1])
    assert_array_equal(scores[3], scores[1])
    assert_array_equal(scores[4], scores[0])
    assert info["model_version"] == 1 and not info["action_mask"][BACK]
    seen = env.monitoring
    # ages are those of what serves again, and what it has not learnt from is new again
    assert seen.recall_age == seen.retrain_age == 5 and seen.clicks_since_training == sum(d.clicks for d in env.history)


def test_versions_have_parents_where_they_were_made_from_them(env):
    run(env, [KEEP, RANKER, RETRAIN, BOTH, BACK, RECALL], seed=1)
    registry = env.episode.registry
    assert [version.parents for version in registry.versions()] == [(), (1,), (), (3,), (3,)]
    assert registry.history()["made_by"].to_list()[2] == "full retrain"


def test_a_challenger_serves_only_once_the_gate_lets_it(env):
    first, second, third, fourth = infos(run(env, [KEEP, CHALLENGER, KEEP, CHALLENGER], seed=0))
    assert second["work"] > 0 and second["model_version"] == first["model_version"] and second["gate"] is None
    assert third["work"] == 0
    assert fourth["work"] == 0 and fourth["gate"] and fourth["promoted"] == (fourth["model_version"] == 2)
    seen = env.monitoring
    assert seen.challenger_age == -1
    assert seen.retrain_age == (1 if fourth["promoted"] else 4)


def test_a_challenger_as_good_serves_and_its_age_is_that_of_its_training(world, config, monkeypatch):
    market = Market(world, varied(config, gate=replace(config.gate, ndcg_margin=0.9, recall_margin=0.9)))
    train, trained = market.trained, []
    monkeypatch.setattr(market, "trained", lambda log: trained.append(train(log)) or trained[-1])
    env = ModelUpdateEnv(market)
    *_, last = infos(run(env, [KEEP, CHALLENGER, KEEP, CHALLENGER], seed=0))
    assert last["promoted"] and "non-inferior" in last["gate"]
    ((challenger, _),) = trained
    assert env.models is challenger
    seen = env.monitoring
    assert seen.recall_age == seen.ranker_age == 3 and seen.retrain_age == 1
    newest = env.episode.registry.serving
    assert newest.parents == ()  # it learnt from data alone
    assert newest.made_by == "challenger" and newest.metrics["gate_events"] >= 20


def test_a_broken_challenger_never_goes_live(world, config, monkeypatch):
    """Of eight seeds, with a ranker whose coefficients are reversed and embeddings that are shuffled among the items."""
    market = Market(world, varied(config, days=4, visits_per_day=150))
    train = market.trained

    def broken(log):
        models, cost = train(log)
        models.ranker.coefficients_ = -models.ranker.coefficients_
        models.recall._set_items(models.recall.item_vectors_[::-1].copy())
        return models, cost

    monkeypatch.setattr(market, "trained", broken)
    env = ModelUpdateEnv(market)
    judged = [infos(run(env, [KEEP, CHALLENGER, KEEP, CHALLENGER], seed=seed))[-1] for seed in range(8)]
    assert all(info["gate"] and not info["promoted"] and info["model_version"] == 1 for info in judged)
    assert any("ndcg" in info["gate"] for info in judged)  # there were events enough to tell


def test_a_challenger_waits_until_there_are_clicks_enough_to_judge_it_by(world, config):
    slow = varied(config, days=8, visits_per_day=20, gate=GateConfig(min_events=30, min_users=2))
    env = ModelUpdateEnv(Market(world, slow))
    run(env, [KEEP, CHALLENGER])
    waited = 0
    while not (enough := env.unwrapped.episode.action_mask[CHALLENGER]):
        seen, *_, info = env.step(CHALLENGER)
        assert info["rejected"] and info["gate"] is None and Monitoring.from_array(seen).challenger_age > 0
        waited += 1
    assert waited and enough and env.step(CHALLENGER)[4]["gate"]


def test_a_challenger_on_trial_serves_its_share_and_is_judged_by_its_clicks(world, config):
    sharing = varied(config, challenger_share=0.3, visits_per_day=200, requests_per_visit=1)
    env = ModelUpdateEnv(world, sharing)
    run(env, [KEEP, CHALLENGER, KEEP], seed=0)
    versions = [np.array(day.events.table["policy_version"].to_pylist()) for day in env.history]
    users = [day.events.table["log_user"].to_numpy() for day in env.history]
    tried = [np.unique(who[version == "challenger 1"]) for who, version in zip(users, versions, strict=True)]
    assert not len(tried[0]) and 30 < len(tried[1]) < 90 and 30 < len(tried[2]) < 90
    # always the same users, whose scores are not the champion's
    for day in (1, 2):
        assert_array_equal(np.intersect1d(tried[day], users[3 - day]), np.intersect1d(tried[day], tried[3 - day]))
        assert_array_equal(np.isnan(env.history[day].scores).all(axis=1), versions[day] == "challenger 1")
    assert env.history[2].visits == 200
    asked = []
    judge = env.episode.gate.judge
    env.episode.gate.judge = lambda *given: asked.append(given[-1]) or judge(*given)
    env.step(CHALLENGER)
    (traffic,) = asked
    assert traffic.challenger_requests.sum() == sum((version == "challenger 1").sum() for version in versions)
    assert traffic.champion_requests.sum() + traffic.challenger_requests.sum() == 400
    assert traffic.champion_clicks.sum() + traffic.challenger_clicks.sum() == sum(d.clicks for d in env.history[1:3])


# ---------------------------------------------------------------------- cost and budget
def test_a_daily_retrain_never_exhausts_the_default_budget(world, config):
    market = Market(world, varied(config, days=8))
    steps = infos(run(ModelUpdateEnv(market), [RETRAIN] * 8))
    assert [info["action_taken"] for info in steps] == [KEEP] + [RETRAIN] * 7
    assert steps[-1]["budget_left"] > 0
    # nor would it, if every request ended in a click: then the log of day d has all requests before it
    rows = len(market.log) + np.arange(8) * config.visits_per_day * config.requests_per_visit
    assert market.budget >= market.first_cost.work * (rows / rows[0]).sum()


def test_the_default_budget_holds_where_clicks_outnumber_the_log(world, config):
    market = Market(world, varied(config, days=50, visits_per_day=400))
    rows = len(market.log) + np.arange(50) * 400.0 * config.requests_per_visit
    assert (rows / rows[0]).sum() > 100
    assert market.budget == pytest.approx(market.first_cost.work * (rows / rows[0]).sum())


def test_an_exhausted_budget_turns_training_into_keep(world, config):
    env = ModelUpdateEnv(world, varied(config, budget_retrains=1.5))
    steps = infos(run(env, [KEEP, RETRAIN, RETRAIN, RETRAIN, BOTH, BACK]))
    # the second retrain begins with some of the budget left and overdraws
    assert [info["action_taken"] for info in steps] == [KEEP, RETRAIN, RETRAIN, KEEP, KEEP, BACK]
    assert 0 < steps[1]["budget_left"] < 0.5 and steps[2]["budget_left"] == 0
    assert sum(info["work"] for info in steps[3:]) == 0
    assert steps[3]["action_mask"].tolist() == [1, 0, 0, 0, 1, 0, 0]


def test_without_a_budget_nothing_is_trained(world, config):
    env = ModelUpdateEnv(world, varied(config, budget_retrains=0))
    assert [info["action_taken"] for info in infos(run(env, [KEEP, RETRAIN, CHALLENGER]))] == [KEEP] * 3


def test_the_reward_weighs_the_vector(world, config):
    weights = (1.0, 0.5, 0.25, 2.0)
    env = ModelUpdateEnv(world, varied(config, weights=weights))
    for _, reward, _, _, info in run(env, [KEEP, RETRAIN], seed=5):
        vector = info["vector"]
        assert vector.tolist() == [info["engagement"], info["diversity"], info["freshness"], -info["cost"]]
        assert reward == pytest.approx(np.dot(weights, vector)) and info["diversity"] > 0
    plain = ModelUpdateEnv(world, config)
    _, reward, _, _, info = run(plain, [KEEP, RETRAIN], seed=5)[1]
    assert info["cost"] > 0 and reward == pytest.approx(info["engagement"] - info["cost"], abs=1e-15)


def test_diversity_and_freshness_are_those_of_consumption_by_the_event_log(world, config):
    env = ModelUpdateEnv(world, varied(config, requests_per_visit=1))
    _, info = [run(env, [KEEP, KEEP], seed=1)[1][at] for at in (0, 4)]
    table = env.history[1].events.table
    item, user, clock = (table[name].to_numpy() for name in ("item", "log_user", "clock"))
    history = world.history(50)[0]
    first = env.history[0].events.table
    for who, what in zip(first["log_user"].to_numpy(), first["item"].to_numpy(), strict=True):
        if what >= 0:
            history[who] = np.append(what, history[who][:-1])
    diverse = consumed_diversity(world.policy_log.catalogue.directions, item, history[user])
    young = (item >= 0) & ((clock - world.birth_clock[item]) / 86_400 < world.config.fresh_days)
    assert info["diversity"] == pytest.approx(diverse.sum() / 40, rel=1e-5)
    assert info["freshness"] == pytest.approx(young.sum() / 40)


# ---------------------------------------------------------------------- traffic
def test_periods_without_traffic_are_no_division_by_zero_and_nothing_to_learn(world, config):
    env = ModelUpdateEnv(world, varied(config, visits_per_day=0))
    for observation, reward, _, _, info in run(env, [KEEP, RETRAIN, BOTH, CHALLENGER]):
        assert env.observation_space.contains(observation)
        assert info["visits"] == info["clicks"] == info["work"] == 0 and info["action_taken"] == KEEP
        assert math.isclose(reward, 0)


def test_traffic_follows_the_weekday(world, config):
    coming = world.reference_weekday
    factors = tuple(0.0 if day == (coming + 1) % 7 else 0.5 for day in range(7))
    env = ModelUpdateEnv(world, varied(config, weekday_traffic=factors))
    days = run(env, [KEEP] * 3)
    assert [day[4]["visits"] for day in days] == [20, 0, 20]
    # a closed day leaves what is known of the last one
    assert days[1][0][:5].tolist() == days[0][0][:5].tolist()


def test_visits_do_not_depend_on_the_actions(env):
    visitors = [
        [np.unique(day.events.table["log_user"].to_numpy()).tolist() for day in env.history]
        for plan in ([KEEP] * 3, [KEEP, RETRAIN, BOTH])
        if run(env, plan)
    ]
    assert visitors[0] == visitors[1]


def test_late_events_are_learnt_late(world, config):
    env = ModelUpdateEnv(world, varied(config, event_delay=24.0))
    first, second, third = run(env, [RETRAIN, RETRAIN, RETRAIN], seed=1)
    assert [step[4]["action_taken"] for step in (first, second, third)] == [KEEP, KEEP, RETRAIN]
    assert env.models.counts_.sum() == len(env.market.log) + env.history[0].clicks
    assert env.models.window.last < world.reference_time + 86_400
    # what users do is seen at once, what may be learnt from is not
    assert Monitoring.from_array(first[0]).engagement > 0 == Monitoring.from_array(first[0]).clicks_since_training


def test_hours_are_periods_of_the_same_days(world, config):
    hourly = varied(config, days=2, period_hours=12)
    env = ModelUpdateEnv(world, hourly)
    steps = run(env, [KEEP, BOTH, KEEP, KEEP], seed=1)
    assert [step[3] for step in steps] == [False, False, False, True]
    daily = ModelUpdateEnv(world, varied(config, days=2))
    whole = run(daily, [KEEP], seed=1)[0][4]
    assert steps[0][4]["visits"] + steps[1][4]["visits"] == whole["visits"]
    assert [Monitoring.from_array(step[0]).hour_cos for step in steps] == pytest.approx([-1, 1, -1, 1], abs=1e-6)
    assert Monitoring.from_array(steps[1][0]).recall_age == pytest.approx(0.5)
    cost = steps[1][4]
    assert cost["cost"] == pytest.approx(2 * config.prices.per_billion * cost["work"] / 1e9)


def test_hours_add_up_to_what_their_day_is_worth(world, config):
    """Also where nobody comes in some of them."""
    hourly = ModelUpdateEnv(world, varied(config, days=3, period_hours=1))
    steps = infos(run(hourly, [BOTH] * 72, seed=1))
    assert any(step["visits"] == 0 for step in steps)
    for day in range(3):
        own = steps[24 * day : 24 * (day + 1)]
        clicks, visits = (sum(step[name] for step in own) for name in ("clicks", "visits"))
        assert np.mean([step["engagement"] for step in own]) == pytest.approx(clicks / visits)
        diverse = sum(period.diverse for period in hourly.history[24 * day : 24 * (day + 1)])
        assert np.mean([step["vector"][1] for step in own]) == pytest.approx(diverse / visits)
    work = sum(step["work"] for step in steps)
    assert sum(step["cost"] for step in steps) / 24 == pytest.approx(config.prices.per_billion * work / 1e9)
    # as many visits as where a day is one period
    whole = infos(run(ModelUpdateEnv(world, varied(config, days=3)), [KEEP] * 3, seed=1))
    assert [sum(step["visits"] for step in steps[24 * day : 24 * (day + 1)]) for day in range(3)] == [
        step["visits"] for step in whole
    ]


def test_a_period_that_the_challenger_serves_alone_leaves_what_is_known_of_the_champion(world, config):
    """Of an hour with few visits a share of half is often all: then the last hour with slots of the champion's counts."""
    market = Market(world, varied(config, days=2, period_hours=1, challenger_share=0.5))
    env = ModelUpdateEnv(market)
    observation, _ = env.reset(seed=0)
    alone = 0
    for period in range(48):
        before = Monitoring.from_array(observation)
        observation, reward, *_ = env.step(CHALLENGER if period == 20 else KEEP)
        seen = Monitoring.from_array(observation)
        assert np.isfinite(observation).all() and np.isfinite(reward)
        if env.history[-1].visits and not len(env.history[-1].slots[0]):
            alone += 1
            assert (seen.calibration_error, seen.score_shift) == (before.calibration_error, before.score_shift)
            assert seen.calibration_error > 0
    assert alone


def test_who_arrives_takes_part(moving_world, config):
    market = Market(moving_world, varied(config, visits_per_day=1_000, days=2))
    env = ModelUpdateEnv(market)
    run(env, [KEEP, KEEP], seed=0)
    users = np.unique(env.history[1].events.table["log_user"].to_numpy())
    assert_array_equal(users, market.users[moving_world.start_day[market.users] <= 1])
    assert (moving_world.start_day[users] == 1).any()


# ---------------------------------------------------------------------- monitoring
def test_monitoring_tells_ages_events_and_budget(env, config):
    *_, last = run(env, [KEEP, RETRAIN, RECALL, KEEP])
    seen = Monitoring.from_array(last[0])
    assert (seen.retrain_age, seen.ranker_age, seen.recall_age) == pytest.approx((3, 3, 2))
    assert seen.clicks_since_training == pytest.approx(sum(day.clicks for day in env.history[2:]))
    assert seen.budget_left == pytest.approx(last[4]["budget_left"])
    assert seen.engagement == pytest.approx(last[4]["clicks"] / last[4]["visits"])
    assert seen.unseen_share == pytest.approx(last[4]["unseen_share"])
    assert seen.episode_share == pytest.approx(4 / config.days)
    assert seen.can_roll_back == 1 and seen.challenger_age == pytest.approx(-1)
    rates = [day.engagement for day in env.history]
    assert seen.engagement_trend == pytest.approx(rates[3] - np.mean(rates[:3]), abs=1e-6)


def test_scores_and_probabilities_are_judged_by_the_version_that_serves(env):
    """The first period of a version has no shift from itself; later ones have, and going back brings its first period back."""
    shifts = []
    env.reset(seed=0)
    for action in (KEEP, KEEP, RETRAIN, KEEP, BACK):
        shifts.append(Monitoring.from_array(env.step(action)[0]).score_shift)
        assert env.monitoring.calibration_error > 0
    assert shifts[0] == shifts[2] == 0 and shifts[1] > 0 and shifts[3] > 0 and shifts[4] > 0


def test_monitoring_survives_the_array():
    values = np.linspace(0.1, 0.9, len(vars(Monitoring.from_array(np.zeros(17)))))
    monitoring = Monitoring(**dict(zip(vars(Monitoring.from_array(np.zeros(17))), values, strict=True)))
    back = Monitoring.from_array(monitoring.to_array())
    assert all(getattr(back, name) == pytest.approx(value, rel=1e-6) for name, value in vars(monitoring).items())
    assert Monitoring.space().contains(monitoring.to_array())


def test_the_observation_comes_from_events_alone(env, world):
    """Recomputed from the event log, the catalogue and what was done: nothing hidden is needed to make it."""
    known = world.policy_log.item_counts() > 0
    env.reset(seed=1)
    for action in (KEEP, KEEP, RECALL, RETRAIN, KEEP):
        if action:
            for day in env.history:
                known |= day.events.to_log(world.policy_log, world.reference_time).item_counts() > 0
        observation = env.step(action)[0]
        table = env.history[-1].events.table
        slates = matrix(table, "slate")
        seen = Monitoring.from_array(observation)
        assert seen.engagement == pytest.approx((table["item"].to_numpy() >= 0).sum() / 40)
        assert seen.unseen_share == pytest.approx((~known[slates[slates >= 0]]).mean(), abs=1e-7)


@pytest.mark.parametrize("action", [KEEP, RETRAIN])
def test_calibration_and_shift_are_those_of_a_map_fitted_anew_to_the_version_s_first_period(env, action):
    """By other code: the map by Newton's method, bins counted one by one."""
    env.reset(seed=1)
    env.step(KEEP)
    seen = [Monitoring.from_array(env.step(asked)[0]) for asked in (action, KEEP)][-1]
    first, last = env.history[1 if action else 0], env.history[-1]
    (clicked, scores), (theirs, later) = first.slots, last.slots
    inputs, weights = np.column_stack([np.ones(len(scores)), scores]), np.zeros(2)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        weights += np.linalg.solve((inputs.T * (chance * (1 - chance))) @ inputs, inputs.T @ (clicked - chance))
    told = 1 / (1 + np.exp(-(weights[0] + weights[1] * later)))
    bins = np.split(np.argsort(told, kind="stable"), [len(told) * number // 10 for number in range(1, 10)])
    error = sum(abs(told[rows].sum() - theirs[rows].sum()) for rows in bins) / len(told)
    assert seen.calibration_error == pytest.approx(error, rel=1e-2) and error > 0
    edges = [-np.inf, *np.quantile(scores, np.arange(1, 10) / 10), np.inf]
    shares = [
        [(((values >= low) & (values < high)).sum() + 0.5) / (len(values) + 5) for low, high in pairwise(edges)]
        for values in (scores, later)
    ]
    shift = sum((found - before) * np.log(found / before) for before, found in zip(*shares, strict=True))
    assert seen.score_shift == pytest.approx(shift, rel=1e-4) and shift > 0


def test_perturbed_users_change_nothing_of_the_first_request_nor_of_what_is_said_of_it(world, config):
    """Until somebody answers, slates, scores and the observation depend on logs and public features only."""
    model = world.user_model
    other = replace(world, user_model=replace(model, item_bias=model.item_bias[::-1].copy()), outside=-3.0)
    tables, starts, scores = [], [], []
    for place in (world, other):
        env = ModelUpdateEnv(place, varied(config, requests_per_visit=1, days=1))
        starts.append(env.reset(seed=0)[0])
        env.step(KEEP)
        tables.append(env.history[0].events.table)
        scores.append(env.history[0].scores)
    assert_array_equal(*starts)
    assert_array_equal(*scores)
    assert tables[0]["slate"].to_pylist() == tables[1]["slate"].to_pylist()
    assert tables[0]["candidates"].to_pylist() == tables[1]["candidates"].to_pylist()
    assert tables[0]["item"].to_pylist() != tables[1]["item"].to_pylist()


def test_nothing_unborn_or_consumed_is_shown_and_nothing_twice(env, world, config):
    run(env, [BOTH] * config.days)
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
        for slate in matrix(day.events.table, "slate"):
            shown = slate[slate >= 0]
            assert len(np.unique(shown)) == len(shown)
    assert young > 0


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("days", 0),
        ("visits_per_day", -1),
        ("requests_per_visit", 0),
        ("budget_retrains", -0.1),
        ("budget_retrains", float("nan")),
        ("budget_retrains", float("inf")),
        ("window_days", 0.0),
        ("weights", (1.0, 1.0)),
        ("challenger_share", 1.0),
        ("weekday_traffic", (1.0,) * 6),
        ("event_delay", -1.0),
        ("period_hours", 5),
    ],
)
def test_a_configuration_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        UpdateConfig(**{name: value})


def test_a_budget_below_zero_and_a_price_below_zero_are_refused_in_words():
    with pytest.raises(ConfigurationError, match="below zero"):
        UpdateConfig(budget_retrains=-1)
    with pytest.raises(ConfigurationError, match="price"):
        Prices(per_billion=-1.0)


def test_a_pipeline_users_or_markets_that_do_not_fit_are_refused(world, config, market):
    with pytest.raises(ConfigurationError, match="num_candidates"):
        Market(world, varied(config, pipeline=PipelineConfig(num_candidates=world.num_items + 1)))
    with pytest.raises(ConfigurationError, match="users"):
        ModelUpdateEnv(world, config, users=np.array([world.num_users]))
    with pytest.raises(ConfigurationError, match="configuration"):
        ModelUpdateEnv(market, config)
    with pytest.raises(ConfigurationError, match="empty"):
        ModelUpdateEnv([])


def test_render_tells_the_last_period(env):
    env.reset(seed=0)
    assert env.render() == "No period yet."
    env.step(KEEP)
    assert "version 1, 40 visits" in env.render()
