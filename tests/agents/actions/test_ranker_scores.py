"""Scores of fitted rankers: what lies fitted in a folder is taken as it is."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.actions.ranker_scores import FITTED_FILE, RankerScores
from agents.rankers.logistic import Logistic
from envs.errors import ArtefactError
from envs.world import default_world


def test_a_ranker_that_lies_fitted_in_its_folder_is_not_fitted_again(small_world, tmp_path):
    log = small_world.policy_log
    Logistic(seed=5).fit(log.where(log.user < 20)).save(tmp_path / "logistic" / FITTED_FILE)
    taken = RankerScores.fit(["logistic"], log, 0, tmp_path).rankers[0]
    assert taken.seed == 5
    fitted = RankerScores.fit(["logistic"], log, 0).rankers[0]
    assert not np.array_equal(taken.counts_, fitted.counts_)


def test_one_of_another_catalogue_is_refused(small_world, tmp_path):
    Logistic().fit(default_world().policy_log).save(tmp_path / "logistic" / FITTED_FILE)
    with pytest.raises(ArtefactError, match="another catalogue"):
        RankerScores.fit(["logistic"], small_world.policy_log, 0, tmp_path)


def test_without_a_folder_each_is_fitted_with_the_given_seed(small_world):
    first, again = (RankerScores.fit(["logistic"], small_world.policy_log, 3).rankers[0] for _ in range(2))
    assert first.seed == 3
    assert_array_equal(first.counts_, again.counts_)
