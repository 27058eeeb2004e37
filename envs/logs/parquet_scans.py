"""Parquet files as typed columns. Types are in the file, so one scan knows every row's address."""

from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

import polars as pl
from numpy.typing import NDArray

from envs.errors import LogError
from envs.logs.fields import DATE_FORMS, Field, Kind, date_forms_of
from envs.logs.scanned_rows import SAMPLE_ROWS, ScannedRows, field_expressions, move_columns, on_disk, put_together


def read_parquet(
    files: Sequence[Traversable], fields: Sequence[Field], categories: dict[str, pl.Categories]
) -> ScannedRows:
    """All files in one scan each.

    Raises:
        LogError: if a file cannot be read, lacks a column or holds another type in it.
    """
    columns: dict[str, list[NDArray]] = {}
    parts = []
    for file in files:
        with on_disk(file) as path:
            frame = _parquet_frame(file.name, path, fields, categories)
        parts.append(_ParquetRows([file], [frame.height]))
        move_columns(frame, fields, parts[-1], columns)
    rows = _ParquetRows(files, [len(part) for part in parts])
    rows.take_over(parts)
    rows.columns = put_together(columns)
    return rows


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
        return scan.select(field_expressions(fields, types, categories, dates)).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(
            f"{title} cannot be read as Parquet ({str(error).splitlines()[0]}): it is damaged or cut short; "
            "write or fetch it again."
        ) from error
