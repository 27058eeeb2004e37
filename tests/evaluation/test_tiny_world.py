"""The tiny world: its solver against brute force and against lives in the real environment, and agents against its solution."""

from dataclasses import replace
from itertools import product
from unittest import mock

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.actions import WEIGHT_HIGH, WEIGHT_LOW
from agents.actions.blend import Blend
from agents.actions.ranker_scores import RankerScores
from agents.heuristics import MatrixFactorisation
from agents.oracles import OracleMyopic
from agents.rankers.base import Ranker
from agents.rerankers import log_counts, rerank
from agents.summary import PublicItems
from benchmarks.tiny_world import CONTENDERS, kept_runs, measured, smallest
from envs.artefacts import save_json
from evaluation.tiny import (
    Plan,
    best_while_exploring,
    climbed,
    reachable_by_blend,
    reachable_by_presets,
    reachable_by_weights,
    tiny_env,
    tiny_observation,
    tiny_world,
    weights_of_slates,
)

SIZES = (1, 2)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of()


@pytest.mark.parametrize("size", SIZES)
def test_value_iteration_equals_brute_force_over_a_short_horizon(size):
    """All policies that depend on state and time, over two requests, are enumerated."""
    plan = Plan.of(slate_size=size)
    states, actions = range(len(plan.start)), range(len(plan.slates))
    once, moves = plan.reward, plan.survival * plan.next_state()
    # the best second slate of each state, by trying every policy of a single request
    second = np.array([max(once[state, action] for action in actions) for state in states])
    best = np.array(
        [
            max(
                once[state, action] + sum(moves[state, action, after] * second[after] for after in states)
                for action in actions
            )
            for state in states
        ]
    )
    value = np.zeros(len(states))
    for _ in range(2):
        value = plan.look_ahead(value).max(axis=1)
    assert_allclose(value, best, rtol=1e-12)


def test_value_iteration_equals_trying_every_policy():
    """Of a slate of one there are few enough policies, if two states have only one slate to choose."""
    plan = Plan.of(slate_size=1)
    allowed = np.ones((6, 6), bool)
    allowed[[2, 5]] = np.eye(6, dtype=bool)[[3, 2]]
    tried = [plan.value(np.array([a, b, 3, c, d, 2])) for a, b, c, d in product(range(6), repeat=4)]
    assert_allclose(plan.start @ plan.best_values(allowed), max(tried), rtol=1e-9)
    assert_allclose(plan.value(plan.best_policy(allowed)), max(tried), rtol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_what_ends_with_the_next_request_is_the_myopic_optimum(size):
    plan = Plan.of(slate_size=size)
    myopic = plan.myopic_policy()
    assert_allclose(plan.reward[np.arange(6), myopic], plan.reward.max(axis=1))


@pytest.mark.parametrize("size", SIZES)
def test_planning_pays(size):
    """The best that a ranker without foresight can do lies more than 10 % below what foresight earns."""
    plan = Plan.of(slate_size=size)
    assert plan.value(plan.myopic_policy()) < 0.9 * plan.value(plan.best_policy())
    for reachable in (reachable_by_presets(plan), reachable_by_weights(plan)):
        assert plan.value(plan.myopic_policy(reachable)) < 0.9 * plan.value(plan.best_policy(reachable))
        constant = max(plan.value(np.full(6, slate)) for slate in np.flatnonzero(reachable))
        assert constant < 0.9 * plan.value(plan.best_policy(reachable)), "a policy that is blind to the state passes"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("gamma", [0.9, 0.95])
def test_the_discounts_of_the_agents_do_not_change_the_best_policies(size, gamma):
    plan = Plan.of(slate_size=size)
    for allowed in (None, reachable_by_presets(plan), reachable_by_weights(plan)):
        assert_allclose(plan.value(plan.best_policy(allowed, gamma)), plan.value(plan.best_policy(allowed)), rtol=1e-9)


def lives(env, slates_of_last):
    """Returns of the first life in every slot under a policy [I, K] of items by last item."""
    env.reset(seed=5)
    place = np.argsort(env.observation.candidates.items[0])
    earned, over = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not over.all():
        _, reward, terminated, truncated, _ = env.step(place[slates_of_last[env.observation.history[:, 0]]])
        assert not truncated.any()
        earned += reward * ~over
        over |= terminated
    return earned


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["best_policy", "myopic_policy"])
def test_lives_in_the_environment_earn_what_the_plan_says(size, name):
    plan = Plan.of(slate_size=size)
    policy = getattr(plan, name)()
    earned = lives(tiny_env(5_000, slate_size=size), plan.slates[policy])
    assert abs(earned.mean() - plan.value(policy)) < 3.3 * earned.std() / np.sqrt(len(earned))


