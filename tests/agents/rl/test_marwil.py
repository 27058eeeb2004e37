"""MARWIL: its loss, what a log alone gives where that is known, PPO behind it, and the contract of an agent."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from own_behaviours import LIKED
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from agents.base import Training, checked_slates
from agents.rl.logged_requests import LoggedRequests
from agents.rl.marwil import MARWILAgent, MARWILOptions, marwil_batch, marwil_config
from agents.rl.networks import in_blocks
from agents.rl.plackett_luce import PlackettLuce
from agents.rl.served import TrainingStopped
from agents.sampled import Sampled
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from envs.world import WorldConfig, build_world
from evaluation.tiny import Plan, tiny_observation, tiny_training, tiny_world

OWN = Path(__file__).parent / "own_behaviours.py"
OPTIONS = MARWILOptions(
    rankers=(),
    num_envs=16,
    batch=160,
    minibatch=40,
    epochs=2,
    learning_rate=1e-2,
    width=8,
    heads=2,
    embedding=8,
    logged=160,
    passes=2,
)
TINY = MARWILOptions(
    rankers=(), num_envs=64, minibatch=250, learning_rate=5e-3, logged=6_000, passes=15, norm_rate=0.1, fine_tune=False
)


@pytest.fixture(scope="module")
def small_world():
    """Short lives, so that many end in a test."""
    log, user_model = generate_log(SyntheticConfig(num_users=60, num_items=150), seed=3)
    return build_world(log, user_model, WorldConfig(days=4, seed=1))


def make_env(world, num_envs, mode="NextStep", seed=0):
    return SlateVectorEnv(num_envs, world=world, num_candidates=40, autoreset_mode=mode, seed=seed)


def training(world, requests=480, seed=0, folder=None, report=lambda requests: None):
    return Training(
        make_env=lambda num_envs, mode: make_env(world, num_envs, mode, seed),
        requests=requests,
        seed=seed,
        folder=folder,
        report=report,
    )


@pytest.fixture(scope="module")
def trained(small_world):
    return MARWILAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world))


@pytest.fixture(scope="module")
def observation(small_world):
    return Observation.from_dict(make_env(small_world, 300).reset(seed=4)[0])


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------------- the loss
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_the_loss_is_that_of_a_plain_loop(trained, small_world, beta):
    env = trained.with_actions(make_env(small_world, 30))
    rows = torch.from_numpy(env.reset(seed=0)[0])
    options = replace(OPTIONS, beta=beta, norm_rate=0.25)
    config = marwil_config(options, trained.model_config())
    torch.manual_seed(0)
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: (env.single_observation_space, env.single_action_space)})
    module = learner.module[DEFAULT_MODULE_ID]
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    logits = module._forward({Columns.OBS: rows})[Columns.ACTION_DIST_INPUTS].detach()
    slates, targets = PlackettLuce(logits, 10).sample(), torch.randn(30) + 2
    values = module.compute_values({Columns.OBS: rows}).tolist()
    advantages = [target - value for target, value in zip(targets.tolist(), values, strict=True)]
    squares = sum(advantage**2 for advantage in advantages) / 30
    norm = (1.0 + 0.25 * (squares - 1.0)) ** 0.5
    expected = 0.5 * squares if beta else 0.0
    for row in range(30):
        likelihood, left = (
            0.0,
            set(range(40)) - set(torch.nonzero(env.layout.parts(rows).mask[row] == 0)[:, 0].tolist()),
        )
        for place in slates[row].tolist():
            likelihood += float(logits[row, place]) - float(logits[row, sorted(left)].logsumexp(0))
            left.remove(place)
        expected -= np.exp(beta * advantages[row] / norm) * likelihood / 30
    batch = {Columns.OBS: rows, Columns.ACTIONS: slates, Postprocessing.VALUE_TARGETS: targets}
    assert_allclose(learner.lean_loss(batch).item(), expected, rtol=1e-4)


def test_the_batch_holds_whole_slates_and_scaled_returns():
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    whole, first = np.array([True, True, False, True]), np.array([True, False, True, False])
    logged = LoggedRequests(rows, np.zeros((4, 1), np.int64), whole, np.array([1.0, 0.0, 2.0, 4.0]), first)
    batch, mean = marwil_batch(logged, gamma=0.5)
    returns = np.array([1.0, 0.0, 4.0, 4.0])
    assert_allclose(batch[Postprocessing.VALUE_TARGETS], (returns / returns.std())[whole], rtol=1e-6)
    assert_allclose(mean, (returns / returns.std())[whole].mean(), rtol=1e-6)
    assert_array_equal(batch[Columns.OBS], rows[whole])
    with pytest.raises(AgentError, match="nothing to imitate"):
        marwil_batch(replace(logged, whole=np.zeros(4, bool)), gamma=0.5)


# ---------------------------------------------------------------------- what the log alone gives
def chances(agent):
    """[R, 30] chance of each slate of two, in each request of the tiny world, by the agent's Plackett-Luce policy."""
    observation = tiny_observation()
    logits = torch.from_numpy(in_blocks(agent._network, agent.rows(observation)))
    slates = [torch.tensor(slate).expand(len(logits), 2) for slate in permutations(range(6), 2)]
    return np.stack([PlackettLuce(logits, 2).log_prob(slate).exp().numpy() for slate in slates], axis=1)


