"""Speed of recall beside faiss' flat index, and of whole requests.

Run: python -m benchmarks.recall_speed          (some five minutes)
     python -m benchmarks.recall_speed kinds    (the indices compared, at 10,000 to 300,000 items; some ten minutes)

- recall: the 100 best of 10,000 and of 100,000 items, d 32, batches of 8,192 queries, on all cores; vectors are random with a
  spectrum that falls as embeddings' does. recall10k_vs_faiss_flat and recall100k_vs_faiss_flat are medians over interleaved
  rounds of our speed over that of faiss.IndexFlatIP; recall10k_at_100 is the share of the truly best 100 that is found;
- requests: recall of 100 from 10,000 items, MMR re-ranking of 10, respond, advance, for 8,192 users on all cores; and which stage
  takes which share of the time (share_*);
- one user: latency of recall alone (recall_one_*), and of `Pipeline.recommend` as a service would call it, for one user after
  another: 100 of 10,000 items by four channels, ranked, re-ranked to 10 by MMR. recommend_p50_ms and recommend_p99_ms are with the
  ranker mf_bpr, recommend_din_* with din.

Prints figures last, and writes them to results/recall_speed.json.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from agents.heuristics import MMR
from agents.pipeline import Pipeline, PipelineConfig
from agents.rankers.training import TrainingConfig
from benchmarks.env_speed import served_request
from benchmarks.peers import steps_per_second
from envs.artefacts import save_json
from envs.candidate_source import CandidateSource, RecallRequest
from envs.compiled import threads
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from envs.world import World, build_world
from recall.embedding import EmbeddingRecall
from recall.index import SETTINGS, InnerProductIndex, measured_choices

QUERIES, WIDTH, WANTED = 8_192, 32, 100
SIZES = {"10k": 10_000, "100k": 100_000}
KIND_SIZES = (10_000, 100_000, 300_000)
ROUNDS = 7
REQUEST_ITEMS = 10_000
SLOTS, CALLS = 10, 1_100


# ---------------------------------------------------------------------- recall beside faiss
def like_embeddings(number: int, seed: int) -> NDArray[np.float32]:
    """[number, d] random vectors whose coordinates' variances fall as 1 / place."""
    spectrum = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    return np.random.default_rng(seed).standard_normal((number, WIDTH)).astype(np.float32) * spectrum


