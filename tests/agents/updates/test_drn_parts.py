"""What DRN is made of: interleaving against brute force, activeness by hand, the memory against a plain loop."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.updates.drn.activeness import Activeness
from agents.updates.drn.interleave import interleaved, rank_chances
from agents.updates.drn.memory import NOTHING, UNKNOWN, Memory

VALUES = np.array([[0.1, 0.9, 0.5, 0.3]]), np.array([[0.8, 0.1, 0.2, 0.7]])
MASK = np.array([[1, 1, 1, 1]])


def chances(steepness=1.0, mask=MASK):
    return [rank_chances(values, mask, steepness) for values in VALUES]


def draws_of(rows, slots, seed=0):
    return np.random.default_rng(seed).random((rows, slots, 2))


def test_a_ranking_draws_by_the_power_of_the_rank():
    own = rank_chances(VALUES[0], MASK, 3.0)[0]
    weights = np.array([4.0, 1.0, 2.0, 3.0]) ** -3
    assert_allclose(own, weights / weights.sum())
    masked = rank_chances(VALUES[0], np.array([[1, 0, 1, 1]]), 3.0)[0]
    assert masked[1] == 0 and masked.argmax() == 2
    assert_allclose(masked.sum(), 1)
    # the earlier of equals is ranked first
    assert_allclose(rank_chances(np.zeros((1, 3)), np.ones((1, 3)), 1.0)[0] * 11, [6, 3, 2])


def brute_force(own, rival, slots):
    """slate -> (its chance, chance that the rival filled each slot given the slate), over all coins and items."""
    found = {}
    for coins in product((0, 1), repeat=slots):
        for slate in product(range(len(own)), repeat=slots):
            chance, taken = 0.5**slots, []
            for coin, item in zip(coins, slate, strict=True):
                ranking = (own, rival)[coin]
                left = sum(ranking[other] for other in range(len(own)) if other not in taken)
                chance *= 0.0 if item in taken else ranking[item] / left
                taken.append(item)
            if chance:
                total, by_rival = found.get(slate, (0.0, np.zeros(slots)))
                found[slate] = (total + chance, by_rival + chance * np.array(coins))
    return {slate: (total, by_rival / total) for slate, (total, by_rival) in found.items()}


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_interleaved_slates_and_credits_are_those_of_brute_force(slots):
    own, rival = chances()
    expected = brute_force(own[0], rival[0], slots)
    assert_allclose(sum(chance for chance, _ in expected.values()), 1)
    rows = 60_000
    slates, credits = interleaved(np.repeat(own, rows, 0), np.repeat(rival, rows, 0), slots, draws_of(rows, slots))
    assert_allclose((slates[:, 0] == 1).mean(), (own[0, 1] + rival[0, 1]) / 2, atol=0.01)
    assert_allclose((slates[:, 0] == 0).mean(), (own[0, 0] + rival[0, 0]) / 2, atol=0.01)
    for slate, (chance, by_rival) in expected.items():
        those = (slates == slate).all(axis=1)
        assert_allclose(those.mean(), chance, atol=5 * np.sqrt(chance / rows))
        if those.any():
            assert_allclose(credits[those], np.broadcast_to(2 * by_rival - 1, (those.sum(), slots)), atol=1e-6)


def test_neither_ranking_is_favoured():
    own, rival = chances(3.0)
    draws = draws_of(500, 3)
    many = [np.repeat(each, 500, 0) for each in (own, rival)]
    slates, credits = interleaved(*many, 3, draws)
    draws[:, :, 0] = 1 - draws[:, :, 0]
    swapped, of_swapped = interleaved(many[1], many[0], 3, draws)
    assert_array_equal(swapped, slates)
    assert_allclose(of_swapped, -credits, atol=1e-7)
    assert (interleaved(many[0], many[0], 3, draws)[1] == 0).all()
    assert all(len(set(slate)) == 3 for slate in slates.tolist())


def test_spare_slots_take_what_may_not_be_shown():
    own, rival = chances(mask=np.array([[0, 1, 0, 1]]))
    slates, credits = interleaved(own, rival, 4, draws_of(1, 4))
    assert sorted(slates[0, :2].tolist()) == [1, 3] and slates[0, 2:].tolist() == [0, 0]
    assert (credits[0, 2:] == 0).all()
    nothing = np.zeros((1, 4))
    slates, credits = interleaved(nothing, nothing, 2, draws_of(1, 2))
    assert slates.tolist() == [[0, 0]] and (credits == 0).all()


# ---------------------------------------------------------------------- activeness
def test_activeness_is_that_of_a_hand_computation():
    """The paper's own numbers: who returns once a day stays at 0.5."""
    activeness = Activeness(initial=0.5, gain=0.32, hazard=1.2e-5 * 86_400)
    user = np.array([3])

    def asked(day, begins):
        return activeness.asked(user, np.array([day]), np.array([begins])).item()

    assert asked(0.0, True) == 0.5
    assert_allclose(asked(1.0, True), 0.5 * np.exp(-1.0368) + 0.32)
    assert_allclose(asked(1.0, True), 0.5 * np.exp(-1.0368) + 0.64)
    score = 0.5 * np.exp(-1.0368) + 0.64
    # later requests of a visit are no returns
    assert_allclose(asked(1.01, False), score * np.exp(-0.010368))
    assert_allclose(asked(2.0, False), score * np.exp(-1.0368))
    for day in (2.0, 2.0, 2.0):
        last = asked(day, True)
    assert last == 1.0
    assert_allclose(asked(1.5, True), 0.5, err_msg="a clock that goes back is another life's")
    activeness.forget(user)
    assert_allclose(asked(9.0, True), 0.5)


