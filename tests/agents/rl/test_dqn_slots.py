"""Values of candidates slot by slot: masks, permutations, targets across slots, and serving as in the environment."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from agents.actions import SlotsAction
from agents.actions.ranker_scores import RankerScores
from agents.base import Training
from agents.rl import dqn, dqn_slots
from agents.rl.dqn_slots import DQNSlotsAgent, DQNSlotsOptions, SlotQNetwork
from agents.rl.networks import arrays_of
from agents.rl.plackett_luce import MASKED
from agents.rl.rllib import local_algorithm
from agents.rl.scorer import ItemTable
from agents.rl.served import Trained
from envs.slate_env import SlateVectorEnv

SLOTS, CANDIDATES = 3, 8
OPTIONS = DQNSlotsOptions(rankers=(), num_envs=12, minibatch=64, width=8, heads=2, embedding=4, n_step=4, iteration=96)


@pytest.fixture(scope="module")
def table(world):
    return ItemTable.from_log(world.policy_log, OPTIONS.embedding)


def slots_env(world, users=12):
    return SlotsAction(SlateVectorEnv(users, world=world, slate_size=SLOTS, num_candidates=CANDIDATES, history_size=4))


def shaken(network):
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return network


def half_filled(env):
    """Rows in which one slot is filled, some candidates are masked, and of the last request all."""
    env.reset(seed=0)
    rows = torch.from_numpy(env.step(np.arange(env.num_envs) % CANDIDATES)[0])
    mask = env.layout.parts(rows).mask
    mask[:6, 5:], mask[-1] = 0, 0
    return rows


def test_permuting_candidates_permutes_values(world, table):
    env = slots_env(world)
    network, rows = shaken(SlotQNetwork(env.layout, table, OPTIONS)), half_filled(env)
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(0))
    moved = rows.clone()
    before, after = env.layout.parts(rows), env.layout.parts(moved)
    for name in ("items", "mask", "columns"):
        getattr(after, name)[:] = getattr(before, name)[:, order]
    after.slate[:, 0] = order.argsort()[before.slate[:, 0].long()]
    torch.testing.assert_close(network(moved), network(rows)[:, order], rtol=1e-4, atol=1e-4)


def test_values_know_masks_and_what_slots_above_took(world, table):
    env = slots_env(world)
    network, rows = shaken(SlotQNetwork(env.layout, table, OPTIONS)), half_filled(env)
    values, mask = network(rows), env.layout.parts(rows).mask
    assert_array_equal(values[:-1] == MASKED, mask[:-1] == 0)
    # nothing may be shown: all that is left is what the state is worth
    assert (values[-1] == values[-1, 0]).all() and values[-1, 0] > MASKED / 2
    other = rows.clone()
    taken = env.layout.parts(other)
    taken.slate[:, 0] = torch.where(taken.slate[:, 0] == 0, 1, 0)
    assert (network(other) - values)[:-1][mask[:-1] == 1].abs().min() > 0
    best = values[:-1].argmax(dim=1)
    assert (mask[:-1].gather(1, best[:, None]) == 1).all()


@pytest.fixture(scope="module")
def algorithm(world, table):
    """DQN on slots as the agent sets it up, after one iteration."""
    env, asked = slots_env(world), {}
    agent = DQNSlotsAgent(slate_size=SLOTS, options=OPTIONS)
    agent.items_ = table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dqn_slots, "trained_by_rllib", lambda *_, **how: asked.update(how))
        agent.train(lambda num_envs: env, Training(make_env=lambda num_envs, mode: env.env, requests=240, seed=0))
    del asked["shape"]
    with local_algorithm(make_env=lambda: env, limit=240, options=OPTIONS, seed=0, **asked) as algorithm:
        algorithm.train()
        yield algorithm


def test_neither_greedy_nor_random_picks_are_masked(algorithm):
    (replay,) = algorithm.replays.values()
    layout = algorithm.env_runner.env.layout
    times, envs = replay._choosable.T
    columns = replay.transitions(times, envs, 1, 0.9)
    mask = layout.parts(columns["obs"]).mask
    assert (mask[np.arange(len(mask)), columns["actions"]] == 1).all()
    assert len(mask) == 96 * SLOTS == algorithm.requests * SLOTS
    random = algorithm.env_runner.any_actions(torch.from_numpy(columns["obs"])).numpy()
    assert (mask[np.arange(len(mask)), random] == 1).all()
    assert len(np.unique(random)) == CANDIDATES


def test_steps_shrink_with_the_budget(algorithm):
    ((_, optimizer),) = algorithm.learner_group._learner.get_optimizers_for_module(DEFAULT_MODULE_ID)
    share = algorithm.requests / 240
    expected = OPTIONS.learning_rate * (1 - share) + OPTIONS.final_learning_rate * share
    assert 0 < share < 1
    assert_allclose([group["lr"] for group in optimizer.param_groups], expected)


def test_targets_are_those_of_a_plain_loop_over_slots(algorithm, monkeypatch):
    """Rewards and bootstraps, slot by slot, of double DQN that knows no masked candidate; a request is discounted by 0.9."""
    learner, (replay,) = algorithm.learner_group._learner, algorithm.replays.values()
    module, layout = learner.module[DEFAULT_MODULE_ID], algorithm.env_runner.env.layout
    shaken(module.policy), shaken(module.target_policy)
    gamma = 0.9 ** (1 / SLOTS)
    used, real = [], dqn.draw
    monkeypatch.setattr(dqn, "draw", lambda *given: used.append(given[2:4]) or real(*given))
    algorithm._learn(OPTIONS, 100)
    assert used == [(OPTIONS.n_step, pytest.approx(gamma))]
    ring = replay._observations
    chosen = replay._choosable[replay._choosable[:, 0] < replay._newest - OPTIONS.n_step][:150]
    rows = replay.transitions(chosen[:, 0], chosen[:, 1], OPTIONS.n_step, gamma)
    found = []
    for row in range(len(chosen)):
        one = {name: torch.from_numpy(column[row : row + 1]) for name, column in rows.items()}
        one["weights"] = torch.ones(1)
        with torch.no_grad():
            loss = float(learner.lean_loss(one))
            time, env = chosen[row]
            total, steps = 0.0, 0
            while steps < OPTIONS.n_step:
                total += gamma**steps * float(replay._rewards[time + steps, env])
                steps += 1
                if replay._ended[time + steps - 1, env]:
                    break
            following = torch.from_numpy(ring[time + steps, env])
            target = total
            if not replay._terminated[time + steps - 1, env]:
                online, judged = (net(following[None])[0] for net in (module.policy, module.target_policy))
                free = [place for place in range(CANDIDATES) if layout.parts(following).mask[place] == 1]
                best = max(free, key=lambda place: float(online[place]))
                target += gamma**steps * float(judged[best])
            value = module.policy(one[Columns.OBS])[0, int(replay._further["actions"][time, env])]
            error = abs(float(value) - target)
        found.append((loss, 0.5 * error**2 if error < 1 else error - 0.5))
    loss, plain = np.array(found).T
    assert_allclose(loss, plain, rtol=1e-4, atol=1e-5)
    assert (rows["n_step"] == OPTIONS.n_step).any() and (rows["rewards"] != 0).any()


def test_serving_fills_slots_as_the_environment_does(world, table):
    env = slots_env(world, users=30)
    agent = DQNSlotsAgent(slate_size=SLOTS, options=OPTIONS)
    agent.layout_, agent.items_, agent.rankers_ = env.layout, table, RankerScores(())
    network = shaken(agent.make_network())
    agent._take_over(Trained(arrays_of(network), arrays_of(network), np.zeros((0, 2))))
    rows, _ = env.reset(seed=1)
    observation = env.env.observation
    expected = []
    for _ in range(SLOTS):
        expected.append(network(torch.from_numpy(rows)).argmax(dim=1).numpy())
        rows = env.step(expected[-1])[0]
    assert_array_equal(agent.act(observation), np.stack(expected, axis=1))
