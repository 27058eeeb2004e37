"""Scores of agents on the frozen tasks, by the comparison's own rules: see docs/tasks.md.

Run: python -m benchmarks.task_scores [--tasks ...] [--agents ...] [--seeds 1] [--out results/task_scores]

Each agent may learn from the task's budget of requests by training users, then serves all evaluation users until their lives
end. A learner is trained once for each seed. What is done is kept under --out, so an interrupted run goes on when it is started
again with the same options. Prints the table of docs/tasks.md and `reward_<task>_<agent>` with `_low` and `_high`, and writes
<out>/task_scores.json.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from envs.artefacts import save_json
from envs.errors import DriftrecError
from envs.tasks import TASKS, Task, task_named
from envs.tasks.fingerprint import check_frozen
from evaluation.remade import task_comparison
from evaluation.runs import Run, versions
from evaluation.training import TrainingConfig, run_comparison
from evaluation.units import named_agents

AGENTS = ("random", "popular", "freshest", "mf", "mmr", "constant", "oracle_myopic", "oracle_lookahead", "ppo")
"""Agents that are asked by default; others by name, or one's own as file.py:Class."""
METRICS = {"reward": "reward", "normalised_reward": "normalised", "engagement": "clicks"}
"""Metric of a comparison -> how figures call it."""


def scored(task: Task, agents: Sequence[str], seeds: int, folder: Path, events: bool = False) -> pl.DataFrame:
    """agent, role, metric, value, low, high, num_users, num_seeds: one row for each agent and metric of `METRICS`.

    Args:
        task: whose scores.
        agents: by name, or "file.py:Class"; random and oracle_lookahead among them give the ends of the normalised reward.
        seeds: trainings of each learner.
        folder: where the runs are kept; one that is there goes on.
        events: whether event logs are kept, from which `evaluation.export` makes trajectories.

    Raises:
        ConfigurationError: if the task is not what it was when it was frozen, or a run in `folder` is of other options.
        AgentError: if an agent cannot be found, fitted or shown.
    """
    check_frozen(task)
    named = named_agents(agents)
    config = {"task": task.name, "agents": list(named), "seeds": seeds, "requests": task.requests, "events": events}
    place = folder / task.name
    begun = (place / "config.json").exists()
    run = Run.resume(place, "task_scores", config) if begun else Run.create(place, "task_scores", config)
    result = run_comparison(
        list(named.values()),
        task.make_world(),
        task.candidate_source(),
        run,
        comparison=task_comparison(task, events),
        training=TrainingConfig(requests=task.requests, seeds=tuple(range(seeds))),
    )
    summary = result.summary().filter(pl.col("versus").is_null() & pl.col("metric").is_in(list(METRICS)))
    return summary.select("agent", "role", "metric", "value", "low", "high", "num_users", "num_seeds")


def figures_of(scores: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Flat figures of `scored` by task."""
    figures: dict[str, Any] = {}
    for task, table in scores.items():
        for row in table.iter_rows(named=True):
            name = f"{METRICS[row['metric']]}_{task}_{row['agent'].replace(' (initial)', '_initial')}"
            figures[name] = row["value"]
            figures[f"{name}_low"], figures[f"{name}_high"] = row["low"], row["high"]
        figures[f"users_{task}"], figures[f"seeds_{task}"] = table["num_users"].max(), table["num_seeds"].max()
    return figures


def markdown(figures: Mapping[str, Any]) -> str:
    """The table of reference scores: a row for each agent, a column for each task; reward with its interval, then normalised."""
    tasks = [name for name in TASKS if f"users_{name}" in figures]
    agents = list(dict.fromkeys(_agents_in(figures, tasks)))
    lines = ["| agent | " + " | ".join(tasks) + " |", "|---|" + "---|" * len(tasks)]
    for agent in agents:
        cells = []
        for task in tasks:
            value = figures.get(f"reward_{task}_{agent}")
            low, high = (figures.get(f"reward_{task}_{agent}_{side}") for side in ("low", "high"))
            share = figures.get(f"normalised_{task}_{agent}")
            told = "–" if value is None else f"{value:.2f}"
            told += "" if value is None or low is None else f" [{low:.2f}, {high:.2f}]"
            cells.append(told + ("" if share is None else f" ({share:.2f})"))
        lines.append(f"| `{agent}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _agents_in(figures: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    found = []
    for task in tasks:
        start = f"reward_{task}_"
        found += [
            name.removeprefix(start)
            for name in figures
            if name.startswith(start) and not name.endswith(("_low", "_high"))
        ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, prints and writes; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.task_scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="tasks, separated by commas (default: all)")
    parser.add_argument(
        "--agents", default=",".join(AGENTS), help="names or file.py:Class, separated by commas (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each learner (default: %(default)s)")
    parser.add_argument("--events", action="store_true", help="keep event logs, for simulate.py export")
    parser.add_argument("--out", type=Path, default=Path("results/task_scores"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        tasks = [task_named(name.strip()) for name in options.tasks.split(",") if name.strip()]
        agents = [name.strip() for name in options.agents.split(",") if name.strip()]
        scores = {task.name: scored(task, agents, options.seeds, options.out, options.events) for task in tasks}
    except DriftrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    figures = figures_of(scores)
    save_json(options.out / "task_scores.json", figures | {"driftrec": versions()["packages"].get("driftrec")})
    print(markdown(figures))
    for name, value in figures.items():
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
