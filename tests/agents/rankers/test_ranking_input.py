from dataclasses import replace

import pytest
from numpy.testing import assert_array_equal

from agents.rankers import RankingInput
from envs.errors import ConfigurationError


def test_an_observation_gives_its_arrays(observe):
    observation = observe(4, 9)
    asked = RankingInput.of(observation)
    assert_array_equal(asked.items, observation.candidates.items)
    assert_array_equal(asked.ages, observation.candidates.age)
    assert_array_equal(asked.context, observation.context)
    assert asked.counts is None and len(asked) == 4


def test_padding_asks_nothing_more(observe):
    asked = RankingInput.of(observe(3, 5))
    padded = asked.padded(8)
    assert len(padded) == 8
    assert (padded.user[3:] == -1).all() and (padded.items[3:] == -1).all() and (padded.history[3:] == -1).all()
    assert_array_equal(padded.take(slice(0, 3)).items, asked.items)


@pytest.mark.parametrize("name", ["user_features", "history_days", "context", "ages"])
def test_shapes_that_disagree_are_refused(observe, name):
    asked = RankingInput.of(observe(3, 5))
    wrong = replace(asked, **{name: getattr(asked, name)[:2]})
    with pytest.raises(ConfigurationError, match=name):
        wrong.checked(num_items=300, num_user_features=2)


def test_items_outside_the_catalogue_are_refused(observe):
    asked = RankingInput.of(observe(3, 5))
    assert asked.checked(num_items=300, num_user_features=2) is asked
    with pytest.raises(ConfigurationError, match="items 0 to 9"):
        asked.checked(num_items=10, num_user_features=2)
