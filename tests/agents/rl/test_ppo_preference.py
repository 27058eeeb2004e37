"""One network for all preferences: what it is paid, what it serves, and the contract of an agent."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.actions import WeightsAction
from agents.actions.preference import OBJECTIVES, PreferenceAction, preference_of
from agents.base import Training, checked_slates
from agents.loading import resolve_agent
from agents.rl.ppo_preference import PPOPreferenceAgent, PPOPreferenceOptions
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.measures import RewardWeights
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from envs.world import WorldConfig, build_world
from evaluation.tiny import Plan, tiny_env, tiny_world
from evaluation.tiny.world import tiny_model

OPTIONS = PPOPreferenceOptions(num_envs=16, batch=160, minibatch=40, epochs=2, learning_rate=3e-2)


@pytest.fixture(scope="module")
def small_world():
    """Short lives, so that many end in a test."""
    log, user_model = generate_log(SyntheticConfig(num_users=60, num_items=150), seed=3)
    return build_world(log, user_model, WorldConfig(days=4, seed=1))


def training(world, requests=320, seed=0, **further):
    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, num_candidates=40, autoreset_mode=mode, seed=seed, **further)

    return Training(make_env=make_env, requests=requests, seed=seed)


@pytest.fixture(scope="module")
def trained(small_world):
    return PPOPreferenceAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world))


@pytest.fixture(scope="module")
def observation(small_world):
    return Observation.from_dict(SlateVectorEnv(300, world=small_world, num_candidates=40).reset(seed=4)[0])


# ---------------------------------------------------------------------- what it is paid
def side_by_side(world, mode, weights):
    """An environment with preferences and the same without, stepped by the same actions: yields what both return."""
    envs = [
        kind(SlateVectorEnv(30, world=world, num_candidates=40, autoreset_mode=mode, seed=3, reward_weights=weights))
        for kind in (PreferenceAction, WeightsAction)
    ]
    envs[1].action_space.seed(0)
    rows = [env.reset(seed=5)[0] for env in envs]
    for _ in range(60):
        actions = envs[1].action_space.sample()
        lived = envs[0].preferences.copy()
        stepped = [env.step(actions) for env in envs]
        yield envs[0], lived, rows, stepped
        rows = [step[0] for step in stepped]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_life_has_one_preference_and_is_paid_by_it(small_world, mode):
    weights = RewardWeights(engagement=2.0, diversity=0.5, freshness=1.5)
    ends, seen = 0, []
    for env, lived, rows, (own, bare) in side_by_side(small_world, mode, weights):
        assert rows[0] in env.observation_space
        assert_array_equal(rows[0][:, -3:], lived)
        assert_allclose(lived.sum(axis=1), 1, rtol=1e-6)
        vector = np.stack([bare[4][name] for name in OBJECTIVES], axis=1)
        assert_allclose(own[1], 4 * (vector * lived).sum(axis=1), rtol=1e-6)
        assert_array_equal(own[0][:, :-3], bare[0])
        ended = own[2] | own[3]
        begun = ended if mode == AutoresetMode.SAME_STEP else ~own[4]["active"]
        assert_array_equal((env.preferences != lived).any(axis=1), begun)
        if "final_obs" in own[4]:
            assert_array_equal(own[4]["final_obs"][ended], np.column_stack([bare[4]["final_obs"], lived])[ended])
        ends += int(begun.sum())
        seen.append(env.preferences[begun])
    assert ends > 20
    # uniform on the simplex: each share has mean 1/3 and is below 1/2 in three of four lives
    shares = np.concatenate(seen)
    assert_allclose(shares.mean(axis=0), 1 / 3, atol=0.1)
    assert_allclose((shares < 0.5).mean(), 0.75, atol=0.1)


def test_by_the_worlds_own_weights_it_is_paid_what_the_world_pays(small_world):
    weights = RewardWeights(engagement=1.0, diversity=0.25, freshness=2.0)
    earned = 0.0
    for env, lived, _, (own, bare) in side_by_side(small_world, AutoresetMode.NEXT_STEP, weights):
        by_its_own = (lived == env.own).all(axis=1)
        assert_allclose(own[1][by_its_own], bare[1][by_its_own], rtol=1e-6)
        earned += bare[1][by_its_own].sum()
        env.preferences[:] = env.own
        env.preferences[::2] = preference_of((0, 1, 0))
    assert earned > 10


def test_seeds_reproduce_preferences(small_world):
    env = PreferenceAction(SlateVectorEnv(30, world=small_world, num_candidates=40, seed=3))
    first, again, other = (env.reset(seed=seed)[0][:, -3:] for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()
    part = np.arange(30) < 7
    env.reset(options={"reset_mask": part})
    assert_array_equal((env.preferences != other).any(axis=1), part)


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 1), (1, 1), (1, np.nan, 1)])
def test_what_is_no_preference_is_refused(trained, small_world, weights):
    with pytest.raises(ConfigurationError, match="no preference"):
        trained.with_preference(weights)
    with pytest.raises(ConfigurationError, match="no preference"):
        PPOPreferenceAgent(options=replace(OPTIONS, preference=weights)).fit(
            small_world.policy_log, training(small_world)
        )


# ---------------------------------------------------------------------- what it serves
def test_one_network_covers_a_trade_off():
    """Users click what is old and pass over most of what is fresh: who wants freshness must show what engages less."""
    utility = np.full((7, 6), 1.0, np.float32)
    utility[:, 3:5] = -0.5
    world = replace(tiny_world(), user_model=replace(tiny_model(), utility=utility))
    wanted = {name: tuple(float(name == other) for other in OBJECTIVES) for name in ("engagement", "freshness")}
    plans = {
        name: Plan.of(world, weights=RewardWeights(**dict(zip(OBJECTIVES, shares, strict=True))))
        for name, shares in wanted.items()
    }
    options = PPOPreferenceOptions(num_envs=64, batch=1000, minibatch=250, learning_rate=3e-3, initial_log_std=0.0)
    # what is consumed does not change who comes back or what is liked, so there is nothing to plan
    options = replace(options, gamma=0.0)
    agent = PPOPreferenceAgent(slate_size=2, options=options).fit(
        world.policy_log,
        Training(make_env=lambda num_envs, mode: tiny_env(num_envs, mode, world=world), requests=8_000, seed=0),
    )
    value = {
        (served, judged): plans[judged].value(plans[judged].policy_of(agent.with_preference(shares)))
        for served, shares in wanted.items()
        for judged in wanted
    }
    assert value["freshness", "freshness"] > 1.3 * value["engagement", "freshness"]
    assert value["engagement", "engagement"] > 1.3 * value["freshness", "engagement"]
    assert value["freshness", "freshness"] > 0.9 * plans["freshness"].value(plans["freshness"].best_policy())


def test_untold_it_serves_the_worlds_own_weights(trained, small_world, observation):
    own = RewardWeights()
    assert_array_equal(trained.preference_, preference_of(own))
    assert_array_equal(trained.with_preference(own).act(observation), trained.act(observation))
    assert_array_equal(trained.with_preference((4, 2, 2)).act(observation), trained.act(observation))
    trained.with_preference((0, 0, 1))
    assert_array_equal(trained.preference_, preference_of(own))  # it stays as it was
    weights = RewardWeights(engagement=1.0, diversity=3.0, freshness=0.0)
    other = PPOPreferenceAgent(options=OPTIONS).fit(
        small_world.policy_log, training(small_world, 20, reward_weights=weights)
    )
    assert_allclose(other.preference_, [0.25, 0.75, 0])
    told = PPOPreferenceAgent(options=replace(OPTIONS, preference=(1.0, 0.0, 3.0)))
    assert_allclose(told.fit(small_world.policy_log, training(small_world, 20)).preference_, [0.25, 0, 0.75])


# ---------------------------------------------------------------------- the contract of an agent
def test_slates_are_valid_and_training_changed_them(trained, observation):
    assert resolve_agent("ppo_preference") is PPOPreferenceAgent
    slates, _ = checked_slates(trained.name, trained.act(observation), observation, 10)
    assert (slates != trained.initial_policy().act(observation)).any()
    assert trained.learning_curve_[-1, 0] == 320
    for rows in (np.array([7]), np.arange(250, 300)):
        assert_array_equal(trained.act(observation.take(rows)), slates[rows])


def test_a_seed_gives_the_same_weights_to_the_bit(trained, small_world):
    again, other = (
        PPOPreferenceAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world, seed=seed)).policy_
        for seed in (0, 1)
    )
    assert all(np.array_equal(trained.policy_[name], again[name]) for name in again)
    assert any(not np.array_equal(trained.policy_[name], other[name]) for name in other)


def test_a_loaded_agent_serves_the_same_preference(trained, small_world, observation, tmp_path):
    agent = trained.with_preference((0, 1, 2))
    agent.save(tmp_path / "agent.npz")
    loaded = PPOPreferenceAgent.load(tmp_path / "agent.npz", small_world.policy_log)
    assert_array_equal(loaded.preference_, agent.preference_)
    assert_array_equal(loaded.act(observation), agent.act(observation))
    assert_array_equal(
        loaded.with_preference((1, 0, 0)).act(observation), agent.with_preference((1, 0, 0)).act(observation)
    )
    assert loaded.options == trained.options


def test_another_data_set_and_spoilt_files_are_refused(trained, observation, tmp_path):
    path = tmp_path / "agent.npz"
    trained.save(path)
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=151), seed=1)
    with pytest.raises(ArtefactError, match="another data set"):
        PPOPreferenceAgent.load(path, other)
    narrower = observation.to_dict() | {"user_features": np.zeros((len(observation), 1), np.float32)}
    with pytest.raises(AgentError, match="train it on this data set"):
        trained.act(Observation.from_dict(narrower))
    arrays, configuration = load_arrays(path, "agent PPOPreferenceAgent")
    for spoilt in (
        {name: array for name, array in arrays.items() if name != "preference"},
        arrays | {"preference": np.ones(2, np.float32)},
        arrays | {"policy.0.weight": arrays["policy.0.weight"][:, :5]},
    ):
        save_arrays(path, "agent PPOPreferenceAgent", spoilt, configuration)
        with pytest.raises(ArtefactError):
            PPOPreferenceAgent.load(path)