def test_each_user_has_a_score_of_its_own():
    activeness = Activeness(0.5, 0.3, 1.0)
    activeness.asked(np.array([0, 5]), np.array([0.0, 0.0]), np.array([True, True]))
    scores = activeness.asked(np.array([5, 2]), np.array([1.0, 1.0]), np.array([True, True]))
    assert_allclose(scores, [0.5 * np.exp(-1) + 0.3, 0.5])


# ---------------------------------------------------------------------- memory
def remember(memory, user, day=0.0, active=0.25, mark=0.0):
    count, slots = len(user), memory.items.shape[1]
    return memory.add(
        np.asarray(user),
        np.full(count, active),
        rows=np.full((count, memory.rows.shape[1]), mark, np.float32),
        days=np.full(count, day),
        places=np.zeros((count, slots), np.int64),
        items=np.arange(slots, dtype=np.int32)[None] + np.zeros((count, 1), np.int32),
        credits=np.zeros((count, slots), np.float32),
        duel=np.zeros(count, np.int64),
    )


def test_requests_are_linked_as_a_plain_loop_links_them():
    random, memory = np.random.default_rng(0), Memory(size=40, width=2, slots=2)
    last, followed, active, days, ended = {}, {}, {}, {}, set()
    for step in range(60):
        users = random.permutation(12)[: random.integers(1, 8)]
        numbers = remember(memory, users, day=step, active=step / 100, mark=step)
        for user, number in zip(users.tolist(), numbers.tolist(), strict=True):
            days[number] = step
            if user in last:
                followed[last[user]], active[last[user]] = number, step / 100
            last[user] = number
        memory.answer(numbers[::2], np.full((len(numbers[::2]), 2), step))
        if step % 7 == 3:
            gone = users[:1]
            memory.end(gone)
            ended.add(last.pop(gone.item()))
    kept = memory.numbers()
    assert len(kept) == 40 and kept[-1] == memory.served - 1
    for number in kept.tolist():
        at = number % 40
        expected = NOTHING if number in ended else followed.get(number, UNKNOWN)
        assert memory.following[at] == expected and memory.days[at] == days[number]
    taken = memory.take(kept)
    assert_array_equal(taken.goes_on, [number in followed for number in kept])
    assert_allclose(taken.active, [active.get(number, 0.0) for number in kept])
    assert_array_equal(taken.next_rows[:, 0], [days.get(followed.get(number), 0) for number in kept])
    answered = {number for number in kept.tolist() if memory.answered[number % 40]}
    settled = {number for number in answered if number in followed or number in ended}
    assert set(memory.learnable(-np.inf).tolist()) == settled
    assert 0 < len(settled) < len(answered)
    assert set(memory.learnable(np.inf).tolist()) == answered
    assert set(memory.unanswered().tolist()) == set(kept.tolist()) - answered


def test_who_comes_back_when_its_last_request_is_forgotten_follows_on_nothing():
    memory = Memory(size=5, width=1, slots=1)
    remember(memory, [9])
    remember(memory, [0, 1, 2, 3, 4])
    remember(memory, [9])
    assert (memory.following == UNKNOWN).all()
    remember(memory, [4])
    assert memory.following[5 % 5] == 7


def test_after_the_memory_is_closed_nobody_is_known():
    memory = Memory(size=20, width=1, slots=1)
    numbers = remember(memory, [0, 1, 2])
    memory.answer(numbers[:2], np.ones((2, 1)))
    remember(memory, [0])
    memory.close()
    remember(memory, [1])
    assert memory.learnable(np.inf).tolist() == [0] and memory.unanswered().tolist() == [4]
    assert memory.following[1] == UNKNOWN


def test_a_memory_goes_on_from_its_arrays():
    first, second = Memory(20, 3, 2), Memory(20, 3, 2)
    first.answer(remember(first, np.arange(8), mark=1.0), np.ones((8, 2)))
    second.take_back(first.arrays())
    for memory in (first, second):
        remember(memory, np.arange(15), mark=2.0)
    for name, array in first.arrays().items():
        assert_array_equal(second.arrays()[name], array, err_msg=name)
    with pytest.raises(ValueError, match="'rows' are of shape"):
        Memory(20, 4, 2).take_back(first.arrays())
