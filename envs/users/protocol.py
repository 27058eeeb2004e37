"""The protocol of a user model: what the engine asks of any fitted model of how users respond and move.

A user model never meets a policy. Its state is a dataclass of arrays over N users whose first axis is the user.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.logs.schema import InteractionLog

AGE_KNOTS = np.arange(8) * 1.5
"""Knots of the age effect on the scale log(1 + age in days): 0, 3.5, 19, 89, 402, 1,807, 8,102 and 36,315 days."""


class Trait(IntEnum):
    """Columns of a user's traits: how it differs from others in what is not interest."""

    LEAVE = 0
    """Added to the logit of leaving a visit."""
    GAP = 1
    """Added to the mean of log(days until the next visit)."""
    RATING = 2
    """Mean engagement (rating or log of watch time) at utility 0 of an average item; in the unit of the model's head."""
    RETURN = 3
    """Added to the logit of ever coming back."""
    POPULARITY = 4
    """Own weight on the items' biases, beyond the 1 that all have."""
    NOVELTY = 5
    """Logits of utility per standard deviation of an item's birth."""
    FOCUS = 6
    """Share by which everything but the effect of age weighs more in the user's choices: small for whoever takes what comes."""


@dataclass(frozen=True, kw_only=True)
class VisitParams:
    """How visits end and begin. `source` in the parameter table tells which values are fitted and which assumed."""

    leave_intercept: float = -2.0
    """Logit of leaving the visit after a request with a click, at the first item of a visit (fitted)."""
    leave_log_place: float = -0.3
    """Change of that logit per unit of log(1 + items consumed before in this visit) (fitted)."""
    leave_miss: float = -3.0
    """Logit of leaving after the first request in a row without a click (assumed: a log without exposures cannot tell)."""
    impatience: float = 0.15
    """Rise of that logit per further request in a row without a click (assumed)."""
    leave_satisfaction: float = -0.5
    """Change of either logit per nat of satisfaction above its baseline (assumed)."""
    return_intercept: float = 0.5
    """Logit of ever coming back after a visit (fitted, mixture-cure likelihood with censoring at the log's end)."""
    return_satisfaction: float = 0.5
    """Change of that logit per nat of satisfaction above its baseline (assumed)."""
    first_leave_intercept: float = 0.0
    """Added to `leave_intercept` in the first visit of a user's life, which lies before every run (fitted)."""
    first_leave_log_place: float = 0.0
    """Added to `leave_log_place` there (fitted)."""
    leave_ageing: float = 0.0
    """Change of the trait LEAVE per unit of log(visits had) (fitted)."""
    gap_ageing: float = 0.0
    """Change of the trait GAP per unit of log(visits had) (fitted)."""
    gap_log_mean: float = 1.0
    """Mean of log(days until the next visit), of those who come back (fitted)."""
    gap_log_sd: float = 1.5
    """Standard deviation of log(days until the next visit) (fitted)."""
    wide_gap_share: float = 0.0
    """Share of gaps that come from a second normal in log days (fitted): habits are regular, exceptions are not."""
    wide_gap_shift: float = 0.0
    """Mean of log days of the second against the first (fitted)."""
    wide_gap_log_sd: float = 1.5
    """Standard deviation of the second (fitted)."""
    gap_satisfaction: float = -0.2
    """Change of that mean per nat of satisfaction above its baseline (assumed)."""
    satisfaction_decay: float = 0.8
    """Share of satisfaction kept per request (assumed). Satisfaction is an exponential average of the slate's inclusive
    value, log(1 + sum exp(utility - outside)) (Train 2009, eq. 3.9)."""

    def leave_logit(
        self, consumed_before: NDArray[np.integer], first_visit: NDArray[np.bool_] | bool = False
    ) -> NDArray[np.float64]:
        """[N] logit of leaving after an item, with `consumed_before` [N] items before it in this visit; the user's trait LEAVE
        and the effect of satisfaction come on top."""
        first = np.asarray(first_visit, np.float64)
        slope = self.leave_log_place + self.first_leave_log_place * first
        return self.leave_intercept + self.first_leave_intercept * first + slope * np.log1p(consumed_before)

    def log_gap(self, uniform: NDArray[np.floating], normal: NDArray[np.floating]) -> NDArray[np.float64]:
        """[N] log(days until the next visit) of users who come back, from uniform [N] and standard normal [N] draws; the
        user's trait GAP and the effect of satisfaction come on top."""
        wide = uniform < self.wide_gap_share
        sd = np.where(wide, self.wide_gap_log_sd, self.gap_log_sd)
        return self.gap_log_mean + np.where(wide, self.wide_gap_shift, 0.0) + sd * normal

    def ageing(self, visits: NDArray[np.integer]) -> NDArray[np.float64]:
        """[N, len(Trait)] what has been added to users' traits since their first visit once they have had `visits` [N]."""
        added = np.zeros((len(visits), len(Trait)))
        age = np.log(np.maximum(visits, 1))
        added[:, Trait.LEAVE], added[:, Trait.GAP] = self.leave_ageing * age, self.gap_ageing * age
        return added


@dataclass(frozen=True, kw_only=True)
class ChoiceParams:
    """What a choice holds besides the items' utilities. Fitted where a log has exposures."""

    outside: float | None = None
    """Logit of choosing nothing; None where the log cannot tell it, so that each run sets it."""
    position_slope: float = 1.0
    """Factor on the discount of DCG, by which lower slots are chosen less (`position_logits`)."""


