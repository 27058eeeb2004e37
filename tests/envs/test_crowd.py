"""A crowd lives the same lives as one environment that holds everybody, whatever its blocks and shards, in little memory."""

from dataclasses import asdict

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

import envs.newcomers
from envs.crowd import Crowd
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from envs.world import World, WorldConfig, build_world

USERS, REQUESTS = 130, 12


def _by_taste(observation: Observation) -> np.ndarray:
    """Slates that depend on all that is observed."""
    number = np.arange(observation.candidates.items.shape[1])
    score = observation.candidates.age + observation.history_days.sum(axis=1)[:, None] * (number % 7)
    score += 10 * observation.candidates.categories[:, :, 0] + observation.history[:, :1] * number % 11
    score += observation.context.sum(axis=1)[:, None] * (number % 3)
    return np.argsort(score, axis=1, kind="stable")[:, :10]


def _lives_in_one_environment(world: World, users: int) -> dict[str, np.ndarray]:
    env = SlateVectorEnv(users, world=world, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    told: dict[str, list[np.ndarray]] = {
        name: [] for name in ("clicked_item", "slate_items", "clock", "rating", "reward")
    }
    for _ in range(REQUESTS):
        _, reward, *_, info = env.step(_by_taste(env.observation))
        for name, values in told.items():
            array = reward if name == "reward" else info[name].astype(float)
            array[~info["active"]] = -5
            values.append(array)
    return {name: np.stack(values) for name, values in told.items()}


def _lives_in_crowds(crowds: list[Crowd], users: int) -> tuple[dict[str, np.ndarray], list[dict]]:
    told: dict[str, np.ndarray] = {}
    totals = []
    for request in range(REQUESTS):

        def add(number: np.ndarray, reward: np.ndarray, info: dict, request: int = request) -> None:
            for name in ("clicked_item", "slate_items", "clock", "rating", "reward"):
                array = reward if name == "reward" else info[name]
                whole = told.setdefault(name, np.full((REQUESTS, users, *array.shape[1:]), -5.0))
                whole[request, number] = array

        totals += [asdict(crowd.request(_by_taste, add)) for crowd in crowds]
    return told, totals


@pytest.mark.parametrize("block", [1000, 32, 7])
def test_a_crowd_lives_the_lives_of_one_environment(world: World, block: int) -> None:
    expected = _lives_in_one_environment(world, USERS)
    crowd = Crowd(world, USERS, block=block)
    told, totals = _lives_in_crowds([crowd], USERS)
    for name, array in expected.items():
        assert_array_equal(told[name], array, err_msg=name)
    assert totals[0]["requests"] == USERS and crowd.alive == USERS - sum(total["ends"] for total in totals) < USERS
    assert sum(total["clicks"] for total in totals) == (expected["clicked_item"] >= 0).sum() > 0
    assert totals[0]["reward"] == pytest.approx(expected["reward"][0].sum())


def test_a_crowd_goes_round_the_users_and_its_shards_are_crowds(world: World) -> None:
    users = world.num_users + 37
    whole, whole_totals = _lives_in_crowds([Crowd(world, users)], users)
    shards = [Crowd(world, 50, block=16), Crowd(world, users - 50, first=50)]
    parts, _ = _lives_in_crowds(shards, users)
    for name, array in whole.items():
        assert_array_equal(parts[name], array, err_msg=name)
    again = [asdict(total) for total in map(Crowd(world, users, block=11).request, [_by_taste] * REQUESTS)]
    assert again == whole_totals


@pytest.mark.parametrize("kept", [60, 59], ids=["kept", "made anew"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_drawn_users(exclude_seen: bool, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them live twice, some who arrive stand among them; with and without histories in the policies' log."""
    monkeypatch.setattr(envs.newcomers, "KEPT_USERS", kept)
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=300), seed=0)
    world = build_world(log, model, WorldConfig(exclude_seen=exclude_seen, drawn_users=60, arrivals_per_day=0.3))
    users = len(world.simulated_users) + 15
    assert users > 80 and world.keeps_history(np.array([45]))[0] == (kept == 60)
    expected = _lives_in_one_environment(world, users)
    told, _ = _lives_in_crowds([Crowd(world, users, block=20)], users)
    for name, array in expected.items():
        assert_array_equal(told[name], array, err_msg=name)


def test_log_users_beside_drawn_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs.newcomers, "KEPT_USERS", 0)
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=300), seed=0)
    world = build_world(log, model, WorldConfig(drawn_users=20))
    users = np.arange(25, 50)
    env = SlateVectorEnv(25, world=world, users=users, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    crowd = Crowd(world, 25, users=users, block=10)
    clicked = np.full(25, -5)

    def add(number: np.ndarray, reward: np.ndarray, info: dict) -> None:
        clicked[number] = info["clicked_item"]

    for _ in range(4):
        ended = env.ended.copy()
        *_, info = env.step(_by_taste(env.observation))
        crowd.request(_by_taste, add)
        assert_array_equal(clicked[~ended], info["clicked_item"][~ended])


def test_memory_counts_what_is_kept(world: World) -> None:
    crowd = Crowd(world, USERS, block=32)
    begun = crowd.memory()
    width = world.user_model.item_embedding.shape[1]
    traits = world.user_model.user_traits.shape[1]
    assert begun["interests"] == 4 * USERS * (2 * width + world.user_model.categories.shape[1] + traits)
    assert begun["histories"] <= USERS and begun["consumed"] == 0  # histories of log users are kept once for all lives
    assert begun["counters"] == USERS * (8 + 4 + 2 + 5)
    clicks = crowd.request(_by_taste).clicks
    assert crowd.memory()["consumed"] == clicks * (np.min_scalar_type(world.num_items).itemsize + 4) > 0


def test_counters_grow_out_of_their_type() -> None:
    from envs.crowd import _small

    assert _small(np.array([255])).dtype == np.uint8
    assert _small(np.array([3, 256])).dtype == np.uint16 and _small(np.array([3, 256]))[1] == 256
    assert _small(np.array([70_000])).dtype == np.uint32
