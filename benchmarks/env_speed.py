"""Speed of the engine and of the environment beside SARDINE and RecSim, on one core, in interleaved rounds.

Run: python -m benchmarks.env_speed          (about two minutes; the first run installs the peers in the cache folder)

- step: respond + advance of 8,192 users with given slates of 10, d 32, beside SARDINE's SlateTopK-Bored-v0;
- loop: the whole environment as RecSim is run (random policy, 100 sampled candidates with their features, slate of 3),
  beside RecSim's interest_evolution;
- requests: the real path, recall of 100 by faiss, MMR, respond, advance, slates of 10.

Prints medians over the rounds last, and writes them to results/env_speed.json.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from agents.heuristics import MMR
from benchmarks.peers import PeerProcess, steps_per_second
from envs.artefacts import cache_folder, save_json
from envs.engine import advance, respond
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from envs.world import World, build_world
from recall.embedding import EmbeddingRecall

ONE_CORE = "DRIFTREC_BENCHMARK_ON_ONE_CORE"
NUM_USERS = 8_192
ROUNDS = 5


def make_world() -> World:
    """A generated world of the size of MovieLens 100K, with d = 32."""
    config = SyntheticConfig(num_users=943, num_items=1_682, num_categories=19, embedding_size=32)
    log, user_model = generate_log(config, seed=0)
    return build_world(log, user_model)


def engine_step(world: World) -> Callable[[], object]:
    """Respond and advance with given slates of 10."""
    rng = np.random.default_rng(0)
    number = np.arange(NUM_USERS)
    state = world.start_state(number % world.num_users, number // world.num_users)
    slates = np.argsort(rng.random((NUM_USERS, world.num_items)), axis=1)[:, :10].astype(np.int32)
    ages = np.full(slates.shape, 100, np.float32)
    model, weekday = world.user_model, np.zeros(NUM_USERS, np.int64)

    def step() -> None:
        preference = model.preference(state.interest, state.hour, weekday, state.consumed_in_visit)
        response = respond(model, state, preference, slates, ages, world.outside, seed=0)
        advance(model, state, response, world.baseline_satisfaction, seed=0)

    return step


def random_loop(world: World) -> Callable[[], object]:
    """The environment under a random policy: 100 sampled candidates with their features, slate of 3."""
    env = SlateVectorEnv(NUM_USERS, world=world, slate_size=3)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> None:
        env.step(distinct_slots(rng, NUM_USERS, env.num_candidates, env.slate_size))

    return step


def distinct_slots(rng: np.random.Generator, users: int, candidates: int, slots: int) -> NDArray[np.int64]:
    """[users, slots] distinct candidates, each set of them equally likely (Floyd's algorithm, Bentley and Floyd 1987)."""
    chosen = np.empty((users, slots), np.int64)
    for slot in range(slots):
        last = candidates - slots + slot
        drawn = rng.integers(0, last + 1, users)
        taken = (chosen[:, :slot] == drawn[:, None]).any(axis=1)
        chosen[:, slot] = np.where(taken, last, drawn)
    return chosen


def served_request(world: World) -> Callable[[], object]:
    """The real path: embedding recall of 100, MMR, the environment."""
    recall = EmbeddingRecall(seed=0).fit(world.policy_log)
    env = SlateVectorEnv(NUM_USERS, world=world, candidate_source=recall)
    agent = MMR().fit(world.policy_log)
    env.reset(seed=0)

    def step() -> None:
        env.step(agent.act(env.observation))

    return step


def main() -> None:
    """Measures in interleaved rounds and prints medians."""
    world = make_world()
    ours = {"step": engine_step(world), "loop": random_loop(world), "requests": served_request(world)}
    peers = PeerProcess(cache_folder() / "peers")
    rounds: dict[str, list[float]] = {name: [] for name in (*ours, "sardine", "recsim")}
    try:
        for number in range(ROUNDS):
            for name, step in ours.items():
                rounds[name].append(NUM_USERS * steps_per_second(step))
            for name in ("sardine", "recsim"):
                rounds[name].append(peers.measure(name))
            told = ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rounds.items())
            print(f"round {number + 1} of {ROUNDS}: {told}", file=sys.stderr)
    finally:
        peers.close()
    figures = {
        "step_vs_sardine": median(a / b for a, b in zip(rounds["step"], rounds["sardine"], strict=True)),
        "loop_vs_recsim": median(a / b for a, b in zip(rounds["loop"], rounds["recsim"], strict=True)),
        "step_per_s": median(rounds["step"]),
        "loop_per_s": median(rounds["loop"]),
        "requests_per_s": median(rounds["requests"]),
    }
    save_json(Path("results/env_speed.json"), figures)
    for name, value in figures.items():
        print(f"{name}: {value:.1f}")


def on_one_core() -> None:
    """Begins the benchmark again in a process that is pinned to one core (Linux), with one thread.

    Threads of BLAS are counted when numpy is imported, so it must be a fresh one.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.env_speed"]
    os.execve(sys.executable, command, {**os.environ, **one, ONE_CORE: "yes"})


if __name__ == "__main__":
    main() if os.environ.get(ONE_CORE) else on_one_core()
