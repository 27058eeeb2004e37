import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.rankers.base import Ranker
from agents.sampled import Sampled
from envs.observation import Candidates, Observation

SCORES = np.array([2.0, 1.0, 0.0, -1.0, 5.0], np.float32)
"""Of five candidates, the last of them masked."""


def requests(count):
    """The same five candidates for requests that differ by their user."""
    mask = np.tile(np.array([1, 1, 1, 1, 0], np.int8), (count, 1))
    features = np.zeros((count, 5, 3), np.float32)
    features[:, :, 0] = SCORES
    return Observation(
        user=np.arange(count),
        user_features=np.zeros((count, 1), np.float32),
        history=np.full((count, 2), -1, np.int32),
        history_days=np.zeros((count, 2), np.float32),
        context=np.zeros((count, 4), np.float32),
        candidates=Candidates(np.tile(np.arange(5, dtype=np.int32), (count, 1)), mask, features),
    )


@pytest.fixture(scope="module")
def shown():
    return Sampled(slate_size=3, seed=1, temperature=0.7).act(requests(40_000))


def chances():
    """Of each of the four in the first slot: softmax of the standardised scores."""
    scores = SCORES[:4]
    worth = np.exp((scores - scores.mean()) / scores.std() / 0.7)
    return worth / worth.sum()


def test_the_first_slot_is_drawn_by_the_softmax(shown):
    slates, propensities = shown
    told = np.bincount(slates[:, 0], minlength=5) / len(slates)
    assert_allclose(told[:4], chances(), atol=0.01)
    assert told[4] == 0
    assert_allclose(propensities[:, 0], chances()[slates[:, 0]], rtol=1e-5)


def test_later_slots_are_drawn_from_what_is_left(shown):
    slates, propensities = shown
    after = slates[:, 0] == 1
    left = chances() * (np.arange(4) != 1)
    told = np.bincount(slates[after, 1], minlength=4) / after.sum()
    assert_allclose(told, left / left.sum(), atol=0.02)
    assert_allclose(propensities[after, 1], (left / left.sum())[slates[after, 1]], rtol=1e-5)


def test_a_slate_of_all_candidates_ends_with_certainty():
    slates, propensities = Sampled(slate_size=5).act(requests(50))
    assert_array_equal(np.sort(slates, axis=1), np.tile(np.arange(5), (50, 1)))
    assert_allclose(propensities[:, 3:], 1, rtol=1e-5)  # the last that may be shown, and the empty slot
    assert (propensities[:, :3] < 1).all()


def test_slates_can_be_drawn_by_a_rankers_score_instead_of_recalls():
    class Reversed(Ranker):
        name = "reversed"
        categories_ = np.ones((5, 1), np.float32)

        def score(self, batch):
            return -10 * SCORES[batch.items]

        _fit = _update = _score = None

    slates, propensities = Sampled(3, 1, 0.7, Reversed()).act(requests(40_000))
    told = np.bincount(slates[:, 0], minlength=5) / len(slates)
    assert_allclose(told[:4], chances()[::-1], atol=0.01)  # the scores of the four lie evenly
    assert_allclose(propensities[:, 0], np.append(chances()[::-1], 0)[slates[:, 0]], rtol=1e-5)


def test_a_request_does_not_hang_on_its_neighbours(shown):
    batch = requests(40_000).take(np.array([17, 900]))
    for alone, among in zip(Sampled(3, 1, 0.7).act(batch), shown, strict=True):
        assert_array_equal(alone, among[[17, 900]])
