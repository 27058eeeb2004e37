from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents.rerankers import best_first, candidate_terms, log_counts, rerank
from envs.errors import ConfigurationError
from envs.observation import Candidates, Observation

POPULARITY = np.random.default_rng(9).exponential(2, 300).astype(np.float32)


def looped(observation, weights, popularity, slate_size):
    """The definition, one request and one candidate at a time, in double precision; yields (row, slot, gains)."""
    candidates = observation.candidates
    slates = rerank(observation, weights, popularity, slate_size)
    for row in range(len(observation)):
        shown = np.flatnonzero(candidates.mask[row])
        score = candidates.score[row].astype(np.float64)
        popular = popularity[candidates.items[row]].astype(np.float64)
        relevance, fame = ((term - term[shown].mean()) / term[shown].std() for term in (score, popular))
        taken = []
        for slot in range(min(slate_size, len(shown))):
            gains = {}
            for candidate in shown:
                if candidate in taken:
                    continue
                cosines = [0.0]
                for other in taken:
                    mine, theirs = candidates.categories[row, candidate], candidates.categories[row, other]
                    length = np.linalg.norm(mine) * np.linalg.norm(theirs)
                    cosines.append(float(mine @ theirs) / length if length else 0.0)
                gains[candidate] = (
                    weights[row, 0] * relevance[candidate]
                    + weights[row, 1] * (1 - max(cosines))
                    + weights[row, 2] * np.exp(-candidates.age[row, candidate] / 30)
                    + weights[row, 3] * fame[candidate]
                )
            yield slates[row, slot], gains
            taken.append(slates[row, slot])


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_is_the_greedy_rule(observe, seed):
    observation = observe(12, 40, seed)
    weights = np.random.default_rng(seed).uniform(-1, 2, (12, 4)).astype(np.float32)
    for chosen, gains in looped(observation, weights, POPULARITY, 10):
        assert gains[chosen] >= max(gains.values()) - 1e-4


@pytest.mark.parametrize("rows", [1, 255, 600])
def test_a_row_does_not_depend_on_the_batch(observe, rows):
    observation = observe(600, 30)
    weights = np.random.default_rng(1).uniform(0, 2, (600, 4)).astype(np.float32)
    order = np.random.default_rng(2).permutation(600)[:rows]
    part = rerank(observation.take(order), weights[order], POPULARITY, 8)
    assert_array_equal(part, rerank(observation, weights, POPULARITY, 8)[order])


def test_the_order_of_candidates_does_not_matter(observe):
    observation = observe(50, 40)
    order = np.random.default_rng(3).permutation(40)
    candidates = observation.candidates
    shuffled = replace(
        observation,
        candidates=Candidates(candidates.items[:, order], candidates.mask[:, order], candidates.features[:, order]),
    )
    weights = np.array([1.0, 0.7, 0.9, 0.3], np.float32)
    straight, crooked = (rerank(each, weights, POPULARITY, 10) for each in (observation, shuffled))
    assert_array_equal(
        np.take_along_axis(candidates.items, straight, axis=1),
        np.take_along_axis(shuffled.candidates.items, crooked, axis=1),
    )


@given(seed=st.integers(0, 2**16), masked=st.sampled_from([0.0, 0.5, 0.95, 1.0]), slate_size=st.integers(1, 12))
def test_slates_are_distinct_and_masked_candidates_last(seed, masked, slate_size):
    random = np.random.default_rng(seed)
    features = random.standard_normal((9, 12, 5)).astype(np.float32) ** 2
    mask = (random.random((9, 12)) >= masked).astype(np.int8)
    candidates = Candidates(random.integers(0, 300, (9, 12)).astype(np.int32), mask, features)
    nothing = np.zeros((9, 3), np.float32)
    observation = Observation(np.zeros(9, np.int64), nothing, nothing.astype(np.int32), nothing, nothing, candidates)
    slates = rerank(observation, random.uniform(-1, 1, (9, 4)).astype(np.float32), POPULARITY, slate_size)
    shown = np.take_along_axis(mask, slates, axis=1)
    assert all(len(set(row)) == slate_size for row in slates)
    assert (np.diff(shown.astype(int), axis=1) <= 0).all()
    assert_array_equal(shown.sum(axis=1), np.minimum(mask.sum(axis=1), slate_size))


