"""Text tables: files taken apart into rows and fields of text, with the line of every row."""

import csv
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources.abc import Traversable
from typing import IO, TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.errors import LogError
from envs.logs.fields import DATE_FORMS, Field, Kind
from envs.logs.rows import Rows

if TYPE_CHECKING:
    from _csv import Reader

ROWS_AT_ONCE = 200_000
"""Rows of a file with quotes that are taken apart together."""


class Table(Rows):
    """Rows of one file as text, with the line of each."""

    def __init__(self, file: str, columns: dict[str, pl.Series], lines: NDArray[np.int64]) -> None:
        super().__init__(file, len(lines))
        self.file = file
        self.columns = columns
        """Text of each column; null where the line ends before it."""
        self.lines = lines
        """[R] line of the file, from 1."""

    def address(self, row: int) -> str:
        return f"{self.file}, line {self.lines[row]}"

    def given(self, column: str, row: int) -> str | None:
        return self.columns[column][row]

    def text(self, column: str) -> NDArray[np.str_]:
        """[R] a column as text without blanks at its ends; empty where there is none."""
        stripped = self.columns[column].str.strip_chars().fill_null("")
        return np.array(stripped.to_list(), np.str_) if len(stripped) else np.zeros(0, np.str_)

    def read(self, field: Field, categories: pl.Categories | None = None, dated: bool = False) -> NDArray:
        """[R] a column as the array that `Kind` tells; rows whose value is none, or out of range, have a fault.

        Args:
            field: what is expected.
            categories: where names get their codes.
            dated: whether times are dates, not numbers.
        """
        text = self.columns[field.column]
        value = field.expression(pl.String(), categories or pl.Categories.random(), DATE_FORMS if dated else ())
        read = pl.DataFrame({field.column: text}).select(value, field.emptiness(pl.String()).alias("empty"))
        return self.accepted(field, read.to_series(0), read["empty"] if field.optional else None)

    def whole_number(self, column: str, low: int, high: int) -> NDArray[np.int64]:
        """[R] a column as whole numbers in [low, high]; rows where it is none have a fault, and 0 here."""
        return self.read(Field(column=column, kind=Kind.WHOLE, low=low, high=high)).astype(np.int64)


def read_table(
    file: Traversable, required: Sequence[str], *, separator: str, header: bool, encoding: str = "utf-8"
) -> Table:
    """Reads a table without quoted fields as text; blank lines are passed over.

    Args:
        file: the file, in a folder or in an archive.
        required: names of the columns: all of them in order where there is no header, else those that it must have.
        separator: what stands between fields.
        header: whether the first line names the columns.
        encoding: of the text, "utf-8" or "latin-1"; a file said to be Latin-1 may be UTF-8 as a whole.

    Raises:
        LogError: if the file cannot be read, is empty, or lacks a column.
    """
    content = _content(file)
    if not header:
        return line_table(file.name, content, 1, required, required, separator, encoding)
    first, _, rest = content.partition(b"\n")
    names = header_names(file.name, first, required, separator)
    return line_table(file.name, rest, 2, names, required, separator, encoding)


def line_table(
    file: str,
    content: bytes,
    first_line: int,
    names: Sequence[str],
    used: Sequence[str],
    separator: str,
    encoding: str = "utf-8",
) -> Table:
    """Takes the lines of a part of a file apart at every separator.

    Args:
        file: its name.
        content: some whole lines of it.
        first_line: number of the first of them, from 1.
        names: names of all columns.
        used: those that matter; text of other columns is not looked at.
        separator: what stands between fields.
        encoding: see `read_table`.

    Raises:
        LogError: if the content is not text.
    """
    _check_text(file, content)
    is_utf8 = _is_utf8(content)
    is_latin = encoding == "latin-1" and not is_utf8
    lines = _lines(content.decode("latin-1").encode() if is_latin else content)
    filled = lines.is_not_null().to_numpy()
    fields = lines.filter(pl.Series(filled)).str.splitn(separator, len(names) + 1).struct.unnest()
    columns = {name: fields[f"field_{place}"] for place, name in enumerate(names)}
    table = Table(file, columns, np.flatnonzero(filled) + first_line)
    table.reject(
        fields[f"field_{len(names)}"].is_not_null().to_numpy(), f"the row has more than its {len(names)} columns"
    )
    if not is_utf8:
        why = "UTF-8 in a file of Latin-1" if is_latin else "not UTF-8"
        for name in used:
            damaged = columns[name].str.contains(_UTF8_AS_LATIN if is_latin else "\ufffd").fill_null(False)
            table.reject_values(damaged.to_numpy(), name, f"{why}: save the whole file in one encoding")
    return table


_UTF8_AS_LATIN = "[\u00c2-\u00f4][\u0080-\u00bf]"
"""How a letter of UTF-8 looks when it is read as Latin-1."""


