"""What every ranker that tells probabilities must do, beside the contract of all rankers."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from small_rankers import POINTWISE, made

from agents.rankers.mf_pointwise import MFPointwise
from agents.rankers.samples import SampleConfig


@pytest.fixture(scope="module", params=POINTWISE, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def ranker(kind, shown_log):
    return made(kind).fit(shown_log)


@pytest.fixture(scope="module")
def asked(shown_log, ask):
    return ask(shown_log, np.arange(5, len(shown_log), 97), 12)


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
    ranker = made(MFPointwise, epochs=40, training={"learning_rate": 0.05, "patience": 2, "embedding_decay": 0.0}).fit(
        shown_log
    )
    objectives = [figures["objective"] for figures in ranker.passes_]
    assert len(objectives) < 40 and np.argmin(objectives) == len(objectives) - 3
    fewer = made(MFPointwise, epochs=len(objectives) - 2, training={"learning_rate": 0.05, "embedding_decay": 0.0}).fit(
        shown_log
    )
    mine, theirs = (made_so.network_.state_dict() for made_so in (ranker, fewer))
    for name, tensor in mine.items():
        assert_array_equal(tensor.numpy(), theirs[name].numpy())


def test_debias_weighs_by_propensity(kind, shown_log, asked):
    propensity = np.where(shown_log.item % 2, 0.05, 0.9).astype(np.float32)
    log = replace(shown_log, propensity=propensity)
    scores = [made(kind, samples=SampleConfig(debias=debias)).fit(log).score(asked) for debias in (False, True)]
    assert (scores[0] != scores[1]).any()
