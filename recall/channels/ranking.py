"""Rankings that are the same for everybody."""

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.compiled import over_rows
from recall import kernels


def ranked(value: NDArray[np.float64], offered: NDArray[np.bool_] | None) -> NDArray[np.int32]:
    """The items on offer [<= I], of largest `value` [I] first, ties in order of the items."""
    order = np.argsort(-value, kind="stable").astype(np.int32)
    return order if offered is None else order[offered[order]]


def walk(
    ranking: NDArray[np.int32], value: NDArray[np.float64], request: RecallRequest, n: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(items [N, n], their `value`s [N, n]): the first items of `ranking` that each request allows, -1 and 0 behind them."""
    items = np.empty((len(request), n), np.int32)
    excluded = np.ascontiguousarray(request.excluded)
    over_rows(kernels.first_allowed, len(request), ranking, excluded, items)
    return items, np.where(items >= 0, value[items], 0).astype(np.float32)
