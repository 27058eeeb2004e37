"""Rows whose faults have an address: every value that a loader refuses is named by file, line and column."""

from abc import ABC, abstractmethod

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.errors import LogError
from envs.logs.fields import Field, Kind

CURE = "Fix the row, or pass --skip-bad-rows to leave such rows out (they are counted in the summary)."


class Rows(ABC):
    """R rows of one or several files; collects faults and names the first of them."""

    def __init__(self, title: str, count: int) -> None:
        self.title = title
        """Name of the file, or of the first of several."""
        self.good = np.ones(count, bool)
        """[R] False for rows with a fault."""
        self.first_fault: tuple[int, str] | None = None
        """(row, sentence about it) of the first row with a fault."""

    def __len__(self) -> int:
        return len(self.good)

    @abstractmethod
    def address(self, row: int) -> str:
        """Where a row stands: "ratings.csv, line 88"."""

    @abstractmethod
    def given(self, column: str, row: int) -> str | None:
        """A value as the file has it; None where the line ends before it."""

    def accepted(self, field: Field, parsed: pl.Series, empty: pl.Series | None) -> NDArray:
        """[R] a column as the array that `Kind` tells; rows whose value is none, or out of range, have a fault.

        Args:
            field: what is expected.
            parsed: [R] values as `Field.expression` makes them.
            empty: [R] whether there is no value, of an optional field.
        """
        unread = parsed.is_null()
        if empty is not None:
            unread &= ~empty
        if unread.any():
            self._reject_unread(field, unread.to_numpy())
        if field.kind is Kind.NAME:
            return parsed.to_physical().cast(pl.Int32).fill_null(-1).to_numpy()
        if field.kind is Kind.FLAG:
            return parsed.fill_null(False).to_numpy()
        if field.kind is Kind.TIME:
            values = parsed.fill_null(np.nan).to_numpy()
            self.reject_values(np.isnan(values) & parsed.is_not_null().to_numpy(), field.column, "not a number")
            return values
        values = parsed.fill_null(0 if field.kind is Kind.WHOLE else np.nan).to_numpy()
        if field.has_range:
            outside = field.outside(values)
            if outside.any():
                outside &= parsed.is_not_null().to_numpy()
                self.reject_values(outside, field.column, f"outside {field.range_text()}")
                values = np.where(outside, 0, values)
        return values.astype(f"int{field.whole_bits()}", copy=False) if field.kind is Kind.WHOLE else values

    def _reject_unread(self, field: Field, unread: NDArray[np.bool_]) -> None:
        column, fresh = field.column, unread & self.good
        given = self.given(column, int(np.argmax(fresh if fresh.any() else unread)))
        if given is None:
            fault = f"column '{column}' is missing"
        elif not given.strip():
            fault = f"column '{column}' is empty"
        else:
            is_number = pl.Series([given.strip()]).cast(pl.Float64, strict=False)[0] is not None
            fault = f"column '{column}' is '{given.strip()}', which is {_denial(field.kind, is_number)}"
        self.reject(unread, fault)

    def reject_values(self, bad: NDArray[np.bool_], column: str, why: str) -> None:
        """Marks rows whose value in `column` is wrong; `why` ends the sentence "column c is 'v', which is ..."."""
        fresh = bad & self.good
        if fresh.any():
            given = self.given(column, int(np.argmax(fresh)))
            self.reject(bad, f"column '{column}' is '{(given or '').strip()}', which is {why}")

    def reject(self, bad: NDArray[np.bool_], fault: str) -> None:
        """Marks rows as faulty; `fault` describes the first of them that had no fault before."""
        fresh = bad & self.good
        if fresh.any():
            row = int(np.argmax(fresh))
            if self.first_fault is None or row < self.first_fault[0]:
                self.first_fault = (row, fault)
            self.good &= ~bad

    def reject_repeats(self, key: NDArray[np.int64], what: str) -> None:
        """Marks good rows whose `key` [R] a good row above has; `what` names the key, as in "user and item"."""
        good = np.flatnonzero(self.good)
        order = good[np.argsort(key[good], kind="stable")]
        repeats = order[1:][key[order[1:]] == key[order[:-1]]]
        if len(repeats):
            bad = np.zeros(len(self), bool)
            bad[repeats] = True
            row = int(repeats.min())
            above = self.address(int(good[np.argmax(key[good] == key[row])]))
            above = above.removeprefix(self.address(row).rpartition(", ")[0] + ", ")
            self.reject(bad, f"the row has the same {what} as {above}: a duplicate row")

    def keep(self, skip_bad_rows: bool) -> NDArray[np.int64]:
        """Indices of the good rows.

        Raises:
            LogError: if a row has a fault and `skip_bad_rows` is False, or if no good row is left.
        """
        if self.first_fault is not None and not skip_bad_rows:
            row, fault = self.first_fault
            raise LogError(f"{self.address(row)}: {fault}. {CURE}")
        if not self.good.any():
            found = "no rows" if not len(self) else f"no usable row (all {len(self)} are corrupt)"
            raise LogError(f"{self.title} has {found}; fetch the file again or choose another data set.")
        return np.flatnonzero(self.good)

    @property
    def skipped(self) -> int:
        """Rows with a fault."""
        return int((~self.good).sum())


def _denial(kind: Kind, is_number: bool) -> str:
    """Ends the sentence "column c is 'v', which is ..."."""
    if kind is Kind.FLAG:
        return "neither 0 nor 1"
    if kind is Kind.TIME:
        return "no time as in the rows around it (all must be numbers, or all dates such as 2015-03-01T12:00:00Z)"
    return "not a whole number" if kind is Kind.WHOLE and is_number else "not a number"
