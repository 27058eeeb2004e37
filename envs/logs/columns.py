"""Reader of any CSV, TSV or Parquet file whose columns are named by the user."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.errors import ConfigurationError, LogError
from envs.logs.fields import Field, Kind
from envs.logs.indexing import bare_users, births, number_names, shares
from envs.logs.scanned_rows import ScannedRows
from envs.logs.scans import read_carefully, read_rows
from envs.logs.schema import InteractionLog
from envs.logs.tables import unreadable
from envs.logs.text_scans import TextForm
from envs.logs.times import birth_seconds_of, seconds_of

KEYS = {
    "user": (Kind.NAME, -np.inf, np.inf, False),
    "item": (Kind.NAME, -np.inf, np.inf, False),
    "time": (Kind.TIME, -np.inf, np.inf, False),
    "rating": (Kind.NUMBER, -1e9, 1e9, True),
    "click": (Kind.FLAG, -np.inf, np.inf, False),
    "watch": (Kind.NUMBER, 0, 7 * 86_400, True),
    "request": (Kind.NAME, -np.inf, np.inf, False),
    "position": (Kind.WHOLE, 0, 32_000, False),
    "random": (Kind.FLAG, -np.inf, np.inf, False),
    "category": (Kind.NAME, -np.inf, np.inf, True),
    "birth": (Kind.TIME, -np.inf, np.inf, True),
}
"""What a column can be: its kind, lowest and highest value, and whether a value may be empty."""
REQUIRED = ("user", "item", "time")
SEPARATORS = (",", "\t", ";", "|")
TEXT_ENDS, PARQUET_ENDS = (".csv", ".tsv", ".tab", ".txt"), (".parquet", ".pq")
CATEGORY_SEPARATORS = ("|", ";", ",")
"""What may stand between several categories of an item; the first of them that occurs anywhere counts."""


def parse_columns(text: str) -> dict[str, str]:
    """The columns that `--columns user=...,item=...,time=...` names, by key.

    Raises:
        ConfigurationError: if a key is unknown, comes twice or is missing, or two keys name one column.
    """
    columns: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column:
            raise ConfigurationError(f"--columns: '{pair.strip()}' is not KEY=COLUMN, as in user=userId.")
        if key not in KEYS:
            raise ConfigurationError(f"--columns: there is no key '{key}'; known are {', '.join(KEYS)}.")
        if key in columns:
            raise ConfigurationError(f"--columns: key '{key}' is given twice; name one column.")
        if column in columns.values():
            raise ConfigurationError(f"--columns: column '{column}' is given twice; each key needs its own.")
        columns[key] = column
    missing = [key for key in REQUIRED if key not in columns]
    if missing:
        raise ConfigurationError(
            f"--columns names no {' and no '.join(missing)}; give at least user=..., item=..., time=..."
        )
    return columns


def read_columns(path: Path, columns: Mapping[str, str], *, skip_bad_rows: bool = False) -> InteractionLog:
    """Reads a file, or all files of one kind in a folder, by name.

    Args:
        path: a CSV, TSV or Parquet file, or a folder of such files with the same columns.
        columns: name of the column for each key, as `parse_columns` returns them.
        skip_bad_rows: leaves corrupt rows out and counts them; else they are refused.

    Raises:
        LogError: if a file or column is missing, or has a fault.
    """
    files, is_parquet = _files(path)
    form = None if is_parquet else TextForm(separator=_separator(files[0], list(columns.values())))
    fields = [
        Field(column=column, kind=KEYS[key][0], low=KEYS[key][1], high=KEYS[key][2], optional=KEYS[key][3])
        for key, column in columns.items()
    ]

    def load(careful: bool) -> InteractionLog:
        rows = read_rows(files, fields, form=form, careful=careful)
        return _log(path.resolve().stem, rows, columns, skip_bad_rows)

    return read_carefully(load)


def _files(path: Path) -> tuple[list[Path], bool]:
    """(the files to read, whether they are Parquet)."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    texts = [file for file in found if file.suffix.lower() in TEXT_ENDS]
    parquets = [file for file in found if file.suffix.lower() in PARQUET_ENDS]
    if texts and parquets:
        raise LogError(
            f"'{path}' holds {texts[0].name} and {parquets[0].name}; give the path of one, or a folder of one kind."
        )
    if not texts and not parquets:
        ends = ", ".join((*TEXT_ENDS, *PARQUET_ENDS))
        raise LogError(f"'{path}' is no file that --columns can read; it must end in {ends}.")
    return (texts or parquets), not texts


