"""The slate environment against gymnasium's and SB3's checkers, and its own promises."""

import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import envs  # noqa: F401  registers the ids
from envs.candidate_source import RecallRequest, SampledCandidates, is_excluded
from envs.errors import ConfigurationError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.single_env import SlateEnv
from envs.slate_env import SlateVectorEnv
from envs.world import World, WorldConfig, build_world


def _run(env: SlateVectorEnv, steps: int, seed: int = 0) -> list[dict]:
    """Shows the first ten candidates at each step; what each step returned."""
    observation, _ = env.reset(seed=seed)
    trace = []
    for _ in range(steps):
        actions = np.tile(np.arange(env.slate_size), (env.num_envs, 1))
        observation, reward, terminated, truncated, info = env.step(actions)
        trace.append({**observation, "reward": reward, "terminated": terminated, "truncated": truncated, **info})
    return trace


def test_gymnasiums_checker_passes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(gymnasium.make("driftrec/Slate-v0", render_mode="ansi").unwrapped)


def test_stable_baselines_checker_passes() -> None:
    from stable_baselines3.common.env_checker import check_env as check_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_sb3(gymnasium.make("driftrec/Slate-v0").unwrapped)


def test_make_vec_gives_the_native_environment() -> None:
    env = gymnasium.make_vec("driftrec/Slate-v0", num_envs=1024)
    assert isinstance(env.unwrapped, SlateVectorEnv)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    observation, reward, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation) and reward.shape == (1024,)


