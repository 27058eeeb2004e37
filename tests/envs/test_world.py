from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.engine import utilities
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.protocol import ChoiceParams, position_logits
from envs.world import World, WorldConfig, build_world


def test_withheld_items_leave_no_trace_in_what_policies_see(world: World) -> None:
    log = world.policy_log
    share = world.born_in_run.mean()
    assert 0.1 < share < 0.3
    assert not world.born_in_run[log.item].any()
    assert not np.unpackbits(world.seen(np.arange(world.num_users)), axis=1, bitorder="little", count=world.num_items)[
        :, world.born_in_run
    ].any()
    history, _ = world.history(50)
    assert not world.born_in_run[history[history >= 0]].any()
    assert (log.catalogue.birth[world.born_in_run] >= world.reference_time).all()
    assert (world.birth_clock[world.born_in_run] < world.config.days * 86_400).all()
    assert (world.birth_clock[~world.born_in_run] <= 0).all()


def test_the_policy_log_ends_at_each_users_80_percent_point() -> None:
    log, model = generate_log(SyntheticConfig(), seed=3)
    policy_log = build_world(log, model, WorldConfig(held_back_share=0.0)).policy_log
    for user in (0, 5, 17):
        whole, before = np.flatnonzero(log.user == user), np.flatnonzero(policy_log.user == user)
        assert len(before) == int(0.8 * len(whole))
        assert_array_equal(policy_log.item[before], log.item[whole[: len(before)]])
        assert_array_equal(policy_log.timestamp[before], log.timestamp[whole[: len(before)]])


def test_history_is_the_policy_log_backwards(world: World) -> None:
    items, clocks = world.history(8)
    events = world.policy_log.consumed()
    own = events.item[events.user == 11][::-1]
    known = min(8, len(own))
    assert_array_equal(items[11, :known], own[:known])
    assert (items[11, known:] == -1).all()
    assert (np.diff(clocks[11, :known]) <= 0).all()
    own_times = events.timestamp[events.user == 11][::-1][:known]
    assert_allclose((clocks[11, 0] - clocks[11, :known]) * 86_400, own_times[0] - own_times, atol=1)
    assert_allclose(clocks[11, 0] * 86_400, world.start_second[11], atol=1)


def test_popular_slates_get_the_stated_click_rate() -> None:
    log, model = generate_log(SyntheticConfig(), seed=0)
    for rate in (0.1, 0.4):
        world = build_world(log, model, WorldConfig(popular_click_rate=rate, held_back_share=0.0))
        counts, chances = world.policy_log.item_counts(), []
        seen = (
            np.unpackbits(world.seen(np.arange(world.num_users)), axis=1, bitorder="little", count=world.num_items) == 1
        )
        for user in range(world.num_users):
            allowed = np.flatnonzero(~seen[user] & (world.birth_clock <= 0))
            slate = allowed[np.argsort(-counts[allowed], kind="stable")[:10]].astype(np.int32)[None]
            state = world.start_state(np.array([user]), np.zeros(1, np.int64))
            weekday = np.array([world.reference_weekday])
            preference = model.preference(state.interest, state.hour, weekday, state.consumed_in_visit)
            age = ((state.clock - world.birth_clock[slate]) / 86_400).astype(np.float32)
            weight = np.exp(utilities(model, preference, slate, age) + position_logits(10)).sum()
            chances.append(weight / (weight + np.exp(world.outside)))
        assert np.mean(chances) == pytest.approx(rate, abs=2e-3)


def test_a_known_outside_option_is_kept_and_satisfaction_follows_it() -> None:
    log, model = generate_log(SyntheticConfig(), seed=0)
    plain = build_world(log, model)
    for shift, raised in ((-1.0, True), (1.0, False)):
        known = replace(model, choice=ChoiceParams(outside=plain.outside + shift))
        world = build_world(log, known)
        assert world.outside == plain.outside + shift
        assert (world.baseline_satisfaction > plain.baseline_satisfaction) == raised
    same = build_world(log, replace(model, choice=ChoiceParams(outside=plain.outside)))
    assert_allclose(same.baseline_satisfaction, plain.baseline_satisfaction, rtol=1e-6)


def test_the_seed_decides_what_is_withheld() -> None:
    log, model = generate_log(SyntheticConfig(), seed=0)
    first, again, other = (build_world(log, model, WorldConfig(seed=seed)) for seed in (1, 1, 2))
    assert_array_equal(first.birth_clock, again.birth_clock)
    assert (first.born_in_run != other.born_in_run).any()


@pytest.mark.parametrize(
    "wrong", [{"days": 0}, {"held_back_share": 1.0}, {"popular_click_rate": 0.0}, {"fresh_days": -1.0}]
)
def test_a_wrong_option_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        WorldConfig(**wrong)


def test_a_model_of_another_catalogue_is_refused(world: World) -> None:
    log, _ = generate_log(SyntheticConfig(num_items=300), seed=0)
    with pytest.raises(ConfigurationError, match="items"):
        build_world(log, world.user_model)
