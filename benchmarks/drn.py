"""What DRN's updates are worth in a world that drifts: the agent that goes on updating itself against its frozen self.

Run: python -m benchmarks.drn [--users N] [--days N] [--training REQUESTS] [--seeds N] [--out FOLDER]   (by default some minutes)

DRN is trained in a world that stands still. Then users it has not met are served, day by day, in the same world with modifiers:
interests wander five times as fast, and categories rise and fall for ten days on days that nobody knows. Three agents begin as the
same trained one, under common random numbers:

    frozen   shows what is best and is never told what came of it
    replay   as frozen, but makes major updates
    drn      lets its rival take part in each slate, and makes minor and major updates

Answers are told after each round, in which everybody who still asks on that day has asked once. Prints the mean reward of a request
(`reward_<agent>`, and `_last_third` of the days), of lives the rewards' paired difference to frozen, with the interval of 95 % over
users (`life_reward_<agent>_minus_frozen`, `_low`, `_high`), and the share of duels that the rival won. Writes drn.json and drn.png
to the folder, by default results/.
"""

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.base import Training
from agents.updates.drn import DRNAgent, DRNOptions
from envs.artefacts import save_json, written_whole
from envs.candidate_source import CandidateSource
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import CategoryShock, Drift
from envs.slate_env import SlateVectorEnv
from envs.splits import split_users
from envs.world import World, WorldConfig, build_world
from evaluation.plot_style import CYCLE, GREY, house_style, legend_below
from evaluation.progress import progress
from evaluation.report import print_figures
from recall.embedding import EmbeddingConfig, EmbeddingRecall

AGENTS: Mapping[str, tuple[bool, bool]] = {"frozen": (False, False), "replay": (False, True), "drn": (True, True)}
"""Name -> (the rival takes part, answers are told)."""
OPTIONS = DRNOptions(rankers=(), major_every=300, iteration=500)
SLATE_SIZE, NUM_CANDIDATES, HISTORY = 10, 100, 50


