import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents import Agent, checked_slates
from agents.heuristics import Freshest, Popular
from envs.errors import AgentError, ArtefactError


def test_good_slates_pass_with_and_without_propensities(observe):
    observation = observe(3, 10)
    slates = np.tile(np.arange(4), (3, 1)).astype(np.int32)
    checked, propensities = checked_slates("a", slates, observation, 4)
    assert checked.dtype == np.int64 and np.isnan(propensities).all()
    _, propensities = checked_slates("a", (slates, np.full((3, 4), 0.5)), observation, 4)
    assert_array_equal(propensities, np.full((3, 4), 0.5, np.float32))


@pytest.mark.parametrize(
    ("slates", "told"),
    [
        (np.zeros((3, 5), int), r"shape \(3, 5\)"),
        (np.zeros((2, 4), int), r"shape \(2, 4\)"),
        (np.zeros((3, 4)), "type float64"),
        (None, "must return integers"),
        (np.array([[0, 1, 2, 10]] * 3), "put 10 into slot 3 of row 0; .* 0 to 9"),
        (np.array([[0, 1, -1, 3]] * 3), "put -1 into slot 2"),
        (np.array([[0, 1, 2, 3], [4, 5, 4, 6], [0, 1, 2, 3]]), "the same candidate twice into the slate of row 1"),
    ],
)
def test_bad_slates_are_refused(observe, slates, told):
    with pytest.raises(AgentError, match=told) as caught:
        checked_slates("mine", slates, observe(3, 10, masked=0), 4)
    assert "agent 'mine'" in str(caught.value)


def test_masked_candidates_may_repeat(observe):
    observation = observe(3, 10, masked=1.0)
    assert checked_slates("a", np.zeros((3, 4), int), observation, 4)[0].shape == (3, 4)


def test_an_agent_needs_act_and_nothing_else(observe):
    class Mine(Agent):
        def act(self, observation):
            return np.tile(np.arange(self.slate_size), (len(observation), 1))

    agent = Mine(slate_size=3).fit(None)
    assert agent.act(observe(2, 5)).shape == (2, 3)
    assert agent.initial_policy() is None and not agent.is_oracle
    with pytest.raises(TypeError, match="act"):
        Agent()


def test_another_agents_file_is_refused(world, tmp_path):
    Popular().fit(world.policy_log).save(tmp_path / "agent.npz")
    with pytest.raises(ArtefactError, match="agent Popular"):
        Freshest.load(tmp_path / "agent.npz")
