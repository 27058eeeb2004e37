"""What a loader expects of a column: its kind and range, and how text or typed values become that kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import polars as pl
from numpy.typing import NDArray


class Kind(Enum):
    """Kinds of values, what each is called, and what it becomes as an array."""

    WHOLE = "a whole number"
    """The smallest integers that hold the range; 0 where the row has a fault."""
    NUMBER = "a number"
    """float64; NaN where empty."""
    FLAG = "0 or 1"
    """bool, from 0 or 1, true or false."""
    TIME = "a time"
    """float64: a number whose unit is still to be found, or seconds since 1970 from a date; NaN where empty."""
    NAME = "a name"
    """Codes of the names that occur, -1 where empty: the text itself is not kept."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column that a loader reads."""

    column: str
    """Its name in the file."""
    kind: Kind
    low: float = -np.inf
    """Lowest value of a number."""
    high: float = np.inf
    """Highest value of a number."""
    optional: bool = False
    """Whether a value may be empty (null)."""
    kept: bool = True
    """Whether the values are wanted; else they are only checked."""

    def text_type(self, dated: bool) -> pl.DataType:
        """Type as which a CSV reader parses the column; `dated`: whether its times are dates, not numbers."""
        if self.kind is Kind.WHOLE:
            return self.whole_type()
        return pl.Float64() if self.kind is Kind.NUMBER or (self.kind is Kind.TIME and not dated) else pl.String()

    def whole_type(self) -> pl.DataType:
        """The smallest type of integers that holds the range."""
        return {8: pl.Int8(), 16: pl.Int16(), 32: pl.Int32(), 64: pl.Int64()}[self.whole_bits()]

    def whole_bits(self) -> int:
        """Bits of that type."""
        return next(
            (bits for bits in (8, 16, 32) if self.low >= -(2 ** (bits - 1)) and self.high < 2 ** (bits - 1)), 64
        )

    def expression(self, given: pl.DataType, categories: pl.Categories, date_forms: Sequence[str] = ()) -> pl.Expr:
        """Values of the column as this kind, null where they are none.

        Args:
            given: type of the column.
            categories: where names get their codes.
            date_forms: forms (of DATE_FORMS) in which the column has its times; none where they are numbers.
        """
        column = pl.col(self.column)
        if isinstance(given, pl.Categorical | pl.Enum):
            column, given = column.cast(pl.String), pl.String()
        if given == pl.String:
            column = column.str.strip_chars()
        if self.kind is Kind.NAME:
            values = _name(column, given).cast(pl.Categorical(categories))
        elif self.kind is Kind.TIME:
            values = _time(column, given, date_forms)
        else:
            values = _CONVERSIONS[self.kind](column, given)
        return values.alias(self.column)

    def can_be(self, given: pl.DataType) -> bool:
        """Whether values of a type can be this kind."""
        is_text = given == pl.String or isinstance(given, pl.Categorical | pl.Enum)
        is_date = given in (pl.Date, pl.Datetime)
        return is_text or given.is_numeric() or given == pl.Boolean or (self.kind is Kind.TIME and is_date)

    def emptiness(self, given: pl.DataType) -> pl.Expr:
        """Whether the column, of type `given`, has no value."""
        column = pl.col(self.column)
        return column.is_null() | (column.str.strip_chars() == "") if given == pl.String else column.is_null()

    @property
    def has_range(self) -> bool:
        """Whether numbers may be outside it."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))

    def outside(self, values: NDArray) -> NDArray[np.bool_]:
        """[R] whether a number lies outside the range, as NaN does."""
        return ~((values >= self.low) & (values <= self.high))

    def range_text(self) -> str:
        """The range in words: "0.5 to 5"."""
        ends = (
            f"{end:g}" if self.high < 1e6 or not np.isfinite(end) else f"{end:.0f}" for end in (self.low, self.high)
        )
        return " to ".join(ends)


def _whole(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    if given.is_float():
        column = pl.when(column == column.floor()).then(column)
    return column if given.is_signed_integer() else column.cast(pl.Int64, strict=False)


def _number(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    return column.cast(pl.Float64, strict=False)


def _flag(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    if given == pl.Boolean:
        return column
    if given == pl.String:
        words = column.str.to_lowercase()
        truth = pl.when(words == "true").then(1.0).when(words == "false").then(0.0)
        column = truth.otherwise(column.cast(pl.Float64, strict=False))
    return pl.when(column == 1).then(True).when(column == 0).then(False)


def _name(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    if given == pl.String:
        return pl.when(column != "").then(column)
    if given.is_float():  # whole numbers with gaps, as pandas keeps them
        return _whole(column, given).cast(pl.String)
    return column.cast(pl.String)


def _time(column: pl.Expr, given: pl.DataType, date_forms: Sequence[str]) -> pl.Expr:
    if given == pl.String and date_forms:
        return pl.coalesce(*(_seconds(column, form) for form in date_forms))
    if given.is_temporal():
        zoned = isinstance(given, pl.Datetime) and given.time_zone is not None
        moment = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zoned else column
        return moment.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
    return column.cast(pl.Float64, strict=False)


def date_forms_of(texts: pl.Series) -> list[str]:
    """Those of DATE_FORMS that a sample of texts needs; none where more of them are numbers than dates."""
    rest = texts.str.strip_chars().drop_nulls()
    numbers = int(rest.cast(pl.Float64, strict=False).is_not_null().sum())
    count, forms = len(rest), []
    for form in DATE_FORMS:
        unread = rest.filter(rest.to_frame("").select(_seconds(pl.first(), form).is_null()).to_series())
        if len(unread) < len(rest):
            forms.append(form)
        rest = unread
    return forms if count - len(rest) > numbers else []


def _seconds(column: pl.Expr, form: str) -> pl.Expr:
    """Seconds since 1970 (UTC) of dates in one of DATE_FORMS, null where they are not."""
    parsed = column.str.to_datetime(form, strict=False, time_unit="us", exact=True)
    if "%#z" in form:
        parsed = parsed.dt.replace_time_zone(None)  # polars has turned it into UTC
    return parsed.dt.epoch("us").cast(pl.Float64) / 1e6


_CLOCKS = ("", ":%S", "Z", ":%SZ", ":%S%.f", ":%S%.fZ", ":%S%.f%#z")
DATE_FORMS = ("%Y-%m-%d", *(f"%Y-%m-%d{mark}%H:%M{clock}" for mark in ("T", " ") for clock in _CLOCKS))
"""Dates, and dates with times, with or without zone; without one they are UTC."""
_CONVERSIONS: dict[Kind, Callable[[pl.Expr, pl.DataType], pl.Expr]] = {
    Kind.WHOLE: _whole,
    Kind.NUMBER: _number,
    Kind.FLAG: _flag,
}
