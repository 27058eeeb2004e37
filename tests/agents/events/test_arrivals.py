import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from agents.events import Arrivals, EventStore
from agents.events.shelves import OFFSET

HOUR, DAY = 3_600.0, 86_400.0


@pytest.mark.parametrize("delay", [0.0, 30 * HOUR])
def test_events_are_known_a_delay_later_and_each_once(make_events, delay):
    clock = np.sort(np.random.default_rng(0).uniform(0, 3 * DAY, 60))
    events = make_events(clock).table
    store = EventStore()
    arrivals, known = Arrivals(store.consumer("models"), delay), []
    for night in range(6):
        today = (clock >= (night - 1) * DAY) & (clock < night * DAY)
        store.append(events.filter(pa.array(today)))
        known.append(arrivals.by(night * DAY))
        assert sum(len(each) for each in known) == (clock + delay < night * DAY).sum()
    assert len(arrivals.by(np.inf)) == 0
    offsets = np.concatenate([each.table[OFFSET].to_numpy() for each in known if len(each)])
    assert_array_equal(offsets, np.arange(60))
    assert max(len(each) for each in known) < 60


def test_an_event_that_is_just_as_old_as_the_delay_is_not_known_yet(make_events):
    store = EventStore()
    store.append(make_events([0.0, 10.0]))
    arrivals = Arrivals(store.consumer("models"), 5.0)
    assert [len(arrivals.by(now)) for now in (5.0, 15.0, 15.1)] == [0, 1, 1]


def test_what_a_stream_hands_on_twice_is_known_once(make_events):
    class Again:
        """Goes back by three events at every second micro-batch."""

        def __init__(self, reader):
            self.reader, self.count = reader, 0

        def poll(self, most=10_000):
            self.count += 1
            if self.count % 2 == 0 and self.reader.behind:
                self.reader.seek(self.reader.position - 3)
            return self.reader.poll(10)

        def commit(self):
            self.reader.commit()

    store = EventStore()
    store.append(make_events(np.arange(40.0)))
    known = Arrivals(Again(store.consumer("models"))).by(35.0)
    assert_array_equal(known.table["clock"].to_numpy(), np.arange(35.0))
