"""The engine's hot kernels in numba; `envs.plain_kernels` says in plain numpy what each computes, and tests compare the two.

Elementary functions are short float32 polynomials, so that vector instructions work on all slots of several users at once;
their errors are bounded in `tests/envs/test_kernels.py`. All that kernels call stands in this one module, since numba keeps
compiled code for as long as a kernel's own file does not change.
"""

from typing import Annotated, Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import (
    Bits,
    Bytes2,
    Doubles1Out,
    Flags1Out,
    Float,
    Floats1,
    Floats1Out,
    Floats2,
    Floats2Out,
    Int,
    Ints1,
    Ints1Out,
    Ints2,
    Ints2Out,
    Kernel,
    Longs1,
    Longs1Out,
)

SHELF_ITEMS = 64
"""Items whose weights are summed first: a choice finds its shelf, then its item there, which saves running sums."""
TILE = 32
"""Users whose slates are computed as one flat array, which stays in the first cache and fills the vector lanes."""
REQUEST_SECONDS = 60.0
"""Time between two requests of a visit (assumed: a log of consumption does not tell when slates were asked for)."""
OUTSIDE_KEY = -1
"""Stands for the outside option where an item is part of a draw's key."""
LOGIT_BOUND = 64.0
"""Utilities further than this from the outside option's count as this far, so that no weight over- or underflows."""
# columns of traits, as in envs.users.protocol.Trait
_LEAVE, _GAP, _RETURN, _POPULARITY, _NOVELTY, _FOCUS = 0, 1, 3, 4, 5, 6
_KNOTS, _KNOT_WIDTH = 8, 1.5  # of the age effect, as envs.users.protocol.AGE_KNOTS

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ONE = np.float32(1)


# ---------------------------------------------------------------------- draws and elementary functions
@numba.njit
def _mixed(bits: Any) -> Any:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@numba.njit
def _extended(bits: Any, key: Any) -> Any:
    """The bits of a key with one more part, as in `envs.randomness.draw_bits`."""
    return _mixed((bits + _GOLDEN) ^ (np.uint64(key) * _GOLDEN))


@numba.njit
def _uniform(bits: Any) -> Any:
    return (np.float32(np.int32(bits >> np.uint64(41))) + np.float32(0.5)) * np.float32(2.0**-23)


def _fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once, in vector lanes as in the rest of a loop."""
    signature = types.float32(types.float32, types.float32, types.float32)
    return signature, lambda context, builder, signature, arguments: builder.fma(*arguments)


_fma: Any = intrinsic(_fused)


@numba.njit
def _log(x: Any) -> Any:
    """log(x) of a positive normal float32. Source: Moshier's Cephes library, logf (minimax polynomial)."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(bits >> np.int32(23)) - np.int32(127)
    mantissa = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    upper = mantissa > np.float32(1.41421356)
    m = (mantissa * np.float32(0.5) if upper else mantissa) - _ONE
    e = np.float32(np.int32(exponent)) + (_ONE if upper else np.float32(0))
    # Estrin's scheme: short chains of operations that wait for each other
    square = m * m
    fourth = square * square
    p0 = _fma(np.float32(-2.4999993993e-1), m, np.float32(3.3333331174e-1))
    p2 = _fma(np.float32(-1.6668057665e-1), m, np.float32(2.0000714765e-1))
    p4 = _fma(np.float32(-1.2420140846e-1), m, np.float32(1.4249322787e-1))
    p6 = _fma(np.float32(-1.1514610310e-1), m, np.float32(1.1676998740e-1))
    upper_half = _fma(np.float32(7.0376836292e-2), fourth, _fma(p6, square, p4))
    y = _fma(upper_half, fourth, _fma(p2, square, p0))
    y = _fma(e, np.float32(-2.12194440e-4), y * m * square)
    return _fma(e, np.float32(0.693359375), m + _fma(np.float32(-0.5), square, y))


