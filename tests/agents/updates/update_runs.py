"""Short episodes for the tests of model updates."""

from dataclasses import replace

from gymnasium.utils.env_checker import data_equivalence

from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import UpdateConfig


def run(env: ModelUpdateEnv, actions: list[int], seed: int = 0) -> list[tuple]:
    """(observation, reward, terminated, truncated, info) of each day."""
    env.reset(seed=seed)
    return [env.step(action) for action in actions]


def varied(config: UpdateConfig, **changes) -> UpdateConfig:
    return replace(config, **changes)


def same(left: list[tuple], right: list[tuple]) -> bool:
    return len(left) == len(right) and all(data_equivalence(a, b, exact=True) for a, b in zip(left, right, strict=True))
