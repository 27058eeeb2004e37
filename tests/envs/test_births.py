from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import make_model
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.new_items import resembling
from envs.world import World, WorldConfig, build_world

DAY = 86_400


def test_drawn_items_extend_catalogue_and_model_alike(moving_world: World) -> None:
    catalogue, model = moving_world.policy_log.catalogue, moving_world.user_model
    drawn = np.char.startswith(catalogue.item_ids, "new-")
    assert drawn[200:].all() and not drawn[:200].any() and 30 < drawn.sum() < 95
    assert len(model.item_vectors) == len(model.item_bias) == len(catalogue)
    assert moving_world.born_in_run[200:].all()
    assert (moving_world.birth_clock[200:] > 0).all() and (moving_world.birth_clock < 20 * DAY).all()
    assert len(np.unique(moving_world.birth_clock[200:] // DAY)) > 12
    # the public features are those of some log item, the hidden vector is nobody's
    assert all((row == catalogue.categories[:200]).all(axis=1).any() for row in catalogue.categories[200:])
    distances = np.abs(model.item_vectors[200:, None] - model.item_vectors[None, :200]).max(axis=2)
    assert distances.min() > 0.01


def test_new_items_have_the_spread_of_their_categories() -> None:
    random = np.random.default_rng(0)
    categories = np.eye(2, dtype=np.float32)[random.integers(2, size=4_000)]
    values = (random.normal(size=(4_000, 3)) * [1, 2, 3] + categories[:, :1] * 5).astype(np.float32)
    parents = random.integers(4_000, size=20_000)
    drawn = resembling(values, categories, parents, random.normal(size=(20_000, 3)).astype(np.float32))
    for group in (0, 1):
        own, new = values[categories[:, group] > 0], drawn[categories[parents, group] > 0]
        assert_allclose(new.mean(axis=0), own.mean(axis=0), atol=0.12)
        assert_allclose(np.cov(new.T), np.cov(own.T), atol=0.3)


def test_an_item_without_category_is_drawn_from_all() -> None:
    values = np.array([[0.0], [4.0], [8.0]], np.float32)
    drawn = resembling(values, np.zeros((3, 2), np.float32), np.array([1]), np.zeros((1, 1), np.float32))
    assert_allclose(drawn, [[4.0]])


def test_the_models_own_items_stay_as_they_were() -> None:
    model = make_model()
    larger = model.with_items(np.array([3, 3]), np.ones((2, model.item_noise_width), np.float32))
    assert_array_equal(larger.item_vectors[:30], model.item_vectors)
    assert_array_equal(larger.item_bias[:30], model.item_bias)
    assert_array_equal(larger.categories[30:], model.categories[[3, 3]])
    assert (larger.item_embedding[30:] != model.item_embedding[3]).all()


def test_items_are_retired_so_many_days_after_birth_and_old_ones_little_by_little(moving_world: World) -> None:
    birth, retire = moving_world.birth_clock, moving_world.calendar.retire_clock
    young = birth > -15 * DAY
    assert_allclose(retire[young] - birth[young], 15 * DAY, atol=3600)
    assert (retire[~young] > 0).all() and (retire[~young] <= 15 * DAY).all()
    assert len(np.unique(retire[~young] // DAY)) > 10
    assert_array_equal(moving_world.policy_log.catalogue.retired, retire + moving_world.reference_time)


def test_logged_births_and_retirements_count_where_nobody_had_the_item_before() -> None:
    log, model = generate_log(SyntheticConfig(), seed=0)
    plain = build_world(log, model, WorldConfig(held_back_share=0))
    had = np.bincount(plain.policy_log.item, minlength=plain.num_items) > 0
    coming = np.append(np.flatnonzero(~had)[:2], np.flatnonzero(had)[0])
    birth, retired = log.catalogue.birth.copy(), np.full(len(had), np.iinfo(np.int64).max)
    birth[coming] = plain.reference_time + np.array([5 * DAY - 10, 5 * DAY + 10, 5 * DAY])
    retired[[7, 8]] = plain.reference_time + np.array([3 * DAY, -DAY])
    moved = replace(log, catalogue=replace(log.catalogue, birth=birth, retired=retired))
    world = build_world(moved, model, WorldConfig(held_back_share=0))
    assert_array_equal(world.birth_clock[coming], [5 * DAY, 5 * DAY + 3600, 0])
    assert_array_equal(world.born_in_run[coming], [True, True, False])
    assert_array_equal(world.calendar.retire_clock[[7, 8, 9]], [3 * DAY, -DAY, np.inf])
    assert world.calendar.is_open(0)[7] and not world.calendar.is_open(0)[8]


def test_a_model_that_cannot_take_items_is_named() -> None:
    class Fixed:
        item_bias = np.zeros(300, np.float32)

    log, _ = generate_log(SyntheticConfig(num_items=300), seed=0)
    with pytest.raises(ConfigurationError, match="Fixed cannot take new items"):
        build_world(log, Fixed(), WorldConfig(births_per_day=1))


def test_the_same_seed_bears_the_same_items() -> None:
    log, model = generate_log(SyntheticConfig(), seed=0)
    first, again, other = (build_world(log, model, WorldConfig(births_per_day=2, seed=seed)) for seed in (1, 1, 2))
    assert_array_equal(first.user_model.item_vectors, again.user_model.item_vectors)
    assert_array_equal(first.birth_clock, again.birth_clock)
    assert first.num_items != other.num_items or (first.birth_clock != other.birth_clock).any()
