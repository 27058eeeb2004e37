"""Text files as typed columns, read fast or with care.

A file is first scanned with explicit types, which is fast and knows no addresses. Where that meets a fault it raises
`FaultFound`, and the file is to be read again in blocks of text, with the line of every row, so that the first fault can be
named and the good rows kept.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.errors import LogError
from envs.logs.fields import Field, Kind, date_forms_of
from envs.logs.scanned_rows import SAMPLE_ROWS, ScannedRows, field_expressions, move_columns, on_disk, put_together
from envs.logs.tables import Table, header_names, line_table, open_quoted, quoted_tables, unreadable

BLOCK_BYTES = 1 << 25
"""Text that is taken apart together in the careful reading."""


class FaultFound(Exception):
    """A fast scan met a fault, whose address only a careful reading knows."""


@dataclass(frozen=True, kw_only=True)
class TextForm:
    """How a text file separates its fields."""

    separator: str = ","
    """What stands between fields: one character, or one character twice."""
    header: Sequence[str] | None = None
    """Names of the columns where the first line does not give them."""


# ---------------------------------------------------------------------------------------------------------------- fast
def read_fast(
    files: Sequence[Traversable], fields: Sequence[Field], categories: dict[str, pl.Categories], form: TextForm
) -> ScannedRows:
    """All files in one scan each.

    Raises:
        FaultFound: if any row has a fault.
        LogError: if a file cannot be read or lacks a column.
    """
    columns: dict[str, list[NDArray]] = {}
    counts = []
    for file in files:
        with on_disk(file) as path:
            frame = _scan(file.name, path, fields, categories, form)
        counts.append(frame.height)
        move_columns(frame, fields, _FastRows([file], [frame.height]), columns)
    rows = _FastRows(files, counts)
    rows.columns = put_together(columns)
    return rows


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
    selected = field_expressions(fields, types, categories, dates)
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


# -------------------------------------------------------------------------------------------------------------- careful
def read_blocks(
    files: Sequence[Traversable], fields: Sequence[Field], categories: dict[str, pl.Categories], form: TextForm
) -> ScannedRows:
    """All files, each in blocks of text.

    Raises:
        LogError: if a file cannot be read or lacks a column.
    """
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
    rows.columns = put_together(columns)
    return rows


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


# ----------------------------------------------------------------------------------------------------------------- both
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
