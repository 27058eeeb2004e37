"""Typed columns of files that may be larger than memory, streamed by polars.

A text file is first scanned with explicit types, which is fast and knows no addresses. Where that meets a fault it raises
`FaultFound`, and `read_carefully` has the loader read again: in blocks of text, with the line of every row, so that the
first fault can be named and the good rows kept.
"""

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.errors import LogError
from envs.logs.fields import DATE_FORMS, Field, Kind, date_forms_of
from envs.logs.rows import Rows
from envs.logs.tables import READ_ERRORS, Table, header_names, line_table, open_quoted, quoted_tables, unreadable

BLOCK_BYTES = 1 << 25
"""Text that is taken apart together in the careful reading."""
SAMPLE_ROWS = 200
"""Rows that tell whether times are numbers or dates."""
Loaded = TypeVar("Loaded")


class FaultFound(Exception):
    """A fast scan met a fault, whose address only a careful reading knows."""


def read_carefully(load: Callable[[bool], Loaded]) -> Loaded:
    """What `load(careful)` returns: without care, and only if that meets a fault, with care."""
    try:
        return load(False)
    except FaultFound:
        return load(True)


@dataclass(frozen=True, kw_only=True)
class TextForm:
    """How a text file separates its fields."""

    separator: str = ","
    """What stands between fields: one character, or one character twice."""
    header: Sequence[str] | None = None
    """Names of the columns where the first line does not give them."""


class ScannedRows(Rows):
    """Rows of one or several files as typed columns."""

    def __init__(self, files: Sequence[Traversable], counts: Sequence[int]) -> None:
        super().__init__(files[0].name, int(sum(counts)))
        self.files = files
        self.columns: dict[str, NDArray] = {}
        """[R] values of each column that is kept, as `Kind` tells."""
        self.names: dict[str, pl.Series] = {}
        """Names that the codes of a column of names stand for."""
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def take_over(self, parts: Sequence[Rows]) -> None:
        """Makes the faults of the parts that these rows are put together from its own."""
        self.good = np.concatenate([part.good for part in parts])
        starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        faults = [(start, part.first_fault) for start, part in zip(starts, parts, strict=False) if part.first_fault]
        self.first_fault = (faults[0][0] + faults[0][1][0], faults[0][1][1]) if faults else None

    def locate(self, row: int) -> tuple[int, int]:
        """(number of its file, number of the row in it)."""
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        return file, row - int(self._starts[file])

    def kept(self, skip_bad_rows: bool) -> NDArray[np.int64] | slice:
        """Selects the good rows; all of them without a copy.

        Raises:
            LogError: as `keep`.
        """
        return slice(None) if self.first_fault is None and len(self) else self.keep(skip_bad_rows)


class _FastRows(ScannedRows):
    """Rows without addresses; the first fault stops the scan."""

    def address(self, row: int) -> str:
        raise FaultFound

    def given(self, column: str, row: int) -> str | None:
        raise FaultFound

    def reject(self, bad: NDArray[np.bool_], fault: str) -> None:
        if bad.any():
            raise FaultFound

    def reject_repeats(self, key: NDArray[np.int64], what: str) -> None:
        ordered = np.sort(key)
        if (ordered[1:] == ordered[:-1]).any():
            raise FaultFound


class _TextRows(ScannedRows):
    """Rows of text files with the line of each, put together from tables."""

    def __init__(
        self,
        files: Sequence[Traversable],
        parts: Sequence[Sequence[Table]],
        headers: Sequence[Sequence[str]],
        separator: str,
    ) -> None:
        super().__init__(files, [sum(len(table) for table in tables) for tables in parts])
        tables = [table for part in parts for table in part]
        self.take_over(tables)
        self._headers = headers
        self._separator = separator
        self._lines = np.concatenate([table.lines for table in tables])

    def address(self, row: int) -> str:
        return f"{self.files[self.locate(row)[0]].name}, line {self._lines[row]}"

    def given(self, column: str, row: int) -> str | None:
        number, line = self.locate(row)[0], int(self._lines[row])
        with self.files[number].open("rb") as raw:
            text = next(islice(raw, line - 1, line)).decode("utf-8", "replace").strip("\r\n")
        fields, place = _fields(text, self._separator), self._headers[number].index(column)
        return fields[place] if place < len(fields) else None


class _ParquetRows(ScannedRows):
    """Rows of Parquet files; the address is the number of the row, from 1."""

    def address(self, row: int) -> str:
        file, place = self.locate(row)
        return f"{self.files[file].name}, row {place + 1}"

    def given(self, column: str, row: int) -> str | None:
        file, place = self.locate(row)
        with on_disk(self.files[file]) as path:
            value = pl.scan_parquet(path).select(column).slice(place, 1).collect().item()
        return "" if value is None else str(value)