class DailyTraffic:
    """Lives of users, one day after the other for everybody, by the parts of `SlateVectorEnv`.

    Args:
        world: where they live.
        recall: finds their candidates.
        users: [M], each of whom lives once.
        seed: of their draws.
    """

    def __init__(self, world: World, recall: CandidateSource, users: NDArray[np.int64], seed: int) -> None:
        self._env = SlateVectorEnv(
            1,
            world=world,
            candidate_source=recall,
            users=users,
            slate_size=SLATE_SIZE,
            num_candidates=NUM_CANDIDATES,
            history_size=HISTORY,
            autoreset_mode=AutoresetMode.DISABLED,
            event_log=EventLog(),
            seed=seed,
        )
        self._state = world.start_state(users, np.zeros_like(users))
        self._history, self._history_clock = world.history(HISTORY, users)
        self._seen, self._alive = world.seen(users), np.ones(len(users), bool)

    def serve(self, day: int, agent: DRNAgent, learns: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(requests [M], rewards [M]) of each user on a day; where it `learns`, the agent is told of them round by round."""
        env, world = self._env, self._env.world
        requests, rewards = np.zeros(len(self._alive), np.int64), np.zeros(len(self._alive))
        while len(rows := np.flatnonzero(self._alive & (self._state.clock < (day + 1) * SECONDS_PER_DAY))):
            state, history, clocks = self._state.take(rows), self._history[rows], self._history_clock[rows]
            seen = self._seen[rows]
            observation = env.resume(state, history, clocks, seen)
            reward, terminated, truncated, _ = env.answer(agent.act(observation))
            self._state.put(rows, state)
            self._history[rows], self._history_clock[rows], self._seen[rows] = history, clocks, seen
            self._alive[rows] = ~(terminated | truncated)
            requests[rows] += 1
            rewards[rows] += reward
            if learns:
                assert env.event_log is not None
                agent.update(env.event_log.to_log(world.policy_log, world.reference_time))
            env.event_log.clear()  # type: ignore[union-attr]
        return requests, rewards


def worlds(users: int, days: int) -> tuple[World, World]:
    """(the world that stands still, the same one in motion)."""
    log, model = generate_log(SyntheticConfig(num_users=2 * users, num_items=800), seed=0)
    still = WorldConfig(days=days)
    shocks = CategoryShock(count=max(2, days // 4), days=10, strength=2.0)
    return build_world(log, model, still), build_world(log, model, replace(still, modifiers=(Drift(), shocks)))


def trained(world: World, recall: CandidateSource, requests: int, seed: int) -> DRNAgent:
    """DRN after its training on the training users of a world."""
    users, _ = split_users(world, seed=0)

    def make_env(num_envs: int, mode: AutoresetMode) -> SlateVectorEnv:
        return SlateVectorEnv(
            num_envs,
            world=world,
            candidate_source=recall,
            users=users,
            slate_size=SLATE_SIZE,
            num_candidates=NUM_CANDIDATES,
            history_size=HISTORY,
            autoreset_mode=mode,
            seed=seed,
        )

    with progress(f"training, seed {seed}", requests) as report:
        training = Training(make_env=make_env, requests=requests, seed=seed, report=report)
        return DRNAgent(slate_size=SLATE_SIZE, seed=seed, options=OPTIONS).fit(world.policy_log, training)


def as_served(agent: DRNAgent, explores: bool) -> DRNAgent:
    """A copy of a trained agent, whose rival takes part in slates or does not."""
    served = copy.deepcopy(agent)
    served.options = replace(agent.options, explores_when_serving=explores)
    return served


@dataclass(frozen=True)
class Lived:
    """What one agent's users did."""

    requests: NDArray[np.int64]
    """[days, M] requests of each user."""
    rewards: NDArray[np.float64]
    """[days, M] sums of their rewards."""
    won: float
    """Share of the duels while serving that the rival won, NaN where there was none."""


def measured(users: int, days: int, training: int, seed: int) -> dict[str, Lived]:
    """What users did with each agent, all begun from one training."""
    still, moving = worlds(users, days)
    recall = EmbeddingRecall(EmbeddingConfig(dimension=32), seed=0).fit(still.policy_log)
    begun, found = trained(still, recall, training, seed), {}
    _, served = split_users(moving, seed=0)
    for name, (explores, learns) in AGENTS.items():
        agent, traffic = as_served(begun, explores), DailyTraffic(moving, recall, served, seed + 1_000)
        lived = []
        with progress(f"serving, {name}", days) as report:
            for day in range(days):
                lived.append(traffic.serve(day, agent, learns))
                report(day + 1)
        over, won = (after - before for after, before in zip(agent.duels, begun.duels, strict=True))
        requests, rewards = (np.stack(part) for part in zip(*lived, strict=True))
        found[name] = Lived(requests, rewards, won / over if over else float("nan"))
        print(f"seed {seed}, {name}: {rewards.sum() / max(requests.sum(), 1):.4f}", file=sys.stderr, flush=True)
    return found


def figures_of(runs: Sequence[Mapping[str, Lived]]) -> dict[str, float | None]:
    """The figures of the module's docstring, over all seeds."""
    figures: dict[str, float | None] = {}
    frozen = np.stack([run["frozen"].rewards for run in runs])
    for name in AGENTS:
        requests = np.stack([run[name].requests for run in runs])
        rewards = np.stack([run[name].rewards for run in runs])
        last = slice(-max(1, requests.shape[1] // 3), None)
        figures[f"reward_{name}"] = float(rewards.sum() / max(requests.sum(), 1))
        figures[f"reward_{name}_last_third"] = float(rewards[:, last].sum() / max(requests[:, last].sum(), 1))
        if name == "frozen":
            continue
        # a user's lives under all seeds are one observation
        differences = (rewards - frozen).sum(axis=1).mean(axis=0)
        mean, half = differences.mean(), 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
        versus = f"life_reward_{name}_minus_frozen"
        figures |= {versus: float(mean), f"{versus}_low": float(mean - half), f"{versus}_high": float(mean + half)}
    won = float(np.mean([run["drn"].won for run in runs]))
    figures["duels_won_share"] = won if np.isfinite(won) else None
    return figures


def drawn(runs: Sequence[Mapping[str, Lived]], window: int = 3) -> Figure:
    """Mean reward of a request, over `window` days each, of all seeds together."""
    figure = Figure(figsize=(7, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour in zip(AGENTS, (GREY, *CYCLE), strict=False):
        requests = np.stack([run[name].requests for run in runs]).sum(axis=(0, 2))
        rewards = np.stack([run[name].rewards for run in runs]).sum(axis=(0, 2))
        width = min(window, len(requests))
        asked, earned = (np.convolve(part, np.ones(width), "valid") for part in (requests, rewards))
        days = np.arange(len(asked)) + (width - 1) / 2
        axes.plot(days, earned / np.maximum(asked, 1), color=colour, lw=1.8, label=name)
    axes.set_xlabel("day in the drifting world")
    axes.set_ylabel("mean reward of a request")
    axes.set_title("DRN and its frozen self")
    legend_below(axes)
    return figure


def parsed(arguments: Sequence[str]) -> Any:
    """The command's options.

    Raises:
        ConfigurationError: if a number is too small.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drn")
    for name, default, told in (
        ("users", 300, "users who are served"),
        ("days", 30, "days that they are served"),
        ("training", 12_000, "requests of the training before"),
        ("seeds", 2, "trainings"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{told} (default {default})")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of drn.json and drn.png")
    options = parser.parse_args(arguments)
    for name, least in (("users", 2), ("days", 1), ("training", 1), ("seeds", 1)):
        if getattr(options, name) < least:
            raise ConfigurationError(f"--{name} is {getattr(options, name)}; it must be at least {least}.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, serves, prints and writes."""
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    runs = [measured(options.users, options.days, options.training, seed) for seed in range(options.seeds)]
    figures = figures_of(runs)
    with written_whole(options.out / "drn.png") as temporary, house_style():
        drawn(runs).savefig(temporary, format="png")
    save_json(
        options.out / "drn.json",
        {**figures, **{name: getattr(options, name) for name in vars(options) if name != "out"}},
    )
    print_figures(figures)


if __name__ == "__main__":
    main()