def test_cloning_recovers_the_chances_of_a_known_policy():
    options = replace(TINY, beta=0.0, behaviour=f"{OWN}:Tilted")
    agent = MARWILAgent(slate_size=2, options=options).fit(tiny_world().policy_log, tiny_training(6_000, 0))
    logits = LIKED[tiny_observation().candidates.items[0]]
    weights = np.exp(logits)
    expected = np.array(
        [
            weights[top] / weights.sum() * weights[below] / (weights.sum() - weights[top])
            for top, below in permutations(range(6), 2)
        ]
    )

    def distance(policy):
        return 0.5 * np.abs(chances(policy) - expected).sum(axis=1)

    assert distance(agent).mean() < 0.06 and distance(agent).max() < 0.12
    assert distance(agent.initial_policy()).mean() > 0.5


def weighed_exactly(plan, beta):
    """[6, 30] chances that MARWIL's loss is least at, where any slate was shown alike and only the next request counts.

    By Wang et al. (2018) the policy that was imitated times the mean of exp(beta A / c), with A the reward less the mean
    reward in the state, and c the root of the mean of A^2 over what the log holds.
    """
    nothing, mean = 1 - plan.click.sum(axis=2), plan.reward.mean(axis=1)
    moves = plan.survival * plan.next_state().mean(axis=1)
    visits = np.linalg.solve(np.eye(6) - moves.T, plan.start)
    gain, loss = plan.payoff - mean[:, None], -mean[:, None]
    squares = (plan.click * gain[:, None] ** 2).sum(axis=2) + nothing * loss**2
    norm = np.sqrt(visits @ squares.mean(axis=1) / visits.sum())
    weights = (plan.click * np.exp(beta * gain / norm)[:, None]).sum(axis=2) + nothing * np.exp(beta * loss / norm)
    return weights / weights.sum(axis=1, keepdims=True)


def test_weighing_by_advantages_beats_the_policy_that_left_the_log():
    """A bandit in each state: what each slate earns, and what MARWIL can make of any log, are known exactly."""
    plan = Plan.of()
    items = tiny_observation().candidates.items[0]
    slates = plan.number_of(items[np.array(list(permutations(range(6), 2)))])
    options = replace(TINY, gamma=0.0, beta=1.0, behaviour=f"{OWN}:Careless")
    agent = MARWILAgent(slate_size=2, options=options).fit(tiny_world().policy_log, tiny_training(6_000, 0))
    shown = chances(agent).reshape(-1, 6, 30)[0]  # to the first user in each state
    earned = (shown * plan.reward[:, slates]).sum(axis=1).mean()
    expected = (weighed_exactly(plan, 1.0) * plan.reward).sum(axis=1).mean()
    assert earned > 1.05 * plan.reward.mean()
    assert_allclose(earned, expected, rtol=0.03)


def test_a_file_of_events_gives_what_the_same_traffic_gives(small_world, tmp_path):
    env = make_env(small_world, 16)
    env.event_log, behaviour = EventLog(), Sampled()
    env.reset(seed=0)
    while len(env.event_log) < 160:
        env.step(behaviour.act(env.observation)[0])
    early = EventLog()
    early._tables.append(env.event_log.table.slice(0, 160))
    early.write(tmp_path / "events.parquet")
    options = replace(OPTIONS, fine_tune=False)
    own = MARWILAgent(options=options).fit(small_world.policy_log, training(small_world))
    read = MARWILAgent(options=replace(options, events=str(tmp_path / "events.parquet")))
    read.fit(small_world.policy_log, training(small_world))
    assert same(own.policy_, read.policy_) and not same(own.policy_, own.initial_)
    assert own.learning_curve_[:, 0].tolist() == [160] and read.learning_curve_[:, 0].tolist() == [0]
    with pytest.raises(ArtefactError, match=r"missing\.parquet"):
        MARWILAgent(options=replace(options, events=str(tmp_path / "missing.parquet"))).fit(
            small_world.policy_log, training(small_world)
        )


# ---------------------------------------------------------------------- PPO behind it
def test_ppo_goes_on_from_what_the_log_gave_within_the_budget(trained, small_world):
    spent = []
    still = MARWILAgent(options=replace(OPTIONS, learning_rate=1e-2, epochs=1)).fit(
        small_world.policy_log, training(small_world, report=spent.append)
    )
    alone = MARWILAgent(options=replace(OPTIONS, fine_tune=False)).fit(small_world.policy_log, training(small_world))
    all_logged = MARWILAgent(options=replace(OPTIONS, logged=999)).fit(
        small_world.policy_log, training(small_world, 160)
    )
    points = still.learning_curve_[:, 0].tolist()
    assert len(points) == 3 and points[0] == 160 and points[-1] == 480
    assert spent == sorted(spent) and spent[-1] == 480
    assert same(still.initial_, alone.initial_) and same(all_logged.policy_, alone.policy_)

    def apart(first, second):
        return sum(float(np.abs(first[name] - second[name]).sum()) for name in first)

    # two updates of PPO lie between them, and not the way from the untrained network
    assert 0 < apart(trained.policy_, alone.policy_) < apart(trained.policy_, alone.initial_)


