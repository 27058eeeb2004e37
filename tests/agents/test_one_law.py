"""The one law: a policy never reads the user model's hidden state or parameters.

Each policy is shown the observations of an environment while everything hidden in it is replaced: its slates must stay the
same to the bit. An oracle under the same treatment must move, or the test would prove nothing.
"""

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

from agents import agent_names, resolve_agent
from agents.base import Agent, Training
from agents.loading import SB3_ALGORITHMS
from agents.pipeline import Pipeline, PipelineAgent, PipelineConfig
from agents.rankers.agent import RankerAgent
from agents.rankers.loading import resolve_ranker
from agents.rankers.popularity import Popularity
from agents.rankers.ranking_input import RankingInput
from agents.rerankers import RERANKERS
from agents.sampled import Sampled
from envs.event_log import EventLog
from envs.modifiers import CategoryShock, Drift, Scene, modified
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from recall.embedding import EmbeddingConfig, EmbeddingRecall

TRAINED = (
    "ppo",
    "dqn",
    "sb3_ppo",
    "ppo_blend",
    "ppo_slate",
    "ppo_preference",
    "marwil",
    "dqn_slots",
    "slateq",
    "linucb",
    "thompson",
    "drn",
)
REINFORCED = (*TRAINED, *(f"sb3:{name}" for name in SB3_ALGORITHMS))
"""Agents that need a training to act; traffic of a hidden world is what they learn from, so the world changes after it."""
OWN_RANKERS = Path(__file__).parent / "rl" / "own_rankers.py"
POLICIES = [name for name in agent_names() if name not in REINFORCED and not resolve_agent(name).is_oracle]
QUICK = {"gbdt": {"trees": 5}, "logistic": {}}
"""Settings of rankers that are no networks; networks are trained for one pass."""
ORACLES = [name for name in agent_names() if name.startswith("oracle")]


@pytest.fixture(scope="module")
def perturbed(world):
    """The same public world with other hidden parameters and other hidden states."""
    random = np.random.default_rng(0)
    model = world.user_model

    def shaken(array):
        return (array + random.standard_normal(array.shape)).astype(array.dtype)

    model = replace(
        model,
        **{
            name: shaken(getattr(model, name))
            for name in ("item_embedding", "item_bias", "user_embedding", "context_weights", "age_values")
        },
    )
    interest = world.start_interest.take(random.permutation(world.num_users))
    return replace(world, user_model=model, start_interest=interest, outside=world.outside + 1)


@pytest.fixture(scope="module")
def perturbed_motion(moving_world):
    """The world in which everything moves, with other hidden parameters, states, modifiers and drawn users' futures."""
    random = np.random.default_rng(0)
    base = moving_world.user_model.base
    shaken = {
        name: (getattr(base, name) + random.standard_normal(getattr(base, name).shape)).astype(np.float32)
        for name in ("item_embedding", "item_bias", "context_weights", "age_values")
    }
    categories = moving_world.policy_log.catalogue.categories
    scene = Scene(categories=categories, category_names=(), days=20, first_weekday=1, seed=99)
    model = modified(replace(base, **shaken), [CategoryShock(count=9, days=20, strength=3), Drift(scale=9)], scene)
    count = moving_world.start_interest.traits.shape[0]
    interest = moving_world.start_interest.take(random.permutation(count))
    return replace(moving_world, user_model=model, start_interest=interest, outside=moving_world.outside + 1)


def fitted(name, world):
    """The policy, fitted to what a quarter of the users left in the world's log; what is learnt need not be good."""
    agent = resolve_agent(name)()
    if isinstance(agent, RankerAgent):
        config = resolve_ranker(name).config_class()
        changes = QUICK[name] if name in QUICK else {"training": replace(config.training, epochs=1)}
        agent.config = replace(config, **changes)
    log = world.policy_log
    return agent.fit(log.where(log.user % 4 == 0))


def environment(world, recall):
    env = SlateVectorEnv(
        64, world=world, candidate_source=recall, num_candidates=60, autoreset_mode=AutoresetMode.DISABLED, seed=3
    )
    env.reset()
    return env


def recall_of(world):
    return EmbeddingRecall(EmbeddingConfig(dimension=16, iterations=3)).fit(world.policy_log)


def test_the_public_catalogue_carries_nothing_fitted(world):
    """Everything in it is a name, a category or a birth; no array is a function of the user model."""
    catalogue = world.policy_log.catalogue
    assert {field.name for field in fields(catalogue)} == {
        "item_ids",
        "titles",
        "category_names",
        "categories",
        "birth",
        "retired",
        "duration_seconds",
    }
    assert ((catalogue.categories >= 0) & (catalogue.categories <= 1)).all()
    sums = catalogue.categories.sum(axis=1)
    assert np.all(np.isclose(sums, 1, atol=1e-5) | (sums == 0))


def test_the_first_observation_does_not_depend_on_anything_hidden(world, perturbed):
    first, second = (environment(each, recall_of(each)).observation.to_dict() for each in (world, perturbed))
    for name, array in first.items():
        assert_array_equal(array, second[name], err_msg=name)


def test_the_log_that_policies_learn_from_is_cut_before_the_run(world):
    assert not world.born_in_run[world.policy_log.item].any()


@pytest.mark.parametrize("name", POLICIES)
def test_policies_do_not_see_what_is_hidden(world, perturbed, name):
    agents = [fitted(name, each) for each in (world, perturbed)]
    envs = [environment(each, recall_of(world)) for each in (world, perturbed)]
    for _ in range(4):
        # both are shown what the first environment shows, while the second one's hidden state goes its own way
        observation = Observation.from_dict({key: array.copy() for key, array in envs[0].observation.to_dict().items()})
        returned = [agent.act(observation) for agent in agents]
        slates = [given[0] if isinstance(given, tuple) else given for given in returned]
        assert_array_equal(slates[0], slates[1])
        for env in envs:
            env.step(slates[0])


