"""The index of a channel: chosen by its configuration, kept in its file, and told of births and retirements."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs.candidate_source import RecallRequest
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from recall import EmbeddingConfig, EmbeddingRecall, MergedRecall, RecallConfig
from recall.approximate import ApproximateIndex
from recall.index import IndexConfig, InnerProductIndex

LIGHT = {
    "als": {"dimension": 8, "iterations": 3},
    "bpr": {"dimension": 7, "iterations": 5},
    "two_tower": {"dimension": 8, "embedding": 8, "hidden": 16, "epochs": 1},
}


@pytest.fixture(scope="module")
def log():
    return generate_log(SyntheticConfig(num_users=60, events_per_user=25, num_items=400, embedding_size=4), seed=5)[0]


@pytest.fixture(scope="module")
def request_(log):
    history = np.random.default_rng(0).integers(0, 400, (20, 6)).astype(np.int32)
    users = np.arange(20)
    return RecallRequest(users, history, np.zeros((20, 50), np.uint8), np.stack([users, 0 * users], axis=1))


def merged(**kinds):
    """All channels of vectors, with the kind of index told for each."""
    settings = {name: own | {"index": {"kind": kinds[name], "recall": 0.9}} for name, own in LIGHT.items()}
    return MergedRecall.of(RecallConfig(quotas={"als": 0.4, "bpr": 0.3, "two_tower": 0.3}, settings=settings))


def indices(recall):
    return [getattr(channel, "_recall", channel)._index.index for channel in recall.channels]


@pytest.fixture(scope="module")
def approximate(log):
    return merged(als="pq", bpr="ivf", two_tower="hnsw").fit(log)


def test_a_configuration_asks_for_a_kind_and_a_recall(log, request_, approximate):
    exact = merged(als="auto", bpr="exact", two_tower="auto").fit(log)
    assert all(type(index) is InnerProductIndex for index in indices(exact))
    assert [index.config.kind for index in indices(approximate)] == ["pq", "ivf", "hnsw"]
    for mine, theirs in zip(approximate.channels, exact.channels, strict=True):
        found, truth = mine.recall(request_, 50)[0], theirs.recall(request_, 50)[0]
        together = [len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]
        assert np.mean(together) >= 0.9 * 50


def test_a_small_catalogue_has_no_cells():
    small = generate_log(SyntheticConfig(num_users=20, num_items=10, embedding_size=4), seed=0)[0]
    with pytest.raises(ConfigurationError, match=r"10 items are too few for an index of kind 'pq'.*use kind 'exact'"):
        EmbeddingRecall(EmbeddingConfig(dimension=4, index=IndexConfig(kind="pq"))).fit(small)


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_a_loaded_index_lies_in_its_file_and_is_not_made_again(kind, log, request_, approximate, tmp_path, monkeypatch):
    recall = approximate if kind == "approximate" else merged(als="auto", bpr="auto", two_tower="auto").fit(log)
    path = tmp_path / "recall.mapped"
    recall.save(path)
    before = path.read_bytes()

    def fails(*_):
        raise AssertionError("an index was made again")

    with monkeypatch.context() as patch:
        for name in ("build_index", "_built"):
            patch.setattr(f"recall.index.{name}", fails)
        loaded = MergedRecall.load(path, log.catalogue)
    for index in indices(loaded):
        arrays = [index._bytes] if isinstance(index, ApproximateIndex) else [index._tiles, index._longest]
        assert not any(array.flags.writeable or array.flags.owndata for array in arrays)
    mine, theirs = recall.recall(request_, 40), loaded.recall(request_, 40)
    for name in ("items", "scores", "first", "brought"):
        assert_array_equal(getattr(mine, name), getattr(theirs, name))
    monkeypatch.setattr("recall.index.build_index", fails)  # an update chooses no kind again
    loaded.update(log.where(log.user < 5))
    kinds = [getattr(index, "config", None) for index in indices(loaded)]
    assert kinds == [getattr(index, "config", None) for index in indices(recall)]
    loaded.recall(request_, 40)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_births_and_retirements_reach_the_index_without_a_rebuild(kind, log, request_, approximate, tmp_path):
    recall = merged(als="auto", bpr="auto", two_tower="auto").fit(log)
    if kind == "approximate":
        approximate.save(tmp_path / "recall")
        recall = MergedRecall.load(tmp_path / "recall")
    made, before = indices(recall), recall.recall(request_, 20)
    offered = np.ones(400, bool)
    offered[before.items[:, :5]] = False
    recall.hear(offered)
    found = recall.recall(request_, 20).items
    assert (found >= 0).all() and offered[found].all()
    assert all(mine is theirs for mine, theirs in zip(indices(recall), made, strict=True))
    recall.update(log.where(log.user < 3))  # vectors move, what is on offer does not
    assert offered[recall.recall(request_, 20).items].all()
    recall.save(tmp_path / "again")
    loaded = MergedRecall.load(tmp_path / "again")
    recall.hear(np.ones(400, bool))
    assert_array_equal(recall.recall(request_, 20).items, loaded.recall(request_, 20).items)
    assert not offered[loaded.recall(request_, 20).items].all()
