"""Every kernel against its plain numpy twin, and against itself on other rows, in other batches and on other threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

from envs import compiled, kernels, plain_kernels
from envs.kernels import VisitNumbers
from envs.randomness import Purpose, stream
from envs.users.interest import HOURS_PER_BUCKET, NUM_CONTEXTS, PLACE_EDGES
from envs.users.protocol import AGE_KNOTS, Trait, VisitParams, age_bends

Arrays = dict[str, np.ndarray]
VISITS = VisitNumbers(
    **{name: getattr(VisitParams(wide_gap_share=0.3, wide_gap_shift=2.0), name) for name in VisitNumbers._fields[:-1]},
    baseline_satisfaction=0.2,
)


def _floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def _choices(seed: int, users: int, slots: int, width: int, spread: float) -> tuple[Arrays, Arrays, np.ndarray]:
    """(inputs, empty outputs, values of the age effect) of `choose`."""
    rng = np.random.default_rng(seed)
    inputs = {
        "preference": _floats(rng, users, width, scale=spread),
        "item_vectors": _floats(rng, 300, width, scale=width**-0.5),
        "item_bias": _floats(rng, 300),
        "items": np.where(rng.random((users, slots)) < 0.1, -1, rng.integers(0, 300, (users, slots))).astype(np.int32),
        "age_days": np.exp(rng.uniform(-3, 11, (users, slots))).astype(np.float32) - 1,
        "position": -np.log(np.log2(2.0 + np.arange(slots))).astype(np.float32),
        "user": rng.integers(0, 2**40, users),
        "request": rng.integers(0, 1000, users),
    }
    outputs = {
        "slot": np.empty(users, np.int64),
        "item": np.empty(users, np.int32),
        **{name: np.empty(users, np.float32) for name in ("utility", "worth", "rating_noise")},
    }
    return inputs, outputs, _floats(rng, len(AGE_KNOTS))


def _choose(inputs: Arrays, outputs: Arrays, age_values: np.ndarray, begin: int, end: int, seed: int = 3) -> None:
    kernels.choose(
        begin,
        end,
        *(inputs[name] for name in ("preference", "item_vectors", "item_bias")),
        age_bends(age_values),
        *(inputs[name] for name in ("items", "age_days", "position")),
        0.7,
        stream(seed, Purpose.CHOICE),
        stream(seed, Purpose.RATING),
        inputs["user"],
        inputs["request"],
        *outputs.values(),
    )


def _choose_plainly(inputs: Arrays, outputs: Arrays, age_values: np.ndarray, seed: int = 3) -> None:
    plain_kernels.choose(
        *(inputs[name] for name in ("preference", "item_vectors", "item_bias")),
        age_values,
        *(inputs[name] for name in ("items", "age_days", "position")),
        0.7,
        seed,
        inputs["user"],
        inputs["request"],
        *outputs.values(),
    )


@pytest.mark.parametrize(
    ("slots", "width", "spread"), [(10, 56, 1.0), (3, 51, 0.3), (1, 7, 2.0), (23, 16, 1.0), (10, 32, 30.0)]
)
def test_choices_are_those_of_the_plain_twin(slots: int, width: int, spread: float) -> None:
    inputs, outputs, age_values = _choices(slots, 20_011, slots, width, spread)
    expected = {name: array.copy() for name, array in outputs.items()}
    _choose(inputs, outputs, age_values, 0, 20_011)
    _choose_plainly(inputs, expected, age_values)
    # two options tie within rounding about once in a million draws
    same = outputs["slot"] == expected["slot"]
    assert (~same).sum() <= 2 and 0 < (outputs["slot"] >= 0).mean() < 1
    assert_array_equal(outputs["item"][same], expected["item"][same])
    for name in ("utility", "worth", "rating_noise"):
        assert_allclose(outputs[name][same], expected[name][same], rtol=2e-5, atol=5e-5 * max(spread, 1), err_msg=name)


@settings(max_examples=30, deadline=None)
@given(begin=st.integers(0, 80), count=st.integers(1, 80), slots=st.sampled_from([3, 10, 13]))
def test_a_choice_depends_on_its_own_row_alone(begin: int, count: int, slots: int) -> None:
    inputs, outputs, age_values = _choices(1, 160, slots, 51, 1.0)
    some = {name: np.full_like(array, -7) for name, array in outputs.items()}
    _choose(inputs, outputs, age_values, 0, 160)
    _choose(inputs, some, age_values, begin, begin + count)
    for name, array in outputs.items():
        assert_array_equal(some[name][begin : begin + count], array[begin : begin + count], err_msg=name)
        assert (some[name][:begin] == -7).all() and (some[name][begin + count :] == -7).all()
    moved = {
        name: array[begin : begin + count].copy() if len(array) == 160 else array for name, array in inputs.items()
    }
    alone = {name: array[:count].copy() for name, array in outputs.items()}
    _choose(moved, alone, age_values, 0, count)
    for name, array in outputs.items():
        assert_array_equal(alone[name], array[begin : begin + count], err_msg=name)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for count in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        assert compiled.threads() == int(count)
        state, out = _departing(9_001)
        compiled.over_rows(kernels.depart, 9_001, VISITS, *_streams(4), *state.values(), *out.values())
        results.append({**state, **out})
    for other in results[1:]:
        for name, array in results[0].items():
            assert_array_equal(other[name], array, err_msg=name)


def test_every_row_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for rows in (0, 1, 1023, 2048, 3001, 10_000):
        counts = np.zeros(rows, int)

        def count(begin: int, end: int, counts: np.ndarray = counts) -> None:
            counts[begin:end] += 1

        compiled.over_rows(count, rows)  # type: ignore[arg-type]
        assert (counts == 1).all()


def _departing(users: int) -> tuple[Arrays, Arrays]:
    """(state, empty outputs) of `depart`."""
    rng = np.random.default_rng(2)
    state = {
        "user": np.arange(users) * 7,
        "item": rng.integers(-1, 2, users).astype(np.int32),
        "worth": np.abs(_floats(rng, users)),
        "traits": _floats(rng, users, len(Trait), scale=0.3),
        "clock": rng.uniform(0, 1e6, users),
        "visit": rng.integers(0, 9, users),
        "request": rng.integers(0, 99, users),
        "requests_in_visit": rng.integers(0, 9, users),
        "consumed_in_visit": rng.integers(0, 9, users),
        "misses": rng.integers(0, 9, users),
        "satisfaction": np.abs(_floats(rng, users)),
    }
    out = {"leaves": np.empty(users, bool), "churned": np.empty(users, bool), "days_away": np.empty(users, np.float32)}
    return state, out


def _streams(seed: int) -> list[np.uint64]:
    return [stream(seed, purpose) for purpose in (Purpose.LEAVE, Purpose.RETURN, Purpose.GAP, Purpose.GAP_KIND)]


def test_departures_are_those_of_the_plain_twin() -> None:
    state, out = _departing(20_000)
    plain_state, plain_out = _departing(20_000)
    kernels.depart(0, 20_000, VISITS, *_streams(4), *state.values(), *out.values())
    plain_kernels.depart(VISITS, 4, *plain_state.values(), *plain_out.values())
    assert 0.05 < out["leaves"].mean() < 0.5 and out["churned"].mean() > 0.01
    for name, array in {**state, **out}.items():
        expected = {**plain_state, **plain_out}[name]
        if array.dtype.kind == "f":
            assert_allclose(array, expected, rtol=3e-5, atol=1e-6, err_msg=name)
        else:
            assert (array != expected).sum() <= 1, name


def test_interests_move_as_in_the_plain_twin() -> None:
    rng = np.random.default_rng(0)
    interests = [_floats(rng, 500, 32), _floats(rng, 500, 32), np.abs(_floats(rng, 500, 19))]
    mine, plain = [a.copy() for a in interests], [a.copy() for a in interests]
    rows = rng.permutation(500)[:200]
    items = rng.integers(0, 80, 200).astype(np.int32)
    embedding, categories = _floats(rng, 80, 32), np.abs(_floats(rng, 80, 19))
    kernels.consume(0, 200, 0.7, 0.05, 0.8, rows, items, embedding, categories, *mine)
    plain_kernels.consume(0.7, 0.05, 0.8, rows, items, embedding, categories, *plain)
    days = np.exp(_floats(rng, 200, scale=2.0))
    walk, plain_walk = np.empty((200, 32), np.float32), np.empty((200, 32), np.float32)
    kernels.draw_walk(0, 200, stream(5, Purpose.INTEREST_WALK), rows, rows % 7, walk)
    plain_kernels.draw_walk(5, rows, rows % 7, plain_walk)
    assert_allclose(walk, plain_walk, rtol=1e-5, atol=2e-6)
    for draws in (walk, walk[:, :0].copy()):
        kernels.pause(0, 200, 1.5, 0.7, 0.1, rows, days, draws, *mine)
        plain_kernels.pause(1.5, 0.7, 0.1, rows, days, draws, *plain)
    preferences = np.full((2, 500, 56), np.nan, np.float32)
    weights = _floats(rng, NUM_CONTEXTS, 19)
    context = [rng.uniform(0, 24, 500).astype(np.float32), rng.integers(0, 7, 500), rng.integers(0, 40, 500)]
    context[0][:3] = [0, 4, np.nextafter(np.float32(24), np.float32(0))]
    traits = _floats(rng, 500, len(Trait), scale=0.3)
    kernels.prefer(
        0, 500, 1.1, 0.8, 0.3, *mine, traits, weights, HOURS_PER_BUCKET, PLACE_EDGES, *context, preferences[0]
    )
    plain_kernels.prefer(1.1, 0.8, 0.3, *plain, traits, weights, *context, preferences[1])
    for one, two in zip([*mine, preferences[0]], [*plain, preferences[1]], strict=True):
        assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    untouched = np.setdiff1d(np.arange(500), rows)
    for one, two in zip(mine, interests, strict=True):
        assert_array_equal(one[untouched], two[untouched])


def test_items_are_picked_as_by_the_plain_twin() -> None:
    rng = np.random.default_rng(6)
    users, size = 3_000, 5 * kernels.SHELF_ITEMS
    inputs: dict = {
        "taste": _floats(rng, users, size, scale=2.0),
        "offers": np.where(rng.random((7, size)) < 0.3, -np.inf, _floats(rng, 7, size)).astype(np.float32),
        "offer": rng.integers(0, 7, users),
        "taken": rng.integers(-1, size, (users, 40)).astype(np.int32),
        "num_taken": 30,
        "uniform": rng.random(users).astype(np.float32),
    }
    inputs["offers"][6] = -np.inf  # a day on which nothing is open
    inputs["offers"][5, :-1] = -np.inf  # and one with a single item
    inputs["uniform"][:2_000:2], inputs["uniform"][1:2_000:2] = 2.0**-24, 1 - 2.0**-24
    item, utility = np.empty(users, np.int32), np.empty(users, np.float32)
    plain_item, plain_utility = item.copy(), utility.copy()
    kernels.pick(0, users, *inputs.values(), item, utility)
    plain_kernels.pick(*inputs.values(), plain_item, plain_utility)
    same = item == plain_item
    assert (~same).sum() <= 2 and len(np.unique(item)) > size / 2
    assert_array_equal(utility[same], plain_utility[same])
    assert_array_equal(item == -1, ~np.isfinite(utility))
    assert (item[inputs["offer"] == 6] == -1).all()
    others = np.flatnonzero(item >= 0)
    assert not (inputs["taken"][others, :30] == item[others, None]).any()
    moved = item.copy()
    kernels.pick(0, 50, inputs["taste"][70:], inputs["offers"], inputs["offer"][70:], inputs["taken"][70:], 30,
                 inputs["uniform"][70:], moved, utility)  # fmt: skip
    assert_array_equal(moved[:50], item[70:120])


def _samples(users: int, size: int, wide: int = 3) -> np.ndarray:
    """[users, wide] sampled of 12 items, of which some are excluded or taken; every other user has none left but item 7."""
    excluded = np.tile(np.packbits(np.isin(np.arange(40), [2, 3]), bitorder="little"), (users, 1))
    excluded[::2] = np.packbits(np.arange(40) != 7, bitorder="little")
    taken = np.tile(np.array([-1, 9, 30], np.int32), (users, 1))
    pool = np.array([*range(11), 31], np.int32)[:size]
    inputs = (np.arange(users) * 7 % 1000, np.arange(users) % 3, pool, excluded, taken)
    chosen, plain = np.empty((users, wide), np.int32), np.empty((users, wide), np.int32)
    kernels.sample_items(0, users, stream(5, Purpose.AGENT), *inputs, chosen)
    plain_kernels.sample_items(5, *inputs, plain)
    assert_array_equal(chosen, plain)
    kernels.sample_items(3, users, stream(5, Purpose.AGENT), *inputs, plain)
    assert_array_equal(chosen[3:], plain[3:])
    return chosen


def test_samples_are_the_plain_twins_and_each_item_comes_as_often_in_each_place() -> None:
    chosen = _samples(6_000, 12)
    assert (chosen[::2] == [7, -1, -1]).all()
    free = np.array([0, 1, 4, 5, 6, 7, 8, 10, 31])
    counts = np.array([[(chosen[1::2, place] == item).sum() for item in free] for place in range(3)])
    assert (counts.sum(axis=1) == 3_000).all()
    # 26 degrees of freedom: beyond this in one of a thousand seeds
    assert ((counts - 3_000 / 9) ** 2 / (3_000 / 9)).sum() < 54.1
    assert (np.diff(np.sort(chosen[1::2], axis=1), axis=1) > 0).all()


def test_samples_of_few_items_end_with_none() -> None:
    chosen = _samples(40, 4)
    assert (np.sort(chosen[1::2], axis=1) == [-1, 0, 1]).all() and (chosen[::2] == -1).all()
    assert (_samples(4, 0) == -1).all()


@njit
def _logs_and_exps(positive: np.ndarray, any_sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logs, exps = np.empty_like(positive), np.empty_like(any_sign)
    for n in range(len(positive)):
        logs[n] = kernels._log(positive[n])
    for n in range(len(any_sign)):
        exps[n] = kernels._exp(any_sign[n])
    return logs, exps


def test_elementary_functions_are_right_to_two_units_in_the_last_place() -> None:
    uniform = ((np.arange(2**23) + 0.5) * 2.0**-23).astype(np.float32)
    positive = np.concatenate([uniform, np.exp(np.linspace(-80, 80, 100_001)).astype(np.float32)])
    any_sign = np.linspace(-87, 88, 1_000_001).astype(np.float32)
    logs, exps = _logs_and_exps(positive, any_sign)
    exact = np.log(positive.astype(np.float64))
    assert (np.abs(logs - exact) <= 2.4e-7 * np.maximum(np.abs(exact), 1e-30)).all()
    assert np.abs(exps / np.exp(any_sign.astype(np.float64)) - 1).max() < 2.4e-7
    low, high = _logs_and_exps(positive[:1], np.array([-1000, 1000], np.float32))[1]
    assert 0 < low < 1e-37 and 1e38 < high < np.inf


def test_read_only_arrays_are_taken_and_other_types_refused() -> None:
    inputs, outputs, age_values = _choices(1, 40, 10, 56, 1.0)
    for array in inputs.values():
        array.flags.writeable = False
    _choose(inputs, outputs, age_values, 0, 40)
    with pytest.raises(TypeError):
        _choose({**inputs, "preference": inputs["preference"].astype(np.float64)}, outputs, age_values, 0, 40)