def _lines(content: bytes) -> pl.Series:
    """Lines of a text; null where they are blank."""
    if not content:
        return pl.Series([], dtype=pl.String)
    lines = pl.read_csv(
        content,
        has_header=False,
        schema={"line": pl.String},
        separator="\x01",  # `_check_text` has made sure that it does not occur: one column, the whole line
        quote_char=None,
        encoding="utf8-lossy",
    )["line"]
    return lines.str.strip_chars_end("\r").replace("", None) if b"\r" in content else lines


def read_quoted_table(file: Traversable, required: Sequence[str]) -> Table:
    """Reads a CSV file with a header whose fields may be quoted (RFC 4180) as text; blank lines are passed over.

    Raises:
        LogError: if the file cannot be read, is empty, or lacks a column.
    """
    content = _content(file)
    _check_text(file.name, content)
    reader = open_quoted(io.BytesIO(content), ",")
    names = header_names(file.name, content.partition(b"\n")[0], required, ",")
    next(reader)
    return next(quoted_tables(file.name, reader, names, required, rows_at_once=None))


def quoted_tables(
    file: str,
    reader: "Reader",
    names: Sequence[str],
    used: Sequence[str],
    rows_at_once: int | None = ROWS_AT_ONCE,
) -> Iterator[Table]:
    """Takes the rest of a file with quoted fields apart, some rows at a time; at least one table comes.

    Raises:
        LogError: if the quotes are wrong.
    """
    ended, came = False, False
    while not ended:
        rows: list[list[str]] = []
        lines: list[int] = []
        ended = True
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
                if len(rows) == rows_at_once:
                    ended = False
                    break
        except csv.Error as error:
            raise LogError(f"{file}, line {reader.line_num}: {error}; fix the quotes of the row.") from error
        if rows or not came:
            came = True
            yield _quoted_table(file, rows, lines, names, used)


def _quoted_table(
    file: str, rows: list[list[str]], lines: list[int], names: Sequence[str], used: Sequence[str]
) -> Table:
    columns = {}
    damaged = {}
    for place, name in enumerate(names):
        texts = [row[place] if place < len(row) else None for row in rows]
        try:
            columns[name] = pl.Series(name, texts, pl.String)
        except UnicodeEncodeError:
            # bytes that are no UTF-8 stand as lone surrogates
            whole = [None if text is None else text.encode("utf-8", "replace").decode() for text in texts]
            columns[name] = pl.Series(name, whole, pl.String)
            damaged[name] = np.array([a != b for a, b in zip(texts, whole, strict=True)], bool)
    table = Table(file, columns, np.array(lines, np.int64))
    table.reject(
        np.array([len(row) > len(names) for row in rows], bool), f"the row has more than its {len(names)} columns"
    )
    for name in used:
        if name in damaged:
            table.reject_values(damaged[name], name, "not UTF-8: save the whole file in one encoding")
    return table


def open_quoted(raw: IO[bytes], separator: str) -> "Reader":
    """A reader of the rows of a CSV file; bytes that are no UTF-8 come as lone surrogates."""
    return csv.reader(_text(raw), delimiter=separator)


def _text(raw: IO[bytes]) -> Iterable[str]:
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")


def header_names(file: str, line: bytes, required: Sequence[str], separator: str) -> list[str]:
    """Names of the columns, from the first line of a file.

    Raises:
        LogError: if a required one is missing, or a name comes twice.
    """
    _check_text(file, line)
    text = line.decode("utf-8-sig", errors="replace").strip("\r\n")
    fields = (
        next(csv.reader([text], delimiter=separator)) if len(separator) == 1 and '"' in text else text.split(separator)
    )
    names = [name.strip() for name in fields]
    missing = [name for name in required if name not in names]
    if missing:
        raise LogError(
            f"{file}, line 1: column '{missing[0]}' is missing (the file has {', '.join(names)}); "
            f"its first line must name the columns {', '.join(required)}."
        )
    twice = [name for name in required if names.count(name) > 1]
    if twice:
        raise LogError(f"{file}, line 1: column '{twice[0]}' is there twice; rename one of them.")
    return names


def _content(file: Traversable) -> bytes:
    """Bytes of a text file that has something in it."""
    try:
        content = file.read_bytes()
    except READ_ERRORS as error:
        raise unreadable(file, error) from error
    if not content.strip():
        raise LogError(f"{file.name} is empty; fetch it again or choose another data set.")
    return content


READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What goes wrong with a file that may not be read, or with its archive."""


def unreadable(file: Traversable, error: Exception) -> LogError:
    """What is said of a file that cannot be read, for one of READ_ERRORS."""
    if isinstance(error, OSError):
        return LogError(f"'{file}' cannot be read ({error.strerror}); mend its permissions or choose another.")
    return LogError(f"'{file}' cannot be unpacked ({error}): the archive is damaged; fetch it again.")


def _check_text(file: str, content: bytes) -> None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise LogError(f"{file} is text in UTF-16; save it as UTF-8.")
    if b"\x00" in content or b"\x01" in content:
        raise LogError(f"{file} is not a text file (it holds control characters); fetch it again.")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
