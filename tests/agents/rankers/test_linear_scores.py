"""The logistic ranker's fast scores, warm starts, and what learning costs."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from agents.rankers.din import DIN
from agents.rankers.logistic import Logistic, LogisticConfig
from agents.rankers.samples import SampleConfig
from agents.rankers.training import TrainingConfig
from envs.errors import ConfigurationError


def test_scores_are_those_of_the_table_of_features(shown_log, ask):
    ranker = Logistic().fit(shown_log)
    batch = ask(shown_log, np.arange(0, len(shown_log), 17), 30)
    batch.items[:, -3:] = -1
    batch.user[:4] = (-1, 0, len(shown_log.users), 5)
    batch.history[3:6] = -1
    batch.history_days[3:6] = 0
    for _ in range(2):
        counts = np.random.default_rng(1).uniform(0, 4, batch.items.shape).astype(np.float32)
        full = replace(batch, counts=counts)
        features = ranker.features(full, ranker.rates_.served(full))
        plain = ranker._logits(features.reshape(-1, features.shape[2])).reshape(batch.items.shape)
        found = ranker.score(full)
        np.testing.assert_allclose(found[:, :-3], plain[:, :-3], atol=2e-5)
        assert np.isneginf(found[:, -3:]).all()
        ranker.update(shown_log.where(shown_log.place >= 20))  # what was summed for speed follows an update


def test_a_request_is_scored_alike_alone_and_among_others_to_the_bit(shown_log, ask):
    ranker = Logistic().fit(shown_log)
    batch = ask(shown_log, np.arange(40), 30)
    together = ranker.score(batch)
    for row in range(40):
        np.testing.assert_array_equal(ranker.score(batch.take(slice(row, row + 1)))[0], together[row])
    np.testing.assert_array_equal(copy.deepcopy(ranker).score(batch), together)


def test_a_warm_fit_starts_from_what_was_learnt(shown_log, ask):
    early, late = shown_log.where(shown_log.place < 200), shown_log.where(shown_log.place >= 20)
    batch = ask(shown_log, np.arange(40), 30)
    # with all the steps that it needs, where it starts does not matter
    cold = Logistic(LogisticConfig(iterations=500)).fit(late)
    warm = Logistic(LogisticConfig(iterations=500)).fit(early).fit(late, warm=True)
    np.testing.assert_allclose(warm.score(batch), cold.score(batch), atol=0.02)
    # with one step it is nearer to what it started from
    start = Logistic(LogisticConfig(iterations=500)).fit(early)
    hurried = copy.deepcopy(start)
    hurried.config = LogisticConfig(iterations=1)
    with pytest.warns(match="converge"):
        hurried.fit(late, warm=True)
    with pytest.warns(match="converge"):
        from_zero = Logistic(LogisticConfig(iterations=1)).fit(late)
    target = cold.score(batch)
    assert np.abs(hurried.score(batch) - target).mean() < 0.5 * np.abs(from_zero.score(batch) - target).mean()


def test_a_network_starts_warm_too_and_tells_its_passes(shown_log, ask):
    training = TrainingConfig(epochs=2, patience=1, learning_rate=1e-9)
    ranker = DIN(replace(DIN.config_class(), training=training), seed=1)
    early = shown_log.where(shown_log.place < 100)
    batch = ask(shown_log, np.arange(20), 10)
    ranker.fit(early)
    rows = int(np.ceil(len(early) * 0.9))
    assert ranker.trained_samples_ % len(ranker.passes_) == 0
    assert 0.8 * rows < ranker.trained_samples_ / len(ranker.passes_) < 1.1 * rows
    ranker.network_.load_state_dict({name: 2 * tensor for name, tensor in ranker.network_.state_dict().items()})
    ranker._prepared(ranker.network_)
    before = ranker.score(batch)
    ranker.fit(early, warm=True)
    np.testing.assert_allclose(ranker.score(batch), before, atol=1e-3)
    ranker.fit(early)
    assert np.abs(ranker.score(batch) - before).max() > 0.01


def test_what_learning_costs_is_counted(rated_log):
    config = LogisticConfig(samples=SampleConfig(label="consumed", negatives=3), validation_share=0)
    ranker = Logistic(config).fit(rated_log)
    assert ranker.trained_samples_ == 4 * len(rated_log)
    ranker.update(rated_log.where(rated_log.place >= 23))
    assert ranker.trained_samples_ == 4 * int((rated_log.place >= 23).sum())
    ranker.update(rated_log.where(np.zeros(len(rated_log), bool)))
    assert ranker.trained_samples_ == 0


def test_a_warm_start_of_other_users_is_refused(rated_log):
    ranker = Logistic().fit(rated_log)
    other = replace(
        rated_log.where(rated_log.user < 10),
        users=replace(rated_log.users, user_ids=rated_log.users.user_ids[:10], features=rated_log.users.features[:10]),
    )
    with pytest.raises(ConfigurationError, match="10 users"):
        ranker.fit(other, warm=True)