@pytest.mark.parametrize("name", POLICIES)
def test_policies_do_not_see_what_moves_the_world(moving_world, perturbed_motion, name):
    """Modifiers, births' hidden vectors, and the parameters of drawn and arriving users change: the slates do not."""
    worlds = (moving_world, perturbed_motion)
    agents = [fitted(name, each) for each in worlds]
    envs = [environment(each, recall_of(moving_world)) for each in worlds]
    for _ in range(3):
        observation = Observation.from_dict({key: array.copy() for key, array in envs[0].observation.to_dict().items()})
        returned = [agent.act(observation) for agent in agents]
        slates = [given[0] if isinstance(given, tuple) else given for given in returned]
        assert_array_equal(slates[0], slates[1])
        for env in envs:
            env.step(slates[0])


def test_the_first_observation_tells_nothing_of_what_moves_the_world(moving_world, perturbed_motion):
    first, second = (
        environment(each, recall_of(each)).observation.to_dict() for each in (moving_world, perturbed_motion)
    )
    for name, array in first.items():
        assert_array_equal(array, second[name], err_msg=name)


def test_pipelines_do_not_see_what_is_hidden(world, perturbed):
    """Recall, ranker and every re-ranker together, served and taught by what is observed of the first world."""
    pipelines = [Pipeline(PipelineConfig(ranker="logistic")).fit(each.policy_log) for each in (world, perturbed)]
    env, other = (
        environment(each, pipeline.recall) for each, pipeline in zip((world, perturbed), pipelines, strict=True)
    )
    for name, array in env.observation.to_dict().items():
        assert_array_equal(array, other.observation.to_dict()[name], err_msg=name)
    env.event_log = EventLog()
    for kind in RERANKERS.values():
        for pipeline, each in zip(pipelines, (world, perturbed), strict=True):
            pipeline.reranker = kind().fit(each.policy_log)
        slates = [PipelineAgent(pipeline).act(env.observation) for pipeline in pipelines]
        assert_array_equal(slates[0], slates[1], err_msg=kind.name)
        for each in (env, other):
            each.step(slates[0])
    events = env.event_log.to_log(world.policy_log, world.reference_time)
    for pipeline in pipelines:
        pipeline.update(events)
    assert_array_equal(*(PipelineAgent(pipeline).act(env.observation) for pipeline in pipelines))


def test_popularity_and_the_logging_policy_do_not_see_what_is_hidden(world, perturbed):
    rankers = [Popularity().fit(each.policy_log) for each in (world, perturbed)]
    observation = environment(world, recall_of(world)).observation
    assert_array_equal(*(ranker.score(RankingInput.of(observation)) for ranker in rankers))
    for first, second in zip(Sampled().act(observation), Sampled().act(observation), strict=True):
        assert_array_equal(first, second)


class Spy(Agent):
    """Keeps what it was trained on, and reads the hidden utilities there: what the law forbids."""

    def fit(self, log, training=None):
        self.env = training.make_env(64, AutoresetMode.DISABLED)
        self.env.reset(seed=0)
        return self

    def act(self, observation):
        utility = self.env.hidden.utilities(observation.candidates.items)
        return np.argsort(-utility, axis=1)[:, : self.slate_size]


def slates_before_and_after(world, kind):
    """Slates of an agent trained in a world, for the same observation, before and after all that is hidden there changes."""
    hidden = replace(
        world, user_model=copy.deepcopy(world.user_model), start_interest=copy.deepcopy(world.start_interest)
    )
    recall = recall_of(world)

    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=hidden, candidate_source=recall, num_candidates=60, autoreset_mode=mode)

    agent = kind().fit(world.policy_log, Training(make_env=make_env, requests=700, seed=0))
    observation = environment(world, recall).observation
    given = [agent.act(observation)]
    random = np.random.default_rng(1)
    model = hidden.user_model
    for array in (
        model.item_embedding,
        model.item_vectors,
        model.item_bias,
        model.user_embedding,
        model.context_weights,
    ):
        array += random.standard_normal(array.shape).astype(array.dtype)
    hidden.start_interest.put(
        np.arange(world.num_users), hidden.start_interest.take(random.permutation(world.num_users))
    )
    given.append(agent.act(observation))
    return [each[0] if isinstance(each, tuple) else each for each in given]


def untrained(name):
    """The agent with rankers that are quick to fit; those that take long are held to the law by themselves."""
    kind = resolve_agent(name)
    if not hasattr(kind, "options_class") or not hasattr(kind.options_class(), "rankers"):
        return kind()
    rankers = tuple(f"{OWN_RANKERS}:{ranker}" for ranker in ("Loved", "Youngest"))
    return kind(options=replace(kind.options_class(), rankers=rankers))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REINFORCED, "constant"])
def test_trained_policies_keep_no_way_to_what_is_hidden(world, name):
    before, after = slates_before_and_after(world, lambda: untrained(name))
    assert_array_equal(before, after)


def test_a_spy_would_be_caught(world):
    before, after = slates_before_and_after(world, Spy)
    assert (before != after).any()


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("moving", [False, True])
def test_oracles_do(world, perturbed, moving_world, perturbed_motion, moving, name):
    slates = []
    for each in (moving_world, perturbed_motion) if moving else (world, perturbed):
        env = environment(each, recall_of(each))
        oracle = resolve_agent(name)()
        oracle.bind(env)
        slates.append(oracle.act(env.observation))
    assert (slates[0] != slates[1]).any()
