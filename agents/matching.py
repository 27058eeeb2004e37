"""Which requests of an event log are those that an agent remembers having served."""

import numpy as np
from numpy.typing import NDArray

from envs.logs.schema import InteractionLog


def requests_of(events: InteractionLog, slate_size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(user and slate [E, 1 + K] of each request of a log with exposures, in order of time; what was clicked [E, K])."""
    known = (events.request >= 0) & (events.position >= 0) & (events.position < slate_size)
    number, first, request = np.unique(events.request[known], return_index=True, return_inverse=True)
    asked, clicked = np.full((len(number), 1 + slate_size), -1, np.int64), np.zeros((len(number), slate_size), bool)
    asked[:, 0] = events.user[known][first]
    asked[request, 1 + events.position[known]] = events.item[known]
    clicked[request, events.position[known]] = events.clicked[known]
    order = np.argsort(events.timestamp[known][first], kind="stable")
    return asked[order], clicked[order]


def matches(left: NDArray[np.int64], right: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(places in `left` [M, W], places in `right` [E, W]) of equal rows: the first of a kind with the first, and so on."""
    both = np.concatenate([left, right])
    _, kind = np.unique(both, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    first, second = (part * len(both) + _occurrence(part) for part in (kind[: len(left)], kind[len(left) :]))
    _, of_left, of_right = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return of_left, of_right


def _occurrence(kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """[M] how many of the same kind stand before each."""
    order = np.argsort(kind, kind="stable")
    ordered = kind[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    place = np.arange(len(kind)) - np.repeat(begins, np.diff(begins, append=len(kind)))
    occurrence = np.empty(len(kind), np.int64)
    occurrence[order] = place
    return occurrence
