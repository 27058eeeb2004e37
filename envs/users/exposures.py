"""Requests of a log with exposures: what each slate showed, what was taken from it, and what the user had consumed before.

A request whose slate got no click is a choice of the outside option, so such logs tell its logit and the weights of positions.
That the old recommender chose the slates does no harm: given the slate, the multinomial logit is the same whoever chose it
(Train 2009, Discrete Choice Methods with Simulation, section 3.7).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.logs.schema import InteractionLog
from envs.users.likelihood import MAX_EVENTS, Part
from envs.users.protocol import UserModel, UserModelState, age_effect, position_logits

_CHUNK = 4_096


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Q requests in order of user and time, and the E items that their users consumed.

    A slate with several clicks counts as so many choices, each from what the earlier ones left.
    """

    num_users: int
    num_items: int
    user: NDArray[np.int64]
    """[Q] index of the user."""
    slate: NDArray[np.int32]
    """[Q, K] items shown, by position; -1 for an empty slot."""
    chosen: NDArray[np.int64]
    """[Q] slot clicked, K for none."""
    chosen_row: NDArray[np.int64]
    """[Q] row of the log that was clicked, -1 for none."""
    timestamp: NDArray[np.int64]
    """[Q] seconds since 1970."""
    consumed: NDArray[np.int64]
    """[Q] items that the user consumed before."""
    consumed_in_visit: NDArray[np.int64]
    """[Q] of these in this visit; a visit begins after an hour without any row."""
    idle_days: NDArray[np.float32]
    """[Q] days spent between visits since the user's last consumed item (since its first row, where there is none)."""
    part: NDArray[np.int64]
    """[Q] `Part` of the request: that of the next item consumed."""
    starts: NDArray[np.int64]
    """[U + 1] first request of each user."""
    item: NDArray[np.int64]
    """[E] items consumed, in order of user and time."""
    pause_days: NDArray[np.float32]
    """[E] days spent between visits since the item consumed before."""
    item_starts: NDArray[np.int64]
    """[U + 1] first of each user's consumed items."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def slate_size(self) -> int:
        return self.slate.shape[1]

    @property
    def hour(self) -> NDArray[np.float32]:
        """[Q] hour of the day, 0 to 24, UTC."""
        return (self.timestamp % SECONDS_PER_DAY / 3600).astype(np.float32)

    @property
    def weekday(self) -> NDArray[np.int64]:
        """[Q] day of the week, Monday 0."""
        return weekday_of(self.timestamp)

    def ages(self, birth: NDArray[np.int64]) -> NDArray[np.float32]:
        """[Q, K] ages in days of the items shown, whose births are `birth` [I]."""
        return ((self.timestamp[:, None] - birth[self.slate]) / SECONDS_PER_DAY).astype(np.float32)


def has_slates(log: InteractionLog) -> bool:
    """Whether a fit can learn from what was passed over: rows that were shown, numbered by request."""
    return log.has_exposures and bool((log.request[~log.clicked] >= 0).any())


def requests_of(log: InteractionLog, max_events: int = MAX_EVENTS) -> Requests:
    """The requests of a log with exposures, up to each user's `max_events`-th consumed item.

    Rows without a request number move their user's interests, but are no choice.
    """
    clicked = log.clicked.astype(np.int64)
    consumed = _before(np.cumsum(clicked) - clicked, log.user_starts, log.user)
    begins = (log.place > 0) & (np.diff(log.visit, prepend=0) != 0)
    gap = np.diff(log.timestamp, prepend=log.timestamp[:1]) / SECONDS_PER_DAY
    idle = np.cumsum(np.where(begins, gap, 0))
    visit_start = np.maximum.accumulate(np.where(begins | (log.place == 0), np.arange(len(log)), 0))

    events = np.flatnonzero(log.clicked & (consumed < max_events))
    lengths = np.bincount(log.user[events], minlength=len(log.users))
    item_starts = np.concatenate([[0], np.cumsum(lengths)])
    last_idle = np.concatenate([idle[events], [0.0]])  # of each consumed item
    first_idle = np.append(idle, 0.0)[log.user_starts[:-1]]

    rows = np.flatnonzero(log.request >= 0)
    # a request's rows share its time, so it stands where its first row stands
    _, first, number = np.unique(
        np.stack([log.user[rows], log.request[rows]]), axis=1, return_index=True, return_inverse=True
    )
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    number = rank[number.reshape(-1)]
    slot = np.where(log.position[rows] >= 0, log.position[rows], _before(np.arange(len(rows)), first[order], number))
    slate = np.full((len(order), int(slot.max(initial=0)) + 1), -1, np.int32)
    slate[number, slot] = log.item[rows]
    clicks = np.bincount(number, log.clicked[rows], minlength=len(order)).astype(np.int64)

    # one choice for each click, and one for each request without any
    copies = np.maximum(clicks, 1)
    choice = np.repeat(np.arange(len(order)), copies)
    earlier = np.arange(len(choice)) - np.repeat(np.cumsum(copies) - copies, copies)
    chosen = np.full(len(choice), slate.shape[1])
    hits = np.flatnonzero(log.clicked[rows])
    hits = hits[np.argsort(number[hits], kind="stable")]
    chosen[clicks[choice] > 0] = slot[hits]
    chosen_row = np.full(len(choice), -1)
    chosen_row[clicks[choice] > 0] = rows[hits]
    slate = slate[choice]
    for back in range(1, int(copies.max(initial=1))):
        later = np.flatnonzero(earlier >= back)
        slate[later, chosen[later - back]] = -1
    row = rows[first[order]][choice]
    user = log.user[row].astype(np.int64)
    before = consumed[row] + earlier
    kept = before < max_events
    row, user, before = row[kept], user[kept], before[kept]
    slate, chosen, chosen_row, earlier = slate[kept], chosen[kept], chosen_row[kept], earlier[kept]

    since = np.where(before > 0, last_idle[np.maximum(item_starts[user] + before - 1, 0)], first_idle[user])
    events_before = np.where(lengths[log.user[events]] > 0, np.arange(len(events)) - item_starts[log.user[events]], 0)
    previous = np.where(events_before > 0, np.roll(idle[events], 1), first_idle[log.user[events]])
    part = (before >= 7 * lengths[user] // 10).astype(np.int64) + (before >= 8 * lengths[user] // 10)
    return Requests(
        num_users=len(log.users),
        num_items=len(log.catalogue),
        user=user,
        slate=slate,
        chosen=chosen.astype(np.int64),
        chosen_row=chosen_row.astype(np.int64),
        timestamp=log.timestamp[row],
        consumed=before,
        consumed_in_visit=before - consumed[visit_start[row]],
        idle_days=np.maximum(idle[row] - since, 0).astype(np.float32),
        part=np.where(lengths[user] == 0, int(Part.FIT), part),
        starts=np.searchsorted(user, np.arange(len(log.users) + 1)).astype(np.int64),
        item=log.item[events].astype(np.int64),
        pause_days=(idle[events] - previous).astype(np.float32),
        item_starts=item_starts,
    )


def _before(values: NDArray[np.int64], starts: NDArray[np.int64], group: NDArray[np.integer]) -> NDArray[np.int64]:
    """`values` [R], rising, counted from the first row of each row's `group` [R], which begins at `starts[group]`."""
    return values - np.append(values, 0)[starts][group]


