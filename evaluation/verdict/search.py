"""The search: successive halving of each contender's configurations, in the first world, on tuning users.

tables/verdict/rankers/..., verdict/events/...      what was fitted and simulated beforehand, with its cost
tables/verdict/trials/<contender>/rung<k>-<n>       lives of the tuning users under configuration n
tables/verdict/spent/...                            events and seconds of its training
"""

import json
from collections.abc import Iterable, Sequence
from time import process_time
from typing import Any

import polars as pl

from evaluation.verdict.arena import Arena
from evaluation.verdict.config import VerdictConfig, rungs
from evaluation.verdict.contenders import BANDIT, CONSTANT, RL, SUPERVISED, Contender, Settings
from evaluation.verdict.jobs import Job, Workshop


# ------------------------------------------------------------------------------------------------------------- the jobs
def fit_ranker(arena: Arena, table: str, spec: str, seed: int) -> None:
    """Fits a ranker to the log."""
    begin = process_time()
    arena.ranker(spec, seed)
    arena.run.write_table(table, pl.DataFrame({"seconds": [process_time() - begin]}))


def teach_ranker(arena: Arena, table: str, spec: str, lessons: str, requests: int, seed: int) -> None:
    """Teaches a ranker by simulated events."""
    begin = process_time()
    arena.taught_ranker(spec, lessons, requests, seed)
    arena.run.write_table(table, pl.DataFrame({"seconds": [process_time() - begin]}))


def make_events(arena: Arena, table: str, seed: int) -> None:
    """Simulates the events that rankers are taught by."""
    begin = process_time()
    arena.events(arena.config.requests, seed)
    arena.run.write_table(table, pl.DataFrame({"seconds": [process_time() - begin]}))


def try_out(arena: Arena, table: str, contender: Contender, settings: Settings, requests: int, seed: int) -> None:
    """Trains a configuration and lets it serve the tuning users."""
    begin = process_time()
    folder = arena.run.curves_path(table)
    taught = contender.trained(settings, arena, requests, seed, folder)
    cost = {"requests": [taught.requests], "seconds": [process_time() - begin], "stopped": [taught.stopped]}
    served = arena.served(taught.agent, contender.name, fresh=False, seed=seed)
    arena.run.write_table(spent_table(table), pl.DataFrame(cost))
    arena.run.write_table(table, served.users)


def trial_table(world: str, contender: Contender, rung: int, place: int) -> str:
    """Lives of the tuning users under configuration number `place`."""
    return f"verdict/trials/{world}/{contender.stem}/rung{rung}-{place}"


def spent_table(table: str) -> str:
    """Where the cost of what is in `table` is told."""
    return table.replace("verdict/", "verdict/spent/", 1)


# ------------------------------------------------------------------------------------------------------------ the stages
Plan = tuple[str, Contender, Settings, int, int]
"""(world, contender, configuration, events, seed) of something to be trained."""


def needed(arena: Arena, plan: Plan) -> dict[str, list[Job]]:
    """What a plan builds on, each to be made once for all who do: 'rankers' fitted, 'events' simulated, 'lessons' taught."""
    key, contender, settings, requests, seed = plan
    found: dict[str, list[Job]] = {"rankers": [], "events": [], "lessons": []}
    for spec in contender.rankers(settings):
        path = arena.ranker_path(spec, seed)
        found["rankers"].append(Job(key, f"verdict/rankers/{path.parent.name}/{path.name}", fit_ranker, (spec, seed)))
    if contender.needs_events(settings):
        found["events"].append(Job(key, f"verdict/events/{key}-seed{seed}", make_events, (seed,)))
    lessons = settings.get("lessons", "log")
    if lessons != "log":
        table = f"verdict/taught/{key}/{contender.stem}-{lessons}-{requests}-seed{seed}"
        found["lessons"].append(Job(key, table, teach_ranker, (contender.spec, lessons, requests, seed)))
    return found


