"""The loop that trains every agent by RLlib: what it writes, how it goes on, and when it stops."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal
from stub import Bandit, WiderBandit
from tensorboardX.proto.event_pb2 import Event

from agents.base import Training, TrainingStopped
from agents.rl import checkpoints
from agents.rl.checkpoints import Checkpoints
from agents.rl.dqn import DQNAgent, DQNOptions
from agents.rl.learner import ArrayLearner
from agents.rl.ppo import PPOAgent, PPOOptions
from agents.rl.ppo_slate import PPOSlateAgent, PPOSlateOptions
from envs.errors import ArtefactError
from envs.slate_env import SlateVectorEnv

pytestmark = pytest.mark.usefixtures("sent_by_value")
OPTIONS = {
    PPOAgent: PPOOptions(num_envs=16, batch=300, minibatch=100, epochs=3, learning_rate=3e-3, normalise=True),
    DQNAgent: DQNOptions(num_envs=16, minibatch=32, learning_rate=3e-3, target_every=200, iteration=300, buffer=2_000),
}
KINDS = list(OPTIONS)
BUDGET = 1_500


class Cut(Exception):
    """What cuts a training short."""


class Drying(Bandit):
    """Pays what is no number from some step on."""

    def step(self, actions):
        observation, rewards, *rest = super().step(actions)
        return observation, rewards if self.steps_taken < 60 else rewards * np.nan, *rest


def trained(kind, folder=None, report=lambda requests: None, env=Bandit, **options):
    agent = kind(options=replace(OPTIONS[kind], **options))
    agent.data_ = "stub"

    def no_env(num_envs, mode):
        raise AssertionError("the test hands the environment over itself")

    training = Training(make_env=no_env, requests=BUDGET, seed=3, folder=folder, report=report)
    return agent.train(lambda num_envs: env(num_envs, AutoresetMode.NEXT_STEP, discrete=kind is DQNAgent), training)


def scalars(records):
    """(name, step, value) of TensorBoard's records: 8 bytes of length, 4 of checksum, an event, 4 of checksum."""
    while records:
        end = 12 + struct.unpack("<Q", records[:8])[0]
        event = Event.FromString(records[12:end])
        yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)
        records = records[end + 4 :]


def cut_at(least):
    def report(requests):
        if requests >= least:
            raise Cut

    return report


@pytest.mark.parametrize("least", [400, 700])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_cut_short_goes_on_as_if_it_had_not_been_cut(kind, least, tmp_path, monkeypatch):
    """From a checkpoint after the first iteration and the second, however long it takes to write one."""
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))
    whole = trained(kind)
    with pytest.raises(Cut):
        trained(kind, tmp_path, cut_at(least))
    (kept,) = tmp_path.glob("checkpoint-*")
    (tmp_path / ".checkpoint-halfwritten").mkdir()
    spent = []
    resumed = trained(kind, tmp_path, spent.append)
    assert spent[0] <= int(kept.name.rpartition("-")[2]) < BUDGET == spent[-1]
    # the optimiser's vector instructions round by where in memory its numbers lie, which a checkpoint does not keep
    assert_allclose(resumed.learning_curve, whole.learning_curve, rtol=1e-4)
    for name, array in whole.final.items():
        assert_allclose(resumed.final[name], array, rtol=1e-3, atol=1e-5)
        assert_array_equal(resumed.initial[name], whole.initial[name])
    # a training that is done is only read
    done = trained(kind, tmp_path)
    assert_array_equal(done.learning_curve, resumed.learning_curve)
    for name, array in resumed.final.items():
        assert_allclose(done.final[name], array, rtol=1e-6, atol=1e-6)
    assert [path.name for path in tmp_path.glob("*checkpoint-*")] == [f"checkpoint-{BUDGET:012d}"]
    with pytest.raises(ArtefactError, match=r"another training \(options differ\)"):
        trained(kind, tmp_path, learning_rate=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_curves_are_written_for_tensorboard(kind, tmp_path):
    result = trained(kind, tmp_path)
    (path,) = tmp_path.glob("events.out.tfevents*")
    read = list(scalars(path.read_bytes()))
    assert {"reward", "total_loss"} <= {name for name, _, _ in read}
    rewards = [(step, value) for name, step, value in read if name == "reward"]
    assert_allclose(rewards, result.learning_curve, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_that_are_no_numbers_stop_the_training(kind, tmp_path):
    with pytest.raises(
        TrainingStopped, match=rf"'{kind.name}' cannot go on: reward.*kept is the policy after \d"
    ) as told:
        trained(kind, tmp_path, env=Drying)
    kept = told.value.trained
    assert len(kept.learning_curve) > 0 and np.isfinite(kept.learning_curve).all()
    assert all(np.isfinite(array).all() for array in kept.final.values())
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert int(checkpoint.name.rpartition("-")[2]) in kept.learning_curve[:, 0]


@pytest.mark.parametrize(("kind", "steps"), [(PPOAgent, 0), (PPOAgent, 20), (DQNAgent, 60)])
def test_losses_that_explode_stop_the_training(kind, steps, tmp_path, monkeypatch):
    """By steps that are far too large: all of them, or those after a while, so that there is something to keep."""
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)  # write all that can be written
    descend, taken = ArrayLearner._descend, []

    def exploding(self, rows, logged):
        taken.append(1)
        if len(taken) > steps:
            self.get_optimizers_for_module("default_policy")[0][1].param_groups[0]["lr"] = 1e38
        return descend(self, rows, logged)

    monkeypatch.setattr(ArrayLearner, "_descend", exploding)
    with pytest.raises(TrainingStopped, match=rf"'{kind.name}' cannot go on: .* not finite") as told:
        trained(kind, tmp_path)
    kept = told.value.trained
    assert all(np.isfinite(array).all() for array in kept.final.values())
    changed = any(not np.array_equal(kept.final[name], kept.initial[name]) for name in kept.final)
    assert changed == (steps > 0)
    found = [int(path.name.rpartition("-")[2]) for path in tmp_path.glob("checkpoint-*")]
    assert found == kept.learning_curve[-1:, 0].tolist()
    assert bool(found) == (steps > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_another_shape_is_refused(kind, tmp_path):
    with pytest.raises(Cut):
        trained(kind, tmp_path, cut_at(600))
    with pytest.raises(ArtefactError, match=r"another training \(shape differ\)"):
        trained(kind, tmp_path, env=WiderBandit)


@pytest.mark.slow
def test_agents_that_score_candidates_learn_from_workers_and_go_on(world, tmp_path):
    options = PPOSlateOptions(
        rankers=(),
        num_envs=16,
        batch=160,
        minibatch=40,
        epochs=2,
        width=8,
        heads=2,
        embedding=8,
        runners=1,
        beside=True,
    )

    def training(report=lambda requests: None):
        return Training(
            make_env=lambda num_envs, mode: SlateVectorEnv(
                num_envs, world=world, num_candidates=40, autoreset_mode=mode
            ),
            requests=640,
            seed=0,
            folder=tmp_path,
            report=report,
        )

    with pytest.raises(Cut):
        PPOSlateAgent(options=options).fit(world.policy_log, training(cut_at(300)))
    spent = []
    agent = PPOSlateAgent(options=options).fit(world.policy_log, training(spent.append))
    assert 160 <= spent[0] < 640 == spent[-1]
    assert any(not np.array_equal(agent.policy_[name], agent.initial_[name]) for name in agent.policy_)