@numba.njit
def _exp(x: Any) -> Any:
    """exp(x) of a float32 within -87 to 88, those bounds beyond them. Source: Moshier's Cephes library, expf."""
    x = min(max(x, np.float32(-87)), np.float32(88))
    # adding and taking away 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits
    shifted = _fma(x, np.float32(1.44269504088896341), np.float32(12582912.0))
    whole = np.int32(np.float32(shifted).view(np.int32) - np.int32(0x4B400000))
    n = shifted - np.float32(12582912.0)
    r = _fma(n, np.float32(2.12194440e-4), _fma(n, np.float32(-0.693359375), x))
    square = r * r
    p0 = _fma(np.float32(1.6666665459e-1), r, np.float32(5.0000001201e-1))
    p2 = _fma(np.float32(8.3334519073e-3), r, np.float32(4.1665795894e-2))
    p4 = _fma(np.float32(1.9875691500e-4), r, np.float32(1.3981999507e-3))
    y = _fma(_fma(p4, square, p2), square, p0)
    y = _fma(y, square, r + _ONE)
    return np.int32((whole << np.int32(23)) + np.float32(y).view(np.int32)).view(np.float32)


@numba.njit
def _normal(bits: Any) -> Any:
    """Box and Muller's transform of both halves of 64 bits; the cosine is a minimax polynomial of the sine, turned."""
    radius = np.sqrt(np.float32(-2) * _log(_uniform(bits)))
    turn = np.float32(np.int32(bits & np.uint64(0x7FFFFF))) * np.float32(2.0**-23)
    # cos(2 pi turn) = sin(2 pi y) at y = |turn - 1/2| - 1/4, from -1/4 to 1/4
    y = abs(turn - np.float32(0.5)) - np.float32(0.25)
    square = y * y
    wave = _fma(np.float32(39.536705598), square, np.float32(-76.549782228))
    wave = _fma(wave, square, np.float32(81.601004070))
    wave = _fma(wave, square, np.float32(-41.341655031))
    return radius * y * _fma(wave, square, np.float32(6.283185160))


@numba.njit(fastmath={"reassoc", "contract", "nsz"})
def _score(first: Any, width: Any, rows: Any, table: Any, bias: Any, items: Any, scored: Any) -> None:
    """scored[n, k] = rows[first + n] . table[items[first + n, k]] + bias; five at a time, so that a row is read less often.

    The sums may be reordered into vector lanes, the same way for every row.
    """
    last = items.shape[1] - 1
    zero = np.float32(0)
    for n in range(width):
        row = rows[first + n]
        for k in range(0, last + 1, 5):
            k1, k2, k3, k4 = min(k + 1, last), min(k + 2, last), min(k + 3, last), min(k + 4, last)
            i0, i1, i2 = max(items[first + n, k], 0), max(items[first + n, k1], 0), max(items[first + n, k2], 0)
            i3, i4 = max(items[first + n, k3], 0), max(items[first + n, k4], 0)
            v0, v1, v2, v3, v4 = table[i0], table[i1], table[i2], table[i3], table[i4]
            x0, x1, x2, x3, x4 = zero, zero, zero, zero, zero
            for j in range(rows.shape[1]):
                x = row[j]
                x0 += x * v0[j]
                x1 += x * v1[j]
                x2 += x * v2[j]
                x3 += x * v3[j]
                x4 += x * v4[j]
            scored[n, k4] = x4 + bias[i4]
            scored[n, k3] = x3 + bias[i3]
            scored[n, k2] = x2 + bias[i2]
            scored[n, k1] = x1 + bias[i1]
            scored[n, k] = x0 + bias[i0]


