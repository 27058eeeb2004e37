"""Any algorithm of Stable-Baselines3 through the face of an agent."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal
from stub import BEST_PRESET, BEST_WEIGHTS, WIDTH, Bandit, WiderBandit

from agents import agent_names, resolve_agent
from agents.base import Training, TrainingStopped
from agents.loading import SB3_ALGORITHMS, default_agents
from agents.rl import checkpoints
from agents.rl.networks import in_blocks, network_from
from agents.rl.sb3 import (
    ActorCriticOptions,
    SB3A2CAgent,
    SB3A2COptions,
    SB3DQNAgent,
    SB3DQNOptions,
    SB3PPOAgent,
    SB3PPOOptions,
    SB3SACAgent,
    SB3TD3Agent,
    SB3VecEnv,
)
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.slate_env import SlateVectorEnv

OBSERVATIONS = np.random.default_rng(5).uniform(-1, 1, (50, WIDTH)).astype(np.float32)
OBSERVATIONS[:, 0] = np.abs(OBSERVATIONS[:, 0])  # the place in a life


def options_of(kind, **further):
    quick = {"num_envs": 32, "learning_rate": 3e-3} | further
    if kind.options_class in (SB3PPOOptions, SB3A2COptions):
        return kind.options_class(batch=256, **quick)
    return kind.options_class(minibatch=64, iteration=200, gradient_steps=2, **quick)


def training(requests, seed=0, folder=None, make_env=None, report=lambda requests: None):
    return Training(make_env=make_env, requests=requests, seed=seed, folder=folder, report=report)


def train(agent, requests, seed=0, folder=None, env=Bandit, report=lambda requests: None):
    discrete, agent.data_ = agent.action == "presets", "stub"
    return agent.train(
        lambda num_envs: env(num_envs, AutoresetMode.SAME_STEP, discrete=discrete),
        training(requests, seed=seed, folder=folder, report=report),
    )


def outputs(weights):
    return in_blocks(network_from(weights), OBSERVATIONS)


@pytest.mark.parametrize("name", SB3_ALGORITHMS)
def test_each_algorithm_trains_saves_and_serves(world, tmp_path, name):
    """From the order of the recall scores; the same slates when loaded; the same weights to the bit from the same seed."""
    kind = resolve_agent(f"sb3:{name}")
    assert kind.name == f"sb3:{name}"

    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, num_candidates=40, autoreset_mode=mode)

    fits = [
        kind(options=options_of(kind)).fit(world.policy_log, training(256, make_env=make_env, seed=seed))
        for seed in (1, 1, 2)
    ]
    agent, again, other = fits
    assert all(np.array_equal(agent.policy_[part], again.policy_[part]) for part in agent.policy_)
    assert any(not np.array_equal(agent.policy_[part], other.policy_[part]) for part in agent.policy_)
    assert agent.learning_curve_[-1, 0] == 256
    observation = make_env(30, AutoresetMode.DISABLED)
    observation.reset(seed=3)
    first = agent.initial_policy().act(observation.observation)
    shown = np.where(observation.observation.candidates.mask == 1, -observation.observation.candidates.score, np.inf)
    assert_array_equal(np.take_along_axis(shown, first, axis=1), np.sort(shown, axis=1)[:, :10])
    agent.save(tmp_path / "agent.npz")
    loaded = kind.load(tmp_path / "agent.npz", world.policy_log)
    assert loaded.options == agent.options
    assert_array_equal(loaded.act(observation.observation), agent.act(observation.observation))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "requests"), [(SB3A2CAgent, 12_000), (SB3SACAgent, 2_000)])
def test_the_best_weights_are_found(kind, requests):
    trained = train(kind(options=options_of(kind)), requests)
    assert_array_equal(outputs(trained.initial), 0)
    found = np.tanh(outputs(trained.final)) if kind.squashes else outputs(trained.final)
    assert_allclose(found.mean(axis=0), BEST_WEIGHTS, atol=0.2)


@pytest.mark.parametrize(
    ("kind", "requests"),
    [(SB3DQNAgent, 3_000), (SB3A2CAgent, 6_000), pytest.param(SB3PPOAgent, 6_000, marks=pytest.mark.slow)],
)
def test_the_best_preset_is_found(kind, requests):
    agent = kind(options=options_of(kind, action="presets"))
    trained = train(agent, requests)
    assert_array_equal(outputs(trained.initial).argmax(axis=1), 0)
    assert (outputs(trained.final).argmax(axis=1) == BEST_PRESET).mean() > 0.9


@pytest.mark.parametrize("name", SB3_ALGORITHMS)
@pytest.mark.parametrize("requests", [1, 77, 501])
def test_the_budget_is_kept(name, requests):
    kind, spent = resolve_agent(f"sb3:{name}"), []

    class Counted(Bandit):
        def step(self, actions):
            spent.append(self.num_envs)
            return super().step(actions)

    curve = train(kind(options=options_of(kind)), requests, env=Counted).learning_curve
    assert requests - 1 <= sum(spent) <= requests
    assert curve[-1, 0] == sum(spent)
    assert (np.diff(curve[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    # what DQN has sampled while it warms up is learnt from long after
    [(SB3PPOAgent, {}), (SB3DQNAgent, {"iteration": 600, "warm_up_share": 0.9})],
)
def test_rewards_that_are_no_numbers_stop_it(kind, options, tmp_path, monkeypatch):
    """However often checkpoints are written, the newest is of before, and goes on in a world that is well."""
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)  # write all that can be written

    options, step = replace(options_of(kind), **options), Bandit.step

    def spoilt(env, actions):
        observations, rewards, *rest = step(env, actions)
        return observations, rewards * (np.nan if env.steps_taken > 20 else 1), *rest

    with monkeypatch.context() as patched, pytest.raises(TrainingStopped, match="is not finite") as caught:
        patched.setattr(Bandit, "step", spoilt)
        train(kind(options=options), 3_000, folder=tmp_path)
    kept = caught.value.trained
    assert all(np.isfinite(array).all() for array in kept.final.values())
    assert np.isfinite(kept.learning_curve).all() and len(kept.learning_curve)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert 0 < int(checkpoint.name.rpartition("-")[2]) <= 20 * 32
    resumed = train(kind(options=options), 3_000, folder=tmp_path)
    assert resumed.learning_curve[-1, 0] > 20 * 32 and np.isfinite(resumed.learning_curve).all()
    assert all(np.isfinite(array).all() for array in resumed.final.values())


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    train(SB3DQNAgent(options=options_of(SB3DQNAgent)), 64, folder=tmp_path)
    with pytest.raises(ArtefactError, match=r"another training \(shape differ\)"):
        train(SB3DQNAgent(options=options_of(SB3DQNAgent)), 64, folder=tmp_path, env=WiderBandit)


def test_losses_that_explode_stop_it():
    with pytest.raises(TrainingStopped, match="a weight is not finite") as caught:
        train(SB3A2CAgent(options=SB3A2COptions(num_envs=32, batch=64, learning_rate=1e38)), 3_000)
    assert all(np.isfinite(array).all() for array in caught.value.trained.final.values())


def test_curves_are_written(tmp_path):
    train(SB3PPOAgent(options=options_of(SB3PPOAgent)), 600, folder=tmp_path)
    assert sorted(path.name[:18] for path in tmp_path.iterdir()) == ["checkpoint-0000000", "events.out.tfevent"]


class Cut(Exception):
    """What cuts a training short."""


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC", "TD3"])
def test_a_training_cut_short_goes_on_to_the_bit(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)  # write all that can be written

    def cut(requests):
        if requests >= 300:
            raise Cut

    kind, spent = resolve_agent(f"sb3:{name}"), []
    whole = train(kind(options=options_of(kind)), 800)
    with pytest.raises(Cut):
        train(kind(options=options_of(kind)), 800, folder=tmp_path, report=cut)
    (kept,) = tmp_path.glob("checkpoint-*")
    assert 0 < int(kept.name.rpartition("-")[2]) < 800
    resumed = train(kind(options=options_of(kind)), 800, folder=tmp_path, report=spent.append)
    assert int(kept.name.rpartition("-")[2]) in spent and spent[-1] == whole.learning_curve[-1, 0]
    done = train(kind(options=options_of(kind)), 800, folder=tmp_path)  # is only read
    for other in (resumed, done):
        assert_array_equal(other.learning_curve, whole.learning_curve)
        for weights in whole.final:
            assert_array_equal(other.final[weights], whole.final[weights])
            assert_array_equal(other.initial[weights], whole.initial[weights])
    with pytest.raises(ArtefactError, match=r"another training \(requests, seed differ\)"):
        train(kind(options=options_of(kind)), 900, seed=1, folder=tmp_path)
    next(tmp_path.glob("checkpoint-*/learner/learner.pkl")).write_bytes(b"nonsense")
    with pytest.raises(ArtefactError, match="is damaged"):
        train(kind(options=options_of(kind)), 800, folder=tmp_path)


def test_the_names_that_they_go_by():
    assert {f"sb3:{name}" for name in SB3_ALGORITHMS} <= set(agent_names())
    assert resolve_agent("sb3_ppo") is SB3PPOAgent
    assert not any(name.startswith("sb3:") or name in ("ppo_blend", "sasrec") for name in default_agents())


@pytest.mark.parametrize("spec", ["sb3:QRDQN", "sb3:ppo", "sb3:"])
def test_an_unknown_algorithm_is_refused(spec):
    with pytest.raises(AgentError, match=f"no agent '{spec}'.*sb3:PPO, sb3:A2C, sb3:DQN"):
        resolve_agent(spec)


@pytest.mark.parametrize(
    ("kind", "action", "told"),
    [
        (SB3DQNAgent, "slate", r"'sb3:DQN' does not fit action space 'slate'.*acts in presets"),
        (SB3DQNAgent, "weights", r"'sb3:DQN' does not fit action space 'weights'.*acts in presets"),
        (SB3SACAgent, "presets", r"'sb3:SAC' does not fit action space 'presets'.*acts in weights"),
        (SB3PPOAgent, "slots", r"'sb3:PPO' does not fit action space 'slots'.*acts in weights or presets"),
        (SB3PPOAgent, "slat", "no action space 'slat': did you mean 'slate'"),
    ],
)
def test_an_action_space_that_does_not_fit_is_refused(kind, action, told):
    with pytest.raises(ConfigurationError, match=told):
        kind(options=kind.options_class(action=action))


def test_further_arguments_reach_the_algorithm():
    agent = SB3DQNAgent(options=SB3DQNOptions(further={"n_steps": 3, "max_grad_norm": 1.0}))
    model = agent.make_model(SB3VecEnv(Bandit(8, AutoresetMode.SAME_STEP, discrete=True)), 100, 0)
    assert (model.n_steps, model.max_grad_norm, model.target_update_interval) == (3, 1.0, 2_000)


@pytest.mark.parametrize("further", [{"gamma": 0.5}, {"n_steps": 5}, {"nonsense": 1}])
def test_further_arguments_that_do_not_fit_are_refused(further):
    with pytest.raises(ConfigurationError, match=f"'further' of agent 'sb3:PPO' does not fit.*{next(iter(further))}"):
        train(SB3PPOAgent(options=SB3PPOOptions(further=further)), 100)


def test_what_cannot_be_saved_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="JSON"):
        SB3TD3Agent(options=ActorCriticOptions(further={"tau": object()}))
