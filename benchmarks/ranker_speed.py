"""How fast rankers score, and which share of the machine's matrix products that is.

Run: python -m benchmarks.ranker_speed          (some four minutes)

Each ranker is trained for one pass on a generated log of 10,000 items, and scores [8,192 x 100] candidates on all cores, by the
clock; rounds of all rankers are interleaved with a matrix product of 1,024 x 1,024, and figures are medians.

- <name>_pairs_per_s: pairs (request, item) scored in a second; mf_pairs_per_s is that of mf_pointwise;
- <name>_bound_share: the time that the ranker's own matrix products (their additions and multiplications as torch counts them,
  gathers and elementary functions not among them) would take at the measured rate of that product, over the time taken; of
  networks only.

Prints figures last, and writes them to results/ranker_speed.json.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker
from agents.rankers.network_ranker import NetworkRanker, NetworkRankerConfig
from agents.rankers.ranking_input import RankingInput
from agents.rankers.training import TrainingConfig
from envs.artefacts import save_json
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log

REQUESTS, CANDIDATES, HISTORY = 8_192, 100, 50
NUM_ITEMS, NUM_USERS = 10_000, 943
ROUNDS = 5
PRODUCT = 1_024
RANKERS = {
    "mf": "mf_pointwise",
    "mf_bpr": "mf_bpr",
    "neumf": "neumf",
    "din": "din",
    "dien": "dien",
    "gru4rec": "gru4rec",
    "sasrec": "sasrec",
    "logistic": "logistic",
    "gbdt": "gbdt",
}
"""Name in the figures -> ranker."""
SLOW_REQUESTS = 512
"""Requests that rankers without a network are timed on: they take some seconds for all."""


def fitted(name: str, log: InteractionLog) -> Ranker:
    """The ranker after one pass; its speed does not depend on what it has learnt."""
    kind = resolve_ranker(name)
    config = kind.config_class()
    if isinstance(config, NetworkRankerConfig):
        config = type(config)(training=TrainingConfig(epochs=1))
    return kind(config, 0).fit(log)


def requests_of(log: InteractionLog) -> RankingInput:
    """Random requests with candidates drawn from the catalogue."""
    rng = np.random.default_rng(0)

    def drawn(width: int) -> NDArray[np.int32]:
        return rng.integers(0, NUM_ITEMS, (REQUESTS, width)).astype(np.int32)

    user = rng.integers(0, NUM_USERS, REQUESTS)
    return RankingInput(
        user=user,
        user_features=np.column_stack([np.full(REQUESTS, 0.5), log.users.features[user]]).astype(np.float32),
        history=drawn(HISTORY),
        history_days=rng.exponential(30, (REQUESTS, HISTORY)).astype(np.float32),
        context=np.tile(np.array([12, 3, 2, 1], np.float32), (REQUESTS, 1)),
        items=drawn(CANDIDATES),
        ages=rng.exponential(300, (REQUESTS, CANDIDATES)).astype(np.float32),
    )


def product_flops(ranker: NetworkRanker, batch: RankingInput) -> float:
    """Additions and multiplications of the ranker's matrix products, for each pair of `batch`."""
    part = batch.take(slice(0, 16)).with_counts(np.ones(NUM_ITEMS, np.float32))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        ranker.network_(ranker.tensors(part))
    return counter.get_total_flops() / part.items.size


def product_rate() -> float:
    """Additions and multiplications in a second of a matrix product on all cores."""
    matrix = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.5:
        matrix @ matrix
        count += 1
    return count * 2 * PRODUCT**3 / (time.perf_counter() - begin)


def measured() -> dict[str, float]:
    """All figures."""
    config = SyntheticConfig(num_users=NUM_USERS, num_items=NUM_ITEMS, num_categories=19, embedding_size=32)
    log = generate_log(config, seed=0)[0]
    batch = requests_of(log)
    rankers: dict[str, Ranker] = {}
    for name, spec in RANKERS.items():
        rankers[name] = fitted(spec, log)
        _tell(f"{name} fitted")
    rates: dict[str, list[float]] = {name: [] for name in rankers}
    products: list[float] = []
    for number in range(ROUNDS):
        products.append(product_rate())
        for name, ranker in rankers.items():
            asked = batch if isinstance(ranker, NetworkRanker) else batch.take(slice(0, SLOW_REQUESTS))
            if not number:
                ranker.score(asked.take(slice(0, 64)))
            begin = time.perf_counter()
            ranker.score(asked)
            rates[name].append(asked.items.size / (time.perf_counter() - begin))
        _tell(f"round {number + 1} of {ROUNDS}: " + ", ".join(f"{name} {rates[name][-1]:,.0f}/s" for name in rates))
    figures = {f"{name}_pairs_per_s": median(values) for name, values in rates.items()}
    for name, ranker in rankers.items():
        if isinstance(ranker, NetworkRanker):
            flops = product_flops(ranker, batch)
            figures[f"{name}_flops_per_pair"] = flops
            shares = [flops * rate / product for rate, product in zip(rates[name], products, strict=True)]
            figures[f"{name}_bound_share"] = median(shares)
    return {**figures, "product_gflop_per_s": median(products) / 1e9, "cores": len(os.sched_getaffinity(0))}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measures in a fresh process with a thread for each core (threads are counted at import) and prints the figures."""
    count = str(len(os.sched_getaffinity(0)))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.ranker_speed", "measure"],
        env={**os.environ, **dict.fromkeys(names, count)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = json.loads(process.stdout)
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    save_json(Path("results/ranker_speed.json"), {**figures, **machine, "load_average": os.getloadavg()[0]})
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if value < 10 else f"{name}: {value:.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured()))
    else:
        main()
