"""The batched engine: N users answer N slates and move on, as array operations.

`respond` draws what users do with their slates; `advance` moves their interests, clocks and visits. Both draw by counter
(`envs.randomness`), so a user's life under given slates depends on neither the batch nor the machine.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from envs import kernels
from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import over_rows
from envs.modifiers import ModifiedModel
from envs.randomness import Purpose, stream
from envs.users.protocol import UserModel, UserModelState, VisitParams, age_bends, age_effect, position_logits

REQUEST_SECONDS = kernels.REQUEST_SECONDS
"""Time between two requests of a visit."""


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
        # by a floor, which is four times as fast as a remainder; its quotient may be rounded up
        second = self.clock - np.floor(self.clock / SECONDS_PER_DAY) * SECONDS_PER_DAY
        return np.maximum(second / 3600, 0).astype(np.float32)

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
    """Draws which item of its slate each user consumes: a multinomial logit with an outside option.

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
    count = len(items)
    slot, item = np.empty(count, np.int64), np.empty(count, np.int32)
    utility, worth, rating_noise = np.empty((3, count), np.float32)
    over_rows(
        kernels.choose,
        count,
        np.ascontiguousarray(preference, np.float32),
        model.item_vectors,
        model.item_bias,
        age_bends(model.age_values),
        np.ascontiguousarray(items, np.int32),
        np.ascontiguousarray(age_days, np.float32),
        position_logits(items.shape[1], model.choice.position_slope),
        outside,
        stream(seed, Purpose.CHOICE),
        stream(seed, Purpose.RATING),
        state.user,
        state.request,
        slot,
        item,
        utility,
        worth,
        rating_noise,
    )
    rating = np.full(count, np.nan, np.float32)
    clickers = np.flatnonzero(slot >= 0)
    if len(clickers):
        noise = rating_noise[clickers]
        rating[clickers] = model.rate(state.interest, clickers, item[clickers], utility[clickers], noise)
    return Response(slot, item, utility, worth, rating)


def advance(
    model: UserModel, state: UserState, response: Response, baseline_satisfaction: float, seed: int
) -> Departure:
    """Moves interests, clocks and visits after a response; changes `state` in place.

    Whoever leaves the visit is moved to the begin of the next one: its clock stands there and its interests have decayed
    and wandered over the gap. Whoever churns stays where it is.
    """
    clickers = np.flatnonzero(response.item >= 0)
    if len(clickers):
        model.consume(state.interest, clickers, response.item[clickers])
    count = len(state)
    leaves, churned, days_away = np.empty(count, bool), np.empty(count, bool), np.empty(count, np.float32)
    over_rows(
        kernels.depart,
        count,
        _visit_numbers(model.visits, baseline_satisfaction),
        stream(seed, Purpose.LEAVE),
        stream(seed, Purpose.RETURN),
        stream(seed, Purpose.GAP),
        stream(seed, Purpose.GAP_KIND),
        state.user,
        response.item,
        response.inclusive_value,
        state.interest.traits,
        state.clock,
        state.visit,
        state.request,
        state.requests_in_visit,
        state.consumed_in_visit,
        state.misses,
        state.satisfaction,
        leaves,
        churned,
        days_away,
    )
    back = np.flatnonzero(leaves & ~churned)
    if len(back):
        walk = np.empty((len(back), model.walk_width), np.float32)
        ended_visit = state.visit[back] - 1
        over_rows(
            kernels.draw_walk, len(back), stream(seed, Purpose.INTEREST_WALK), state.user[back], ended_visit, walk
        )
        if isinstance(model, ModifiedModel):
            walk = model.wander(state.user[back], state.clock[back], days_away[back], walk)
        model.pause(state.interest, back, days_away[back], walk)
    return Departure(leaves, churned)


@lru_cache(maxsize=16)
def _visit_numbers(visits: VisitParams, baseline_satisfaction: float) -> kernels.VisitNumbers:
    fitted = [float(getattr(visits, name)) for name in kernels.VisitNumbers._fields[:-1]]
    return kernels.VisitNumbers._make([*fitted, float(baseline_satisfaction)])