def test_the_observation_tells_the_state_and_nothing_else():
    """Whatever was shown before, a request is the one that `tiny_observation` has for its user and its last item, to the bit."""
    world, random = tiny_world(), np.random.default_rng(0)
    expected = tiny_observation().to_dict()
    env = tiny_env(len(world.simulated_users), AutoresetMode.NEXT_STEP)
    env.reset()
    seen = set()
    for _ in range(40):
        observation = env.observation
        rows = observation.user * world.num_items + observation.history[:, 0]
        for name, array in observation.to_dict().items():
            assert_array_equal(array, expected[name][rows], err_msg=name)
        seen |= set(observation.history[:, 0].tolist())
        env.step(np.argsort(random.random((env.num_envs, 6)), axis=1)[:, :2])
    assert seen == set(range(6))


def slates_made(plan, weights):
    """[M] numbers of the slates that the re-ranker makes of `weights` [M, 4]."""
    observation = tiny_observation().take(np.zeros(len(weights), np.int64))
    places = rerank(observation, weights.astype(np.float32), log_counts(tiny_world().policy_log), 2)
    return plan.number_of(np.take_along_axis(observation.candidates.items, places, axis=1))


def test_slates_of_weights_are_those_that_the_reranker_makes(plan):
    """Each is made of the weights that were found for it, and thousands of other weights make none besides."""
    reachable, weights = reachable_by_weights(plan), weights_of_slates(plan)
    assert_array_equal(slates_made(plan, weights[reachable]), np.flatnonzero(reachable))
    random = np.random.default_rng(0).uniform(WEIGHT_LOW, WEIGHT_HIGH, (20_000, 4))
    assert reachable[slates_made(plan, random)].all()
    assert 5 < reachable.sum() < len(plan.slates)
    assert (reachable_by_presets(plan) <= reachable).all()


def test_the_myopic_oracle_is_the_myopic_optimum(plan):
    """The oracle reads the real environment's hidden utilities; the plan has them from the table."""
    env = tiny_env(12, AutoresetMode.DISABLED)
    env.reset()
    oracle = OracleMyopic(slate_size=2)
    oracle.bind(env)
    items = np.take_along_axis(env.observation.candidates.items, oracle.act(env.observation), axis=1)
    assert_array_equal(plan.number_of(items), plan.myopic_policy()[env.observation.history[:, 0]])


def test_a_ranker_is_caught_by_the_baits(plan):
    mf = MatrixFactorisation(slate_size=2).fit(tiny_world().policy_log)
    assert plan.value(plan.policy_of(mf)) < 0.9 * plan.value(plan.best_policy())


def test_users_may_have_policies_of_their_own(plan):
    best, myopic = plan.best_policy(), plan.myopic_policy()
    mixed = np.where(np.arange(12)[:, None] % 2 == 0, best, myopic)
    assert_allclose(plan.value(mixed), (plan.value(best) + plan.value(myopic)) / 2, rtol=1e-12)


def test_one_step_share_is_1_for_the_myopic_optimum_and_less_for_foresight(plan):
    assert_allclose(plan.one_step_share(plan.myopic_policy()), 1)
    assert plan.one_step_share(plan.best_policy()) < 1