def test_a_bare_make_is_offline_and_quick() -> None:
    code = (
        "import time; start = time.perf_counter(); import gymnasium, envs; base = time.perf_counter();"
        "env = gymnasium.make('driftrec/Slate-v0'); env.reset(seed=0);"
        "import sys; print(time.perf_counter() - base, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    seconds, torch, ray = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert (torch, ray) == ("False", "False")
    # a loose bound: it hangs for a download or a fit, not for a slow machine
    assert float(seconds) < 20


def test_the_same_seed_gives_the_same_bits(world: World) -> None:
    env = SlateVectorEnv(32, world=world)
    first, again, other = _run(env, 12, seed=4), _run(env, 12, seed=4), _run(env, 12, seed=5)
    for one, two in zip(first, again, strict=True):
        for name in one:
            assert_array_equal(one[name], two[name], err_msg=name)
    assert any((one["clicked_item"] != two["clicked_item"]).any() for one, two in zip(first, other, strict=True))


@settings(max_examples=8, deadline=None)
@given(user=st.integers(0, 49), width=st.integers(1, 30), seed=st.integers(0, 2**31 - 1))
def test_a_users_life_does_not_depend_on_the_number_of_users(world: World, user: int, width: int, seed: int) -> None:
    others = [(user + shift) % 50 for shift in range(1, width)]
    alone = SlateVectorEnv(1, world=world, users=np.array([user]), autoreset_mode=AutoresetMode.DISABLED)
    among = SlateVectorEnv(width, world=world, users=np.array([user, *others]), autoreset_mode=AutoresetMode.DISABLED)
    for single, together in zip(_run(alone, 10, seed), _run(among, 10, seed), strict=True):
        for name in single:
            assert_array_equal(single[name][0], together[name][0], err_msg=name)


def test_repeated_and_masked_candidates_leave_their_slots_empty(world: World) -> None:
    env = SlateVectorEnv(4, world=world, num_candidates=20)
    env.reset(seed=0)
    slates = np.tile(np.arange(10), (4, 1))
    slates[1, 3] = slates[1, 0]
    env.observation.candidates.mask[2, 5] = 0
    info = env.step(slates)[-1]
    assert_array_equal(info["empty_slots"], [0, 1, 1, 0])
    assert info["slate_items"][1, 3] == -1 and info["slate_items"][1, 0] >= 0
    assert info["slate_items"][2, 5] == -1


def test_a_consumed_item_is_not_offered_again(world: World) -> None:
    env = SlateVectorEnv(64, world=world, autoreset_mode=AutoresetMode.DISABLED)
    observation, _ = env.reset(seed=0)
    consumed = {user: set(observation["history"][user][observation["history"][user] >= 0]) for user in range(64)}
    clicks = 0
    for _ in range(25):
        for user in range(64):
            offered = observation["candidate_items"][user][observation["candidate_mask"][user] == 1]
            assert not consumed[user] & set(offered)
        observation, *_, info = env.step(np.tile(np.arange(10), (64, 1)))
        for user in np.flatnonzero(info["clicked_item"] >= 0):
            consumed[user].add(info["clicked_item"][user])
            assert observation["history"][user][0] == info["clicked_item"][user]
            clicks += 1
    assert clicks > 50


def test_seen_items_may_be_offered_again_by_option() -> None:
    log, model = generate_log(SyntheticConfig(), seed=0)
    offered = {}
    for exclude in (True, False, None):
        world = build_world(log, model, WorldConfig(exclude_seen=exclude))
        env = SlateVectorEnv(64, world=world, num_candidates=200)
        observation, _ = env.reset(seed=0)
        seen = [set(row[row >= 0]) for row in observation["history"]]
        offered[exclude] = sum(len(seen[row] & set(items)) for row, items in enumerate(observation["candidate_items"]))
    assert offered[True] == offered[None] == 0 and offered[False] > 100


def test_unborn_items_are_never_candidates_and_new_ones_are(world: World) -> None:
    env = SlateVectorEnv(128, world=world, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    born = 0
    for _ in range(40):
        candidates, state = env.observation.candidates, env._state
        shown = candidates.mask == 1
        birth = world.birth_clock[np.maximum(candidates.items, 0)]
        assert (birth[shown] <= np.broadcast_to(state.clock[:, None], shown.shape)[shown]).all()
        born += int((shown & world.born_in_run[np.maximum(candidates.items, 0)] & (candidates.items >= 0)).sum())
        env.step(np.tile(np.arange(10), (128, 1)))
    assert born > 0


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_autoreset(world: World, mode: AutoresetMode) -> None:
    env = SlateVectorEnv(48, world=world, autoreset_mode=mode)
    observation, info = env.reset(seed=0)
    users, ended_before = info["active"], np.zeros(48, bool)
    ends = 0
    for _ in range(60):
        observation, reward, terminated, truncated, info = env.step(np.tile(np.arange(10), (48, 1)))
        ended = terminated | truncated
        assert not (terminated & truncated).any()
        if mode == AutoresetMode.NEXT_STEP:
            # the step after an end is a phantom: no reward, nothing consumed, a new user's first request
            assert (reward[ended_before] == 0).all() and not info["active"][ended_before].any()
            assert info["active"][~ended_before].all()
            assert not ended[ended_before].any()
            assert (observation["context"][ended_before, 2] == 0).all()
        elif mode == AutoresetMode.SAME_STEP:
            assert info["active"].all()
            if ended.any():
                assert_array_equal(info["_final_obs"], ended)
                assert (info["final_obs"]["candidate_items"][ended] != 0).any()
        else:
            assert (reward[ended_before] == 0).all() and not info["active"][ended_before].any()
            ended = ended | ended_before
        ends += int((ended & ~ended_before).sum())
        ended_before = ended
    assert ends > 10 and users.all()


def test_dropping_users_whose_life_is_over_changes_nothing_for_the_others(world: World) -> None:
    whole = SlateVectorEnv(40, world=world, autoreset_mode=AutoresetMode.DISABLED)
    thin = SlateVectorEnv(40, world=world, autoreset_mode=AutoresetMode.DISABLED)
    whole.reset(seed=2), thin.reset(seed=2)
    slots = np.arange(40)
    for _ in range(30):
        _, reward, *_, info = whole.step(np.tile(np.arange(10), (40, 1)))
        _, thin_reward, *_, thin_info = thin.step(np.tile(np.arange(10), (len(slots), 1)))
        assert_array_equal(reward[slots], thin_reward)
        assert_array_equal(info["clicked_item"][slots], thin_info["clicked_item"])
        slots = slots[thin.drop_ended()]
        if not len(slots):
            break
    assert len(slots) < 40


def test_the_reward_is_the_weighted_vector(world: World) -> None:
    for step in _run(SlateVectorEnv(256, world=world), 10):
        expected = step["engagement"] + 0.5 * step["diversity"] + 0.5 * step["freshness"]
        np.testing.assert_allclose(step["reward"], expected, rtol=1e-6)
        assert (step["diversity"][step["engagement"] == 0] == 0).all()


def test_the_event_log_keeps_every_request(world: World, tmp_path) -> None:
    events = EventLog()
    env = SlateVectorEnv(16, world=world, event_log=events, autoreset_mode=AutoresetMode.DISABLED)
    env.policy_version = "first-ten 1"
    env.reset(seed=0)
    shown, clicked, active = [], [], 0
    for _ in range(12):
        env.set_propensities(np.full((env.num_envs, 10), 0.25, np.float32))
        *_, info = env.step(np.tile(np.arange(10), (16, 1)))
        active += int(info["active"].sum())
        shown.append(info["slate_items"][info["active"]])
        clicked.append(info["clicked_item"][info["active"]])
    assert len(events) == active
    events.write(tmp_path / "events.parquet")
    again = EventLog.read(tmp_path / "events.parquet")
    table = again.table.to_pydict()
    assert_array_equal(np.array(table["slate"]), np.concatenate(shown))
    assert_array_equal(table["item"], np.concatenate(clicked))
    assert set(table["policy_version"]) == {"first-ten 1"} and set(np.ravel(table["propensity"])) == {0.25}
    assert len(table["candidates"][0]) == 100
    log = again.to_log(world.policy_log, world.reference_time)
    assert len(log) == (np.concatenate(shown) >= 0).sum()
    assert log.clicked.sum() == (np.concatenate(clicked) >= 0).sum()
    assert log.has_exposures and set(log.position) == set(range(10))
    assert (log.propensity == 0.25).all()


def test_render_tells_a_request(world: World) -> None:
    env = SlateEnv(world=world, render_mode="ansi")
    env.reset(seed=0)
    for _ in range(30):
        *_, terminated, truncated, info = env.step(np.arange(10))
        if info["clicked_item"] >= 0 or terminated or truncated:
            break
    text = env.render()
    assert "consumed slot" in text and "▶" in text and "interest:" in text and "→" in text


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"slate_size": 20, "num_candidates": 10}, "num_candidates"),
        ({"users": np.array([10**6])}, "users"),
        ({"num_candidates": 10**6}, "num_candidates"),
    ],
)
def test_wrong_arguments_are_refused_by_name(world: World, wrong: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        SlateVectorEnv(**{"num_envs": 2, "world": world, **wrong})


def test_wrong_actions_are_refused(world: World) -> None:
    env = SlateVectorEnv(2, world=world)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((2, 10), int))
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="shape"):
        env.step(np.zeros((2, 9), int))
    with pytest.raises(ConfigurationError, match="indices"):
        env.step(np.full((2, 10), 100))


