"""Generated logs: users with known parameters act, and what they do is written down as a log.

The users respond and move by the simulator's own engine, so a fit of the log can be compared with the truth, parameter by
parameter. They are served by a plain policy that shows random items, popular ones more often.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, logsumexp

from envs.catalogue import SECONDS_PER_DAY, Catalogue
from envs.engine import Response, UserState, advance, respond, utilities
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog, Users
from envs.randomness import Purpose, draw_bits, draw_normal, draw_uniform
from envs.users.interest import NUM_CONTEXTS, InterestModel, InterestParams
from envs.users.protocol import AGE_KNOTS, Trait, UserModel, VisitParams, position_logits

START = 1_577_836_800
"""First second of generated logs: 1 January 2020, a Wednesday."""
DAYS_PER_YEAR = 365
DRAWS_PER_SLOT = 2
"""Items drawn for each slot of a slate; those that are drawn twice, consumed or unborn fall out."""
SPARE_DRAWS = 4
"""Items drawn on top of that for each slate, so that short slates are filled too."""
REQUESTS_AT_ONCE = 16
"""Requests for which items are drawn together, for speed."""
MOST_CHURN = 0.03
"""Chance that a user never comes back after a visit, unless that leaves too few visits."""
ARRIVALS = 0.25
"""Users arrive in this first share of the log, evenly."""
MEAN_LIFE = 1 - ARRIVALS / 2
"""Mean share of the log between arrival and end."""
BLOCK_USERS = 2_048
"""Users simulated side by side; bounds memory and changes nothing else."""
RATING_GRID = np.arange(1, 6, dtype=np.float32)


class _Stream(IntEnum):
    """First key of the draws that make parameters, so that they are independent of each other."""

    LIFE = 0
    CATEGORY = 1
    FIRST_CATEGORY = 2
    SECOND_CATEGORY = 3
    HAS_SECOND = 4
    EMBEDDING = 5
    POPULARITY = 6
    BIRTH = 7
    BORN_DURING = 8
    CONTEXT = 9
    TASTE = 10
    MIXTURE = 11
    USER = 12
    FEATURE = 13
    RATING_USER = 14
    RATING_ITEM = 15
    ARRIVAL = 16
    HEAVY = 17


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What kind of log to generate."""

    num_users: int = 200
    """U: users."""
    events_per_user: float = 60.0
    """Items that a user consumes, on average (roughly); sets the gaps between visits."""
    num_items: int = 500
    """I: items."""
    num_categories: int = 12
    """G: categories; an item has one or two."""
    embedding_size: int = 16
    """d: width of embeddings."""
    slate_size: int = 10
    """K: items shown in a request."""
    with_exposures: bool = True
    """Whether the log also has the rows that were shown and passed over, with request and position."""
    days: int = 90
    """Length of the log in days; users arrive in its first quarter."""
    past_years: float = 5.0
    """Old items were born in so many years before the log."""
    born_during: float = 0.2
    """Share of the items that are born during the log."""
    click_rate: float = 0.6
    """Mean click rate of the users' first slates; sets the outside option."""
    popularity_exponent: float = 0.7
    """Popularity bias is -exponent * log(rank) (Zipf's law), for a rank that has nothing to do with an item's birth."""
    exposure_exponent: float = 0.5
    """Items are shown in proportion to exp(exposure_exponent * popularity bias)."""
    num_tastes: int = 6
    """Tastes that users are mixtures of."""
    walk_sd: float = 0.02
    """Standard deviation of each coordinate of the long-term interest per square root of a day between visits."""
    taste_strength: float = 3.0
    """Norm of a taste: logits of utility per unit of embedding along it."""
    satiation_gain: float = 0.3
    """Logits of utility lost per unit of satiation."""
    satiation_decay: float = 0.8
    """Share of satiation kept per item consumed."""
    satiation_half_life_days: float = 1.0
    """Days between visits in which half of it is forgotten."""
    heavy_share: float = 0.0
    """Share of the items that are *heavy*: they belong to all categories and tire users of everything at once."""
    heavy_load: float = 4.0
    """Satiation that a heavy item leaves, all categories together, where another leaves 1."""
    heavy_appeal: float = 2.0
    """Logits by which heavy items are more popular than they would be otherwise."""

    def __post_init__(self) -> None:
        lowest = {"num_categories": 2, "embedding_size": 2, "num_users": 1, "num_items": 1, "slate_size": 1, "days": 1}
        for name, low in {**lowest, "num_tastes": 1}.items():
            if getattr(self, name) < low:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        if not 0 < self.click_rate < 1:
            raise ConfigurationError(f"click_rate is {self.click_rate}; it must lie in (0, 1).")
        if not 0 <= self.born_during < 1:
            raise ConfigurationError(f"born_during is {self.born_during}; it must lie in [0, 1).")
        if self.events_per_user < 1:
            raise ConfigurationError(f"events_per_user is {self.events_per_user}; it must be at least 1.")
        if not 0 <= self.heavy_share < 1:
            raise ConfigurationError(f"heavy_share is {self.heavy_share}; it must lie in [0, 1).")
        if self.heavy_load <= 0:
            raise ConfigurationError(f"heavy_load is {self.heavy_load}; it must be positive.")
        if self.past_years <= 0:
            raise ConfigurationError(f"past_years is {self.past_years}; it must be positive.")


