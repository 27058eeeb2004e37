"""The contract of every ranker, whatever it is made of and trained for."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small_rankers import CATALOGUE, CROSSED, POINTWISE, SEQUENCES, made

from agents.rankers.network_ranker import NetworkRanker
from agents.rankers.neumf import NeuMF
from agents.rankers.samples import SampleConfig
from envs.errors import ArtefactError, ConfigurationError


@pytest.fixture(scope="module", params=[*POINTWISE, *CATALOGUE], ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def log(kind, shown_log, rated_log):
    """What a ranker of that kind is made for: slates with what was passed over, or what was consumed."""
    return shown_log if kind in POINTWISE else rated_log


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    return tmp_path_factory.mktemp("curves")


@pytest.fixture(scope="module")
def ranker(kind, log, curves):
    return made(kind).fit(log, folder=curves / kind.name)


@pytest.fixture(scope="module")
def asked(log, ask):
    return ask(log, np.arange(5, len(log), 97), 12)


def test_permuting_candidates_permutes_scores(ranker, asked):
    order = np.random.default_rng(0).permutation(asked.items.shape[1])
    permuted = replace(asked, items=asked.items[:, order], ages=asked.ages[:, order])
    scores = ranker.score(asked)
    assert scores.dtype == np.float32 and scores.shape == asked.items.shape and np.isfinite(scores).all()
    assert_allclose(ranker.score(permuted), scores[:, order], rtol=1e-4, atol=1e-5)
    assert scores.std(axis=1).max() > 0


def test_a_fit_leaves_curves(kind, ranker, curves):
    written = b"".join(path.read_bytes() for path in (curves / kind.name).glob("events*"))
    assert (b"objective" if kind not in CROSSED else b"log_loss") in written


def test_a_request_does_not_hang_on_its_neighbours(ranker, asked):
    assert_array_equal(ranker.score(asked.take(slice(3, 4))), ranker.score(asked)[3:4])


def test_the_same_seed_gives_the_same_fit(kind, ranker, log, asked):
    assert_array_equal(made(kind).fit(log).score(asked), ranker.score(asked))


def test_save_and_load(kind, ranker, log, asked, tmp_path):
    ranker.save(tmp_path / "ranker")
    again = kind.load(tmp_path / "ranker", log.catalogue)
    assert_array_equal(again.score(asked), ranker.score(asked))
    assert again.config == ranker.config and again.num_parameters == ranker.num_parameters > 0
    again.update(log)
    assert (again.score(asked) != ranker.score(asked)).any()


def test_another_catalogue_is_refused(kind, ranker, log, world, tmp_path):
    ranker.save(tmp_path / "ranker")
    with pytest.raises(ArtefactError, match="another catalogue"):
        kind.load(tmp_path / "ranker", world.policy_log.catalogue)
    with pytest.raises(ConfigurationError, match="another catalogue"):
        ranker.update(world.policy_log)


def test_another_ranker_is_refused(kind, ranker, tmp_path):
    class Other(kind):
        name = "other"

    ranker.save(tmp_path / "ranker")
    with pytest.raises(ArtefactError, match="holds a"):
        Other.load(tmp_path / "ranker")


def test_who_reads_no_history_says_so(kind, ranker, asked):
    """Of these the report says that they know cold users by attributes alone."""
    without = replace(asked, history=np.full_like(asked.history, -1), history_days=np.zeros_like(asked.history_days))
    moves = (ranker.score(without) != ranker.score(asked)).any()
    assert moves == getattr(kind, "reads_history", True)


def test_absent_items_score_lowest_and_change_nothing(ranker, asked):
    fewer = replace(asked, items=np.where(np.arange(12) < 7, asked.items, -1).astype(np.int32))
    scores = ranker.score(fewer)
    assert (scores[:, 7:] == -np.inf).all()
    assert_allclose(scores[:, :7], ranker.score(asked)[:, :7], rtol=1e-5, atol=1e-6)


def test_strangers_without_history_and_empty_requests(ranker, asked):
    stranger = replace(
        asked,
        user=np.full(len(asked), -1),
        history=np.full_like(asked.history, -1),
        history_days=np.zeros_like(asked.history_days),
    )
    assert np.isfinite(ranker.score(stranger)).all()
    assert ranker.score(asked.take(slice(0, 0))).shape == (0, 12)
    none = replace(asked, items=asked.items[:, :0], ages=asked.ages[:, :0])
    assert ranker.score(none).shape == (len(asked), 0)
    short = replace(asked, history=asked.history[:, :2], history_days=asked.history_days[:, :2])
    assert np.isfinite(ranker.score(short)).all()


@pytest.mark.parametrize("value", [False, True])
def test_labels_that_are_all_equal(kind, shown_log, ask, value):
    """Slates of which nothing was clicked, or everything: sequence models learn of nothing consumed, or of all of it."""
    same = replace(shown_log, clicked=np.full(len(shown_log), value))
    ranker = made(kind, samples=None if kind in SEQUENCES else SampleConfig(label="click")).fit(same)
    asked = ask(shown_log, np.arange(5, len(shown_log), 97), 12)
    scores = ranker.score(asked)
    assert np.isfinite(scores).all()
    if kind in POINTWISE or kind is NeuMF:
        assert ((scores > 0) == value).mean() > 0.9
    ranker.update(same)
    assert np.isfinite(ranker.score(asked)).all()


def test_a_catalogue_of_one_item(kind, log, ask):
    one = replace(
        log.where(log.item == log.item[0]),
        catalogue=replace(
            log.catalogue,
            item_ids=log.catalogue.item_ids[:1],
            titles=log.catalogue.titles[:1],
            categories=log.catalogue.categories[:1],
            birth=log.catalogue.birth[:1],
        ),
        item=np.zeros(int((log.item == log.item[0]).sum()), np.int32),
    )
    of_one = ask(one, np.arange(0, len(one), 3), 1)
    for samples in (None, SampleConfig(label="consumed")):
        ranker = made(kind, samples=samples).fit(one)
        assert len(ranker.counts_) == 1 and of_one.items.shape == (len(of_one), 1)
        assert np.isfinite(ranker.score(of_one)).all()
        ranker.update(one)
        assert np.isfinite(ranker.score(of_one)).all()


def learnt(ranker):
    """What only learning moves: counts and rates, which any new event moves, are left out."""
    if isinstance(ranker, NetworkRanker):
        return [weights.detach().numpy().copy() for weights in ranker.network_.parameters()]
    return [ranker._arrays()[name] for name in ("trees", "coefficients") if name in ranker._arrays()]


def test_updates_learn_from_new_events(kind, log, ask):
    late = log.timestamp > np.quantile(log.timestamp, 0.6)
    ranker = made(kind).fit(log.where(~late))
    asked = ask(log, np.arange(5, len(log), 97), 12)
    before, known = ranker.score(asked), learnt(ranker)
    ranker.update(log.where(late))
    assert (ranker.score(asked) != before).any()
    assert known and any(not np.array_equal(*pair) for pair in zip(known, learnt(ranker), strict=True))
    assert_array_equal(ranker.counts_, log.item_counts())
    ranker.update(log.where(np.zeros(len(log), bool)))
    with pytest.raises(ConfigurationError, match="users"):
        users = replace(log.users, user_ids=log.users.user_ids[:-1], features=log.users.features[:-1])
        ranker.update(replace(log.where(log.user < len(users)), users=users))
