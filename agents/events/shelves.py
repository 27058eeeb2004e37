"""Where an event store keeps segments, partitions and offsets: in memory, or as files that are written whole or not at all."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

from envs.artefacts import load_json, save_json, written_whole
from envs.errors import ArtefactError, ConfigurationError

OFFSET = "offset"
"""Column with the number of each event in the order in which they were appended."""
_SEGMENT = re.compile(r"(\d{15})-(\d{15})\.arrow")
_DAY = re.compile(r"day=(-?\d+)")
_PARTITION = "events.parquet"


class Span(NamedTuple):
    """What a partition holds."""

    first: int
    """Its smallest offset."""
    last: int
    """Its largest offset."""
    newest: float
    """Its largest clock."""


class Shelf(Protocol):
    """What `EventStore` is built on."""

    place: str
    """Names it in errors."""

    def schema(self) -> pa.Schema | None:
        """That of all tables, `offset` first; None while there are none."""
        ...

    def end(self) -> int:
        """One more than the largest offset."""
        ...

    def segments(self) -> list[tuple[int, int]]:
        """(first offset, end) of each segment, ascending."""
        ...

    def segment(self, first: int, end: int) -> pa.Table:
        """The events of a segment.

        Raises:
            FileNotFoundError: if it is gone.
        """
        ...

    def put_segment(self, first: int, table: pa.Table) -> None:
        """Adds a segment, whole or not at all."""
        ...

    def drop_segment(self, first: int, end: int) -> None:
        """Removes a segment."""
        ...

    def days(self) -> list[int]:
        """The days that have a partition, ascending."""
        ...

    def day(self, day: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The events of a partition."""
        ...

    def put_day(self, day: int, table: pa.Table) -> None:
        """Adds a partition, whole or not at all."""
        ...

    def span(self, day: int) -> Span:
        """What a partition holds."""
        ...

    def path(self, day: int) -> Path | None:
        """The file of a partition, None in memory."""
        ...

    def offset(self, name: str) -> int:
        """What `put_offset` kept under a name, 0 before."""
        ...

    def put_offset(self, name: str, offset: int) -> None:
        """Keeps a reader's offset, whole or not at all."""
        ...

    def clear_leftovers(self) -> None:
        """Removes what killed writers left."""
        ...