def prepare(workshop: Workshop, plans: Iterable[Plan], title: str) -> None:
    """Fits rankers, simulates events and teaches rankers, each once, that the plans need."""
    jobs: dict[str, dict[str, Job]] = {"rankers": {}, "events": {}, "lessons": {}}
    for plan in plans:
        for kind, own in needed(workshop.arenas[plan[0]], plan).items():
            jobs[kind] |= {job.table: job for job in own}
    for kind, once in jobs.items():
        workshop.do(f"{title}: {kind}", list(once.values()))


def search(workshop: Workshop, contenders: Sequence[Contender], world: str, config: VerdictConfig) -> pl.DataFrame:
    """Halves the configurations of all contenders, rung by rung.

    Returns:
        One row for each trial: contender, family, rung, configuration, settings (JSON), requests (that it might spend), spent,
        seconds (of CPU), stopped (whether losses were no longer finite), reward (mean over the tuning users), kept (whether it
        went on; of the last rung, whether it is the contender's best).
    """
    running = {}
    for contender in contenders:
        tried = contender.configurations(config.configurations, config.seed)
        running[contender.name] = (contender, rungs(len(tried), config.requests), list(enumerate(tried)))
    last = max(len(steps) for _, steps, _ in running.values())
    rows: list[dict[str, Any]] = []
    for number in range(last):
        # contenders with fewer rungs begin later, so that all end with the same events
        due = {}
        for name, (contender, steps, alive) in running.items():
            step = number - (last - len(steps))
            if step >= 0:
                due[name] = (contender, steps, step, alive[: steps[step].configurations])
        plans = [
            (world, contender, settings, steps[step].requests, config.seed)
            for contender, steps, step, alive in due.values()
            for _, settings in alive
        ]
        title = f"search, rung {number + 1} of {last}"
        prepare(workshop, plans, title)
        tables = {
            (name, place): trial_table(world, contender, step, place)
            for name, (contender, _, step, alive) in due.items()
            for place, _ in alive
        }
        jobs = [
            Job(world, tables[name, place], try_out, (contender, settings, steps[step].requests, config.seed))
            for name, (contender, steps, step, alive) in due.items()
            for place, settings in alive
        ]
        workshop.do(title, jobs)
        for name, (contender, steps, step, alive) in due.items():
            told = []
            for place, settings in alive:
                table = tables[name, place]
                spent = workshop.run.table(spent_table(table))
                told.append(
                    {
                        "contender": name,
                        "family": contender.family,
                        "rung": step,
                        "configuration": place,
                        "settings": json.dumps(settings),
                        "requests": steps[step].requests,
                        "spent": spent["requests"][0],
                        "seconds": spent["seconds"][0],
                        "stopped": spent["stopped"][0],
                        "reward": float(workshop.run.table(table)["reward"].to_numpy().mean()),
                    }
                )
            order = sorted(range(len(alive)), key=lambda place: -told[place]["reward"])
            survivors = steps[step + 1].configurations if step + 1 < len(steps) else 1
            rows += [{**row, "kept": order.index(place) < survivors} for place, row in enumerate(told)]
            running[name] = (contender, steps, [alive[place] for place in order[:survivors]])
    return pl.DataFrame(rows, infer_schema_length=None)


def best_configurations(trials: pl.DataFrame) -> pl.DataFrame:
    """The row of each contender's best configuration, the best contender first."""
    last = trials.filter(pl.col("rung") == pl.col("rung").max().over("contender"))
    return last.filter(pl.col("kept")).sort("reward", descending=True, maintain_order=True)


def finalists_of(trials: pl.DataFrame, contenders: Sequence[Contender], count: int) -> list[tuple[Contender, Settings]]:
    """The best `count` of the supervised and of the RL contenders, `constant`, and all bandits, with their best configurations."""
    best = best_configurations(trials)
    by_name = {contender.name: contender for contender in contenders}
    chosen: list[tuple[Contender, Settings]] = []
    for family, limit in ((SUPERVISED, count), (CONSTANT, 1), (RL, count), (BANDIT, len(contenders))):
        rows = best.filter(pl.col("family") == family).head(limit)
        chosen += [
            (by_name[name], json.loads(settings)) for name, settings in rows.select("contender", "settings").iter_rows()
        ]
    return chosen
