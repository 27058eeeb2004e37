import os
from collections.abc import Iterator

# one thread is faster for small arrays, and keeps tests that run side by side out of each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from agents.side_by_side import ray_with
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import modifiers_from
from envs.world import World, WorldConfig, build_world, default_world


@pytest.fixture(scope="session")
def world() -> World:
    """The world of the synthetic log of seed 0."""
    return default_world()


@pytest.fixture(scope="session")
def moving_world() -> World:
    """Everything moves: drawn users, arrivals, births and retirements, modifiers."""
    log, user_model = generate_log(SyntheticConfig(num_users=80, num_items=200), seed=5)
    config = WorldConfig(
        days=20,
        held_back_share=0.1,
        births_per_day=3,
        retire_after_days=15,
        drawn_users=60,
        arrivals_per_day=4,
        modifiers=modifiers_from(["season", "shock", "drift"]),
        seed=2,
    )
    return build_world(log, user_model, config)


@pytest.fixture(scope="session")
def two_workers() -> Iterator[None]:
    """A Ray of two CPUs for all tests that come after: starting one, and loading its workers, costs seconds each time."""
    with ray_with(2):
        yield
