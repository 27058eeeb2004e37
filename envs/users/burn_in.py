"""Burn-in: the history that a drawn user brings, consumed from the whole catalogue as the user model says.

Visits and gaps come first, since they hang on the user's traits and not on the items: a leave hazard after each item, given
that the user came back until the history was as long as it is; gaps as fitted; the log's own pace inside visits. The last
item of a history is consumed at the second of day 0 at which the user's run begins, as it is with the log's users. Users age
as they go: each visit has the traits of a user who has had those before it, and the run begins with the traits after all of
them, as a logged user's are those after the log's visits. Then item
by item: a multinomial logit over all items that are open on that day and, where the log has no repeats, that the user has
not had.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from threadpoolctl import ThreadpoolController

from envs import kernels
from envs.catalogue import SECONDS_PER_DAY
from envs.catalogue_calendar import ItemCalendar
from envs.compiled import over_parts
from envs.kernels import SHELF_ITEMS
from envs.logs.schema import VISIT_GAP_SECONDS
from envs.randomness import Purpose, draw_normal, draw_uniform
from envs.users.population import DrawnUsers, Population, aged
from envs.users.protocol import Trait, UserModel, UserModelState, age_effect

BLOCK_ROWS = 192
"""Users who consume side by side, of like length."""
TILE_ROWS = 32
"""Users whose utilities are one matrix product: always as many, padded, because its bits may change with its shape. Divides
`BLOCK_ROWS`."""
_LEAVE, _SPACING, _GAP_KIND, _GAP, _CHOICE, _RATING = range(6)


@dataclass(frozen=True, kw_only=True)
class Past:
    """The world before the run, as far as histories depend on it."""

    calendar: ItemCalendar
    """Of I items."""
    available: NDArray[np.bool_]
    """[I] whether an item may be in a history at all; those that the run withholds may not."""
    first_weekday: int
    """Weekday of day 0, Monday 0."""
    earliest: float
    """Clock of the log's first row, negative; no history goes back further."""
    repeats: bool
    """Whether a user may consume an item more than once."""
    longest: int | None = None
    """Items of a history at most, the last ones of what the user would have; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class BurnIn:
    """Histories of N drawn users, and where these lead."""

    users: DrawnUsers
    """As their histories have left them."""
    state: UserModelState
    """Of the user model, after the history; hidden."""
    items: NDArray[np.int32]
    """[N, L] in order of time; -1 beyond a user's length, and where nothing was left to consume."""
    clock: NDArray[np.float64]
    """[N, L] whole seconds since the run's start, up to the user's start second on day 0."""
    rating: NDArray[np.float32]
    """[N, L] as the user model rates, NaN where it does not."""

    def take(self, rows: NDArray[np.int64]) -> "BurnIn":
        """A copy of the users at `rows`."""
        return BurnIn(
            users=self.users.take(rows),
            state=self.state.take(rows),
            items=self.items[rows],
            clock=self.clock[rows],
            rating=self.rating[rows],
        )

    def last(self, size: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """(items [N, size], clocks [N, size]) last consumed, newest first; -1 and 0 where there are fewer."""
        order = np.argsort(self.items[:, ::-1] < 0, axis=1, kind="stable")[:, :size]
        items = np.full((len(self.items), size), -1, np.int32)
        clock = np.zeros((len(self.items), size))
        items[:, : order.shape[1]] = np.take_along_axis(self.items[:, ::-1], order, axis=1)
        clock[:, : order.shape[1]] = np.take_along_axis(self.clock[:, ::-1], order, axis=1)
        return items, np.where(items >= 0, clock, 0)


def burn_in(model: UserModel, population: Population, numbers: NDArray[np.int64], seed: int, past: Past) -> BurnIn:
    """Draws users `numbers` [N] and lets them consume their histories; a user is the same to the bit in whatever batch.

    Costs about a catalogue's utilities for each item of a history; memory for N * (longest history), and for
    `BLOCK_ROWS` * (items of the catalogue).
    """
    users = population.draw(numbers, seed)
    lengths = users.length if past.longest is None else np.minimum(users.length, past.longest)
    longest = int(lengths.max(initial=0))
    clock, begins = _timeline(model, population, users, lengths, seed, past)
    visits = 1 + (begins & (np.arange(longest) < lengths[:, None])).sum(axis=1)
    users = replace(users, parameters=aged(users.parameters, visits, model.visits))
    items = np.full((len(users), longest), -1, np.int32)
    rating = np.full((len(users), longest), np.nan, np.float32)
    state = model.start(users.parameters)
    day = np.floor(clock / SECONDS_PER_DAY).astype(np.int64)
    offer = _Offer(model, past, day[np.arange(longest) < lengths[:, None]])
    order = np.argsort(lengths, kind="stable")

    def consume(rows: NDArray[np.int64]) -> None:
        part = state.take(rows)
        items[rows], rating[rows] = _consume(
            model, offer, part, users.number[rows], lengths[rows], clock[rows], begins[rows], seed, past
        )
        state.put(rows, part)

    # the longest histories first, so that no thread is left with one of them
    blocks = [order[start : start + BLOCK_ROWS] for start in range(0, len(order), BLOCK_ROWS)][::-1]
    with _CONTROLLER.limit(limits=1):
        over_parts(consume, blocks)
    return BurnIn(users=users, state=state, items=items, clock=clock, rating=rating)


_CONTROLLER = ThreadpoolController()


def _timeline(
    model: UserModel, population: Population, users: DrawnUsers, lengths: NDArray[np.int64], seed: int, past: Past
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(clock [N, L] of each item, whether a visit begins with it [N, L])."""
    visits, traits = model.visits, users.parameters[:, -len(Trait) :]
    longest = int(lengths.max(initial=0))
    seconds = np.zeros((len(users), longest))
    in_visit = np.zeros(len(users), np.int64)
    visits_had = np.zeros(len(users), np.int64)
    number = users.number
    quantiles = np.linspace(0, 1, len(population.spacings))
    for place in range(1, longest):
        leave_trait = traits[:, Trait.LEAVE] + visits.ageing(visits_had)[:, Trait.LEAVE]
        logit = visits.leave_logit(in_visit, visits_had == 0) + leave_trait
        # that the history goes on says that whoever left came back
        leave, comes_back = expit(logit), expit(visits.return_intercept + traits[:, Trait.RETURN])
        chance = leave * comes_back / (1 - leave * (1 - comes_back))
        leaves = draw_uniform(seed, Purpose.BURN_IN, number, place, _LEAVE) < chance
        log_days = visits.log_gap(
            draw_uniform(seed, Purpose.BURN_IN, number, place, _GAP_KIND),
            draw_normal(seed, Purpose.BURN_IN, number, place, _GAP),
        )
        gap_trait = traits[:, Trait.GAP] + visits.ageing(visits_had + 1)[:, Trait.GAP]
        gap = np.exp(log_days + gap_trait) * SECONDS_PER_DAY
        pace = np.interp(draw_uniform(seed, Purpose.BURN_IN, number, place, _SPACING), quantiles, population.spacings)
        seconds[:, place] = np.where(leaves, np.maximum(gap, VISIT_GAP_SECONDS + 1), pace)
        in_visit = np.where(leaves, 0, in_visit + 1)
        visits_had += leaves
    elapsed = np.floor(np.cumsum(seconds, axis=1))
    end = np.take_along_axis(elapsed, np.maximum(lengths - 1, 0)[:, None], axis=1) if longest else elapsed
    clock = np.maximum(elapsed - end + users.start_second[:, None], past.earliest)
    begins = np.diff(clock, axis=1, prepend=clock[:, :1]) > VISIT_GAP_SECONDS
    return clock, begins


class _Offer:
    """What is the same for everybody: item vectors, and for each of some days the logits of items, bias and age effect, -inf for
    what is not open at its midnight. Items that are never available are left out behind the last one that is; both are filled
    up to whole shelves by items that are never open."""

    def __init__(self, model: UserModel, past: Past, days: NDArray[np.int64]) -> None:
        count = int(np.flatnonzero(past.available).max(initial=0)) + 1
        missing = -count % SHELF_ITEMS
        self.days = np.unique(days)
        """[T] in order."""
        self.vectors = np.ascontiguousarray(np.pad(model.item_vectors[:count].T, ((0, 0), (0, missing))))
        """[D, I'] item vectors."""
        self.logits = np.full((len(self.days), self.vectors.shape[1]), -np.inf, np.float32)
        """[T, I']."""
        for row, clock in zip(self.logits, (self.days * SECONDS_PER_DAY).tolist(), strict=True):
            age = np.maximum(clock - past.calendar.birth_clock[:count], 0) / SECONDS_PER_DAY
            logits = model.item_bias[:count] + age_effect(model.age_values, age.astype(np.float32))
            is_open = past.calendar.is_open(clock)[:count] & past.available[:count]
            row[:count] = np.where(is_open, logits, -np.inf)


def _consume(
    model: UserModel,
    offer: _Offer,
    state: Any,
    number: NDArray[np.int64],
    lengths: NDArray[np.int64],
    clock: NDArray[np.float64],
    begins: NDArray[np.bool_],
    seed: int,
    past: Past,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(items [N, L], ratings [N, L]) of at most `BLOCK_ROWS` users in order of length, whose `state` is moved along in place."""
    items = np.full(clock.shape, -1, np.int32)
    rating = np.full(clock.shape, np.nan, np.float32)
    in_visit = np.zeros(len(number), np.int64)
    preference = np.zeros((BLOCK_ROWS, len(offer.vectors)), np.float32)
    taste = np.empty((BLOCK_ROWS, offer.vectors.shape[1]), np.float32)
    chosen, utility = np.empty(BLOCK_ROWS, np.int32), np.empty(BLOCK_ROWS, np.float32)
    day = np.floor(clock / SECONDS_PER_DAY).astype(np.int64)
    hour = ((clock % SECONDS_PER_DAY) / 3600).astype(np.float32)
    for place in range(int(lengths.max(initial=0))):
        starting = np.flatnonzero(begins[:, place] & (lengths > place))
        if len(starting):
            gap = (clock[starting, place] - clock[starting, place - 1]) / SECONDS_PER_DAY
            model.pause(state, starting, gap.astype(np.float32), None)
            in_visit[starting] = 0
        weekday = (past.first_weekday + day[:, place]) % 7
        preference[: len(number)] = model.preference(state, hour[:, place], weekday, in_visit)
        first = int(np.searchsorted(lengths, place, side="right"))
        for tile in range(first - first % TILE_ROWS, len(number), TILE_ROWS):
            rows = slice(tile, tile + TILE_ROWS)
            np.matmul(preference[rows], offer.vectors, out=taste[rows])
        kernels.pick(
            0,
            len(number) - first,
            taste[first:],
            offer.logits,
            np.searchsorted(offer.days, day[first:, place]),
            items[first:],
            0 if past.repeats else place,
            draw_uniform(seed, Purpose.BURN_IN, number[first:], place, _CHOICE),
            chosen,
            utility,
        )
        known = np.flatnonzero(chosen[: len(number) - first] >= 0)
        if not len(known):
            continue
        who, consumed = first + known, chosen[known]
        noise = draw_normal(seed, Purpose.BURN_IN, number[who], place, _RATING)
        rating[who, place] = model.rate(state, who, consumed, utility[known], noise)
        items[who, place] = consumed
        model.consume(state, who, consumed)
        in_visit[who] += 1
    return items, rating
