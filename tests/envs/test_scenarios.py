from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import Moment, Scene
from envs.scenarios import SCENARIO, InterestDrift, TopicShock, TrafficPlan, TrafficScenario, scenario
from envs.worlds import made

NAMES = ("stationary", "returning", "slow_drift", "shock", "news", "season", "growth")


@pytest.fixture(scope="module")
def fitted():
    generated = generate_log(SyntheticConfig(num_users=40, num_items=80, events_per_user=20), seed=3)
    return lambda: generated


@pytest.fixture(scope="module")
def world_of(fitted):
    """Scenario and world of a name, made when first asked for."""

    @lru_cache
    def of(name):
        chosen = scenario(name, fitted=fitted, days=6, visits_per_day=8, seed=1)
        return chosen, made(chosen)

    return of


def scene(**changes) -> Scene:
    categories = np.eye(6, dtype=np.float32)
    settings = {"categories": categories, "category_names": tuple("abcdef"), "days": 40, "first_weekday": 0, "seed": 5}
    return Scene(**(settings | changes))


def test_all_are_found_by_name_and_say_it():
    assert tuple(SCENARIO.known) == NAMES
    for name in NAMES:
        found = scenario(name)
        assert found.name == name and isinstance(found, TrafficScenario)
    assert scenario("slow-drift").name == "slow_drift"


def test_models_learn_from_the_log_s_own_users_alone(world_of, fitted):
    logged = len(fitted()[0].users)
    for each, world in (world_of("stationary"), world_of("slow_drift")):
        assert world.policy_log.user.max() < logged
        assert len(world.present_users) == each.crowd and world.present_users.min() == logged


def test_stationary_draws_a_user_for_each_visit_and_nothing_is_born(world_of):
    each, world = world_of("stationary")
    assert each.traffic.fresh_users and each.crowd == 6 * 8
    assert not world.born_in_run.any() and not np.isfinite(world.calendar.retire_clock).any()


def test_nothing_is_new_in_returning_but_the_same_users_come_again(world_of):
    each, world = world_of("returning")
    assert not each.traffic.fresh_users and not each.traffic.grows and each.crowd == 3 * 8
    assert not world.born_in_run.any() and not np.isfinite(world.calendar.retire_clock).any()


@pytest.mark.parametrize("name", ["stationary", "returning", "growth"])
def test_interests_stand_still_where_no_drift_is_meant(world_of, name):
    world = world_of(name)[1]
    state = world.start_state(world.present_users[:5], np.zeros(5, np.int64)).interest
    before = state.long_term.copy()
    world.user_model.pause(state, np.arange(5), np.full(5, 9.0, np.float32), np.ones((5, world.user_model.walk_width)))
    assert_array_equal(state.long_term, before)


def test_news_renews_the_catalogue_at_its_size(world_of):
    each, world = world_of("news")
    days = np.arange(6)
    offered = [world.calendar.is_open(day * SECONDS_PER_DAY + 1).sum() for day in days]
    assert min(offered) > 0.75 * offered[0] and max(offered) < 1.25 * offered[0]
    life = (world.calendar.retire_clock - world.birth_clock)[world.born_in_run] / SECONDS_PER_DAY
    assert_allclose(life, each.life_days, atol=0.05)
    assert not world.user_model.age_values.any()
    first = world.calendar.is_open(0)
    assert (first & ~world.calendar.is_open(5 * SECONDS_PER_DAY)).sum() > 0.3 * first.sum()


def test_growth_lets_users_arrive_all_along(world_of):
    each, world = world_of("growth")
    arrived = world.start_day[world.first_arriving :]
    assert each.traffic.grows and len(set(arrived)) > 1
    assert len(arrived) == pytest.approx(6 * each.crowd / each.doubling_days, abs=6)


def test_season_has_a_week():
    factors = scenario("season").traffic.weekday_traffic
    assert sum(factors) == pytest.approx(7) and factors[5] == pytest.approx(1.5 * factors[0])


def test_the_seed_decides_who_is_drawn_and_when_shocks_come(fitted):
    worlds = [made(scenario("shock", fitted=fitted, days=6, visits_per_day=4, seed=seed)) for seed in (0, 0, 1)]
    lengths = [world.newcomers.length.tolist() for world in worlds]
    assert lengths[0] == lengths[1] != lengths[2]
    weights = [world.user_model.modifiers[1].shocks(world.user_model.scenes[1]) for world in worlds]
    assert weights[0] == weights[1] != weights[2]


