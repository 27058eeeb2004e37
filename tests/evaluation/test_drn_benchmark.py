"""The study of DRN: its day-by-day traffic is that of the environment, its figures are those of a hand computation."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.drn import HISTORY, NUM_CANDIDATES, SLATE_SIZE, DailyTraffic, Lived, drawn, figures_of, parsed
from envs.candidate_source import SampledCandidates
from envs.errors import ConfigurationError
from envs.slate_env import SlateVectorEnv

USERS = np.arange(0, 60, 3)


class Noting:
    """Shows the first candidates and counts what it is told."""

    def __init__(self):
        self.told = 0

    def act(self, observation):
        return np.tile(np.arange(SLATE_SIZE), (len(observation), 1))

    def update(self, events):
        self.told += len(np.unique(events.request))
        assert len(np.unique(events.user)) == len(np.unique(events.request)), "each has asked once a round"


def test_lives_day_by_day_are_those_of_the_environment(world):
    recall, agent = SampledCandidates(world.num_items), Noting()
    traffic = DailyTraffic(world, recall, USERS, seed=4)
    lived = [traffic.serve(day, agent, learns=day < 5) for day in range(world.config.days)]
    requests, rewards = (np.stack(part) for part in zip(*lived, strict=True))
    env = SlateVectorEnv(
        len(USERS),
        world=world,
        candidate_source=recall,
        users=USERS,
        slate_size=SLATE_SIZE,
        num_candidates=NUM_CANDIDATES,
        history_size=HISTORY,
        autoreset_mode=AutoresetMode.DISABLED,
        seed=4,
    )
    env.reset()
    asked, earned, alive, days = np.zeros(len(USERS), int), np.zeros(len(USERS)), np.ones(len(USERS), bool), []
    while alive.any():
        days.append(env.observation.context[alive, 3])
        _, reward, terminated, truncated, _ = env.step(agent.act(env.observation))
        asked[alive] += 1
        earned[alive] += reward[alive]
        alive &= ~(terminated | truncated)
    assert_array_equal(requests.sum(axis=0), asked)
    assert_allclose(rewards.sum(axis=0), earned)
    of_day = np.bincount(np.concatenate(days).astype(int), minlength=len(lived))
    assert_array_equal(requests.sum(axis=1), of_day[: len(lived)])
    assert agent.told == requests[:5].sum() > 0


def lives(rewards, won=float("nan")):
    rewards = np.array(rewards, float)
    return Lived(np.ones(rewards.shape, int), rewards, won)


def test_figures_are_those_of_a_hand_computation():
    run = {
        "frozen": lives([[1, 1], [0, 1], [1, 0]]),
        "replay": lives([[1, 1], [0, 1], [1, 0]]),
        "drn": lives([[1, 1], [1, 1], [2, 0]], won=0.25),
    }
    figures = figures_of([run, run])
    assert_allclose([figures["reward_frozen"], figures["reward_drn"]], [4 / 6, 1])
    assert_allclose([figures["reward_frozen_last_third"], figures["reward_drn_last_third"]], [0.5, 1])
    half = 1.96 * np.sqrt(2) / np.sqrt(2)
    found = [figures[f"life_reward_drn_minus_frozen{end}"] for end in ("", "_low", "_high")]
    assert_allclose(found, [1, 1 - half, 1 + half])
    assert figures["life_reward_replay_minus_frozen_high"] == 0 and figures["duels_won_share"] == 0.25
    (axes,) = drawn([run, run], window=3).axes
    assert {line.get_label(): line.get_ydata().tolist() for line in axes.lines}["drn"] == [1.0]


def test_numbers_that_are_too_small_are_refused():
    assert parsed(["--users", "9"]).users == 9
    with pytest.raises(ConfigurationError, match="--days is 0"):
        parsed(["--days", "0"])