class MemoryShelf:
    """Tables in memory."""

    place = "the event store in memory"

    def __init__(self) -> None:
        self._segments: dict[tuple[int, int], pa.Table] = {}
        self._days: dict[int, pa.Table] = {}
        self._spans: dict[int, Span] = {}
        self._offsets: dict[str, int] = {}
        self._end = 0
        self._schema: pa.Schema | None = None

    def schema(self) -> pa.Schema | None:
        """That of the first segment."""
        return self._schema

    def end(self) -> int:
        """One more than the largest offset."""
        return self._end

    def segments(self) -> list[tuple[int, int]]:
        """(first offset, end) of each segment, ascending."""
        return list(self._segments)

    def segment(self, first: int, end: int) -> pa.Table:
        """The events of a segment."""
        return self._segments[first, end]

    def put_segment(self, first: int, table: pa.Table) -> None:
        """Adds a segment."""
        self._end, self._schema = first + len(table), table.schema
        self._segments[first, self._end] = table

    def drop_segment(self, first: int, end: int) -> None:
        """Removes a segment."""
        del self._segments[first, end]

    def days(self) -> list[int]:
        """The days that have a partition, ascending."""
        return sorted(self._days)

    def day(self, day: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The events of a partition."""
        return self._days[day] if columns is None else self._days[day].select(columns)

    def put_day(self, day: int, table: pa.Table) -> None:
        """Adds a partition."""
        self._days[day] = table
        offset, clock = pc.min_max(table[OFFSET]), pc.max(table["clock"])
        self._spans[day] = Span(offset["min"].as_py(), offset["max"].as_py(), clock.as_py())

    def span(self, day: int) -> Span:
        """What a partition holds."""
        return self._spans[day]

    def path(self, day: int) -> Path | None:
        """None: there are no files."""
        return None

    def offset(self, name: str) -> int:
        """What `put_offset` kept under a name, 0 before."""
        return self._offsets.get(name, 0)

    def put_offset(self, name: str, offset: int) -> None:
        """Keeps a reader's offset."""
        self._offsets[name] = offset

    def clear_leftovers(self) -> None:
        """There are none."""


class FolderShelf:
    """Files of a folder: `segments/FIRST-END.arrow`, `partitions/day=N/events.parquet`, `offsets/NAME.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, f"'{folder}'"
        self._spans: dict[int, Span] = {}
        self._schema: pa.Schema | None = None
        self._last_read: tuple[int, pa.Table] | None = None
        """A reader that lags goes through a day in many small steps, and the day does not change."""

    def schema(self) -> pa.Schema | None:
        """That of any file: all have the same."""
        if self._schema is None:
            segments, days = self.segments(), self.days()
            if segments:
                self._schema = self.segment(*segments[-1]).schema
            elif days:
                self._schema = self.day(days[-1]).schema
        return self._schema

    def end(self) -> int:
        """One more than the largest offset."""
        # a day that closes meanwhile moves events from segments to partitions, so segments are listed first
        ends = [end for _, end in self.segments()]
        return max(ends + [self.span(day).last + 1 for day in self.days()], default=0)

    def segments(self) -> list[tuple[int, int]]:
        """(first offset, end) of each segment, ascending."""
        found = [_SEGMENT.fullmatch(path.name) for path in _listed(self.folder / "segments")]
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def segment(self, first: int, end: int) -> pa.Table:
        """The events of a segment.

        Raises:
            FileNotFoundError: if it is gone.
            ArtefactError: if it is damaged.
        """
        path = self._segment_path(first, end)
        try:
            return feather.read_table(path, memory_map=True)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtefactError(f"'{path}' is damaged ({error}); remove it to go on without its events.") from error

    def put_segment(self, first: int, table: pa.Table) -> None:
        """Adds a segment, whole or not at all."""
        path = self._segment_path(first, first + len(table))
        try:
            with written_whole(path) as temporary:
                feather.write_feather(table, str(temporary), compression="uncompressed")
        except OSError as error:
            raise _unwritable(path, error) from error
        self._schema = table.schema

    def drop_segment(self, first: int, end: int) -> None:
        """Removes a segment."""
        path = self._segment_path(first, end)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(f"'{path}' could not be removed ({error}); mend permissions.") from error

    def days(self) -> list[int]:
        """The days that have a partition, ascending."""
        found = [_DAY.fullmatch(path.name) for path in _listed(self.folder / "partitions")]
        return sorted(day for match in found if match and self.path(day := int(match[1])).exists())

    def day(self, day: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The events of a partition.

        Raises:
            ArtefactError: if it is damaged.
        """
        path = self.path(day)
        if columns is None and self._last_read is not None and self._last_read[0] == day:
            return self._last_read[1]
        try:
            # read as a single file: the folder's name is no column
            table = pq.ParquetFile(path).read(None if columns is None else list(columns))
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtefactError(f"'{path}' is damaged ({error}); remove it to go on without its day.") from error
        if columns is None:
            self._last_read = (day, table)
        return table

    def put_day(self, day: int, table: pa.Table) -> None:
        """Adds a partition, whole or not at all."""
        path = self.path(day)
        try:
            with written_whole(path) as temporary:
                pq.write_table(table, temporary, compression="zstd")
        except OSError as error:
            raise _unwritable(path, error) from error

    def span(self, day: int) -> Span:
        """What a partition holds, by its footer.

        Raises:
            ArtefactError: if it is damaged.
        """
        if day not in self._spans:
            path = self.path(day)
            try:
                footer = pq.read_metadata(path)
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowInvalid) as error:
                raise ArtefactError(f"'{path}' is damaged ({error}); remove it to go on without its day.") from error
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
            column = {footer.schema.column(number).path: number for number in range(footer.num_columns)}
            offsets = [group.column(column[OFFSET]).statistics for group in groups]
            clocks = [group.column(column["clock"]).statistics for group in groups]
            self._spans[day] = Span(
                min(part.min for part in offsets), max(part.max for part in offsets), max(part.max for part in clocks)
            )
        return self._spans[day]

    def path(self, day: int) -> Path:
        """The file of a partition."""
        return self.folder / "partitions" / f"day={day}" / _PARTITION

    def offset(self, name: str) -> int:
        """What `put_offset` kept under a name, 0 before.

        Raises:
            ArtefactError: if the file is damaged.
        """
        path = self._offset_path(name)
        if not path.exists():
            return 0
        kept = load_json(path)
        offset = kept.get(OFFSET) if isinstance(kept, dict) else None
        if type(offset) is not int or offset < 0:
            raise ArtefactError(f"'{path}' holds no offset; delete it to read the log from its beginning.")
        return offset

    def put_offset(self, name: str, offset: int) -> None:
        """Keeps a reader's offset, whole or not at all."""
        path = self._offset_path(name)
        try:
            save_json(path, {OFFSET: offset})
        except OSError as error:
            raise _unwritable(path, error) from error

    def clear_leftovers(self) -> None:
        """Removes the temporary files of killed writers."""
        for pattern in ("segments/.*", "partitions/*/.*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _segment_path(self, first: int, end: int) -> Path:
        return self.folder / "segments" / f"{first:015d}-{end:015d}.arrow"

    def _offset_path(self, name: str) -> Path:
        return self.folder / "offsets" / f"{name}.json"


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"'{path}' could not be written ({error}); make room or mend permissions. What was there still is."
    )