def generate_log(config: SyntheticConfig, seed: int) -> tuple[InteractionLog, InterestModel]:
    """Draws parameters and lets users with them act; the same configuration and seed give the same log to the bit.

    Returns:
        The log, and the model that made it: same users and items, every row of its table with source 'known'. The model's
        `fit_report` holds the outside option and the baseline of satisfaction at which the users acted.
    """
    users, catalogue, model = _draw_truth(config, seed)
    baseline = float(-np.log1p(-config.click_rate))
    # a life's draws have a seed of their own, so that a run with the same seed does not meet the log's noise again
    shelf = _Shelf.stocked(config, model, catalogue, int(draw_bits(seed, Purpose.GENERATOR, int(_Stream.LIFE))[0]))
    arrival = _uniform(seed, _Stream.ARRIVAL, config.num_users) * (ARRIVALS * config.days * SECONDS_PER_DAY)
    state = _newcomers(model, np.arange(config.num_users), arrival.astype(np.float64), baseline)
    outside = _calibrate_outside(model, state, shelf, config.click_rate)
    requests: list[_Requests] = []
    for first in range(0, config.num_users, BLOCK_USERS):
        block = np.arange(first, min(first + BLOCK_USERS, config.num_users))
        requests.extend(_live(model, state.take(block), shelf, outside, baseline))
    model.table.extend(_known_table(model, outside))
    model.fit_report.update(outside=outside, baseline_satisfaction=baseline, seed=seed)
    return _written_down(config, users, catalogue, requests), model


@dataclass(frozen=True)
class _Requests:
    """Requests of N users, one each."""

    user: NDArray[np.int64]
    """[N] index of the user."""
    number: NDArray[np.int64]
    """[N] requests of this user before."""
    timestamp: NDArray[np.int64]
    """[N] seconds since 1970."""
    slates: NDArray[np.int32]
    """[N, K] items shown, -1 for an empty slot."""
    response: Response


