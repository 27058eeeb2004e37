import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import ttest_rel

import evaluation.ranking
import evaluation.statistics
from agents.updates import bootstrap, intervals, metrics


def test_evaluation_has_its_measures_and_intervals_from_here():
    assert evaluation.ranking.measures is metrics
    assert evaluation.ranking.UserBootstrap is bootstrap.UserBootstrap
    assert evaluation.statistics.Measured is intervals.Measured


def test_the_mean_over_cases_of_one_case_a_user_is_the_paired_t_test():
    generator = np.random.default_rng(0)
    first, second, user = generator.normal(1, 1, 40), generator.normal(0, 1, 40), generator.permutation(40) + 7
    found = (metrics.mean_by_user(first, user) - metrics.mean_by_user(second, user)).estimate()
    expected = ttest_rel(first, second).confidence_interval()
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-9)
    # cases that repeat tell no more than their user did
    again = (metrics.mean_by_user(np.tile(first, 5), np.tile(user, 5))).estimate()
    np.testing.assert_allclose(again.margin, metrics.mean_by_user(first, user).estimate().margin, rtol=1e-9)
    assert np.isnan(metrics.mean_by_user(np.zeros(0), np.zeros(0, int)).estimate().value)


def test_the_calibration_error_has_an_interval_that_covers_the_true_one():
    generator = np.random.default_rng(1)
    user = np.repeat(np.arange(60), 20)
    told = generator.uniform(0.1, 0.6, len(user))
    label = generator.random(len(user)) < told + 0.2  # each bin is off by 0.2
    found = metrics.calibration_error_by_user(label, told, user, metrics.UserBootstrap(60, 300))
    assert found.value == pytest.approx(metrics.calibration_error(label, told))
    assert found.estimate().low < 0.2 < found.estimate().high < 0.35


def test_stability_is_siddiqis_sum_and_sees_a_shift():
    # shares 0.5, 0.5 against 0.25, 0.75 in two bins
    reference, current = np.repeat([0.0, 1.0], 5_000), np.repeat([0.0, 1.0], [2_500, 7_500])
    expected = (0.25 - 0.5) * np.log(0.25 / 0.5) + (0.75 - 0.5) * np.log(0.75 / 0.5)
    assert metrics.population_stability(reference, current, bins=2) == pytest.approx(expected, rel=1e-3)
    assert metrics.population_stability(reference, reference) == 0
    logits = np.random.default_rng(2).normal(size=(2, 4_000))
    assert metrics.population_stability(expit(logits[0]), expit(logits[1] + 0.6)) > 0.25
    assert np.isnan(metrics.population_stability(reference, np.zeros(0)))


def test_by_chance_alone_stability_exceeds_its_limit_at_about_the_stated_rate():
    generator = np.random.default_rng(3)
    over = [
        metrics.population_stability(generator.normal(size=800), generator.normal(size=500))
        > metrics.stability_limit(800, 500, alpha=0.1)
        for _ in range(400)
    ]
    assert 0.06 < np.mean(over) < 0.15
    assert metrics.stability_limit(0, 500) == np.inf
