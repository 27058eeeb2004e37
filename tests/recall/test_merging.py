from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from envs.candidate_source import RecallRequest, is_excluded, tell_changes
from envs.errors import ArtefactError, ConfigurationError
from envs.slate_env import SlateVectorEnv
from recall.channels.popular import Popular
from recall.embedding import EmbeddingRecall
from recall.merging import MergedRecall, RecallConfig, merge_found, places_of

USERS = np.arange(60)
CONFIG = RecallConfig(
    quotas={"als": 0.4, "item_to_item": 0.3, "popular": 0.15, "fresh": 0.05, "category": 0.1},
    settings={"als": {"dimension": 8, "iterations": 3}},
)
DOCS = Path(__file__).parents[2] / "docs" / "recall.md"


@pytest.fixture(scope="module")
def merged(world):
    return MergedRecall.of(CONFIG).fit(world.policy_log)


def merged_plainly(found, places, count):
    """One row by lists: the reference of the kernel."""
    out, first = [], []
    lists = [[item for item in row if item >= 0] for row in found]
    for number, (items, quota) in enumerate(zip(lists, places, strict=True)):
        new = [item for item in items if item not in out][:quota]
        out += new
        first += [number] * len(new)
    moving = True
    while len(out) < count and moving:
        moving = False
        for number, items in enumerate(lists):
            new = [item for item in items if item not in out][:1]
            if new and len(out) < count:
                out, first, moving = out + new, [*first, number], True
    brought = [sum(1 << number for number, items in enumerate(lists) if item in items) for item in out]
    rest = count - len(out)
    return out + [-1] * rest, first + [-1] * rest, brought + [0] * rest


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 5),
    depth=st.integers(1, 12),
    count=st.integers(1, 20),
    num_items=st.integers(1, 30),
)
def test_merging_equals_plain_lists(seed, channels, depth, count, num_items):
    random = np.random.default_rng(seed)
    found = np.full((channels, 4, depth), -1, np.int32)
    for row in found.reshape(-1, depth):
        length = random.integers(0, min(depth, num_items) + 1)
        row[:length] = random.permutation(num_items)[:length]
    shares = random.random(channels) + 0.01
    items, first, brought = merge_found(list(found), shares, count, num_items)
    for n in range(4):
        expected = merged_plainly(found[:, n], places_of(shares, count), count)
        for mine, theirs in zip((items[n], first[n], brought[n]), expected, strict=True):
            assert_array_equal(mine, theirs)


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda shares: sum(shares) > 1e-3),
    count=st.integers(0, 300),
)
def test_places_follow_the_shares(shares, count):
    places = places_of(shares, count)
    assert places.sum() == count
    assert (np.abs(places - np.array(shares) / sum(shares) * count) < 1 + 1e-5).all()


def test_quotas_are_kept_and_provenance_is_true(world, merged, requested):
    request = requested(USERS)
    result = merged.recall(request, 40)
    assert (result.items >= 0).all() and not is_excluded(request.excluded, result.items).any()
    assert all(len(set(row)) == 40 for row in result.items)
    assert_array_equal(
        [(result.first == j).sum(axis=1) for j in range(5)], np.repeat([[16], [12], [6], [2], [4]], 60, 1)
    )
    for number, channel in enumerate(merged.channels):
        found = channel.recall(request, 40)[0]
        truly = np.array([np.isin(row, mine) for row, mine in zip(result.items, found, strict=True)])
        assert_array_equal((result.brought >> number) & 1, truly)
        assert truly[result.first == number].all()


def test_scores_are_the_first_embeddings_for_all_candidates(world, merged, requested):
    request = requested(USERS)
    result = merged.recall(request, 40)
    assert (np.diff(result.scores, axis=1) <= 0).all()
    assert_allclose(result.scores, merged.channels[0].score(request, result.items), rtol=1e-5, atol=1e-6)
    plain = MergedRecall([Popular()], {"popular": 1.0}).fit(world.policy_log)
    assert_allclose(plain.recall(request, 4).scores, np.tile([1, 1 / 2, 1 / 3, 1 / 4], (60, 1)))


