"""The re-rankers' hot loops in numba; plain references stand in `tests/agents/rerankers/`, and tests compare the two.

Candidates lie along the last axis of all that is kept per request, so that sums over few categories run over whole vectors of
candidates. All that the kernels call stands in this one module, since numba keeps compiled code for as long as a
kernel's own file does not change.
"""

from typing import Annotated, Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from envs.compiled import Flags2, Float, Floats1, Floats2, Floats2Out, Int, Ints2, Kernel

Floats3 = Annotated[NDArray[np.float32], types.Array(types.float32, 3, "C", readonly=True)]
Doubles2 = Annotated[NDArray[np.float64], types.Array(types.float64, 2, "C", readonly=True)]
Longs2Out = Annotated[NDArray[np.int64], types.Array(types.int64, 2, "C")]

_MASKED = np.float32(-1e30)
"""Gain of a masked candidate: below all others, above those already chosen."""
_CHOSEN = np.float32(-np.inf)
_LEAST = np.float32(1e-6)
"""Smallest squared distance from the slate's span; keeps rounding from making one negative."""
_ALIKE = np.float32(1e-6)
"""Deviation up to which values count as alike."""
_FIRST_CATEGORY = 2  # as envs.observation.FIRST_CATEGORY


@numba.njit
def _directions(features: Any, directions: Any) -> None:
    """Fills [G, C] with the categories of the candidates [C, 2 + G], scaled to unit length."""
    for candidate in range(features.shape[0]):
        square = np.float32(0)
        for category in range(directions.shape[0]):
            square += features[candidate, _FIRST_CATEGORY + category] ** 2
        scale = np.float32(1) / np.sqrt(square) if square > 0 else np.float32(0)
        for category in range(directions.shape[0]):
            directions[category, candidate] = features[candidate, _FIRST_CATEGORY + category] * scale


@numba.njit
def _cosines(directions: Any, chosen: int, cosine: Any) -> None:
    """Fills [C] with the cosines of all candidates to the chosen one."""
    cosine[:] = np.float32(0)
    for category in range(directions.shape[0]):
        share = directions[category, chosen]
        if share != 0:
            for candidate in range(len(cosine)):
                cosine[candidate] += share * directions[category, candidate]


@numba.njit(fastmath={"nnan", "nsz"})
def _maximum(gain: Any) -> Any:
    best = gain[0]
    for candidate in range(len(gain)):
        best = gain[candidate] if gain[candidate] > best else best
    return best


@numba.njit
def _largest(gain: Any) -> int:
    """The first index of the largest gain."""
    best = _maximum(gain)
    for candidate in range(len(gain)):
        if gain[candidate] == best:
            return candidate
    return 0


@numba.njit
def _fill_row(features: Any, diversity: Any, base: Any, scratch: Any, directions: Any, slate: Any) -> None:
    """Slot by slot the candidate of largest `base` [C] - diversity * largest cosine to the slate so far; `base` is used up."""
    count, slots = len(base), len(slate)
    gain, likeness, cosine = scratch[0], scratch[1], scratch[2]
    if diversity != 0:
        _directions(features, directions)
    for candidate in range(count):
        gain[candidate] = base[candidate]
        likeness[candidate] = np.float32(0)
    for slot in range(slots):
        chosen = _largest(gain)
        slate[slot] = chosen
        base[chosen] = _CHOSEN
        if diversity == 0:
            gain[chosen] = _CHOSEN
        elif slot + 1 < slots:
            _cosines(directions, chosen, cosine)
            for candidate in range(count):
                likeness[candidate] = max(likeness[candidate], cosine[candidate])
                gain[candidate] = base[candidate] - diversity * likeness[candidate]


@Kernel
def fill_weighted(
    begin: Int, end: Int, value: Floats2, mask: Flags2, features: Floats3, diversity: Floats1, slates: Longs2Out
) -> None:
    """Slot by slot the candidate of largest value - diversity * largest cosine to the slate so far.

    Args:
        begin: first request.
        end: request after the last.
        value: [N, C] worth of each candidate on its own.
        mask: [N, C] 1 where it may be shown.
        features: [N, C, 2 + G] of the candidates, categories last.
        diversity: [N] weight of being unlike the slate so far.
        slates: [N, K] is filled.
    """
    count = value.shape[1]
    directions = np.empty((features.shape[2] - _FIRST_CATEGORY, count), np.float32)
    scratch, base = np.empty((3, count), np.float32), np.empty(count, np.float32)
    for row in range(begin, end):
        for candidate in range(count):
            base[candidate] = value[row, candidate] if mask[row, candidate] == 1 else _MASKED
        _fill_row(features[row], diversity[row], base, scratch, directions, slates[row])


