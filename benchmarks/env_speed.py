"""Speed of the engine and of the environment beside SARDINE, RecSim and the machine's limits; memory of a crowd.

Run: python -m benchmarks.env_speed          (some ten minutes; the first run installs the peers in the cache folder)

- step: respond + advance of 8,192 users with given slates of 10, d 32, beside SARDINE's SlateTopK-Bored-v0; step_dien: the
  same under the DIEN-like user model;
- loop: the whole environment as RecSim is run (random policy, 100 sampled candidates with their features, slate of 3),
  beside RecSim's interest_evolution;
- requests: the real path, recall of 100 by faiss, MMR, respond, advance, slates of 10;
- crowd: 1,000,000 users drawn from the population fitted to the log, no two alike, each with its history: the time to draw them
  and to make their histories, that of 10 requests each (random policy, 100 sampled candidates with their features, slates of
  10), and the growth of resident memory from 100,000 to 1,000,000 users, with what it consists of;
- limits: what the arithmetic of a step would take at the speed of the machine's matrix product, and its memory traffic at
  the speed of a copy; step_of_limit is the share of the tighter of the two that is reached.

Ratios are medians over interleaved rounds on one core each; absolute figures are medians on all cores, where `_one_core` does
not say otherwise. Prints figures last, and writes them to results/env_speed.json.
"""

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from ctypes import CDLL
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from agents.heuristics import MMR
from benchmarks.peers import PeerProcess, steps_per_second
from envs.artefacts import cache_folder, save_json
from envs.compiled import threads
from envs.crowd import Crowd
from envs.engine import advance, respond
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from envs.users.dien import DienModel, DienNetwork
from envs.users.interest import InterestModel
from envs.users.protocol import UserModel
from envs.world import World, WorldConfig, build_world
from recall.embedding import EmbeddingRecall

NUM_USERS = 8_192
ROUNDS = 5
CROWD_SIZES = (100_000, 1_000_000)
CROWD_REQUESTS = 10
SLOTS, CANDIDATES = 10, 100


# ---------------------------------------------------------------------- what is measured
def make_world(drawn_users: int = 0) -> World:
    """A generated world of the size of MovieLens 100K, with d = 32; of its log's users or of drawn ones."""
    config = SyntheticConfig(num_users=943, num_items=1_682, num_categories=19, embedding_size=32)
    log, user_model = generate_log(config, seed=0)
    return build_world(log, user_model, WorldConfig(drawn_users=drawn_users))


