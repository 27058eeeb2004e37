"""Where a fit with exposures begins: which categories draw users who have just consumed which others.

From unlike categories drawn at random the likelihood leads to local optima, in which short-term interest and satiation play each
other's parts. The linear effect A [G, G] of what a user consumed lately, by category, on what it takes from a slate has a closed
form to first order (one Newton step of the multinomial logit from no effect at all). It is alpha C C^T - c I, for the centres C
of the categories, since satiation acts within a category only; where d < G the smallest eigenvalues tell c.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.users.exposures import Requests

KEEP = 0.7
"""Share of the short-term average that is kept per item."""
_CENTRE_NORM = 0.8
"""Of the centres, on the scale of a mean norm of v of 1; the rest is the items' own."""
_SATIATION_SHARE = 0.25
"""Logits of `satiation_gain` per logit of c: satiation sums what the short-term average averages."""
_MOST_RANK = 2 / 3
"""Eigenvalues above c, as a share of G at most: some must be left to tell c."""
_RIDGE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """First values of a fit."""

    centres: NDArray[np.float32]
    """[G, d]."""
    short_weight: float
    """alpha."""
    satiation_gain: float
    """beta."""


def beginning(requests: Requests, categories: NDArray[np.float32], size: int, rng: np.random.Generator) -> Beginning:
    """Centres of `size` dimensions from the `requests` of a log whose items have `categories` [I, G]."""
    groups = categories.shape[1]
    if not groups:
        return Beginning(centres=np.zeros((0, size), np.float32), short_weight=1.0, satiation_gain=0.0)
    centres = 0.1 / np.sqrt(size) * rng.standard_normal((groups, size))
    value, vector = np.linalg.eigh(_affinity(requests, categories.astype(np.float64)))
    rank = max(min(size, int(_MOST_RANK * groups)), 1)
    within = max(-float(value[:-rank].mean()) if rank < groups else 0.0, 0.0)
    spread = np.maximum(value[-rank:] + within, 0)
    alpha = spread.sum() / groups / _CENTRE_NORM**2
    if alpha > 0:
        centres[:, :rank] += vector[:, -rank:] * np.sqrt(spread / alpha)
    return Beginning(
        centres=centres.astype(np.float32),
        short_weight=float(np.clip(alpha, 0.3, 4.0)),
        satiation_gain=_SATIATION_SHARE * within,
    )


def _affinity(requests: Requests, categories: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G, G] symmetric: logits of an item of one category per unit of the short-term average of another, each against the mean of
    the categories. Averages count against their user's own mean, so that lasting tastes are no part of it."""
    groups, slots = categories.shape[1], requests.slate_size
    lately = _short_term(requests, categories)
    count = np.maximum(np.diff(requests.starts), 1)[:, None]
    of_user = np.stack([np.bincount(requests.user, part, requests.num_users) for part in lately.T], axis=1)
    lately -= (of_user / count)[requests.user]
    full = requests.slate >= 0
    taken = requests.chosen < slots
    share = taken.mean() / max(full.sum(axis=1).mean(), 1)
    moment, spread = np.zeros((groups, groups)), np.zeros((groups, groups))
    for begin in range(0, len(requests), 16_384):
        rows = slice(begin, begin + 16_384)
        shown = categories[np.maximum(requests.slate[rows], 0)] * full[rows, :, None]
        mean = share * shown.sum(axis=1)
        hit = np.flatnonzero(taken[rows])
        surprise = -mean
        surprise[hit] += shown[hit, requests.chosen[rows][hit]]
        moment += surprise.T @ lately[rows]
        flat = shown.reshape(-1, groups)
        spread += share * flat.T @ flat - mean.T @ mean
    centred = np.eye(groups) - 1 / groups
    ridge = _RIDGE * np.eye(groups) / groups
    of_lately = lately.T @ lately
    effect = np.linalg.solve(spread + ridge * np.trace(spread), moment * len(requests))
    effect = np.linalg.solve(of_lately + ridge * np.trace(of_lately), effect.T).T
    return centred @ (effect + effect.T) / 2 @ centred


def _short_term(requests: Requests, categories: NDArray[np.float64]) -> NDArray[np.float64]:
    """[Q, G] exponential average of the categories of the items consumed before each request."""
    averages = np.zeros((len(requests.item) + requests.num_users, categories.shape[1]))
    # of each user, the average before its first item, and after each
    first = requests.item_starts[:-1] + np.arange(requests.num_users)
    length = np.diff(requests.item_starts)
    for number in range(int(length.max(initial=0))):
        users = np.flatnonzero(length > number)
        rows = first[users] + number
        item = requests.item[requests.item_starts[users] + number]
        averages[rows + 1] = KEEP * averages[rows] + (1 - KEEP) * categories[item]
    return averages[first[requests.user] + requests.consumed]
