"""DRN: its network, duels and targets against plain formulas, and the agent that updates itself, on the real environment."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.actions import SlateAction
from agents.base import Training, checked_slates
from agents.rl import checkpoints
from agents.rl.networks import arrays_of
from agents.rl.scorer import ItemTable
from agents.rl.served import TrainingStopped
from agents.updates.drn import DRNAgent, DRNOptions
from agents.updates.drn.learner import Learner
from agents.updates.drn.lesson import Lesson
from agents.updates.drn.memory import NOTHING
from agents.updates.drn.network import DRNNetwork
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from evaluation.tiny import Plan, tiny_training, tiny_world

SLOTS, CANDIDATES = 3, 12
OPTIONS = DRNOptions(
    rankers=(),
    num_envs=24,
    width=8,
    heads=2,
    embedding=4,
    major_every=60,
    gradient_steps=2,
    minibatch=32,
    learning_rate=1e-2,
    remembered=256,
    iteration=100,
    explores_when_serving=True,
    alpha=0.5,
    eta=0.5,
)
REQUESTS = 260


def slates_of(world, users=24, mode=AutoresetMode.NEXT_STEP, seed=0):
    return SlateVectorEnv(
        users, world=world, slate_size=SLOTS, num_candidates=CANDIDATES, history_size=5, autoreset_mode=mode, seed=seed
    )


@pytest.fixture(scope="module")
def training(world):
    return Training(make_env=lambda users, mode: slates_of(world, users, mode), requests=REQUESTS, seed=2)


@pytest.fixture(scope="module")
def table(world):
    return ItemTable.from_log(world.policy_log, OPTIONS.embedding)


@pytest.fixture
def lesson(world, table):
    """Traffic and a learner whose weights are all away from zero, before the first request."""
    env = SlateAction(slates_of(world))
    network = shaken(DRNNetwork(env.layout, table, OPTIONS))
    return Lesson(Learner(network, OPTIONS, SLOTS, seed=1), env, env.reset(seed=0)[0])


def shaken(network):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return network


def weights_of(learner):
    return torch.nn.utils.parameters_to_vector(learner.network.parameters()).detach().clone()


# ---------------------------------------------------------------------- the network
def test_permuting_candidates_permutes_values(lesson):
    network, rows = lesson.learner.network, torch.from_numpy(lesson.rows)
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(0))
    moved = rows.clone()
    before, after = lesson.env.layout.parts(rows), lesson.env.layout.parts(moved)
    for name in ("items", "mask", "columns"):
        getattr(after, name)[:] = getattr(before, name)[:, order]
    torch.testing.assert_close(network(moved), network(rows)[:, order], rtol=1e-4, atol=1e-4)


def test_the_value_of_a_state_is_the_same_for_all_candidates_and_does_not_see_them(lesson):
    network, rows = lesson.learner.network, torch.from_numpy(lesson.rows)
    state = network(rows) - network.advantage(rows).squeeze(2)
    torch.testing.assert_close(state, state[:, :1].expand_as(state), rtol=1e-4, atol=1e-4)
    assert state[:, 0].std() > 0.01
    other = rows.clone()
    lesson.env.layout.parts(other).columns[:] += torch.randn(CANDIDATES, 2)
    found = network(other) - network.advantage(other).squeeze(2)
    torch.testing.assert_close(found, state, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- minor updates
def test_a_rival_is_near_and_drawn_anew_for_each_duel(lesson):
    learner = lesson.learner
    own, first = arrays_of(learner.network), arrays_of(learner.rival())
    for name, weights in own.items():
        share = (first[name] - weights) / weights
        assert (np.abs(share) <= OPTIONS.alpha + 1e-4).all(), name
        assert (share == 0).all() if name.startswith("value") else np.abs(share).max() > 0.05
    again = Learner(learner.network, OPTIONS, SLOTS, seed=1)
    other = Learner(learner.network, OPTIONS, SLOTS, seed=2)
    name = "advantage.column_weights"
    assert_array_equal(arrays_of(again.rival())[name], first[name])
    assert (arrays_of(other.rival())[name] != first[name]).any()
    learner.decide(0.0)
    assert (arrays_of(learner.rival())[name] != first[name]).any()


def test_weights_go_towards_a_rival_that_won_and_stay_otherwise(lesson):
    learner = lesson.learner
    for votes in (0.0, -1.0):
        before = weights_of(learner)
        learner.decide(votes)
        assert (weights_of(learner) == before).all()
    before = weights_of(learner)
    rival = torch.nn.utils.parameters_to_vector(learner.rival().parameters()).detach().clone()
    learner.decide(0.1)
    torch.testing.assert_close(weights_of(learner), before + OPTIONS.eta * (rival - before))
    assert (learner.duels, learner.won) == (3, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_who_won_is_told_by_what_earned(lesson, sign):
    """One request's clicks on what the rival is likelier to have brought move the weights, clicks on the rest do not."""
    learner = lesson.learner
    before = weights_of(learner)
    _, numbers = learner.serve(lesson.rows, np.arange(24), np.random.default_rng(0).random((24, SLOTS, 2)))
    credits = learner.memory.credits[numbers % OPTIONS.remembered]
    assert (credits > 0).any() and (credits < 0).any()
    learner.answer(numbers, (sign * credits > 0).astype(np.float32), -np.inf)
    assert bool((weights_of(learner) != before).any()) == (sign > 0)
    # late answers to a duel that is over, and slates without a rival, decide nothing
    _, late = learner.serve(lesson.rows, np.arange(24), np.random.default_rng(1).random((24, SLOTS, 2)))
    learner.decide(0.0)
    _, plain = learner.serve(lesson.rows[:5], np.arange(5), None)
    before, duels = weights_of(learner), learner.duels
    numbers = np.append(late[:5], plain)
    learner.answer(numbers, np.abs(learner.memory.credits[numbers % OPTIONS.remembered]), -np.inf)
    assert (weights_of(learner) == before).all() and learner.duels == duels


