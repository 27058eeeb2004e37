from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.rankers.log_history import LogHistory
from agents.rankers.mf_pointwise import MFPointwise
from agents.rankers.samples import SampleConfig, Samples, held_out, joined, propensity_weights
from agents.rankers.training import TrainingConfig
from envs.errors import ConfigurationError


def samples_of(log, rows=None, seed=0, **config):
    chosen = SampleConfig(**config)
    rows = np.ones(len(log), bool) if rows is None else rows
    return Samples(LogHistory(log, chosen.history_size), rows, chosen, seed)


def test_slates_are_samples_with_their_clicks(shown_log):
    samples = samples_of(shown_log)
    batches = list(samples.epoch(0, 500))
    shown = sum(int((batch.inputs.items >= 0).sum()) for batch in batches)
    assert shown == len(shown_log)
    assert sum(float(batch.labels.sum()) for batch in batches) == shown_log.clicked.sum()
    batch = samples.batch(np.array([3]))
    start = samples.starts[3]
    slate = slice(start, start + int((batch.inputs.items >= 0).sum()))
    assert_array_equal(batch.inputs.items[0][batch.inputs.items[0] >= 0], shown_log.item[slate])
    assert_array_equal(batch.labels[0][batch.inputs.items[0] >= 0], shown_log.clicked[slate])


def test_ratings_from_the_threshold_on_are_liked(rated_log):
    rating = rated_log.rating.copy()
    rating[::7] = np.nan
    samples = samples_of(replace(rated_log, rating=rating), label="rating", rating_threshold=4)
    assert len(samples) == (~np.isnan(rating)).sum()
    batch = samples.batch(np.arange(len(samples)))
    assert_array_equal(batch.labels[:, 0], rating[samples.starts] >= 4)
    assert (batch.weights == 1).all()


def test_ratings_are_asked_for_in_vain(rated_log):
    without = replace(rated_log, rating=np.full(len(rated_log), np.nan, np.float32))
    with pytest.raises(ConfigurationError, match="no ratings"):
        samples_of(without, label="rating")


@pytest.mark.parametrize("avoid_later", [False, True])
def test_drawn_items_are_on_offer_and_not_consumed(rated_log, avoid_later):
    samples = samples_of(rated_log, label="consumed", negatives=5, avoid_later=avoid_later)
    assert len(samples) == len(rated_log)
    drawn = samples.negatives(np.arange(len(rated_log)))
    birth, now = rated_log.catalogue.birth[drawn], rated_log.timestamp[:, None]
    assert (birth <= now)[drawn >= 0].all()
    found_later = 0
    for row in range(0, len(rated_log), 11):
        first, end = rated_log.user_starts[rated_log.user[row]], rated_log.user_starts[rated_log.user[row] + 1]
        assert not set(drawn[row]) & set(rated_log.item[first : row + 1])
        found_later += bool(set(drawn[row]) & set(rated_log.item[row:end]))
    assert (found_later == 0) == avoid_later


def test_draws_change_with_the_pass_and_come_back_with_the_seed(rated_log):
    samples = samples_of(rated_log, label="consumed")
    rows = np.arange(len(rated_log))
    assert_array_equal(samples.negatives(rows, 1), samples_of(rated_log, label="consumed").negatives(rows, 1))
    assert (samples.negatives(rows, 1) != samples.negatives(rows, 2)).any()
    orders = [next(samples.epoch(number, 64)).inputs.user for number in (0, 0, 1)]
    assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()


def test_drawn_items_of_earlier_rows_do_not_hang_on_later_ones(rated_log):
    keep = rated_log.place < 10
    pool = np.arange(len(rated_log.catalogue), dtype=np.int32)
    config = SampleConfig(label="consumed")
    few = Samples(
        LogHistory(rated_log.where(rated_log.user == 0), 5), rated_log.user[rated_log.user == 0] == 0, config, 0, pool
    )
    fewer = Samples(LogHistory(rated_log.where(keep & (rated_log.user == 0)), 5), np.ones(10, bool), config, 0, pool)
    assert_array_equal(few.negatives(np.arange(10)), fewer.negatives(np.arange(10)))


