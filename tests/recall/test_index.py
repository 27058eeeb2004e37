import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recall.index import InnerProductIndex


def problem(seed, rows=40, items=300, width=8, excluded_share=0.3):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((items, width)).astype(np.float32)
    vectors[items // 2 : items // 2 + 30] = vectors[items // 2]  # items that tie
    queries = random.standard_normal((rows, width)).astype(np.float32)
    excluded = random.random((rows, items)) < excluded_share
    return vectors, queries, excluded


def packed(excluded):
    return np.packbits(excluded, axis=1, bitorder="little")


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.3, 0.9, 1.0]), count=st.sampled_from([1, 10, 100]))
def test_finds_the_best_allowed_items(seed, share, count):
    vectors, queries, excluded = problem(seed, rows=5, excluded_share=share)
    items, scores = InnerProductIndex(vectors).search(queries, packed(excluded), count)
    for row in range(len(queries)):
        allowed = np.flatnonzero(~excluded[row])
        expected = np.sort(vectors[allowed].astype(np.float64) @ queries[row])[::-1][:count]
        found = items[row][items[row] >= 0]
        assert len(found) == len(expected) == len(set(found))
        assert not excluded[row, found].any()
        assert_allclose(scores[row, : len(found)], expected, atol=1e-4)
        assert (items[row, len(found) :] == -1).all() and (scores[row, len(found) :] == 0).all()


def test_a_row_does_not_depend_on_the_batch():
    vectors, queries, excluded = problem(3, rows=200)
    index = InnerProductIndex(vectors)
    items, scores = index.search(queries, packed(excluded), 20)
    order = np.random.default_rng(1).permutation(200)
    for rows in (order, order[:7], np.array([133])):
        some_items, some_scores = index.search(queries[rows], packed(excluded[rows]), 20)
        assert_array_equal(some_items, items[rows])
        assert_array_equal(some_scores, scores[rows])


@pytest.mark.parametrize("count", [10, 150])
def test_ties_come_in_order_of_the_items_whatever_was_fetched(count):
    vectors = np.ones((900, 4), np.float32)
    excluded = np.zeros((2, 900), bool)
    excluded[1, :550] = True
    items, _ = InnerProductIndex(vectors).search(np.ones((2, 4), np.float32), packed(excluded), count)
    assert_array_equal(items, [np.arange(count), np.arange(550, 550 + count)])


def test_of_items_that_tie_at_the_edge_the_first_are_kept():
    """Better items stand behind those that tie, so that a search that stops early drops some of these."""
    vectors = np.ones((900, 4), np.float32)
    vectors[700:] *= np.linspace(2, 3, 200, dtype=np.float32)[:, None]
    items, _ = InnerProductIndex(vectors).search(np.ones((1, 4), np.float32), packed(np.zeros((1, 900), bool)), 250)
    assert_array_equal(items[0], [*np.arange(899, 699, -1), *np.arange(50)])


def test_a_copy_finds_the_same():
    vectors, queries, excluded = problem(5)
    index = InnerProductIndex(vectors)
    for mine, theirs in zip(
        index.search(queries, packed(excluded), 20),
        copy.deepcopy(index).search(queries, packed(excluded), 20),
        strict=True,
    ):
        assert_array_equal(mine, theirs)
    assert_array_equal(index.vectors, vectors)


@pytest.mark.parametrize("rows", [0, 1])
def test_small_batches(rows):
    vectors, queries, excluded = problem(7)
    items, scores = InnerProductIndex(vectors).search(queries[:rows], packed(excluded[:rows]), 5)
    assert items.shape == scores.shape == (rows, 5)