# ---------------------------------------------------------------------- major updates
def test_targets_are_those_of_a_plain_loop(lesson):
    learner, layout = lesson.learner, lesson.env.layout
    for _ in range(8):
        lesson.step(most=24)
    shaken(learner._target)
    memory = learner.memory
    numbers = memory.learnable(-np.inf)[-60:]
    memory.following[numbers[:5] % memory.size] = NOTHING
    following = memory.following[numbers % memory.size]
    mask = layout.parts(memory.rows).mask
    mask[following[5:8] % memory.size] = 0
    mask[following[8:20] % memory.size, ::2] = 0
    expected = np.zeros((len(numbers), SLOTS), np.float32)
    for row, number in enumerate(numbers % memory.size):
        future, active = 0.0, 0.0
        if memory.following[number] != NOTHING:
            active = memory.active[number]
            after = torch.from_numpy(memory.rows[memory.following[number] % memory.size][None])
            free = [place for place in range(CANDIDATES) if layout.parts(after).mask[0, place] == 1]
            with torch.no_grad():
                online, judged = learner.network(after)[0], learner._target(after)[0]
            future = float(judged[max(free, key=lambda place: float(online[place]))]) if free else 0.0
        for slot in range(SLOTS):
            expected[row, slot] = memory.earned[number, slot] + OPTIONS.beta * active + OPTIONS.gamma * future
    drawn = memory.take(numbers)
    assert_allclose(learner.targets(drawn), expected, rtol=1e-4, atol=1e-5)
    assert (memory.earned > 0).any() and len(np.unique(drawn.active)) > 3
    values = learner.network(torch.from_numpy(drawn.rows)).detach().numpy()
    error = np.abs(np.take_along_axis(values, drawn.places, axis=1) - expected)[drawn.shown]
    assert_allclose(learner.loss_of(drawn).item(), np.where(error < 1, error**2 / 2, error - 0.5).mean(), rtol=1e-4)


