"""Counter-based randomness: a draw is a hash of (seed, purpose, keys), never the next number of a stream.

So a user's draws depend on neither the batch it is simulated in nor the worker that simulates it, and two policies that
show a user the same item in the same request meet the same taste noise.

Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3; the mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood 2014).
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import pdtr, pdtrik


class Purpose(IntEnum):
    """What a draw is for; part of its key, so that draws of different purposes are independent."""

    CHOICE = 1
    LEAVE = 2
    RETURN = 3
    GAP = 4
    RATING = 5
    INTEREST_WALK = 6
    CANDIDATES = 7
    HELD_BACK = 8
    BIRTH = 9
    AGENT = 10
    GENERATOR = 11
    TRAFFIC = 12
    SPLIT = 13
    GAP_KIND = 14
    TRAIT = 15
    POPULATION = 16
    BURN_IN = 17
    ARRIVAL = 18
    NEW_ITEM = 19
    RETIREMENT = 20
    MODIFIER = 21


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@lru_cache(maxsize=1024)
def stream(seed: int, purpose: Purpose) -> np.uint64:
    """The bits of (seed, purpose) alone, from which kernels go on with the keys of a draw."""
    return draw_bits(seed, purpose)[0]


def draw_bits(seed: int, purpose: Purpose, *keys: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each combination of the integer `keys`, which broadcast together.

    Order the keys from the slowest to the fastest axis ([N, 1] users before [N, K] items): a key costs only its own shape.
    """
    with np.errstate(over="ignore"):
        bits = _mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN * np.uint64(purpose))
        for key in keys:
            bits = _mix((bits + _GOLDEN) ^ (np.asarray(key).astype(np.int64).view(np.uint64) * _GOLDEN))
    return bits


def draw_uniform(seed: int, purpose: Purpose, *keys: ArrayLike) -> NDArray[np.float32]:
    """Uniform draws, strictly between 0 and 1."""
    top = (draw_bits(seed, purpose, *keys) >> np.uint64(41)).astype(np.float32)
    return (top + np.float32(0.5)) * np.float32(2.0**-23)


def draw_gumbel(seed: int, purpose: Purpose, *keys: ArrayLike) -> NDArray[np.float32]:
    """Standard Gumbel draws, the taste noise of a multinomial logit."""
    return -np.log(-np.log(draw_uniform(seed, purpose, *keys)))


def draw_normal(seed: int, purpose: Purpose, *keys: ArrayLike) -> NDArray[np.float32]:
    """Standard normal draws (Box and Muller 1958), both uniforms from the same 64 bits."""
    bits = draw_bits(seed, purpose, *keys)
    first = ((bits >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    second = (bits & np.uint64(0x7FFFFF)).astype(np.float32) * np.float32(2.0**-23)
    return np.sqrt(np.float32(-2.0) * np.log(first)) * np.cos(np.float32(2.0 * np.pi) * second)


def draw_poisson(seed: int, purpose: Purpose, mean: float, *keys: ArrayLike) -> NDArray[np.int64]:
    """Poisson draws of the given mean, by the inverse of the distribution function."""
    uniform = draw_uniform(seed, purpose, *keys).astype(np.float64)
    count = np.maximum(np.ceil(pdtrik(uniform, mean)), 0)
    fewer = np.maximum(count - 1, 0)
    # the inverse is rounded, so the number below may be the right one
    return np.where(pdtr(fewer, mean) >= uniform, fewer, count).astype(np.int64)
