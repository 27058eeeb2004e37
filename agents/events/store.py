"""One event log for three speeds: appended as it happens, read as a stream from committed offsets, kept by day as Parquet.

`Stream` and `Store` are all that the rest of the system asks of it, so that a broker and a data lake can take its place.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agents.events.shelves import OFFSET, FolderShelf, MemoryShelf, Shelf
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError, ConfigurationError, LogError
from envs.event_log import EventLog

EVENT_TYPES: dict[str, pa.DataType | None] = {
    "user": pa.int64(),
    "log_user": pa.int32(),
    "visit": pa.int32(),
    "request": pa.int32(),
    "clock": pa.float64(),
    "policy_version": pa.dictionary(pa.int32(), pa.string()),
    "candidates": None,
    "slate": None,
    "propensity": None,
    "slot": pa.int16(),
    "item": pa.int32(),
    "rating": pa.float32(),
    "left": pa.bool_(),
}
"""Columns of `EventLog` and their types; lists (None) have a size of their own in each log. Further columns are kept."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TRIES = 5


class Reader(Protocol):
    """Reads a stream in micro-batches; at least once, since what was read and not committed comes again."""

    def poll(self, most: int = 10_000) -> pa.Table:
        """The next events, `most` at most and perhaps none, in order of their offsets (column `offset`)."""
        ...

    def commit(self) -> None:
        """Tells that all polled so far is done with: a reader of the same name goes on behind it."""
        ...


class Stream(Protocol):
    """Request and update speed: what a broker's client does."""

    def append(self, events: EventLog | pa.Table) -> int:
        """Adds events, all or none; returns the offset of the first."""
        ...

    def consumer(self, name: str) -> Reader:
        """The reader of that name, where it last committed."""
        ...