@dataclass(frozen=True, kw_only=True)
class RequestLikelihood:
    """Negative log-likelihoods of single requests, in nats: of what was taken, or that nothing was."""

    user: NDArray[np.int64]
    """[Q] user of the request."""
    loss: NDArray[np.float64]
    """[Q]."""

    def mean(self) -> tuple[float, float]:
        """Mean over requests and half the width of its 95 % interval, requests clustered by user; NaN without requests."""
        if not len(self.loss):
            return float("nan"), float("nan")
        mean = self.loss.mean()
        of_user = np.bincount(self.user, self.loss - mean)
        return float(mean), float(1.96 * np.sqrt((of_user**2).sum()) / len(self.loss))


def slate_losses(
    utility: NDArray[np.floating], requests: Requests, rows: NDArray[np.int64], outside: float, position_slope: float
) -> NDArray[np.float64]:
    """[R] negative log-likelihood of requests `rows` [R] under `utility` [R, K] of what they showed."""
    logit = np.full((len(rows), requests.slate_size + 1), outside)
    logit[:, :-1] = np.where(
        requests.slate[rows] < 0, -np.inf, utility + position_logits(requests.slate_size, position_slope)
    )
    losses: NDArray[np.float64] = logsumexp(logit, axis=1) - logit[np.arange(len(rows)), requests.chosen[rows]]
    return losses