def test_a_row_depends_on_neither_batch_nor_memory(world, merged, requested):
    warm = MergedRecall.of(CONFIG).fit(world.policy_log)
    random = np.random.default_rng(0)
    shown = np.zeros((60, world.num_items), bool)
    for _ in range(3):
        request = requested(USERS, shown)
        result = warm.recall(request, 30)
        rows = random.permutation(60)[:17]
        part = RecallRequest(*(getattr(request, name)[rows] for name in ("user", "history", "excluded", "key")))
        cold = MergedRecall.of(CONFIG).fit(world.policy_log).recall(part, 30)
        for name in ("items", "scores", "first", "brought"):
            assert_array_equal(getattr(cold, name), getattr(result, name)[rows])
        moved = np.flatnonzero(random.random(60) < 0.5)
        shown[moved, result.items[moved, 0]] = True


def test_all_that_is_allowed_is_found_where_less_is_left(merged, requested, world):
    left = np.ones((60, world.num_items), bool)
    left[:, 100:110] = False
    items, scores = merged.candidates(requested(USERS, left), 40)
    allowed = world.seen(USERS) | world.calendar.changes[1][0]
    free = 10 - np.unpackbits(allowed, axis=1, bitorder="little", count=world.num_items)[:, 100:110].sum(axis=1)
    assert_array_equal((items >= 0).sum(axis=1), free)
    assert (scores[items < 0] == 0).all()


def test_more_than_the_catalogue_may_be_asked_for(merged, requested, world):
    items, _ = merged.candidates(requested(USERS[:3]), world.num_items + 9)
    assert items.shape == (3, world.num_items + 9) and (items[:, -9:] == -1).all()


def test_hears_of_births_and_updates(world, requested, events_of):
    recall = MergedRecall.of(CONFIG).fit(world.policy_log)
    request = requested(USERS)
    before = recall.recall(request, 30)
    clock = np.full(60, 8 * 86_400.0)
    tell_changes(recall, world.calendar, clock)
    assert all((channel.offered == recall.offered).all() for channel in recall.channels)
    later = replace(request, excluded=world.seen(USERS) | world.calendar.closed(clock))
    opened = is_excluded(request.excluded[:1], np.arange(world.num_items, dtype=np.int32)[None])[0]
    opened &= ~is_excluded(later.excluded[:1], np.arange(world.num_items, dtype=np.int32)[None])[0]
    born = np.flatnonzero(opened)
    assert np.isin(recall.recall(later, 30).items, born).any() and not np.isin(before.items, born).any()
    item = int(born[0])
    recall.update(events_of(np.arange(150), np.full(150, item)))
    assert (recall.recall(later, 30).items == item).any(axis=1).mean() > 0.9


def test_serves_an_environment(world, merged):
    env = SlateVectorEnv(8, world=world, candidate_source=MergedRecall.of(CONFIG).fit(world.policy_log))
    env.reset(seed=0)
    for _ in range(3):
        observation = env.step(np.tile(np.arange(env.slate_size), (8, 1)))[0]
    assert (observation["candidate_mask"].sum(axis=1) > 50).all()


def test_loads_what_it_saved_with_a_channel_of_ones_own(world, requested, tmp_path):
    """The channel that docs/recall.md shows."""
    example = next(block for block in DOCS.read_text().split("```python\n") if "(RecallChannel)" in block)
    (tmp_path / "mine.py").write_text(example.split("```")[0])
    config = RecallConfig(quotas={f"{tmp_path}/mine.py:Rarest": 0.25, "popular": 0.5, "als": 0.25})
    recall = MergedRecall.of(config).fit(world.policy_log)
    assert recall.names == ("rarest", "popular", "als")
    recall.save(tmp_path / "recall.npz")
    loaded = MergedRecall.load(tmp_path / "recall.npz")
    assert loaded.quotas == recall.quotas
    mine, theirs = recall.recall(requested(USERS), 40), loaded.recall(requested(USERS), 40)
    for name in ("items", "scores", "first", "brought"):
        assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert (mine.first == 0).sum() == 600
    loaded.save(tmp_path / "again.npz")
    (tmp_path / "again.npz").write_bytes((tmp_path / "again.npz").read_bytes()[:-100])
    with pytest.raises(ArtefactError, match=r"again\.npz"):
        MergedRecall.load(tmp_path / "again.npz")


