import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.actions import (
    PRESETS,
    WEIGHT_CENTRE,
    WEIGHT_HIGH,
    WEIGHT_LOW,
    PresetAction,
    SingleUser,
    WeightsAction,
    weights_of_actions,
)
from agents.rerankers import rerank
from agents.summary import PublicItems, summarise
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv


def slate_env(world, num_envs=12, mode=AutoresetMode.NEXT_STEP):
    return SlateVectorEnv(num_envs, world=world, autoreset_mode=mode, seed=3)


def test_zero_is_the_order_of_the_recall_scores(world):
    assert_array_equal(weights_of_actions(np.zeros((2, 4))), np.tile(WEIGHT_CENTRE, (2, 1)))
    assert_array_equal(PRESETS[0], WEIGHT_CENTRE)
    observation = Observation.from_dict(slate_env(world).reset(seed=0)[0])
    slates = rerank(observation, WEIGHT_CENTRE, np.zeros(world.num_items, np.float32), 10)
    shown = np.where(observation.candidates.mask == 1, observation.candidates.score, -np.inf)
    chosen = np.take_along_axis(shown, slates, axis=1)
    assert_allclose(chosen, -np.sort(-shown, axis=1)[:, :10])


def test_actions_reach_the_bounds_and_no_further():
    corners = np.array([[1, 1, 1, 1], [-1, -1, -1, -1]])
    assert_array_equal(weights_of_actions(corners), [WEIGHT_HIGH, WEIGHT_LOW])
    random = np.random.default_rng(0).uniform(-1, 1, (500, 4))
    weights = weights_of_actions(random)
    assert ((weights >= WEIGHT_LOW) & (weights <= WEIGHT_HIGH)).all()


def test_presets_are_distinct_and_within_the_bounds():
    assert len(np.unique(PRESETS, axis=0)) == len(PRESETS)
    assert ((PRESETS >= WEIGHT_LOW) & (PRESETS <= WEIGHT_HIGH)).all()


@pytest.mark.parametrize("wrapper", [WeightsAction, PresetAction])
def test_an_action_does_what_its_reranked_slate_does(world, wrapper):
    wrapped, bare = wrapper(slate_env(world)), slate_env(world)
    items = PublicItems.from_log(world.policy_log)
    summaries, _ = wrapped.reset(seed=5)
    observation, _ = bare.reset(seed=5)
    wrapped.action_space.seed(0)
    for _ in range(30):
        typed = Observation.from_dict(observation)
        assert_array_equal(summaries, summarise(typed, items))
        assert summaries in wrapped.observation_space
        actions = wrapped.action_space.sample()
        slates = rerank(typed, wrapped.weights(actions), items.popularity, 10)
        observation, *expected, expected_info = bare.step(slates)
        summaries, *found, info = wrapped.step(actions)
        for left, right in zip(found, expected, strict=True):
            assert_array_equal(left, right)
        assert_array_equal(info["slate_items"], expected_info["slate_items"])


def test_the_narrowed_observation_holds_nothing_else(world):
    env = WeightsAction(slate_env(world))
    summaries, _ = env.reset(seed=0)
    assert isinstance(env.single_observation_space, spaces.Box)
    assert isinstance(summaries, np.ndarray)
    assert summaries.shape == env.observation_space.shape


def test_final_summaries_are_those_of_the_final_requests(world):
    same, other = (
        WeightsAction(slate_env(world, 40, AutoresetMode.SAME_STEP)),
        slate_env(world, 40, AutoresetMode.DISABLED),
    )
    items = PublicItems.from_log(world.policy_log)
    same.reset(seed=1)
    observation, _ = other.reset(seed=1)
    for _ in range(200):
        actions = np.zeros((40, 4), np.float32)
        slates = rerank(Observation.from_dict(observation), weights_of_actions(actions), items.popularity, 10)
        observation, _, terminated, truncated, _ = other.step(slates)
        *_, info = same.step(actions)
        ended = terminated | truncated
        if ended.any():
            expected = summarise(Observation.from_dict(observation), items)
            assert_array_equal(info["_final_obs"], ended)
            assert_array_equal(info["final_obs"][ended], expected[ended])
            assert (info["final_obs"][~ended] == 0).all()
            return
    raise AssertionError("no life ended, so nothing was tested")


def test_the_single_user_face_refuses_several_users(world):
    with pytest.raises(ValueError, match="one user"):
        SingleUser(WeightsAction(slate_env(world, 2, AutoresetMode.DISABLED)))
    with pytest.raises(ValueError, match="DISABLED"):
        SingleUser(WeightsAction(slate_env(world, 1)))
