"""Splits with less data, late events and wrong labels: what changes, and that nothing else does."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.rankers.log_history import LogHistory
from agents.updates.bootstrap import Resampled
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.ranking import FullRanking, UserBootstrap, leave_last_out
from evaluation.ranking.splits import late_events, latest_share, wrong_items, wrong_likes


@pytest.fixture(scope="module")
def shown():
    return generate_log(SyntheticConfig(num_users=40, num_items=80, events_per_user=25), seed=3)[0]


@pytest.fixture(scope="module", params=["shown", "consumed"])
def split(request, shown):
    return leave_last_out(shown if request.param == "shown" else shown.consumed())


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_latest_rows_are_kept_and_slates_stay_whole(split, share):
    log, less = split.log, latest_share(split, share)
    assert_array_equal(less.test, split.test)
    assert_array_equal(less.validation, split.validation)
    for user in range(len(log.users)):
        had = np.flatnonzero(split.training & (log.user == user))
        kept = np.flatnonzero(less.training & (log.user == user))
        assert_array_equal(kept, had[len(had) - len(kept) :])
        longest = np.bincount(log.request[had]).max() if log.has_exposures else 1
        assert share * len(had) - 1e-9 <= len(kept) < share * len(had) + longest
        if log.has_exposures:
            assert not set(log.request[kept]) & set(log.request[np.setdiff1d(had, kept)])
    assert_array_equal(less.known, less.training | ~split.training)
    assert_array_equal(latest_share(split, 1.0).training, split.training)


class Spy:
    """Keeps what it is asked, and likes the last item best."""

    def __init__(self):
        self.asked = []

    def score(self, batch):
        self.asked.append(batch)
        return np.broadcast_to(np.arange(batch.items.shape[1], dtype=np.float32), batch.items.shape)


def test_what_is_unknown_is_in_no_question_but_is_not_ranked_again(split):
    plain, less, late = Spy(), Spy(), Spy()
    truth = FullRanking.of(plain, split)
    for spy, changed in ((less, latest_share(split, 0.1)), (late, late_events(split, 7_200))):
        found = FullRanking.of(spy, changed)
        assert_array_equal(found.rank, truth.rank)
        told, all_of_it = (spy.asked[0].history >= 0).sum(), (plain.asked[0].history >= 0).sum()
        assert 0 < told < all_of_it
    expected = LogHistory(split.log, 20, delay=7_200).histories(split.test_rows)[0]
    assert_array_equal(late.asked[0].history, expected)


def test_wrong_items_are_ones_that_the_user_never_consumes(split):
    log, changed = split.log, {share: wrong_items(split, share, seed=4) for share in (0.05, 0.2)}
    wrong = {share: one.taught.item != log.item for share, one in changed.items()}
    learnt = (split.training | split.validation) & log.clicked
    for share, rows in wrong.items():
        assert not (rows & ~learnt).any()
        assert abs(rows.sum() / learnt.sum() - share) < 0.06
        for row in np.flatnonzero(rows):
            ever = log.item[(log.user == log.user[row]) & log.clicked]
            item = changed[share].taught.item[row]
            assert item not in ever and log.catalogue.birth[item] <= log.timestamp[row]
        assert_array_equal(changed[share].training_log.item, changed[share].taught.item[split.training])
    # wrong at a share is wrong at a larger one, unless another row of the user has that item by then
    for row in np.flatnonzero(wrong[0.05] & ~wrong[0.2]):
        others = changed[0.2].taught.item[wrong[0.2] & (log.user == log.user[row])]
        assert changed[0.05].taught.item[row] in others
    pairs = np.column_stack([log.user, changed[0.2].taught.item])[learnt]
    assert log.has_exposures or len(np.unique(pairs, axis=0)) == len(pairs)
    assert changed[0.2].log is log


def test_wrong_likes_are_turned_round(split):
    log = replace(split.log, rating=np.where(np.arange(len(split.log)) % 3, 4.0, np.nan).astype(np.float32))
    log = replace(log, rating=np.where(np.arange(len(log)) % 3 == 1, 2.0, log.rating).astype(np.float32))
    split = leave_last_out(log)
    taught = wrong_likes(split, 0.2, 4.0, seed=4).taught
    told = [one.clicked if log.has_exposures else one.rating >= 4 for one in (log, taught)]
    rows, learnt = told[0] != told[1], split.training | split.validation
    assert not (rows & ~learnt).any()
    rated = learnt & (True if log.has_exposures else np.isfinite(log.rating))
    assert abs(rows.sum() / rated.sum() - 0.2) < 0.06
    assert log.has_exposures or set(told[0][rows]) == {True, False}
    assert_array_equal(np.isnan(taught.rating), np.isnan(log.rating))
    assert_array_equal(wrong_likes(split, 0.0, 4.0).taught.rating, log.rating)


def test_shares_out_of_range_are_refused(split):
    with pytest.raises(ConfigurationError, match="share of 0 of the rows"):
        latest_share(split, 0)
    for change in (lambda: wrong_items(split, 1.5), lambda: wrong_likes(split, -0.1, 4.0)):
        with pytest.raises(ConfigurationError, match="cannot be wrong"):
            change()


def test_figures_of_several_seeds_spread_by_both():
    """The variance over users and seeds is about the sum of both: of the users' mean, and of the seeds' over their number."""
    random = np.random.default_rng(0)
    users, seeds = 200, 6
    of_user, of_seed = random.normal(size=users), random.normal(size=seeds)
    bootstrap = UserBootstrap(users, seed=1)
    alone = [bootstrap.mean(of_user + level) for level in of_seed]
    both = Resampled.over_seeds(alone, seed=2)
    assert both.num_seeds == seeds and both.estimate().num_seeds == seeds
    assert_allclose(both.value, of_user.mean() + of_seed.mean())
    expected = of_user.var() / users + of_seed.var() / seeds
    assert_allclose(both.draws.var(), expected, rtol=0.1)
    one = Resampled.over_seeds(alone[:1], seed=2)
    assert_array_equal(one.draws, alone[0].draws)
    assert (both - one).num_seeds == 1
