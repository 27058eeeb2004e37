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
    others = {"never": (np.zeros(2), np.ones(2)), "daily": (np.array([2.0, 6.0]), np.array([3.0, 3.0]))}
    above = above_front(np.full(2, 2.0), np.full(2, 2.5), others)
    # half of either; the line rises by 1/2 for each unit of cost
    assert above.value == pytest.approx(0.5)
    assert above.by_seed == pytest.approx([2.5 - 1 - 0.5 * 1 - 0.5 * (3 - 1), 2.5 - 1 - 0.5 * 1 - 0.5 * (3 - 3)])


def test_above_front_does_not_take_the_best_of_each_seed():
    """Two equal rules whose luck differs: hulls by seed would put the front at 2 for every seed."""
    others = {"never": (np.zeros(2), np.array([2.0, 0.0])), "also free": (np.zeros(2), np.array([0.0, 2.0]))}
    assert above_front(np.zeros(2), np.ones(2), others).value == pytest.approx(0.0)


def test_above_front_of_one_seed_has_no_interval():
    above = above_front([1.0], [2.0], {"never": ([0.0], [1.5])})
    assert above.value == pytest.approx(0.5) and above.low is None and above.high is None