@pytest.mark.parametrize("kind", [MergedRecall, EmbeddingRecall])
def test_recall_of_another_catalogue_is_refused(kind, world, moving_world, tmp_path):
    recall = MergedRecall([Popular()], {"popular": 1.0}) if kind is MergedRecall else EmbeddingRecall()
    recall.fit(world.policy_log).save(tmp_path / "recall")
    assert isinstance(kind.load(tmp_path / "recall", world.policy_log.catalogue), kind)
    items, others = world.num_items, moving_world.num_items
    with pytest.raises(
        ArtefactError, match=rf"recall' was fitted on another catalogue \({items} items\).*{others} items"
    ):
        kind.load(tmp_path / "recall", moving_world.policy_log.catalogue)


def test_a_channel_that_could_not_be_found_again_is_not_saved(world, tmp_path):
    class Popular2(Popular):
        pass

    recall = MergedRecall([Popular2()], {"popular": 1.0}).fit(world.policy_log)
    with pytest.raises(ConfigurationError, match=r"file\.py:Class"):
        recall.save(tmp_path / "recall.npz")


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"als": 0.5, "popular": 0.4}, "sum to 0.9, not to 1: als 0.5, popular 0.4"),
        ({"als": 1.5, "popular": -0.5}, "'popular' is -0.5"),
        ({"als": float("nan")}, "'als' is nan"),
        ({}, "0 recall channels"),
    ],
)
def test_quotas_that_do_not_add_up_are_refused(quotas, message):
    with pytest.raises(ConfigurationError, match=message):
        RecallConfig(quotas=quotas)


def test_channels_and_quotas_must_match():
    with pytest.raises(ConfigurationError, match="quotas are given for als, but the channels are popular"):
        MergedRecall([Popular()], {"als": 1})
    with pytest.raises(ConfigurationError, match="the channels are popular, popular"):
        MergedRecall([Popular(), Popular()], {"popular": 1})
    with pytest.raises(ConfigurationError, match="settings are given for channel 'bpr'"):
        RecallConfig(quotas={"als": 1.0}, settings={"bpr": {}})
    for own, message in (
        ({"als": {"depth": 3}}, "channel 'als' has no setting 'depth'"),
        ({"als": {"dimension": "wide"}}, "dimension of channel 'als' is 'wide'; it must be a whole number"),
        ({"fresh": {"half_life_days": 3}}, "channel 'fresh', which has none"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            RecallConfig(quotas={"als": 0.5, "fresh": 0.5}, settings=own).channels()
    for wrong in ("als", {"als": "all"}):
        with pytest.raises(ConfigurationError, match=r"quotas of recall is .*; it must be a table with a number"):
            RecallConfig(quotas=wrong)


def test_reads_a_line_of_text():
    assert RecallConfig.parse("als=0.7, popular=0.3").quotas == {"als": 0.7, "popular": 0.3}
    assert RecallConfig.parse("als,popular,fresh,bpr", seed=4).quotas == dict.fromkeys(
        ("als", "popular", "fresh", "bpr"), 0.25
    )
    assert list(RecallConfig.parse("a/b.py:Mine=1").quotas) == ["a/b.py:Mine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give channels with shares"),
        ("als=0.5,popular", "or without any"),
        ("als=half,popular=0.5", "'half' of channel 'als' is not a number"),
        ("als=0.5,als=0.5", "'als' twice"),
        ("als=0.5,popular=0.6", "sum to 1.1"),
    ],
)
def test_a_wrong_line_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        RecallConfig.parse(text)


def test_an_unknown_channel_is_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'popular'"):
        MergedRecall.of(RecallConfig.parse("populr"))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((60, 3), np.int32), r"'popular' returned items of shape \(60, 3\) and type int32.*\(60, 5\)"),
        (np.zeros((60, 5)), "type float64"),
        (np.full((60, 5), 10**6), "returned item 1000000"),
        (np.full((60, 5), -2), "returned item -2, but"),
    ],
)
def test_a_channel_that_returns_something_wrong_is_named(world, requested, returned, message):
    class Wrong(Popular):
        def recall(self, request, n):
            return returned, np.zeros(returned.shape, np.float32)

    recall = MergedRecall([Wrong()], {"popular": 1.0}).fit(world.policy_log)
    with pytest.raises(ConfigurationError, match=message):
        recall.recall(requested(USERS), 5)
