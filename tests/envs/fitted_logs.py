"""Logs drawn from known user models, for the tests of the fit."""

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.logs.schema import InteractionLog, Users
from envs.users.interest import NUM_CONTEXTS, InterestModel, InterestParams
from envs.users.protocol import AGE_KNOTS, Trait, VisitParams, age_effect

DAY = 86_400
EPOCH = 10_000 * DAY


def make_model(
    users: int = 6,
    items: int = 30,
    size: int = 4,
    groups: int = 3,
    seed: int = 0,
    strength: float = 1.0,
    **params: float,
) -> InterestModel:
    """A model with random arrays; embeddings have a mean norm of 1."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(items, size))
    embedding /= np.linalg.norm(embedding, axis=1).mean()
    categories = np.eye(groups)[rng.integers(groups, size=items)]

    def normal(scale: float, *shape: int) -> NDArray[np.float32]:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    return InterestModel(
        params=InterestParams(**params),
        visits=VisitParams(),
        item_embedding=embedding.astype(np.float32),
        categories=categories.astype(np.float32),
        item_bias=normal(0.5 * strength, items),
        user_embedding=normal(0.5, users, size),
        context_weights=normal(0.2 * strength, NUM_CONTEXTS, groups),
        age_values=normal(0.3 * strength, len(AGE_KNOTS)),
        user_traits=np.eye(len(Trait), dtype=np.float32)[Trait.RATING] * (3 + normal(0.3, users, 1)),
        rating_item=normal(0.3, items),
        rating_grid=np.arange(1, 6, dtype=np.float32),
    )


def make_catalogue(categories: NDArray[np.float32], birth: NDArray[np.int64] | None = None) -> Catalogue:
    items = len(categories)
    return Catalogue(
        item_ids=np.array([f"i{item}" for item in range(items)]),
        titles=np.array([""] * items),
        category_names=tuple(f"g{group}" for group in range(categories.shape[1])),
        categories=categories,
        birth=np.full(items, EPOCH - 1000 * DAY) if birth is None else birth,
    )


def make_users(count: int) -> Users:
    return Users(
        user_ids=np.array([f"u{user}" for user in range(count)]),
        feature_names=(),
        features=np.zeros((count, 0), np.float32),
    )


def draw_log(model: InterestModel, events: int, seed: int = 0, visit_share: float = 0.1) -> InteractionLog:
    """Every user consumes `events` items, each chosen from all items that it has not had; one in `1 / visit_share` events
    begins a new visit after some days."""
    rng = np.random.default_rng(seed)
    users, items = len(model.user_embedding), len(model.item_embedding)
    birth = EPOCH - rng.integers(0, 2000, items) * DAY
    state, clock = model.start(model.user_parameters), np.full(users, EPOCH)
    place = np.zeros(users, np.int64)
    had = np.zeros((users, items), bool)
    rows, before = [], clock
    for number in range(events):
        gap = np.where((rng.random(users) < visit_share) & (number > 0), rng.exponential(2, users) + 0.1, 0)
        begins = np.flatnonzero(gap)
        clock += np.where(gap > 0, gap * DAY, 60).astype(np.int64)
        if len(begins):
            model.pause(state, begins, ((clock - before)[begins] / DAY).astype(np.float32), None)
        place[begins] = 0
        before = clock.copy()
        hour, weekday = (clock % DAY / 3600).astype(np.float32), (clock // DAY + 3) % 7
        utility = model.preference(state, hour, weekday, place) @ model.item_vectors.T + model.item_bias
        utility += age_effect(model.age_values, ((clock[:, None] - birth) / DAY).astype(np.float32))
        utility[had] = -np.inf
        item = np.argmax(utility + rng.gumbel(size=utility.shape), axis=1).astype(np.int32)
        chosen = utility[np.arange(users), item]
        rating = model.rate(state, np.arange(users), item, chosen, rng.normal(size=users).astype(np.float32))
        rows.append((np.arange(users), item, clock.copy(), rating))
        had[np.arange(users), item] = True
        model.consume(state, np.arange(users), item)
        place += 1
    user, item, timestamp, rating = (np.concatenate(column) for column in zip(*rows, strict=True))
    return InteractionLog.from_rows(
        name="drawn",
        users=make_users(users),
        catalogue=make_catalogue(model.categories, birth),
        user=user,
        item=item,
        timestamp=timestamp,
        rating=rating,
    )
