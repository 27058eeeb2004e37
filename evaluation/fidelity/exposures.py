"""Click rates and watch times where a log tells what was shown: what would simulated users do with the very slates of real users?

Each held-out request is shown to the user model in the state that the user's real history left; the response is drawn as the
simulator draws it, from the multinomial logit over the slate and the outside option, and the watch time of what is clicked
from the model's engagement head. A model that has no outside option of its own gets the one with which its mean click rate on
the requests before the 80 % point is the log's. Where a log has watch times but nothing that was passed over, each consumed
item is a slate of its own that is taken.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_gumbel, draw_normal, draw_uniform
from envs.users.engagement_fit import engagement
from envs.users.exposures import Requests, has_slates, replayed_requests, requests_of
from envs.users.likelihood import MAX_EVENTS, Part
from envs.users.protocol import UserModel, age_effect, position_logits
from evaluation.fidelity.statistics import UserValues


def exposure_values(
    model: UserModel | None,
    log: InteractionLog,
    users: NDArray[np.int64],
    seed: int,
    max_events: int = MAX_EVENTS,
) -> dict[str, UserValues]:
    """What users did with their held-out requests.

    Args:
        model: whose responses; None for the real ones.
        log: the log.
        users: [N] whom to look at.
        seed: of the draws.
        max_events: consumed items of a user that count, the first ones.

    Returns:
        'click_rate': share of each user's requests with a click, where the log tells what was passed over; 'watch_time': log of
        1 + seconds for each item that was clicked, and 'user_watch_time': its mean over a user's items, where engagement is
        watch time. Empty where the log has neither.
    """
    chosen = np.zeros(len(log.users), bool)
    chosen[users] = True
    log = log.where(chosen[log.user])
    shown, (watched, unit) = has_slates(log), engagement(log)
    if not shown:
        if unit != "watch_seconds":
            return {}
        log, watched = log.consumed(), watched[log.clicked]
        log = replace(log, request=np.arange(len(log)), position=np.zeros(len(log), np.int16))
    requests = requests_of(log, max_events)
    held_out = requests.part == Part.TEST
    if shown:
        # a log often ends with a click because it was cut there; with its last request a user's click rate would be too high
        held_out &= np.diff(requests.user, append=-1) == 0
    if not held_out.any():
        return {}
    clicks = requests.chosen < requests.slate_size
    if model is None:
        seconds = np.where(clicks, watched[requests.chosen_row], np.nan)
    else:
        answers = _Answers.of(model, log, requests, seed)
        seconds = answers.watch_seconds
        if shown:
            clicks = answers.clicks(model.choice.outside, clicks, requests, seed)
    found = {"click_rate": _means(requests.user[held_out], clicks[held_out])} if shown else {}
    if unit == "watch_seconds":
        rows = np.flatnonzero(held_out & clicks & np.isfinite(seconds))
        if len(rows):
            score = np.log1p(np.maximum(seconds[rows], 0))
            found["watch_time"] = UserValues(user=requests.user[rows], value=score)
            found["user_watch_time"] = _means(requests.user[rows], score)
    return found


def _means(user: NDArray[np.int64], value: NDArray[np.generic]) -> UserValues:
    """Mean of `value` [M] over the values of each `user` [M]."""
    users, index = np.unique(user, return_inverse=True)
    return UserValues(user=users, value=np.bincount(index, value) / np.bincount(index))


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What a user model would do with Q requests, in the states that the users' real histories left."""

    worth: NDArray[np.float64]
    """[Q] log of the sum over slots of exp(utility)."""
    watch_seconds: NDArray[np.float64]
    """[Q] that the item is watched which is taken, if one is; NaN where the model tells of none."""

    @classmethod
    def of(cls, model: UserModel, log: InteractionLog, requests: Requests, seed: int) -> "_Answers":
        """Draws are keyed by user and request."""
        worth, seconds = np.empty((2, len(requests)))
        weights = position_logits(requests.slate_size, model.choice.position_slope)
        number = np.arange(len(requests)) - requests.starts[requests.user]
        ages = requests.ages(log.catalogue.birth)
        for rows, state, preference in replayed_requests(model, requests):
            slate, places = requests.slate[rows], np.arange(len(rows))
            item = np.maximum(slate, 0)
            utility = np.matmul(model.item_vectors[item], preference[:, :, None])[:, :, 0] + model.item_bias[item]
            utility += age_effect(model.age_values, ages[rows])
            placed = np.where(slate < 0, -np.inf, utility + weights).astype(np.float64)
            worth[rows] = np.logaddexp.reduce(placed, axis=1)
            keys = requests.user[rows], number[rows]
            slot = np.argmax(placed + draw_gumbel(seed, Purpose.CHOICE, *(key[:, None] for key in keys), item), axis=1)
            taken = item[places, slot].astype(np.int32)
            noise = draw_normal(seed, Purpose.RATING, *keys, taken).astype(np.float32)
            seconds[rows] = model.rate(state, places, taken, utility[places, slot].astype(np.float32), noise)
        return cls(worth=worth, watch_seconds=seconds)

    def clicks(
        self, outside: float | None, real: NDArray[np.bool_], requests: Requests, seed: int
    ) -> NDArray[np.bool_]:
        """[Q] whether an item is taken; `real` [Q] tells the logit `outside` of taking none where the model does not."""
        if outside is None:
            past = requests.part != Part.TEST
            outside = _outside(self.worth[past], real[past])
        number = np.arange(len(requests)) - requests.starts[requests.user]
        return draw_uniform(seed, Purpose.CHOICE, requests.user, number) < expit(self.worth - outside)


def _outside(worth: NDArray[np.float64], clicked: NDArray[np.bool_]) -> float:
    """Logit of clicking nothing with which the mean click rate is the log's."""
    if not len(worth) or clicked.all() or not clicked.any():
        return 0.0
    wide = float(np.abs(worth).max()) + 30
    return float(brentq(lambda outside: expit(worth - outside).mean() - clicked.mean(), -wide, wide))
