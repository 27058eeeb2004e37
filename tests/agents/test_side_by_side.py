"""Shards of users as Ray tasks: the bits of one process, also where a worker is killed in the middle of its work."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.testing import assert_array_equal
from ray import cloudpickle

from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker
from agents.side_by_side import in_shards, ray_with
from envs.crowd import Crowd
from envs.errors import ConfigurationError
from envs.observation import Observation
from envs.world import World

USERS, REQUESTS = 120, 8


def _first_ten(observation: Observation) -> np.ndarray:
    return np.tile(np.arange(10), (len(observation), 1))


def _lives(shared: tuple[World, Path | None], begin: int, end: int) -> dict[str, np.ndarray]:
    """Lives of the users `begin` to `end`; kills its own process halfway where a file does not tell that it has before."""
    world, killed = shared
    crowd = Crowd(world, end - begin, first=begin)
    told = {name: np.full((REQUESTS, end - begin), -5.0) for name in ("reward", "clicked_item", "clock", "rating")}
    for request in range(REQUESTS):

        def add(number: np.ndarray, reward: np.ndarray, info: dict, request: int = request) -> None:
            for name, array in told.items():
                array[request, number - begin] = reward if name == "reward" else info[name]

        crowd.request(_first_ten, add)
        if request == REQUESTS // 2 and killed is not None and begin > 0 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return told


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_shards_have_the_bits_of_one_process_though_a_worker_is_killed(world: World, tmp_path: Path) -> None:
    whole = _lives((world, None), 0, USERS)
    parts: list[int] = []
    # workers cannot import this file
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    undisturbed = in_shards(_lives, (world, None), USERS, 3, parts.append)
    disturbed = in_shards(_lives, (world, tmp_path / "killed"), USERS, 2)
    with pytest.raises(ConfigurationError, match="from a task"):
        in_shards(_failing, None, 10, 2)
    assert (tmp_path / "killed").exists() and sorted(parts) == [40, 40, 40]
    for results in (undisturbed, disturbed):
        for name, array in whole.items():
            assert_array_equal(np.concatenate([part[name] for part in results], axis=1), array, err_msg=name)


def _names(shared: list[Ranker], begin: int, end: int) -> list[str]:
    return [type(ranker).name for ranker in shared[begin:end]]


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_what_is_of_a_user_s_own_file_travels_to_workers(tmp_path: Path) -> None:
    """A ranker whose class no worker could import."""
    (tmp_path / "mine.py").write_text(
        "from agents.rankers.logistic import Logistic\n\n\nclass Mine(Logistic):\n    name = 'mine'\n"
    )
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert in_shards(_names, [resolve_ranker(f"{tmp_path / 'mine.py'}:Mine")()], 1, 1) == [["mine"]]


def _failing(shared: None, begin: int, end: int) -> None:
    raise ConfigurationError("from a task")


@pytest.mark.parametrize(
    ("running", "expected"),
    [(0, ["init 2", "inside", "shutdown"]), (1, ["shutdown", "init 2", "inside", "shutdown"]), (2, ["inside"])],
)
def test_a_ray_is_used_if_it_is_large_enough_and_otherwise_one_is_started_and_ended(
    running: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpus, told = [running], []

    def init(num_cpus: int, **how: Any) -> None:
        cpus[0] = num_cpus
        told.append(f"init {num_cpus}")

    def shutdown() -> None:
        cpus[0] = 0
        told.append("shutdown")

    monkeypatch.setattr(ray, "is_initialized", lambda: cpus[0] > 0)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": cpus[0]})
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    with ray_with(2):
        told.append("inside")
    assert told == expected


def test_an_address_without_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigurationError, match="--ray-address is"), ray_with(1, "127.0.0.1:1"):
        pass
