"""The batched engine: N users answer N slates and move on, as array operations.

`respond` draws what users do with their slates; `advance` moves their interests, clocks and visits. Both draw by counter
(`envs.randomness`), so a user's life under given slates depends on neither the batch nor the machine.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.randomness import Purpose, draw_gumbel, draw_normal, draw_uniform
from envs.users.protocol import Trait, UserModel, UserModelState, age_effect, position_logits

REQUEST_SECONDS = 60.0
"""Time between two requests of a visit (assumed: a log of consumption does not tell when slates were asked for)."""
OUTSIDE_KEY = -1
"""Stands for the outside option where an item is part of a draw's key."""


@dataclass
class UserState:
    """Everything about N simulated users; hidden from every policy."""

    user: NDArray[np.int64]
    """[N] simulated user: lap * U + log user; part of every draw's key."""
    log_user: NDArray[np.int64]
    """[N] the log user whose fitted parameters these are."""
    interest: UserModelState
    """The user model's own state."""
    clock: NDArray[np.float64]
    """[N] seconds since the run's start."""
    visit: NDArray[np.int64]
    """[N] visits before this one."""
    request: NDArray[np.int64]
    """[N] requests before this one in this life; part of every draw's key."""
    requests_in_visit: NDArray[np.int64]
    """[N] requests before this one in this visit."""
    consumed_in_visit: NDArray[np.int64]
    """[N] items consumed in this visit."""
    misses: NDArray[np.int64]
    """[N] requests without a click since the last click or the begin of the visit."""
    satisfaction: NDArray[np.float32]
    """[N] exponential average of the inclusive value of the slates, in nats."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.int64]) -> "UserState":
        """A copy of the users at `rows`."""
        return UserState(
            **{
                f.name: part.take(rows) if f.name == "interest" else part[rows]
                for f in fields(self)
                for part in [getattr(self, f.name)]
            }
        )

    def put(self, rows: NDArray[np.int64], values: "UserState") -> None:
        """Overwrites the users at `rows`."""
        for f in fields(self):
            if f.name == "interest":
                self.interest.put(rows, values.interest)
            else:
                getattr(self, f.name)[rows] = getattr(values, f.name)

    @property
    def hour(self) -> NDArray[np.float32]:
        """[N] hour of the day, 0 to 24."""
        return ((self.clock % SECONDS_PER_DAY) / 3600).astype(np.float32)

    @property
    def day(self) -> NDArray[np.int64]:
        """[N] day of the run, from 0."""
        return (self.clock // SECONDS_PER_DAY).astype(np.int64)


@dataclass(frozen=True)
class Response:
    """What N users did with their slates."""

    slot: NDArray[np.int64]
    """[N] slot clicked, -1 for none."""
    item: NDArray[np.int32]
    """[N] item clicked and consumed, -1 for none."""
    utility: NDArray[np.float32]
    """[N] utility of the item clicked, 0 where there is none."""
    inclusive_value: NDArray[np.float32]
    """[N] log(1 + sum over slots of exp(utility + position - outside)): what the slate was worth to the user."""
    rating: NDArray[np.float32]
    """[N] rating of the item clicked, NaN where there is none."""


@dataclass(frozen=True)
class Departure:
    """How N users moved on."""

    leaves: NDArray[np.bool_]
    """[N] whether the visit ended."""
    churned: NDArray[np.bool_]
    """[N] whether the user left and will never come back."""


def utilities(
    model: UserModel,
    preference: NDArray[np.float32],
    items: NDArray[np.int32],
    age_days: NDArray[np.float32],
) -> NDArray[np.float32]:
    """[N, K] utility in logits of `items` [N, K] of ages `age_days` [N, K] under `preference` [N, D]; -inf for items of -1."""
    shown = np.maximum(items, 0)
    scored = np.matmul(model.item_vectors[shown], preference[:, :, None])[:, :, 0]
    scored += model.item_bias[shown]
    scored += age_effect(model.age_values, age_days)
    scored[items < 0] = -np.inf
    return scored


def respond(
    model: UserModel,
    state: UserState,
    preference: NDArray[np.float32],
    items: NDArray[np.int32],
    age_days: NDArray[np.float32],
    outside: float,
    seed: int,
) -> Response:
    """Draws which item of its slate each user consumes: a multinomial logit in Gumbel-max form, with an outside option.

    Args:
        model: the user model.
        state: of N users.
        preference: [N, D], the model's preference of each user in the present context.
        items: [N, K] items shown, the top slot first; -1 marks an empty slot.
        age_days: [N, K] ages of the items.
        outside: logit of consuming nothing.
        seed: of the run.

    The taste noise is keyed by (seed, user, request, item), so it does not depend on the slot or on what else is shown.
    Source: Train (2009), Discrete Choice Methods with Simulation, eq. 3.6 and 3.9.
    """
    scored = utilities(model, preference, items, age_days)
    placed = scored + position_logits(items.shape[1])
    rows = np.arange(len(items))
    noise = draw_gumbel(seed, Purpose.CHOICE, state.user[:, None], state.request[:, None], items)
    outside_noise = draw_gumbel(seed, Purpose.CHOICE, state.user, state.request, OUTSIDE_KEY)
    noisy = placed + noise
    slot = np.argmax(noisy, axis=1)
    slot = np.where(noisy[rows, slot] > outside + outside_noise, slot, -1)
    clicks = slot >= 0
    item = np.where(clicks, items[rows, slot], -1).astype(np.int32)
    utility = np.where(clicks, scored[rows, slot], 0).astype(np.float32)
    rating = np.full(len(items), np.nan, np.float32)
    clickers = np.flatnonzero(clicks)
    if len(clickers):
        star_noise = draw_normal(seed, Purpose.RATING, state.user[clickers], state.request[clickers], item[clickers])
        rating[clickers] = model.rate(state.interest, clickers, item[clickers], utility[clickers], star_noise)
    worth = np.log1p(np.exp(placed - np.float32(outside)).sum(axis=1))
    return Response(slot, item, utility, worth.astype(np.float32), rating)


def advance(
    model: UserModel, state: UserState, response: Response, baseline_satisfaction: float, seed: int
) -> Departure:
    """Moves interests, clocks and visits after a response; changes `state` in place.

    Whoever leaves the visit is moved to the begin of the next one: its clock stands there and its interests have decayed
    and wandered over the gap. Whoever churns stays where it is.
    """
    visits = model.visits
    clickers = np.flatnonzero(response.item >= 0)
    if len(clickers):
        model.consume(state.interest, clickers, response.item[clickers])
    clicked = response.item >= 0
    state.misses = np.where(clicked, 0, state.misses + 1)
    keep = np.float32(visits.satisfaction_decay)
    state.satisfaction = keep * state.satisfaction + (1 - keep) * response.inclusive_value
    surplus = state.satisfaction - np.float32(baseline_satisfaction)

    logit = np.where(
        clicked,
        visits.leave_intercept + visits.leave_log_place * np.log1p(state.consumed_in_visit),
        visits.leave_miss + visits.impatience * (state.misses - 1),
    )
    logit = logit + visits.leave_satisfaction * surplus + state.interest.traits[:, Trait.LEAVE]
    leaves = draw_uniform(seed, Purpose.LEAVE, state.user, state.request) < _sigmoid(logit)
    state.consumed_in_visit = state.consumed_in_visit + clicked
    churned = np.zeros(len(state), bool)
    leavers = np.flatnonzero(leaves)
    if len(leavers):
        who, which, gain = state.user[leavers], state.visit[leavers], surplus[leavers]
        stays_away = draw_uniform(seed, Purpose.RETURN, who, which) >= _sigmoid(
            visits.return_intercept + visits.return_satisfaction * gain + state.interest.traits[leavers, Trait.RETURN]
        )
        churned[leavers] = stays_away
        back, who, which, gain = leavers[~stays_away], who[~stays_away], which[~stays_away], gain[~stays_away]
        days = np.exp(
            visits.log_gap(draw_uniform(seed, Purpose.GAP_KIND, who, which), draw_normal(seed, Purpose.GAP, who, which))
            + visits.gap_satisfaction * gain
            + state.interest.traits[back, Trait.GAP]
        ).astype(np.float32)
        walk = draw_normal(
            seed, Purpose.INTEREST_WALK, who[:, None], which[:, None], np.arange(model.walk_width)[None, :]
        )
        model.pause(state.interest, back, days, walk)
        state.clock[back] += days.astype(np.float64) * SECONDS_PER_DAY
        state.visit[back] += 1
        for counter in (state.requests_in_visit, state.consumed_in_visit, state.misses):
            counter[back] = 0
    staying = ~leaves
    state.clock[staying] += REQUEST_SECONDS
    state.requests_in_visit[staying] += 1
    state.request = state.request + 1
    return Departure(leaves, churned)


def _sigmoid(logit: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 / (1 + np.exp(-logit))
