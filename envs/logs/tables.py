"""Text tables whose faults have an address: every value that a loader refuses is named by file, line and column."""

import csv
import io
from collections.abc import Sequence
from importlib.resources.abc import Traversable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.errors import LogError

CURE = "Fix the row, or pass --skip-bad-rows to leave such rows out (they are counted in the summary)."


class Table:
    """Rows of one file as text, with the line of each; collects faults and names the first of them."""

    def __init__(self, file: str, columns: dict[str, pl.Series], lines: NDArray[np.int64]) -> None:
        self.file = file
        self.columns = columns
        """Text of each column; null where the line ends before it."""
        self.lines = lines
        """[R] line of the file, from 1."""
        self.good = np.ones(len(lines), bool)
        """[R] False for rows with a fault."""
        self._first: tuple[int, str] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def text(self, column: str) -> NDArray[np.str_]:
        """[R] a column as text without blanks at its ends; empty where there is none."""
        stripped = self.columns[column].str.strip_chars().fill_null("")
        return np.array(stripped.to_list(), np.str_) if len(stripped) else np.zeros(0, np.str_)

    def whole_number(self, column: str, low: int, high: int) -> NDArray[np.int64]:
        """[R] a column as whole numbers in [low, high]; rows where it is none have a fault, and 0 here."""
        return self._number(column, pl.Int64, low, high)

    def number(self, column: str, low: float, high: float) -> NDArray[np.float64]:
        """[R] a column as numbers in [low, high]; rows where it is none have a fault, and 0 here."""
        return self._number(column, pl.Float64, low, high)

    def _number(self, column: str, kind: type[pl.DataType], low: float, high: float) -> NDArray:
        text = self.columns[column].str.strip_chars()
        parsed = text.cast(kind, strict=False)
        unread = parsed.is_null().to_numpy()
        if unread.any():
            row = int(np.argmax(unread & self.good)) if (unread & self.good).any() else int(np.argmax(unread))
            given = text[row]
            if not given:
                fault = f"column '{column}' is missing" if given is None else f"column '{column}' is empty"
            elif kind == pl.Int64 and pl.Series([given]).cast(pl.Float64, strict=False)[0] is not None:
                fault = f"column '{column}' is '{given}', which is not a whole number"
            else:
                fault = f"column '{column}' is '{given}', which is not a number"
            self.reject(unread, fault)
        values = parsed.fill_null(0).to_numpy()
        outside = ~unread & ~((values >= low) & (values <= high))
        self.reject_values(
            outside, column, f"outside {low:g} to {high:g}" if high < 1e6 else f"outside {low} to {high}"
        )
        return values

    def reject_values(self, bad: NDArray[np.bool_], column: str, why: str) -> None:
        """Marks rows whose value in `column` is wrong; `why` ends the sentence "column c is 'v', which is ..."."""
        fresh = bad & self.good
        if fresh.any():
            given = self.columns[column][int(np.argmax(fresh))]
            self.reject(bad, f"column '{column}' is '{(given or '').strip()}', which is {why}")

    def reject(self, bad: NDArray[np.bool_], fault: str) -> None:
        """Marks rows as faulty; `fault` describes the first of them that had no fault before."""
        fresh = bad & self.good
        if fresh.any():
            row = int(np.argmax(fresh))
            if self._first is None or row < self._first[0]:
                self._first = (row, fault)
            self.good &= ~bad

    def reject_repeats(self, key: NDArray[np.int64], what: str) -> None:
        """Marks good rows whose `key` [R] a good row above has; `what` names the key, as in "user and item"."""
        good = np.flatnonzero(self.good)
        _, first, inverse = np.unique(key[good], return_index=True, return_inverse=True)
        repeats = np.arange(len(good)) != first[inverse]
        if repeats.any():
            row = int(np.argmax(repeats))
            bad = np.zeros(len(self), bool)
            bad[good[repeats]] = True
            above = self.lines[good[first[inverse[row]]]]
            self.reject(bad, f"the row has the same {what} as line {above}: a duplicate row")

    def keep(self, skip_bad_rows: bool) -> NDArray[np.int64]:
        """Indices of the good rows.

        Raises:
            LogError: if a row has a fault and `skip_bad_rows` is False, or if no good row is left.
        """
        if self._first is not None and not skip_bad_rows:
            row, fault = self._first
            raise LogError(f"{self.file}, line {self.lines[row]}: {fault}. {CURE}")
        if not self.good.any():
            found = "no rows" if not len(self) else f"no usable row (all {len(self)} are corrupt)"
            raise LogError(f"{self.file} has {found}; fetch the file again or choose another data set.")
        return np.flatnonzero(self.good)

    @property
    def skipped(self) -> int:
        """Rows with a fault."""
        return int((~self.good).sum())


