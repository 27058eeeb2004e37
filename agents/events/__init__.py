"""The data part: one event log for three speeds, and what is made of it.

`store` appends events as they happen, hands them on as a stream and keeps them by day as Parquet (`shelves`: in files or in
memory); `arrivals` tells which of them are known by when. `features`, `samples` and `statistics` make the three outputs, each
with a schema. docs/data-part.md tells how they fit together.
"""

from agents.events.arrivals import Arrivals
from agents.events.store import EventStore, Reader, Store, Stream, in_order

__all__ = ["Arrivals", "EventStore", "Reader", "Store", "Stream", "in_order"]