def test_sampled_candidates_are_distinct_allowed_and_uniform() -> None:
    items, users = 101, 4000
    excluded = np.zeros((users, items), bool)
    excluded[:, [3, 50]] = True
    request = RecallRequest(
        user=np.arange(users),
        history=np.full((users, 5), -1, np.int32),
        excluded=np.packbits(excluded, axis=1, bitorder="little"),
        key=np.stack([np.arange(users), np.zeros(users, int)], axis=1),
    )
    found, _ = SampledCandidates(items).candidates(request, 20)
    assert (found >= 0).all() and not np.isin(found, [3, 50]).any()
    assert not is_excluded(request.excluded, found).any()
    assert all(len(set(row)) == 20 for row in found)
    frequency = np.bincount(found.ravel(), minlength=items)[~excluded[0]] / (users * 20)
    assert np.abs(frequency * 99 - 1).max() < 0.2


def test_a_catalogue_without_categories_is_served() -> None:
    log, model = generate_log(SyntheticConfig(num_users=12, num_items=60, embedding_size=4), seed=0)
    catalogue = replace(log.catalogue, category_names=(), categories=np.zeros((60, 0), np.float32))
    plain = replace(
        model, categories=catalogue.categories, context_weights=np.zeros((len(model.context_weights), 0), np.float32)
    )
    env = SlateVectorEnv(num_envs=5, num_candidates=30, world=build_world(replace(log, catalogue=catalogue), plain))
    trace = _run(env, steps=4)
    assert trace[-1]["candidate_features"].shape[2] == 2
    assert env.hidden.interest().shape == (5, 0)
