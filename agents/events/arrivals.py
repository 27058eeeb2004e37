"""Events as they become known: who reads a stream learns of an event some time after it was made."""

import numpy as np
import pyarrow as pa

from agents.events.shelves import OFFSET
from agents.events.store import Reader
from envs.event_log import EventLog


class Arrivals:
    """Hands on a stream's events when they are known, each once, also where the stream hands them on more than once.

    Nothing is committed: what was polled and is not known yet is kept here alone.

    Args:
        reader: of the stream.
        delay: seconds from an event until it is known.
    """

    def __init__(self, reader: Reader, delay: float = 0.0) -> None:
        self._reader, self._delay = reader, delay
        self._waiting = EventLog()
        self._position = 0
        """Offset of the next event to be taken in."""

    def by(self, now: float) -> EventLog:
        """The events that are older than `now` by more than the delay and were not handed on before, with their offsets and in
        the order of these."""
        parts = [self._waiting]
        while len(events := self._reader.poll()):
            parts.append(EventLog.of(self._new(events)))
        waiting = EventLog.joined(parts)
        self._waiting = waiting.during(now - self._delay, np.inf)
        return waiting.during(-np.inf, now - self._delay)

    def _new(self, events: pa.Table) -> pa.Table:
        offset = events[OFFSET].to_numpy()
        is_new = offset >= self._position
        self._position = max(self._position, int(offset.max()) + 1)
        return events if is_new.all() else events.filter(pa.array(is_new))
