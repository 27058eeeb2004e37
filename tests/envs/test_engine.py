"""The engine: choices follow the multinomial logit, and a user's life depends on nothing but itself."""

from dataclasses import replace

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from envs.engine import advance, respond, utilities
from envs.users.protocol import VisitParams, age_effect, position_logits
from envs.world import World


def _slates(world: World, count: int, size: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(world.num_items, size, replace=False) for _ in range(count)]).astype(np.int32)


def _preference(world: World, state) -> np.ndarray:
    weekday = np.zeros(len(state), np.int64)
    return world.user_model.preference(state.interest, state.hour, weekday, state.consumed_in_visit)


def test_utilities_equal_the_formula_written_out(world: World) -> None:
    model, users = world.user_model, np.arange(6)
    state = world.start_state(users, np.zeros(6, np.int64))
    slates, ages = _slates(world, 6), np.full((6, 5), 20.0, np.float32)
    preference = _preference(world, state)
    expected = np.empty((6, 5))
    for n in range(6):
        for k in range(5):
            i = slates[n, k]
            expected[n, k] = (
                preference[n] @ model.item_vectors[i] + model.item_bias[i] + age_effect(model.age_values, ages[n, k])
            )
    assert_allclose(utilities(model, preference, slates, ages), expected, rtol=1e-4, atol=1e-5)
    slates[2, 3] = -1
    assert utilities(model, preference, slates, ages)[2, 3] == -np.inf


def test_choices_follow_the_multinomial_logit(world: World) -> None:
    draws = 20_000
    state = world.start_state(np.full(draws, 3), np.arange(draws))
    slates = np.tile(_slates(world, 1), (draws, 1))
    slates[:, 2] = -1
    ages = np.full(slates.shape, 30.0, np.float32)
    preference = _preference(world, state)
    placed = utilities(world.user_model, preference[:1], slates[:1], ages[:1])[0] + position_logits(5)
    outside = float(np.log(np.exp(placed).sum()) - 0.3)
    weight = np.append(np.exp(placed.astype(float)), np.exp(outside))
    response = respond(world.user_model, state, preference, slates, ages, outside, seed=5)
    observed = np.bincount(np.where(response.slot < 0, 5, response.slot), minlength=6)
    assert observed[2] == 0
    kept = weight > 0
    assert stats.chisquare(observed[kept], draws * weight[kept] / weight.sum()).pvalue > 1e-3
    assert_allclose(response.inclusive_value, np.log1p(np.exp(placed - outside).sum()), rtol=1e-4)


def test_the_same_item_meets_the_same_noise_in_any_slate(world: World) -> None:
    """Common random numbers: whoever chose an item from a slate chooses it again when other items are taken away."""
    users = np.arange(world.num_users)
    state = world.start_state(users, np.zeros_like(users))
    slates = _slates(world, len(users))
    ages = np.full(slates.shape, 30.0, np.float32)
    preference = _preference(world, state)
    full = respond(world.user_model, state, preference, slates, ages, -50.0, seed=2)
    alone = np.where(np.arange(5) == full.slot[:, None], slates, -1).astype(np.int32)
    rest = np.where(np.arange(5)[None] % 2 == 0, slates, alone)
    again = respond(world.user_model, state, preference, rest, ages, -50.0, seed=2)
    assert_array_equal(again.item, full.item)


def test_a_user_does_not_depend_on_the_batch(world: World) -> None:
    slates = _slates(world, 40)

    def life(users: np.ndarray) -> list[np.ndarray]:
        state = world.start_state(users, np.zeros_like(users))
        trace = []
        for _ in range(15):
            ages = np.full((len(users), 5), 30.0, np.float32)
            response = respond(
                world.user_model, state, _preference(world, state), slates[users], ages, world.outside, seed=9
            )
            departure = advance(world.user_model, state, response, world.baseline_satisfaction, seed=9)
            trace.append(
                np.stack([response.item, departure.leaves, departure.churned, state.clock, state.visit], axis=1)
            )
        return trace

    among, alone = life(np.arange(40)), life(np.array([7]))
    for together, single in zip(among, alone, strict=True):
        assert_array_equal(together[7], single[0])


def test_leaving_follows_its_hazard(world: World) -> None:
    draws = 20_000
    state = world.start_state(np.full(draws, 1), np.arange(draws))
    sure = replace(
        world.user_model, visits=VisitParams(leave_miss=-1.0, leave_satisfaction=0.0, return_satisfaction=0.0)
    )
    slates = np.full((draws, 5), -1, np.int32)
    response = respond(sure, state, _preference(world, state), slates, np.zeros((draws, 5), np.float32), 0.0, seed=1)
    assert (response.item == -1).all()
    departure = advance(sure, state, response, world.baseline_satisfaction, seed=1)
    share = 1 / (1 + np.exp(1.0))
    assert abs(departure.leaves.mean() - share) < 4 * np.sqrt(share * (1 - share) / draws)
    stays_away = 1 - 1 / (1 + np.exp(-sure.visits.return_intercept))
    observed = departure.churned[departure.leaves].mean()
    assert abs(observed - stays_away) < 4 * np.sqrt(stays_away * (1 - stays_away) / departure.leaves.sum())
    back = departure.leaves & ~departure.churned
    assert (state.visit[back] == 1).all() and (state.visit[~back] == 0).all()
    gaps = np.log((state.clock[back] - world.start_second[1]) / 86_400)
    assert stats.kstest(gaps, "norm", args=(sure.visits.gap_log_mean, sure.visits.gap_log_sd)).pvalue > 1e-3