def test_a_training_cut_short_goes_on(small_world, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    def cut(requests):
        if requests >= 320:
            raise Cut

    with pytest.raises(Cut):
        MARWILAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world, folder=tmp_path, report=cut))
    monkeypatch.setattr(LoggedRequests, "of", lambda *arguments: pytest.fail("the log was learnt from again"))
    spent = []
    agent = MARWILAgent(options=OPTIONS).fit(
        small_world.policy_log, training(small_world, folder=tmp_path, report=spent.append)
    )
    monkeypatch.undo()
    assert spent[-1] == 480 and agent.learning_curve_[[0, -1], 0].tolist() == [160, 480]
    whole = MARWILAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world))
    assert same(agent.initial_, whole.initial_)
    # what it goes on from goes by names that are deleted once the agent is saved; curves stay
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith("events.out.tfevents")]
    assert sorted(left) == ["checkpoint-000000000320", "checkpoint-of-log"] and len(list(tmp_path.iterdir())) > len(
        left
    )
    with pytest.raises(ArtefactError, match="of another training"):
        MARWILAgent(options=replace(OPTIONS, passes=3)).fit(
            small_world.policy_log, training(small_world, folder=tmp_path)
        )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_no_number_stops_the_training(small_world, observation):
    agent = MARWILAgent(options=replace(OPTIONS, learning_rate=1e38))
    with pytest.raises(TrainingStopped, match=r"marwil.*kept is the policy before training"):
        agent.fit(small_world.policy_log, training(small_world))
    assert same(agent.policy_, agent.initial_)
    checked_slates("marwil", agent.act(observation), observation, 10)


# ---------------------------------------------------------------------- the contract of an agent
def test_a_seed_gives_the_same_weights_to_the_bit(trained, small_world):
    again, other = (
        MARWILAgent(options=OPTIONS).fit(small_world.policy_log, training(small_world, seed=seed)).policy_
        for seed in (0, 1)
    )
    assert same(trained.policy_, again) and not same(trained.policy_, other)


def test_slates_are_valid_and_a_loaded_agent_acts_the_same(trained, small_world, observation, tmp_path):
    slates, _ = checked_slates("marwil", trained.act(observation), observation, 10)
    assert (slates != trained.initial_policy().act(observation)).any()
    trained.save(tmp_path / "agent.npz")
    loaded = MARWILAgent.load(tmp_path / "agent.npz", small_world.policy_log)
    assert_array_equal(loaded.act(observation), slates)
    assert_array_equal(loaded.act(observation.take(np.array([7]))), slates[[7]])
    assert_array_equal(loaded.initial_policy().act(observation), trained.initial_policy().act(observation))
    assert loaded.options == trained.options


def test_other_data_and_spoilt_files_are_refused(trained, observation, tmp_path):
    path = tmp_path / "agent.npz"
    trained.save(path)
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=151), seed=1)
    with pytest.raises(ArtefactError, match="another data set"):
        MARWILAgent.load(path, other)
    narrower = observation.to_dict() | {"user_features": np.zeros((len(observation), 1), np.float32)}
    with pytest.raises(AgentError, match="train"):
        trained.act(Observation.from_dict(narrower))
    arrays, configuration = load_arrays(path, "agent MARWILAgent")
    save_arrays(path, "agent MARWILAgent", {name: arrays[name] for name in list(arrays)[1:]}, configuration)
    with pytest.raises(ArtefactError):
        MARWILAgent.load(path)


@pytest.mark.parametrize("wrong", [{"beta": -0.1}, {"beta": np.nan}, {"logged": 0}, {"passes": 0}])
def test_settings_out_of_range_are_refused(small_world, wrong):
    with pytest.raises(ConfigurationError, match="beta must be at least 0, the others at least 1"):
        MARWILAgent(options=replace(OPTIONS, **wrong)).fit(small_world.policy_log, training(small_world))


@pytest.mark.parametrize("behaviour", ["oracle_myopic", "ppo", "nobody"])
def test_behaviours_that_look_behind_the_scenes_or_need_traffic_are_refused(small_world, behaviour):
    with pytest.raises(AgentError, match=behaviour):
        MARWILAgent(options=replace(OPTIONS, behaviour=behaviour)).fit(small_world.policy_log, training(small_world))
    with pytest.raises(AgentError, match="simulated traffic"):
        MARWILAgent().fit(small_world.policy_log)
