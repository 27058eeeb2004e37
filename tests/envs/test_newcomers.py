import pickle
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

import envs.newcomers
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from envs.users.protocol import replay
from envs.world import World, WorldConfig, build_world

DAY = 86_400


@pytest.fixture(scope="module")
def log_and_model():
    return generate_log(SyntheticConfig(num_users=60, num_items=150), seed=4)


@pytest.fixture(scope="module")
def drawn_world(log_and_model) -> World:
    return build_world(*log_and_model, WorldConfig(drawn_users=50, arrivals_per_day=3, days=12))


def wide_model(world: World):
    """The user model with the newcomers' parameters behind the log users'."""
    newcomers, model = world.newcomers, world.user_model
    count = len(newcomers) - newcomers.num_drawn
    numbers = np.concatenate([np.arange(newcomers.num_drawn), -1 - np.arange(count)])
    drawn = newcomers.population.draw(numbers, newcomers.seed).parameters
    width = model.user_embedding.shape[1]
    return replace(
        model,
        user_embedding=np.concatenate([model.user_embedding, drawn[:, :width]]),
        user_traits=np.concatenate([model.user_traits, drawn[:, width:]]),
    )


def test_log_users_stand_first_then_drawn_then_arriving_ones(drawn_world: World, log_and_model) -> None:
    log, _ = log_and_model
    users = drawn_world.policy_log.users
    assert_array_equal(users.user_ids[:60], log.users.user_ids)
    assert users.user_ids[60] == "drawn-1" and users.user_ids[110] == "arriving-1"
    assert_array_equal(drawn_world.simulated_users, np.arange(60, len(users)))
    assert_array_equal(drawn_world.present_users, np.arange(60, 110))
    assert 15 < len(users) - 110 < 60
    parents = drawn_world.newcomers.parent
    assert_array_equal(users.features[60:], log.users.features[parents])


def test_drawn_histories_are_rows_that_policies_learn_from(drawn_world: World, log_and_model) -> None:
    log, model = log_and_model
    plain = build_world(log, model, WorldConfig(days=12))
    own = drawn_world.policy_log.user < 60
    assert_array_equal(drawn_world.policy_log.item[own], plain.policy_log.item)
    counts = np.bincount(drawn_world.policy_log.user, minlength=drawn_world.num_users)
    assert_array_equal(counts[60:], drawn_world.newcomers.length)
    assert (counts[60:110] > 0).all() and (counts[110:] == 0).all()
    assert not drawn_world.born_in_run[drawn_world.policy_log.item].any()
    assert np.isfinite(drawn_world.policy_log.rating[~own]).all()


def test_start_states_are_those_that_the_histories_lead_to(drawn_world: World) -> None:
    replayed = replay(wide_model(drawn_world), drawn_world.policy_log)
    state = drawn_world.start_state(np.arange(drawn_world.num_users), np.zeros(drawn_world.num_users, int))
    for name in ("long_term", "short_term", "satiation", "traits"):
        assert_array_equal(getattr(state.interest, name), getattr(replayed, name))


def test_a_world_of_more_users_than_are_kept_is_the_same_world(log_and_model, drawn_world, monkeypatch) -> None:
    """Their histories are made when a life begins: the same users, but no rows for policies."""
    monkeypatch.setattr(envs.newcomers, "KEPT_USERS", 10)
    large = build_world(*log_and_model, WorldConfig(drawn_users=50, arrivals_per_day=3, days=12))
    assert large.policy_log.user.max() < 60 and large.num_users == drawn_world.num_users
    users = np.array([75, 3, 60, 109, 111, 75])
    first, second = (world.start_state(users, np.zeros(6, int)) for world in (drawn_world, large))
    assert_array_equal(first.clock, second.clock)
    for name in ("long_term", "short_term", "satiation", "traits"):
        assert_array_equal(getattr(first.interest, name), getattr(second.interest, name))
    assert_array_equal(drawn_world.seen(users), large.seen(users))
    assert drawn_world.seen(users)[:4].any(axis=1).all() and not drawn_world.seen(users)[4].any()
    for one, two in zip(drawn_world.history(9, users), large.history(9, users), strict=True):
        assert_array_equal(one, two)
    assert_array_equal(drawn_world.user_features, large.user_features)
    assert_allclose(drawn_world.outside, large.outside, atol=0.3)