@numba.njit
def _standardise(values: Any, mask: Any, number: Any) -> None:
    """Takes the mean of the `number` unmasked `values` [C] from these and divides by their deviation; the others become 0, and
    all do where they are alike."""
    total = 0.0
    for candidate in range(len(values)):
        total += values[candidate] if mask[candidate] == 1 else 0.0
    mean, squares = np.float32(total / max(number, 1)), 0.0
    for candidate in range(len(values)):
        values[candidate] = values[candidate] - mean if mask[candidate] == 1 else np.float32(0)
        squares += np.float64(values[candidate]) ** 2
    deviation = np.float32(np.sqrt(squares / max(number, 1)))
    scale = np.float32(1) / deviation if deviation > _ALIKE else np.float32(0)
    for candidate in range(len(values)):
        values[candidate] *= scale


@Kernel
def standardise(begin: Int, end: Int, values: Floats2, mask: Flags2, outputs: Floats2Out) -> None:
    """Less the mean and over the standard deviation of the unmasked `values` of each row [N, C]; 0 where all are alike."""
    for row in range(begin, end):
        number = 0
        for candidate in range(values.shape[1]):
            number += mask[row, candidate] == 1
            outputs[row, candidate] = values[row, candidate]
        _standardise(outputs[row], mask[row], number)