class Store(Protocol):
    """Batch speed: days that are over and will not change."""

    def partitions(self) -> list[int]:
        """The days that can be read, ascending."""
        ...

    def day(self, day: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The events of a day in order of their clock, all columns or some."""
        ...


def in_order(events: EventLog | pa.Table) -> pa.Table:
    """The events in order of their clocks, ties as they stand: for periods of traffic that are recorded request by request."""
    table = events.table if isinstance(events, EventLog) else events
    return table.take(np.argsort(table["clock"].to_numpy(), kind="stable")) if len(table) else table


class EventStore:
    """An event log in a folder, or in memory for episodes that nobody reads again.

    Events get numbers, their offsets, in the order in which they are appended. Events of a day that goes on lie in segments, one
    for each `append`; once the day is over they move into its Parquet partition. Both are written whole or not at all, so a
    kill leaves all that was appended before readable. Readers find every event in exactly one of the two.

    One process appends to a folder; any number may read from it.

    Args:
        folder: where it is kept, and may be already; None for memory.
        allowed_delay: seconds by which an event may be older than the newest that was appended before it. A day is over when the
            newest event is later than its end by this much.
    """

    def __init__(self, folder: Path | None = None, *, allowed_delay: float = 0.0) -> None:
        if not 0 <= allowed_delay < np.inf:
            raise ConfigurationError(f"allowed_delay is {allowed_delay}; it must be at least 0 seconds.")
        self.allowed_delay = float(allowed_delay)
        self._shelf: Shelf = MemoryShelf() if folder is None else FolderShelf(Path(folder))
        self._end = -1
        """Offset of the next event as the appending store knows it, -1 before its first append."""
        self._newest = -np.inf
        self._open_day = -np.inf
        """First day that is not closed."""
        self._unfinished = False
        """Whether days could not be closed, or not wholly, when they last should."""
        self._moved = -np.inf
        """First day whose partition nobody has asked for."""
        self._waits = folder is None
        """Whether partitions are made only when somebody asks for them: nobody else reads what is in memory."""

    def __len__(self) -> int:
        """Events ever appended: the offset that the next one gets."""
        return self._shelf.end()

    # ------------------------------------------------------------------ request speed
    def append(self, events: EventLog | pa.Table) -> int:
        """Adds events in order of time and closes the days that are over by them.

        Where such a day cannot be closed, say because the disk is full, the events are in all the same: a warning tells, the day
        stays open, and the next `append` tries again.

        Args:
            events: rows as `EventLog` has them; further columns are kept, the same in every call. See `in_order`.

        Returns:
            The offset of the first of them.

        Raises:
            LogError: if a clock goes backwards by more than `allowed_delay`, lies in a closed day or is no number.
            ConfigurationError: if columns or types are not those of the log, the disk is full, or somebody else appends. In all
                cases nothing was appended.
        """
        self._open_for_writing()
        table = events.table if isinstance(events, EventLog) else events
        if not len(table):
            return self._end
        table = _checked_types(table, self._shelf.schema())
        clock = table["clock"].to_numpy()
        newest = self._checked_times(clock)
        first = self._end
        numbered = table.add_column(0, OFFSET, pa.array(np.arange(first, first + len(table))))
        self._shelf.put_segment(first, numbered.unify_dictionaries().combine_chunks())
        self._end, self._newest = first + len(table), newest
        over = (newest - self.allowed_delay) // SECONDS_PER_DAY
        if over > self._open_day or self._unfinished:
            try:
                self.close_days(int(over))
            except (ArtefactError, ConfigurationError) as error:
                # an error would read as if nothing had been appended, and who tries again would append twice
                warnings.warn(
                    f"the events are in {self._shelf.place}, but the days before {int(over)} could not be closed: {error} The next "
                    "append tries again.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return first

    def close_days(self, before: int) -> None:
        """Writes the partitions of all days before `before`, over or not, and takes no more events of them.

        Days that are over are closed by `append`; the last day of a run is not.
        """
        self._open_for_writing()
        self._unfinished = True
        if not self._waits:
            self._move(before)
        self._open_day = max(self._open_day, before)
        self._unfinished = False

    def _move(self, before: float) -> None:
        """Moves the events of days before `before` from segments into partitions."""
        segments = self._shelf.segments()
        if segments:
            rows = self._unclosed(pa.concat_tables([self._shelf.segment(*segment) for segment in segments]))
            day = days_of(rows)
            for number in np.unique(day[day < before]):
                mine = _chosen(rows, day == number)
                if not _ascends(mine, "clock") or not _ascends(mine, OFFSET):
                    mine = mine.sort_by([("clock", "ascending"), (OFFSET, "ascending")])
                self._shelf.put_day(int(number), mine)
                # also where a later day fails: what has a partition takes no more events
                self._open_day = max(self._open_day, int(number) + 1)
            kept = rows[OFFSET].to_numpy()[day >= before]
            begins, ends = np.searchsorted(kept, np.array(segments).T)
            for number in np.flatnonzero(begins == ends):
                self._shelf.drop_segment(*segments[number])

    def _closed(self) -> list[int]:
        """The days that have a partition, ascending."""
        if self._waits and self._open_day > self._moved:
            self._move(self._open_day)
            self._moved = self._open_day
        return self._shelf.days()

    def _open_for_writing(self) -> None:
        """Finds out, at the first append, where the log ends; later, that nobody else has appended since."""
        end = self._shelf.end()
        if self._end >= 0:
            if end != self._end:
                raise ConfigurationError(
                    f"{self._shelf.place} has events up to offset {end} where this store left off at {self._end}; let one "
                    "process append to a folder."
                )
            return
        self._shelf.clear_leftovers()
        days = self._shelf.days()
        clocks = [self._shelf.span(days[-1]).newest] if days else []
        clocks += [pc.max(self._shelf.segment(*segment)["clock"]).as_py() for segment in self._shelf.segments()]
        self._end, self._newest = end, max(clocks, default=-np.inf)
        self._open_day = days[-1] + 1 if days else -np.inf

    def _checked_times(self, clock: NDArray[np.float64]) -> float:
        """The newest clock after the check of those to append."""
        unusable = ~np.isfinite(clock)
        if unusable.any():
            row = int(np.argmax(unusable))
            raise LogError(
                f"events to append, row {row}: clock is {clock[row]}, which is not a time; nothing was appended."
            )
        reached = np.maximum.accumulate(np.concatenate([[self._newest], clock]))
        late = reached[:-1] - clock
        if (late > self.allowed_delay).any():
            row = int(np.argmax(late > self.allowed_delay))
            raise LogError(
                f"events to append, row {row}: clock {clock[row]:.10g} s is {late[row]:.10g} s before {reached[row]:.10g} s, which "
                f"came before it, and allowed_delay is {self.allowed_delay:.10g} s; sort the events by clock or allow a longer "
                "delay. Nothing was appended."
            )
        closed = clock < self._open_day * SECONDS_PER_DAY
        if closed.any():
            row = int(np.argmax(closed))
            raise LogError(
                f"events to append, row {row}: clock {clock[row]:.10g} s lies in day {int(clock[row] // SECONDS_PER_DAY)}, and the "
                f"days before {int(self._open_day)} are closed; nothing was appended."
            )
        return float(reached[-1])

    # ------------------------------------------------------------------ update speed
    def consumer(self, name: str) -> "Consumer":
        """A reader of its own, which goes on where the last of that name committed, else at the first event.

        Raises:
            ConfigurationError: if the name is not made of letters, digits, - and _.
            ArtefactError: if what was committed cannot be read, or lies beyond the log.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"the consumer's name is '{name}'; use letters, digits, - and _ only.")
        return Consumer(self._shelf, name)

    # ------------------------------------------------------------------ batch speed
    def partitions(self) -> list[int]:
        """The closed days that have events, ascending."""
        return self._closed()

    def day(self, day: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The events of a closed day in order of their clock (column `offset` before those of `EventLog`).

        Args:
            day: number of the day: clock over 86,400, rounded down.
            columns: which, by default all.

        Raises:
            ConfigurationError: if the day is not closed, or has no events.
            ArtefactError: if its file is damaged.
        """
        if day not in self._closed():
            raise ConfigurationError(
                f"{self._shelf.place} has no partition of day {day}; days that had events and are over have one."
            )
        return self._shelf.day(day, columns)

    def paths(self) -> list[Path]:
        """The files of the partitions, ascending, for `polars.scan_parquet`, `ray.data.read_parquet` and others; none in memory."""
        return [path for day in self._shelf.days() if (path := self._shelf.path(day)) is not None]

    def _unclosed(self, rows: pa.Table) -> pa.Table:
        """The rows whose days have no partition: a kill may come between a partition and the end of its segments."""
        return _outside(rows, self._shelf.days())


class Consumer:
    """Reads the log in micro-batches; made by `EventStore.consumer`. Readers of other names do not disturb each other.

    What was polled and not committed is polled again after a restart, so whoever reads must bear to see events twice: their
    `offset` tells.
    """

    def __init__(self, shelf: Shelf, name: str) -> None:
        self._shelf, self.name = shelf, name
        self.position = shelf.offset(name)
        """Offset of the next event to be polled."""
        end = shelf.end()
        if self.position > end:
            raise ArtefactError(
                f"consumer '{name}' of {shelf.place} committed offset {self.position}, but the log ends at {end}; delete its file "
                "in offsets/ to begin again."
            )

    @property
    def behind(self) -> int:
        """Events appended that were not polled yet."""
        return self._shelf.end() - self.position

    def poll(self, most: int = 10_000) -> pa.Table:
        """The next events, `most` at most, in order of their offsets; an empty table where there are none.

        Raises:
            ArtefactError: if a file is damaged, or events are missing that should come now.
        """
        if most < 1:
            raise ConfigurationError(f"most is {most}; it must be at least 1 event.")
        wanted = min(most, self.behind)
        if wanted == 0 and (schema := self._shelf.schema()) is not None:
            return schema.empty_table()
        for attempt in range(_TRIES):
            try:
                events = _read(self._shelf, self.position, self.position + most)
                break
            except FileNotFoundError:  # the day was closed meanwhile, and the events moved to its partition
                if attempt == _TRIES - 1:
                    raise
        found = events[OFFSET].to_numpy() if len(events) else np.zeros(0, np.int64)
        if len(found) < wanted or (len(found) and (found[0] != self.position or found[-1] - found[0] >= len(found))):
            end = max(self.position + wanted, found.max(initial=0) + 1)
            here = np.setdiff1d(np.arange(self.position, end), found)
            raise ArtefactError(
                f"consumer '{self.name}': {self._shelf.place} lacks events from offset {here[0]} on; seek() behind those that were "
                "removed."
            )
        self.position += len(events)
        return events

    def commit(self) -> None:
        """Keeps the position, whole or not at all: a consumer of this name goes on behind what was polled."""
        self._shelf.put_offset(self.name, self.position)

    def seek(self, offset: int) -> None:
        """Goes on at `offset` (0 for the first event, `len(store)` for only new ones).

        Raises:
            ConfigurationError: if the log does not reach so far.
        """
        if not 0 <= offset <= self._shelf.end():
            raise ConfigurationError(
                f"offset is {offset}; it must lie in 0 to {self._shelf.end()}, the end of the log."
            )
        self.position = offset

    def batches(self, most: int = 10_000) -> Iterator[pa.Table]:
        """Micro-batches until there are no more for now; each is committed when the next is asked for, so not if its use fails."""
        while len(events := self.poll(most)):
            yield events
            self.commit()


def days_of(events: pa.Table) -> NDArray[np.int64]:
    """[R] number of the day of each event: its clock over 86,400, rounded down."""
    return np.floor(events["clock"].to_numpy() / SECONDS_PER_DAY).astype(np.int64)


def _outside(rows: pa.Table, closed: Sequence[int]) -> pa.Table:
    return _chosen(rows, ~np.isin(days_of(rows), closed)) if len(closed) and len(rows) else rows


def _chosen(rows: pa.Table, chosen: NDArray[np.bool_]) -> pa.Table:
    """Some of the rows; all of them without a copy."""
    return rows if chosen.all() else rows.filter(pa.array(chosen))


def _ascends(rows: pa.Table, name: str) -> bool:
    column = rows[name].to_numpy()
    return bool((column[1:] >= column[:-1]).all())


def _read(shelf: Shelf, first: int, end: int) -> pa.Table:
    """Events with offsets from `first` to `end`, the latter not included, in that order."""
    # segments before days: a segment that goes away after it was listed is noticed, a day that came is not
    segments = [span for span in shelf.segments() if span[0] < end and span[1] > first]
    closed = shelf.days()
    parts = [_outside(shelf.segment(*span), closed) for span in segments]
    spans = {day: shelf.span(day) for day in closed}
    parts += [shelf.day(day) for day, span in spans.items() if span.first < end and span.last >= first]
    if not parts:
        schema = shelf.schema()
        return pa.table({}) if schema is None else schema.empty_table()
    rows = pa.concat_tables(parts)
    offset = rows[OFFSET].to_numpy()
    mine = _chosen(rows, (offset >= first) & (offset < end)).unify_dictionaries()
    return mine if _ascends(mine, OFFSET) else mine.sort_by(OFFSET)


def _checked_types(table: pa.Table, schema: pa.Schema | None) -> pa.Table:
    """The events in the log's order of columns.

    Raises:
        ConfigurationError: if a column is missing, additional or of another type.
    """
    if OFFSET in table.column_names:
        raise ConfigurationError(f"events to append have a column '{OFFSET}', which the store gives; leave it out.")
    if schema is None:
        for name, kind in EVENT_TYPES.items():
            found = table.schema.field(name).type if name in table.column_names else None
            is_list = found is not None and pa.types.is_fixed_size_list(found)
            if found is None or (kind is not None and found != kind) or (kind is None and not is_list):
                told = "missing" if found is None else f"of type {found}"
                raise ConfigurationError(
                    f"events to append: column '{name}' is {told}; it must be {kind or 'a list of fixed size'}, as EventLog has it."
                )
        return table
    wanted = schema.remove(0)
    for name in sorted(set(wanted.names) ^ set(table.column_names)):
        told = "missing" if name in wanted.names else "not one of the log's"
        raise ConfigurationError(
            f"events to append: column '{name}' is {told}; give every event the columns of the first."
        )
    table = table.select(wanted.names)
    for field in wanted:
        if table.schema.field(field.name).type != field.type:
            raise ConfigurationError(
                f"events to append: column '{field.name}' is {table.schema.field(field.name).type}, in the log {field.type}; keep "
                "logs of other slates or candidates in folders of their own."
            )
    return table
