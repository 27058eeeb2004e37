from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.base import Training, TrainingStopped
from agents.constant import DEFAULT_WEIGHTS, SEARCH_COLUMNS, Constant, _Traffic, _Trials
from agents.rerankers import rerank
from envs.slate_env import SlateVectorEnv


def traffic(world, requests, seed=0, **more):
    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, users=np.arange(60), autoreset_mode=mode, slate_size=5)

    return Training(make_env=make_env, requests=requests, seed=seed, **more)


@pytest.fixture(scope="module")
def tuned(world):
    return Constant(slate_size=5).fit(world.policy_log, traffic(world, 9_000))


def test_without_traffic_the_weights_are_the_default(world, observe):
    agent = Constant(slate_size=5).fit(world.policy_log)
    assert_array_equal(agent.weights_, DEFAULT_WEIGHTS)
    observation = observe(20, 40)
    assert_array_equal(agent.act(observation), rerank(observation, DEFAULT_WEIGHTS, agent.popularity_, 5))


def test_the_search_leaves_a_table_and_takes_its_best(tuned):
    assert tuned.search_.shape[1] == len(SEARCH_COLUMNS) and len(tuned.search_) >= 4
    finalists = tuned.search_[tuned.search_[:, -1] == tuned.search_[:, -1].max()]
    assert 2 <= len(finalists) < len(tuned.search_)
    assert_array_equal(tuned.weights_, finalists[np.argmax(finalists[:, -2]), :4].astype(np.float32))


def test_same_seed_same_weights(world, tuned):
    again = Constant(slate_size=5).fit(world.policy_log, traffic(world, 9_000))
    assert_array_equal(again.search_, tuned.search_)
    assert_array_equal(again.weights_, tuned.weights_)


@pytest.mark.parametrize("requests", [10, 1_500, 9_000])
def test_spends_what_it_may_and_no_more(world, requests):
    spent, reported = [0], []

    class Counting(SlateVectorEnv):
        def step(self, actions):
            spent[0] += int((~self.ended).sum())
            return super().step(actions)

    make_env = partial(Counting, world=world, users=np.arange(60), slate_size=5)
    training = Training(
        make_env=lambda number, mode: make_env(number, autoreset_mode=mode),
        requests=requests,
        seed=0,
        report=reported.append,
    )
    agent = Constant(slate_size=5).fit(world.policy_log, training)
    assert spent[0] <= requests
    assert reported == sorted(reported) and (not reported or reported[-1] == spent[0])
    if requests == 9_000:
        assert spent[0] > 0.8 * requests
    if requests == 10:
        assert_array_equal(agent.weights_, DEFAULT_WEIGHTS)


def test_settings_of_a_round_meet_the_same_users_under_the_same_draws(world):
    agent = Constant(slate_size=5).fit(world.policy_log)
    settings = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], np.float32)
    returns = _Traffic(traffic(world, 50_000), agent.popularity_, 5).returns(settings, 25)
    assert returns.shape == (3, 25)
    assert_array_equal(returns[0], returns[2])
    assert (returns[0] != returns[1]).any()


def test_more_lives_than_users_are_served_in_turns(world):
    agent = Constant(slate_size=5).fit(world.policy_log)
    returns = _Traffic(traffic(world, 50_000), agent.popularity_, 5).returns(DEFAULT_WEIGHTS[None], 100)
    assert returns.shape == (1, 100)
    assert (returns[0, :40] != returns[0, 60:]).any()


def test_estimates_borrow_from_like_settings_and_allow_for_better_users():
    random = np.random.default_rng(0)
    settings = np.abs(random.standard_normal((30, 4))).astype(np.float32)
    truth = 10 + 3 * settings[:, 0] / np.linalg.norm(settings, axis=1)
    trials = _Trials(settings)
    first = truth[:, None] + random.standard_normal(8) * 3 + random.standard_normal((30, 8)) * 3
    trials.add(np.arange(30), first)
    raw = np.abs(first.mean(axis=1) - first.mean() - truth + truth.mean()).mean()
    assert np.abs(trials.smoothed() - trials.smoothed().mean() - truth + truth.mean()).mean() < 0.8 * raw
    best = np.argsort(-trials.smoothed())[:5]
    before = trials.smoothed()[best].mean()
    trials.add(best, truth[best, None] + 50 + random.standard_normal((5, 200)))
    assert abs(trials.smoothed()[best].mean() - before) < 1


@pytest.mark.slow
def test_finds_weights_that_pay(world):
    """Freshness pays and old popular items are seen already, so something beats the order of the scores."""
    agent = Constant(slate_size=5).fit(world.policy_log, traffic(world, 20_000))
    fresh = traffic(world, 200_000, seed=99)
    both = np.stack([DEFAULT_WEIGHTS, agent.weights_])
    default, found = _Traffic(fresh, agent.popularity_, 5).returns(both, 300).mean(axis=1)
    assert found > 1.1 * default


def test_saved_and_loaded(tuned, tmp_path, observe):
    tuned.save(tmp_path / "agent.npz")
    loaded = Constant.load(tmp_path / "agent.npz")
    assert_array_equal(loaded.search_, tuned.search_)
    observation = observe(20, 40)
    assert_array_equal(loaded.act(observation), tuned.act(observation))


def test_rewards_that_are_not_finite_stop_the_search_which_keeps_its_best(world):
    """After the first round: the weights are the best of the settings that it tried."""

    class Spoilt(SlateVectorEnv):
        def step(self, actions):
            observation, reward, *rest = super().step(actions)
            return observation, reward * (np.nan if self.spoilt else 1), *rest

    made = []

    def make_env(num_envs, mode):
        env = Spoilt(num_envs, world=world, users=np.arange(60), autoreset_mode=mode, slate_size=5)
        # first lives of one setting tell how long lives are; then settings compete, then those that are left
        env.spoilt = num_envs > 1 and len(made) > 1
        made.extend([num_envs] * (num_envs > 1))
        return env

    agent = Constant(slate_size=5)
    with pytest.raises(TrainingStopped, match="'constant' was given a reward that is not finite"):
        agent.fit(world.policy_log, Training(make_env=make_env, requests=9_000, seed=0))
    assert len(agent.search_) >= 4 and np.isfinite(agent.search_).all()
    assert_array_equal(agent.weights_, agent.search_[np.argmax(agent.search_[:, -2]), :4].astype(np.float32))