@Kernel
def fill_by_terms(
    begin: Int,
    end: Int,
    items: Ints2,
    mask: Flags2,
    features: Floats3,
    popularity: Floats1,
    weights: Floats2,
    fade: Float,
    slates: Longs2Out,
) -> None:
    """`fill_weighted` with the worth of a candidate by its terms, in one pass over its features.

    Args:
        begin: first request.
        end: request after the last.
        items: [N, C] the candidates.
        mask: [N, C] 1 where one may be shown.
        features: [N, C, 2 + G] score, age in days, categories.
        popularity: [I] of the items.
        weights: [N, 4] of relevance, diversity, freshness, popularity.
        fade: freshness is exp(-fade * age).
        slates: [N, K] is filled.
    """
    count = items.shape[1]
    directions = np.empty((features.shape[2] - _FIRST_CATEGORY, count), np.float32)
    scratch, base, popular = np.empty((3, count), np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    for row in range(begin, end):
        number, candidates = 0, features[row]
        for candidate in range(count):
            number += mask[row, candidate] == 1
            base[candidate] = candidates[candidate, 0]
        _standardise(base, mask[row], number)
        relevance, freshness, popularity_weight = weights[row, 0], weights[row, 2], weights[row, 3]
        for candidate in range(count):
            base[candidate] *= relevance
        if freshness != 0:
            for candidate in range(count):
                base[candidate] += freshness * np.exp(-fade * candidates[candidate, 1])
        if popularity_weight != 0:
            for candidate in range(count):
                popular[candidate] = popularity[max(items[row, candidate], 0)]
            _standardise(popular, mask[row], number)
            for candidate in range(count):
                base[candidate] += popularity_weight * popular[candidate]
        for candidate in range(count):
            if mask[row, candidate] != 1:
                base[candidate] = _MASKED
        _fill_row(candidates, weights[row, 1], base, scratch, directions, slates[row])


@Kernel
def fill_determinantal(
    begin: Int,
    end: Int,
    relevance: Floats2,
    mask: Flags2,
    features: Floats3,
    trade_off: Float,
    distinctness: Float,
    slates: Longs2Out,
) -> None:
    """Slot by slot the candidate that adds most to theta * relevance + (1 - theta) * log det of the slate's likeness.

    Args:
        begin: first request.
        end: request after the last.
        relevance: [N, C] of the candidates.
        mask: [N, C] 1 where a candidate may be shown.
        features: [N, C, 2 + G] of the candidates, categories last.
        trade_off: theta.
        distinctness: delta; likeness is (1 - delta) * cosine, and 1 of a candidate to itself.
        slates: [N, K] is filled.
    """
    slots, count = slates.shape[1], relevance.shape[1]
    directions = np.empty((features.shape[2] - _FIRST_CATEGORY, count), np.float32)
    gain, likeness, square = np.empty((3, count), np.float32)
    factor = np.empty((slots, count), np.float32)  # rows of the Cholesky factor, for all candidates
    diverse = np.float32(1) - trade_off
    for row in range(begin, end):
        _directions(features[row], directions)
        for candidate in range(count):
            square[candidate] = np.float32(1)
            gain[candidate] = trade_off * relevance[row, candidate] if mask[row, candidate] == 1 else _MASKED
        for slot in range(slots):
            chosen = _largest(gain)
            slates[row, slot] = chosen
            gain[chosen] = _CHOSEN
            if slot + 1 < slots:
                _cosines(directions, chosen, likeness)
                for candidate in range(count):
                    likeness[candidate] *= np.float32(1) - distinctness
                for before in range(slot):
                    share = factor[before, chosen]
                    for candidate in range(count):
                        likeness[candidate] -= share * factor[before, candidate]
                scale = np.float32(1) / np.sqrt(square[chosen])
                for candidate in range(count):
                    factor[slot, candidate] = likeness[candidate] * scale
                    square[candidate] = max(square[candidate] - factor[slot, candidate] ** 2, _LEAST)
                for candidate in range(count):
                    if gain[candidate] > _MASKED:
                        gain[candidate] = trade_off * relevance[row, candidate] + diverse * np.log(square[candidate])


@Kernel
def fill_calibrated(
    begin: Int,
    end: Int,
    relevance: Floats2,
    mask: Flags2,
    features: Floats3,
    proportions: Doubles2,
    trade_off: Float,
    smoothing: Float,
    slates: Longs2Out,
) -> None:
    """Slot by slot the candidate that adds most to (1 - lambda) * relevance - lambda * KL(p || smoothed categories of the slate).

    Of the divergence only sum p_g log q_g depends on the slate, and a candidate changes it in its own categories only.

    Args:
        begin: first request.
        end: request after the last.
        relevance: [N, C] of the candidates.
        mask: [N, C] 1 where a candidate may be shown.
        features: [N, C, 2 + G] of the candidates, categories last.
        proportions: [N, G] p; 0 for a user without history.
        trade_off: lambda.
        smoothing: alpha.
        slates: [N, K] is filled.
    """
    slots, count, categories = slates.shape[1], relevance.shape[1], proportions.shape[1]
    gain = np.empty(count, np.float32)
    own = np.empty((count, categories), np.int64)  # the categories of a candidate that count, and how many they are
    number = np.empty(count, np.int64)
    has_category = np.empty(count, np.bool_)
    total, term = np.empty((2, categories), np.float64)
    relevant, slate_share = np.float32(1) - trade_off, 1.0 - smoothing
    for row in range(begin, end):
        total[:] = 0.0
        members = 0  # items in the slate that have a category
        for candidate in range(count):
            number[candidate] = 0
            has_category[candidate] = False
            for category in range(categories):
                if features[row, candidate, _FIRST_CATEGORY + category] > 0:
                    has_category[candidate] = True
                    if proportions[row, category] > 0:
                        own[candidate, number[candidate]] = category
                        number[candidate] += 1
            gain[candidate] = np.float32(0) if mask[row, candidate] == 1 else _MASKED
        for slot in range(slots):
            with_one, without = 0.0, 0.0
            for category in range(categories):
                wanted = proportions[row, category]
                if wanted > 0:
                    term[category] = wanted * np.log(slate_share * total[category] / (members + 1) + smoothing * wanted)
                    with_one += term[category]
                    without += wanted * np.log(slate_share * total[category] / max(members, 1) + smoothing * wanted)
            for candidate in range(count):
                if gain[candidate] > _MASKED:
                    match = with_one if has_category[candidate] else without
                    for place in range(number[candidate]):
                        category = own[candidate, place]
                        wanted = proportions[row, category]
                        together = total[category] + features[row, candidate, _FIRST_CATEGORY + category]
                        match += wanted * np.log(slate_share * together / (members + 1) + smoothing * wanted)
                        match -= term[category]
                    gain[candidate] = relevant * relevance[row, candidate] + trade_off * match
            chosen = _largest(gain)
            slates[row, slot] = chosen
            gain[chosen] = _CHOSEN
            members += has_category[chosen]
            for category in range(categories):
                total[category] += features[row, chosen, _FIRST_CATEGORY + category]
