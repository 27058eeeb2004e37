"""Scores of fitted rankers: what lies fitted in a shared folder is taken as it is, what does not is left there."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.actions.ranker_scores import RankerScores
from agents.base import Training
from agents.rankers.agent import LogisticAgent
from agents.rankers.logistic import Logistic
from envs.errors import ArtefactError
from envs.world import default_world


def test_a_ranker_that_lies_fitted_in_its_folder_is_not_fitted_again(small_world, tmp_path):
    log = small_world.policy_log
    Logistic(seed=5).fit(log.where(log.user < 20)).save(tmp_path / "logistic-seed0")
    taken = RankerScores.fit(["logistic"], log, 0, shared=tmp_path).rankers[0]
    assert taken.seed == 5
    fitted = RankerScores.fit(["logistic"], log, 0).rankers[0]
    assert not np.array_equal(taken.counts_, fitted.counts_)


def test_one_of_another_catalogue_is_refused(small_world, tmp_path):
    Logistic().fit(default_world().policy_log).save(tmp_path / "logistic-seed0")
    with pytest.raises(ArtefactError, match="another catalogue"):
        RankerScores.fit(["logistic"], small_world.policy_log, 0, shared=tmp_path)


def test_one_that_is_not_there_is_left_for_others_with_the_same_bits(small_world, tmp_path):
    log = small_world.policy_log
    own = RankerScores.fit(["logistic"], log, 4, shared=tmp_path / "rankers").rankers[0]
    agent = LogisticAgent(seed=4).fit(log, Training(make_env=None, requests=0, seed=4, rankers=tmp_path / "rankers"))
    assert [path.name for path in (tmp_path / "rankers").iterdir()] == ["logistic-seed4"]
    assert_array_equal(agent.ranker_.counts_, own.counts_)
    (tmp_path / "rankers" / "logistic-seed4").write_bytes(b"spoilt")
    with pytest.raises(ArtefactError, match="logistic-seed4"):
        LogisticAgent(seed=4).fit(log, Training(make_env=None, requests=0, seed=4, rankers=tmp_path / "rankers"))


def test_without_a_folder_each_is_fitted_with_the_given_seed(small_world):
    first, again = (RankerScores.fit(["logistic"], small_world.policy_log, 3).rankers[0] for _ in range(2))
    assert first.seed == 3
    assert_array_equal(first.counts_, again.counts_)