def beside_faiss() -> dict[str, float]:
    """Ratios to faiss' flat index in interleaved rounds, and the share of the truly best that is found."""
    figures: dict[str, float] = {}
    queries = like_embeddings(QUERIES, 1)
    for name, number in SIZES.items():
        vectors = like_embeddings(number, 0)
        ours, flat = InnerProductIndex(vectors), faiss.IndexFlatIP(WIDTH)
        flat.add(vectors)
        nothing = np.zeros((QUERIES, (number + 7) // 8), np.uint8)
        found, truth = ours.search(queries, nothing, WANTED)[0], flat.search(queries, WANTED)[1]
        rounds: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            ours.search(queries, nothing, WANTED)
            middle = time.perf_counter()
            flat.search(queries, WANTED)
            rounds.append((QUERIES / (middle - begin), QUERIES / (time.perf_counter() - middle)))
        _tell(f"{number:,} items: ours {rounds[-1][0]:,.0f}/s, faiss {rounds[-1][1]:,.0f}/s")
        figures |= {
            f"recall{name}_vs_faiss_flat": median(a / b for a, b in rounds),
            f"recall{name}_per_s": median(a for a, _ in rounds),
            f"faiss_flat{name}_per_s": median(b for _, b in rounds),
            f"recall{name}_at_100": shared(found, truth),
        }
    return figures


def shared(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """Share of `truth` [N, n] that is in the same row of `found` [N, n]."""
    together = np.sort(np.concatenate([found, truth], axis=1), axis=1)
    return float((together[:, 1:] == together[:, :-1]).sum() / truth.size)


# ---------------------------------------------------------------------- whole requests
class Stopwatch:
    """Adds up the seconds that calls of some functions take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose time is added under `name`."""

        def timed(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

        return timed


def large_world() -> World:
    """A generated world of 10,000 items."""
    config = SyntheticConfig(num_users=943, num_items=REQUEST_ITEMS, num_categories=19, embedding_size=WIDTH)
    log, user_model = generate_log(config, seed=0)
    return build_world(log, user_model)


class Timed:
    """A candidate source whose time is taken."""

    def __init__(self, source: CandidateSource, watch: Stopwatch) -> None:
        self.candidates = watch.around("recall", source.candidates)


def whole_requests() -> dict[str, float]:
    """Requests per second, and the share of the time that each stage takes."""
    world = large_world()
    step = served_request(world)
    rates = [QUERIES * steps_per_second(step) for _ in range(ROUNDS)]
    _tell(f"requests: {median(rates):,.0f}/s")
    return {"requests_per_s": median(rates), **shares_of(world)}


def shares_of(world: World, requests: int = 12) -> dict[str, float]:
    """Shares of the time of a request: recall (of which folding users in and searching), re-ranking, the environment."""
    watch = Stopwatch()
    recall = EmbeddingRecall(seed=0).fit(world.policy_log)
    recall.user_vectors = watch.around("fold_in", recall.user_vectors)  # type: ignore[method-assign]
    recall.search = watch.around("search", recall.search)  # type: ignore[method-assign]
    env = SlateVectorEnv(QUERIES, world=world, candidate_source=Timed(recall, watch))
    agent = MMR().fit(world.policy_log)
    act = watch.around("rerank", agent.act)
    env.reset(seed=0)
    watch.seconds.clear()
    begin = time.perf_counter()
    for _ in range(requests):
        env.step(act(env.observation))
    total = time.perf_counter() - begin
    seconds = watch.seconds
    shares = {name: seconds.get(name, 0.0) / total for name in ("recall", "fold_in", "search", "rerank")}
    shares["environment"] = 1 - shares["recall"] - shares["rerank"]
    stages = {name: shares[name] for name in ("recall", "rerank", "environment")}
    _tell("bottleneck: " + max(stages, key=lambda name: stages[name]))
    return {f"share_{name}": share for name, share in shares.items()}


# ---------------------------------------------------------------------- kinds of index
def kinds() -> dict[str, float]:
    """Recall, speed and building time of every kind of index at some sizes."""
    figures: dict[str, float] = {}
    for number in KIND_SIZES:
        queries = like_embeddings(2_048, 1)
        for choice in measured_choices(like_embeddings(number, 0), queries, SETTINGS, WANTED):
            _tell(
                f"{number:,} items, {choice.name}: recall {choice.recall:.3f}, {choice.queries_per_s:,.0f} queries/s, "
                f"built in {choice.build_seconds:.1f} s"
            )
            name = f"{choice.name.replace(' ', '')}_{number}"
            figures |= {f"{name}_per_s": choice.queries_per_s, f"{name}_recall": choice.recall}
    return figures


# ---------------------------------------------------------------------- one request alone
def request_alone(source: CandidateSource, world: World) -> dict[str, float]:
    """p50 and p99 of recall for one user, in milliseconds."""
    history, seen = world.history(50)[0], world.seen(np.arange(world.num_users))
    seconds = []
    for number in range(500):
        user = np.array([number % world.num_users])
        request = RecallRequest(user, history[user], seen[user], np.array([[number + 10**6, 0]]))
        begin = time.perf_counter()
        source.candidates(request, WANTED)
        seconds.append(time.perf_counter() - begin)
    return {f"recall_one_p{share}_ms": 1e3 * float(np.percentile(seconds, share)) for share in (50, 99)}


def alone() -> dict[str, float]:
    """Latency of recall for single users from 10,000 items."""
    world = large_world()
    return request_alone(EmbeddingRecall(seed=0).fit(world.policy_log), world)


def recommend() -> dict[str, float]:
    """p50 and p99 of `Pipeline.recommend` for single users, in milliseconds; no two calls ask for the same user and moment."""
    log = large_world().policy_log
    names = [str(name) for name in log.users.user_ids]
    figures: dict[str, float] = {}
    for prefix, ranker in (("recommend", "mf_bpr"), ("recommend_din", "din")):
        # what is learnt does not matter for the time
        settings = {"training": TrainingConfig(epochs=1)}
        pipeline = Pipeline(PipelineConfig(ranker=ranker, ranker_settings=settings, reranker="mmr")).fit(log)
        now, seconds = pipeline.served.last_second, []
        for number in range(CALLS):
            begin = time.perf_counter()
            pipeline.recommend(names[number % len(names)], now=now + number + 1, k=SLOTS)
            seconds.append(time.perf_counter() - begin)
        lasting = seconds[CALLS // 10 :]  # the first calls compile
        for share in (50, 99):
            figures[f"{prefix}_p{share}_ms"] = 1e3 * float(np.percentile(lasting, share))
        _tell(
            f"recommend with {ranker}: p50 {figures[f'{prefix}_p50_ms']:.2f} ms, p99 {figures[f'{prefix}_p99_ms']:.2f} ms"
        )
    return figures


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


PARTS = {"recall": beside_faiss, "requests": whole_requests, "alone": alone, "recommend": recommend}


def measured(part: str) -> dict[str, float]:
    """Figures of a part, measured in a fresh process with a thread for each core (threads are counted at import)."""
    count = str(len(os.sched_getaffinity(0)))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.recall_speed", part],
        env={**os.environ, **dict.fromkeys(names, count)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


def main() -> None:
    """Measures every part and prints all figures."""
    figures: dict[str, float] = {"cores": threads()}
    for part in PARTS:
        figures |= measured(part)
    figures["cores"] = len(os.sched_getaffinity(0))
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    save_json(Path("results/recall_speed.json"), {**figures, **machine, "load_average": os.getloadavg()[0]})
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if value < 10 else f"{name}: {value:.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps({**PARTS, "kinds": kinds}[sys.argv[1]]()))
    else:
        main()