def _separator(file: Path, columns: Sequence[str]) -> str:
    """The separator with which the first line names most of the columns."""
    try:
        with file.open("rb") as raw:
            line = raw.readline().decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise unreadable(file, error) from error

    def named(separator: str) -> tuple[int, int]:
        names = [name.strip(' "') for name in line.split(separator)]
        return len(set(columns) & set(names)), len(names)

    return max(SEPARATORS, key=named)


def _log(name: str, rows: ScannedRows, columns: Mapping[str, str], skip: bool) -> InteractionLog:
    """Puts the log together; takes the columns out of the rows, so that nothing is held twice."""
    held = {key: rows.columns.pop(column) for key, column in columns.items()}
    timestamp = seconds_of(rows, columns["time"], held.pop("time"))
    birth = birth_seconds_of(rows, columns["birth"], held.pop("birth")) if "birth" in held else None
    position = held.pop("position", None)
    if position is not None:
        position = _from_zero(rows, columns["position"], position)
    kept = rows.kept(skip)

    def part(key: str) -> NDArray | None:
        return held.pop(key)[kept] if key in held else None

    user, user_ids = number_names(held.pop("user")[kept], rows.names[columns["user"]].to_list())
    item, item_ids = number_names(held.pop("item")[kept], rows.names[columns["item"]].to_list())
    timestamp = timestamp[kept]
    category_names, categories = _categories(
        item,
        part("category"),
        rows.names[columns["category"]].to_list() if "category" in columns else [],
        len(item_ids),
    )
    clicked, request = part("click"), part("request")
    log = InteractionLog.from_rows(
        name=name,
        users=bare_users(user_ids),
        catalogue=Catalogue(
            item_ids=item_ids,
            titles=np.zeros(len(item_ids), "<U1"),
            category_names=category_names,
            categories=categories,
            birth=births(_earliest(item, None if birth is None else birth[kept], len(item_ids)), item, timestamp),
        ),
        user=user,
        item=item,
        timestamp=timestamp,
        clicked=clicked,
        rating=part("rating"),
        request=request,
        position=None if position is None else position[kept],
        watch_seconds=part("watch"),
        random_exposure=part("random"),
        skipped_rows=rows.skipped,
    )
    if request is not None:
        return replace(log, request=_numbered(log.user * np.int64(len(rows.names[columns["request"]])) + log.request))
    if clicked is None:
        return log
    # shown one at a time: every row is a request of its own
    slot = log.position if position is not None else np.zeros(len(log), np.int16)
    return replace(log, request=np.arange(len(log)), position=slot)


def _numbered(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """[R] number of each row's key, in order of first appearance."""
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _from_zero(rows: ScannedRows, column: str, position: NDArray) -> NDArray[np.int16]:
    """[R] slots from 0, of a column that counts from 0 or from 1."""
    first = int(position[rows.good].min()) if rows.good.any() else 0
    if first > 1:
        rows.reject_values(position == first, column, "the smallest: slots are counted from 0 or from 1")
    return (position - min(first, 1)).astype(np.int16)


def _earliest(item: NDArray[np.int32], birth: NDArray[np.float64] | None, num_items: int) -> NDArray[np.float64]:
    """[I] the earliest birth that an item's rows tell of, NaN where they tell of none."""
    earliest = np.full(num_items, np.inf)
    if birth is not None:
        known = ~np.isnan(birth)
        np.minimum.at(earliest, item[known], birth[known])
    return np.where(np.isinf(earliest), np.nan, earliest)


def _categories(
    item: NDArray[np.int32], code: NDArray[np.int32] | None, texts: Sequence[str], num_items: int
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """(names, [I, G] shares) of all categories that an item's rows name."""
    members: list[set[str]] = [set() for _ in range(num_items)]
    if code is not None:
        separator = next((mark for mark in CATEGORY_SEPARATORS if any(mark in text for text in texts)), None)
        lists = [[part.strip() for part in text.split(separator) if part.strip()] for text in texts]
        told = code >= 0
        for pair in np.unique(item[told] * np.int64(len(texts)) + code[told]).tolist():
            members[pair // len(texts)].update(lists[pair % len(texts)])
    names = tuple(sorted(set().union(*members)))
    return names, shares([sorted(member) for member in members], names)
