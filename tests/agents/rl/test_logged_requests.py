"""Event logs gone through again: what was observed comes out to the bit, and logs that do not fit are refused."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.request_layout import RequestLayout
from agents.rl.logged_requests import LoggedRequests
from agents.sampled import Sampled
from envs.errors import AgentError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from envs.world import WorldConfig, build_world
from recall.embedding import EmbeddingConfig, EmbeddingRecall


@pytest.fixture(scope="module")
def small_world():
    """Short lives, so that many end in a test."""
    log, user_model = generate_log(SyntheticConfig(num_users=60, num_items=150), seed=3)
    return build_world(log, user_model, WorldConfig(days=4, seed=1))


def environment(world, num_envs=1, **further):
    recall = EmbeddingRecall(EmbeddingConfig(dimension=8, iterations=2)).fit(world.policy_log)
    arguments = {"candidate_source": recall, "num_candidates": 20, "slate_size": 4, "history_size": 6} | further
    return SlateVectorEnv(num_envs, world=world, **arguments)


def encode_with(env):
    return RequestLayout.of(env).encode


def lived(env, steps=25):
    """The event log of `steps` steps, and (rows, places, rewards) of the same requests as they were observed, in its order."""
    env.event_log, behaviour, seen = EventLog(), Sampled(env.slate_size), []
    env.reset(seed=2)
    for _ in range(steps):
        rows, (slates, propensities) = encode_with(env)(env.observation), behaviour.act(env.observation)
        env.set_propensities(propensities)
        _, rewards, _, _, info = env.step(slates)
        seen.append([array[info["active"]] for array in (rows, slates, rewards)])
    return env.event_log, [np.concatenate(arrays) for arrays in zip(*seen, strict=True)]


def in_order(events):
    return np.lexsort([events.table["request"].to_numpy(), events.table["user"].to_numpy()])


@pytest.mark.parametrize("moving", [False, True])
def test_what_was_observed_follows_from_the_log(small_world, moving_world, moving):
    world = moving_world if moving else small_world
    env = environment(world, 90)
    events, seen = lived(env)
    order = in_order(events)
    logged = LoggedRequests.of(events, environment(world), encode_with(env))
    rows, slates, rewards = (array[order] for array in seen)
    assert_array_equal(logged.rows, rows)
    assert_array_equal(logged.slates, slates)
    assert_array_equal(logged.rewards, rewards)
    assert logged.whole.all()
    assert_array_equal(logged.first, events.table["request"].to_numpy()[order] == 0)
    assert logged.first.sum() > 100 and rewards.sum() > 50
    assert len(np.unique(rows, axis=0)) > 1_000


def test_blocks_of_lives_change_nothing(small_world, monkeypatch):
    env = environment(small_world, 40)
    events, _ = lived(env, 12)
    whole = LoggedRequests.of(events, environment(small_world), encode_with(env))
    monkeypatch.setattr("agents.rl.logged_requests.BLOCK", 7)
    parts = LoggedRequests.of(events, environment(small_world), encode_with(env))
    for name in ("rows", "slates", "whole", "rewards", "first"):
        assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_returns_are_those_of_a_plain_loop(small_world):
    env = environment(small_world, 20)
    events, _ = lived(env)
    logged = LoggedRequests.of(events, environment(small_world), encode_with(env))
    lives = np.split(logged.rewards, np.flatnonzero(logged.first)[1:])
    expected = [
        sum(0.8 ** (later - now) * life[later] for later in range(now, len(life)))
        for life in lives
        for now in range(len(life))
    ]
    assert_allclose(logged.returns(0.8), expected, rtol=1e-12)
    assert_array_equal(logged.returns(0.0), logged.rewards)


def test_a_limit_keeps_the_earliest_requests(small_world):
    env = environment(small_world, 20)
    events, _ = lived(env)
    some = LoggedRequests.of(events, environment(small_world), encode_with(env), limit=33)
    early = EventLog()
    early._tables.append(events.table.slice(0, 33))
    assert len(some.rows) == 33
    assert_array_equal(some.rows, LoggedRequests.of(early, environment(small_world), encode_with(env)).rows)


class Few:
    """Finds one, three or seven candidates, by the number of the request."""

    def candidates(self, request, count):
        items = np.full((len(request), count), -1, np.int32)
        for row, number in enumerate(request.key[:, 1] % 3):
            found = (1, 3, 7)[number]
            items[row, :found] = np.arange(found)
        return items, np.where(items >= 0, 1.0, 0.0).astype(np.float32)


def test_short_slates_are_whole_and_slates_with_gaps_are_not(small_world):
    world = replace(small_world, config=replace(small_world.config, exclude_seen=False))
    env = environment(world, 20, candidate_source=Few())
    env.event_log, behaviour = EventLog(), Sampled(4)
    env.reset(seed=2)
    for step in range(9):
        slates = behaviour.act(env.observation)[0]
        if step % 2:
            slates[:, 1] = slates[:, 0]  # what stands in a slot above leaves the second one empty
        env.step(slates)
    again = environment(world, candidate_source=Few())
    logged = LoggedRequests.of(env.event_log, again, encode_with(env))
    mask = RequestLayout.of(env).parts(logged.rows).mask
    shown = np.take_along_axis(mask, logged.slates, axis=1)
    fullest = np.minimum(mask.sum(axis=1), 4)
    assert set(fullest[logged.whole]) == {1, 3, 4}
    assert_array_equal(shown.sum(axis=1)[logged.whole], fullest[logged.whole])
    slate_items = np.array(env.event_log.table["slate"].to_pylist())[in_order(env.event_log)]
    assert_array_equal(logged.whole, (slate_items >= 0).sum(axis=1) == fullest)
    assert 0 < logged.whole.sum() < len(logged.whole)


def test_logs_that_do_not_fit_are_refused(small_world, moving_world):
    env = environment(small_world, 20)
    events, _ = lived(env, 6)

    def refused(told, table=None, world=small_world, **further):
        kept = EventLog()
        if table is not None:
            kept._tables.append(table)
        again = environment(world, **further)
        with pytest.raises(AgentError, match=told):
            LoggedRequests.of(kept, again, encode_with(again))

    table = events.table
    refused("is empty")
    refused("has request 2 of user 0 where request 1", table.filter(table["request"].to_numpy() != 1))
    twice = EventLog.merged([events, events]).table
    refused("where request 1 must be; give the log of one policy", twice)
    refused("4 items in 'slate', the environment 5", table, slate_size=5)
    refused("20 items in 'candidates', the environment 30", table, num_candidates=30)
    elsewhere, _ = lived(environment(moving_world, 90), 2)
    refused("does not have; train in its own world", elsewhere.table)
    other = EmbeddingRecall(EmbeddingConfig(dimension=4, iterations=1), seed=5).fit(small_world.policy_log)
    refused("recall finds other candidates", table, candidate_source=other)