def test_traffic_is_remembered_life_by_life(lesson, world):
    """What follows on a request is the same user's next one, the end where it left for good, and never another life's."""
    memory, seen = lesson.learner.memory, []
    lives = replace(world, config=replace(world.config, days=2))
    lesson.env = SlateAction(slates_of(lives))
    lesson.rows = lesson.env.reset(seed=3)[0]
    show = lesson.env.step

    def spied(slates):
        rows, reward, terminated, truncated, info = show(slates)
        seen.append((info["active"], terminated, truncated, reward, info["slate_items"].copy()))
        return rows, reward, terminated, truncated, info

    lesson.env.step = spied
    for _ in range(10):
        lesson.step(most=24)
        assert_array_equal(np.isnan(lesson.learner.activeness.days), ~seen[-1][0])
    assert memory.served == 240 < memory.size
    ends = cuts = 0
    for step, (active, terminated, truncated, reward, items) in enumerate(seen):
        for slot in range(24):
            number = step * 24 + slot
            assert memory.answered[number] == active[slot]
            if not active[slot]:
                continue
            assert_allclose(memory.earned[number].sum(), reward[slot], rtol=1e-6)
            assert_array_equal(memory.items[number], items[slot])
            ends, cuts = ends + bool(terminated[slot]), cuts + bool(truncated[slot])
            following = NOTHING if terminated[slot] else number + 24
            assert memory.following[number] == (following if step < 9 or terminated[slot] else -1)
    assert ends and cuts
    phantoms = np.flatnonzero(~memory.answered[:240])
    assert len(phantoms) and not np.isin(phantoms, memory.learnable(np.inf)).any()


# ---------------------------------------------------------------------- the agent
@pytest.fixture(scope="module")
def fitted(world, training):
    return DRNAgent(slate_size=SLOTS, options=OPTIONS).fit(world.policy_log, training)


@pytest.fixture
def agent(fitted):
    return copy.deepcopy(fitted)


@pytest.fixture
def live(world):
    env = slates_of(world, 40, AutoresetMode.DISABLED, seed=9)
    env.reset()
    env.event_log = EventLog()
    return env


def serve(agent, env, steps):
    """Events of some requests of everybody, and the rewards of each."""
    rewards = []
    for _ in range(steps):
        _, reward, _, _, info = env.step(agent.act(env.observation))
        rewards.append((reward[info["active"]], info["clicked_slot"][info["active"]]))
    events = env.event_log.to_log(env.world.policy_log, env.world.reference_time)
    env.event_log.clear()
    return events, rewards


def same(first, second):
    one, other = first._learner.arrays(), second._learner.arrays()
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert_array_equal(array, other[name], err_msg=name)
    for name, array in first.policy_.items():
        assert_array_equal(array, second.policy_[name], err_msg=name)


def test_it_trains_within_its_budget(agent, live):
    learner = agent._learner
    assert agent.learning_curve_[-1, 0] == REQUESTS and (np.diff(agent.learning_curve_[:, 0]) > 0).all()
    assert learner.duels >= 10 and learner.won > 0 and learner.majors == REQUESTS // OPTIONS.major_every
    slates, _ = checked_slates("drn", agent.act(live.observation), live.observation, SLOTS)
    plain = copy.deepcopy(agent)
    plain.options = replace(OPTIONS, explores_when_serving=False)
    best, initial = plain.act(live.observation), plain.initial_policy()
    assert (slates != best).any() and (best != initial.act(live.observation)).any()
    order = np.argsort(
        -np.where(live.observation.candidates.mask == 1, live.observation.candidates.score, -9), axis=1, kind="stable"
    )
    assert_array_equal(initial.act(live.observation), order[:, :SLOTS])
    assert initial._learner.memory.served == 80 and plain._learner.memory.served == learner.memory.served + 40
    assert agent.act(live.observation.take(np.zeros(0, np.int64))).shape == (0, SLOTS)


def test_a_user_does_not_depend_on_the_batch(agent, live):
    slates = agent.act(live.observation)
    assert_array_equal(agent.act(live.observation.take(np.array([31])))[0], slates[31])
    assert_array_equal(agent.act(live.observation), slates)


class Cut(Exception):
    """What cuts a training short."""


def test_seeds_reproduce_and_a_training_cut_short_goes_on_to_the_bit(world, training, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)

    def cut(requests):
        if requests >= 200:
            raise Cut

    def again(**changed):
        return DRNAgent(slate_size=SLOTS, options=OPTIONS).fit(world.policy_log, replace(training, **changed))

    with pytest.raises(Cut):
        again(folder=tmp_path, report=cut)
    (kept,) = tmp_path.glob("checkpoint-*")
    assert 100 <= int(kept.name.rpartition("-")[2]) < 200
    resumed = again(folder=tmp_path)
    assert_array_equal(resumed.learning_curve_, fitted.learning_curve_)
    assert_array_equal(resumed.initial_["value.0.weight"], fitted.initial_["value.0.weight"])
    for name, weights in fitted.policy_.items():
        assert_array_equal(resumed.policy_[name], weights, err_msg=name)
    with pytest.raises(ArtefactError, match=r"another training \(seed differ\)"):
        again(folder=tmp_path, seed=3)
    assert (again(seed=3).policy_["value.0.weight"] != fitted.policy_["value.0.weight"]).any()


