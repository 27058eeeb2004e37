from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from evaluation.statistics import (
    Measured,
    Refitted,
    is_untrained,
    normalised,
    paired_difference,
    variance_between,
)


def test_mean_and_interval_are_the_textbook_t_interval():
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    estimate = Measured.mean(values).estimate()
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert estimate.value == pytest.approx(4.0)
    assert_allclose([estimate.low, estimate.high], expected)


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=40), rng.normal(size=40)
    test = stats.ttest_rel(first, second).confidence_interval()
    estimate = paired_difference(first, second)
    assert_allclose([estimate.low, estimate.high], [test.low, test.high])


@given(seed=st.integers(0, 2**32 - 1), seeds=st.integers(1, 4))
def test_the_same_figures_differ_by_exactly_zero(seed, seeds):
    values = np.random.default_rng(seed).gamma(0.5, size=(seeds, 30))
    estimate = paired_difference(values, values.copy())
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    assert not estimate.above_zero and estimate.includes_zero


def covered(draw, truth, repeats=1_000):
    """Share of simulated data sets whose interval holds the truth."""
    hits = 0
    for repeat in range(repeats):
        estimate = draw(np.random.default_rng(repeat))
        hits += estimate.low <= truth <= estimate.high
    return hits / repeats


def test_paired_intervals_cover_the_truth_in_95_of_100_cases():
    def draw(rng):
        taste = rng.normal(size=50) * 5
        return paired_difference(taste + 0.3 + rng.normal(size=50), taste + rng.normal(size=50))

    assert covered(draw, 0.3) == pytest.approx(0.95, abs=0.02)


def test_ratio_intervals_cover_the_truth():
    def draw(rng):
        requests = rng.poisson(30, size=120) + 1
        return Measured.ratio(rng.binomial(requests, 0.2), requests).estimate()

    assert covered(draw, 0.2) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("seed_sd", "user_sd", "cell_sd"), [(1.0, 0.2, 1.0), (0.2, 4.0, 1.0), (0.5, 4.0, 0.5)])
def test_intervals_over_seeds_and_users_cover_the_truth(seed_sd, user_sd, cell_sd):
    seeds, users = 5, 60

    def draw(rng):
        values = rng.normal(size=(seeds, 1)) * seed_sd + rng.normal(size=users) * user_sd
        return Measured.mean(values + rng.normal(size=(seeds, users)) * cell_sd).estimate()

    assert covered(draw, 0.0) == pytest.approx(0.95, abs=0.025)


def test_where_neither_seeds_nor_users_matter_intervals_are_a_little_wide_but_not_doubled():
    def draw(rng):
        return Measured.mean(rng.normal(size=(5, 60))).estimate()

    assert 0.95 < covered(draw, 0.0) < 0.993


def test_users_alone_would_not_cover_what_training_seeds_add():
    def draw(rng):
        values = rng.normal(size=(5, 1)) + rng.normal(size=(5, 60))
        return Measured.mean(values.mean(axis=0)).estimate()

    assert covered(draw, 0.0, repeats=500) < 0.7


def test_repeated_seeds_of_a_deterministic_agent_add_nothing():
    values = np.random.default_rng(0).normal(size=30)
    once, thrice = Measured.mean(values).estimate(), Measured.mean(np.tile(values, (3, 1))).estimate()
    assert_allclose([once.low, once.high], [thrice.low, thrice.high])
    assert (once.num_seeds, thrice.num_seeds) == (1, 3)


def test_one_seed_stands_against_each_of_several():
    rng = np.random.default_rng(0)
    several, single = rng.normal(size=(3, 20)), rng.normal(size=20)
    broadcast = Measured.mean(several) - Measured.mean(np.tile(single, (3, 1)))
    assert_allclose((Measured.mean(several) - Measured.mean(single)).influence, broadcast.influence)
    assert_allclose((Measured.mean(single) - Measured.mean(several)).influence, -broadcast.influence)


def test_other_users_are_refused():
    with pytest.raises(ValueError, match="same users"):
        Measured.mean(np.zeros(3)) - Measured.mean(np.zeros(4))


def test_a_single_user_has_no_interval_and_excludes_nothing():
    estimate = Measured.mean([3.0]).estimate()
    assert estimate.value == 3.0 and np.isnan(estimate.low) and estimate.includes_zero


def test_ratio_without_denominator_is_nan():
    assert np.isnan(Measured.ratio(np.zeros(3), np.zeros(3)).estimate().value)


def rewards_of(**means):
    rng = np.random.default_rng(0)
    taste = rng.normal(size=200)
    return {name: Measured.mean(taste + mean + 0.1 * rng.normal(size=200)) for name, mean in means.items()}