# ---------------------------------------------------------------------- the engine
@Kernel
def choose(
    begin: Int,
    end: Int,
    preference: Floats2,
    item_vectors: Floats2,
    item_bias: Floats1,
    age_bends: Floats1,
    items: Ints2,
    age_days: Floats2,
    position: Floats1,
    outside: Float,
    choice_stream: Bits,
    rating_stream: Bits,
    user: Longs1,
    request: Longs1,
    slot: Longs1Out,
    item: Ints1Out,
    utility: Floats1Out,
    worth: Floats1Out,
    rating_noise: Floats1Out,
) -> None:
    """Choices of a multinomial logit as an exponential race: the winner has the largest weight over its exponential draw.

    With E = -log(U) and weights exp(x) this is argmax of x - log(E), the Gumbel-max form, without its second logarithm.
    """
    slots = items.shape[1]
    scored = np.empty((TILE, slots), np.float32)
    score, weight = scored.reshape(-1), np.empty(TILE * slots, np.float32)
    race, shift = np.empty_like(weight), np.empty_like(weight)
    own, rest, total = np.empty(TILE, np.uint64), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for cell in range(TILE * slots):
        shift[cell] = position[cell % slots] - outside
    for first in range(begin, end, TILE):
        width = min(TILE, end - first)
        _score(first, width, preference, item_vectors, item_bias, items, scored)
        for n in range(width):
            own[n] = _extended(_extended(choice_stream, user[first + n]), request[first + n])
        for n in range(width):
            rest[n] = _ONE / -_log(_uniform(_extended(own[n], OUTSIDE_KEY)))
        cells = width * slots
        age = age_days.reshape(-1)[first * slots : first * slots + cells]
        shown = items.reshape(-1)[first * slots : first * slots + cells]
        for n in range(width):
            for k in range(slots):
                race[n * slots + k] = _uniform(_extended(own[n], shown[n * slots + k]))
        for cell in range(cells):
            z = min(_log(_ONE + max(age[cell], np.float32(0))) * np.float32(1 / _KNOT_WIDTH), np.float32(_KNOTS - 1))
            effect = age_bends[0]
            for knot in range(_KNOTS - 1):
                effect = _fma(age_bends[1 + knot], max(z - np.float32(knot), np.float32(0)), effect)
            score[cell] += effect
            race[cell] = -_log(race[cell])
            bounded = min(max(score[cell] + shift[cell], np.float32(-LOGIT_BOUND)), np.float32(LOGIT_BOUND))
            weight[cell] = _exp(bounded) if shown[cell] >= 0 else np.float32(0)
            race[cell] = weight[cell] / race[cell]
        for n in range(width):
            best, place, summed = rest[n], -1, _ONE
            for k in range(slots):
                summed += weight[n * slots + k]
                if race[n * slots + k] > best:
                    best, place = race[n * slots + k], k
            total[n] = summed
            slot[first + n] = place
            if place >= 0:
                item[first + n] = items[first + n, place]
                utility[first + n] = scored[n, place]
                known = _extended(_extended(rating_stream, user[first + n]), request[first + n])
                rating_noise[first + n] = _normal(_extended(known, items[first + n, place]))
            else:
                item[first + n] = -1
                utility[first + n] = 0
                rating_noise[first + n] = 0
        for n in range(width):
            worth[first + n] = _log(total[n])


class VisitNumbers(NamedTuple):
    """What `depart` takes of `VisitParams`, and the baseline of satisfaction."""

    leave_intercept: float
    leave_log_place: float
    leave_miss: float
    impatience: float
    leave_satisfaction: float
    return_intercept: float
    return_satisfaction: float
    gap_log_mean: float
    gap_log_sd: float
    wide_gap_share: float
    wide_gap_shift: float
    wide_gap_log_sd: float
    gap_satisfaction: float
    satisfaction_decay: float
    baseline_satisfaction: float


Visits = Annotated[VisitNumbers, types.NamedUniTuple(types.float64, len(VisitNumbers._fields), VisitNumbers)]


