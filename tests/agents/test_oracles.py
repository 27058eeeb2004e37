from itertools import permutations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents import checked_slates
from agents.heuristics import MatrixFactorisation, Random
from agents.oracles import OracleLookahead, OracleMyopic, best_slates
from envs.errors import AgentError
from envs.slate_env import SlateVectorEnv
from envs.users.protocol import position_logits
from envs.worlds import SatiationWorld
from evaluation.comparison import ComparisonConfig, serve
from recall.embedding import EmbeddingRecall


def worth(odds, payoff, slates):
    """[N] expected reward of slates under the multinomial logit with position weights."""
    shown = np.exp(position_logits(slates.shape[1])) * np.take_along_axis(odds, slates, axis=1)
    return (shown * np.take_along_axis(payoff, slates, axis=1)).sum(axis=1) / (1 + shown.sum(axis=1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0, 3.0]))
def test_the_best_slate_is_the_best_of_all(seed, spread):
    random = np.random.default_rng(seed)
    odds, payoff = np.exp(spread * random.standard_normal((1, 6))), random.uniform(0.1, 2, (1, 6))
    slates, value = best_slates(odds, payoff, 3)
    every = max(worth(odds, payoff, np.array([slate]))[0] for slate in permutations(range(6), 3))
    assert_allclose(value, every, rtol=1e-6)
    assert_allclose(worth(odds, payoff, slates), every, rtol=1e-6)


def test_masked_candidates_come_last():
    odds, payoff = np.array([[0.0, 0.2, 0.0, 0.1, 0.0]]), np.ones((1, 5))
    slates, _ = best_slates(odds, payoff, 4)
    assert_array_equal(slates[0, :2], [1, 3])
    assert len(set(slates[0])) == 4


def make_env(world, num_envs, **arguments):
    env = SlateVectorEnv(num_envs, world=world, autoreset_mode=AutoresetMode.DISABLED, **arguments)
    env.reset(seed=11)
    return env


def test_the_payoff_is_the_reward_that_the_environment_pays(world):
    env = make_env(world, 300)
    oracle = OracleMyopic()
    oracle.bind(env)
    paid = 0
    for _ in range(10):
        _, payoff = oracle._odds_and_payoff(env.observation)
        slates, _ = checked_slates("oracle_myopic", oracle.act(env.observation), env.observation, 10)
        alive = np.flatnonzero(~env.ended)
        _, reward, _, _, info = env.step(slates)
        clicked = alive[info["clicked_slot"][alive] >= 0]
        chosen = slates[clicked, info["clicked_slot"][clicked]]
        assert_allclose(reward[clicked], payoff[clicked, chosen], atol=1e-5)
        paid += len(clicked)
    assert paid > 100


def test_the_expected_reward_is_what_is_earned_on_average(world):
    env = make_env(world, 2_000)
    oracle = OracleMyopic()
    oracle.bind(env)
    _, expected = best_slates(*oracle._odds_and_payoff(env.observation), 10)
    reward = env.step(oracle.act(env.observation))[1]
    assert abs(reward.mean() - expected.mean()) < 4 * reward.std() / np.sqrt(2_000)


@pytest.mark.parametrize("kind", [OracleMyopic, OracleLookahead])
def test_oracles_beat_those_who_cannot_look(world, kind):
    def earned(agent):
        env = make_env(world, 400)
        if agent.is_oracle:
            agent.bind(env)
        total = 0.0
        for _ in range(15):
            total += env.step(checked_slates(agent.name, agent.act(env.observation), env.observation, 10)[0])[1].sum()
        return total

    assert earned(kind()) > 1.5 * max(earned(Random()), earned(MatrixFactorisation()))


def test_look_ahead_follows_what_a_click_changes(world):
    """After a click the utilities are those that the environment has then."""
    env = make_env(world, 600)
    items = env.observation.candidates.items
    promised = env.hidden.utilities_after_each(items, items)
    slates = np.tile(np.arange(10), (600, 1))
    _, _, terminated, truncated, info = env.step(slates)
    stayed = np.flatnonzero((info["clicked_slot"] >= 0) & ~info["leave"] & ~terminated & ~truncated)
    assert len(stayed) > 10
    found = env.hidden.utilities(items)[stayed]
    assert_allclose(promised[stayed, info["clicked_slot"][stayed]], found, rtol=1e-3, atol=2e-3)


def test_look_ahead_without_a_future_is_myopic_among_the_promising(world):
    env = make_env(world, 50)
    oracle, myopic = OracleLookahead(), OracleMyopic()
    oracle.lasting = 0.0
    oracle.bind(env)
    myopic.bind(env)
    odds, payoff = myopic._odds_and_payoff(env.observation)
    assert_allclose(
        worth(odds, payoff, oracle.act(env.observation)), worth(odds, payoff, myopic.act(env.observation)), rtol=1e-6
    )


def test_an_oracle_needs_its_environment(world, observe):
    with pytest.raises(AgentError, match="call bind"):
        OracleMyopic().act(observe(2, 10))
    env = make_env(world, 2)
    oracle = OracleLookahead()
    oracle.bind(env)
    with pytest.raises(AgentError, match="not its environment's present one"):
        oracle.act(observe(2, 10))


def test_planning_pays_where_popular_items_tire_users_of_everything():
    """A tenth of a life's reward and more, by an oracle that looks beyond the next request; without such items next to nothing."""
    gains = {}
    for share in (0.1, 0.0):
        world = SatiationWorld(heavy_share=share).make()
        recall = EmbeddingRecall().fit(world.policy_log)
        config = ComparisonConfig(record_events=False, traced_users=0)
        rewards = []
        for lasting in (0.0, 2.0):
            oracle = OracleLookahead()
            oracle.lasting = lasting
            rewards.append(serve(oracle, world, recall, config, name=oracle.name).users["reward"].to_numpy())
        gains[share] = (rewards[1] - rewards[0]).mean() / rewards[0].mean()
    assert gains[0.1] > 0.1 > 0.04 > gains[0.0]
