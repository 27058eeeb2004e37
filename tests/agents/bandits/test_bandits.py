"""Bandits: what they learn equals plain formulas row by row, they find a known reward, serve, go on learning and are saved."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.actions.ranker_scores import RankerScores
from agents.bandits import LinUCBAgent, ThompsonAgent, bandit
from agents.bandits.bandit import BanditAgent
from agents.bandits.belief import LinearBelief
from agents.bandits.features import BanditFeatures
from agents.bandits.linucb import LinUCBOptions
from agents.bandits.thompson import ThompsonOptions
from agents.base import Training, TrainingStopped, checked_slates
from agents.rankers import popularity
from agents.rl import checkpoints
from agents.summary import BOUND, PublicItems
from envs.candidate_source import SampledCandidates
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.measures import consumed_diversity
from envs.observation import Candidates, Observation
from envs.slate_env import SlateVectorEnv

KINDS = ((LinUCBAgent, LinUCBOptions), (ThompsonAgent, ThompsonOptions))
PLAIN = {"rankers": (), "num_envs": 32}
POPULARITY = f"{Path(popularity.__file__)}:Popularity"


def public(num_items=300, num_categories=6):
    random = np.random.default_rng(3)
    categories = (random.random((num_items, num_categories)) < 0.3).astype(np.float32)
    categories /= np.maximum(categories.sum(axis=1, keepdims=True), 1)
    return PublicItems(random.random(num_items).astype(np.float32) * 5, categories)


def features_of(observation):
    return BanditFeatures(public(), RankerScores(())).of(observation)


class LinearTraffic:
    """Requests drawn anew in each step; the item in the first slot is always consumed, and earns what is linear in its features.

    Every fourth step of the first user is a phantom. `order` shuffles who stands where in the batch.
    """

    def __init__(self, num_envs, observe, weights, noise=0.1, order=None):
        self.num_envs, self.observe, self.weights, self.noise = num_envs, observe, weights, noise
        self.order = np.arange(num_envs) if order is None else order
        self.steps, self.regret, self.observed, self.shown = 0, [], [], []

    def reset(self, seed=None):
        self._next()

    def step(self, slates):
        features = features_of(self.observation)
        worth = features @ self.weights
        first = np.take_along_axis(worth, slates[:, :1], axis=1)[:, 0]
        open_to = self.observation.candidates.mask == 1
        active = np.ones(self.num_envs, bool)
        active[np.flatnonzero(self.order == 0)] = self.steps % 4 != 3
        self.regret.append((np.where(open_to, worth, -np.inf).max(axis=1) - first)[active].mean())
        self.observed.append(self.observation)
        self.shown.append((slates, active))
        draws = np.random.default_rng(self.steps).standard_normal(self.num_envs)[self.order]
        items = np.take_along_axis(self.observation.candidates.items, slates, axis=1)
        info = {"active": active, "clicked_slot": np.zeros(self.num_envs, np.int64), "slate_items": items}
        self.reward = first + self.noise * draws
        self.steps += 1
        self._next()
        nobody = np.zeros(self.num_envs, bool)
        return self.observation.to_dict(), self.reward, nobody, nobody, info

    def _next(self):
        self.observation = self.observe(self.num_envs, 20, seed=self.steps).take(self.order)


@pytest.fixture
def trained(observe, monkeypatch):
    """Trains a bandit on `LinearTraffic`: trained(kind, options, ...) -> (agent, environment)."""

    def train(kind, options, requests=2_000, slate_size=1, weights=None, **traffic):
        agent = kind(slate_size=slate_size, options=options)
        agent._begin(BanditFeatures(public(), RankerScores(())), "")
        width = len(agent.features_.names())
        weights = np.random.default_rng(1).normal(0, 0.3, width) if weights is None else weights
        envs = []

        def make_env(num_envs, mode):
            assert mode == AutoresetMode.NEXT_STEP
            envs.append(LinearTraffic(num_envs, observe, weights, **traffic))
            return envs[-1]

        log = generate_log(SyntheticConfig(num_users=5, num_items=300, num_categories=6), seed=0)[0]
        monkeypatch.setattr(PublicItems, "from_log", classmethod(lambda cls, log: public()))
        agent.fit(log, Training(make_env=make_env, requests=requests, seed=0))
        return agent, envs[0]

    return train


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_linear_reward_is_found(trained, observe, kind, options):
    agent, env = trained(kind, options(**PLAIN))
    fresh = features_of(observe(50, 20, seed=10**6))
    shown = fresh[(fresh != 0).any(axis=2)]
    assert np.corrcoef(shown @ agent.belief_.mean(), shown @ env.weights)[0, 1] > 0.99
    assert np.abs(shown @ agent.belief_.mean() - shown @ env.weights).mean() < 0.1


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_regret_falls(trained, kind, options):
    _, env = trained(kind, options(**PLAIN))
    begin, end = np.mean(env.regret[:3]), np.mean(env.regret[-20:])
    assert end < 0.1 * begin


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_batch_is_learnt_as_its_rows_one_by_one(trained, kind, options):
    """The belief equals that of rank-one updates of an inverse (Sherman and Morrison 1950), request by request, slot by slot."""
    agent, env = trained(kind, options(**PLAIN), requests=500, slate_size=2, noise=0.0)
    width = len(agent.features_.names())
    inverse, earned, requests = np.eye(width), np.zeros(width), 0
    for observation, (slates, active) in zip(env.observed, env.shown, strict=True):
        features = features_of(observation).astype(np.float64)
        for row in np.flatnonzero(active):
            if requests == 500:
                break
            requests += 1
            for slot, place in enumerate(slates[row]):
                x = features[row, place]
                inverse -= np.outer(inverse @ x, x @ inverse) / (1 + x @ inverse @ x)
                if slot == 0:
                    earned += x * (x @ env.weights)
    assert requests == 500
    assert_allclose(agent.belief_.earned, earned, rtol=1e-5, atol=1e-5)
    assert_allclose(np.linalg.inv(agent.belief_.precision), inverse, rtol=1e-6, atol=1e-9)
    assert_allclose(agent.belief_.root() @ agent.belief_.root().T, inverse, rtol=1e-6, atol=1e-9)


def test_scores_are_those_of_the_papers(observe):
    random = np.random.default_rng(0)
    features = features_of(observe(4, 9))
    rows, width = random.normal(size=(40, features.shape[2])), features.shape[2]
    belief = LinearBelief.blank(width, 2.0)
    belief.add(rows, random.normal(size=40))
    noise = random.normal(size=(4, width))
    inverse = np.linalg.inv(2 * np.eye(width) + rows.T @ rows)
    upper = LinUCBAgent(options=LinUCBOptions(alpha=0.7)).explored(features, belief.mean(), belief.root(), noise)
    drawn = ThompsonAgent(options=ThompsonOptions(scale=0.7)).explored(features, belief.mean(), belief.root(), noise)
    for n in range(4):
        weights = inverse @ belief.earned
        for c in range(9):
            x = features[n, c].astype(np.float64)
            assert_allclose(upper[n, c], x @ weights + 0.7 * np.sqrt(x @ inverse @ x), rtol=1e-6, atol=1e-9)
            assert_allclose(drawn[n, c], x @ (weights + 0.7 * belief.root() @ noise[n]), rtol=1e-6, atol=1e-9)
    draws = ThompsonAgent(options=ThompsonOptions(scale=0.7)).explored(
        np.repeat(features[:1, :1], 40_000, axis=0), belief.mean(), belief.root(), random.normal(size=(40_000, width))
    )
    x = features[0, 0].astype(np.float64)
    assert_allclose(draws.std(), 0.7 * np.sqrt(x @ inverse @ x), rtol=0.02)


def test_who_stands_where_in_a_batch_does_not_matter(trained):
    plain, env = trained(LinUCBAgent, LinUCBOptions(**PLAIN), requests=512 - 4)
    order = np.random.default_rng(5).permutation(32)
    shuffled, other = trained(LinUCBAgent, LinUCBOptions(**PLAIN), requests=512 - 4, order=order)
    assert len(env.shown) == len(other.shown) == 16
    for (slates, _), (moved, _) in zip(env.shown, other.shown, strict=True):
        assert_array_equal(slates[order], moved)
    assert_allclose(shuffled.belief_.mean(), plain.belief_.mean(), rtol=1e-6, atol=1e-8)


def test_the_budget_is_kept_to_the_request_and_resets_are_not_learnt_from(trained):
    agent, env = trained(LinUCBAgent, LinUCBOptions(**PLAIN, iteration=100), requests=333, slate_size=2)
    assert agent.belief_.precision[0, 0] - agent.options.ridge == 2 * 333
    assert sum(active.sum() for _, active in env.shown) >= 333 > sum(active.sum() for _, active in env.shown[:-1])
    assert agent.learning_curve_[-1, 0] == 333 and (np.diff(agent.learning_curve_[:, 0]) > 0).all()


def test_features_have_names_are_bounded_and_hold_the_rewards_parts(observe):
    observation = observe(30, 12)
    described, features = features_of(observation), BanditFeatures(public(), RankerScores(()))
    assert described.shape == (30, 12, len(features.names())) and len(set(features.names())) == len(features.names())
    assert (np.abs(described) <= BOUND).all()
    assert (described[observation.candidates.mask == 0] == 0).all()
    items = public()
    lengths = np.maximum(np.linalg.norm(items.categories, axis=1, keepdims=True), 1e-12)
    observation = replace(
        observation,
        candidates=Candidates(
            observation.candidates.items,
            np.ones_like(observation.candidates.mask),
            np.concatenate(
                [observation.candidates.features[:, :, :2], items.categories[observation.candidates.items]], axis=2
            ),
        ),
    )
    described = features.of(observation)
    for column in range(12):
        expected = consumed_diversity(
            items.categories / lengths, observation.candidates.items[:, column], observation.history
        )
        assert_allclose(features.diversity(described)[:, column], expected, atol=1e-6)
    assert_array_equal(features.freshness(described), observation.candidates.age < 14)


def test_rows_do_not_depend_on_each_other_nor_on_the_order_of_the_candidates(observe):
    observation = observe(20, 15)
    described = features_of(observation)
    assert_array_equal(features_of(observation.take(np.array([7])))[0], described[7])
    order = np.random.default_rng(0).permutation(15)
    arrays = observation.to_dict()
    for name in ("candidate_items", "candidate_mask", "candidate_features"):
        arrays[name] = arrays[name][:, order]
    assert_allclose(features_of(Observation.from_dict(arrays)), described[:, order], atol=1e-6)


# ---------------------------------------------------------------------- in the environment
@pytest.fixture(scope="module")
def training(world):
    def make_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, slate_size=4, num_candidates=30, autoreset_mode=mode)

    return Training(make_env=make_env, requests=600, seed=2)


@pytest.fixture(scope="module")
def linucb(world, training) -> BanditAgent:
    return LinUCBAgent(slate_size=4, options=LinUCBOptions(rankers=(POPULARITY,), num_envs=64)).fit(
        world.policy_log, training
    )


@pytest.fixture
def served(world):
    env = SlateVectorEnv(50, world=world, slate_size=4, num_candidates=30, autoreset_mode="Disabled", seed=9)
    env.reset()
    return env


class Cut(Exception):
    """What cuts a training short."""


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_training_cut_short_goes_on_to_the_bit(world, training, tmp_path, monkeypatch, kind, options):
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)  # write all that can be written

    def cut(requests):
        if requests >= 350:
            raise Cut

    def fitted(**changed):
        agent = kind(slate_size=4, options=options(rankers=(), num_envs=64, iteration=100))
        return agent.fit(world.policy_log, replace(training, **changed))

    whole, spent = fitted(), []
    with pytest.raises(Cut):
        fitted(folder=tmp_path, report=cut)
    (kept,) = tmp_path.glob("checkpoint-*")
    before = int(kept.name.rpartition("-")[2])
    assert 100 <= before < 400
    resumed = fitted(folder=tmp_path, report=spent.append)
    assert before in spent and spent[-1] == 600
    done = fitted(folder=tmp_path)  # is only read
    for other in (resumed, done):
        assert_array_equal(other.belief_.precision, whole.belief_.precision)
        assert_array_equal(other.belief_.earned, whole.belief_.earned)
        assert_array_equal(other.learning_curve_, whole.learning_curve_)
    assert [path.name for path in tmp_path.glob("*checkpoint-*")] == ["checkpoint-000000000600"]
    with pytest.raises(ArtefactError, match=r"another training \(seed differ\)"):
        fitted(folder=tmp_path, seed=3)
    next(tmp_path.glob("checkpoint-*/learner/learner.pkl")).write_bytes(b"nonsense")
    with pytest.raises(ArtefactError, match="is damaged"):
        fitted(folder=tmp_path)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_seeds_reproduce(world, training, served, kind, options):
    first, second, other = (
        kind(slate_size=4, options=options(rankers=(), num_envs=64)).fit(world.policy_log, lessons)
        for lessons in (training, training, replace(training, seed=3))
    )
    assert_array_equal(first.belief_.precision, second.belief_.precision)
    assert_array_equal(first.learning_curve_, second.learning_curve_)
    assert (first.belief_.precision != other.belief_.precision).any()
    assert_array_equal(first.act(served.observation)[0], second.act(served.observation)[0])


def test_slates_are_certain_and_a_user_does_not_depend_on_the_batch(linucb, served):
    slates, propensities = checked_slates("linucb", linucb.act(served.observation), served.observation, 4)
    assert (propensities == 1).all()
    alone, _ = linucb.act(served.observation.take(np.array([31])))
    assert_array_equal(alone[0], slates[31])


def test_thompson_draws_when_it_is_told_to_and_then_knows_no_propensity(world, training, served):
    options = ThompsonOptions(rankers=(), num_envs=64, explores_when_serving=True, scale=3.0)
    agent = ThompsonAgent(slate_size=4, options=options).fit(world.policy_log, training)
    drawn = agent.act(served.observation)
    slates, propensities = checked_slates("thompson", drawn, served.observation, 4)
    assert np.isnan(propensities).all()
    assert_array_equal(agent.act(served.observation), slates)
    assert_array_equal(agent.act(served.observation.take(np.array([3]))), slates[[3]])
    agent.options = replace(options, explores_when_serving=False)
    assert (agent.act(served.observation)[0] != slates).any()


def test_it_goes_on_learning_from_what_it_showed(world, training, served):
    """Events of its own requests, in any number of pieces, teach what training on the same requests would."""
    agent = LinUCBAgent(slate_size=4, options=LinUCBOptions(rankers=(), num_envs=64)).fit(world.policy_log, training)
    expected, served.event_log = LinearBelief(agent.belief_.precision, agent.belief_.earned), EventLog()
    number = 0
    for step in range(6):
        observation = served.observation
        slates, _ = agent.act(observation)
        features = agent.features_.of(observation)
        _, reward, _, _, info = served.step(slates)
        rows = np.flatnonzero(info["active"])
        shown = np.take_along_axis(features, slates[:, :, None], axis=1)[rows]
        clicked = info["clicked_slot"][rows, None] == np.arange(4)
        filled = info["slate_items"][rows] >= 0
        expected.add(shown[filled], (reward[rows, None] * clicked)[filled])
        number += len(rows)
        if step == 2:
            agent.update(served.event_log.to_log(world.policy_log, world.reference_time))
            served.event_log.clear()
    agent.update(served.event_log.to_log(world.policy_log, world.reference_time))
    assert number > 150
    assert_allclose(agent.belief_.precision, expected.precision, rtol=1e-9, atol=1e-6)
    assert_allclose(agent.belief_.earned, expected.earned, rtol=1e-4, atol=1e-3)
    again = agent.belief_.precision
    agent.update(served.event_log.to_log(world.policy_log, world.reference_time))
    assert_array_equal(agent.belief_.precision, again, err_msg="what is learnt once is not learnt again")


def test_events_of_other_policies_are_left_aside(world, linucb, served):
    served.event_log = EventLog()
    linucb.act(served.observation)
    linucb._shown.clear()
    before = linucb.belief_.precision
    served.step(np.argsort(np.random.default_rng(0).random((50, 30)), axis=1)[:, :4])
    linucb.act(served.observation)
    linucb.update(served.event_log.to_log(world.policy_log, world.reference_time))
    assert_array_equal(linucb.belief_.precision, before)


def test_no_more_is_remembered_than_was_said(world, training, served):
    options = LinUCBOptions(rankers=(), num_envs=64, remembered=120)
    agent = LinUCBAgent(slate_size=4, options=options).fit(world.policy_log, training)
    for _ in range(5):
        agent.act(served.observation)
    assert 120 <= sum(len(part.user) for part in agent._shown) <= 150


def test_it_is_saved_and_loaded_with_its_rankers(world, linucb, served, tmp_path):
    linucb.save(tmp_path / "agent.npz")
    loaded = LinUCBAgent.load(tmp_path / "agent.npz", world.policy_log)
    assert_array_equal(loaded.act(served.observation)[0], linucb.act(served.observation)[0])
    assert loaded.options == linucb.options and loaded.seed == linucb.seed
    assert_array_equal(loaded.learning_curve_, linucb.learning_curve_)


def test_other_data_sets_agents_and_damaged_files_are_refused(linucb, tmp_path):
    path = tmp_path / "agent.npz"
    linucb.save(path)
    other = generate_log(SyntheticConfig(num_users=5, num_items=40), seed=1)[0]
    with pytest.raises(ArtefactError, match="another data set"):
        LinUCBAgent.load(path, other)
    with pytest.raises(ArtefactError, match="holds a 'agent LinUCBAgent'"):
        ThompsonAgent.load(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ArtefactError, match="damaged"):
        LinUCBAgent.load(path)
    other = copy.copy(linucb)
    other.belief_ = LinearBelief.blank(3, 1.0)
    other.save(path)
    with pytest.raises(ArtefactError, match="do not fit together"):
        LinUCBAgent.load(path)


def test_requests_of_another_data_set_are_refused(linucb):
    world_of_other = SlateVectorEnv(
        3,
        log=generate_log(SyntheticConfig(num_users=5, num_items=40, num_categories=5), seed=1)[0],
        user_model=generate_log(SyntheticConfig(num_users=5, num_items=40, num_categories=5), seed=1)[1],
        candidate_source=SampledCandidates(40),
        slate_size=4,
        num_candidates=20,
    )
    world_of_other.reset()
    with pytest.raises(AgentError, match="5 categories"):
        linucb.act(world_of_other.observation)


def test_wrong_use_is_told(world, training, served, tmp_path):
    agent = LinUCBAgent(slate_size=4, options=LinUCBOptions(rankers=()))
    with pytest.raises(AgentError, match="learns from simulated traffic"):
        agent.fit(world.policy_log)
    with pytest.raises(ConfigurationError, match="at least 1 request"):
        agent.fit(world.policy_log, replace(training, requests=0))
    with pytest.raises(AgentError, match="not trained"):
        agent.act(served.observation)
    with pytest.raises(AgentError, match="not trained"):
        agent.save(tmp_path / "agent.npz")
    with pytest.raises(ConfigurationError, match="there is no ranker 'sasrek'"):
        LinUCBAgent(options=LinUCBOptions(rankers=("sasrek",))).fit(world.policy_log, training)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_rewards_that_are_not_finite_stop_the_training(world, training, tmp_path, monkeypatch, kind, options):
    """Kept are the belief and the checkpoint of before, and what the checkpoint goes on to is well in a world that is."""
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)  # write all that can be written

    step, taken = SlateVectorEnv.step, []

    def spoilt(env, actions):
        observation, reward, *rest = step(env, actions)
        taken.append(1)
        return observation, reward * (np.nan if len(taken) > 4 else 1), *rest

    agent = kind(slate_size=4, options=options(rankers=(), num_envs=64, iteration=64))
    with monkeypatch.context() as patched, pytest.raises(TrainingStopped, match="not finite"):
        patched.setattr(SlateVectorEnv, "step", spoilt)
        agent.fit(world.policy_log, replace(training, folder=tmp_path))
    assert np.isfinite(agent.belief_.precision).all() and np.isfinite(agent.belief_.earned).all()
    assert agent.belief_.earned.any()
    assert len(agent.learning_curve_) and np.isfinite(agent.learning_curve_).all()
    agent.save(tmp_path / "agent.npz")
    (kept,) = tmp_path.glob("checkpoint-*")
    assert int(kept.name.rpartition("-")[2]) == agent.learning_curve_[-1, 0]
    agent.fit(world.policy_log, replace(training, folder=tmp_path))
    assert agent.learning_curve_[-1, 0] == training.requests and np.isfinite(agent.belief_.earned).all()


def test_curves_are_written_while_it_learns(world, training, tmp_path, monkeypatch):
    """Under the name that other agents' have; a training that goes on writes the points that are new."""
    written = []

    class Writer(bandit.SummaryWriter):
        def add_scalar(self, tag, value, step):
            written.append((tag, step, value))

    def cut(requests):
        assert written[-1][1] == requests
        if requests > 300:
            raise Cut

    monkeypatch.setattr(bandit, "SummaryWriter", Writer)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)
    options = LinUCBOptions(rankers=(), num_envs=64, iteration=64)
    with pytest.raises(Cut):
        LinUCBAgent(slate_size=4, options=options).fit(world.policy_log, replace(training, folder=tmp_path, report=cut))
    cut_at = len(written)
    agent = LinUCBAgent(slate_size=4, options=options).fit(world.policy_log, replace(training, folder=tmp_path))
    # the point at which it was cut came after the last checkpoint
    assert written[cut_at] == written[cut_at - 1]
    assert {tag for tag, _, _ in written} == {"reward"}
    assert_array_equal([point[1:] for point in written[: cut_at - 1] + written[cut_at:]], agent.learning_curve_)