def test_events_are_taken_in_as_they_were_rewarded(agent, live):
    learner, before = agent._learner, weights_of(agent._learner)
    first = learner.memory.served
    events, rewards = serve(agent, live, 4)
    agent.update(events)
    memory, step = learner.memory, 0
    for reward, clicked in rewards:
        at = (
            first + step + np.flatnonzero(memory.answered[np.arange(first + step, first + step + 40) % memory.size])
        ) % memory.size
        assert len(at) == len(reward)
        assert_allclose(memory.earned[at].sum(axis=1), reward, atol=1e-5)
        assert_array_equal(memory.earned[at].argmax(axis=1)[clicked >= 0], clicked[clicked >= 0])
        step += 40
    assert sum(len(reward) for reward, _ in rewards) > 100
    assert (weights_of(learner) != before).any()
    assert_array_equal(agent.policy_["value.0.weight"], arrays_of(learner.network)["value.0.weight"])
    after = weights_of(learner)
    agent.update(events)
    assert (weights_of(learner) == after).all(), "what is learnt once is not learnt again"


def test_without_events_or_with_those_of_others_nothing_happens(agent, live, world):
    before, duels = weights_of(agent._learner), agent._learner.duels
    agent.act(live.observation)
    agent.update(world.policy_log.where(np.zeros(len(world.policy_log), bool)))
    agent.update(world.policy_log)
    other = DRNAgent(slate_size=SLOTS, options=OPTIONS)
    live.step(np.argsort(np.random.default_rng(0).random((40, CANDIDATES)), axis=1)[:, :SLOTS])
    agent.update(live.event_log.to_log(world.policy_log, world.reference_time))
    assert (weights_of(agent._learner) == before).all() and agent._learner.duels == duels
    with pytest.raises(AgentError, match="not trained"):
        other.update(world.policy_log)


def test_who_never_comes_back_is_learnt_to_be_gone(agent, live):
    learner = agent._learner
    learner.memory.answered[:] = False
    events, _ = serve(agent, live, 1)
    agent.update(events)
    days = learner.memory.days[np.flatnonzero(learner.memory.answered)]
    assert not len(learner.memory.learnable(days.min() - 1))
    assert len(learner.memory.learnable(days.max())) == len(days) > 20
    assert not learner.memory.take(learner.memory.learnable(days.max())).goes_on.any()


def test_a_loaded_agent_goes_on_as_if_it_had_not_been_saved(agent, live, world, tmp_path):
    events, _ = serve(agent, live, 2)
    agent.update(events)
    agent.act(live.observation)
    agent.save(tmp_path / "drn.npz")
    loaded = DRNAgent.load(tmp_path / "drn.npz", world.policy_log)
    assert loaded.options == OPTIONS and loaded.seed == agent.seed
    same(loaded, agent)
    both = []
    for each in (agent, loaded):
        env = copy.deepcopy(live)
        events, _ = serve(each, env, 3)
        each.update(events)
        both.append(each.act(env.observation))
    same(loaded, agent)
    assert_array_equal(*both)
    assert agent._learner.majors > OPTIONS.gradient_steps


def test_other_data_sets_and_damaged_files_are_refused(agent, world, tmp_path):
    path = tmp_path / "drn.npz"
    agent.save(path)
    other = generate_log(SyntheticConfig(num_users=5, num_items=40), seed=1)[0]
    with pytest.raises(ArtefactError, match="another data set"):
        DRNAgent.load(path, other)
    arrays, configuration = load_arrays(path, "agent DRNAgent")
    spoilt = {
        "learner.memory.rows": arrays["learner.memory.rows"][:, 1:],
        "learner.activeness.days": np.zeros(3),
        "learner.adam.0.exp_avg": np.zeros(3, np.float32),
        "learner.counters": np.zeros(2, np.int64),
    }
    for name, array in spoilt.items():
        save_arrays(path, "agent DRNAgent", {**arrays, name: array}, configuration)
        with pytest.raises(ArtefactError, match="is not a whole 'drn' agent"):
            DRNAgent.load(path)
    save_arrays(
        path, "agent DRNAgent", {name: array for name, array in arrays.items() if "served" not in name}, configuration
    )
    with pytest.raises(ArtefactError, match="is not a whole 'drn' agent"):
        DRNAgent.load(path)


