"""docs/data-part.md: its columns and its code, as they stand there."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from agents.events import EventStore
from agents.events.facts import Items
from agents.events.features import item_schema, user_schema
from agents.events.samples import daily_samples, samples_schema
from agents.events.statistics import STATISTICS, daily_statistics
from agents.updates.market import Market, UpdateConfig
from agents.updates.traffic import PipelineConfig
from envs.event_log import EventLog

PAGE = (Path(__file__).parents[3] / "docs" / "data-part.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def defined(name):
    """What a block of the page defines under a name."""
    names: dict = {}
    exec(compile(next(block for block in BLOCKS if f" {name}" in block), "docs/data-part.md", "exec"), names)
    return names[name]


@pytest.mark.parametrize("schema", [user_schema(3), item_schema(), samples_schema(3), STATISTICS])
def test_every_column_stands_on_the_page(schema):
    told = set(re.findall(r"`(\w+)`", PAGE))
    missing = [name for name in schema.names if re.sub(r"_\d+d$", "_Wd", name) not in told]
    assert not missing


def test_the_page_s_loop_runs(world, make_events, tmp_path):
    class Traffic:
        """Events of a day request by request, as traffic records them; the last visits go on after midnight."""

        def serve(self, day, visits, models):
            clock = np.random.default_rng(day).uniform(0, 86_000, visits)
            requests = [make_events(day * 86_400 + clock + 300 * number, users=20, seed=day) for number in range(3)]
            return type("Day", (), {"events": EventLog.joined(requests)})

    defined("run")(Traffic(), None, world, tmp_path, 3)
    store = EventStore(tmp_path)
    assert len(store) == 900 and store.consumer("features").behind == 0
    assert store.partitions()[:3] == [0, 1, 2]


def test_the_page_s_episode_leaves_partitions_of_all_days(world, tmp_path):
    config = UpdateConfig(days=2, visits_per_day=30, most_rows=300, pipeline=PipelineConfig(num_candidates=40))
    made = defined("play")(Market(world, config), tmp_path)
    assert len(made) == 2 and sum(len(samples) for samples, _ in made) == 60 * 10
    assert [statistics["requests"].to_pylist() for _, statistics in made] == [[30], [30]]


def test_a_lake_takes_the_place_of_the_store(world, make_events, tmp_path):
    items = Items.of(world.policy_log.catalogue, world.reference_time)
    store = EventStore(tmp_path)
    store.append(make_events(np.sort(np.random.default_rng(0).uniform(0, 4 * 86_400, 100)), users=20, items=60))
    lake = defined("Lake")(tmp_path / "partitions")
    assert lake.partitions() == store.partitions() == [0, 1, 2]
    for make in (daily_samples, daily_statistics):
        ours, theirs = (make(source, 2, items) for source in (store, lake))
        assert ours.schema == theirs.schema and str(ours.to_pylist()) == str(theirs.to_pylist())
    assert isinstance(lake.day(1, ["clock"]), pa.Table)


def test_ray_data_makes_the_samples_of_many_days_and_reads_the_events(world, make_events, tmp_path, two_workers):
    items = Items.of(world.policy_log.catalogue, world.reference_time)
    store = EventStore(tmp_path)
    store.append(make_events(np.sort(np.random.default_rng(0).uniform(0, 4 * 86_400, 100)), users=20, items=60))
    made = defined("many_days")(store, items)
    ours = pa.concat_tables([daily_samples(store, day, items) for day in store.partitions()])
    theirs = pa.concat_tables(ray.get(made.to_arrow_refs()))
    assert theirs.schema.names == ours.schema.names and len(theirs) > 0
    order = [("request", "ascending"), ("slot", "ascending")]
    assert str(theirs.sort_by(order).to_pylist()) == str(ours.sort_by(order).to_pylist())
    read = ray.data.read_parquet(str(tmp_path / "partitions"))
    assert read.count() == sum(len(store.day(day)) for day in store.partitions())
