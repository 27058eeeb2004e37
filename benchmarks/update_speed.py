"""How long an episode of model updates takes: 60 days of 2,000 visits of one request on ALS and a logistic ranker.

Run: python -m benchmarks.update_speed          (about two minutes with the fit of the users in the cache)

The market is `slow_drift` with the fitted users of MovieLens 100K; models are retrained in full every seven days and else kept. All
runs on one core. What episodes share, the market, is made once: the world, the first models, and the histories of its
users, which are made when they first come; two episodes that are not counted let most of them come.

- `episode_s`: seconds of an episode, the median of three;
- `serve_s`, `train_s`: of that episode those that traffic and training took (the rest is monitoring);
- `market_s`: of making the market, and `first_episode_s`: of the first episode.

Prints figures last, and writes them to results/update_speed.json.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median_low
from time import perf_counter

from agents.updates.episode import Episode
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from envs.artefacts import save_json
from envs.logs import load_log
from envs.scenarios import scenario
from envs.users.models import fit_user_model
from evaluation.progress import progress
from evaluation.report import print_figures

DAYS, VISITS, EVERY, ROUNDS = 60, 2_000, 7, 3


def market() -> Market:
    """The market of all episodes."""
    log = load_log("ml-100k")
    model = fit_user_model("parametric", log)
    return Market.of(scenario("slow_drift", fitted=lambda: (log, model), days=DAYS, visits_per_day=VISITS))


def episode(played: Market, seed: int) -> tuple[float, float, float]:
    """Seconds of (an episode, its traffic, its training)."""
    begin, served, trained = perf_counter(), 0.0, 0.0
    with progress("days", played.periods) as report:
        playing = Episode(played, seed)
        while not playing.is_over:
            due = playing.period and playing.period % EVERY == 0
            playing.step(UpdateAction.FULL_RETRAIN if due else UpdateAction.KEEP)
            served, trained = served + playing.serve_seconds, trained + playing.update_seconds
            report(playing.period)
    return perf_counter() - begin, served, trained


def measured() -> dict[str, float]:
    """All figures."""
    begin = perf_counter()
    played = market()
    made = perf_counter() - begin
    first = episode(played, 0)[0]
    episode(played, 1)
    seconds, served, trained = median_low(episode(played, 2 + number) for number in range(ROUNDS))
    return {
        "market_s": made,
        "first_episode_s": first,
        "serve_s": served,
        "train_s": trained,
        "episode_s": seconds,
    }


def on_one_core() -> dict[str, float]:
    """The figures, measured in a fresh process that is pinned to one core (threads are counted at import)."""
    core = sorted(os.sched_getaffinity(0))[:1]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.update_speed", "measure"],
        env={**os.environ, **dict.fromkeys(names, "1")},
        preexec_fn=lambda: os.sched_setaffinity(0, core),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    """Measures, writes and prints."""
    figures = on_one_core()
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    save_json(Path("results/update_speed.json"), {**figures, **machine, "load_average": os.getloadavg()[0]})
    print_figures(figures)


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measured()))
    else:
        main()
