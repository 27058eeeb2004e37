"""Fits agents on training users and lets them serve evaluation users, one agent and seed at a time or side by side.

The unit of work is one agent with one training seed: fit, save, serve, write. What a unit leaves in the run folder is
complete or not there, so a run cut short goes on with the units that are missing:

    agents/<agent>-seed<n>                  the fitted agent
    tables/learning/<agent>-seed<n>         its learning curve, if it has one
    tables/spent/<agent>-seed<n>            requests and seconds that its training took
    events/<agent>-seed<n>.parquet          its event log, and that of its policy before training
    tables/interest/, tables/exposure/      hidden interest of the traced users; coverage and the like
    tables/users/<agent>-seed<n>            per-user results, written last: the unit is finished
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agents.base import Agent, Training
from agents.loading import agent_names, resolve_agent
from agents.side_by_side import ray_with
from envs.candidate_source import CandidateSource
from envs.errors import ConfigurationError, DriftrecError
from envs.slate_env import SlateVectorEnv
from envs.world import World
from evaluation.comparison import (
    ComparisonConfig,
    ComparisonResult,
    blamed_on,
    evaluation_users,
    policies,
    serve,
    split_users,
)
from evaluation.runs import Run

Report = Callable[[str], None]
"""Is told what is being done."""


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


@dataclass(frozen=True)
class Unit:
    """One agent with one training seed."""

    name: str
    spec: str
    seed: int

    @property
    def stem(self) -> str:
        """What its files are called."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.name)}-seed{self.seed}"

    def is_finished(self, run: Run) -> bool:
        """Whether the run has its results."""
        return run.has_table(f"users/{self.stem}")


class CountedTraffic:
    """Environments of training users that count the requests which an agent spends."""

    def __init__(self, world: World, candidate_source: CandidateSource, config: ComparisonConfig, seed: int) -> None:
        self.requests = 0
        self._world, self._candidate_source, self._config, self._seed = world, candidate_source, config, seed

    def make_env(self, num_envs: int, autoreset_mode: AutoresetMode) -> SlateVectorEnv:
        """An environment whose users the comparison does not use."""
        users, _ = split_users(self._world, self._config.seed)
        return _CountingEnv(
            self,
            num_envs,
            world=self._world,
            candidate_source=self._candidate_source,
            users=users,
            slate_size=self._config.serving.slate_size,
            num_candidates=self._config.serving.num_candidates,
            reward_weights=self._config.serving.reward_weights,
            autoreset_mode=autoreset_mode,
            seed=self._seed,
        )


