"""Users drawn with replacement: the user models that could as well have been fitted (bootstrap, Efron 1979).

As many users are drawn as the log has, each drawing a user of its own, and the whole user model is fitted to them anew:
embeddings, biases, scalars, visits, ratings, and whatever else a model has. So the spread over draws is the uncertainty of all that
is fitted.

A drawn user stands at its own place, further copies of it at the places of users that were not drawn. So the fitted model
can simulate the drawn users of the log in their own places, and its population of users is that of the draw.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from envs.logs.schema import COLUMNS, InteractionLog


def drawn_users(num_users: int, seed: int) -> NDArray[np.int64]:
    """[U] the user that stands at each place: `num_users` drawn with replacement, each first at its own place."""
    times = np.bincount(np.random.default_rng(seed).integers(num_users, size=num_users), minlength=num_users)
    source = np.arange(num_users)
    source[times == 0] = np.repeat(source, np.maximum(times - 1, 0))
    return source


def log_of_users(log: InteractionLog, source: NDArray[np.int64]) -> InteractionLog:
    """The log in which the user at place u has rows and attributes of user `source[u]` [U], its names staying where they are;
    requests of copies are requests of their own."""
    begins, counts = log.user_starts[source], np.diff(log.user_starts)[source]
    user = np.repeat(np.arange(len(source)), counts)
    rows = np.arange(len(user)) + np.repeat(begins - np.cumsum(counts) + counts, counts)
    columns = {name: getattr(log, name)[rows] for name in COLUMNS if getattr(log, name) is not None}
    copy = np.repeat(_copy_number(source), counts)
    requests = int(log.request.max(initial=-1)) + 1
    columns["request"] = np.where(columns["request"] >= 0, columns["request"] + copy * requests, -1)
    users = replace(log.users, features=log.users.features[source])
    return replace(log, users=users, **columns | {"user": user.astype(np.int32)})


def _copy_number(source: NDArray[np.int64]) -> NDArray[np.int64]:
    """[U] how many places before each have the same user."""
    order = np.argsort(source, kind="stable")
    ordered = source[order]
    first = np.searchsorted(ordered, ordered)
    number = np.empty_like(source)
    number[order] = np.arange(len(source)) - first
    return number
