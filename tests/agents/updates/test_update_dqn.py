import numpy as np
import pytest
from update_runs import varied

from agents.updates.costs import Prices
from agents.updates.dqn import UpdateDQN, UpdateDQNOptions
from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market
from agents.updates.rules import rule
from agents.updates.study import run_update_study
from agents.updates.training_env import PairedReward, training_envs
from envs.errors import AgentError, ArtefactError, ConfigurationError

SMALL = UpdateDQNOptions(episodes=4, num_envs=2, processes=False, minibatch=16, gradient_steps=1)


@pytest.fixture(scope="module")
def trained(world, config) -> UpdateDQN:
    return UpdateDQN(SMALL, seed=0).fit(world, varied(config, visits_per_day=10))


def observations(env, count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    box = env.observation_space
    low, high = np.maximum(box.low, -4), np.minimum(box.high, 4)
    return generator.uniform(low, high, (count, len(low))).astype(np.float32)


@pytest.mark.slow
def test_a_saved_agent_acts_the_same(trained, env, tmp_path):
    trained.save(tmp_path / "agent.npz")
    loaded = UpdateDQN.load(tmp_path / "agent.npz")
    seen = observations(env, 200)
    assert [trained.act(row) for row in seen] == [loaded.act(row) for row in seen]
    assert {trained.act(row) for row in seen} <= set(range(7))
    assert loaded.options == trained.options
    np.testing.assert_array_equal(loaded.learning_curve_, trained.learning_curve_)


@pytest.mark.slow
def test_the_same_seed_learns_the_same(trained, world, config):
    again = UpdateDQN(SMALL, seed=0).fit(world, varied(config, visits_per_day=10))
    for name, weights in trained.policy_.items():
        np.testing.assert_array_equal(weights, again.policy_[name], err_msg=name)


@pytest.mark.slow
def test_progress_counts_days(world, config):
    reported: list[int] = []
    UpdateDQN(SMALL).fit(world, varied(config, visits_per_day=2, days=2), reported.append)
    assert reported[-1] == SMALL.episodes * 2


def test_an_untrained_agent_says_so(env, tmp_path):
    with pytest.raises(AgentError, match="fit or load"):
        UpdateDQN().act(observations(env, 1)[0])
    with pytest.raises(AgentError, match="nothing to save"):
        UpdateDQN().save(tmp_path / "agent.npz")
    with pytest.raises(ConfigurationError, match="episode"):
        UpdateDQN(UpdateDQNOptions(episodes=0))


@pytest.mark.slow
def test_a_damaged_file_is_refused_by_name(trained, tmp_path):
    path = tmp_path / "agent.npz"
    trained.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtefactError, match=r"agent\.npz"):
        UpdateDQN.load(path)


def test_paired_rewards_are_zero_for_keeping_and_the_difference_otherwise(market):
    paired = PairedReward(ModelUpdateEnv(market), scale=3.0)
    alone, keeping = ModelUpdateEnv(market), ModelUpdateEnv(market)
    for seed in (7, None):  # without a seed both twins go on to the same next episode
        for env in (paired, alone, keeping):
            env.reset(seed=seed)
        assert paired.step(0)[1] == 0
        alone.step(0), keeping.step(0)
        expected = 3 * (alone.step(6)[1] - keeping.step(0)[1])
        assert expected != 0 and paired.step(6)[1] == pytest.approx(expected)


@pytest.mark.slow
def test_processes_change_nothing_but_the_time(world, config):
    rewards = []
    for processes in (False, True):
        envs = training_envs([Market(world, varied(config, visits_per_day=10))], 2, 1.0, processes)
        try:
            envs.reset(seed=11)
            rewards.append([envs.step(np.array([3, 6]))[1].tolist() for _ in range(config.days + 2)])
        finally:
            envs.close()
    assert rewards[0] == rewards[1]


@pytest.mark.slow
def test_it_learns_not_to_pay_for_what_is_not_worth_it(world, config):
    """At an absurd price the best is to keep; at no price it updates. Judged on episodes that it was not trained on."""
    options = UpdateDQNOptions(episodes=40, num_envs=4, processes=False)
    for price, keeps in ((10.0, True), (0.0, False)):
        setting = varied(config, prices=Prices(per_billion=price), visits_per_day=20)
        agent = UpdateDQN(options).fit(world, setting)
        days = run_update_study(world, setting, {"never": rule("never"), "dqn": agent}, [0, 1])
        share = float((days["action"].to_numpy()[len(days) // 2 :] > 0).mean())
        assert share < 0.1 if keeps else share > 0.2
