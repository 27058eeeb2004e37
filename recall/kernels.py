"""Kernels of recall: walks down a ranking, votes of neighbours, shares of categories, the union of channels, the best of a row.

Candidates are compared by one number each, `_key`: the bits of the score above those of the item, so that the larger number is the
better candidate, and of equal scores the first item. The tests compare each kernel with plain numpy.
"""

from typing import Annotated, Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from envs.compiled import (
    Bytes2,
    Flags1Out,
    Floats1,
    Floats2,
    Floats2Out,
    Int,
    Ints1,
    Ints2,
    Ints2Out,
    Kernel,
    Longs1,
)
from envs.kernels import _fma

Flags1 = Annotated[NDArray[np.bool_], types.Array(types.boolean, 1, "C", readonly=True)]
Floats3 = Annotated[NDArray[np.float32], types.Array(types.float32, 3, "C", readonly=True)]
BLOCK_ROWS = 128
"""Queries that meet a tile while it is in the second cache."""
LANES = 32
"""Scores that are compared with a threshold at once."""
TIGHT = 1.5
"""Candidates of a row, over those wanted, from which on the worst of the best makes a new threshold."""
_SIGN = np.uint32(0x80000000)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@numba.njit
def _has_bit(bits: Any, place: Any) -> Any:
    return (bits[place >> 3] >> np.uint8(place & 7)) & 1 == 1


@numba.njit
def _key(bits: Any, item: Any) -> Any:
    """A number that orders (score, item): `bits` are those of the score, a float32; -0 counts as 0."""
    ordered = ~bits if bits > _SIGN else bits | _SIGN
    return (np.uint64(ordered) << _HALF) | (_LOW - np.uint64(item))


@numba.njit
def _item_of(key: Any) -> Any:
    return np.int32(_LOW - (key & _LOW))


@numba.njit
def _bits_of(key: Any) -> Any:
    ordered = np.uint32(key >> _HALF)
    return ordered & ~_SIGN if ordered & _SIGN else ~ordered


