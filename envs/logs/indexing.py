"""From a file's ids and categories to places in arrays."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.logs.schema import Users

_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
_DENSE = 8
"""Numbers up to this many times the rows are looked up in a table, larger ones are searched for."""


def distinct(numbers: NDArray) -> NDArray:
    """The distinct numbers of [R] rows in order."""
    if len(numbers) and numbers.min() >= 0 and numbers.max() < _DENSE * len(numbers):
        return np.flatnonzero(np.bincount(numbers))
    return np.unique(numbers)


def places(ordered: NDArray, numbers: NDArray) -> NDArray[np.int32]:
    """[R] place of each number in `ordered`, distinct and ascending; -1 where it is not there."""
    if len(ordered) and ordered[0] >= 0 and ordered[-1] < _DENSE * len(numbers):
        table = np.full(int(ordered[-1]) + 2, -1, np.int32)
        table[ordered] = np.arange(len(ordered))
        return table[np.where((numbers < 0) | (numbers > ordered[-1]), len(table) - 1, numbers)]
    found = np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)
    return np.where(ordered[found] == numbers, found, -1).astype(np.int32)


def number_names(codes: NDArray, names: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.str_]]:
    """Numbers the names that occur, in their order: as whole numbers if all are such, else as text.

    Args:
        codes: [R] places in `names`.
        names: in any order.

    Returns:
        ([R] places in the second, the names that occur in order).
    """
    used = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    texts = [names[code] for code in used.tolist()]
    whole = all(_WHOLE.fullmatch(text) for text in texts)
    order = sorted(range(len(texts)), key=(lambda place: int(texts[place])) if whole else texts.__getitem__)
    rank = np.zeros(len(names), np.int32)
    rank[used[order]] = np.arange(len(used))
    return rank[codes], np.array([texts[place] for place in order], np.str_)


def shares(members: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.float32]:
    """[I, G] membership in categories: each of an item's has the same share; zeros for an item with none."""
    column = {name: place for place, name in enumerate(names)}
    rows = np.repeat(np.arange(len(members)), [len(member) for member in members])
    matrix = np.zeros((len(members), len(names)), np.float32)
    matrix[rows, [column[name] for member in members for name in member]] = 1
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def births(given: NDArray[np.float64], item: NDArray[np.integer], timestamp: NDArray[np.int64]) -> NDArray[np.int64]:
    """[I] births: those given, but none after the item's first event; the log's first event where none is given (NaN)."""
    # rows come in any order; the first event of an item is the smallest of its timestamps
    first_event = np.full(len(given), np.iinfo(np.int64).max)
    np.minimum.at(first_event, item, timestamp)
    known = np.where(np.isnan(given), timestamp.min(), given).astype(np.int64)
    return np.minimum(known, first_event)


def bare_users(user_ids: NDArray[np.str_]) -> Users:
    """Users of whom only the id is known."""
    return Users(user_ids=user_ids, feature_names=(), features=np.zeros((len(user_ids), 0), np.float32))