@dataclass(frozen=True)
class _Shelf:
    """The plain policy: draws slates of born, unconsumed items, popular ones more often."""

    cumulative: NDArray[np.float64]
    """[I] cumulative chance of being drawn."""
    birth_clock: NDArray[np.float64]
    """[I] seconds from the log's start to each birth."""
    slate_size: int
    last_second: float
    seed: int

    @classmethod
    def stocked(cls, config: SyntheticConfig, model: InterestModel, catalogue: Catalogue, seed: int) -> "_Shelf":
        cumulative = np.cumsum(np.exp(config.exposure_exponent * model.item_bias.astype(np.float64)))
        return cls(
            cumulative=cumulative / cumulative[-1],
            birth_clock=(catalogue.birth - START).astype(np.float64),
            slate_size=config.slate_size,
            last_second=float(config.days * SECONDS_PER_DAY),
            seed=seed,
        )

    def draw(self, users: NDArray[np.int64], first_request: int) -> NDArray[np.int64]:
        """[N, R, M] items drawn for the next R requests of `users` [N]; -1 for an item that was drawn before."""
        request = first_request + np.arange(REQUESTS_AT_ONCE)
        draws = np.arange(DRAWS_PER_SLOT * self.slate_size + SPARE_DRAWS)
        chance = draw_uniform(self.seed, Purpose.CANDIDATES, users[:, None, None], request[:, None], draws)
        items = np.searchsorted(self.cumulative, chance)
        again = (items[..., :, None] == items[..., None, :]) & np.tri(len(draws), k=-1, dtype=bool)
        items[again.any(axis=-1)] = -1
        return items

    def slates(
        self, drawn: NDArray[np.int64], consumed: NDArray[np.bool_], clock: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """[N, K] the first items of `drawn` [N, M] that are born and not in `consumed` [N, I]; -1 where they are too few."""
        shown = (drawn >= 0) & ~np.take_along_axis(consumed, drawn, axis=1)
        shown &= self.birth_clock[drawn] <= clock[:, None]
        first = np.argsort(~shown, axis=1, kind="stable")[:, : self.slate_size]
        rows = np.arange(len(drawn))[:, None]
        return np.where(shown[rows, first], drawn[rows, first], -1).astype(np.int32)

    def ages(self, slates: NDArray[np.int32], clock: NDArray[np.float64]) -> NDArray[np.float32]:
        """[N, K] ages in days of the items shown."""
        return ((clock[:, None] - self.birth_clock[slates]) / SECONDS_PER_DAY).astype(np.float32)


def _draw_truth(config: SyntheticConfig, seed: int) -> tuple[Users, Catalogue, InterestModel]:
    """Draws everything that is fixed before anybody acts."""
    num_users, num_items, width = config.num_users, config.num_items, config.embedding_size
    categories = _draw_categories(config, seed)
    heavy = _uniform(seed, _Stream.HEAVY, num_items) < config.heavy_share
    categories[heavy] = 1 / config.num_categories
    centres = _unit(_normal(seed, _Stream.CATEGORY, config.num_categories, width))
    # an embedding lies near its categories' centre: 0.8 of its length towards it, 0.6 in a direction of its own
    embedding = 0.8 * _unit(categories @ centres) + 0.6 / np.sqrt(width) * _normal(
        seed, _Stream.EMBEDDING, num_items, width
    )
    embedding /= np.linalg.norm(embedding, axis=1).mean()
    rank = np.argsort(np.argsort(_uniform(seed, _Stream.POPULARITY, num_items))) + 1
    bias = -config.popularity_exponent * np.log(rank) + config.heavy_appeal * heavy
    tastes = config.taste_strength * _unit(
        _normal(seed, _Stream.TASTE, config.num_tastes, config.num_categories) @ centres
    )
    # the fourth power of a normal draw makes most users lean to one or two tastes
    mixture = _normal(seed, _Stream.MIXTURE, num_users, config.num_tastes) ** 4
    mixture /= mixture.sum(axis=1, keepdims=True)
    own = 0.5 / np.sqrt(width) * _normal(seed, _Stream.USER, num_users, width)
    traits = np.zeros((num_users, len(Trait)), np.float32)
    traits[:, Trait.RATING] = 3.2 + 0.3 * _normal(seed, _Stream.RATING_USER, num_users)
    model = InterestModel(
        params=InterestParams(
            short_decay=0.7,
            short_weight=1.5,
            long_rate=0.02,
            satiation_decay=config.satiation_decay,
            satiation_gain=config.satiation_gain,
            short_half_life_days=1.0,
            satiation_half_life_days=config.satiation_half_life_days,
            walk_sd=config.walk_sd,
            rating_slope=0.2,
            rating_sd=0.8,
        ),
        visits=_visits(config),
        item_embedding=embedding.astype(np.float32),
        categories=np.where(heavy[:, None], np.float32(config.heavy_load) * categories, categories),
        item_bias=(bias - bias.mean()).astype(np.float32),
        user_embedding=(mixture @ tastes + own).astype(np.float32),
        context_weights=np.float32(0.2) * _normal(seed, _Stream.CONTEXT, NUM_CONTEXTS, config.num_categories),
        age_values=np.linspace(0.8, -0.4, len(AGE_KNOTS)).astype(np.float32),
        user_traits=traits,
        rating_item=(0.3 * _normal(seed, _Stream.RATING_ITEM, num_items)).astype(np.float32),
        rating_grid=RATING_GRID,
    )
    features = mixture[:, 1:] + 0.1 * _normal(seed, _Stream.FEATURE, num_users, config.num_tastes - 1)
    users = Users(
        user_ids=np.char.add("user", np.arange(num_users).astype(np.str_)),
        feature_names=tuple(f"trait_{number}" for number in range(1, config.num_tastes)),
        features=features.astype(np.float32),
    )
    catalogue = Catalogue(
        item_ids=np.char.add("item", np.arange(num_items).astype(np.str_)),
        titles=np.char.add("Item ", np.arange(num_items).astype(np.str_)),
        category_names=tuple(f"category {number}" for number in range(config.num_categories)),
        categories=categories,
        birth=_draw_births(config, seed),
    )
    return users, catalogue, model


def _draw_categories(config: SyntheticConfig, seed: int) -> NDArray[np.float32]:
    """[I, G] one category, or two of half membership, for each item."""
    items = np.arange(config.num_items)
    first = (_uniform(seed, _Stream.FIRST_CATEGORY, config.num_items) * config.num_categories).astype(np.int64)
    step = 1 + (_uniform(seed, _Stream.SECOND_CATEGORY, config.num_items) * (config.num_categories - 1)).astype(
        np.int64
    )
    has_second = _uniform(seed, _Stream.HAS_SECOND, config.num_items) < 0.4
    categories = np.zeros((config.num_items, config.num_categories), np.float32)
    categories[items, first] = np.where(has_second, 0.5, 1)
    categories[items, (first + step) % config.num_categories] += np.where(has_second, 0.5, 0).astype(np.float32)
    return categories


def _draw_births(config: SyntheticConfig, seed: int) -> NDArray[np.int64]:
    """[I] seconds since 1970: during the log, or over the years before it."""
    when = _uniform(seed, _Stream.BIRTH, config.num_items).astype(np.float64)
    during = _uniform(seed, _Stream.BORN_DURING, config.num_items) < config.born_during
    days = np.where(during, when * config.days, -when * config.past_years * DAYS_PER_YEAR)
    return START + np.floor(days * SECONDS_PER_DAY).astype(np.int64)


def _visits(config: SyntheticConfig) -> VisitParams:
    """Visits of some six items, at such gaps that users consume `events_per_user` items between arrival and churn or end."""
    visits = VisitParams(leave_intercept=-1.8, leave_log_place=-0.2, gap_log_sd=0.8)
    leave = expit(visits.leave_intercept + visits.leave_log_place * np.log1p(np.arange(1_000)))
    # chance that another click comes before the user leaves out of boredom
    clicks_again = config.click_rate / (config.click_rate + (1 - config.click_rate) * expit(visits.leave_miss))
    events_per_visit = np.sum(clicks_again * np.cumprod(np.append(1, (1 - leave[:-1]) * clicks_again)))
    wanted = max(float(config.events_per_user / events_per_visit), 1.01)
    # of `room` visits that a life has room for, churn after each leaves (1 - (1 - churn)^room) / churn on average
    churn = min(MOST_CHURN, 0.5 / wanted)
    room = np.log1p(-wanted * churn) / np.log1p(-churn)
    gap_days = MEAN_LIFE * config.days / room
    return replace(
        visits,
        return_intercept=float(logit(1 - churn)),
        gap_log_mean=float(np.log(gap_days) - visits.gap_log_sd**2 / 2),
    )


def _newcomers(
    model: InterestModel, users: NDArray[np.int64], arrival: NDArray[np.float64], baseline: float
) -> UserState:
    counters = {
        name: np.zeros(len(users), np.int64)
        for name in ("visit", "request", "requests_in_visit", "consumed_in_visit", "misses")
    }
    return UserState(
        user=users,
        log_user=users,
        interest=model.start(model.user_parameters[users]),
        clock=arrival,
        satisfaction=np.full(len(users), baseline, np.float32),
        **counters,
    )


def _preference(model: UserModel, state: UserState) -> NDArray[np.float32]:
    weekday = (START // SECONDS_PER_DAY + 3 + state.day) % 7
    return model.preference(state.interest, state.hour, weekday, state.consumed_in_visit)


def _calibrate_outside(model: InterestModel, state: UserState, shelf: _Shelf, click_rate: float) -> float:
    """Logit of the outside option at which the users' first slates have the wanted click rate on average."""
    consumed = np.zeros((len(state), len(model.item_bias)), bool)
    slates = shelf.slates(shelf.draw(state.user, 0)[:, 0], consumed, state.clock)
    placed = utilities(model, _preference(model, state), slates, shelf.ages(slates, state.clock))
    worth = logsumexp((placed + position_logits(shelf.slate_size)).astype(np.float64), axis=1)
    worth = worth[np.isfinite(worth)]
    if not len(worth):
        raise ConfigurationError("no item is born when the first users arrive; lower born_during or raise num_items.")
    low, high = worth.min() - 30, worth.max() + 30
    return float(brentq(lambda outside: expit(worth - outside).mean() - click_rate, low, high))


def _live(
    model: InterestModel, state: UserState, shelf: _Shelf, outside: float, baseline: float
) -> Iterator[_Requests]:
    """Lets users act until each has churned or the log ends; all begin with request 0."""
    first_user = state.user[0]
    consumed = np.zeros((len(state), len(model.item_bias)), bool)
    place = np.zeros(len(state), np.int64)  # of each user of the block in `drawn`
    request = 0
    while len(state):
        if request % REQUESTS_AT_ONCE == 0:
            drawn = shelf.draw(state.user, request)
            place[state.user - first_user] = np.arange(len(state))
        row = state.user - first_user
        slates = shelf.slates(drawn[place[row], request % REQUESTS_AT_ONCE], consumed[row], state.clock)
        ages = shelf.ages(slates, state.clock)
        response = respond(model, state, _preference(model, state), slates, ages, outside, shelf.seed)
        yield _Requests(state.user, state.request.copy(), START + state.clock.astype(np.int64), slates, response)
        clicks = response.item >= 0
        consumed[state.user[clicks] - first_user, response.item[clicks]] = True
        departure = advance(model, state, response, baseline, shelf.seed)
        goes_on = ~departure.churned & (state.clock < shelf.last_second)
        if not goes_on.all():
            state = state.take(np.flatnonzero(goes_on))
        request += 1


def _written_down(
    config: SyntheticConfig, users: Users, catalogue: Catalogue, requests: list[_Requests]
) -> InteractionLog:
    """The requests as a log: all rows that were shown, or those that were clicked."""
    user = np.concatenate([part.user for part in requests])
    slates = np.concatenate([part.slates for part in requests])
    slot = np.concatenate([part.response.slot for part in requests])
    clicked = slot[:, None] == np.arange(slates.shape[1])
    kept = slates >= 0 if config.with_exposures else clicked
    row, position = np.nonzero(kept)
    rating = np.concatenate([part.response.rating for part in requests])
    before = np.cumsum(np.bincount(user, minlength=len(users))) - np.bincount(user, minlength=len(users))
    request = before[user] + np.concatenate([part.number for part in requests])
    return InteractionLog.from_rows(
        name="synthetic",
        users=users,
        catalogue=catalogue,
        user=user[row].astype(np.int32),
        item=slates[kept],
        timestamp=np.concatenate([part.timestamp for part in requests])[row],
        clicked=clicked[kept],
        rating=np.where(clicked[kept], rating[row], np.nan).astype(np.float32),
        request=request[row] if config.with_exposures else None,
        position=position.astype(np.int16) if config.with_exposures else None,
    )


SYMBOLS = {
    "short_decay": "λ",
    "short_weight": "α",
    "long_rate": "η",
    "satiation_decay": "γ",
    "satiation_gain": "β",
}


def _known_table(model: InterestModel, outside: float) -> list[dict[str, Any]]:
    """One row for each scalar parameter, and one for the size of each array of them."""
    scalars = {**asdict(model.params), **asdict(model.visits), "outside": outside}
    rows = [(name, SYMBOLS.get(name, ""), float(value), "value that made the log") for name, value in scalars.items()]
    arrays = (
        ("item_embedding", "v", model.item_embedding),
        ("user_embedding", "p", model.user_embedding),
        ("item_bias", "b", model.item_bias),
        ("context_weights", "ω", model.context_weights),
        ("age_values", "φ", model.age_values),
        ("rating_user", "", model.user_traits[:, Trait.RATING]),
        ("rating_item", "", model.rating_item),
    )
    rows += [
        (name, symbol, float(array.std()), "standard deviation over its elements") for name, symbol, array in arrays
    ]
    return [
        {"name": name, "symbol": symbol, "value": value, "low": value, "high": value, "source": "known", "note": note}
        for name, symbol, value, note in rows
    ]


def _normal(seed: int, stream: _Stream, *shape: int) -> NDArray[np.float32]:
    """[shape] standard normal draws."""
    return draw_normal(seed, Purpose.GENERATOR, int(stream), *np.ogrid[tuple(slice(length) for length in shape)])


def _uniform(seed: int, stream: _Stream, *shape: int) -> NDArray[np.float32]:
    """[shape] uniform draws."""
    return draw_uniform(seed, Purpose.GENERATOR, int(stream), *np.ogrid[tuple(slice(length) for length in shape)])


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
