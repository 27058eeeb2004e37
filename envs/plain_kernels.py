"""What the kernels of `envs.kernels` and `envs.request_kernels` compute, in plain numpy: for tests, and to be read first.

Each takes the arguments of its kernel without the row bounds, and changes the same arrays.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import is_excluded
from envs.catalogue import SECONDS_PER_DAY
from envs.kernels import LOGIT_BOUND, OUTSIDE_KEY, REQUEST_SECONDS, SHELF_ITEMS, VisitNumbers
from envs.randomness import Purpose, draw_bits, draw_normal, draw_uniform
from envs.users.interest import context_rows
from envs.users.protocol import Trait, age_effect


def choose(
    preference: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    age_values: NDArray[np.float32],
    items: NDArray[np.int32],
    age_days: NDArray[np.float32],
    position: NDArray[np.float32],
    outside: float,
    seed: int,
    user: NDArray[np.int64],
    request: NDArray[np.int64],
    slot: NDArray[np.int64],
    item: NDArray[np.int32],
    utility: NDArray[np.float32],
    worth: NDArray[np.float32],
    rating_noise: NDArray[np.float32],
) -> None:
    """A multinomial logit over the slots and the outside option, in Gumbel-max form."""
    rows, shown = np.arange(len(items)), np.maximum(items, 0)
    scored = np.matmul(item_vectors[shown], preference[:, :, None])[:, :, 0] + item_bias[shown]
    scored += age_effect(age_values, age_days)
    above = np.clip(scored + position - np.float32(outside), -LOGIT_BOUND, LOGIT_BOUND)
    above[items < 0] = -np.inf
    exponential = -np.log(draw_uniform(seed, Purpose.CHOICE, user[:, None], request[:, None], items))
    noisy = above - np.log(exponential)
    noisy_outside = -np.log(-np.log(draw_uniform(seed, Purpose.CHOICE, user, request, OUTSIDE_KEY)))
    best = np.argmax(noisy, axis=1)
    clicks = noisy[rows, best] > noisy_outside
    slot[:] = np.where(clicks, best, -1)
    item[:] = np.where(clicks, items[rows, best], -1)
    utility[:] = np.where(clicks, scored[rows, best], 0)
    worth[:] = np.log1p(np.exp(above).sum(axis=1))
    rating_noise[:] = np.where(clicks, draw_normal(seed, Purpose.RATING, user, request, item), 0)


def depart(
    visits: VisitNumbers,
    seed: int,
    user: NDArray[np.int64],
    item: NDArray[np.int32],
    worth: NDArray[np.float32],
    traits: NDArray[np.float32],
    clock: NDArray[np.float64],
    visit: NDArray[np.int64],
    request: NDArray[np.int64],
    requests_in_visit: NDArray[np.int64],
    consumed_in_visit: NDArray[np.int64],
    misses: NDArray[np.int64],
    satisfaction: NDArray[np.float32],
    leaves: NDArray[np.bool_],
    churned: NDArray[np.bool_],
    days_away: NDArray[np.float32],
) -> None:
    """Moves counters and clocks after a response, and draws who leaves, who is lost, and for how many days the others go."""
    clicked = item >= 0
    misses[:] = np.where(clicked, 0, misses + 1)
    satisfaction[:] = visits.satisfaction_decay * satisfaction + (1 - visits.satisfaction_decay) * worth
    above = satisfaction - visits.baseline_satisfaction
    logit = np.where(
        clicked,
        visits.leave_intercept + visits.leave_log_place * np.log1p(consumed_in_visit),
        visits.leave_miss + visits.impatience * (misses - 1),
    )
    logit = logit + visits.leave_satisfaction * above + traits[:, Trait.LEAVE]
    leaves[:] = draw_uniform(seed, Purpose.LEAVE, user, request) < _sigmoid(logit)
    consumed_in_visit += clicked
    request += 1

    returns = visits.return_intercept + visits.return_satisfaction * above + traits[:, Trait.RETURN]
    churned[:] = leaves & (draw_uniform(seed, Purpose.RETURN, user, visit) >= _sigmoid(returns))
    back, staying = leaves & ~churned, ~leaves
    wide = draw_uniform(seed, Purpose.GAP_KIND, user, visit) < visits.wide_gap_share
    sd = np.where(wide, visits.wide_gap_log_sd, visits.gap_log_sd)
    log_days = visits.gap_log_mean + np.where(wide, visits.wide_gap_shift, 0) + visits.gap_satisfaction * above
    log_days = log_days + traits[:, Trait.GAP] + sd * draw_normal(seed, Purpose.GAP, user, visit)
    days_away[:] = np.where(back, np.exp(log_days), 0)
    clock[staying] += REQUEST_SECONDS
    requests_in_visit[staying] += 1
    clock[back] += days_away[back].astype(np.float64) * SECONDS_PER_DAY
    visit[back] += 1
    for counter in (requests_in_visit, consumed_in_visit, misses):
        counter[back] = 0


def draw_walk(seed: int, user: NDArray[np.int64], visit: NDArray[np.int64], walk: NDArray[np.float32]) -> None:
    """Standard normal draws [N, d] keyed by (user, visit, coordinate)."""
    coordinates = np.arange(walk.shape[1])[None, :]
    walk[:] = draw_normal(seed, Purpose.INTEREST_WALK, user[:, None], visit[:, None], coordinates)


def pick(
    taste: NDArray[np.float32],
    offers: NDArray[np.float32],
    offer: NDArray[np.int64],
    taken: NDArray[np.int32],
    num_taken: int,
    uniform: NDArray[np.float32],
    item: NDArray[np.int32],
    utility: NDArray[np.float32],
) -> None:
    """A multinomial logit over all items, by the inverse of its distribution function: shelf by shelf, as the kernel does, since
    running sums of all items would round otherwise."""
    score, rows = taste + offers[offer], np.arange(len(taste))
    row, place = np.nonzero(taken[:, :num_taken] >= 0)
    score[row, taken[row, place]] = -np.inf
    best = score.max(axis=1, keepdims=True)
    known = best[:, 0] > -np.inf
    weight = np.exp(score - np.where(known[:, None], best, 0)).reshape(len(score), -1, SHELF_ITEMS)
    mass = weight.sum(axis=2)
    below = np.cumsum(mass, axis=1, dtype=np.float64)
    level = uniform * below[:, -1]
    shelf = np.minimum((below <= level[:, None]).sum(axis=1), below.shape[1] - 1)
    share = 1 - (below[rows, shelf] - level) / np.maximum(mass[rows, shelf], np.finfo(np.float32).tiny)
    inside = np.cumsum(weight[rows, shelf], axis=1, dtype=np.float64)
    rest = np.minimum(share * inside[:, -1], np.nextafter(inside[:, -1], 0))
    chosen = shelf * SHELF_ITEMS + (inside <= np.maximum(rest, 0)[:, None]).sum(axis=1)
    item[:] = np.where(known, chosen, -1)
    utility[:] = np.where(known, score[rows, np.minimum(chosen, score.shape[1] - 1)], -np.inf)


def sample_items(
    seed: int,
    user: NDArray[np.int64],
    request: NDArray[np.int64],
    pool: NDArray[np.int32],
    excluded: NDArray[np.uint8],
    taken: NDArray[np.int32],
    chosen: NDArray[np.int32],
) -> None:
    """The first items of a random order of the pool that are neither excluded nor taken, -1 where there are fewer."""
    chosen[:] = -1
    place = np.arange(len(pool))
    upper = draw_bits(seed, Purpose.AGENT, user[:, None], request[:, None], place) >> np.uint64(32)
    others = place + ((upper * (len(pool) - place).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    for n in range(len(user)):
        order = pool.copy()
        for one, other in zip(place, others[n], strict=True):
            order[[one, other]] = order[[other, one]]
        free = ~is_excluded(excluded[n : n + 1], order[None])[0] & ~np.isin(order, taken[n])
        kept = order[free][: chosen.shape[1]]
        chosen[n, : len(kept)] = kept


def prefer(
    long_weight: float,
    short_weight: float,
    satiation_gain: float,
    long_term: NDArray[np.float32],
    short_term: NDArray[np.float32],
    satiation: NDArray[np.float32],
    traits: NDArray[np.float32],
    context_weights: NDArray[np.float32],
    hour: NDArray[np.float32],
    weekday: NDArray[np.int64],
    place_in_visit: NDArray[np.int64],
    preference: NDArray[np.float32],
) -> None:
    """preference = ((1 + F) (kappa p + alpha s, omega_c - beta f), P + F, N), filled up with zeros."""
    interest = long_weight * long_term + short_weight * short_term
    taste = context_weights[context_rows(hour, weekday, place_in_visit)].sum(axis=1) - satiation_gain * satiation
    focus = traits[:, [Trait.FOCUS]]
    own = [traits[:, [Trait.POPULARITY]] + focus, traits[:, [Trait.NOVELTY]]]
    filled = np.concatenate([(1 + focus) * interest, (1 + focus) * taste, *own], axis=1)
    preference[:] = 0
    preference[:, : filled.shape[1]] = filled


def consume(
    short_decay: float,
    long_rate: float,
    satiation_decay: float,
    rows: NDArray[np.int64],
    items: NDArray[np.int32],
    item_embedding: NDArray[np.float32],
    categories: NDArray[np.float32],
    long_term: NDArray[np.float32],
    short_term: NDArray[np.float32],
    satiation: NDArray[np.float32],
) -> None:
    """s <- lambda s + (1 - lambda) v, p <- p + eta (v - p), f <- gamma f + m for the users `rows`."""
    embedding = item_embedding[items]
    short_term[rows] = short_decay * short_term[rows] + (1 - short_decay) * embedding
    long_term[rows] += long_rate * (embedding - long_term[rows])
    satiation[rows] = satiation_decay * satiation[rows] + categories[items]


def pause(
    short_half_life: float,
    satiation_half_life: float,
    walk_sd: float,
    rows: NDArray[np.int64],
    days: NDArray[np.float32],
    walk: NDArray[np.float32],
    long_term: NDArray[np.float32],
    short_term: NDArray[np.float32],
    satiation: NDArray[np.float32],
) -> None:
    """s <- s 2^(-t/h_s), f <- f 2^(-t/h_f), p <- p + sigma_p sqrt(t) walk for the users `rows` after t `days`."""
    short_term[rows] *= np.exp2(-days[:, None] / short_half_life)
    satiation[rows] *= np.exp2(-days[:, None] / satiation_half_life)
    if walk.shape[1]:
        long_term[rows] += walk_sd * np.sqrt(days[:, None]) * walk


def sample_candidates(
    shuffled: NDArray[np.int32],
    start: NDArray[np.int64],
    stride: NDArray[np.int64],
    length: int,
    excluded: NDArray[np.uint8],
    chosen: NDArray[np.int32],
) -> None:
    """Walks through the `shuffled` catalogue and keeps what is not excluded."""
    count = chosen.shape[1]
    items = shuffled[(start[:, None] + stride[:, None] * np.arange(length)) % len(shuffled)]
    free = ~is_excluded(excluded, items)
    # a kept item moves to the left by the number of excluded ones before it
    place = np.cumsum(free, axis=1) - 1
    kept = free & (place < count)
    rows = np.broadcast_to(np.arange(len(items))[:, None], items.shape)
    chosen[:] = -1
    chosen[rows[kept], place[kept]] = items[kept]


def describe_candidates(
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    excluded: NDArray[np.uint8],
    clock: NDArray[np.float64],
    birth_clock: NDArray[np.float64],
    categories: NDArray[np.float32],
    mask: NDArray[np.int8],
    features: NDArray[np.float32],
    number: NDArray[np.int64],
) -> None:
    """Mask and features of candidates, and how many may be shown."""
    allowed, known = ~is_excluded(excluded, items), np.maximum(items, 0)
    age = np.maximum((clock[:, None] - birth_clock[known]) / SECONDS_PER_DAY, 0)
    mask[:] = allowed
    features[:] = np.concatenate([scores[:, :, None], age[:, :, None], categories[known]], axis=2)
    features[~allowed] = 0
    number[:] = allowed.sum(axis=1)


def tell_history(
    history: NDArray[np.int32],
    history_clock: NDArray[np.float32],
    clock: NDArray[np.float64],
    told: NDArray[np.int32],
    days: NDArray[np.float32],
) -> None:
    """A copy of `history`, and the days since each item was consumed."""
    told[:] = history
    days[:] = np.where(history >= 0, np.maximum(clock[:, None] / SECONDS_PER_DAY - history_clock, 0), 0)


def show(
    actions: NDArray[np.int64],
    items: NDArray[np.int32],
    mask: NDArray[np.int8],
    clock: NDArray[np.float64],
    birth_clock: NDArray[np.float64],
    slates: NDArray[np.int32],
    age_days: NDArray[np.float32],
) -> None:
    """Items of the candidates that were picked, -1 where one is masked or stands above already; and their ages."""
    slots = actions.shape[1]
    shown = np.take_along_axis(mask, actions, axis=1) == 1
    earlier = np.tril(np.ones((slots, slots), bool), -1)
    repeated = ((actions[:, :, None] == actions[:, None, :]) & earlier).any(axis=2)
    slates[:] = np.where(shown & ~repeated, np.take_along_axis(items, actions, axis=1), -1)
    birth = birth_clock[np.maximum(slates, 0)]
    age_days[:] = np.maximum((clock[:, None] - birth) / SECONDS_PER_DAY, 0)


def remember(
    rows: NDArray[np.int64],
    items: NDArray[np.int32],
    clock: NDArray[np.float64],
    excludes_seen: bool,
    history: NDArray[np.int32],
    history_clock: NDArray[np.float32],
    seen: NDArray[np.uint8],
) -> None:
    """Puts the item that each of the users `rows` consumed before the others of its history, and marks it as seen."""
    consumed = items[rows]
    history[rows, 1:] = history[rows, :-1]
    history[rows, 0] = consumed
    history_clock[rows, 1:] = history_clock[rows, :-1]
    history_clock[rows, 0] = clock[rows] / SECONDS_PER_DAY
    if excludes_seen:
        seen[rows, consumed >> 3] |= np.uint8(1) << (consumed & 7).astype(np.uint8)


def unpack_lives(
    offset: NDArray[np.int64],
    items: NDArray[np.int32],
    days: NDArray[np.float32],
    excludes_seen: bool,
    history: NDArray[np.int32],
    history_clock: NDArray[np.float32],
    seen: NDArray[np.uint8],
) -> None:
    """Puts what each user consumed in its life, in order of time, before its history."""
    size = history.shape[1]
    for n, (first, last) in enumerate(pairwise(offset)):
        history[n] = np.append(items[first:last][::-1], history[n])[:size]
        history_clock[n] = np.append(days[first:last][::-1], history_clock[n])[:size]
        if excludes_seen:
            np.bitwise_or.at(seen[n], items[first:last] >> 3, np.uint8(1) << (items[first:last] & 7).astype(np.uint8))


def unpack_past(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    coded: NDArray[np.uint8],
    start: NDArray[np.float64],
    excludes_seen: bool,
    history: NDArray[np.int32],
    history_clock: NDArray[np.float32],
    seen: NDArray[np.uint8],
) -> None:
    """Puts what each user consumed before its life, as `envs.packed_histories` codes it, into its empty history."""
    for n, (begin, end) in enumerate(zip(first, last, strict=True)):
        own = coded[begin:end].astype(np.int64)
        number = np.append(0, np.cumsum(own < 128)[:-1]) if len(own) else own
        place = np.arange(len(own)) - np.searchsorted(number, number)
        numbers = np.zeros(int((own < 128).sum()), np.int64)
        np.add.at(numbers, number, (own & 127) << (7 * place))
        steps, items = numbers[::2], numbers[1::2]
        size = min(len(items), history.shape[1])
        history[n, :size] = items[:size]
        history_clock[n, :size] = ((start[n] - np.cumsum(steps)) / SECONDS_PER_DAY)[:size]
        if excludes_seen:
            np.bitwise_or.at(seen[n], items >> 3, np.uint8(1) << (items & 7).astype(np.uint8))


def _sigmoid(logit: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 / (1 + np.exp(-logit))
