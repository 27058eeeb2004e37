import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from agents.actions import SlateAction
from agents.actions.ranker_scores import RankerScores
from agents.actions.slate import empty_slots
from envs.errors import ConfigurationError


def test_the_slate_is_what_was_chosen(make_env):
    wrapped, bare = SlateAction(make_env()), make_env()
    rows, _ = wrapped.reset(seed=5)
    bare.reset(seed=5)
    wrapped.action_space.seed(0)
    for _ in range(20):
        assert_array_equal(rows, wrapped.layout.encode(bare.observation))
        actions = wrapped.action_space.sample()
        _, *expected, expected_info = bare.step(actions)
        rows, *found, info = wrapped.step(actions)
        for left, right in zip(found, expected, strict=True):
            assert_array_equal(left, right)
        assert_array_equal(info["slate_items"], expected_info["slate_items"])
        assert_array_equal(info["masked_slots"] + info["repeated_slots"], info["empty_slots"])


def test_rows_hold_the_rankers_scores(make_env, two_rankers):
    scores = RankerScores(two_rankers)
    env = SlateAction(make_env(), scores)
    rows, _ = env.reset(seed=5)
    assert env.layout.columns == ("recall", "age", "popular", "youngest")
    columns = env.layout.parts(rows).columns
    shown = env.env.observation.candidates.mask == 1
    assert_array_equal(columns[..., 2:], scores(env.env.observation))
    assert (columns[..., 2:][~shown] == 0).all()
    for row in range(len(rows)):
        of_row = columns[row, shown[row], 2:]
        np.testing.assert_allclose(of_row.mean(axis=0), 0, atol=1e-5)
        # ages of one request can all be alike
        deviations = of_row.std(axis=0)
        assert ((np.abs(deviations - 1) < 1e-4) | (deviations == 0)).all()


@given(slate=st.lists(st.integers(0, 4), min_size=1, max_size=6), mask=st.lists(st.booleans(), min_size=5, max_size=5))
@settings(max_examples=60)
def test_empty_slots_are_counted_as_one_would_by_hand(slate, mask):
    masked = sum(not mask[place] for place in slate)
    repeated = sum(mask[place] and place in slate[:slot] for slot, place in enumerate(slate))
    for active in (True, False):
        counted = empty_slots(np.array([slate]), np.array([mask], np.int8), np.array([active]))
        assert counted["masked_slots"].tolist() == [masked * active]
        assert counted["repeated_slots"].tolist() == [repeated * active]


def test_a_life_that_is_over_has_no_empty_slots(make_env):
    env = SlateAction(make_env(mode=AutoresetMode.NEXT_STEP))
    env.reset(seed=0)
    phantoms = 0
    for _ in range(150):
        *_, info = env.step(np.zeros((12, 4), np.int64))
        over = ~info["active"]
        phantoms += over.sum()
        assert (info["repeated_slots"][over] == 0).all() and (info["masked_slots"][over] == 0).all()
        assert (info["repeated_slots"] + info["masked_slots"])[~over].min(initial=4) >= 3
    assert phantoms


def test_actions_out_of_range_are_refused(make_env):
    env = SlateAction(make_env())
    env.reset(seed=0)
    for actions in (np.full((12, 4), 20), np.full((12, 4), -1), np.zeros((12, 3), int)):
        with pytest.raises(ConfigurationError, match="the action"):
            env.step(actions)
