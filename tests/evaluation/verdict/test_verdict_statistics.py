"""Statistics of the verdict against definitions and simulation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from evaluation.statistics import Measured
from evaluation.verdict.config import Rung, rungs
from evaluation.verdict.statistics import (
    hypervolume,
    improvement_estimate,
    over_trainings_and_users,
    pareto_front,
    probability_of_improvement,
)


def crossed(random, seeds, users, seed_sd, user_sd, cell_sd):
    """[S, U] lives whose mean is 0 in truth."""
    return (
        seed_sd * random.standard_normal((seeds, 1))
        + user_sd * random.standard_normal((1, users))
        + cell_sd * random.standard_normal((seeds, users))
    )


def mean_of(values):
    """The statistic 'mean over users' of values [S, U]."""
    return lambda weights: values @ weights.T / values.shape[1]


@pytest.mark.parametrize(("seed_sd", "user_sd"), [(0.3, 1.0), (0.1, 1.0), (1.0, 1.0)])
def test_intervals_of_five_trainings_cover_the_truth(seed_sd, user_sd):
    random = np.random.default_rng(3)
    covered = 0
    for case in range(300):
        lives = crossed(random, 5, 40, seed_sd, user_sd, 1.0)
        found = over_trainings_and_users(mean_of(lives), 40, draws=100, seed=case)
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / 300 <= 0.985


def test_five_seed_bootstraps_would_cover_too_little():
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        means = crossed(random, 5, 40, 1.0, 0.1, 0.1).mean(axis=1)
        drawn = means[random.integers(5, size=(500, 5))].mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        covered += low <= 0 <= high
    assert covered / 300 < 0.9


def test_of_a_mean_the_interval_is_that_of_the_crossed_formula():
    lives = crossed(np.random.default_rng(5), 5, 200, 0.5, 1.0, 0.2)
    ours, formula = over_trainings_and_users(mean_of(lives), 200, draws=4_000, seed=1), Measured.mean(lives).estimate()
    assert ours.value == pytest.approx(formula.value)
    assert ours.margin == pytest.approx(formula.margin, rel=0.05)


def test_one_training_is_told_and_rests_on_the_users():
    lives = crossed(np.random.default_rng(6), 1, 300, 0.0, 1.0, 0.0)
    found = over_trainings_and_users(mean_of(lives), 300, draws=4_000, seed=1)
    assert found.num_seeds == 1
    assert found.margin == pytest.approx(Measured.mean(lives).estimate().margin, rel=0.05)


def test_probability_of_improvement_is_the_mann_whitney_statistic_averaged_over_tasks():
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(7)
    first, second = random.integers(0, 6, (3, 5)), random.integers(0, 6, (3, 4))
    by_task = [mannwhitneyu(ours, theirs).statistic / 20 for ours, theirs in zip(first, second, strict=True)]
    assert probability_of_improvement(first, second) == pytest.approx(np.mean(by_task))
    assert probability_of_improvement([[2, 3]], [[0, 1]]) == 1
    assert probability_of_improvement([[1, 1]], [[1]]) == 0.5


def test_improvement_of_a_policy_over_itself_is_a_coin_and_of_a_better_one_is_sure():
    lives = crossed(np.random.default_rng(8), 5, 60, 0.5, 1.0, 0.2)
    same = improvement_estimate([lives], [lives], draws=200, seed=0)
    assert same.value == 0.5
    assert same.low < 0.5 < same.high
    better = improvement_estimate([lives + 10, lives + 10], [lives, lives], draws=100, seed=0)
    assert (better.value, better.low, better.high) == (1, 1, 1)


def test_pareto_front_has_what_nothing_beats():
    points = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [1.0, 1.0], [3.0, 1.0], [2.0, 1.9]])
    assert_array_equal(pareto_front(points), [True, True, True, False, True, False])


def test_hypervolume_is_the_share_of_a_box_that_some_point_beats():
    random = np.random.default_rng(9)
    points, darts = random.random((4, 3)), random.random((200_000, 3))
    beaten = (darts[:, None] <= points[None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, np.zeros(3)) == pytest.approx(beaten, abs=0.005)
    batch = hypervolume(np.stack([points, points + 0.1]), np.full(3, 0.1))
    assert_allclose(batch[1], hypervolume(points, np.zeros(3)))
    assert hypervolume(points, np.ones(3)) == 0


def test_halving_gives_a_third_three_times_the_events():
    assert rungs(20, 9_000) == [Rung(20, 1_000), Rung(7, 3_000), Rung(3, 9_000)]
    assert rungs(2, 9_000) == [Rung(2, 9_000)]
    assert rungs(1, 5) == [Rung(1, 5)]
