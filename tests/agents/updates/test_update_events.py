"""The event log of an episode of model updates: what models learn comes from it, and anybody may read it."""

import pyarrow as pa
import pytest
from update_runs import run, same, varied

from agents.events import EventStore, in_order
from agents.events.facts import Items
from agents.events.samples import daily_samples
from agents.events.shelves import OFFSET
from agents.events.statistics import daily_statistics
from agents.updates.environment import ModelUpdateEnv
from agents.updates.episode import Episode
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from envs.errors import ConfigurationError
from envs.event_log import EventLog

KEEP, RECALL, RANKER, BOTH, BACK, CHALLENGER, RETRAIN = UpdateAction
PLAN = [KEEP, CHALLENGER, BOTH, CHALLENGER, RETRAIN, RANKER]


@pytest.fixture(scope="module")
def late(world, config) -> Market:
    """Periods of half a day whose events are known seven hours later."""
    return Market(world, varied(config, days=3, period_hours=12, event_delay=7.0, requests_per_visit=3))


def test_an_episode_leaves_its_event_log_and_learns_the_same(late, tmp_path):
    kept, plain = ModelUpdateEnv(late, events=tmp_path), ModelUpdateEnv(late)
    steps = run(kept, PLAN, seed=2)
    assert same(steps, run(plain, PLAN, seed=2))
    assert not same(run(kept, PLAN[:1], seed=3), steps[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode-0", "episode-1"]
    store, world = EventStore(tmp_path / "episode-0"), late.world
    assert store.partitions()[:3] == [0, 1, 2] and not store._shelf.segments()
    assert (tmp_path / "episode-0" / "partitions" / "day=2" / "events.parquet").exists()
    # the rows that the traffic left, in order of time
    served = in_order(EventLog.joined([day.events for day in plain.history]))
    stored = pa.concat_tables([store.day(day) for day in store.partitions()]).drop([OFFSET])
    assert str(stored.to_pylist()) == str(served.to_pylist())
    items = Items.of(world.policy_log.catalogue, world.reference_time)
    clicks = sum(daily_samples(store, day, items)["clicked"].to_numpy().sum() for day in store.partitions())
    told = [daily_statistics(store, day, items) for day in store.partitions()]
    assert clicks == sum(step[4]["clicks"] for step in steps) == sum(sum(t["clicks"].to_pylist()) for t in told)


def test_models_learn_what_the_stream_hands_on_and_nothing_else(market):
    class Silent:
        """A stream that takes everything and hands on nothing."""

        def append(self, events):
            return 0

        def consumer(self, name):
            return self

        def poll(self, most=10_000):
            return pa.table({})

        def commit(self):
            pass

    episode = Episode(market, 0, Silent())
    _, info = episode.step(KEEP)
    assert info["clicks"] > 0 and info["action_mask"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert Episode(market, 0).step(KEEP)[1]["action_mask"].tolist() == [1, 1, 1, 1, 0, 1, 1]


def test_a_folder_holds_one_episode(market, tmp_path):
    Episode(market, 0, tmp_path).step(KEEP)
    with pytest.raises(ConfigurationError, match="has 80 events already"):
        Episode(market, 0, tmp_path)