def read_rows(
    files: Sequence[Traversable], fields: Sequence[Field], *, form: TextForm | None, careful: bool = False
) -> ScannedRows:
    """Reads columns of files that hold the same kind of rows; the rows of the first file come first.

    Args:
        files: at least one.
        fields: columns to read; others are passed over.
        form: of text files; None for Parquet.
        careful: whether text is read so that rows have addresses.

    Raises:
        FaultFound: if a text file has a fault and is not read carefully.
        LogError: if a file cannot be read or lacks a column.
    """
    categories = {field.column: pl.Categories.random() for field in fields if field.kind is Kind.NAME}
    # polars forgets categories of which no column is left
    held = [pl.Series([], dtype=pl.Categorical(kind)) for kind in categories.values()]
    if form is None:
        rows = _read_parquet(files, fields, categories)
    elif careful:
        rows = _read_blocks(files, fields, categories, form)
    else:
        rows = _read_fast(files, fields, categories, form)
    rows.names = {column: kind.to_series() for column, kind in categories.items()}
    del held
    return rows


# ---------------------------------------------------------------------------------------------------------- fast, text
def _read_fast(
    files: Sequence[Traversable], fields: Sequence[Field], categories: dict[str, pl.Categories], form: TextForm
) -> ScannedRows:
    columns: dict[str, list[NDArray]] = {}
    counts = []
    for file in files:
        with on_disk(file) as path:
            frame = _scan(file.name, path, fields, categories, form)
        counts.append(frame.height)
        _move(frame, fields, _FastRows([file], [frame.height]), columns)
    rows = _FastRows(files, counts)
    rows.columns = _whole(columns)
    return rows


def _scan(
    title: str, path: Path, fields: Sequence[Field], categories: dict[str, pl.Categories], form: TextForm
) -> pl.DataFrame:
    names, sample = _opening(title, path, fields, form)
    dates = {column: date_forms_of(texts) for column, texts in sample.items()}
    types = {field.column: field.text_type(bool(dates.get(field.column))) for field in fields}
    separator, columns = form.separator[:1], list(names)
    if len(form.separator) == 2:  # one character twice: every other column is empty
        columns = [
            name for place, given in enumerate(names) for name in ((f"gap {place}", given) if place else (given,))
        ]
    gaps = [name for name in columns if name not in names]
    selected = _expressions(fields, types, categories, dates)
    # a row with too many fields is only noticed where the last column is read
    selected += [pl.col(name).is_not_null().alias(name) for name in gaps]
    selected.append(pl.col(columns[-1]).is_null().alias("last"))
    try:
        frame = (
            pl.scan_csv(
                path,
                has_header=False,
                skip_lines=0 if form.header else 1,
                schema={name: types.get(name, pl.String()) for name in columns},
                separator=separator,
                quote_char=None if len(form.separator) == 2 else '"',
            )
            .select(selected)
            .collect(engine="streaming")
        )
    except pl.exceptions.PolarsError as error:
        raise FaultFound from error
    if any(frame[name].any() for name in gaps):
        raise FaultFound
    return frame.drop("last", *gaps)


def _opening(
    title: str, path: Path, fields: Sequence[Field], form: TextForm
) -> tuple[Sequence[str], dict[str, pl.Series]]:
    """(names of all columns, the first texts of the columns of times)."""
    required = [field.column for field in fields]
    try:
        with path.open("rb") as raw:
            lines = [line for line in islice(raw, SAMPLE_ROWS + 1) if line.strip()]
    except OSError as error:
        raise unreadable(path, error) from error
    if not lines:
        raise LogError(f"{title} is empty; fetch it again or choose another data set.")
    names = form.header
    if names is None:
        names = header_names(title, lines.pop(0), required, form.separator)
    times = [list(names).index(field.column) for field in fields if field.kind is Kind.TIME]
    rows = [_fields(line.decode("utf-8", "replace").strip("\r\n"), form.separator) for line in lines] if times else []
    return names, {
        names[place]: pl.Series([row[place] if place < len(row) else None for row in rows], dtype=pl.String)
        for place in times
    }


def _fields(line: str, separator: str) -> list[str]:
    """The fields of one line."""
    return next(csv.reader([line], delimiter=separator), []) if '"' in line else line.split(separator)


def _expressions(
    fields: Sequence[Field],
    types: dict[str, pl.DataType],
    categories: dict[str, pl.Categories],
    dates: dict[str, list[str]],
) -> list[pl.Expr]:
    """Values of all fields, and whether those that may be empty are."""
    none = pl.Categories.random()
    values = [
        field.expression(types[field.column], categories.get(field.column, none), dates.get(field.column, ()))
        for field in fields
    ]
    empty = [field.emptiness(types[field.column]).alias(_empty(field)) for field in fields if field.optional]
    return values + empty


