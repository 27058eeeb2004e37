import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.base import Training, checked_slates
from agents.rankers import RankingInput
from agents.rankers import agent as module
from agents.rankers.agent import LogisticAgent, MFPointwiseAgent, RankerAgent
from agents.rankers.loading import ranker_names
from agents.rankers.mf_pointwise import MFPointwise, MFPointwiseConfig
from agents.rankers.training import TrainingConfig
from envs.errors import ArtefactError
from envs.event_log import EventLog
from envs.slate_env import SlateVectorEnv

QUICK = MFPointwiseConfig(training=TrainingConfig(epochs=2))


@pytest.fixture(scope="module")
def agent(world):
    return MFPointwiseAgent(slate_size=5, seed=3, config=QUICK).fit(world.policy_log)


@pytest.fixture(scope="module")
def env(world):
    env = SlateVectorEnv(24, world=world, slate_size=5, num_candidates=40, event_log=EventLog())
    env.reset(seed=1)
    return env


def test_the_best_scored_are_shown_best_first(agent, env):
    slates, _ = checked_slates(agent.name, agent.act(env.observation), env.observation, 5)
    scores = agent.ranker_.score(RankingInput.of(env.observation))
    shown = np.take_along_axis(scores, slates, axis=1)
    assert (np.diff(shown, axis=1) <= 0).all()
    allowed = np.where(env.observation.candidates.mask == 1, scores, -np.inf)
    assert_array_equal(shown[:, 0], allowed.max(axis=1))


def test_an_agent_comes_back_from_disk(agent, env, tmp_path):
    agent.save(tmp_path / "agent.npz")
    again = MFPointwiseAgent.load(tmp_path / "agent.npz")
    assert (again.slate_size, again.seed, again.config) == (5, 3, QUICK)
    assert_array_equal(again.act(env.observation), agent.act(env.observation))
    with pytest.raises(ArtefactError, match="LogisticAgent"):
        LogisticAgent.load(tmp_path / "agent.npz")
    (tmp_path / "agent.npz.safetensors").unlink()
    with pytest.raises(ArtefactError, match="does not exist"):
        MFPointwiseAgent.load(tmp_path / "agent.npz")


def test_an_agent_of_another_catalogue_is_refused(agent, world, moving_world, tmp_path):
    agent.save(tmp_path / "agent")
    assert MFPointwiseAgent.load(tmp_path / "agent", world.policy_log.catalogue).slate_size == 5
    with pytest.raises(ArtefactError, match="another catalogue"):
        MFPointwiseAgent.load(tmp_path / "agent", moving_world.policy_log.catalogue)


def test_it_learns_from_the_events_of_its_own_traffic(world, env, tmp_path):
    traffic = Training(make_env=lambda *_: env, requests=0, seed=0, folder=tmp_path / "curves")
    agent = MFPointwiseAgent(slate_size=5, config=QUICK).fit(world.policy_log, traffic)
    assert any((tmp_path / "curves").iterdir())
    for _ in range(20):
        env.set_propensities(np.full((24, 5), 0.5, np.float32))
        env.step(agent.act(env.observation))
    before = agent.ranker_.score(RankingInput.of(env.observation))
    events = env.event_log.to_log(world.policy_log, world.reference_time)
    agent.update(events)
    assert (agent.ranker_.score(RankingInput.of(env.observation)) != before).any()
    assert_array_equal(agent.ranker_.counts_, world.policy_log.item_counts() + events.item_counts())


def test_the_page_learns_from_the_events_of_any_policy(world, tmp_path):
    """The lines on event logs in docs/rankers.md, as they stand there."""
    page = (Path(__file__).parents[3] / "docs" / "rankers.md").read_text(encoding="utf-8")
    lines = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "EventLog.read" in block)
    env = SlateVectorEnv(24, world=world, slate_size=5, num_candidates=40, event_log=EventLog())
    env.reset(seed=4)
    for _ in range(10):
        env.step(np.tile(np.arange(5), (24, 1)))
    env.event_log.write(tmp_path / "events.parquet")
    names = {
        "EventLog": EventLog,
        "world": world,
        "path": tmp_path / "events.parquet",
        "DIN": MFPointwise,
        "config": QUICK,
    }
    exec(lines, names)
    events, counted = names["events"], world.policy_log.item_counts()
    assert events.clicked.any() and not events.clicked.all()
    assert_array_equal(names["ranker"].counts_, counted + events.item_counts())


def test_a_new_item_and_a_new_user_are_served(moving_world):
    agent = MFPointwiseAgent(slate_size=5, config=QUICK).fit(moving_world.policy_log)
    arriving = np.arange(moving_world.first_arriving, moving_world.num_users)[:16]
    env = SlateVectorEnv(len(arriving), world=moving_world, users=arriving, slate_size=5, num_candidates=40)
    env.reset(seed=2)
    for _ in range(5):
        slates, _ = checked_slates(agent.name, agent.act(env.observation), env.observation, 5)
        env.step(slates)
    unknown = ~agent.ranker_.known_items_
    items = env.observation.candidates.items
    assert unknown[items[items >= 0]].any() and not agent.ranker_.known_users_[env.observation.user].all()


def test_every_ranker_has_an_agent():
    agents = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, RankerAgent)]
    assert {kind.name for kind in agents if kind is not RankerAgent} == set(ranker_names())


def test_a_ranker_may_be_named_by_spec(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from agents.rankers.mf_pointwise import MFPointwise\n\n\nclass Mine(MFPointwise):\n    name = 'mine'\n"
    )

    class MyAgent(RankerAgent):
        name = "my_agent"
        spec = f"{file}:Mine"

    assert MyAgent(config=replace(QUICK, width=4)).fit(world.policy_log).ranker_.name == "mine"
