"""Fronts of cost and engagement, by hand."""

import numpy as np
import pytest

from agents.updates.fronts import Front, above_front
from envs.errors import ConfigurationError

POINTS = {
    "never": (0.0, 1.0),
    "staircase": (
        2.0,
        1.5,
    ),  # beaten by nobody, but below the line from never to weekly (1.9 at a cost of 3, so 1.6 at 2)
    "weekly": (3.0, 1.9),
    "beaten": (3.5, 1.2),
    "daily": (6.0, 2.2),
    "twice a day": (9.0, 2.1),
}


def test_front_is_the_upper_concave_hull():
    front = Front.of(POINTS)
    assert front.names == ("never", "weekly", "daily")
    assert front.cost.tolist() == [0.0, 3.0, 6.0] and front.engagement.tolist() == [1.0, 1.9, 2.2]


def test_front_between_points_beyond_the_right_and_below_the_left_end():
    front = Front.of(POINTS)
    assert front.at([0.0, 1.0, 3.0, 4.5, 6.0, 100.0]) == pytest.approx([1.0, 1.3, 1.9, 2.05, 2.2, 2.2])
    assert np.isnan(front.at(-0.1))


def test_points_on_a_line_and_equal_points_are_there_once():
    assert Front.of({"a": (0, 0), "b": (1, 1), "c": (2, 2)}).names == ("a", "c")
    assert Front.of({"a": (1, 1), "b": (1, 1), "c": (1, 0.5)}).names == ("a",)


def test_mixture_has_the_cost_and_the_engagement_of_the_front():
    front = Front.of(POINTS)
    mixture = front.mixture(4.0)
    assert mixture.weights == pytest.approx({"weekly": 2 / 3, "daily": 1 / 3})
    assert mixture.slope == pytest.approx(0.1)
    assert sum(weight * POINTS[name][1] for name, weight in mixture.weights.items()) == pytest.approx(front.at(4.0))
    assert front.mixture(8.0).weights == {"daily": 1.0} and front.mixture(8.0).slope == 0
    with pytest.raises(ConfigurationError, match="never updates"):
        Front.of({"daily": (6, 2.2)}).mixture(1.0)


def test_front_without_points_is_refused():
    for points in ({}, {"a": (0.0, float("nan"))}):
        with pytest.raises(ConfigurationError, match="a front needs"):
            Front.of(points)


def test_above_front_is_the_mean_over_seeds_with_a_paired_interval():
    luck = np.array([-0.3, 0.1, 0.2])  # of the seeds, met by all
    others = {"never": (np.zeros(3), 1.0 + luck), "daily": (np.full(3, 4.0), 3.0 + luck)}
    above = above_front(np.array([1.0, 2.0, 3.0]), np.array([1.8, 2.3, 2.8]) + luck, others)
    # at a mean cost of 2 the front gives 2.0; each seed's point lies 0.3 above the line that it is compared with
    assert above.value == pytest.approx(0.3)
    assert above.by_seed == pytest.approx([0.3, 0.3, 0.3])
    assert above.low == pytest.approx(0.3) and above.high == pytest.approx(0.3)
    assert above.mixture.weights == pytest.approx({"never": 0.5, "daily": 0.5})
    assert above.cost == 2.0


def test_above_front_holds_what_the_costs_of_the_others_vary_by():
    """A seed in which the other's retrain was dear is one in which its engagement was bought at more than the mean cost."""
    daily = (np.array([2.0, 6.0, 4.0]), np.full(3, 3.0))
    above = above_front(np.full(3, 2.0), np.full(3, 2.5), {"never": (np.zeros(3), np.ones(3)), "daily": daily})
    for seed, (cost, _) in enumerate(zip(*daily, strict=True)):
        mean = np.delete(daily[0], seed).mean()  # the line rises from 1 to 3 at the mean cost in the other seeds
        share, slope = 2 / mean, 2 / mean
        expected = (2.5 - slope * 2) - (1 - share) * 1 - share * (3 - slope * cost)
        assert above.by_seed[seed] == pytest.approx(expected)


def test_above_front_takes_the_best_of_nobodys_luck():
    """Thirty rules that are as good as the policy: a front of the same seeds would lie above it by the luckiest of them."""
    random, values, naive = np.random.default_rng(0), [], []
    for _ in range(300):
        luck = random.normal(size=(31, 5))
        others = {f"{number}": (np.zeros(5), engagement) for number, engagement in enumerate(luck[1:])}
        values.append(above_front(np.zeros(5), luck[0], others).value)
        naive.append(luck[0].mean() - luck[1:].mean(axis=1).max())
    error = np.std(values) / np.sqrt(300)
    assert abs(np.mean(values)) < 3 * error < 0.2 and np.mean(naive) < -0.7


def test_above_front_of_one_seed_has_no_interval():
    above = above_front([1.0], [2.0], {"never": ([0.0], [1.5])})
    assert above.value == pytest.approx(0.5) and above.low is None and above.high is None
