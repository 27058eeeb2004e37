"""Units of time: what a column of numbers counts, and what is said of a value that does not fit.

The windows of the units do not overlap, so a number between 1990 and 2100 has one unit only: 10 digits are seconds, 13 are
milliseconds.
"""

import numpy as np
from numpy.typing import NDArray

from envs.logs.rows import Rows

EARLIEST, LATEST = 631_152_000, 4_102_444_800
"""Seconds since 1970 at which 1990 and 2100 begin; events lie between."""
BIRTHS = (-5_364_662_400, LATEST)
"""Seconds since 1970 at which 1800 and 2100 begin; births given as dates lie between."""
YEARS = (1800, 2100)
"""Years between which births given as years lie."""
UNITS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
"""Steps of each unit in a second."""
READ_UNITS = ("seconds", "milliseconds")
"""Units that a column may have; the others are recognised in order to be refused by name."""
_SECONDS_PER_YEAR = 365.2425 * 86_400


def unit_of(values: NDArray) -> str:
    """The unit in which most of the values [R] lie between 1990 and 2100; seconds if none does in any."""
    counts = {unit: int(_inside(values, unit).sum()) for unit in READ_UNITS}
    return max(counts, key=lambda unit: counts[unit])


def seconds_of(rows: Rows, column: str, values: NDArray, unit: str | None = None) -> NDArray[np.int64]:
    """[R] seconds since 1970 of a column of times; rows with a time outside 1990 to 2100 have a fault.

    Args:
        rows: the rows of the column.
        column: its name.
        values: [R] numbers in one unit, NaN where the row has a fault already.
        unit: the unit that the format prescribes; None for the one that most values are in.
    """
    unit, prescribed = unit or unit_of(values), unit is not None
    bad = ~_inside(values, unit)
    if bad.any():
        fresh = bad & rows.good & ~np.isnan(values)
        if fresh.any():
            rows.reject_values(bad, column, _misfit(float(values[np.argmax(fresh)]), unit, prescribed))
        values = np.where(bad, EARLIEST * UNITS[unit], values)
    if values.dtype != np.int64:
        values = np.floor(values).astype(np.int64)
    return values // UNITS[unit] if UNITS[unit] > 1 else values


def birth_seconds_of(rows: Rows, column: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R] seconds since 1970 of a column of births (times as of events, dates from 1800 on, or years); NaN where empty."""
    known = values[~np.isnan(values)]
    is_year = (known >= YEARS[0]) & (known < YEARS[1]) & (known == np.floor(known))
    if len(known) and is_year.sum() * 2 > len(known):
        bad = ~np.isnan(values) & ~((values >= YEARS[0]) & (values < YEARS[1]) & (values == np.floor(values)))
        rows.reject_values(bad, column, f"no year from {YEARS[0]} to {YEARS[1] - 1} as in other rows: a mix of units")
        years = np.where(bad | np.isnan(values), 1970, values).astype(np.int64)
        seconds = (years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.float64)
        return np.where(bad | np.isnan(values), np.nan, seconds)
    unit = unit_of(known)
    low = BIRTHS[0] if unit == "seconds" else EARLIEST * UNITS[unit]
    bad = ~np.isnan(values) & ~((values >= low) & (values < LATEST * UNITS[unit]))
    if bad.any():
        rows.reject_values(bad, column, _misfit(float(values[np.argmax(bad)]), unit, False))
    return np.where(bad, np.nan, values) / UNITS[unit]


def _inside(values: NDArray, unit: str) -> NDArray[np.bool_]:
    return (values >= EARLIEST * UNITS[unit]) & (values < LATEST * UNITS[unit])


def _misfit(value: float, unit: str, prescribed: bool) -> str:
    """Ends the sentence "column c is 'v', which is ..."."""
    other = next((other for other in UNITS if _inside(np.array(value), other)), None)
    if other in READ_UNITS and not prescribed:
        return f"in {other} where other rows are in {unit}: a mix of units"
    if other is not None:
        return f"in {other}, not in {unit}" if prescribed else f"in {other}: give seconds, milliseconds or ISO dates"
    year = 1970 + value / UNITS[unit] / _SECONDS_PER_YEAR
    lies = f"in the year {year:.0f}" if abs(year) < 1e6 else "beyond any calendar"
    return f"{lies} when read as {unit} since 1970: times lie between 1990 and 2100"
