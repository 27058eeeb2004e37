"""Short episodes for the tests of model updates."""

from dataclasses import replace

import numpy as np

from agents.updates.environment import ModelUpdateEnv, UpdateConfig


def run(env: ModelUpdateEnv, actions: list[int], seed: int = 0) -> list[tuple]:
    """(observation, reward, terminated, truncated, info) of each day."""
    env.reset(seed=seed)
    return [env.step(action) for action in actions]


def varied(config: UpdateConfig, **changes) -> UpdateConfig:
    return replace(config, **changes)


def same(left: list[tuple], right: list[tuple]) -> bool:
    return all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(left, right, strict=True))