def request_likelihood(
    model: UserModel, birth: NDArray[np.int64], requests: Requests, part: Part = Part.TEST
) -> RequestLikelihood:
    """Likelihood of a user model as it is simulated: its own replay, preference, item vectors, outside option and slope.

    Args:
        model: any user model of the log's users and items whose outside option is known.
        birth: [I] birth of the items, seconds since 1970.
        requests: the requests of the log.
        part: which of them to measure.

    Raises:
        ValueError: if the model's outside option is not known.
    """
    if model.choice.outside is None:
        raise ValueError("the user model does not know its outside option; fit it to a log with exposures.")
    preference = replayed_preferences(model, requests)
    rows = np.flatnonzero(requests.part == part)
    losses = np.empty(len(rows))
    for begin in range(0, len(rows), _CHUNK):
        chunk = rows[begin : begin + _CHUNK]
        slate = np.maximum(requests.slate[chunk], 0)
        utility = np.matmul(model.item_vectors[slate], preference[chunk][:, :, None])[:, :, 0]
        age = (requests.timestamp[chunk, None] - birth[slate]).astype(np.float32) / np.float32(SECONDS_PER_DAY)
        utility += model.item_bias[slate] + age_effect(model.age_values, age)
        losses[begin : begin + _CHUNK] = slate_losses(
            utility, requests, chunk, model.choice.outside, model.choice.position_slope
        )
    return RequestLikelihood(user=requests.user[rows], loss=losses)


def replayed_preferences(model: UserModel, requests: Requests) -> NDArray[np.float32]:
    """[Q, D] preference of each request's user just before it, by the simulator's own replay."""
    preferences = np.empty((len(requests), model.item_vectors.shape[1]), np.float32)
    for rows, _, preference in replayed_requests(model, requests):
        preferences[rows] = preference
    return preferences


def replayed_requests(
    model: UserModel, requests: Requests
) -> Iterator[tuple[NDArray[np.int64], UserModelState, NDArray[np.float32]]]:
    """Yields (requests [N], state of their users just before them, their preferences [N, D]), by the simulator's own replay: first
    the first request of every user, then all second ones, and so on."""
    state = model.start(model.user_parameters)
    had = np.zeros(requests.num_users, np.int64)
    idle = np.zeros(requests.num_users, np.float32)  # days between visits since the last item, so far
    count = np.diff(requests.starts)
    hour, weekday = requests.hour, requests.weekday

    def pass_days(users: NDArray[np.int64], days: NDArray[np.float32]) -> None:
        paused = days - idle[users] > 0
        if paused.any():
            model.pause(state, users[paused], (days - idle[users])[paused], None)
        idle[users] = days

    for number in range(int(count.max(initial=0))):
        users = np.flatnonzero(count > number)
        rows = requests.starts[users] + number
        behind = had[users] < requests.consumed[rows]
        while behind.any():
            movers = users[behind]
            events = requests.item_starts[movers] + had[movers]
            pass_days(movers, requests.pause_days[events])
            model.consume(state, movers, requests.item[events].astype(np.int32))
            had[movers] += 1
            idle[movers] = 0
            behind = had[users] < requests.consumed[rows]
        pass_days(users, requests.idle_days[rows])
        before = state.take(users)
        yield rows, before, model.preference(before, hour[rows], weekday[rows], requests.consumed_in_visit[rows])
