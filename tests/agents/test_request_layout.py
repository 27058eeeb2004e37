"""Flat rows of requests: everything that an agent may see stands in them, where the layout says."""

import numpy as np
import pytest
import torch

from agents.request_layout import RequestLayout
from envs.errors import AgentError
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv


@pytest.fixture
def env() -> SlateVectorEnv:
    return SlateVectorEnv(5, num_candidates=12, slate_size=3)


@pytest.fixture
def observation(env: SlateVectorEnv) -> Observation:
    return Observation.from_dict(env.reset(seed=1)[0])


def test_rows_hold_what_the_observation_holds(env: SlateVectorEnv, observation: Observation) -> None:
    layout = RequestLayout.of(env, scores=("sasrec",))
    scores = np.random.default_rng(0).normal(size=(5, 12, 1))
    rows = layout.encode(observation, scores)
    assert rows.shape == (5, layout.width) and rows.dtype == np.float32
    for parts in (layout.parts(rows), layout.parts(torch.from_numpy(rows))):
        for name in ("context", "history", "history_days"):
            np.testing.assert_array_equal(np.asarray(getattr(parts, name)), getattr(observation, name))
        np.testing.assert_array_equal(np.asarray(parts.user), observation.user_features)
        np.testing.assert_array_equal(np.asarray(parts.items), observation.candidates.items)
        np.testing.assert_array_equal(np.asarray(parts.mask), observation.candidates.mask)
        columns = np.asarray(parts.columns)
        np.testing.assert_array_equal(columns[..., 0], observation.candidates.score)
        np.testing.assert_array_equal(columns[..., 1], observation.candidates.age)
        np.testing.assert_array_equal(columns[..., 2:], scores.astype(np.float32))


def test_what_earlier_slots_took_is_masked(env: SlateVectorEnv, observation: Observation) -> None:
    layout = RequestLayout.of(env, slot_by_slot=True)
    slate = np.array([[4, -1, -1], [0, 7, -1], [-1, -1, -1], [11, 3, 5], [2, -1, -1]])
    parts = layout.parts(layout.encode(observation, slate=slate))
    np.testing.assert_array_equal(parts.slate, slate)
    for row, taken in enumerate(slate):
        expected = observation.candidates.mask[row].copy()
        expected[taken[taken >= 0]] = 0
        np.testing.assert_array_equal(parts.mask[row], expected)


def test_requests_of_another_shape_are_refused(env: SlateVectorEnv, observation: Observation) -> None:
    layout = RequestLayout.of(env)
    other = Observation.from_dict(SlateVectorEnv(5, num_candidates=9, slate_size=3).reset(seed=1)[0])
    with pytest.raises(AgentError, match="candidates"):
        layout.encode(other)
    with pytest.raises(AgentError, match="scores"):
        layout.encode(observation, np.zeros((5, 12, 2)))