def test_wrong_use_is_told(world, training, live):
    with pytest.raises(AgentError, match="learns from simulated traffic"):
        DRNAgent(slate_size=SLOTS, options=OPTIONS).fit(world.policy_log)
    with pytest.raises(AgentError, match="fills slates of 4"):
        DRNAgent(slate_size=4, options=OPTIONS).fit(world.policy_log, training)
    for wrong in ({"alpha": 1.5}, {"beta": -1.0}, {"remembered": 10}, {"minibatch": 0}, {"hazard_per_day": np.nan}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))} is"):
            replace(OPTIONS, **wrong)


def test_what_is_not_finite_stops_it_and_what_was_before_is_kept(agent, world, training, live):
    def make_env(users, mode):
        env = training.make_env(users, mode)
        step = env.step

        def spoilt(actions):
            observation, reward, *rest = step(actions)
            spoilt.steps += 1
            return observation, reward * (np.nan if spoilt.steps > 6 else 1), *rest

        spoilt.steps = 0
        env.step = spoilt
        return env

    stopped = DRNAgent(slate_size=SLOTS, options=OPTIONS)
    with pytest.raises(TrainingStopped, match="a reward is not finite after"):
        stopped.fit(world.policy_log, replace(training, make_env=make_env))
    assert all(np.isfinite(weights).all() for weights in stopped.policy_.values()) and len(stopped.learning_curve_) == 1
    agent._learner.optimizer.param_groups[0]["lr"] = float("inf")
    before = agent.policy_
    events, _ = serve(agent, live, 3)
    with pytest.raises(AgentError, match="could not take in these events"):
        agent.update(events)
    assert agent.policy_ is before
    assert np.isfinite(agent.outputs(live.observation)).all()


def of_item_values(plan, gamma, steepness):
    """Greedy policy of the exact values that DRN's targets lead to: of items, averaged over the slates of its own interleaving."""
    states, count = plan.reward.shape[0], plan.slates.max() + 1
    values, ranks = np.zeros((states, count)), np.arange(1, count + 1.0) ** -steepness
    members = (plan.slates[:, :, None] == np.arange(count)).any(axis=1)
    own = plan.click * plan.payoff[:, None]
    for _ in range(300):
        following = gamma * plan.survival * plan.next_state() @ values.max(axis=1)
        chances = np.zeros_like(values)
        np.put_along_axis(chances, np.argsort(-values, axis=1, kind="stable"), ranks / ranks.sum(), axis=1)
        first, second = (chances[:, plan.slates[:, slot]] for slot in (0, 1))
        shown = (first * second / (1 - first))[:, :, None] * members
        worth = (shown * (own + following[:, :, None])).sum(axis=1) / shown.sum(axis=1)
        values += 0.3 * (worth - values)
    return plan.number_of(np.argsort(-values, axis=1, kind="stable")[:, :2])


def test_it_learns_in_the_tiny_world():
    """Near what values of items can reach there, which is less than what slates can (docs/rl.md), from the order of recall."""
    plan, world = Plan.of(slate_size=2), tiny_world()
    options = DRNOptions(
        rankers=(),
        num_envs=64,
        width=16,
        gamma=0.9,
        prior=0.1,
        major_every=200,
        gradient_steps=12,
        minibatch=128,
        learning_rate=3e-3,
    )
    agent = DRNAgent(slate_size=2, options=options).fit(world.policy_log, tiny_training(2_500, 0))
    first, last = (plan.value(plan.policy_of(each)) for each in (agent.initial_policy(), agent))
    reachable = plan.value(of_item_values(plan, options.gamma, options.steepness))
    assert_allclose(reachable / plan.value(plan.best_policy()), 0.618, atol=1e-3)
    assert first < 0.5 * reachable and last > 0.7 * reachable
