"""Where recall finds fewer candidates than there are slots, or none, agents learn all the same and serve what there is."""

import numpy as np
import pytest

from agents import resolve_agent
from agents.base import Training, checked_slates
from envs.candidate_source import SampledCandidates
from envs.slate_env import SlateVectorEnv

SLOTS, CANDIDATES, BUDGET = 4, 12, 96
FOUND = np.array([0, 2, SLOTS, CANDIDATES])
"""Candidates of a request, by the user's number."""
SCORER = {"rankers": (), "width": 8, "heads": 2, "embedding": 8}
VALUES = {**SCORER, "minibatch": 16, "gradient_steps": 1}
# one of each learner and way to act; the other agents combine these
OPTIONS = {
    "dqn": {"minibatch": 16},
    "ppo_slate": {**SCORER, "batch": 48, "minibatch": 24},
    "dqn_slots": VALUES,
    "slateq": VALUES,
    "sb3:A2C": {"batch": 48},
    "linucb": {"rankers": ()},
    "thompson": {"rankers": (), "explores_when_serving": True},
}


class Scarce(SampledCandidates):
    """Finds few."""

    def candidates(self, request, count):
        items, scores = super().candidates(request, count)
        beyond = np.arange(count) >= FOUND[request.user % len(FOUND)][:, None]
        return np.where(beyond, -1, items).astype(np.int32), np.where(beyond, 0, scores).astype(np.float32)


@pytest.mark.parametrize("name", OPTIONS)
def test_whatever_is_there_is_shown(world, name):
    def make_env(num_envs, mode):
        return SlateVectorEnv(
            num_envs,
            world=world,
            candidate_source=Scarce(world.num_items),
            slate_size=SLOTS,
            num_candidates=CANDIDATES,
            autoreset_mode=mode,
        )

    kind = resolve_agent(name)
    agent = kind(slate_size=SLOTS, options=kind.options_class(num_envs=16, **OPTIONS[name]))
    agent.fit(world.policy_log, Training(make_env=make_env, requests=BUDGET, seed=0))
    env = make_env(60, "Disabled")
    env.reset(seed=3)
    observation = env.observation
    slates, _ = checked_slates(name, agent.act(observation), observation, SLOTS)
    shown = np.take_along_axis(observation.candidates.mask, slates, axis=1)
    found = FOUND[observation.user % len(FOUND)]
    assert set(found) == set(FOUND)
    np.testing.assert_array_equal(shown.sum(axis=1), np.minimum(found, SLOTS))
    assert np.isfinite(agent.learning_curve_).all() and agent.learning_curve_[-1, 0] == BUDGET