@pytest.mark.parametrize(("weight", "term"), [(0, "relevance"), (2, "freshness"), (3, "popularity")])
def test_a_single_weight_sorts_by_its_term(observe, weight, term):
    observation = observe(20, 40, masked=0)
    weights = np.eye(4, dtype=np.float32)[weight]
    candidates = observation.candidates
    key = {"relevance": candidates.score, "freshness": -candidates.age, "popularity": POPULARITY[candidates.items]}[
        term
    ]
    assert_array_equal(rerank(observation, weights, POPULARITY, 10), np.argsort(-key, axis=1, kind="stable")[:, :10])


def test_weights_scale_freely(observe):
    observation = observe(20, 40)
    weights = np.array([1.0, 0.5, 0.25, 0.5], np.float32)
    assert_array_equal(rerank(observation, weights, POPULARITY, 10), rerank(observation, 4 * weights, POPULARITY, 10))


def test_diversity_lowers_the_likeness_within_slates(observe):
    observation = observe(200, 60)

    def likeness(diversity):
        slates = rerank(observation, np.array([1, diversity, 0, 0], np.float32), POPULARITY, 8)
        chosen = np.take_along_axis(observation.candidates.categories, slates[:, :, None], axis=1)
        unit = chosen / np.maximum(np.linalg.norm(chosen, axis=2, keepdims=True), 1e-9)
        return np.matmul(unit, unit.transpose(0, 2, 1)).mean()

    assert likeness(3) < likeness(1) < likeness(0)


def test_terms_are_standardised_over_what_may_be_shown(observe):
    observation = observe(30, 40, masked=0.4)
    relevance, freshness, popularity = candidate_terms(observation, POPULARITY)
    mask = observation.candidates.mask == 1
    for term in (relevance, popularity):
        assert (term[~mask] == 0).all()
        for row in range(30):
            assert_allclose(term[row, mask[row]].mean(), 0, atol=1e-5)
            assert_allclose(term[row, mask[row]].std(), 1, rtol=1e-4)
    assert freshness.min() >= 0 and freshness.max() <= 1


def test_equal_scores_are_zero_relevance(observe):
    observation = observe(3, 20)
    observation.candidates.features[:, :, 0] = 0.1
    assert (candidate_terms(observation, POPULARITY)[0] == 0).all()


def test_best_first_breaks_ties_by_order():
    values = np.array([[1, 2, 2, 0]], np.float32)
    assert_array_equal(best_first(values, np.array([[1, 1, 1, 1]], np.int8), 4), [[1, 2, 0, 3]])
    assert_array_equal(best_first(values, np.array([[1, 0, 1, 0]], np.int8), 4), [[2, 0, 1, 3]])


def test_log_counts(world):
    counts = np.bincount(world.policy_log.consumed().item, minlength=world.num_items)
    assert_allclose(log_counts(world.policy_log), np.log(1 + counts), rtol=1e-6)


@pytest.mark.parametrize(
    "weights", [np.zeros(3), np.zeros((2, 4)), np.array([1, np.nan, 0, 0]), np.array([np.inf, 0, 0, 0])]
)
def test_wrong_weights_are_refused(observe, weights):
    with pytest.raises(ConfigurationError, match="relevance, diversity, freshness, popularity"):
        rerank(observe(3, 20), weights, POPULARITY, 5)


def test_a_slate_longer_than_the_candidates_is_refused(observe):
    with pytest.raises(ConfigurationError, match="slate_size is 21"):
        rerank(observe(3, 20), np.zeros(4), POPULARITY, 21)
