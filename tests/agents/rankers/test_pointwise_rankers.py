"""What every pointwise ranker must do, whatever it is made of."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.rankers.dien import DIEN
from agents.rankers.din import DIN
from agents.rankers.gbdt import GBDT
from agents.rankers.logistic import Logistic
from agents.rankers.mf_pointwise import MFPointwise
from agents.rankers.samples import SampleConfig
from agents.rankers.training import TrainingConfig
from envs.errors import ArtefactError, ConfigurationError

NETWORKS = [MFPointwise, DIN, DIEN]
RANKERS = [*NETWORKS, Logistic, GBDT]


def made(kind, seed=0, samples=None, epochs=2, **training):
    samples = replace(samples or SampleConfig(), history_size=6)
    config = replace(kind.config_class(), samples=samples)
    if kind in NETWORKS:
        config = replace(
            config, training=TrainingConfig(**{"epochs": epochs, "batch_size": 1024, "learning_rate": 0.01} | training)
        )
    return kind(config, seed)


@pytest.fixture(scope="module", params=RANKERS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def ranker(kind, shown_log):
    return made(kind).fit(shown_log)


@pytest.fixture(scope="module")
def asked(shown_log, ask):
    return ask(shown_log, np.arange(5, len(shown_log), 97), 12)


def test_permuting_candidates_permutes_scores(ranker, asked):
    order = np.random.default_rng(0).permutation(asked.items.shape[1])
    permuted = replace(asked, items=asked.items[:, order], ages=asked.ages[:, order])
    scores = ranker.score(asked)
    assert scores.dtype == np.float32 and scores.shape == asked.items.shape and np.isfinite(scores).all()
    assert_allclose(ranker.score(permuted), scores[:, order], rtol=1e-4, atol=1e-5)
    assert scores.std(axis=1).max() > 0


def test_a_request_does_not_hang_on_its_neighbours(ranker, asked):
    assert_array_equal(ranker.score(asked.take(slice(3, 4))), ranker.score(asked)[3:4])


def test_the_same_seed_gives_the_same_fit(kind, ranker, shown_log, asked):
    assert_array_equal(made(kind).fit(shown_log).score(asked), ranker.score(asked))


def test_save_and_load(kind, ranker, shown_log, asked, tmp_path):
    ranker.save(tmp_path / "ranker")
    again = kind.load(tmp_path / "ranker", shown_log.catalogue)
    assert_array_equal(again.score(asked), ranker.score(asked))
    assert again.config == ranker.config and again.num_parameters == ranker.num_parameters > 0
    again.update(shown_log)
    assert (again.score(asked) != ranker.score(asked)).any()


def test_another_catalogue_is_refused(kind, ranker, shown_log, world, tmp_path):
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


def test_items_unknown_at_fit_are_scored_by_their_features(kind, shown_log, ask):
    unknown = shown_log.item % 4 == 1
    ranker = made(kind).fit(shown_log.where(~unknown))
    assert not ranker.known_items_[1::4].any() and ranker.known_items_.any()
    asked = ask(shown_log, np.arange(5, len(shown_log), 97), 60)
    scores = ranker.score(asked)
    assert np.isfinite(scores).all()
    # two unknown items of the same categories and age are the same to a ranker
    categories, strange = shown_log.catalogue.categories, np.flatnonzero(~ranker.known_items_)
    same = [(a, b) for a in strange for b in strange if a < b and (categories[a] == categories[b]).all()]
    one, two = same[0]
    pair = replace(
        asked,
        items=np.tile(np.array([one, two], np.int32), (len(asked), 1)),
        ages=np.ones((len(asked), 2), np.float32),
        history=np.full_like(asked.history, -1),
    )
    scores = ranker.score(pair)
    assert_allclose(scores[:, 0], scores[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [False, True])
def test_labels_that_are_all_equal(kind, shown_log, asked, value):
    same = replace(shown_log, clicked=np.full(len(shown_log), value))
    ranker = made(kind, samples=SampleConfig(label="click")).fit(same)
    scores = ranker.score(asked)
    assert np.isfinite(scores).all()
    assert ((scores > 0) == value).mean() > 0.9


def test_ratings_and_drawn_items_can_be_learnt(kind, rated_log, ask):
    asked = ask(rated_log, np.arange(3, len(rated_log), 51), 6)
    for label in ("rating", "consumed"):
        scores = made(kind, samples=SampleConfig(label=label)).fit(rated_log).score(asked)
        assert np.isfinite(scores).all() and scores.std() > 0


def test_validation_may_be_given(kind, shown_log):
    late = shown_log.timestamp > np.quantile(shown_log.timestamp, 0.8)
    ranker = made(kind).fit(shown_log.where(~late), shown_log.where(late))
    assert_array_equal(ranker.counts_, shown_log.where(~late).item_counts())


def test_a_network_stops_early_and_keeps_its_best_pass(shown_log):
    ranker = made(MFPointwise, epochs=40, learning_rate=0.05, patience=2, embedding_decay=0.0).fit(shown_log)
    objectives = [figures["objective"] for figures in ranker.passes_]
    assert len(objectives) < 40 and np.argmin(objectives) == len(objectives) - 3
    fewer = made(MFPointwise, epochs=len(objectives) - 2, learning_rate=0.05, embedding_decay=0.0).fit(shown_log)
    mine, theirs = (made_so.network_.state_dict() for made_so in (ranker, fewer))
    for name, tensor in mine.items():
        assert_array_equal(tensor.numpy(), theirs[name].numpy())


def test_debias_weighs_by_propensity(kind, shown_log, asked):
    propensity = np.where(shown_log.item % 2, 0.05, 0.9).astype(np.float32)
    log = replace(shown_log, propensity=propensity)
    scores = [made(kind, samples=SampleConfig(debias=debias)).fit(log).score(asked) for debias in (False, True)]
    assert (scores[0] != scores[1]).any()


def test_updates_learn_from_new_events(kind, shown_log, ask):
    late = shown_log.timestamp > np.quantile(shown_log.timestamp, 0.6)
    ranker = made(kind).fit(shown_log.where(~late))
    asked = ask(shown_log, np.arange(5, len(shown_log), 97), 12)
    before = ranker.score(asked)
    ranker.update(shown_log.where(late))
    assert (ranker.score(asked) != before).any()
    assert_array_equal(ranker.counts_, shown_log.item_counts())
    ranker.update(shown_log.where(np.zeros(len(shown_log), bool)))
    with pytest.raises(ConfigurationError, match="users"):
        users = replace(shown_log.users, user_ids=shown_log.users.user_ids[:-1], features=shown_log.users.features[:-1])
        ranker.update(replace(shown_log.where(shown_log.user < len(users)), users=users))


def test_a_catalogue_of_one_item(kind, shown_log):
    one = replace(
        shown_log.where(shown_log.item == shown_log.item[0]),
        catalogue=replace(
            shown_log.catalogue,
            item_ids=shown_log.catalogue.item_ids[:1],
            titles=shown_log.catalogue.titles[:1],
            categories=shown_log.catalogue.categories[:1],
            birth=shown_log.catalogue.birth[:1],
        ),
        item=np.zeros(int((shown_log.item == shown_log.item[0]).sum()), np.int32),
    )
    ranker = made(kind).fit(one)
    assert len(ranker.counts_) == 1
    made(kind, samples=SampleConfig(label="consumed")).fit(one)
