"""The kernels around a request against their plain numpy twins; memory is used again only when nobody holds it."""

import gc

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.testing import assert_array_equal

from envs import plain_kernels, request_kernels
from envs.buffers import Buffers
from envs.slate_env import SlateVectorEnv
from envs.world import World

USERS, ITEMS, SLOTS = 300, 101, 6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _both(name: str, inputs: list, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """What the kernel made of `outputs`, after comparing it with what its twin makes of them."""
    mine, plain = [array.copy() for array in outputs], [array.copy() for array in outputs]
    getattr(request_kernels, name)(0, USERS, *inputs, *mine)
    getattr(plain_kernels, name)(*inputs, *plain)
    for one, two in zip(mine, plain, strict=True):
        assert_array_equal(one, two, err_msg=name)
    return mine


def _excluded(rng: np.random.Generator, share: float) -> np.ndarray:
    return np.packbits(rng.random((USERS, ITEMS)) < share, axis=1, bitorder="little")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_sampled_candidates(rng: np.random.Generator, share: float) -> None:
    shuffled = np.append(rng.permutation(ITEMS), [-1, -1]).astype(np.int32)  # 103 is prime
    start, stride = rng.integers(0, 103, USERS), rng.integers(1, 103, USERS)
    chosen = np.empty((USERS, 40), np.int32)
    (chosen,) = _both("sample_candidates", [shuffled, start, stride, 60, _excluded(rng, share)], [chosen])
    assert (chosen < 0).mean() == pytest.approx({0.0: 0, 0.3: 0.02, 0.9: 0.85}[share], abs=0.05)


def test_described_candidates(rng: np.random.Generator) -> None:
    items = rng.integers(-1, ITEMS, (USERS, 20)).astype(np.int32)
    scores = rng.standard_normal(items.shape).astype(np.float32)
    clock, birth = rng.uniform(0, 1e6, USERS), rng.uniform(-1e8, 1e6, ITEMS)
    categories = rng.random((ITEMS, 7)).astype(np.float32)
    outputs = [np.empty((USERS, 20), np.int8), np.empty((USERS, 20, 9), np.float32), np.empty(USERS, np.int64)]
    mask, features, number = _both(
        "describe_candidates", [items, scores, _excluded(rng, 0.3), clock, birth, categories], outputs
    )
    assert number.min() > 0 and number.max() < 20 and (features[mask == 0] == 0).all()


def test_told_history(rng: np.random.Generator) -> None:
    history = rng.integers(-1, ITEMS, (USERS, 12)).astype(np.int32)
    clock = rng.uniform(0, 1e6, USERS)
    days = rng.uniform(-50, 12, history.shape).astype(np.float32)
    _both("tell_history", [history, days, clock], [np.empty_like(history), np.empty_like(days)])


def test_shown_slates(rng: np.random.Generator) -> None:
    items = rng.integers(0, ITEMS, (USERS, 9)).astype(np.int32)
    mask = (rng.random(items.shape) < 0.8).astype(np.int8)
    actions = rng.integers(0, 9, (USERS, SLOTS))
    clock, birth = rng.uniform(0, 1e6, USERS), rng.uniform(-1e8, 1e6, ITEMS)
    outputs = [np.empty((USERS, SLOTS), np.int32), np.empty((USERS, SLOTS), np.float32)]
    slates, _ = _both("show", [actions, items, mask, clock, birth], outputs)
    assert 0.2 < (slates >= 0).mean() < 0.8


@pytest.mark.parametrize("excludes", [True, False])
def test_remembered_items(rng: np.random.Generator, excludes: bool) -> None:
    rows = np.arange(0, USERS)
    items, clock = rng.integers(0, ITEMS, USERS).astype(np.int32), rng.uniform(0, 1e6, USERS)
    state = [
        rng.integers(-1, ITEMS, (USERS, 12)).astype(np.int32),
        rng.random((USERS, 12)).astype(np.float32),
        _excluded(rng, 0.2),
    ]
    history, _, seen = _both("remember", [rows, items, clock, excludes], state)
    assert_array_equal(history[:, 0], items)
    assert_array_equal(history[:, 1:], state[0][:, :-1])
    assert (seen != state[2]).any() == excludes


@pytest.mark.parametrize("excludes", [True, False])
def test_unpacked_lives(rng: np.random.Generator, excludes: bool) -> None:
    offset = np.append(0, np.cumsum(rng.integers(0, 20, USERS)))
    items = rng.integers(0, ITEMS, offset[-1]).astype(np.int32)
    days = rng.random(offset[-1]).astype(np.float32)
    state = [
        rng.integers(-1, ITEMS, (USERS, 12)).astype(np.int32),
        rng.random((USERS, 12)).astype(np.float32),
        _excluded(rng, 0.2),
    ]
    history, *_ = _both("unpack_lives", [offset, items, days, excludes], state)
    assert_array_equal(history[0, : offset[1]], items[: offset[1]][::-1][:12])


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("hold", [np.asarray, lambda a: a[3:, 1], torch.from_numpy, lambda a: pa.array(a.reshape(-1))])
def test_memory_that_somebody_holds_is_not_used_again(hold) -> None:
    buffers = Buffers()
    first = buffers.empty("features", (50, 7), np.float32)
    address = _address(first)
    holder = hold(first)
    del first
    for _ in range(5):
        assert _address(buffers.empty("features", (50, 7), np.float32)) != address
    del holder
    gc.collect()
    again = [buffers.empty("features", shape, np.float32) for shape in ((50, 7), (20, 7))]
    assert len({_address(array) for array in again}) == 2


def test_memory_that_nobody_holds_is_used_again() -> None:
    buffers = Buffers()
    address = _address(buffers.empty("features", (50, 7), np.float32))
    assert _address(buffers.empty("features", (50, 7), np.float32)) == address
    assert _address(buffers.empty("mask", (50, 7), np.float32)) != address


def test_observations_handed_out_never_change(world: World) -> None:
    env = SlateVectorEnv(16, world=world)
    observation, _ = env.reset(seed=0)
    kept, copies = [observation], [{name: array.copy() for name, array in observation.items()}]
    for _ in range(6):
        observation, *_ = env.step(np.tile(np.arange(10), (16, 1)))
        kept.append(observation)
        copies.append({name: array.copy() for name, array in observation.items()})
    for observation, copy in zip(kept, copies, strict=True):
        for name, array in observation.items():
            assert_array_equal(array, copy[name], err_msg=name)
