from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents import checked_slates, resolve_agent
from agents.heuristics import MMR, Freshest, MatrixFactorisation, Popular, Random
from envs.observation import Candidates


@pytest.mark.parametrize("name", ["random", "popular", "freshest", "mf", "mmr"])
def test_slates_pass_the_checks_of_a_comparison(world, observe, name):
    agent = resolve_agent(name)(slate_size=7).fit(world.policy_log)
    for masked in (0.0, 0.5, 0.95, 1.0):
        observation = observe(60, 40, masked=masked)
        slates, propensities = checked_slates(name, agent.act(observation), observation, 7)
        shown = np.take_along_axis(observation.candidates.mask, slates, axis=1)
        assert_array_equal(shown.sum(axis=1), np.minimum(observation.candidates.mask.sum(axis=1), 7))
        assert np.isnan(propensities).all() == (name != "random")


@pytest.mark.parametrize("name", ["random", "popular", "freshest", "mf", "mmr"])
def test_saved_and_loaded_agents_act_alike(world, observe, tmp_path, name):
    kind = resolve_agent(name)
    agent = kind(slate_size=5, seed=3).fit(world.policy_log)
    agent.save(tmp_path / "agent.npz")
    loaded = kind.load(tmp_path / "agent.npz")
    observation = observe(30, 40)
    for mine, theirs in zip(agent.act(observation), loaded.act(observation), strict=True):
        assert_array_equal(mine, theirs)


def test_rules(world, observe):
    observation = observe(20, 40, masked=0)
    candidates = observation.candidates

    def along(values, agent):
        return np.take_along_axis(values, agent.fit(world.policy_log).act(observation), axis=1)

    assert (np.diff(along(candidates.age, Freshest()), axis=1) >= 0).all()
    assert (np.diff(along(candidates.score, MatrixFactorisation()), axis=1) <= 0).all()
    counts = world.policy_log.item_counts()[candidates.items]
    assert (np.diff(along(counts, Popular()), axis=1) <= 0).all()


def test_mmr_without_diversity_is_the_recall_order(world, observe):
    observation = observe(20, 40)
    agent = MMR().fit(world.policy_log)
    agent.config = replace(agent.config, trade_off=1.0)
    assert_array_equal(agent.act(observation), MatrixFactorisation().act(observation))
    agent.config = replace(agent.config, trade_off=0.5)
    assert (agent.act(observation) != MatrixFactorisation().act(observation)).any()


def test_random_draws_depend_on_the_request_alone(observe):
    observation = observe(200, 40)
    slates, _ = Random().act(observation)
    rows = np.random.default_rng(0).permutation(200)[:33]
    assert_array_equal(Random().act(observation.take(rows))[0], slates[rows])
    assert (Random(seed=1).act(observation)[0] != slates).any()
    later = replace(observation, context=observation.context + np.float32([0.01, 0, 1, 0]))
    assert (Random().act(later)[0] != slates).any()
    order = np.random.default_rng(1).permutation(40)
    candidates = observation.candidates
    moved = Candidates(candidates.items[:, order], candidates.mask[:, order], candidates.features[:, order])
    again, _ = Random().act(replace(observation, candidates=moved))
    shown = np.take_along_axis(candidates.mask, slates, axis=1) == 1
    assert_array_equal(
        np.take_along_axis(candidates.items, slates, axis=1)[shown],
        np.take_along_axis(moved.items, again, axis=1)[shown],
    )


def test_random_shows_all_alike_with_the_stated_propensity(observe):
    observation = observe(8_000, 20, masked=0.5)
    slates, propensities = Random(slate_size=4).act(observation)
    number = observation.candidates.mask.sum(axis=1)
    assert_allclose(propensities[number >= 4, 0], 1 / number[number >= 4], rtol=1e-6)
    assert_allclose(propensities[number >= 4, 3], 1 / (number[number >= 4] - 3), rtol=1e-6)
    first = np.bincount(slates[:, 0], minlength=20) / 8_000
    assert_allclose(first, 1 / 20, atol=4 * np.sqrt(0.05 * 0.95 / 8_000))
