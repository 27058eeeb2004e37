import pytest

from agents.updates.environment import ModelUpdateEnv, UpdateConfig
from agents.updates.traffic import PipelineConfig
from envs.world import World


@pytest.fixture(scope="session")
def config() -> UpdateConfig:
    """Episodes of six days of forty visits: a fraction of a second each."""
    return UpdateConfig(
        days=6,
        visits_per_day=40,
        requests_per_visit=2,
        price_per_million_samples=10.0,
        pipeline=PipelineConfig(num_candidates=40),
    )


@pytest.fixture
def env(world: World, config: UpdateConfig) -> ModelUpdateEnv:
    return ModelUpdateEnv(world, config)
