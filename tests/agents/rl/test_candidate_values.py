"""What the two agents that learn values of candidates, `dqn_slots` and `slateq`, owe to everybody: the contract of an agent."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents import resolve_agent
from agents.base import Training, checked_slates
from agents.rankers.ranking_input import RankingInput
from agents.rerankers import best_first
from agents.rl.dqn_slots import DQNSlotsAgent, DQNSlotsOptions
from agents.rl.slateq import SlateQAgent, SlateQOptions
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from evaluation.tiny import Plan, tiny_training, tiny_world

SLOTS, CANDIDATES, BUDGET = 3, 20, 55
KINDS = [DQNSlotsAgent, SlateQAgent]
SMALL = {
    "rankers": (f"{Path(__file__).parent / 'own_rankers.py'}:Loved",),
    "num_envs": 16,
    "minibatch": 32,
    "gradient_steps": 2,
    "learning_rate": 3e-2,
    "epsilon_start": 0.5,
    "width": 8,
    "heads": 2,
    "embedding": 8,
}
OPTIONS = {DQNSlotsAgent: DQNSlotsOptions(**SMALL, n_step=4), SlateQAgent: SlateQOptions(**SMALL)}


def fitted(kind, world, seed=0, slate_size=SLOTS):
    def make_env(num_envs, mode):
        return SlateVectorEnv(
            num_envs, world=world, slate_size=SLOTS, num_candidates=CANDIDATES, autoreset_mode=mode, seed=seed
        )

    agent = kind(slate_size=slate_size, options=OPTIONS[kind])
    return agent.fit(world.policy_log, Training(make_env=make_env, requests=BUDGET, seed=seed))


@pytest.fixture(scope="module")
def trained(world):
    return {kind: fitted(kind, world) for kind in KINDS}


@pytest.fixture(scope="module")
def observation(world):
    env = SlateVectorEnv(270, world=world, slate_size=SLOTS, num_candidates=CANDIDATES)
    return Observation.from_dict(env.reset(seed=4)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_slates_are_valid_and_begin_as_the_rankers_order(trained, observation, kind):
    agent = trained[kind]
    slates, _ = checked_slates(agent.name, agent.act(observation), observation, SLOTS)
    initial = agent.initial_policy().act(observation)
    scores = agent.rankers_.rankers[0].score(RankingInput.of(observation))
    assert_array_equal(initial, best_first(scores, observation.candidates.mask, SLOTS))
    assert (slates != initial).any()
    assert agent.learning_curve_[-1, 0] == BUDGET


@pytest.mark.parametrize("kind", KINDS)
def test_a_slate_does_not_depend_on_the_batch(trained, observation, kind):
    together = trained[kind].act(observation)
    for rows in (np.array([7]), np.arange(250, 270), np.arange(270)[::-1].copy()):
        assert_array_equal(trained[kind].act(observation.take(rows)), together[rows])
    assert trained[kind].act(observation.take(np.arange(0))).shape == (0, SLOTS)


@pytest.mark.parametrize("kind", KINDS)
def test_short_requests_are_served_short(trained, observation, kind):
    arrays = {name: array.copy() for name, array in observation.to_dict().items()}
    arrays["candidate_mask"][:, 2:], arrays["candidate_mask"][0] = 0, 0
    short = Observation.from_dict(arrays)
    slates, _ = checked_slates(kind.name, trained[kind].act(short), short, SLOTS)
    assert_array_equal(np.sort(slates[1:, :2], axis=1), np.tile([0, 1], (269, 1)))
    assert (slates[1:, 2] >= 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_holds_all_and_goes_with_one_data_set(trained, world, observation, tmp_path, kind):
    path, agent = tmp_path / "agent.npz", trained[kind]
    agent.save(path)
    loaded = kind.load(path, world.policy_log)
    assert_array_equal(loaded.act(observation), agent.act(observation))
    assert_array_equal(loaded.initial_policy().act(observation), agent.initial_policy().act(observation))
    assert loaded.options == agent.options and loaded.slate_size == SLOTS
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=len(world.policy_log.catalogue) + 1), seed=1)
    with pytest.raises(ArtefactError, match="another data set"):
        kind.load(path, other)
    arrays, configuration = load_arrays(path, f"agent {kind.__name__}")
    name = max(name for name in arrays if name.startswith("policy."))
    for spoilt in (
        {key: array for key, array in arrays.items() if key != name},
        arrays | {name: arrays[name][..., :1]},
    ):
        save_arrays(path, f"agent {kind.__name__}", spoilt, configuration)
        with pytest.raises(ArtefactError, match="not a whole"):
            kind.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_reproduce_weights_to_the_bit(trained, world, kind):
    again, other = fitted(kind, world), fitted(kind, world, seed=1)
    names = list(again.policy_)
    assert all(np.array_equal(again.policy_[name], trained[kind].policy_[name]) for name in names)
    assert not all(np.array_equal(other.policy_[name], again.policy_[name]) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_slates_of_another_size_and_no_traffic_are_refused(world, kind):
    with pytest.raises(AgentError, match=f"slate_size={SLOTS}"):
        fitted(kind, world, slate_size=SLOTS + 1)
    agent = kind(options=OPTIONS[kind])
    with pytest.raises(AgentError, match="simulated traffic"):
        agent.fit(world.policy_log)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dqn_slots", {"normalise": True}),
        ("slateq", {"hidden": (32,)}),
        ("ppo_slate", {"normalise": True}),
        ("marwil", {"normalise": True}),
        ("marwil", {"final_log_std": -2.0}),
    ],
)
def test_options_that_have_no_say_are_refused(name, options):
    kind = resolve_agent(name)
    assert kind(options=kind.options_class(rankers=())).options.rankers == ()
    with pytest.raises(ConfigurationError, match=f"agent '{name}' has no use for {next(iter(options))}"):
        kind(options=kind.options_class(**options))


def test_slateq_plans_in_the_tiny_world():
    """After 3,000 requests: the myopic optimum is worth 0.665 of the best policy."""
    wide = {"warm_up_share": 0.1, "epsilon_start": 1.0, "epsilon_end": 0.1, "n_step": 1}
    options = SlateQOptions(rankers=(), num_envs=32, minibatch=128, target_every=200, learning_rate=4e-3, **wide)
    plan = Plan.of(slate_size=2)
    agent = SlateQAgent(slate_size=2, options=options)
    agent.fit(tiny_world().policy_log, tiny_training(3_000, seed=0, slate_size=2))
    assert plan.value(plan.policy_of(agent)) >= 0.95 * plan.value(plan.best_policy())