def test_a_shock_moves_one_topic_of_each_half_for_good():
    shock = TopicShock(consumed=(0.4, 0.3, 0.15, 0.1, 0.05, 0.0), strength=2.0)
    when = np.array([0.0, 9.9, 30.1, 39.9]) * SECONDS_PER_DAY
    weights = shock.weights(scene(), Moment(np.arange(4), when))
    assert not weights[:2].any()
    assert_array_equal(weights[2], weights[3])
    assert (weights[2, :3] <= 0).all() and weights[2, :3].sum() == -4
    assert (weights[2, 3:] >= 0).all() and weights[2, 3:].sum() == 4
    fallen = [
        TopicShock(consumed=(0.9, 0.05, 0.05, 0, 0, 0), count=1).shocks(scene(seed=seed))[0][1] for seed in range(60)
    ]
    assert 45 <= fallen.count(0) <= 60


def test_interests_that_drift_stay_as_different_as_they_are():
    """The variance of a process of this rate and step is 1 / (2 rate), whoever looks how often."""
    rate, people = 0.05, 4000
    drift = InterestDrift(rate=rate, centre=(0.0, 0.0), shared=0.0)
    rng = np.random.default_rng(0)
    interest = rng.normal(size=(people, 2)) * np.sqrt(1 / (2 * rate))
    day = 0.0
    for gap in (1.0, 4.0, 9.0):
        day += gap
        days = np.full(people, gap, np.float32)
        steps = rng.normal(size=(people, 2)).astype(np.float32)
        moment = Moment(np.arange(people), np.full(people, day * SECONDS_PER_DAY))
        moved = drift.wander(scene(), moment, days, steps)
        interest = np.exp(-drift.rest(scene())[0] * gap) * interest + np.sqrt(gap) * moved
    assert interest.var() == pytest.approx(1 / (2 * rate), rel=0.05)


def test_what_is_shared_of_a_drift_is_the_same_for_all_and_adds_up():
    drift = InterestDrift(rate=0.05, centre=(0.0, 0.0), shared=1.0)

    def moved(begin: float, end: float) -> np.ndarray:
        days = np.full(3, end - begin, np.float32)
        moment = Moment(np.arange(3), np.full(3, end * SECONDS_PER_DAY))
        return np.sqrt(end - begin) * drift.wander(scene(), moment, days, np.ones((3, 2), np.float32))

    once, first, second = moved(0, 10), moved(0, 4), moved(4, 10)
    assert_array_equal(once, np.broadcast_to(once[0], once.shape))
    assert once.any()
    assert_allclose(np.exp(-0.05 * 6) * first + second, once, atol=1e-5)


def test_slow_drift_keeps_the_fitted_step(world_of, fitted):
    world = world_of("slow_drift")[1]
    drift, sd = world.user_model.modifiers[0], fitted()[1].params.walk_sd
    people = 2000
    moment = Moment(np.arange(people), np.full(people, SECONDS_PER_DAY))
    steps = np.random.default_rng(0).normal(size=(people, world.user_model.walk_width)).astype(np.float32)
    moved = replace(drift, shared=0.0).wander(world.user_model.scenes[0], moment, np.ones(people, np.float32), steps)
    assert sd * moved.std() == pytest.approx(sd, rel=0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visits_per_day", -1),
        ("requests_per_visit", 0),
        ("weekday_traffic", (1.0,) * 6),
        ("event_delay", -1.0),
        ("event_delay", float("nan")),
        ("period_hours", 5),
        ("period_hours", 0),
    ],
)
def test_a_plan_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        TrafficPlan(**{name: value})


OWN = """
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.scenarios import TrafficPlan
from envs.world import build_world


class Village:
    name = "village"
    {traffic}

    def make(self):
        return build_world(*generate_log(SyntheticConfig(num_users=12, num_items=30), seed=3), progress=False)
"""


def test_one_of_a_user_s_own_brings_its_traffic_or_gets_plain_traffic(tmp_path):
    path = tmp_path / "mine.py"
    for told, wanted in (
        ("", TrafficPlan()),
        ("traffic = TrafficPlan(visits_per_day=7)", TrafficPlan(visits_per_day=7)),
    ):
        path.write_text(OWN.format(traffic=told))
        found = scenario(f"{path}:Village")
        assert found.name == "village" and found.traffic == wanted
        assert made(found).num_items == 30
        late = scenario(f"{path}:Village", event_delay=6.0, days=3)
        assert late.traffic == replace(wanted, event_delay=6.0) and late.name == "village"
    path.write_text(OWN.format(traffic="traffic = 7"))
    with pytest.raises(ConfigurationError, match="TrafficPlan"):
        scenario(f"{path}:Village")
    with pytest.raises(ConfigurationError, match="did you mean 'season'"):
        scenario("seasons")
