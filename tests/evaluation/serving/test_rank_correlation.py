import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from envs.errors import ConfigurationError
from evaluation.serving.correlation import kendall, rank_correlations, spearman


def measures(pipelines=12, users=60, noise=0.0, seed=0):
    """[P, U] of a measure whose means rise from pipeline to pipeline."""
    random = np.random.default_rng(seed)
    return np.arange(pipelines)[:, None] + noise * random.standard_normal((pipelines, users))


@pytest.mark.parametrize("ties", [False, True])
def test_both_measures_equal_those_of_scipy(ties):
    first, second = np.random.default_rng(1).standard_normal((2, 7, 15))
    if ties:
        first, second = np.round(first), np.round(second)
    rows = list(zip(first, second, strict=True))
    assert_allclose(spearman(first, second), [stats.spearmanr(*row).statistic for row in rows])
    assert_allclose(kendall(first, second), [stats.kendalltau(*row).statistic for row in rows])


@pytest.mark.parametrize("sign", [1, -1])
def test_pipelines_in_the_same_or_the_opposite_order_correlate_fully(sign):
    for found in rank_correlations(measures(), sign * 3 * measures(), rankers=6, draws=100).values():
        assert (found.value, found.low, found.high) == (sign, sign, sign)
        assert not found.warning()


def test_users_on_one_side_only_are_left_out_of_the_other():
    offline, simulated = measures(noise=0.1), measures(noise=0.1, seed=1)
    offline[:, ::3] = np.nan
    simulated[:, 1::3] = np.nan
    offline[0, 1] = 1e6  # a user of the offline side alone
    found = rank_correlations(offline, simulated, rankers=6, draws=200)["spearman"]
    moved = np.concatenate([np.nanmean(offline, axis=1)[1:], np.nanmean(offline, axis=1)[:1]])
    assert_allclose(found.value, stats.spearmanr(moved, np.roll(np.nanmean(simulated, axis=1), -1)).statistic)


def test_the_interval_covers_what_other_users_give():
    """Of 60 users each, drawn from a population in which the correlation of the means is known."""
    truth = np.random.default_rng(2).standard_normal((2, 10))
    wanted = stats.spearmanr(*truth).statistic
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(100 + seed)
        sides = truth[:, :, None] + 2 * random.standard_normal((2, 10, 60))
        found = rank_correlations(*sides, rankers=10, draws=200, seed=seed)["spearman"]
        covered += found.low <= wanted <= found.high
    assert covered >= 52


def test_drawing_rankers_widens_the_interval():
    """Two rankers go against the others: whether they are among those drawn is what the correlation hangs on."""
    offline, simulated = measures(noise=0.5), measures(noise=0.5, seed=1)
    simulated[:4] += 12
    found = rank_correlations(offline, simulated, rankers=6)["spearman"]
    assert found.high_rankers - found.low_rankers > 3 * (found.high - found.low)


def test_a_degenerate_design_is_told():
    same = np.ones((6, 20))
    none = rank_correlations(same, measures(6, 20), rankers=6, draws=10)["spearman"]
    assert np.isnan(none.value) and "no rank correlation" in none.warning()
    two = rank_correlations(np.repeat(measures(2, 20), 3, axis=0), measures(6, 20), rankers=6, draws=10)["kendall"]
    assert np.isnan(two.value)
    twins = np.repeat(measures(5, 20), 2, axis=0)
    few = rank_correlations(twins, twins, rankers=5, draws=10)["spearman"]
    assert few.value == 1 and few.distinct == 5 and "5 of 10 pipelines do what others do" in few.warning()
    assert "only 4 rankers" in rank_correlations(measures(4), measures(4), rankers=4, draws=10)["spearman"].warning()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigurationError, match="do not fit"):
        rank_correlations(measures(6), measures(6, users=50), rankers=6)
    with pytest.raises(ConfigurationError, match="equally many"):
        rank_correlations(measures(6), measures(6), rankers=4)
