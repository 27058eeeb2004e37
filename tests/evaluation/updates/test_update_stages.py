"""What the stages of a study hand to each other: worlds, seeds, episodes."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from agents.updates.policies.base import UPDATES
from agents.updates.policies.hindsight import starting_schedules
from agents.updates.policies.learnt import SEEDS_PER_TRAINING, TRAINING_SEEDS
from evaluation.options import REFERENCE_UPDATES, SMALL_UPDATES, UpdateOptions
from evaluation.updates import stages
from evaluation.updates.config import UpdateStudyConfig


class TuningBeginsError(Exception):
    """Ends a stage when its worlds are made."""


@dataclass
class Tuning:
    """Notes what families would be tuned with."""

    worlds: list[tuple[str, int]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)

    def market(self, name: str, seed: int) -> int:
        self.worlds.append((name, seed))
        return seed

    def tune(self, family, markets, seeds, episodes, **more):
        self.seeds += seeds
        self.episodes.append(episodes)
        raise TuningBeginsError


def tuning_of(config: UpdateStudyConfig, monkeypatch, stage, families: tuple[str, ...]) -> Tuning:
    """What a stage tunes with in the first scenario."""
    noted = Tuning()
    monkeypatch.setattr(stages, "tune", noted.tune)
    specs = {name.replace("-", "_"): name for name in config.scenarios}
    arena = SimpleNamespace(config=config, specs=specs, market=noted.market, facts=lambda name: None)
    for family in families:
        with pytest.raises(TuningBeginsError):
            stage(arena, "table", next(iter(specs)), family)
    return noted


def test_each_world_of_decay_has_traffic_of_its_own(monkeypatch):
    """Its job names the world's seed to the traffic, too; else the same draws would meet all worlds."""
    noted = []

    def measured(worlds, models, **options):
        noted.append((worlds, options["seeds"]))
        raise TuningBeginsError

    monkeypatch.setattr(stages, "measure_decay", measured)
    config = UpdateOptions(reference=True).study()
    arena = SimpleNamespace(config=config, specs={"news": "news"}, scenario=lambda name, seed, *size: (name, seed))
    jobs = stages.decay_jobs(arena)
    for job in jobs:
        with pytest.raises(TuningBeginsError):
            job.work(arena, job.table, *job.arguments)
    worlds = config.decay_seeds + len(config.rankers) * config.ranker_decay_seeds
    assert len(noted) == 2 * worlds  # of the control, too
    assert all(world[1] == seed for (world,), (seed,) in noted)
    assert {world[0] for (world,), _ in noted} == {"news", "returning"}
    assert {seed for _, (seed,) in noted} == set(range(config.decay_seeds))


@pytest.mark.parametrize("size", [{"fast": True}, {}, {"reference": True}, {"reference": True, "hours": 10.0}])
def test_families_get_as_many_episodes_each_and_no_world_or_seed_that_is_judged(size, monkeypatch):
    config = UpdateOptions(**size).study()
    judged = set(config.judged_seeds)
    scenario = config.scenarios[0].replace("-", "_")
    for stage, own in ((stages.tune_in, True), (stages.teach, False)):
        noted = tuning_of(config, monkeypatch, stage, config.families)
        assert set(noted.episodes) == {config.episodes} and len(noted.episodes) == len(config.families)
        assert not judged & {seed for _, seed in noted.worlds} and not judged & set(noted.seeds)
        assert {name == scenario for name, _ in noted.worlds} == {own}
        # nor has training seeds of its own that somebody is judged on or tuned on
        assert max(noted.seeds) < TRAINING_SEEDS < TRAINING_SEEDS + SEEDS_PER_TRAINING * (config.seed + 1)


@pytest.mark.parametrize("config", [SMALL_UPDATES.config, REFERENCE_UPDATES.config])
def test_hindsight_of_a_study_tries_every_period_and_other_phases(config):
    starting = starting_schedules(config.days, config.replays)
    assert config.replays >= 30
    for action in UPDATES:
        for length in (1, 2, 3, 5, 7, 14):
            assert tuple(int(action) if day and day % length == 0 else 0 for day in range(config.days)) in starting
        # seldom ones begin sooner, too
        assert any(schedule[15] == action and not any(schedule[:15]) for schedule in starting)