@Kernel
def depart(
    begin: Int,
    end: Int,
    visits: Visits,
    leave_stream: Bits,
    return_stream: Bits,
    gap_stream: Bits,
    gap_kind_stream: Bits,
    user: Longs1,
    item: Ints1,
    worth: Floats1,
    traits: Floats2,
    clock: Doubles1Out,
    visit: Longs1Out,
    request: Longs1Out,
    requests_in_visit: Longs1Out,
    consumed_in_visit: Longs1Out,
    misses: Longs1Out,
    satisfaction: Floats1Out,
    leaves: Flags1Out,
    churned: Flags1Out,
    days_away: Floats1Out,
) -> None:
    """Moves counters and clocks after a response, and draws who leaves, who is lost, and for how many days the others go."""
    keep = np.float32(visits.satisfaction_decay)
    surplus = np.empty(end - begin, np.float32)
    for n in range(begin, end):
        clicked = item[n] >= 0
        missed = np.int32(0 if clicked else misses[n] + 1)
        place = np.float32(np.int32(consumed_in_visit[n]))
        after_click = _fma(np.float32(visits.leave_log_place), _log(_ONE + place), np.float32(visits.leave_intercept))
        after_miss = _fma(np.float32(visits.impatience), np.float32(missed) - _ONE, np.float32(visits.leave_miss))
        satisfaction[n] = _fma(keep, satisfaction[n], (_ONE - keep) * worth[n])
        above = satisfaction[n] - np.float32(visits.baseline_satisfaction)
        logit = (after_click if clicked else after_miss) + np.float32(visits.leave_satisfaction) * above
        logit += traits[n, _LEAVE]
        draw = _uniform(_extended(_extended(leave_stream, user[n]), request[n]))
        leaves[n] = draw * (_ONE + _exp(-logit)) < _ONE
        surplus[n - begin] = above
        misses[n] = missed
        consumed_in_visit[n] += clicked
    for n in range(begin, end):
        request[n] += 1
        churned[n] = False
        days_away[n] = 0
        if not leaves[n]:
            clock[n] += REQUEST_SECONDS
            requests_in_visit[n] += 1
            continue
        above = surplus[n - begin]
        logit = (
            np.float32(visits.return_intercept) + np.float32(visits.return_satisfaction) * above + traits[n, _RETURN]
        )
        draw = _uniform(_extended(_extended(return_stream, user[n]), visit[n]))
        churned[n] = draw * (_ONE + _exp(-logit)) >= _ONE
        if churned[n]:
            continue
        normal = _normal(_extended(_extended(gap_stream, user[n]), visit[n]))
        kind = _uniform(_extended(_extended(gap_kind_stream, user[n]), visit[n]))
        log_days = np.float32(visits.gap_log_mean) + np.float32(visits.gap_satisfaction) * above + traits[n, _GAP]
        if kind < np.float32(visits.wide_gap_share):
            log_days += np.float32(visits.wide_gap_shift) + np.float32(visits.wide_gap_log_sd) * normal
        else:
            log_days += np.float32(visits.gap_log_sd) * normal
        days_away[n] = _exp(log_days)
        clock[n] += np.float64(days_away[n]) * SECONDS_PER_DAY
        visit[n] += 1
        requests_in_visit[n] = 0
        consumed_in_visit[n] = 0
        misses[n] = 0


@Kernel
def draw_walk(begin: Int, end: Int, stream: Bits, user: Longs1, visit: Longs1, walk: Floats2Out) -> None:
    """Standard normal draws [N, d] keyed by (user, visit, coordinate)."""
    for n in range(begin, end):
        own = _extended(_extended(stream, user[n]), visit[n])
        for j in range(walk.shape[1]):
            walk[n, j] = _normal(_extended(own, j))


# ---------------------------------------------------------------------- choices from the whole catalogue
@numba.njit(fastmath={"reassoc", "nnan", "nsz"})
def _highest(score: Any) -> Any:
    highest = score[0]
    for i in range(len(score)):
        highest = max(highest, score[i])
    return highest


@numba.njit(fastmath={"reassoc", "nsz"})
def _weigh(score: Any, best: Any, weight: Any, mass: Any) -> None:
    """Weights exp(score - best), 0 where the score is -inf, and their sums by shelves, each sum in the same order for every row."""
    nothing = np.float32(-np.inf)
    for shelf in range(len(mass)):
        total = np.float32(0)
        for i in range(shelf * SHELF_ITEMS, (shelf + 1) * SHELF_ITEMS):
            w = _exp(score[i] - best) if score[i] > nothing else np.float32(0)
            weight[i] = w
            total += w
        mass[shelf] = total