class LastItemRanker(Ranker):
    """Scores by a table of last item and item."""

    def __init__(self, name, seed):
        super().__init__(seed=seed)
        self.name = name

    def _fit(self, training, validation, progress, folder):
        self.table = np.random.default_rng(self.seed).normal(size=(6, 6)).astype(np.float32)

    def _update(self, samples):
        pass

    def _score(self, batch):
        return self.table[batch.history[:, :1], batch.items]


def test_slates_of_blends_are_those_that_the_blend_makes(plan):
    """Of two rankers that know only the state, nothing that thousands of weights make is missing, and little is there besides."""
    rankers = RankerScores(
        [
            LastItemRanker("first", 1).fit(tiny_world().policy_log),
            LastItemRanker("second", 2).fit(tiny_world().policy_log),
        ]
    )
    reachable, blend = reachable_by_blend(plan, rankers), Blend(rankers, PublicItems.from_log(tiny_world().policy_log))
    actions = np.random.default_rng(0).uniform(-1, 1, (20_000, 3))
    for state in range(6):
        observation = tiny_observation().take(np.full(len(actions), state))
        places = blend.slates(observation, rankers(observation), blend.weights(actions), 2)
        made = np.unique(plan.number_of(np.take_along_axis(observation.candidates.items, places, axis=1)))
        assert reachable[state, made].all()
        assert 0 <= reachable[state].sum() - len(made) <= 2


@pytest.mark.parametrize(
    ("name", "requests"), [("linucb", 4_000), ("thompson", 4_000), ("dqn", 40_000), ("ppo_slate", 20_000)]
)
def test_agents_find_what_is_best_within_their_reach(plan, name, requests):
    contender = replace(CONTENDERS[name], requests=requests)
    with mock.patch.dict(CONTENDERS, {name: contender}):
        assert measured(name, seed=0)["value_share"] >= 0.95


def test_what_did_not_learn_would_be_told(plan):
    """An agent trained on a handful of requests falls short, so that the figure can."""
    with mock.patch.dict(CONTENDERS, dqn=replace(CONTENDERS["dqn"], requests=100)):
        assert measured("dqn", seed=0)["value_share"] < 0.9


def test_single_agents_can_be_measured_again(tmp_path):
    """Runs of others stay as they are where they are of as many seeds; a figure is the smallest of its own agent's runs."""
    runs = {"dqn": [{"value_share": 0.9, "seconds": 1.0}, {"value_share": 0.8, "seconds": 2.0}]}
    save_json(tmp_path / "results.json", {"value_share_dqn": 0.8, "seeds": 2, "runs": runs})
    kept = kept_runs(tmp_path / "results.json", 2)
    kept["linucb"] = [{"value_share": 0.7, "life_share": 0.6, "seconds": 3.0}] * 2
    assert smallest(kept) == {"value_share_dqn": 0.8, "value_share_linucb": 0.7, "life_share_linucb": 0.6}
    assert kept_runs(tmp_path / "results.json", 3) == {}
    assert kept_runs(tmp_path / "none.json", 2) == {}


def test_wide_exploration_hides_what_is_best(plan):
    """Why agents that set weights by a Gaussian need long: the best of them is not good enough before it narrows down."""
    best = plan.value(plan.best_policy(reachable_by_weights(plan)))
    shares = [plan.value(best_while_exploring(plan, deviation, draws=60)) / best for deviation in (0.5, 0.05)]
    assert shares[0] < 0.95 < shares[1]


def test_exploration_that_narrows_must_not_begin_wide(plan):
    """Whoever climbs by a wide Gaussian stays where that led, even without noise; who begins narrow gets further."""
    best = plan.value(plan.best_policy(reachable_by_weights(plan)))
    wide, narrow = (plan.value(climbed(plan, first, 0.05, draws=200)) / best for first in (1.0, 0.3))
    assert wide < 0.95 < narrow
