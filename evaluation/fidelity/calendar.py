"""When users come and go in the last stretch of the log, real and simulated, from one date for all.

The date is set by the log as a whole: before it lies a given share of all events. So it knows nothing of any user's end. The visit
process is fitted to the events before it and to nothing else. Everybody who has an event before it goes on from what is
known then: still in a visit, or away since a known time, which by itself says that the user is slow to come back or lost.

Only times are drawn: no visit depends on what is consumed, so the visits are the same whatever a user model has users choose.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr, logsumexp, ndtri_exp

from envs.catalogue import SECONDS_PER_DAY
from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog
from envs.randomness import Purpose, draw_uniform
from envs.users.protocol import Trait, VisitParams
from envs.users.visit_fit import fit_visits
from evaluation.fidelity.free_running import DEFAULT_PACE_SECONDS

_MOST_ITEMS = 10_000
"""Items of a user at most, where items may come again."""
_LONGEST_GAP_DAYS = 36_500.0


@dataclass(frozen=True, kw_only=True)
class CalendarEvents:
    """E events from a date to the log's end, in order of user and time."""

    num_users: int
    users: NDArray[np.int64]
    """[N] who is looked at: the index of each user, ascending, also of those without an event."""
    last_known: NDArray[np.int64]
    """[N] seconds since 1970 of their last event before the date."""
    user: NDArray[np.int64]
    """[E] index of the user."""
    timestamp: NDArray[np.int64]
    """[E] seconds since 1970."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def items(self) -> NDArray[np.int64]:
        """[N] items of each of `users`."""
        return np.bincount(self.user, minlength=self.num_users)[self.users]


@dataclass(frozen=True, kw_only=True)
class KnownPast:
    """What is known of N users at a date."""

    date: int
    """Seconds since 1970."""
    users: NDArray[np.int64]
    """[N] index of each user who has an event before the date, ascending."""
    last: NDArray[np.int64]
    """[N] seconds since 1970 of the last of these events."""
    place: NDArray[np.int64]
    """[N] items before it in its visit."""
    in_first_visit: NDArray[np.bool_]
    """[N] whether that visit is the user's first."""
    items: NDArray[np.int64]
    """[N] events before the date."""
    steps: NDArray[np.int64]
    """[S] seconds between neighbouring events of a visit, all users of the log, ascending."""

    @classmethod
    def of(cls, before: InteractionLog, date: int, users: NDArray[np.int64]) -> "KnownPast":
        """What the consumed rows `before` the date say of those of `users` whom they know."""
        known = np.intersect1d(users, before.user)
        rows = before.user_starts[known + 1] - 1
        return cls(
            date=date,
            users=known.astype(np.int64),
            last=before.timestamp[rows],
            place=before.place_in_visit[rows],
            in_first_visit=before.visit[rows] == 0,
            items=np.diff(before.user_starts)[known],
            steps=np.sort(np.diff(before.timestamp, prepend=0)[before.place_in_visit > 0]),
        )

    @property
    def pace(self) -> float:
        """Median of `steps`."""
        return float(np.median(self.steps)) if len(self.steps) else DEFAULT_PACE_SECONDS

    def longer_steps(self, seconds: NDArray[np.int64]) -> NDArray[np.float64]:
        """[M] share of `steps` that are at least as long as `seconds` [M]."""
        return 1 - np.searchsorted(self.steps, seconds) / max(len(self.steps), 1)


def calendar_date(log: InteractionLog, share: float) -> int:
    """Seconds since 1970 before which `share` of the log's consumed events lie (fewer, where many are of that second)."""
    times = np.sort(log.timestamp[log.clicked])
    return int(times[min(int(share * len(times)), len(times) - 1)])


def consumed_before(log: InteractionLog, date: int) -> InteractionLog:
    """The consumed rows before `date`."""
    return log.where(log.clicked & (log.timestamp < date))


def real_calendar(log: InteractionLog, date: int, users: NDArray[np.int64]) -> CalendarEvents:
    """What those of `users` who have an event before `date` did from then on."""
    past = KnownPast.of(consumed_before(log, date), date, users)
    chosen = np.zeros(len(log.users), bool)
    chosen[past.users] = True
    rows = log.clicked & (log.timestamp >= date) & chosen[log.user]
    return CalendarEvents(
        num_users=len(log.users),
        users=past.users,
        last_known=past.last,
        user=log.user[rows].astype(np.int64),
        timestamp=log.timestamp[rows],
    )


def simulated_calendars(
    log: InteractionLog, date: int, users: NDArray[np.int64], seed: int, draws: int = 1
) -> list[CalendarEvents]:
    """What those of `users` do from `date` until the log's end by the visit process that is fitted to the events before it.

    Args:
        log: the log.
        date: seconds since 1970.
        users: [N] index of each user, ascending.
        seed: of the fit and the draws.
        draws: lives of each user, which differ in what befalls it, not in its traits.
    """
    before = consumed_before(log, date)
    past = KnownPast.of(before, date, users)
    if not len(past.users):
        return [real_calendar(log, date, users)] * draws
    fit = fit_visits(before, seed, until=date)
    left = np.full(len(past.users), _MOST_ITEMS) if log.has_repeats else len(log.catalogue) - past.items
    until = int(log.timestamp[log.clicked].max())
    found = []
    for draw in range(draws):
        own_seed = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
        rows, timestamp = simulated_visits(
            past, fit.params, fit.traits[past.users], until=until, most=left, seed=own_seed
        )
        found.append(
            CalendarEvents(
                num_users=len(log.users),
                users=past.users,
                last_known=past.last,
                user=past.users[rows],
                timestamp=timestamp,
            )
        )
    return found


