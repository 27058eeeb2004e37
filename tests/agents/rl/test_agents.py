"""The trained agents under the Agent contract, on the real environment."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.base import Training, checked_slates
from agents.rl.dqn import DQNAgent, DQNOptions
from agents.rl.ppo import PPOAgent, PPOOptions
from agents.rl.sb3 import SB3A2CAgent, SB3A2COptions, SB3DQNAgent, SB3DQNOptions, SB3PPOAgent, SB3PPOOptions
from agents.rl.served import fingerprint
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv

CLASSES = [PPOAgent, DQNAgent, SB3PPOAgent, SB3A2CAgent, SB3DQNAgent]
SMALL = {
    PPOAgent: PPOOptions(num_envs=16, batch=160, minibatch=40, epochs=2, learning_rate=3e-2),
    SB3PPOAgent: SB3PPOOptions(num_envs=16, batch=160, minibatch=40, epochs=2, learning_rate=3e-2),
    SB3A2CAgent: SB3A2COptions(num_envs=16, batch=80, learning_rate=3e-2),
    SB3DQNAgent: SB3DQNOptions(num_envs=16, minibatch=32, learning_rate=3e-2, iteration=160),
    DQNAgent: DQNOptions(num_envs=16, minibatch=32, learning_rate=3e-2, iteration=160),
}


def training(world, requests=480, seed=0):
    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, autoreset_mode=mode, seed=seed)

    return Training(make_env=make_env, requests=requests, seed=seed)


@pytest.fixture(scope="module")
def trained(world):
    """One agent of each class after a short training."""
    return {kind: kind(options=SMALL[kind]).fit(world.policy_log, training(world)) for kind in CLASSES}


@pytest.fixture(scope="module")
def observation(world):
    return Observation.from_dict(SlateVectorEnv(300, world=world).reset(seed=4)[0])


@pytest.mark.parametrize("kind", CLASSES)
def test_slates_are_valid_and_training_changed_them(trained, observation, kind):
    agent = trained[kind]
    slates, _ = checked_slates(agent.name, agent.act(observation), observation, 10)
    initial = agent.initial_policy()
    assert type(initial) is kind
    assert (slates != initial.act(observation)).any()
    assert_array_equal(initial.initial_policy().act(observation), initial.act(observation))


@pytest.mark.parametrize("kind", CLASSES)
def test_the_initial_policy_is_the_order_of_the_recall_scores(trained, observation, kind):
    slates = trained[kind].initial_policy().act(observation)
    shown = np.where(observation.candidates.mask == 1, -observation.candidates.score, np.inf)
    assert_array_equal(np.take_along_axis(shown, slates, axis=1), np.sort(shown, axis=1)[:, :10])


@pytest.mark.parametrize("kind", CLASSES)
def test_a_slate_does_not_depend_on_the_batch(trained, observation, kind):
    together = trained[kind].act(observation)
    for rows in (np.array([7]), np.arange(250, 300), np.arange(300)[::-1].copy()):
        assert_array_equal(trained[kind].act(observation.take(rows)), together[rows])
    assert trained[kind].act(observation.take(np.arange(0))).shape == (0, 10)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_loaded_agent_acts_the_same(trained, observation, tmp_path, kind):
    agent = trained[kind]
    agent.save(tmp_path / "agent.npz")
    loaded = kind.load(tmp_path / "agent.npz")
    assert_array_equal(loaded.act(observation), agent.act(observation))
    assert_array_equal(loaded.initial_policy().act(observation), agent.initial_policy().act(observation))
    assert_array_equal(loaded.learning_curve_, agent.learning_curve_)
    assert (loaded.slate_size, loaded.seed, loaded.options) == (agent.slate_size, agent.seed, agent.options)


@pytest.mark.parametrize("kind", CLASSES)
def test_damaged_and_foreign_files_are_refused(trained, world, tmp_path, kind):
    path = tmp_path / "agent.npz"
    trained[kind].save(path)
    whole = path.read_bytes()
    other = CLASSES[CLASSES.index(kind) - 1]
    with pytest.raises(ArtefactError, match="holds a 'agent"):
        other.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match="damaged"):
        kind.load(path)
    path.write_bytes(whole)
    arrays, configuration = load_arrays(path, f"agent {kind.__name__}")
    for spoilt in (
        {name: array for name, array in arrays.items() if name != "popularity"},
        {name: array for name, array in arrays.items() if name != "policy.2.weight"},
        arrays | {"policy.0.weight": arrays["policy.0.weight"][:, :5]},
        arrays | {"popularity": arrays["popularity"][:-1]},
        arrays | {"policy.4.weight": arrays["policy.4.weight"][:1], "policy.4.bias": arrays["policy.4.bias"][:1]},
    ):
        save_arrays(path, f"agent {kind.__name__}", spoilt, configuration)
        with pytest.raises(ArtefactError, match=r"agent\.npz"):
            kind.load(path)


def test_an_agent_of_another_data_set_is_refused(trained, world, observation, tmp_path):
    path = tmp_path / "agent.npz"
    trained[PPOAgent].save(path)
    assert PPOAgent.load(path, world.policy_log).name == "ppo"
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=len(world.policy_log.catalogue) + 1), seed=1)
    with pytest.raises(ArtefactError, match="another data set"):
        PPOAgent.load(path, other)
    arrays = observation.to_dict()
    arrays["user_features"] = np.zeros((len(observation), 1), np.float32)
    with pytest.raises(AgentError, match="train it on this data set"):
        trained[PPOAgent].act(Observation.from_dict(arrays))


def test_a_fingerprint_tells_logs_apart_that_differ_in_no_name():
    """As two generated logs of the same size do: the same names, other categories, births and attributes."""
    log, _ = generate_log(SyntheticConfig(num_users=6, num_items=12), seed=1)
    again, _ = generate_log(SyntheticConfig(num_users=6, num_items=12), seed=1)
    other, _ = generate_log(SyntheticConfig(num_users=6, num_items=12), seed=2)
    items, users = log.catalogue, log.users
    born = replace(items, birth=items.birth + 1)
    sorted_otherwise = replace(items, categories=np.roll(items.categories, 1, axis=1))
    described = replace(users, feature_names=("age",), features=np.full((6, 1), 0.3, np.float32))
    aged = replace(described, features=described.features + 0.1)
    assert fingerprint(again) == fingerprint(log)
    others = [
        other,
        replace(log, catalogue=born),
        replace(log, catalogue=sorted_otherwise),
        replace(log, users=described),
        replace(log, users=aged),
    ]
    assert len({fingerprint(each) for each in (log, *others)}) == 1 + len(others)
    assert fingerprint(log.where(log.item < 6)) == fingerprint(log), "less of the same log is the same data set"


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_missing_is_said(world, observation, tmp_path, kind):
    with pytest.raises(AgentError, match="simulated traffic"):
        kind().fit(world.policy_log)
    with pytest.raises(ConfigurationError, match="at least 1 request"):
        kind().fit(world.policy_log, training(world, requests=0))
    with pytest.raises(AgentError, match="not trained"):
        kind().act(observation)
    with pytest.raises(AgentError, match="nothing to save"):
        kind().save(tmp_path / "agent.npz")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_serving_starts_no_ray(trained, tmp_path, kind):
    path = tmp_path / "agent.npz"
    trained[kind].save(path)
    code = (
        "import sys; from pathlib import Path; from agents.loading import resolve_agent; import numpy as np\n"
        "from envs.slate_env import SlateVectorEnv; from envs.observation import Observation\n"
        f"agent = resolve_agent('{kind.name}').load(Path(r'{path}'))\n"
        "agent.act(Observation.from_dict(SlateVectorEnv(3).reset(seed=0)[0]))\n"
        "ray = sys.modules.get('ray')\n"
        "assert ray is None or not ray.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_training_works_inside_a_ray_task(world):
    import ray

    from agents.rl.rllib import start_ray

    start_ray()

    @ray.remote
    def learn(agent, log, training):
        return agent.fit(log, training).policy_

    parts = PPOAgent(options=SMALL[PPOAgent]), world.policy_log, training(world, requests=160)
    there = ray.get(learn.remote(*parts))
    here = parts[0].fit(*parts[1:]).policy_
    assert all(np.array_equal(here[name], there[name]) for name in here)
