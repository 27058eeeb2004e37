import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from agents.events import EventStore, in_order
from agents.events.store import days_of
from envs.errors import ArtefactError, ConfigurationError, LogError
from envs.event_log import EventLog

DAY = 86_400


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    return EventStore(None if request.param == "memory" else tmp_path / "log")


def read_all(consumer, most):
    tables = []
    while len(table := consumer.poll(most)):
        assert len(table) <= most
        tables.append(table)
    return [row for table in tables for row in table.to_pylist()]


def test_readers_get_each_event_once_in_the_order_of_appending(store, make_events):
    """Whether it lies in segments or in partitions, whatever the micro-batches."""
    clock = np.sort(np.random.default_rng(0).uniform(0, 3.4 * DAY, 120))
    whole = make_events(clock).table
    for first in range(0, 120, 23):
        assert store.append(whole.slice(first, 23)) == first
    assert store.partitions() == [0, 1, 2]  # day 3 goes on
    for most in (3, 64, 1_000):
        rows = read_all(store.consumer(f"by-{most}"), most)
        assert [row.pop("offset") for row in rows] == list(range(120))
        np.testing.assert_equal(rows, whole.to_pylist())


def test_days_hold_the_events_of_their_day(store, make_events):
    clock = np.sort(np.random.default_rng(1).uniform(0, 4 * DAY, 150))
    clock = clock[clock // DAY != 1]
    store.append(make_events(clock))
    assert store.partitions() == [0, 2]
    for day in (0, 2):
        np.testing.assert_array_equal(store.day(day)["clock"].to_numpy(), clock[clock // DAY == day])
        assert store.day(day, ["clock", "item"]).column_names == ["clock", "item"]
    with pytest.raises(ConfigurationError, match="no partition of day 3"):
        store.day(3)
    store.close_days(4)
    assert store.partitions() == [0, 2, 3]
    assert len(store.consumer("after").poll()) == len(clock)


def test_a_polled_table_is_an_event_log(store, make_events, world):
    events = make_events(np.arange(20.0), users=world.num_users)
    store.append(events)
    polled = EventLog.of(store.consumer("learner").poll())
    ours, theirs = (log.to_log(world.policy_log, 0) for log in (polled, events))
    np.testing.assert_array_equal(ours.item, theirs.item)
    np.testing.assert_array_equal(ours.clicked, theirs.clicked)
    assert len(EventLog.of(EventStore().consumer("nothing").poll())) == 0


def test_readers_are_independent_and_go_on_where_they_committed(store, make_events):
    store.append(make_events(np.arange(50.0)))
    ranker, recall = store.consumer("ranker"), store.consumer("recall")
    ranker.poll(20)
    ranker.commit()
    ranker.poll(20)  # not committed: these come again
    recall.poll(5)
    assert (ranker.behind, recall.behind) == (10, 45)
    again = store.consumer("ranker")
    assert again.poll(3)["offset"].to_pylist() == [20, 21, 22]
    assert store.consumer("recall").position == 0


def test_a_batch_whose_use_fails_comes_again(store, make_events):
    store.append(make_events(np.arange(30.0)))
    seen = []
    with pytest.raises(RuntimeError):
        for batch in store.consumer("learner").batches(10):
            seen.append(batch["offset"][0].as_py())
            if len(seen) == 2:
                raise RuntimeError
    seen += [batch["offset"][0].as_py() for batch in store.consumer("learner").batches(10)]
    assert seen == [0, 10, 10, 20]


def test_another_process_goes_on_where_this_one_stopped(tmp_path, make_events):
    clock = np.sort(np.random.default_rng(2).uniform(0, 2.5 * DAY, 90))
    whole = make_events(clock).table
    EventStore(tmp_path).append(whole.slice(0, 60))
    later = EventStore(tmp_path)
    with pytest.raises(LogError, match="row 0"):
        later.append(whole.slice(0, 1))
    assert later.append(whole.slice(60)) == 60
    rows = read_all(EventStore(tmp_path).consumer("all"), 7)
    np.testing.assert_equal([row["clock"] for row in rows], clock)


def test_readers_follow_a_writer_that_closes_days_meanwhile(tmp_path, make_events, monkeypatch):
    store, whole = EventStore(tmp_path), make_events(np.arange(40) * 3_600.0).table
    store.append(whole.slice(0, 20))
    reader = EventStore(tmp_path).consumer("slow")
    days, calls = reader._shelf.days, []

    def closing():
        """Closes the day when the reader has listed its segment and knows nothing of the partition."""
        known = days()
        calls.append(known)
        if len(calls) == 2:  # the first is that of the log's end
            store.append(whole.slice(20))
            store.close_days(2)
        return known

    monkeypatch.setattr(reader._shelf, "days", closing)
    rows = reader.poll(50).to_pylist()
    assert calls[1] == [] and calls[2] == [0, 1]
    rows += read_all(reader, 50)
    assert [row["offset"] for row in rows] == list(range(40))


@pytest.mark.parametrize(
    "clock, allowed, message",
    [
        ([5.0, 6.0, 4.5], 0.0, r"row 2: clock 4.5 s is 1.5 s before 6 s"),
        ([5.0, 100.0, 60.0, 39.0], 60.0, r"row 3: clock 39 s is 61 s before 100 s"),
        ([5.0, np.nan], 0.0, "row 1: clock is nan"),
    ],
)
def test_a_clock_that_goes_backwards_is_named_and_nothing_appended(store, make_events, clock, allowed, message):
    store.allowed_delay = allowed
    events = make_events(clock)
    with pytest.raises(LogError, match=message):
        store.append(events)
    assert len(store) == 0 and store.partitions() == []


def test_the_clock_may_not_go_backwards_between_calls_either(store, make_events):
    store.append(make_events([10.0, 20.0]))
    with pytest.raises(LogError, match="row 0: clock 19 s is 1 s before 20 s"):
        store.append(make_events([19.0, 21.0]))
    store.append(make_events([20.0, 21.0]))
    assert len(store) == 4


def test_late_events_get_into_their_day(tmp_path, make_events):
    store = EventStore(tmp_path, allowed_delay=3_600)
    store.append(make_events([DAY - 10.0, DAY + 3_000]))
    assert store.partitions() == []  # an event of day 0 may still come
    store.append(make_events([DAY - 500.0, DAY + 3_599.0, DAY + 3_600.0]))
    assert store.partitions() == [0]
    assert store.day(0)["clock"].to_pylist() == [DAY - 500, DAY - 10]
    assert store.day(0)["offset"].to_pylist() == [2, 0]
    assert [row["offset"] for row in read_all(store.consumer("all"), 2)] == [0, 1, 2, 3, 4]
    with pytest.raises(LogError, match="is 3601 s before"):
        store.append(make_events([DAY - 1.0]))


def test_a_closed_day_takes_no_more(store, make_events):
    store.append(make_events([5.0]))
    store.close_days(1)
    with pytest.raises(LogError, match=r"row 0: clock 6 s lies in day 0, and the days before 1 are closed"):
        store.append(make_events([6.0]))


def test_traffic_recorded_request_by_request_is_put_in_order(store, make_events):
    events = make_events([3.0, 8.0, 5.0, 5.0])
    with pytest.raises(LogError, match="clock 5 s"):
        store.append(events)
    store.append(in_order(events))
    assert store.consumer("all").poll()["request"].to_pylist() == [0, 2, 3, 1]
    assert len(in_order(EventLog())) == 0


def test_no_events_are_no_trouble(store):
    assert store.append(EventLog()) == 0
    assert len(store.consumer("learner").poll()) == 0
    store.close_days(3)
    assert store.partitions() == []


def test_events_of_another_shape_are_refused(store, make_events):
    with pytest.raises(ConfigurationError, match="column 'rating' is missing"):
        store.append(make_events([1.0]).table.drop_columns(["rating"]))
    table = make_events([1.0]).table
    store.append(table.append_column("market", table["item"]))  # further columns are kept
    with pytest.raises(ConfigurationError, match="column 'market' is missing"):
        store.append(make_events([2.0]))
    wide = make_events([2.0], slots=5).table
    with pytest.raises(ConfigurationError, match="column 'slate' is fixed_size_list"):
        store.append(wide.append_column("market", wide["item"]))
    with pytest.raises(ConfigurationError, match="column 'offset'"):
        store.append(store.consumer("all").poll())


def test_two_writers_are_noticed(tmp_path, make_events):
    first, second = EventStore(tmp_path), EventStore(tmp_path)
    first.append(make_events([1.0]))
    second.append(make_events([2.0]))
    with pytest.raises(ConfigurationError, match="let one process append"):
        first.append(make_events([3.0]))
    assert len(second.consumer("all").poll()) == 2


def test_what_is_damaged_is_named(tmp_path, make_events):
    store = EventStore(tmp_path)
    store.append(make_events([1.0, DAY + 1.0, DAY + 2.0]))
    partition, segment = store.paths()[0], next((tmp_path / "segments").iterdir())
    (tmp_path / "offsets").mkdir()
    (tmp_path / "offsets" / "learner.json").write_text('{"offset": "x"}')
    with pytest.raises(ArtefactError, match=r"learner\.json"):
        store.consumer("learner")
    (tmp_path / "offsets" / "learner.json").write_text('{"offset": 99}')
    with pytest.raises(ArtefactError, match="committed offset 99, but the log ends at 3"):
        store.consumer("learner")
    with pytest.raises(ConfigurationError, match="consumer's name"):
        store.consumer("../learner")
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match=segment.name):
        EventStore(tmp_path).consumer("all").poll()
    segment.write_bytes(whole)
    partition.write_bytes(partition.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match=r"events\.parquet"):
        EventStore(tmp_path).day(0)
    partition.unlink()
    partition.parent.rmdir()
    for each in (tmp_path / "segments").iterdir():
        each.unlink()
    segment.write_bytes(whole)
    assert EventStore(tmp_path).consumer("all").poll()["offset"].to_pylist() == [0, 1, 2]


def test_missing_events_are_noticed(tmp_path, make_events):
    store = EventStore(tmp_path)
    store.append(make_events([1.0]))
    store.append(make_events([DAY + 1.0, 2 * DAY + 1.0]))
    reader = store.consumer("archive")
    store.paths()[0].unlink()
    with pytest.raises(ArtefactError, match="lacks events from offset 0"):
        reader.poll()
    reader.seek(1)
    assert reader.poll()["offset"].to_pylist() == [1, 2]
    with pytest.raises(ConfigurationError, match="0 to 3"):
        reader.seek(4)


def test_a_full_disk_loses_nothing(tmp_path, make_events, monkeypatch):
    store = EventStore(tmp_path)
    store.append(make_events([1.0, 2.0]))

    def full(table, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.feather.write_feather", full)
        with pytest.raises(ConfigurationError, match="No space left"):
            store.append(make_events([3.0]))
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(ConfigurationError, match="No space left"):
            store.close_days(1)
    assert store.consumer("all").poll()["offset"].to_pylist() == [0, 1]
    assert store.partitions() == []
    store.append(make_events([3.0]))
    store.close_days(1)
    assert store.day(0)["clock"].to_pylist() == [1, 2, 3]


def test_events_are_in_where_the_disk_fills_up_at_midnight(tmp_path, make_events, monkeypatch):
    """Closing a day may wait, and must not make who appends append again."""
    store = EventStore(tmp_path)
    store.append(make_events([1.0, 2.0]))

    def full(table, path, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        with pytest.warns(
            RuntimeWarning, match=r"the events are in .*before 1 could not be closed.*No space left.*tries again"
        ):
            assert store.append(make_events([3.0, DAY + 1.0])) == 2
    assert store.partitions() == [] and len(store) == 4
    assert read_all(store.consumer("all"), 9)[-1]["clock"] == DAY + 1
    assert store.append(make_events([DAY + 2.0])) == 4
    assert store.partitions() == [0] and store.day(0)["clock"].to_pylist() == [1, 2, 3]
    assert [row["offset"] for row in read_all(store.consumer("again"), 9)] == [0, 1, 2, 3, 4]


def test_events_are_in_where_segments_cannot_be_removed_at_midnight(tmp_path, make_events, monkeypatch):
    store = EventStore(tmp_path)
    store.append(make_events([1.0, 2.0]))

    unlink = Path.unlink

    def locked(path, missing_ok=False):
        if path.name.startswith("0"):
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", locked)
        with pytest.warns(RuntimeWarning, match=r"the events are in .*could not be removed.*tries again"):
            assert store.append(make_events([3.0, DAY + 1.0])) == 2
    assert [row["offset"] for row in read_all(store.consumer("all"), 9)] == [0, 1, 2, 3]
    store.append(make_events([DAY + 2.0]))
    assert sorted(path.name for path in (tmp_path / "segments").iterdir())[0].startswith("000000000000002-")
    assert [row["offset"] for row in read_all(store.consumer("again"), 9)] == [0, 1, 2, 3, 4]


def test_a_day_that_was_closed_before_another_failed_takes_no_more_events(tmp_path, make_events, monkeypatch):
    """They would lie behind its partition, where nobody looks for them."""
    store = EventStore(tmp_path, allowed_delay=9 * DAY)
    store.append(make_events([1.0, DAY + 1.0]))
    write = pq.write_table

    def full_on_the_second(table, path, **options):
        if table["clock"][0].as_py() > DAY:
            raise OSError(28, "No space left on device")
        write(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full_on_the_second)
        with pytest.raises(ConfigurationError, match="No space left"):
            store.close_days(2)
    with pytest.raises(LogError, match="before 1 are closed"):
        store.append(make_events([2.0]))
    store.append(make_events([DAY + 2.0]))
    store.close_days(2)
    assert store.day(1)["clock"].to_pylist() == [DAY + 1, DAY + 2]


KILLED = """
import sys, time
from pathlib import Path
import pyarrow.parquet as pq
from agents.events import EventStore
from envs.event_log import EventLog

folder = Path(sys.argv[1])
write = pq.write_table

def slow(table, path, **options):
    with open(path, "wb") as stream:
        stream.write(b"PAR1 half of a partition")
        stream.flush()
        (folder / "in-the-middle").touch()
        time.sleep(600)

pq.write_table = slow
EventStore(folder).append(EventLog.read(folder / "more.parquet"))
"""


def test_a_kill_in_the_middle_of_a_partition_leaves_all_readable(tmp_path, make_events):
    clock = np.sort(np.random.default_rng(4).uniform(0, 3.5 * DAY, 80))
    whole = make_events(clock).table
    early = int((clock < 1.5 * DAY).sum())
    EventStore(tmp_path).append(whole.slice(0, early))
    EventLog.of(whole.slice(early)).write(tmp_path / "more.parquet")
    script = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[3])
    give_up = time.monotonic() + 300
    while not (tmp_path / "in-the-middle").exists():
        assert script.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    script.kill()
    script.wait()
    left = [path.name for path in (tmp_path / "partitions" / "day=1").iterdir()]
    assert len(left) == 1 and left[0].startswith(".")  # the half that the kill left
    store = EventStore(tmp_path)
    assert store.partitions() == [0]
    np.testing.assert_array_equal(store.day(0)["clock"].to_numpy(), clock[clock < DAY])
    np.testing.assert_equal([row["clock"] for row in read_all(store.consumer("all"), 9)], clock)
    store.append(make_events([4 * DAY + 1.0]))
    assert store.partitions() == [0, 1, 2, 3]
    for day in range(4):
        np.testing.assert_array_equal(store.day(day)["clock"].to_numpy(), clock[clock // DAY == day])
    assert len(read_all(store.consumer("again"), 9)) == 81
    assert not list(tmp_path.glob("partitions/*/.*"))


def test_a_kill_between_partition_and_segment_shows_no_event_twice(tmp_path, make_events, monkeypatch):
    store = EventStore(tmp_path)
    store.append(make_events(np.arange(10.0)))
    with monkeypatch.context() as patch:
        patch.setattr(type(store._shelf), "drop_segment", lambda *args: None)
        store.close_days(1)
    assert len(list((tmp_path / "segments").iterdir())) == 1
    store = EventStore(tmp_path)
    assert [row["offset"] for row in read_all(store.consumer("all"), 3)] == list(range(10))
    store.append(make_events([2 * DAY + 1.0]))
    store.close_days(3)
    assert [len(store.day(day)) for day in store.partitions()] == [10, 1]
    assert not list((tmp_path / "segments").iterdir())


def test_partitions_are_read_by_other_tools(tmp_path, make_events):
    store = EventStore(tmp_path)
    clock = np.sort(np.random.default_rng(5).uniform(0, 3 * DAY, 60))
    store.append(make_events(clock))
    store.close_days(3)
    lazily = pl.scan_parquet(tmp_path / "partitions", hive_partitioning=True)
    counts = lazily.group_by("day").agg(pl.len(), pl.col("item").ge(0).sum().alias("clicks")).sort("day").collect()
    assert counts["len"].to_list() == np.bincount(clock.astype(int) // DAY).tolist()
    arrow = ds.dataset(tmp_path / "partitions", partitioning="hive").to_table(filter=ds.field("day") == 1)
    np.testing.assert_array_equal(days_of(arrow), arrow["day"].to_numpy())