def test_users_arrive_on_their_day_and_never_before(drawn_world: World) -> None:
    arriving = np.arange(110, drawn_world.num_users)
    env = SlateVectorEnv(
        len(arriving), world=drawn_world, users=arriving, num_candidates=50, autoreset_mode=AutoresetMode.DISABLED
    )
    env.reset(seed=0)
    arrival = drawn_world.newcomers.arrival_day
    assert arrival.min() >= 0 and arrival.max() < 12 and len(np.unique(arrival)) > 6
    assert_array_equal(env.observation.context[:, 3], arrival)
    assert (env.observation.history == -1).all()
    alive, seen = np.ones(len(arriving), bool), 0
    for _ in range(60):
        *_, terminated, truncated, info = env.step(np.tile(np.arange(10), (len(arriving), 1)))
        clock = info["clock"] / DAY
        assert (clock >= arrival).all() and (clock[alive] < 12).all()
        seen += int((info["clicked_item"] >= 0).sum())
        alive &= ~(terminated | truncated)
    assert seen > 20


def test_arriving_users_have_the_populations_parameters_and_no_past(drawn_world: World) -> None:
    arriving = np.arange(110, drawn_world.num_users)
    state = drawn_world.start_state(arriving, np.zeros_like(arriving))
    numbers = -1 - np.arange(len(arriving))
    drawn = drawn_world.newcomers.population.draw(numbers, drawn_world.config.seed)
    assert_array_equal(state.interest.long_term, drawn.parameters[:, : state.interest.long_term.shape[1]])
    assert (state.interest.short_term == 0).all()
    assert (drawn_world.user_features[arriving, 0] == 0).all()


def test_arrivals_alone_join_the_log_users(log_and_model) -> None:
    world = build_world(*log_and_model, WorldConfig(arrivals_per_day=2, days=5))
    assert_array_equal(world.simulated_users, np.arange(world.num_users))
    assert world.num_users > 60 and world.start_day[:60].max() == 0
    assert len(world.policy_log) == len(build_world(*log_and_model, WorldConfig(days=5)).policy_log)


def test_the_world_survives_pickling(drawn_world: World) -> None:
    again = pickle.loads(pickle.dumps(drawn_world))
    users = np.arange(58, 115)
    assert_array_equal(again.seen(users), drawn_world.seen(users))


@pytest.mark.parametrize("wrong", [{"drawn_users": -1}, {"arrivals_per_day": float("nan")}, {"births_per_day": -0.5}])
def test_a_wrong_number_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        WorldConfig(**wrong)


def test_nothing_unborn_or_retired_is_offered_or_consumed(moving_world: World) -> None:
    env = SlateVectorEnv(120, world=moving_world, num_candidates=60, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=1)
    offered_ever, last_clock = np.zeros(moving_world.num_items, bool), 0.0
    for _ in range(60):
        offered, clock = env.observation.candidates, env._state.clock.copy()
        alive = ~env.ended
        items = np.where(offered.mask[alive] == 1, offered.items[alive], -1)
        born = moving_world.birth_clock[items] <= clock[alive, None]
        stays = clock[alive, None] < moving_world.calendar.retire_clock[items]
        assert (born & stays)[items >= 0].all()
        offered_ever[items[items >= 0]] = True
        last_clock = max(last_clock, clock[alive].max(initial=0))
        *_, info = env.step(np.tile(np.arange(10), (120, 1)))
        item = info["clicked_item"][alive]
        late = clock[alive] >= moving_world.calendar.retire_clock[np.maximum(item, 0)]
        early = clock[alive] < moving_world.birth_clock[np.maximum(item, 0)]
        assert not (late | early)[item >= 0].any()
    assert offered_ever[200:].sum() > 10 and (moving_world.calendar.retire_clock < last_clock).sum() > 50


def test_histories_of_some_of_the_last_users_are_not_made_again(log_and_model, monkeypatch) -> None:
    world = build_world(*log_and_model, WorldConfig(drawn_users=50, days=12, keep_histories=False))
    make, made = envs.newcomers.burn_in, []

    def burn_in(model, population, numbers, seed, past):
        made.append(len(numbers))
        return make(model, population, numbers, seed, past)

    monkeypatch.setattr(envs.newcomers, "burn_in", burn_in)
    # all of them have set the outside option
    some = world.num_logged + np.array([31, 2, 31, 40])
    items, days = world.history(12, some)
    state, seen = world.start_state(some, np.zeros_like(some)), world.seen(some)
    assert made == []
    again = pickle.loads(pickle.dumps(world))
    for place, user in enumerate(some):
        alone = np.array([user])
        assert_array_equal(again.history(12, alone)[0][0], items[place])
        assert_array_equal(again.history(12, alone)[1][0], days[place])
        assert_array_equal(again.seen(alone)[0], seen[place])
        assert_array_equal(again.start_state(alone, alone).interest.long_term[0], state.interest.long_term[place])
    assert made == [1] * 4 and seen.any()