def read_table(
    file: Traversable, required: Sequence[str], *, separator: str, header: bool, encoding: str = "utf-8"
) -> Table:
    """Reads a table without quoted fields; blank lines are passed over.

    Args:
        file: the file, in a folder or in an archive.
        required: names of the columns: all of them in order where there is no header, else those that it must have.
        separator: one character between fields.
        header: whether the first line names the columns.
        encoding: of the text.

    Raises:
        LogError: if the file cannot be read, is empty, or lacks a column.
    """
    content = _content(file)
    if encoding != "utf-8":
        content = content.decode(encoding).encode()
    lines = pl.read_csv(
        content,
        has_header=False,
        schema={"line": pl.String},
        separator="\x01",  # `_content` has made sure that it does not occur: one column, the whole line
        quote_char=None,
        encoding="utf8-lossy",
    )["line"]
    names, skipped_lines = list(required), 0
    if header:
        names = [name.strip() for name in (lines[0] or "").lstrip("\ufeff").split(separator)]
        _check_header(file.name, names, required)
        skipped_lines = 1
    numbers = np.arange(1, len(lines) + 1)
    filled = lines.is_not_null().to_numpy() & (np.arange(len(lines)) >= skipped_lines)
    fields = lines.filter(pl.Series(filled)).str.splitn(separator, len(names) + 1).struct.unnest()
    table = Table(
        file.name,
        {name: fields[f"field_{place}"] for place, name in enumerate(names)},
        numbers[filled].astype(np.int64),
    )
    table.reject(
        fields[f"field_{len(names)}"].is_not_null().to_numpy(), f"the row has more than its {len(names)} columns"
    )
    return table


def read_quoted_table(file: Traversable, required: Sequence[str]) -> Table:
    """Reads a CSV file with a header whose fields may be quoted (RFC 4180); blank lines are passed over.

    Raises:
        LogError: if the file cannot be read, is empty, or lacks a column.
    """
    reader = csv.reader(io.StringIO(_content(file).decode("utf-8-sig", errors="replace"), newline=""))
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        names = [name.strip() for name in next(reader)]
        _check_header(file.name, names, required)
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise LogError(f"{file.name}, line {reader.line_num}: {error}; fix the quotes of the row.") from error
    columns = {
        name: pl.Series(name, [row[place] if place < len(row) else None for row in rows], pl.String)
        for place, name in enumerate(names)
    }
    table = Table(file.name, columns, np.array(lines, np.int64))
    table.reject(
        np.array([len(row) > len(names) for row in rows], bool), f"the row has more than its {len(names)} columns"
    )
    return table


def _content(file: Traversable) -> bytes:
    """Bytes of a text file that has something in it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise LogError(
            f"'{file}' cannot be read ({error.strerror}); mend its permissions or choose another."
        ) from error
    if not content.strip():
        raise LogError(f"{file.name} is empty; fetch it again or choose another data set.")
    if b"\x00" in content or b"\x01" in content:
        raise LogError(f"{file.name} is not a text file (it holds control characters); fetch it again.")
    return content


def _check_header(file: str, names: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise LogError(
            f"{file}, line 1: column '{missing[0]}' is missing (the file has {', '.join(names)}); "
            f"its first line must name the columns {', '.join(required)}."
        )
