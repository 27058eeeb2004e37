import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import ArtefactError, ConfigurationError
from recall.approximate import ApproximateConfig, ApproximateIndex
from recall.index import (
    Choice,
    IndexConfig,
    InnerProductIndex,
    best_choice,
    build_index,
    load_index,
    measured_choice,
    save_index,
)

KINDS = ("exact", "ivf", "hnsw", "pq")
ITEMS, WIDTH = 3_000, 16


def vectors_of(number=ITEMS, seed=0, width=WIDTH):
    spectrum = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    return np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32) * spectrum


def made(kind, vectors):
    if kind == "exact":
        return InnerProductIndex(vectors)
    return ApproximateIndex(vectors, ApproximateConfig(kind=kind, effort={"ivf": 100, "hnsw": 400, "pq": 8}[kind]))


def nothing(rows, items=ITEMS):
    return np.zeros((rows, (items + 7) // 8), np.uint8)


def overlap(items, truth):
    return np.mean([len(set(mine) & set(theirs)) / len(theirs) for mine, theirs in zip(items, truth, strict=True)])


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.sampled_from([1, 15, 1_023, 1_025, 5_000]),
    count=st.sampled_from([1, 7, 100, 2_000]),
    share=st.sampled_from([0.0, 0.5, 0.99]),
    ordered=st.booleans(),
)
def test_exact_search_equals_a_plain_sort(seed, items, count, share, ordered):
    """Whatever the order of the catalogue, the share excluded, and the number asked for."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((items, 4)).astype(np.float32).round(1)  # many ties
    if ordered:
        vectors = vectors[np.argsort(vectors[:, 0])]
    queries = random.standard_normal((3, 4)).astype(np.float32).round(1)
    excluded = random.random((3, items)) < share
    bits = np.packbits(excluded, axis=1, bitorder="little")
    found, scores = InnerProductIndex(vectors).search(queries, bits, count)
    exact = queries @ vectors.T
    for row in range(3):
        allowed = np.flatnonzero(~excluded[row])
        length = min(count, len(allowed))
        assert (found[row, length:] == -1).all() and (scores[row, length:] == 0).all()
        assert len(set(found[row, :length])) == length and not excluded[row, found[row, :length]].any()
        assert_allclose(scores[row, :length], -np.sort(-exact[row, allowed])[:length], atol=1e-5)
        assert_allclose(scores[row, :length], exact[row, found[row, :length]], atol=1e-5)
        keys = list(zip(-scores[row, :length], found[row, :length], strict=True))
        assert keys == sorted(keys)


def test_a_large_catalogue_whose_best_hide_from_the_sample():
    """A first threshold from a sample that holds far too many good items must not cut off the rest."""
    index = InnerProductIndex(np.ones((40_000, 2), np.float32))
    first = index._item_at[0, :512]
    vectors = np.full((40_000, 2), 0.1, np.float32)
    vectors[first] = 1.0
    found, _ = InnerProductIndex(vectors).search(np.ones((2, 2), np.float32), nothing(2, 40_000), 600)
    assert np.isin(first, found[0]).all()
    assert_array_equal(found[0][512:], np.setdiff1d(np.arange(40_000), first)[:88])


@pytest.mark.parametrize("kind", KINDS)
def test_finds_most_of_the_best(kind):
    vectors, queries = vectors_of(), vectors_of(40, seed=1)
    index = made(kind, vectors)
    items, scores = index.search(queries, nothing(40), 50)
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :50]
    assert overlap(items, truth) >= (1.0 if kind == "exact" else 0.95)
    assert_allclose(scores, np.einsum("nd,ncd->nc", queries, vectors[items]), atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_items_are_left_out_however_many(kind):
    vectors, queries = vectors_of(), vectors_of(6, seed=1)
    excluded = np.random.default_rng(0).random((6, ITEMS)) < np.array([0, 0.2, 0.8, 0.99, 1, 0.5])[:, None]
    excluded[5] = (queries[5] @ vectors.T) > np.sort(queries[5] @ vectors.T)[-1_000]
    items, _ = made(kind, vectors).search(queries, np.packbits(excluded, axis=1, bitorder="little"), 50)
    for row in range(6):
        found = items[row][items[row] >= 0]
        assert len(found) == min(50, (~excluded[row]).sum()) or (kind in ("ivf", "hnsw") and len(found) > 0)
        assert not excluded[row, found].any() and len(set(found)) == len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_added_and_retired_without_a_rebuild(kind):
    vectors, more, queries = vectors_of(), vectors_of(1_500, seed=2), vectors_of(20, seed=1)
    index = made(kind, vectors)
    numbers = index.add(more[:700])
    assert_array_equal(np.concatenate([numbers, index.add(more[700:])]), np.arange(ITEMS, ITEMS + 1_500))
    together = np.concatenate([vectors, more])
    best = np.argmax(queries @ together.T, axis=1).astype(np.int32)
    index.retire(np.unique(best))
    assert len(index) == ITEMS + 1_500
    items, _ = index.search(queries, nothing(20, ITEMS + 1_500), 50)
    assert not np.isin(items, best).any()
    allowed = queries @ together.T
    allowed[:, best] = -np.inf
    assert overlap(items, np.argsort(-allowed, axis=1)[:, :50]) >= (1.0 if kind == "exact" else 0.9)
    assert (items >= ITEMS).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_is_searched_where_it_lies_and_may_grow(kind, tmp_path):
    vectors, queries = vectors_of(), vectors_of(9, seed=1)
    index = made(kind, vectors)
    index.retire(np.array([5, 6], np.int32))
    save_index(tmp_path / "vectors.index", index)
    before = (tmp_path / "vectors.index").read_bytes()
    loaded = load_index(tmp_path / "vectors.index", dimension=WIDTH)
    for mine, theirs in zip(index.search(queries, nothing(9), 30), loaded.search(queries, nothing(9), 30), strict=True):
        assert_array_equal(mine, theirs)
    arrays = loaded.state()[0].values() if kind == "exact" else [loaded._bytes]
    assert not any(array.flags.writeable or array.flags.owndata for array in arrays)
    loaded.add(vectors[:10] * 3)
    loaded.retire(np.array([7], np.int32))
    items, _ = loaded.search(vectors[:10], nothing(10, ITEMS + 10), 5)
    assert_array_equal(items[:, 0] >= ITEMS, True)
    assert (tmp_path / "vectors.index").read_bytes() == before
    for other in (copy.deepcopy(index), copy.deepcopy(load_index(tmp_path / "vectors.index", check=False))):
        assert_array_equal(other.search(queries, nothing(9), 30)[0], index.search(queries, nothing(9), 30)[0])


@pytest.mark.parametrize("kind", ["exact", "pq"])
def test_a_truncated_or_damaged_or_foreign_file_is_refused(kind, tmp_path):
    path = tmp_path / "vectors.index"
    save_index(path, made(kind, vectors_of()))
    whole = path.read_bytes()
    for length in (0, 10, 40, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtefactError, match=r"vectors\.index.*(cut off|truncated)"):
            load_index(path, check=False)
    path.write_bytes(whole[:-5_000] + b"\7" + whole[-4_999:])
    with pytest.raises(ArtefactError, match=r"vectors\.index' is damaged in its part"):
        load_index(path)
    path.write_bytes(whole[:60] + b"\7" + whole[61:])
    with pytest.raises(ArtefactError, match="damaged in its header"):
        load_index(path)
    path.write_bytes(b"something else altogether, and long enough")
    with pytest.raises(ArtefactError, match="not an index file"):
        load_index(path)
    with pytest.raises(ArtefactError, match="does not exist"):
        load_index(tmp_path / "nowhere.index")


def test_another_dimension_is_refused(tmp_path):
    index = InnerProductIndex(vectors_of())
    save_index(tmp_path / "vectors.index", index)
    with pytest.raises(ArtefactError, match="dimension 16, not 32"):
        load_index(tmp_path / "vectors.index", dimension=32)
    for wrong in (
        lambda: index.add(np.zeros((2, 8), np.float32)),
        lambda: index.search(np.zeros((2, 8)), nothing(2), 3),
    ):
        with pytest.raises(ConfigurationError, match="dimension 8 do not fit an index of dimension 16"):
            wrong()
    with pytest.raises(ConfigurationError, match=r"give bits of shape \(2, 375\)"):
        index.search(np.zeros((2, 16), np.float32), nothing(2, 80), 3)


def test_the_kind_is_chosen_by_size_and_recall(monkeypatch):
    vectors = vectors_of()
    assert isinstance(build_index(vectors), InnerProductIndex)
    assert build_index(vectors, IndexConfig(kind="pq", recall=0.9)).config.kind == "pq"
    monkeypatch.setattr("recall.index.EXACT_ITEMS", 1_000)
    assert isinstance(build_index(vectors, IndexConfig(recall=1.0)), InnerProductIndex)
    chosen = build_index(vectors, IndexConfig(recall=0.9), vectors_of(30, seed=1))
    items, _ = chosen.search(vectors_of(30, seed=1), nothing(30), 50)
    truth = InnerProductIndex(vectors).search(vectors_of(30, seed=1), nothing(30), 50)[0]
    assert overlap(items, truth) > 0.85


def test_the_fastest_that_reaches_the_recall_is_chosen():
    choices = [Choice(None, recall, speed, 0) for recall, speed in ((1.0, 10), (0.97, 20), (0.9, 40))]
    assert best_choice(choices, 0.95) is choices[1]
    assert best_choice(choices, 0.98) is choices[0]
    assert best_choice(choices[1:], 0.99) is choices[1]
    assert measured_choice(vectors_of(), vectors_of(20, seed=1), recall=1.0).recall == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: IndexConfig(kind="tree"), "no index 'tree'"),
        (lambda: IndexConfig(recall=0), "recall asked of an index is 0"),
        (lambda: ApproximateConfig(kind="exact"), "no approximate index 'exact'"),
        (lambda: ApproximateIndex(vectors_of(3), ApproximateConfig(kind="pq")), "3 items are too few"),
    ],
)
def test_wrong_configurations_are_refused(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        wrong()