def test_normalised_is_zero_at_random_and_one_at_the_oracle_exactly():
    scaled = normalised(rewards_of(random=1.0, oracle_lookahead=3.0, mf=2.0))
    assert scaled is not None
    for name, value in (("random", 0.0), ("oracle_lookahead", 1.0)):
        estimate = scaled[name].estimate()
        assert_allclose([estimate.value, estimate.low, estimate.high], value, atol=1e-12)
    middle = scaled["mf"].estimate()
    assert middle.low < 0.5 < middle.high and middle.margin < 0.02


def test_no_scale_within_noise_or_without_its_ends():
    assert normalised(rewards_of(random=1.0, oracle_lookahead=1.0)) is None
    assert normalised(rewards_of(random=2.0, oracle_lookahead=1.0)) is None
    assert normalised(rewards_of(random=1.0, mf=2.0)) is None


def test_untrained_is_what_does_not_beat_its_own_beginning():
    rewards = rewards_of(better=1.2, same=1.0, start=1.0)
    assert not is_untrained(rewards["better"], rewards["start"])
    assert is_untrained(rewards["start"], rewards["better"])
    assert is_untrained(rewards["start"], rewards["start"])


def figure_under_models(values, others, amongs):
    """The mean of `values` [U], known too under models as the mean of each of `others` [U] over the users `amongs` [U]."""
    refitted = [
        Refitted(under=Measured.mean(other, among), fitted=Measured.mean(values, among))
        for other, among in zip(others, amongs, strict=True)
    ]
    return replace(Measured.mean(values), refitted=tuple(refitted))


def test_user_models_add_their_variance_less_that_of_chance():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 1.0, 50)
    others = values + rng.normal(size=(5, 50)) + np.array([0.5, 1.0, -1.5, 0.3, 1.0])[:, None]
    plain, everyone = Measured.mean(values).estimate(), np.ones((5, 50), bool)
    estimate = figure_under_models(values, others, everyone).estimate()
    # by hand: one-way analysis of variance of models by users
    residual = others - others.mean(axis=0) - others.mean(axis=1, keepdims=True) + others.mean()
    chance = (residual**2).sum() / (4 * 49) / 50
    within, between = values.var(ddof=1) / 50, others.mean(axis=1).var(ddof=1) - chance
    freedom = (within + between) ** 2 / (within**2 / 49 + between**2 / 4)
    assert estimate.margin == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(within + between), rel=1e-9)
    assert estimate.value == plain.value and estimate.margin > 2 * plain.margin
    # models that agree but for chance add nothing
    alike = values + 0.1 * rng.normal(size=(5, 50))
    alike -= (alike - values).mean(axis=1, keepdims=True)
    assert figure_under_models(values, alike, everyone).estimate() == plain


def test_what_user_models_move_alike_does_not_move_a_difference():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 60))
    shift = rng.normal(0, 3, 4)[:, None]
    among = rng.random((4, 60)) < 0.6
    one, other = (figure_under_models(row, row + shift, among) for row in values)
    plain = (Measured.mean(values[0]) - Measured.mean(values[1])).estimate()
    assert one.estimate().margin > 2 * plain.margin
    assert (one - other).estimate().margin == pytest.approx(plain.margin)
    assert (one - Measured.mean(values[1])).refitted == ()
    ratio = (figure_under_models(values[0] + 5, np.tile(2 * (values[0] + 5), (4, 1)), among) / one).refitted[0]
    assert ratio.under.value == pytest.approx(
        2 * (values[0] + 5)[among[0]].mean() / (values[0] + shift[0])[among[0]].mean()
    )
    assert not ratio.under.influence[0, ~among[0]].any()


@pytest.mark.parametrize(("models", "repeats", "truth"), [(40, 150, 0.3), (5, 600, 0.6)])
def test_spread_between_user_models_is_found_where_each_knows_some_of_the_users(models, repeats, truth):
    rng = np.random.default_rng(2)
    found, covered = [], 0
    for _ in range(repeats):
        taste, off = rng.normal(0, 2, 40), rng.normal(0, truth, models + 1)
        lives = taste + rng.normal(size=(models + 1, 40)) + off[:, None]
        among = rng.random((models, 40)) < 0.63
        figure = figure_under_models(lives[0], lives[1:], among)
        found.append(variance_between(figure.refitted))
        covered += figure.estimate().low < 0 < figure.estimate().high
    assert np.mean(found) == pytest.approx(truth**2, rel=0.15)
    assert 0.925 < covered / repeats < 0.985


def test_a_figure_that_a_user_model_lacks_has_no_interval():
    values = np.random.default_rng(0).normal(5, 1, 60)
    among = np.ones((3, 60), bool)
    known = figure_under_models(values, np.tile(values, (3, 1)), among)
    lacking = replace(
        known, refitted=(*known.refitted[:2], replace(known.refitted[2], under=Measured.mean(values * np.nan)))
    )
    assert known.estimate().margin > 0
    estimate = lacking.estimate()
    assert estimate.value == known.value
    assert np.isnan(estimate.low) and np.isnan(estimate.high)
