"""Fits agents on training users and lets them serve evaluation users, one agent and seed at a time or side by side.

`evaluation.units` tells what each leaves in the run folder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from agents.base import Agent
from agents.loading import RANKERS, resolve_agent
from agents.side_by_side import as_finished, ray_with
from envs.candidate_source import CandidateSource
from envs.errors import ConfigurationError
from envs.world import World
from evaluation.comparison import ComparisonConfig, ComparisonResult, evaluation_users, policies, serve
from evaluation.progress import comparison_progress
from evaluation.runs import Run
from evaluation.units import Unit, do_unit, units_of


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What every agent gets to learn from."""

    requests: int = 40_000
    """Simulated requests that an agent may spend on training, the same for all that learn from traffic."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds; agents that learn are fitted once for each."""

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ConfigurationError(f"requests is {self.requests}; training needs at least 1.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(f"seeds is {self.seeds}; name at least one, and none twice.")


def run_comparison(
    specs: Sequence[str],
    world: World,
    candidate_source: CandidateSource,
    run: Run,
    *,
    comparison: ComparisonConfig | None = None,
    training: TrainingConfig | None = None,
    reference: str = "mf",
    jobs: int = 1,
    ray_address: str | None = None,
    console: Console | None = None,
) -> ComparisonResult:
    """Fits and compares agents, leaving everything in the run folder; units that it has already are not done again.

    Writes the tables users, exposure, interest, learning and summary besides what each unit leaves. Figures and plots are
    the caller's.

    Args:
        specs: names of agents, or "file.py:Class".
        world: where users start.
        candidate_source: the fitted recall stage.
        run: the folder.
        comparison: whom the agents serve.
        training: what they learn from.
        reference: the agent that paired differences are taken to.
        jobs: number of units done side by side, as Ray tasks; 1 does them in this process. Where a Ray runs, more than
            `shard_users` users are served in shards.
        ray_address: of a cluster that does the tasks.
        console: where progress is shown, if it is a terminal.

    Raises:
        AgentError: if an agent cannot be found, fitted or shown.
    """
    comparison = comparison or ComparisonConfig()
    training = training or TrainingConfig()
    if jobs < 1:
        raise ConfigurationError(f"--jobs is {jobs}; it must be at least 1.")
    units = units_of(specs, training.seeds)
    missing = [unit for unit in units if not unit.is_finished(run)]
    with comparison_progress(console, len(units), len(units) - len(missing)) as (report, finished):
        many = len(evaluation_users(world, comparison)) > comparison.shard_users
        if not missing or (ray_address is None and (jobs == 1 or (len(missing) == 1 and not many))):
            for unit in missing:
                do_unit(unit, world, candidate_source, run, comparison, training.requests, report)
                finished()
        else:
            for unit in _side_by_side(
                missing, world, candidate_source, run, comparison, training.requests, jobs, ray_address
            ):
                report(f"{unit.name} is done")
                finished()
    tables = {
        kind: pl.concat([run.table(f"{kind}/{unit.stem}") for unit in units])
        for kind in ("users", "exposure", "interest")
    }
    curves = [run.table(f"learning/{unit.stem}") for unit in units if run.has_table(f"learning/{unit.stem}")]
    result = ComparisonResult(tables["users"], tables["exposure"], tables["interest"])
    for kind, table in tables.items():
        run.write_table(kind, table)
    if curves:
        run.write_table("learning", pl.concat(curves))
    run.write_table("summary", result.summary(reference))
    return result


def under_user_models(
    result: ComparisonResult,
    specs: Sequence[str],
    worlds: Mapping[int, Callable[[], tuple[World, NDArray[np.int64]]]],
    candidate_source: CandidateSource,
    run: Run,
    comparison: ComparisonConfig,
    training: TrainingConfig,
    reference: str = "mf",
    report: Callable[[int], None] = lambda done: None,
) -> ComparisonResult:
    """Lets the agents of a finished comparison serve its users under user models of drawn users, for the width of its intervals.

    Agents stay as they were trained: what is asked is what the conclusion owes to the fitted parameters. Each user model knows
    those evaluation users that were drawn; these are served under it. The table summary is written anew; what each user model gives
    is kept as 'user_models/...', so that an interrupted run goes on.

    Args:
        result: of `run_comparison` in the same run.
        specs: as there.
        worlds: number of the user model, from 1 -> makes (the world in which it is simulated, the users whom it knows).
        candidate_source: as there.
        run: the folder.
        comparison: whom the agents serve.
        training: as there.
        reference: the agent that paired differences are taken to.
        report: is told how many user models are done.
    """
    units = units_of(specs, training.seeds)
    config = replace(comparison, record_events=False, traced_users=0)
    served = [result.users.with_columns(user_model=pl.lit(0))]
    for done, (number, make_world) in enumerate(worlds.items(), start=1):
        missing = [unit for unit in units if not run.has_table(f"user_models/{number}/{unit.stem}")]
        if missing:
            world, known = make_world()
            users = np.intersect1d(evaluation_users(world, config), known)
        for unit in missing:
            agent = resolve_agent(unit.spec).load(run.agent_path(unit.stem))
            lives = [
                serve(
                    policy, world, candidate_source, config, name=name, role=role, training_seed=unit.seed, users=users
                ).users
                for name, policy, role in policies(unit.name, agent)
            ]
            run.write_table(f"user_models/{number}/{unit.stem}", pl.concat(lives))
        tables = [run.table(f"user_models/{number}/{unit.stem}") for unit in units]
        served.append(pl.concat(tables).with_columns(user_model=pl.lit(number)))
        report(done)
    wider = replace(result, users=pl.concat(served, how="diagonal_relaxed"))
    run.write_table("summary", wider.summary(reference))
    return wider


def _side_by_side(
    units: Sequence[Unit],
    world: World,
    candidate_source: CandidateSource,
    run: Run,
    comparison: ComparisonConfig,
    requests: int,
    jobs: int,
    ray_address: str | None,
) -> Iterator[Unit]:
    """Does units as Ray tasks, at most `jobs` at a time, and yields each as it is finished.

    Each worker finds agents' files by their absolute path. When a unit fails or the command is interrupted, no other is begun
    and those under way end with the Ray that was started for them; what was finished stays.
    """
    import ray

    with ray_with(jobs, ray_address):
        shared = ray.put((world, candidate_source))
        # the longest first, so that none is left to run alone at the end
        order = sorted(units, key=_expected_long, reverse=True)
        absolute = Run(run.folder.resolve(), run.subcommand, run.config)
        task = ray.remote(num_cpus=1)(_do_shared)
        for place, _ in as_finished(task, [(shared, unit, absolute, comparison, requests) for unit in order]):
            yield order[place]


def _expected_long(unit: Unit) -> tuple[int, bool, bool, bool]:
    """Larger for units that take longer, as far as their classes tell: rankers are fitted, a training has settings, something is
    learnt, an oracle looks ahead while it serves."""
    kind = resolve_agent(unit.spec)
    options = getattr(kind, "options_class", None)
    rankers = len(getattr(options, "rankers", ())) + (unit.spec in RANKERS)
    return rankers, options is not None, kind.fit is not Agent.fit, kind.is_oracle


def _do_shared(
    shared: tuple[World, CandidateSource], unit: Unit, run: Run, comparison: ComparisonConfig, requests: int
) -> None:
    """What a Ray task does."""
    world, candidate_source = shared
    do_unit(unit, world, candidate_source, run, comparison, requests)