class _CountingEnv(SlateVectorEnv):
    """Adds the requests of living users to a count."""

    def __init__(self, traffic: CountedTraffic, num_envs: int, **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        self._traffic = traffic

    def step(self, actions: Any) -> Any:
        result = super().step(actions)
        self._traffic.requests += int(result[-1]["active"].sum())
        return result


def named_agents(specs: Sequence[str]) -> dict[str, str]:
    """Name -> spec of each agent, file paths made absolute, in the given order.

    Raises:
        AgentError: if an agent cannot be found or is not one.
        ConfigurationError: if there is none, or two have the same name.
    """
    named: dict[str, str] = {}
    for spec in specs:
        agent_class = resolve_agent(spec)
        name = spec if spec in agent_names() else vars(agent_class).get("name") or agent_class.__name__
        if name in named:
            raise ConfigurationError(f"--agents has two agents called '{name}'; drop one or give it another `name`.")
        if spec not in agent_names():
            file_name, _, class_name = spec.rpartition(":")
            spec = f"{Path(file_name).resolve()}:{class_name}"
        named[name] = spec
    if not named:
        raise ConfigurationError(f"--agents is empty; known are {', '.join(agent_names())}.")
    return named


def units_of(specs: Sequence[str], seeds: Sequence[int]) -> list[Unit]:
    """All units: an agent that has nothing to learn needs only the first seed."""
    units = []
    for name, spec in named_agents(specs).items():
        learns = resolve_agent(spec).fit is not Agent.fit
        units += [Unit(name, spec, seed) for seed in (seeds if learns else seeds[:1])]
    return units


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
    with _progress(console, len(units), len(units) - len(missing)) as (report, finished):
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


def do_unit(
    unit: Unit,
    world: World,
    candidate_source: CandidateSource,
    run: Run,
    comparison: ComparisonConfig,
    requests: int,
    report: Report = lambda text: None,
) -> None:
    """Fits (or loads, where a run cut short has saved it), saves and serves one agent with one seed."""
    agent_class = resolve_agent(unit.spec)
    path = run.agent_path(unit.stem)
    traffic = CountedTraffic(world, candidate_source, comparison, unit.seed)
    begin = perf_counter()
    if path.exists() and run.has_table(f"spent/{unit.stem}"):
        with blamed_on(unit.name, agent_class, "load"):
            agent = agent_class.load(path)
    else:
        report(f"{unit.name}: fitting")
        with blamed_on(unit.name, agent_class, "__init__, which must take slate_size and seed"):
            agent = agent_class(slate_size=comparison.serving.slate_size, seed=unit.seed)
        lessons = Training(
            make_env=traffic.make_env,
            requests=requests,
            seed=unit.seed,
            report=lambda spent: report(f"{unit.name}: training, {min(spent, requests):,} of {requests:,} requests"),
        )
        with blamed_on(unit.name, agent_class, "fit"):
            agent.fit(world.policy_log, lessons)
        curve = getattr(agent, "learning_curve_", None)
        if curve is not None and len(curve):
            run.write_table(
                f"learning/{unit.stem}",
                pl.DataFrame(
                    {
                        "agent": unit.name,
                        "training_seed": unit.seed,
                        "requests": curve[:, 0].astype(float),
                        "reward": curve[:, 1].astype(float),
                    }
                ),
            )
        with blamed_on(unit.name, agent_class, "save"):
            agent.save(path)
        spent = pl.DataFrame({"training_requests": [traffic.requests], "fit_seconds": [perf_counter() - begin]})
        run.write_table(f"spent/{unit.stem}", spent)
    spent = run.table(f"spent/{unit.stem}")
    shards = _shards(len(evaluation_users(world, comparison)), comparison.shard_users)
    parts = []
    for name, policy, role in policies(unit.name, agent):
        report(f"{name}: serving")
        served = serve(
            policy, world, candidate_source, comparison, name=name, role=role, training_seed=unit.seed, shards=shards
        )
        if comparison.record_events:
            served.events.write(run.events_path(unit.stem if name == unit.name else f"{unit.stem}-initial"))
        parts.append(served)
    run.write_table(f"exposure/{unit.stem}", pl.concat([part.agents for part in parts]).join(spent, how="cross"))
    run.write_table(f"interest/{unit.stem}", pl.concat([part.interest for part in parts]))
    run.write_table(f"users/{unit.stem}", pl.concat([part.users for part in parts]))


def under_user_models(
    result: ComparisonResult,
    specs: Sequence[str],
    worlds: Mapping[int, Callable[[], World]],
    candidate_source: CandidateSource,
    run: Run,
    comparison: ComparisonConfig,
    training: TrainingConfig,
    reference: str = "mf",
    report: Callable[[int], None] = lambda done: None,
) -> ComparisonResult:
    """Lets the agents of a finished comparison serve the same users under refitted user models, for the width of its intervals.

    Agents stay as they were trained: what is asked is what the conclusion owes to the fitted parameters. The table summary is
    written anew; what each user model gives is kept as 'user_models/...', so that an interrupted run goes on.

    Args:
        result: of `run_comparison` in the same run.
        specs: as there.
        worlds: number of the user model, from 1 -> makes the world in which it is simulated.
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
        world = make_world() if missing else None
        for unit in missing:
            assert world is not None
            agent = resolve_agent(unit.spec).load(run.agent_path(unit.stem))
            lives = [
                serve(policy, world, candidate_source, config, name=name, role=role, training_seed=unit.seed).users
                for name, policy, role in policies(unit.name, agent)
            ]
            run.write_table(f"user_models/{number}/{unit.stem}", pl.concat(lives))
        tables = [run.table(f"user_models/{number}/{unit.stem}") for unit in units]
        served.append(pl.concat(tables).with_columns(user_model=pl.lit(number)))
        report(done)
    wider = replace(result, users=pl.concat(served, how="diagonal_relaxed"))
    run.write_table("summary", wider.summary(reference))
    return wider


def fitted_agents(
    names: Sequence[str],
    world: World,
    candidate_source: CandidateSource,
    run: Run,
    comparison: ComparisonConfig,
    requests: int,
    seed: int,
) -> dict[str, Agent]:
    """Name -> agent, fitted with one training seed and not asked to serve; those that the run folder has are loaded.

    Raises:
        AgentError: if an agent cannot be found or fitted.
    """
    agents = {}
    for unit in units_of(names, (seed,)):
        kind, path = resolve_agent(unit.spec), run.agent_path(unit.stem)
        if not path.exists():
            with blamed_on(unit.name, kind, "fit"):
                agent = kind(slate_size=comparison.serving.slate_size, seed=seed)
                traffic = CountedTraffic(world, candidate_source, comparison, seed)
                agent.fit(world.policy_log, Training(make_env=traffic.make_env, requests=requests, seed=seed))
                agent.save(path)
        with blamed_on(unit.name, kind, "load"):
            agents[unit.name] = kind.load(path)
    return agents


def _shards(users: int, shard_users: int) -> int:
    """Parts in which that many users are served: one where no Ray runs."""
    ray = sys.modules.get("ray")
    return -(-users // shard_users) if ray is not None and ray.is_initialized() else 1


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

    Each worker finds agents' files by their absolute path. When a unit fails or the command is interrupted, the others are
    cancelled; what they had finished stays.
    """
    import ray
    from ray.exceptions import RayTaskError

    with ray_with(jobs, ray_address):
        shared = ray.put((world, candidate_source))
        task = ray.remote(num_cpus=1)(_do_shared)
        # the longest first, so that none is left to run alone at the end
        order = sorted(units, key=lambda unit: _EXPECTED_LONG.get(unit.name, 1), reverse=True)
        absolute = Run(run.folder.resolve(), run.subcommand, run.config)
        waiting = {task.remote(shared, unit, absolute, comparison, requests): unit for unit in order}
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                try:
                    ray.get(done)
                except RayTaskError as error:
                    if isinstance(error.cause, DriftrecError):
                        raise error.cause from None
                    raise
                yield waiting.pop(done)
        finally:
            for unfinished in waiting:
                ray.cancel(unfinished, force=True)


_EXPECTED_LONG: Mapping[str, int] = {"sb3_ppo": 5, "ppo": 5, "dqn": 4, "oracle_lookahead": 3, "constant": 2}


def _do_shared(
    shared: tuple[World, CandidateSource], unit: Unit, run: Run, comparison: ComparisonConfig, requests: int
) -> None:
    """What a Ray task does."""
    world, candidate_source = shared
    do_unit(unit, world, candidate_source, run, comparison, requests)


@contextmanager
def _progress(console: Console | None, total: int, done: int) -> Iterator[tuple[Report, Callable[[], None]]]:
    """(report, finished): one line that says what is being done, on a terminal; nothing elsewhere."""
    console = console or Console(stderr=True)
    columns = (
        TextColumn("comparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=total, completed=done)
        yield (lambda text: bars.update(bar, description=text)), (lambda: bars.advance(bar))
