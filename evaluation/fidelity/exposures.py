"""Click rates where a log tells what was shown: would simulated users click as often on the very slates that real users got?

Each held-out request is shown to the user model in the state that the user's real history left; the click is drawn from the
multinomial logit over the slate and the outside option. A model that has no outside option of its own gets the one with which
its mean click rate on the requests before the 80 % point is the log's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_uniform
from envs.users.likelihood import EventSplit
from envs.users.protocol import UserModel, age_effect, position_logits
from evaluation.fidelity.free_running import observed_lengths
from evaluation.fidelity.statistics import UserValues


def exposure_values(
    model: UserModel | None,
    log: InteractionLog,
    split: EventSplit,
    users: NDArray[np.int64],
    seed: int,
) -> dict[str, UserValues]:
    """'click_rate': share of each user's held-out requests with a click; nothing where the log has no exposures.

    Args:
        model: whose clicks; None for the real ones.
        log: the log.
        split: tells the 80 % points.
        users: [N] whom to look at.
        seed: of the draws.
    """
    if not log.has_exposures or not (log.request >= 0).any():
        return {}
    shown = _Shown.of(log, split, users)
    # a log often ends with a click because it was cut there; with its last request a user's click rate would be too high
    is_last = np.diff(shown.user, append=-1) != 0
    held_out = (shown.consumed_before >= observed_lengths(split)[shown.user]) & ~is_last
    if not held_out.any():
        return {}
    clicks = shown.clicked[held_out]
    if model is not None:
        worth = _slate_worth(model, log, split, shown)
        outside = model.choice.outside
        if outside is None:
            past = shown.consumed_before < observed_lengths(split)[shown.user]
            outside = _outside(worth[past], shown.clicked[past])
        uniform = draw_uniform(seed, Purpose.CHOICE, shown.user[held_out], np.flatnonzero(held_out))
        clicks = uniform < expit(worth[held_out] - outside)
    who = shown.user[held_out]
    requests = np.bincount(who, minlength=split.num_users)
    having = np.flatnonzero(requests)
    rate = np.bincount(who, clicks, minlength=split.num_users)[having] / requests[having]
    return {"click_rate": UserValues(user=having, value=rate)}


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Q requests in order of user and time."""

    user: NDArray[np.int64]
    row: NDArray[np.int64]
    """[Q] first row of the request in the log."""
    slate: NDArray[np.int64]
    """[Q, K] items, -1 for an empty slot."""
    clicked: NDArray[np.bool_]
    consumed_before: NDArray[np.int64]
    """[Q] items that the user had consumed before."""
    consumed_in_visit: NDArray[np.int64]
    """[Q] of these in this visit."""

    @classmethod
    def of(cls, log: InteractionLog, split: EventSplit, users: NDArray[np.int64]) -> "_Shown":
        """Requests of `users` among the events that the split knows."""
        wanted = np.zeros(split.num_users, bool)
        wanted[users] = True
        rows = np.flatnonzero((log.request >= 0) & wanted[log.user])
        begins = np.diff(log.request[rows], prepend=-1) != 0
        begins |= np.diff(log.user[rows], prepend=-1) != 0
        number = np.cumsum(begins) - 1
        first = rows[begins]
        slot = np.arange(len(rows)) - np.flatnonzero(begins)[number]
        slate = np.full((len(first), int(slot.max(initial=0)) + 1), -1, np.int64)
        slate[number, slot] = log.item[rows]
        clicked = np.bincount(number, log.clicked[rows], minlength=len(first)) > 0
        total = np.concatenate([[0], np.cumsum(log.clicked)])
        before = total[first] - total[log.user_starts[log.user[first]]]
        visit_begin = first - log.place_in_visit[first]
        lengths, consumed = np.diff(split.starts), np.bincount(log.user[log.clicked], minlength=split.num_users)
        known = (before < lengths[log.user[first]]) | (lengths == consumed)[log.user[first]]
        return cls(
            user=log.user[first][known].astype(np.int64),
            row=first[known],
            slate=slate[known],
            clicked=clicked[known],
            consumed_before=before[known],
            consumed_in_visit=(total[first] - total[visit_begin])[known],
        )


def _slate_worth(model: UserModel, log: InteractionLog, split: EventSplit, shown: _Shown) -> NDArray[np.float64]:
    """[Q] log of the sum over slots of exp(utility), in the state that the user's real history left."""
    users, index = np.unique(shown.user, return_inverse=True)
    state = model.start(model.user_parameters[users])
    lengths = np.diff(split.starts)[users]
    now = log.timestamp[shown.row]
    hour, weekday = (now % SECONDS_PER_DAY / 3600).astype(np.float32), weekday_of(now)
    order = np.argsort(shown.consumed_before, kind="stable")
    ends = np.searchsorted(shown.consumed_before[order], np.arange(int(lengths.max(initial=0)) + 1), side="right")
    weights = position_logits(shown.slate.shape[1], model.choice.position_slope)
    worth, begin = np.empty(len(shown.user)), 0
    for place, end in enumerate(ends):
        asked = order[begin:end]
        begin = end
        if len(asked):
            preference = model.preference(
                state.take(index[asked]), hour[asked], weekday[asked], shown.consumed_in_visit[asked]
            )
            slate = shown.slate[asked]
            item = np.maximum(slate, 0)
            age = ((now[asked, None] - log.catalogue.birth[item]) / SECONDS_PER_DAY).astype(np.float32)
            utility = np.einsum("qkd,qd->qk", model.item_vectors[item], preference) + model.item_bias[item]
            utility = np.where(slate < 0, -np.inf, utility + age_effect(model.age_values, age) + weights)
            worth[asked] = np.logaddexp.reduce(utility, axis=1)
        rows = np.flatnonzero(lengths > place)
        events = split.starts[users[rows]] + place
        paused = split.pause_days[events] > 0
        if paused.any():
            model.pause(state, rows[paused], split.pause_days[events[paused]], None)
        if len(rows):
            model.consume(state, rows, split.item[events].astype(np.int32))
    return worth


def _outside(worth: NDArray[np.float64], clicked: NDArray[np.bool_]) -> float:
    """Logit of clicking nothing with which the mean click rate is the log's."""
    if not len(worth) or clicked.all() or not clicked.any():
        return 0.0
    wide = float(np.abs(worth).max()) + 30
    return float(brentq(lambda outside: expit(worth - outside).mean() - clicked.mean(), -wide, wide))
