"""What scans share: rows as typed columns, and how polars' frames become them, file after file."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.logs.fields import Field
from envs.logs.rows import Rows
from envs.logs.tables import READ_ERRORS, unreadable

SAMPLE_ROWS = 200
"""Rows that tell whether times are numbers or dates."""
_COPIED_BYTES = 1 << 25


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


def field_expressions(
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


def move_columns(frame: pl.DataFrame, fields: Sequence[Field], part: Rows, columns: dict[str, list[NDArray]]) -> None:
    """Moves the columns of a file out of its frame, checked, so that little is held twice."""
    for field in fields:
        empty = frame.drop_in_place(_empty(field)) if field.optional else None
        values = part.accepted(field, frame.drop_in_place(field.column), empty)
        if field.kept:
            columns.setdefault(field.column, []).append(values)


def put_together(columns: dict[str, list[NDArray]]) -> dict[str, NDArray]:
    """The columns of all files, put together one after the other."""
    together = {}
    for column in list(columns):
        parts = columns.pop(column)
        together[column] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return together


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
                shutil.copyfileobj(packed, out, _COPIED_BYTES)
        except READ_ERRORS as error:
            raise unreadable(file, error) from error
        yield path


def _empty(field: Field) -> str:
    return f"{field.column} is empty"
