"""The event log of an episode of model updates: what models learn comes from it, and anybody may read it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from update_runs import run, same, varied

from agents.events import EventStore, in_order
from agents.events.facts import Items
from agents.events.samples import PREDICTION, daily_samples
from agents.events.shelves import OFFSET
from agents.events.statistics import daily_statistics
from agents.rankers.log_history import LogHistory
from agents.updates.environment import ModelUpdateEnv
from agents.updates.episode import Episode
from agents.updates.gate import Decision, Gate
from agents.updates.market import Market
from agents.updates.monitoring import Reference, UpdateAction
from agents.updates.registry import ModelRegistry
from envs.errors import ConfigurationError
from envs.event_log import EventLog, matrix

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
    stored = pa.concat_tables([store.day(day) for day in store.partitions()]).drop([OFFSET, PREDICTION])
    assert str(stored.to_pylist()) == str(served.to_pylist())
    items = Items.of(world.policy_log.catalogue, world.reference_time)
    clicks = sum(daily_samples(store, day, items)["clicked"].to_numpy().sum() for day in store.partitions())
    told = [daily_statistics(store, day, items) for day in store.partitions()]
    assert clicks == sum(step[4]["clicks"] for step in steps) == sum(sum(t["clicks"].to_pylist()) for t in told)


def test_the_log_tells_what_was_predicted_by_a_map_that_was_known_when_it_was_shown(market):
    episode = Episode(market, 3)
    plan = (KEEP, KEEP, BOTH, BACK, BOTH, KEEP)
    for action in plan:
        assert episode.step(action)[1]["action_taken"] == action
    episode.events.close_days(6)
    told = [matrix(episode.events.day(day), PREDICTION) for day in range(6)]
    offsets = [episode.events.day(day)[OFFSET].to_numpy() for day in range(6)]
    begins = np.cumsum([0, *map(len, offsets)])
    maps = [Reference.of(*day.slots) for day in episode.history]
    # of the version that serves, else of the last before it, of which one that was rolled back is none
    for day, place in enumerate((None, 0, 0, 0, 0, 4)):
        scores = episode.history[day].scores[offsets[day] - begins[day]]
        slates = matrix(episode.events.day(day), "slate")
        expected = np.full(scores.shape, np.nan) if place is None else maps[place].chance(scores)
        np.testing.assert_allclose(told[day], expected, rtol=1e-6)
        assert np.isnan(told[day][slates < 0]).all() and (place is None or (told[day][slates >= 0] > 0).all())


def test_statistics_of_an_episode_tell_calibration_and_what_is_newer_than_the_models(late):
    env = ModelUpdateEnv(late)
    run(env, PLAN, seed=2)
    table = pl.DataFrame(pl.from_arrow(env.episode.statistics()))
    assert table["clicks"].sum() == sum(day.clicks for day in env.history)
    assert table["requests"].sum() == sum(day.requests for day in env.history)
    first, later = table.filter(pl.col("day") == 0), table.filter(pl.col("day") > 0)
    assert later["calibration_error"].is_not_nan().all() and later["score_psi"].is_not_nan().all()
    assert table["newborn_share"].is_not_nan().all() and first["policy_version"].to_list() == ["0.0"]
    # by hand, for a day and version
    store, row = env.episode.events, later.row(0, named=True)
    events = store.day(row["day"])
    events = events.filter(pc.equal(events["policy_version"].cast(pa.string()), row["policy_version"]))
    slates, chances = matrix(events, "slate"), matrix(events, PREDICTION).astype(float)
    clicked = np.arange(slates.shape[1]) == events["slot"].to_numpy()[:, None]
    there = slates >= 0
    assert row["calibration_bias"] == pytest.approx(chances[there].mean() - clicked[there].mean())
    (version,) = [one for one in env.episode.registry.versions() if one.models == row["policy_version"]]
    born = late.world.birth_clock[np.maximum(slates, 0)] > version.window.last - late.world.reference_time
    assert row["newborn_share"] == pytest.approx(born[there].mean())


def test_statistics_know_what_a_challenger_was_trained_on_before_and_after_it_goes_live(world, config, monkeypatch):
    sharing = Market(world, varied(config, challenger_share=0.3, visits_per_day=200, requests_per_visit=1))
    env = ModelUpdateEnv(sharing)
    monkeypatch.setattr(Gate, "judge", lambda *asked: Decision(True, "to be tested"))
    run(env, [KEEP, CHALLENGER, KEEP, CHALLENGER, KEEP, KEEP], seed=0)
    table = pl.DataFrame(pl.from_arrow(env.episode.statistics()))
    assert {"0.0", "challenger 1", "1.1"} == set(table["policy_version"])
    assert table["newborn_share"].is_not_nan().all()


def test_statistics_need_days(market):
    class Nothing:
        def append(self, events):
            return 0

        def consumer(self, name):
            return self

    with pytest.raises(ConfigurationError, match="keeps no days"):
        Episode(market, 0, Nothing()).statistics()


@pytest.mark.parametrize("promoted", [True, False])
def test_an_episode_leaves_its_versions_and_learns_the_same(market, tmp_path, monkeypatch, promoted):
    """With what was measured of challengers, also of those that were refused: of these there is a record alone."""
    judge = Gate.judge
    monkeypatch.setattr(Gate, "judge", lambda *asked: replace(judge(*asked), promote=promoted))
    kept = ModelUpdateEnv(market, events=tmp_path / "events", registry=tmp_path / "models")
    plan = [KEEP, CHALLENGER, KEEP, CHALLENGER, BOTH, BACK]
    assert same(run(kept, plan, seed=0), run(ModelUpdateEnv(market), plan, seed=0))
    (row,) = kept.episode.registry.history().filter(pl.col("gate_ndcg").is_not_null()).iter_rows(named=True)
    assert row["made_by"] == ("challenger" if promoted else "challenger, refused")
    assert row["is_kept"] == promoted and row["gate_events"] > 0 and row["work"] > 0
    again = ModelRegistry(tmp_path / "models" / "episode-0")
    assert again.served == kept.episode.registry.served
    inputs = LogHistory(market.log, 50).inputs(np.arange(40), np.tile(np.arange(20, dtype=np.int32), (40, 1)))
    np.testing.assert_array_equal(again.load_serving().models.score(inputs), kept.models.score(inputs))
    run(kept, plan[:1], seed=1)
    for folder in ("events", "models"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["episode-0", "episode-1"]
    with pytest.raises(ConfigurationError, match="has versions of models already"):
        Episode(market, 0, registry=tmp_path / "models" / "episode-0")


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
