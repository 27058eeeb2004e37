"""Typed columns of files that may be larger than memory, streamed by polars."""

from collections.abc import Callable, Sequence
from importlib.resources.abc import Traversable
from typing import TypeVar

import polars as pl

from envs.logs.fields import Field, Kind
from envs.logs.parquet_scans import read_parquet
from envs.logs.scanned_rows import ScannedRows
from envs.logs.text_scans import FaultFound, TextForm, read_blocks, read_fast

Loaded = TypeVar("Loaded")


def read_carefully(load: Callable[[bool], Loaded]) -> Loaded:
    """What `load(careful)` returns: without care, and only if that meets a fault, with care."""
    try:
        return load(False)
    except FaultFound:
        return load(True)


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
        rows = read_parquet(files, fields, categories)
    elif careful:
        rows = read_blocks(files, fields, categories, form)
    else:
        rows = read_fast(files, fields, categories, form)
    rows.names = {column: kind.to_series() for column, kind in categories.items()}
    del held
    return rows