class UserModelState(Protocol):
    """Arrays over N users; `take` and `put` move rows between batches."""

    traits: NDArray[np.float32]
    """[N, len(Trait)] fixed for life."""

    def take(self, rows: NDArray[np.int64]) -> Self: ...

    def put(self, rows: NDArray[np.int64], values: Self) -> None: ...


class UserModel(Protocol):
    """Utility is linear in an item vector, so that the engine scores slates, candidates and catalogues in one product:

    utility(user, item) = preference(state, context)[user] . item_vectors[item] + item_bias[item] + age_effect(age)

    A user is a row of parameters: those of the log's users are in `user_parameters`, others may be drawn that resemble them.

    A model takes only the states that its own `start` made, so its methods may name a narrower type than `Any`.
    """

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D] (any width the model likes)."""
        ...

    @property
    def item_bias(self) -> NDArray[np.float32]:
        """[I] popularity bias in logits."""
        ...

    @property
    def visits(self) -> VisitParams: ...

    @property
    def choice(self) -> ChoiceParams: ...

    @property
    def age_values(self) -> NDArray[np.float32]:
        """φ at `AGE_KNOTS`, in logits; linear between them (`age_effect`)."""
        ...

    @property
    def user_parameters(self) -> NDArray[np.float32]:
        """[U, P] all that is the log users' own; the last len(Trait) columns are their traits."""
        ...

    def start(self, parameters: NDArray[np.float32]) -> UserModelState:
        """State of users with `parameters` [N, P] before their first event."""
        ...

    def preference(
        self,
        state: Any,
        hour: NDArray[np.float32],
        weekday: NDArray[np.int64],
        place_in_visit: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """[N, D] for each user, in context: hour [N] of the day (0 to 24), weekday [N] (Monday 0), items consumed so far
        in this visit [N]."""
        ...

    def consume(self, state: Any, rows: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        """Moves the interests of users `rows` [M] who consumed `items` [M]; changes `state` in place."""
        ...

    def pause(
        self,
        state: Any,
        rows: NDArray[np.int64],
        days: NDArray[np.float32],
        walk: NDArray[np.float32] | None,
    ) -> None:
        """Lets `days` [M] pass between two visits of users `rows` [M]; `walk` [M, d] standard normal draws move the
        long-term interest, None leaves it; changes `state` in place."""
        ...

    @property
    def walk_width(self) -> int:
        """d of the draws that `pause` takes."""
        ...

    def expected_rating(
        self, state: Any, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[M] mean rating in the log's unit of `items` [M] that users `rows` [M] consume at `utility` [M] (before noise and
        rounding)."""
        ...

    def rate(
        self,
        state: Any,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """[M] rating drawn with standard normal `noise` [M], on the log's own grid."""
        ...


@runtime_checkable
class ExtendableUserModel(Protocol):
    """A user model that can take items which no log has seen; needed only where a run draws new items."""

    @property
    def item_noise_width(self) -> int:
        """Number of draws that `with_items` takes for each item."""
        ...

    def with_items(self, parents: NDArray[np.int64], noise: NDArray[np.float32]) -> Self:
        """The model of I + B items: behind its own, B that lie around their `parents` [B] as items of the same categories lie
        around each other (`envs.users.new_items`); `noise` [B, item_noise_width] standard normal."""
        ...


def replay(model: UserModel, log: InteractionLog) -> UserModelState:
    """State of every log user after all consumed rows of `log`, events in order, pauses between visits included."""
    events = log.consumed()
    lengths = np.diff(events.user_starts)
    state = model.start(model.user_parameters)
    visit, days = events.visit, np.diff(events.timestamp, prepend=0) / 86_400
    for place in range(int(lengths.max(initial=0))):
        users = np.flatnonzero(lengths > place)
        rows = events.user_starts[users] + place
        if place:
            begins = visit[rows] != visit[rows - 1]
            if begins.any():
                model.pause(state, users[begins], days[rows[begins]].astype(np.float32), None)
        model.consume(state, users, events.item[rows])
    return state


def age_effect(age_values: NDArray[np.float32], age_days: NDArray[np.float32]) -> NDArray[np.float32]:
    """φ in logits at `age_days` (any shape), from its values at `AGE_KNOTS`: linear on the scale log(1 + days)."""
    scaled = np.log1p(np.maximum(age_days, 0)) * np.float32(1 / AGE_KNOTS[1])
    left = np.minimum(scaled.astype(np.int32), len(AGE_KNOTS) - 2)
    part = np.minimum(scaled - left, 1.0).astype(np.float32)
    slope = np.diff(age_values)
    return age_values[left] + part * slope[left]


def age_bends(age_values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[len(AGE_KNOTS)] the age effect as φ(0) and the change of its slope at each knot but the last, per width of a knot."""
    slope = np.diff(age_values)
    return np.concatenate([age_values[:1], slope[:1], np.diff(slope)]).astype(np.float32)


def position_logits(slate_size: int, slope: float = 1.0) -> NDArray[np.float32]:
    """[K] logits by which lower slots are chosen less: slope * log(1 / log2(2 + slot)); at slope 1 the discount of DCG, which
    is assumed where a log cannot tell (`ChoiceParams.position_slope`).

    Source: Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.
    """
    return (-slope * np.log(np.log2(2.0 + np.arange(slate_size)))).astype(np.float32)
