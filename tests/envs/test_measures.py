import numpy as np
import pytest
from numpy.testing import assert_allclose

from envs.measures import catalogue_coverage, category_entropy, consumed_diversity, gini, intra_list_distance

DIRECTIONS = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8]], np.float32)


def test_intra_list_distance_is_the_mean_over_pairs() -> None:
    slates = np.array([[0, 1, 3], [0, 2, -1], [0, -1, -1]], np.int32)
    pairs = [1 - 0, 1 - 0.6, 1 - 0.8]
    assert_allclose(intra_list_distance(DIRECTIONS, slates), [np.mean(pairs), 0, 0], atol=1e-6)


def test_consumed_diversity_compares_with_the_last_items() -> None:
    history = np.array([[0, 2, -1], [0, -1, -1], [-1, -1, -1], [0, 1, -1]], np.int32)
    item = np.array([1, -1, 1, 3], np.int32)
    assert_allclose(consumed_diversity(DIRECTIONS, item, history), [1, 0, 0, 1 - (0.6 + 0.8) / 2], atol=1e-6)


def test_consumed_diversity_forgets_old_items() -> None:
    history = np.full((1, 50), 1, np.int32)
    history[0, :10] = 0
    assert_allclose(consumed_diversity(DIRECTIONS, np.array([0], np.int32), history), [0], atol=1e-6)


def test_gini_of_known_shares() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(3 / 4)
    assert gini(np.zeros(3, int)) == 0
    shares = np.array([1, 2, 5])
    differences = np.abs(shares[:, None] - shares[None]).sum() / (2 * 3 * shares.sum())
    assert gini(shares) == pytest.approx(differences)


def test_entropy_and_coverage() -> None:
    assert_allclose(category_entropy(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])), [np.log(2), 0, 0], atol=1e-12)
    assert catalogue_coverage(np.array([0, 3, 1, 0])) == 0.5
