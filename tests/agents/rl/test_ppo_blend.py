"""PPO that blends rankers, under the contract of an agent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents import resolve_agent
from agents.base import Training, checked_slates
from agents.rankers import RankingInput
from agents.rerankers import best_first
from agents.rl.ppo_blend import PPOBlendAgent, PPOBlendOptions
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from envs.world import build_world

OWN = Path(__file__).with_name("own_rankers.py")
OPTIONS = PPOBlendOptions(
    rankers=(f"{OWN}:Loved", f"{OWN}:Youngest"), num_envs=16, batch=160, minibatch=40, epochs=2, learning_rate=3e-2
)


@pytest.fixture(scope="module")
def small_world():
    return build_world(*generate_log(SyntheticConfig(num_users=60, num_items=150), seed=3))


def training(world, requests=320, seed=0, folder=None):
    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, num_candidates=40, autoreset_mode=mode, seed=seed)

    return Training(make_env=make_env, requests=requests, seed=seed, folder=folder)


@pytest.fixture(scope="module")
def trained(small_world):
    return PPOBlendAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world))


@pytest.fixture(scope="module")
def observation(small_world):
    return Observation.from_dict(SlateVectorEnv(300, world=small_world, num_candidates=40).reset(seed=4)[0])


def test_it_goes_by_its_name():
    assert resolve_agent("ppo_blend") is PPOBlendAgent
    assert len(PPOBlendOptions().rankers) >= 2


def test_slates_are_valid_and_training_changed_them(trained, observation):
    slates, _ = checked_slates(trained.name, trained.act(observation), observation, 10)
    assert (slates != trained.initial_policy().act(observation)).any()
    assert trained.learning_curve_[-1, 0] == 320


def test_untrained_it_serves_the_first_ranker(trained, observation):
    scores = trained.blend_.rankers.rankers[0].score(RankingInput.of(observation))
    assert_array_equal(trained.initial_policy().act(observation), best_first(scores, observation.candidates.mask, 10))


def test_a_slate_does_not_depend_on_the_batch(trained, observation):
    together = trained.act(observation)
    for rows in (np.array([7]), np.arange(250, 300), np.arange(300)[::-1].copy()):
        assert_array_equal(trained.act(observation.take(rows)), together[rows])
    assert trained.act(observation.take(np.arange(0))).shape == (0, 10)


def test_a_seed_gives_the_same_weights_to_the_bit(trained, small_world):
    again, other = (
        PPOBlendAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world, seed=seed)).policy_
        for seed in (0, 1)
    )
    assert all(np.array_equal(trained.policy_[name], again[name]) for name in again)
    assert any(not np.array_equal(trained.policy_[name], other[name]) for name in other)


def test_a_loaded_agent_acts_the_same(trained, small_world, observation, tmp_path):
    """One file holds rankers and all."""
    trained.save(tmp_path / "agent.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["agent.npz"]
    loaded = PPOBlendAgent.load(tmp_path / "agent.npz", small_world.policy_log)
    assert_array_equal(loaded.act(observation), trained.act(observation))
    assert_array_equal(loaded.initial_policy().act(observation), trained.initial_policy().act(observation))
    assert loaded.options == trained.options


def test_it_goes_on_from_its_checkpoint(small_world, tmp_path):
    half = training(small_world, folder=tmp_path)

    class Cut(Exception):
        pass

    def cut(requests):
        if requests >= 320:
            raise Cut

    with pytest.raises(Cut):
        PPOBlendAgent(options=OPTIONS).fit(small_world.policy_log, replace(half, report=cut))
    spent = []
    agent = PPOBlendAgent(options=OPTIONS).fit(small_world.policy_log, replace(half, report=spent.append))
    assert spent[0] == 160 and agent.learning_curve_[:, 0].tolist() == [160, 320]
    with pytest.raises(ArtefactError, match="another training"):
        PPOBlendAgent(options=replace(OPTIONS, epochs=3)).fit(small_world.policy_log, half)


def test_another_data_set_is_refused(trained, observation, tmp_path):
    trained.save(tmp_path / "agent.npz")
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=151), seed=1)
    with pytest.raises(ArtefactError, match="another data set"):
        PPOBlendAgent.load(tmp_path / "agent.npz", other)
    narrower = observation.to_dict() | {"user_features": np.zeros((len(observation), 1), np.float32)}
    beyond = observation.to_dict() | {"history": np.full_like(observation.history, 150)}
    for arrays in (narrower, beyond):
        with pytest.raises(AgentError, match="train it on this data set"):
            trained.act(Observation.from_dict(arrays))


def test_damaged_files_are_refused(trained, tmp_path):
    path = tmp_path / "agent.npz"
    trained.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match="damaged"):
        PPOBlendAgent.load(path)
    path.write_bytes(whole)
    arrays, configuration = load_arrays(path, "agent PPOBlendAgent")
    for spoilt in (
        {name: array for name, array in arrays.items() if name != "ranker.1"},
        arrays | {"ranker.1": arrays["ranker.1"][:-9]},
        arrays | {"ranker.1": arrays["ranker.0"]},
        arrays | {"popularity": arrays["popularity"][:-1]},
        arrays | {"policy.0.weight": arrays["policy.0.weight"][:, :5]},
        arrays | {"policy.4.weight": arrays["policy.4.weight"][:1], "policy.4.bias": arrays["policy.4.bias"][:1]},
    ):
        save_arrays(path, "agent PPOBlendAgent", spoilt, configuration)
        with pytest.raises(ArtefactError):
            PPOBlendAgent.load(path)


@pytest.mark.parametrize(
    ("rankers", "told"),
    [
        (("sasrec",), r"two or more fitted rankers, but has 1 \(sasrec\)"),
        ((), r"but has 0 \(none\)"),
        (("sasrec", "dinn"), "no ranker 'dinn': did you mean 'din'"),
        ((f"{OWN}:Loved", f"{OWN}:Loved"), "two rankers are called 'loved'"),
    ],
)
def test_rankers_that_cannot_be_blended_are_refused_before_any_is_fitted(small_world, rankers, told):
    with pytest.raises(ConfigurationError, match=told):
        PPOBlendAgent(options=replace(OPTIONS, rankers=rankers)).fit(small_world.policy_log, training(small_world))


def test_what_is_missing_is_said(small_world, observation, tmp_path):
    with pytest.raises(AgentError, match="simulated traffic"):
        PPOBlendAgent().fit(small_world.policy_log)
    with pytest.raises(AgentError, match="not trained"):
        PPOBlendAgent().act(observation)
    with pytest.raises(AgentError, match="nothing to save"):
        PPOBlendAgent().save(tmp_path / "agent.npz")
