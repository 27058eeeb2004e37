"""A crowd lives the same lives as one environment that holds everybody, whatever its blocks and shards, in little memory."""

from dataclasses import asdict

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

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


def test_drawn_users_where_items_may_be_seen_again() -> None:
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=300), seed=0)
    world = build_world(log, model, WorldConfig(exclude_seen=False, drawn_users=60))
    expected = _lives_in_one_environment(world, 75)
    told, _ = _lives_in_crowds([Crowd(world, 75, block=20)], 75)
    for name, array in expected.items():
        assert_array_equal(told[name], array, err_msg=name)


def test_counters_grow_out_of_their_type() -> None:
    from envs.crowd import _small

    assert _small(np.array([255])).dtype == np.uint8
    assert _small(np.array([3, 256])).dtype == np.uint16 and _small(np.array([3, 256]))[1] == 256
    assert _small(np.array([70_000])).dtype == np.uint32
