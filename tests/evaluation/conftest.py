from dataclasses import replace

import pytest

from envs.candidate_source import SampledCandidates
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import World, WorldConfig, build_world
from evaluation.comparison import ComparisonConfig, ServingConfig


@pytest.fixture(scope="session")
def small_world() -> World:
    """Forty generated users who live for nine days and come back soon: half of them within a day."""
    log, user_model = generate_log(SyntheticConfig(num_users=40, num_items=150, events_per_user=20), seed=1)
    user_model = replace(user_model, visits=replace(user_model.visits, gap_log_mean=0.0))
    return build_world(log, user_model, WorldConfig(days=9))


@pytest.fixture(scope="session")
def candidate_source(small_world: World) -> SampledCandidates:
    """Candidates drawn from the catalogue."""
    return SampledCandidates(small_world.num_items)


@pytest.fixture(scope="session")
def small() -> ComparisonConfig:
    """Slates of 5 out of 20."""
    return ComparisonConfig(serving=ServingConfig(slate_size=5, num_candidates=20), traced_users=4)