def with_random_facets(model: InterestModel, size: int = 48, facets: int = 4) -> DienModel:
    """A DIEN-like user model of the default sizes; its speed does not depend on its weights."""
    rng, width = np.random.default_rng(0), model.item_embedding.shape[1]

    def weights(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    network = DienNetwork(
        extractor_input=weights(width + model.categories.shape[1] + 2, 3 * size),
        extractor_input_bias=weights(3 * size),
        extractor_recurrent=weights(size, 3 * size),
        extractor_recurrent_bias=weights(3 * size),
        extractor_fading=np.abs(weights(size)),
        prototypes=weights(facets, width),
        attention=weights(size, width),
        attention_bias=weights(facets),
        evolution_input=weights(size, 3 * size),
        evolution_input_bias=weights(3 * size),
        evolution_recurrent=weights(size, 3 * size),
        evolution_recurrent_bias=weights(3 * size),
        evolution_fading=np.abs(weights(size)),
        output=weights(size, width),
    )
    return DienModel(base=model, network=network)


def engine_step(world: World, model: UserModel) -> Callable[[], object]:
    """Respond and advance with given slates of 10."""
    rng = np.random.default_rng(0)
    number = np.arange(NUM_USERS)
    state = world.start_state(number % world.num_users, number // world.num_users)
    state.interest = model.start(model.user_parameters[state.log_user])
    slates = np.argsort(rng.random((NUM_USERS, world.num_items)), axis=1)[:, :SLOTS].astype(np.int32)
    ages = np.full(slates.shape, 100, np.float32)
    weekday = np.zeros(NUM_USERS, np.int64)

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


# ---------------------------------------------------------------------- the machine's limits
def step_limits(world: World) -> dict[str, float]:
    """How fast a step could be, were there nothing but its arithmetic or nothing but its memory traffic."""
    size = 1_024
    matrix = np.random.default_rng(0).random((size, size), np.float32)
    products = steps_per_second(lambda: matrix @ matrix, 1.0) * 2 * size**3
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    copied = steps_per_second(lambda: np.copyto(target, source), 1.0) * 2 * len(source)

    model = world.user_model
    assert isinstance(model, InterestModel)
    width, interests = model.item_vectors.shape[1], 2 * model.walk_width + model.categories.shape[1]
    # a logarithm or exponential takes some 22 operations, a draw's hash 12, the age effect's knots 21
    draws = SLOTS + 2
    operations = 2 * width * SLOTS + 22 * (draws + 3 * SLOTS) + 12 * draws + 21 * SLOTS + 3 * interests
    # interests, traits and counters are read, the preference written and read, slates and ages read, answers written
    traffic = 4 * interests + 2 * 4 * width + 2 * 8 * 7 + SLOTS * (4 + 4) + 60
    return {
        "limit_gflop_per_s": products / 1e9,
        "limit_copy_gb_per_s": copied / 1e9,
        "step_operations": operations,
        "step_bytes": traffic,
        "step_limit_per_s": min(products / operations, copied / traffic),
    }


# ---------------------------------------------------------------------- the parts, each in a process of its own
def on_one_core() -> dict[str, float]:
    """Ratios to the peers, in interleaved rounds in which everybody has the same single core."""
    world = make_world()
    ours = {"step": engine_step(world, world.user_model), "loop": random_loop(world)}
    peers = PeerProcess(cache_folder() / "peers")
    rounds: dict[str, list[float]] = {name: [] for name in (*ours, "sardine", "recsim")}
    try:
        for number in range(ROUNDS):
            for name, step in ours.items():
                rounds[name].append(NUM_USERS * steps_per_second(step))
            for name in ("sardine", "recsim"):
                rounds[name].append(peers.measure(name))
            _tell(f"one core, round {number + 1} of {ROUNDS}: " + _rates(rounds))
    finally:
        peers.close()
    return {
        "step_vs_sardine": median(a / b for a, b in zip(rounds["step"], rounds["sardine"], strict=True)),
        "loop_vs_recsim": median(a / b for a, b in zip(rounds["loop"], rounds["recsim"], strict=True)),
        "step_one_core_per_s": median(rounds["step"]),
        "loop_one_core_per_s": median(rounds["loop"]),
        "sardine_per_s": median(rounds["sardine"]),
        "recsim_per_s": median(rounds["recsim"]),
    }


def on_all_cores() -> dict[str, float]:
    """Absolute figures, and the machine's limits measured between them."""
    world = make_world()
    model = world.user_model
    assert isinstance(model, InterestModel)
    ours = {
        "step": engine_step(world, model),
        "step_dien": engine_step(world, with_random_facets(model)),
        "loop": random_loop(world),
        "requests": served_request(world),
    }
    rounds: dict[str, list[float]] = {name: [] for name in ours}
    limits: list[dict[str, float]] = []
    for number in range(ROUNDS):
        for name, step in ours.items():
            rounds[name].append(NUM_USERS * steps_per_second(step))
        limits.append(step_limits(world))
        _tell(f"{threads()} cores, round {number + 1} of {ROUNDS}: " + _rates(rounds))
    figures = {f"{name}_per_s": median(values) for name, values in rounds.items()}
    shares = [rate / limit["step_limit_per_s"] for rate, limit in zip(rounds["step"], limits, strict=True)]
    figures |= {name: median(limit[name] for limit in limits) for name in limits[0]}
    return {**figures, "step_of_limit": median(shares), "cores": threads()}


def of_crowd() -> dict[str, float]:
    """Memory of a crowd of drawn users as it grows, and the time that the larger one takes."""
    rng = np.random.default_rng(0)

    def act(observation: Observation) -> NDArray[np.int64]:
        return distinct_slots(rng, len(observation), CANDIDATES, SLOTS)

    kept: list[dict[str, int]] = []
    drawn_seconds = seconds = 0.0
    for size in CROWD_SIZES:
        begin = time.perf_counter()
        world = make_world(drawn_users=size)
        _tell(f"{size:,} users drawn, {time.perf_counter() - begin:.0f} s; their histories follow")
        crowd = Crowd(world, size)
        drawn_seconds = time.perf_counter() - begin
        _tell(f"{size:,} users drawn, with their histories, {drawn_seconds:.0f} s")
        begin = time.perf_counter()
        for request in range(CROWD_REQUESTS):
            total = crowd.request(act)
            seconds = time.perf_counter() - begin
            _tell(
                f"{size:,} users, request {request + 1} of {CROWD_REQUESTS}: {total.requests:,} asked, "
                f"{total.clicks:,} clicks, {total.ends:,} lives ended, {seconds:.0f} s"
            )
        gc.collect()
        resident = _resident_bytes()
        users = world.policy_log.users
        names_and_attributes = users.user_ids.nbytes + users.features.nbytes + world.user_features.nbytes
        kept.append(crowd.memory() | {"names_and_attributes": names_and_attributes, "all": resident})
        del crowd, world, users
    more = CROWD_SIZES[1] - CROWD_SIZES[0]
    growth = {name: (kept[1][name] - kept[0][name]) / more for name in kept[0]}
    return {
        "bytes_per_user": growth.pop("all"),
        **{f"bytes_per_user_{name}": value for name, value in growth.items()},
        "million_users_drawn_seconds": drawn_seconds,
        "million_users_seconds": seconds,
    }


def _resident_bytes() -> int:
    """Resident memory of this process, after what is free has gone back to the system (Linux)."""
    CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _rates(rounds: Mapping[str, list[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rounds.items())


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


PARTS = {"one-core": on_one_core, "all-cores": on_all_cores, "crowd": of_crowd}


def measured(part: str) -> dict[str, float]:
    """Figures of a part, measured in a fresh process; that of one core is pinned to it (threads are counted at import)."""
    cores = os.sched_getaffinity(0)
    count = 1 if part == "one-core" else len(cores)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.env_speed", part],
        env={**os.environ, **dict.fromkeys(names, str(count))},
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(cores)[:count]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


def main() -> None:
    """Measures every part and prints all figures."""
    figures: dict[str, float] = {}
    for part in PARTS:
        figures |= measured(part)
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    save_json(Path("results/env_speed.json"), {**figures, **machine, "load_average": os.getloadavg()[0]})
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if value < 10 else f"{name}: {value:.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(PARTS[sys.argv[1]]()))
    else:
        main()
