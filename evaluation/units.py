"""The unit of work of a comparison is one agent with one training seed: fit, save, serve, write.

What a unit leaves in the run folder is complete or not there, so a run cut short goes on with the units that are missing:

    agents/rankers/<ranker>-seed<n>         rankers fitted to the log, shared by all agents that build on them
    agents/<agent>-seed<n>                  the fitted agent
    tensorboard/<agent>-seed<n>/            curves of its fit, if it writes any, and checkpoints until it is fitted
    tables/learning/<agent>-seed<n>         its learning curve, if it has one
    tables/spent/<agent>-seed<n>            requests and seconds that its training took
    events/<agent>-seed<n>.parquet          its event log, and that of its policy before training
    tables/interest/, tables/exposure/      hidden interest of the traced users; coverage and the like
    tables/users/<agent>-seed<n>            per-user results, written last: the unit is finished
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from time import perf_counter

import polars as pl

from agents.base import Agent, Training
from agents.loading import agent_names, resolve_agent
from envs.candidate_source import CandidateSource
from envs.errors import ConfigurationError
from envs.world import World
from evaluation.comparison import ComparisonConfig, blamed_on, evaluation_users, policies, serve
from evaluation.runs import Run
from evaluation.traffic import CountedTraffic

SHARED_RANKERS = "rankers"
"""Folder of the rankers that agents share."""
Report = Callable[[str], None]
"""Is told what is being done."""


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
        told = 0

        def tell(spent: int) -> None:
            nonlocal told
            told = spent
            report(f"{unit.name}: training, {min(spent, requests):,} of {requests:,} requests")

        lessons = Training(
            make_env=traffic.make_env,
            requests=requests,
            seed=unit.seed,
            report=tell,
            folder=run.curves_path(unit.stem),
            rankers=run.agent_path(SHARED_RANKERS),
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
        # requests in workers, or before a training was cut short, are not counted here, but told
        requests_spent = max(traffic.requests, told)
        spent = pl.DataFrame({"training_requests": [requests_spent], "fit_seconds": [perf_counter() - begin]})
        run.write_table(f"spent/{unit.stem}", spent)
        for checkpoint in run.curves_path(unit.stem).glob("checkpoint-*"):
            rmtree(checkpoint)
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
                lessons = Training(
                    make_env=traffic.make_env,
                    requests=requests,
                    seed=seed,
                    folder=run.curves_path(unit.stem),
                    rankers=run.agent_path(SHARED_RANKERS),
                )
                agent.fit(world.policy_log, lessons)
                agent.save(path)
        with blamed_on(unit.name, kind, "load"):
            agents[unit.name] = kind.load(path)
    return agents


def _shards(users: int, shard_users: int) -> int:
    """Parts in which that many users are served: one where no Ray runs."""
    ray = sys.modules.get("ray")
    return -(-users // shard_users) if ray is not None and ray.is_initialized() else 1
