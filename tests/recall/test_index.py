import copy

import numpy as np
import pytest
from hypothesis import given, settings
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


@settings(deadline=None)  # the first example compiles
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


@pytest.mark.parametrize("seed", range(4))
def test_short_vectors_are_passed_over_only_where_they_cannot_be_found(seed):
    """Lengths over three orders of magnitude, some tiles excluded as a whole, queries that like long and short ones."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((4_000, 8)).astype(np.float32)
    vectors *= np.exp(random.uniform(-7, 0, (4_000, 1))).astype(np.float32)
    queries = random.standard_normal((64, 8)).astype(np.float32)
    excluded = np.zeros((64, 4_000), bool)
    excluded[::2] = np.linalg.norm(vectors, axis=1) > 0.05
    items, scores = InnerProductIndex(vectors).search(queries, packed(excluded), 120)
    exact = np.where(excluded, -np.inf, queries.astype(np.float64) @ vectors.T)
    assert_allclose(scores, -np.sort(-exact, axis=1)[:, :120], atol=1e-6)
    assert_allclose(np.take_along_axis(exact, items.astype(np.int64), axis=1), scores, atol=1e-6)


def test_an_index_of_some_items_finds_those_by_their_numbers():
    vectors, queries, excluded = problem(11)
    some = np.arange(1, 300, 3)
    index = InnerProductIndex(vectors, some)
    rest = np.ones(300, bool)
    rest[some] = False
    for mine, theirs in zip(
        index.search(queries, packed(excluded), 30),
        InnerProductIndex(vectors).search(queries, packed(excluded | rest), 30),
        strict=True,
    ):
        assert_array_equal(mine, theirs)
    index.retire(np.arange(0, 10))
    added = index.add(np.full((1, 8), 100, np.float32) * np.sign(queries[:1]))
    assert_array_equal(added, [300])
    found = index.search(queries[:1], packed(np.zeros((1, 301), bool)), 30)[0][0]
    assert found[0] == 300 and not set(found[1:]) & set(range(10))