def test_what_was_passed_over_in_a_slate_stands_against_what_was_clicked(shown_log, rated_log):
    samples = samples_of(shown_log, label="consumed", negatives=3, negatives_shown=True)
    rows = np.flatnonzero(shown_log.clicked)
    drawn = samples.negatives(rows)
    for row, items in zip(rows, drawn, strict=True):
        slate = (shown_log.user == shown_log.user[row]) & (shown_log.request == shown_log.request[row])
        assert len(set(items)) == 3 and set(items) <= set(shown_log.item[slate & ~shown_log.clicked])
    assert (samples.negatives(rows, 1) != drawn).any()
    # more are asked for than a slate has
    many = samples_of(shown_log, label="consumed", negatives=30, negatives_shown=True).negatives(rows)
    assert (
        (many >= 0).sum(axis=1) == np.bincount(samples.history.slate_start)[samples.history.slate_start[rows]] - 1
    ).all()
    # rows without a slate are as before
    plain, other = (samples_of(rated_log, label="consumed", negatives_shown=shown) for shown in (False, True))
    assert_array_equal(plain.negatives(np.arange(50)), other.negatives(np.arange(50)))


def test_rare_exposures_weigh_more(shown_log):
    propensity = np.where(np.arange(len(shown_log)) % 2, 0.5, 0.05).astype(np.float32)
    propensity[:3] = np.nan
    log, rows = replace(shown_log, propensity=propensity), np.ones(len(shown_log), bool)
    weights = propensity_weights(log, rows, SampleConfig(debias=True, most_weight=10))
    assert_allclose(weights.mean(), 1, rtol=1e-5)
    assert_allclose(weights[4] / weights[5], 5, rtol=1e-5)  # 1 / 0.05 is clipped to 10
    assert_allclose(weights[5] / weights[0], 2, rtol=1e-5)
    assert (propensity_weights(log, rows, SampleConfig()) == 1).all()
    assert (propensity_weights(shown_log, rows, SampleConfig(debias=True)) == 1).all()


def test_joined_logs_keep_rows_and_columns(shown_log):
    late = shown_log.timestamp > np.median(shown_log.timestamp)
    propensity = np.full(int(late.sum()), 0.25, np.float32)
    both, second = joined(shown_log.where(~late), replace(shown_log.where(late), propensity=propensity))
    assert_array_equal(both.item, shown_log.item)
    assert_array_equal(second, late)
    assert (both.propensity[late] == 0.25).all() and np.isnan(both.propensity[~late]).all()


def test_logs_of_other_items_are_not_joined(shown_log, world):
    with pytest.raises(ConfigurationError, match="other users or items"):
        joined(shown_log, world.policy_log)


def test_held_out_rows_are_each_users_last(shown_log):
    late = held_out(shown_log, 0.2)
    assert 0.1 < late.mean() < 0.3
    for user in range(len(shown_log.users)):
        own = late[shown_log.user_starts[user] : shown_log.user_starts[user + 1]]
        assert (np.diff(own.astype(int)) >= 0).all()
    history = LogHistory(shown_log, 1)
    assert_array_equal(late, late[history.slate_start])
    assert not held_out(shown_log, 0).any()


@pytest.mark.parametrize(
    "wrong", [{"label": "stars"}, {"negatives": 0}, {"history_size": 0}, {"most_weight": 0.5}, {"event_delay": -1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        SampleConfig(**wrong)


def test_a_ranker_is_taught_with_the_delay_that_it_serves_with(rated_log):
    """Each ranker's samples go through the base: the delay reaches fits and updates."""
    seen = []

    class Spy(MFPointwise):
        def batches(self, samples, number):
            seen.append((samples.history.delay, float(samples.history.unread(samples.starts).sum())))
            return super().batches(samples, number)

    config = MFPointwise.config_class(
        samples=SampleConfig(event_delay=7_200), training=TrainingConfig(epochs=1, batch_size=512)
    )
    late = rated_log.timestamp > np.quantile(rated_log.timestamp, 0.8)
    ranker = Spy(config).fit(rated_log.where(~late))
    ranker.update(rated_log.where(late))
    assert len(seen) == 2 and all(delay == 7_200 and unread > 0 for delay, unread in seen)
