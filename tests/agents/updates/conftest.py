import pytest

from agents.updates.costs import Prices
from agents.updates.environment import ModelUpdateEnv
from agents.updates.gate import GateConfig
from agents.updates.market import Market, UpdateConfig
from agents.updates.traffic import PipelineConfig
from envs.world import World


@pytest.fixture(scope="session")
def config() -> UpdateConfig:
    """Episodes of six days of forty visits: a fraction of a second each."""
    return UpdateConfig(
        days=6,
        visits_per_day=40,
        requests_per_visit=2,
        prices=Prices(per_billion=0.05),
        most_rows=300,
        gate=GateConfig(min_events=20, min_users=10),
        pipeline=PipelineConfig(num_candidates=40),
    )


@pytest.fixture(scope="session")
def market(world: World, config: UpdateConfig) -> Market:
    return Market(world, config)


@pytest.fixture
def env(market: Market) -> ModelUpdateEnv:
    return ModelUpdateEnv(market)