@numba.njit
def _keep_largest(keys: Any, size: Any, count: Any) -> None:
    """Moves the `count` largest of keys[:size] to the front, in no order (Hoare's selection)."""
    low, high = 0, size - 1
    while low < high:
        first, middle, last = keys[low], keys[(low + high) >> 1], keys[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if count - 1 <= j:
            high = j
        elif count - 1 >= i:
            low = i
        else:
            break


@numba.njit
def _write_best(keys: Any, size: Any, items: Any, score_bits: Any) -> None:
    """Fills a row of `items` and the bits of its scores with the best of keys[:size], best first, -1 and 0 behind them."""
    count = min(len(items), size)
    if size > count:
        _keep_largest(keys, size, count)
    keys[:count].sort()
    for place in range(count):
        key = keys[count - 1 - place]
        items[place] = _item_of(key)
        score_bits[place] = _bits_of(key)
    for place in range(count, len(items)):
        items[place] = -1
        score_bits[place] = 0


def _trailing_zeros(typing_context: Any, bits: Any) -> Any:
    """Zeros below the lowest bit that is set."""
    signature = types.uint32(types.uint32)
    zero_is_poison = ir.Constant(ir.IntType(1), 1)
    return signature, lambda context, builder, signature, arguments: builder.cttz(arguments[0], zero_is_poison)


_lowest_bit: Any = intrinsic(_trailing_zeros)


@numba.njit
def _reach(block: Any, threshold: Any, bit_of: Any) -> Any:
    """A number whose bits tell which of LANES scores reach the threshold; `bit_of` [LANES] are the bits, as vectors load them."""
    reaching = np.uint32(0)
    for lane in range(LANES):
        reaching |= bit_of[lane] if block[lane] >= threshold else np.uint32(0)
    return reaching


@numba.njit
def _worst_score(keys: Any, size: Any, score_bits: Any) -> None:
    """Puts the bits of the smallest score of keys[:size] into `score_bits` [1]."""
    worst = keys[0]
    for place in range(1, size):
        worst = min(worst, keys[place])
    score_bits[0] = _bits_of(worst)


@numba.njit(error_model="numpy")
def _products(queries: Any, rows: Any, tile: Any, outputs: Any) -> None:
    """Inner products [4, T] of four queries, the `rows` [4] of `queries` [N, d], with a tile [d, T]; d is a multiple of 4.

    A score is one chain of fused multiplications and additions over the coordinates, whatever stands beside it, so its bits do not
    depend on the batch. Of a library's matrix product they do, on some processors: on the row's place in it.
    """
    a, b, c, d = queries[rows[0]], queries[rows[1]], queries[rows[2]], queries[rows[3]]
    a_out, b_out, c_out, d_out = outputs[0], outputs[1], outputs[2], outputs[3]
    for k in range(0, len(a), 4):
        x0, x1, x2, x3 = tile[k], tile[k + 1], tile[k + 2], tile[k + 3]
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
        c0, c1, c2, c3 = c[k], c[k + 1], c[k + 2], c[k + 3]
        d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
        if k == 0:
            for j in range(len(x0)):
                v0, v1, v2, v3 = x0[j], x1[j], x2[j], x3[j]
                a_out[j] = _fma(a3, v3, _fma(a2, v2, _fma(a1, v1, a0 * v0)))
                b_out[j] = _fma(b3, v3, _fma(b2, v2, _fma(b1, v1, b0 * v0)))
                c_out[j] = _fma(c3, v3, _fma(c2, v2, _fma(c1, v1, c0 * v0)))
                d_out[j] = _fma(d3, v3, _fma(d2, v2, _fma(d1, v1, d0 * v0)))
        else:
            for j in range(len(x0)):
                v0, v1, v2, v3 = x0[j], x1[j], x2[j], x3[j]
                a_out[j] = _fma(a3, v3, _fma(a2, v2, _fma(a1, v1, _fma(a0, v0, a_out[j]))))
                b_out[j] = _fma(b3, v3, _fma(b2, v2, _fma(b1, v1, _fma(b0, v0, b_out[j]))))
                c_out[j] = _fma(c3, v3, _fma(c2, v2, _fma(c1, v1, _fma(c0, v0, c_out[j]))))
                d_out[j] = _fma(d3, v3, _fma(d2, v2, _fma(d1, v1, _fma(d0, v0, d_out[j]))))


@numba.njit
def _start_threshold(scores: Any, item_at: Any, excluded: Any, best: Any) -> Any:
    """The R-th best score of the allowed items among the first of a tile, `scores` [S], -inf if there are fewer; `best` [R]
    is room."""
    best[:] = -np.inf
    last = len(best) - 1
    for place in range(len(scores)):
        score, item = scores[place], item_at[place]
        if score > best[last] and item >= 0 and not _has_bit(excluded, item):
            at = last
            while at > 0 and best[at - 1] < score:
                best[at] = best[at - 1]
                at -= 1
            best[at] = score
    return best[last]


@numba.njit(error_model="numpy")
def _collect(
    scores: Any, bits: Any, item_at: Any, excluded: Any, count: Any, bit_of: Any, thresholds: Any, keys: Any, size: Any
) -> Any:
    """Adds the allowed items of a tile that reach the threshold to keys[:size]; the new size.

    Where `keys` fills up, its best `count` stay and the threshold, `thresholds` [1], rises to the worst of them.
    """
    for start in range(0, len(scores), LANES):
        reaching = _reach(scores[start : start + LANES], thresholds[0], bit_of)
        while reaching:
            place = start + np.int64(_lowest_bit(reaching))
            reaching &= reaching - np.uint32(1)
            item = item_at[place]
            if item >= 0 and not _has_bit(excluded, item):
                keys[size] = _key(bits[place], item)
                size += 1
        if size > len(keys) - LANES:
            _keep_largest(keys, size, count)
            size = count
            _worst_score(keys, size, thresholds.view(np.uint32))
    return size


@Kernel
def search_tiles(
    begin: Int,
    end: Int,
    queries: Floats2,
    lengths: Floats1,
    tiles: Floats3,
    longest: Floats1,
    item_at: Ints2,
    excluded: Bytes2,
    sample: Int,
    rank: Int,
    capacity: Int,
    items: Ints2Out,
    scores: Floats2Out,
    short: Flags1Out,
) -> None:
    """The best `items` [N, C] of `queries` [N, d] among those in `tiles` [M, d, T], numbered by `item_at` [M, T] (-1 for none).

    A tile is passed over for a query whose length [N] times that of the tile's `longest` vector [M] falls short of what the
    best so far have reached (Cauchy and Schwarz); `longest` is a little more than the length, for what rounding adds.
    A row's first threshold is the `rank`-th best score of the first `sample` items; the row is `short` where it left fewer than C.
    `capacity` is the room for candidates of a row, at least C + LANES.
    """
    count, width = items.shape[1], tiles.shape[2]
    product = np.empty((4, width), np.float32)
    bits = product.view(np.uint32)
    keys = np.empty((BLOCK_ROWS, capacity), np.uint64)
    best = np.empty(rank, np.float32)
    bit_of = np.uint32(1) << np.arange(LANES).astype(np.uint32)
    sizes = np.empty(BLOCK_ROWS, np.int64)
    thresholds = np.empty(BLOCK_ROWS, np.float32)
    waiting = np.empty(BLOCK_ROWS, np.int64)  # rows that a tile may have something for
    for start in range(begin, end, BLOCK_ROWS):
        number = min(BLOCK_ROWS, end - start)
        sizes[:] = 0
        thresholds[:] = -np.inf
        for m in range(len(tiles)):
            length = 0
            for row in range(number):
                if lengths[start + row] * longest[m] >= thresholds[row]:
                    waiting[length] = start + row
                    length += 1
            for first in range(0, length, 4):
                together = min(4, length - first)
                for place in range(first + together, first + 4):
                    waiting[place] = waiting[first]
                _products(queries, waiting[first : first + 4], tiles[m], product)
                for side in range(together):
                    n = waiting[first + side]
                    row = n - start
                    own = thresholds[row : row + 1]
                    if m == 0:
                        own[0] = _start_threshold(product[side, :sample], item_at[0], excluded[n], best)
                    sizes[row] = _collect(
                        product[side], bits[side], item_at[m], excluded[n], count, bit_of, own, keys[row], sizes[row]
                    )
                    if m + 1 < len(tiles) and sizes[row] >= TIGHT * count:
                        _keep_largest(keys[row], sizes[row], count)
                        sizes[row] = count
                        _worst_score(keys[row], count, own.view(np.uint32))
        for row in range(number):
            short[start + row] = sizes[row] < count and thresholds[row] > -np.inf
            _write_best(keys[row], sizes[row], items[start + row], scores[start + row].view(np.uint32))


@Kernel
def first_allowed(begin: Int, end: Int, ranking: Ints1, excluded: Bytes2, chosen: Ints2Out) -> None:
    """The first items of `ranking` that are not `excluded` in each row; -1 fills the rest of `chosen` [N, n]."""
    count = chosen.shape[1]
    for n in range(begin, end):
        place = 0
        for item in ranking:
            if place == count:
                break
            if not _has_bit(excluded[n], item):
                chosen[n, place] = item
                place += 1
        for rest in range(place, count):
            chosen[n, rest] = -1


@Kernel
def vote(
    begin: Int,
    end: Int,
    history: Ints2,
    weight: Floats1,
    neighbours: Ints2,
    likeness: Floats2,
    excluded: Bytes2,
    chosen: Ints2Out,
    scores: Floats2Out,
) -> None:
    """Items of the largest sum, over the history [N, H] and its `weight` [H], of their likeness to what was consumed.

    `neighbours` [I, M] are the items most like each, of `likeness` [I, M]; -1 where there are fewer.
    """
    num_items, width = neighbours.shape
    total = np.zeros(num_items, np.float32)
    touched = np.empty(history.shape[1] * width, np.int32)
    keys = np.empty(history.shape[1] * width, np.uint64)
    bits = total.view(np.uint32)
    for n in range(begin, end):
        number = 0
        for h in range(history.shape[1]):
            item = history[n, h]
            if item < 0:
                continue
            for m in range(width):
                other = neighbours[item, m]
                if other < 0:
                    break
                if total[other] == 0:
                    touched[number] = other
                    number += 1
                total[other] += weight[h] * likeness[item, m]
        size = 0
        for place in range(number):
            other = touched[place]
            if not _has_bit(excluded[n], other):
                keys[size] = _key(bits[other], other)
                size += 1
        _write_best(keys, size, chosen[n], scores[n].view(np.uint32))
        for place in range(number):
            total[touched[place]] = 0


@Kernel
def share_out(
    begin: Int,
    end: Int,
    profile: Floats2,
    starts: Longs1,
    members: Ints1,
    excluded: Bytes2,
    chosen: Ints2Out,
    scores: Floats2Out,
) -> None:
    """Takes items of categories in proportion to a user's `profile` [N, G], by D'Hondt's highest quotients.

    `members[starts[g] : starts[g + 1]]` are a category's items in the order in which they are taken. The score is the quotient
    that won the place.
    """
    num_categories, count = profile.shape[1], chosen.shape[1]
    gone = np.empty(excluded.shape[1], np.uint8)
    cursor = np.empty(num_categories, np.int64)
    quotient = np.empty(num_categories, np.float32)
    taken = np.empty(num_categories, np.int64)
    for n in range(begin, end):
        gone[:] = excluded[n]
        for g in range(num_categories):
            cursor[g], taken[g], quotient[g] = starts[g], 0, profile[n, g]
        place = 0
        while place < count:
            best = np.argmax(quotient)
            if quotient[best] <= 0:
                break
            while cursor[best] < starts[best + 1] and _has_bit(gone, members[cursor[best]]):
                cursor[best] += 1
            if cursor[best] == starts[best + 1]:
                quotient[best] = 0
                continue
            item = members[cursor[best]]
            gone[item >> 3] |= np.uint8(1 << (item & 7))
            chosen[n, place], scores[n, place] = item, quotient[best]
            place += 1
            taken[best] += 1
            quotient[best] = profile[n, best] / np.float32(taken[best] + 1)
        for rest in range(place, count):
            chosen[n, rest], scores[n, rest] = -1, 0


@Kernel
def merge(
    begin: Int,
    end: Int,
    num_items: Int,
    found: Ints2,
    quota: Longs1,
    items: Ints2Out,
    first: Ints2Out,
    brought: Ints2Out,
) -> None:
    """The union of what J channels found: `found` [N, J * D] holds D items of each, best first, -1 where there are fewer.

    Every channel places the best `quota` [J] of its items that none before it has placed; what then is left of the places
    goes to the channels in turn. `first` [N, C] is the channel that placed an item, `brought` the bits of all that found it.
    """
    channels, count = len(quota), items.shape[1]
    depth = found.shape[1] // channels
    place_of = np.full(num_items, -1, np.int32)
    cursor = np.empty(channels, np.int64)
    for n in range(begin, end):
        place = 0
        for j in range(channels):
            taken, at = 0, j * depth
            while at < (j + 1) * depth and taken < quota[j] and found[n, at] >= 0:
                item = found[n, at]
                if place_of[item] < 0:
                    place_of[item] = place
                    items[n, place], first[n, place], brought[n, place] = item, j, 0
                    place += 1
                    taken += 1
                at += 1
            cursor[j] = at
        moving = True
        while place < count and moving:
            moving = False
            for j in range(channels):
                while place < count and cursor[j] < (j + 1) * depth and found[n, cursor[j]] >= 0:
                    item = found[n, cursor[j]]
                    cursor[j] += 1
                    if place_of[item] < 0:
                        place_of[item] = place
                        items[n, place], first[n, place], brought[n, place] = item, j, 0
                        place += 1
                        moving = True
                        break
        for j in range(channels):
            for at in range(j * depth, (j + 1) * depth):
                if found[n, at] < 0:
                    break
                if place_of[found[n, at]] >= 0:
                    brought[n, place_of[found[n, at]]] |= np.int32(1) << np.int32(j)
        for at in range(place):
            place_of[items[n, at]] = -1
        for rest in range(place, count):
            items[n, rest], first[n, rest], brought[n, rest] = -1, -1, 0


@Kernel
def dense(
    begin: Int, end: Int, inputs: Floats2, weights: Floats2, bias: Floats1, rectify: Int, outputs: Floats2Out
) -> None:
    """A layer of a network: `outputs` [N, out] of `inputs` [N, in] by `weights` [in, out], `in` a multiple of 4, and `bias` [out].

    What is below 0 becomes 0 where `rectify` is 1.
    """
    rows = np.empty(4, np.int64)
    product = np.empty((4, outputs.shape[1]), np.float32)
    for first in range(begin, end, 4):
        for side in range(4):
            rows[side] = min(first + side, end - 1)
        _products(inputs, rows, weights, product)
        for side in range(min(4, end - first)):
            for j in range(len(bias)):
                total = product[side, j] + bias[j]
                outputs[first + side, j] = max(total, np.float32(0)) if rectify == 1 else total


@Kernel
def fold_in(
    begin: Int,
    end: Int,
    vectors: Floats2,
    gram: Floats2,
    history: Ints2,
    confidence: Floats1,
    solved: Floats2Out,
) -> None:
    """Solves (gram + sum c v v') x = sum (1 + c) v for each row, v the `vectors` [I, d] of its `history` [N, H] and c the
    `confidence` [H] of their places; of an item that stands there more than once the first place counts.

    By Gauss' elimination without pivots, which a symmetric positive definite matrix does not need. `solved` [N, d] is 0 for
    a row without history.
    """
    width, places = vectors.shape[1], history.shape[1]
    left = np.empty((width, width), np.float32)
    right = np.empty(width, np.float32)
    met = np.full(len(vectors), -1, np.int64)  # the last row whose history has the item
    items, weight = np.zeros(places + 3, np.int64), np.zeros(places + 3, np.float32)
    for n in range(begin, end):
        number = 0
        for place in range(places):
            item = history[n, place]
            if item >= 0 and met[item] < n:
                met[item] = n
                items[number], weight[number] = item, confidence[place]
                number += 1
        for spare in range(number, number + 3):
            items[spare], weight[spare] = 0, 0
        left[:, :] = gram
        right[:] = 0
        for place in range(number):
            vector = vectors[items[place]]
            for b in range(width):
                right[b] = _fma(np.float32(1) + weight[place], vector[b], right[b])
        for place in range(0, number, 4):
            v0, v1, v2, v3 = (
                vectors[items[place]],
                vectors[items[place + 1]],
                vectors[items[place + 2]],
                vectors[items[place + 3]],
            )
            c0, c1, c2, c3 = weight[place], weight[place + 1], weight[place + 2], weight[place + 3]
            for a in range(width):
                s0, s1, s2, s3 = c0 * v0[a], c1 * v1[a], c2 * v2[a], c3 * v3[a]
                row = left[a]
                for b in range(width):
                    row[b] = _fma(s3, v3[b], _fma(s2, v2[b], _fma(s1, v1[b], _fma(s0, v0[b], row[b]))))
        for k in range(width):
            pivot = left[k]
            for a in range(k + 1, width):
                factor, row = -pivot[a] / pivot[k], left[a]
                for b in range(k, width):
                    row[b] = _fma(factor, pivot[b], row[b])
                right[a] = _fma(factor, right[k], right[a])
        for k in range(width - 1, -1, -1):
            total = right[k]
            for b in range(k + 1, width):
                total = _fma(-left[k, b], solved[n, b], total)
            solved[n, k] = total / left[k, k]


@Kernel
def place_newcomers(
    begin: Int,
    end: Int,
    items: Ints2,
    scores: Floats2,
    is_newcomer: Flags1,
    found: Ints2,
    found_scores: Floats2,
    chosen: Ints2Out,
    chosen_scores: Floats2Out,
) -> None:
    """`items` [N, C], best first, the last of which make room for the newcomers `found` [N, W] that are not among them.

    Both searches order alike, so the newcomers among the items are the first of those found. Of equal scores the item goes first.
    """
    count, wanted = items.shape[1], found.shape[1]
    for n in range(begin, end):
        among, there = 0, 0
        for place in range(count):
            among += items[n, place] >= 0 and is_newcomer[items[n, place]]
        for place in range(wanted):
            there += found[n, place] >= 0
        room = count - among - max(there - among, 0)  # for others
        at, newcomer = 0, among
        for place in range(count):
            while at < count and items[n, at] >= 0 and room <= 0 and not is_newcomer[items[n, at]]:
                at += 1
            has_item, has_newcomer = at < count and items[n, at] >= 0, newcomer < there
            if has_item and not (has_newcomer and found_scores[n, newcomer] > scores[n, at]):
                room -= not is_newcomer[items[n, at]]
                chosen[n, place], chosen_scores[n, place] = items[n, at], scores[n, at]
                at += 1
            elif has_newcomer:
                chosen[n, place], chosen_scores[n, place] = found[n, newcomer], found_scores[n, newcomer]
                newcomer += 1
            else:
                chosen[n, place], chosen_scores[n, place] = -1, 0


@Kernel
def score_items(begin: Int, end: Int, users: Floats2, vectors: Floats2, items: Ints2, scores: Floats2Out) -> None:
    """Inner products [N, C] of `users` [N, d] and the `vectors` [I, d] of `items` [N, C]; 0 for an item of -1."""
    for n in range(begin, end):
        user = users[n]
        for c in range(items.shape[1]):
            total = np.float32(0)
            if items[n, c] >= 0:
                vector = vectors[items[n, c]]
                for k in range(len(user)):
                    total = _fma(user[k], vector[k], total)
            scores[n, c] = total