def simulated_visits(
    past: KnownPast,
    visits: VisitParams,
    traits: NDArray[np.float32],
    *,
    until: int,
    most: NDArray[np.int64],
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lets N users go on from a date.

    Whoever had an event in the hour before may still be in that visit. That nothing has come since then makes it less likely by
    the share of steps within visits that take so long; if the visit goes on, the next item comes at the log's pace, or at
    the date where that is later. All others are away, and come back (or not) given that they have not come back yet.

    Args:
        past: what is known at the date.
        visits: the visit process.
        traits: [N, len(Trait)] of the users.
        until: last second, since 1970.
        most: [N] items at most.
        seed: of the draws, which are keyed by user and step, so that they depend on nobody else.

    Returns:
        ([E] row of the user in `past`, [E] seconds since 1970) of every item, in order of user and time.
    """
    users, count, pace = past.users, len(past.users), past.pace
    clock = past.last.astype(np.float64)
    place = past.place.copy()  # items before the latest one in its visit
    in_first = past.in_first_visit.copy()
    visit = np.zeros(count, np.int64)
    rows = np.arange(count)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    step = 0
    while len(rows):
        leave = expit(visits.leave_logit(place[rows], in_first[rows]) + traits[rows, Trait.LEAVE])
        silent = np.zeros(len(rows), np.int64)
        if step == 0:
            silent = past.date - past.last
            stays = (1 - leave) * np.where(silent > VISIT_GAP_SECONDS, 0, past.longer_steps(silent))
            leave = leave / np.maximum(leave + stays, 1e-300)
        leaves = draw_uniform(seed, Purpose.LEAVE, users[rows], step) < leave
        goes_on, away = rows[~leaves], rows[leaves]
        clock[goes_on] = np.maximum(clock[goes_on] + pace, past.date)
        place[goes_on] += 1
        days = days_until_return(visits, traits[away], silent[leaves] / SECONDS_PER_DAY, users[away], visit[away], seed)
        clock[away] += np.maximum(days * SECONDS_PER_DAY, VISIT_GAP_SECONDS + 1)
        visit[away] += 1
        place[away] = 0
        in_first[away] = False
        step += 1
        rows = rows[(clock[rows] < until + 1) & (most[rows] >= step)]
        found.append((rows, clock[rows].astype(np.int64)))
    row, timestamp = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(row, kind="stable")
    return row[order], timestamp[order]


def days_until_return(
    visits: VisitParams,
    traits: NDArray[np.float32],
    away_days: NDArray[np.float64],
    users: NDArray[np.int64],
    visit: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """[M] days between two visits of users who have been away for `away_days` [M] (0: who have just left); inf for those lost.

    With S the survival of gaps, a user is lost with probability (1 - rho) / (1 - rho + rho S(away)); the gaps of the others are
    drawn from their mixture of normals in log days, each cut below at log(away), by the inverse of their distribution.

    Args:
        visits: the visit process.
        traits: [M, len(Trait)] of the users.
        away_days: [M] days that have passed without their coming back.
        users: [M] key of the draws.
        visit: [M] visits that they have ended; key of the draws too.
        seed: of the draws.
    """
    with np.errstate(divide="ignore"):
        log_away = np.log(away_days.astype(np.float64))
        log_share = np.log(np.array([1 - visits.wide_gap_share, visits.wide_gap_share]))
    mean = visits.gap_log_mean + np.array([0.0, visits.wide_gap_shift]) + traits[:, [Trait.GAP]]
    sd = np.array([visits.gap_log_sd, visits.wide_gap_log_sd])
    log_tail = log_ndtr((mean - log_away[:, None]) / sd)  # [M, 2] of either kind of gap
    weight = log_share + log_tail
    log_survival = logsumexp(weight, axis=1)
    back = expit(visits.return_intercept + traits[:, Trait.RETURN] + log_survival)
    comes_back = draw_uniform(seed, Purpose.RETURN, users, visit) < back
    wide = draw_uniform(seed, Purpose.GAP_KIND, users, visit) < np.exp(weight[:, 1] - log_survival)
    kind = np.stack([~wide, wide], axis=1)
    quantile = np.log(draw_uniform(seed, Purpose.GAP, users, visit).astype(np.float64)) + log_tail[kind]
    log_days = mean[kind] - np.broadcast_to(sd, kind.shape)[kind] * ndtri_exp(quantile)
    return np.where(comes_back, np.minimum(np.exp(log_days), _LONGEST_GAP_DAYS), np.inf)