@Kernel
def pick(
    begin: Int,
    end: Int,
    taste: Floats2,
    offers: Floats2,
    offer: Longs1,
    taken: Ints2,
    num_taken: Int,
    uniform: Floats1,
    item: Ints1Out,
    utility: Floats1Out,
) -> None:
    """A choice of a multinomial logit over all items, by the inverse of its distribution function: first the shelf on which the
    uniform draw falls, then the item there. Utilities are `taste` [N, I'] + `offers` [., I'] in row `offer` [N], -inf for the first
    `num_taken` of `taken` [N, T]; item -1 where all are -inf. I' is a multiple of `SHELF_ITEMS`."""
    size = taste.shape[1]
    nothing = np.float32(-np.inf)
    score, weight = np.empty(size, np.float32), np.empty(size, np.float32)
    mass = np.empty(size // SHELF_ITEMS, np.float32)
    for n in range(begin, end):
        row, logits = taste[n], offers[offer[n]]
        for i in range(size):
            score[i] = row[i] + logits[i]
        for place in range(num_taken):
            if taken[n, place] >= 0:
                score[taken[n, place]] = nothing
        item[n], utility[n] = -1, nothing
        best = _highest(score)
        if best == nothing:
            continue
        _weigh(score, best, weight, mass)
        total = 0.0
        for shelf in range(len(mass)):
            total += mass[shelf]
        level = np.float64(uniform[n]) * total
        below, found = 0.0, len(mass) - 1
        for shelf in range(len(mass)):
            below += mass[shelf]
            if below > level:
                found = shelf
                break
        inside = 0.0
        for i in range(found * SHELF_ITEMS, (found + 1) * SHELF_ITEMS):
            inside += weight[i]
        rest = max((1 - (below - level) / mass[found]) * inside, 0.0)
        # the last item of positive weight, should rounding pass all of them
        inside = 0.0
        for i in range(found * SHELF_ITEMS, (found + 1) * SHELF_ITEMS):
            inside += weight[i]
            if weight[i] > 0:
                item[n] = i
            if inside > rest:
                break
        utility[n] = score[item[n]]


# ---------------------------------------------------------------------- samples of items
@Kernel
def sample_items(
    begin: Int,
    end: Int,
    stream: Bits,
    user: Longs1,
    request: Longs1,
    pool: Ints1,
    excluded: Bytes2,
    taken: Ints2,
    chosen: Ints2Out,
) -> None:
    """The first items of a random order of `pool` [P] that are neither `excluded` (bits [N, .]) nor `taken` [N, T], keyed by (user,
    request): a sample `chosen` [N, C] without replacement, -1 where there are fewer.

    Source: Knuth (1997), The Art of Computer Programming 2, section 3.4.2, algorithm P, as far as it is needed."""
    size = len(pool)
    order, moved = np.arange(size), np.empty(size, np.int64)
    for n in range(begin, end):
        own = _extended(_extended(stream, user[n]), request[n])
        count = drawn = 0
        while count < chosen.shape[1] and drawn < size:
            upper = _extended(own, drawn) >> np.uint64(32)
            other = drawn + np.int64((upper * np.uint64(size - drawn)) >> np.uint64(32))
            order[drawn], order[other] = order[other], order[drawn]
            moved[drawn] = other
            item = pool[order[drawn]]
            drawn += 1
            if (excluded[n, item >> 3] >> np.uint8(item & 7)) & 1 == 1:
                continue
            is_taken = False
            for t in range(taken.shape[1]):
                is_taken |= taken[n, t] == item
            if not is_taken:
                chosen[n, count] = item
                count += 1
        for rest in range(count, chosen.shape[1]):
            chosen[n, rest] = -1
        # back to the order from which every request starts
        for place in range(drawn - 1, -1, -1):
            other = moved[place]
            order[place], order[other] = order[other], order[place]


# ---------------------------------------------------------------------- the parametric user model
@Kernel
def prefer(
    begin: Int,
    end: Int,
    long_weight: Float,
    short_weight: Float,
    satiation_gain: Float,
    long_term: Floats2,
    short_term: Floats2,
    satiation: Floats2,
    traits: Floats2,
    context_weights: Floats2,
    hours_per_bucket: Float,
    place_edges: Longs1,
    hour: Floats1,
    weekday: Longs1,
    place_in_visit: Longs1,
    preference: Floats2Out,
) -> None:
    """preference = ((1 + F) (kappa p + alpha s, omega_c - beta f), P + F, N), filled up with zeros."""
    width, categories = long_term.shape[1], satiation.shape[1]
    buckets = int(np.float32(24) / hours_per_bucket)
    for n in range(begin, end):
        strength = _ONE + traits[n, _FOCUS]
        for j in range(width):
            preference[n, j] = strength * _fma(short_weight, short_term[n, j], long_weight * long_term[n, j])
        place = 0
        for edge in place_edges:
            place += place_in_visit[n] >= edge
        of_hour = context_weights[min(max(int(hour[n] / hours_per_bucket), 0), buckets - 1)]
        of_weekday = context_weights[buckets + (weekday[n] >= 5)]
        of_place = context_weights[buckets + 2 + place]
        for g in range(categories):
            weight = of_hour[g] + of_weekday[g] + of_place[g]
            preference[n, width + g] = strength * _fma(-satiation_gain, satiation[n, g], weight)
        preference[n, width + categories] = traits[n, _POPULARITY] + traits[n, _FOCUS]
        preference[n, width + categories + 1] = traits[n, _NOVELTY]
        for j in range(width + categories + 2, preference.shape[1]):
            preference[n, j] = 0


@Kernel
def consume(
    begin: Int,
    end: Int,
    short_decay: Float,
    long_rate: Float,
    satiation_decay: Float,
    rows: Longs1,
    items: Ints1,
    item_embedding: Floats2,
    categories: Floats2,
    long_term: Floats2Out,
    short_term: Floats2Out,
    satiation: Floats2Out,
) -> None:
    """s <- lambda s + (1 - lambda) v, p <- p + eta (v - p), f <- gamma f + m for the users `rows`."""
    for m in range(begin, end):
        n, i = rows[m], items[m]
        for j in range(long_term.shape[1]):
            v = item_embedding[i, j]
            short_term[n, j] = _fma(short_decay, short_term[n, j], (_ONE - short_decay) * v)
            long_term[n, j] = _fma(long_rate, v - long_term[n, j], long_term[n, j])
        for g in range(satiation.shape[1]):
            satiation[n, g] = _fma(satiation_decay, satiation[n, g], categories[i, g])


@Kernel
def pause(
    begin: Int,
    end: Int,
    short_half_life: Float,
    satiation_half_life: Float,
    walk_sd: Float,
    rows: Longs1,
    days: Floats1,
    walk: Floats2,
    long_term: Floats2Out,
    short_term: Floats2Out,
    satiation: Floats2Out,
) -> None:
    """s <- s 2^(-t/h_s), f <- f 2^(-t/h_f), p <- p + sigma_p sqrt(t) walk for the users `rows` after t `days`.

    Without columns, `walk` leaves p.
    """
    for m in range(begin, end):
        n = rows[m]
        short_left = _exp(-days[m] / short_half_life * np.float32(0.693147180559945))
        satiation_left = _exp(-days[m] / satiation_half_life * np.float32(0.693147180559945))
        length = walk_sd * np.sqrt(days[m])
        for j in range(short_term.shape[1]):
            short_term[n, j] *= short_left
        for g in range(satiation.shape[1]):
            satiation[n, g] *= satiation_left
        for j in range(walk.shape[1]):
            long_term[n, j] = _fma(length, walk[m, j], long_term[n, j])