def _empty(field: Field) -> str:
    return f"{field.column} is empty"


def _move(frame: pl.DataFrame, fields: Sequence[Field], part: Rows, columns: dict[str, list[NDArray]]) -> None:
    """Moves the columns of a file out of its frame, checked, so that little is held twice."""
    for field in fields:
        empty = frame.drop_in_place(_empty(field)) if field.optional else None
        values = part.accepted(field, frame.drop_in_place(field.column), empty)
        if field.kept:
            columns.setdefault(field.column, []).append(values)


def _whole(columns: dict[str, list[NDArray]]) -> dict[str, NDArray]:
    """The columns of all files, put together one after the other."""
    whole = {}
    for column in list(columns):
        parts = columns.pop(column)
        whole[column] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole


# ------------------------------------------------------------------------------------------------------- careful, text
def _read_blocks(
    files: Sequence[Traversable], fields: Sequence[Field], categories: dict[str, pl.Categories], form: TextForm
) -> ScannedRows:
    columns: dict[str, list[NDArray]] = {}
    parts: list[list[Table]] = []
    headers = []
    for file in files:
        parts.append([])
        with on_disk(file) as path:
            names, sample = _opening(file.name, path, fields, form)
            headers.append(list(names))
            dated = {column for column, texts in sample.items() if date_forms_of(texts)}
            for table in _blocks(file.name, path, names, [field.column for field in fields], form):
                for field in fields:
                    values = table.read(field, categories.get(field.column), field.column in dated)
                    if field.kept:
                        columns.setdefault(field.column, []).append(values)
                table.columns = {}  # its text is not needed any more
                parts[-1].append(table)
    rows = _TextRows(files, parts, headers, form.separator)
    rows.columns = _whole(columns)
    return rows


def _blocks(title: str, path: Path, names: Sequence[str], used: Sequence[str], form: TextForm) -> Iterator[Table]:
    """The rows of a file as text, some at a time."""
    with path.open("rb") as raw:
        if len(form.separator) == 1 and _has_quotes(path):
            reader = open_quoted(raw, form.separator)
            if form.header is None:
                next(reader)
            yield from quoted_tables(title, reader, names, used)
            return
        line = 1
        if form.header is None:
            next(raw)
            line = 2
        came = False
        while (block := raw.read(BLOCK_BYTES) + raw.readline()) or not came:
            came = True
            yield line_table(title, block, line, names, used, form.separator)
            line += block.count(b"\n")


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as raw:
        while block := raw.read(BLOCK_BYTES):
            if b'"' in block:
                return True
    return False


# -------------------------------------------------------------------------------------------------------------- Parquet
def _read_parquet(
    files: Sequence[Traversable], fields: Sequence[Field], categories: dict[str, pl.Categories]
) -> ScannedRows:
    columns: dict[str, list[NDArray]] = {}
    parts = []
    for file in files:
        with on_disk(file) as path:
            frame = _parquet_frame(file.name, path, fields, categories)
        parts.append(_ParquetRows([file], [frame.height]))
        _move(frame, fields, parts[-1], columns)
    rows = _ParquetRows(files, [len(part) for part in parts])
    rows.take_over(parts)
    rows.columns = _whole(columns)
    return rows


def _parquet_frame(
    title: str, path: Path, fields: Sequence[Field], categories: dict[str, pl.Categories]
) -> pl.DataFrame:
    try:
        scan = pl.scan_parquet(path)
        types = dict(scan.collect_schema())
        for field in fields:
            if field.column not in types:
                raise LogError(f"{title}: column '{field.column}' is missing (the file has {', '.join(types)}).")
            if not field.can_be(types[field.column]):
                raise LogError(
                    f"{title}: column '{field.column}' holds values of type {types[field.column]}; "
                    f"it must be {field.kind.value}."
                )
        times = [field.column for field in fields if field.kind is Kind.TIME and types[field.column] == pl.String]
        sample = scan.select(times).head(SAMPLE_ROWS).collect() if times else pl.DataFrame()
        dates = {column: list(DATE_FORMS) if date_forms_of(sample[column]) else [] for column in times}
        return scan.select(_expressions(fields, types, categories, dates)).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(
            f"{title} cannot be read as Parquet ({str(error).splitlines()[0]}): it is damaged or cut short; "
            "write or fetch it again."
        ) from error


@contextmanager
def on_disk(file: Traversable) -> Iterator[Path]:
    """Path of a file; one inside an archive is unpacked to a temporary place meanwhile."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file.name
        try:
            with file.open("rb") as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out, BLOCK_BYTES)
        except READ_ERRORS as error:
            raise unreadable(file, error) from error
        yield path
