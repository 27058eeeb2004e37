"""The finals: finalists are trained anew in every world, several times, and meet users whom nobody has met before.

tables/verdict/bound/<world>/<policy>               lives of the fresh users under random and the oracles
tables/verdict/finals/<world>/<contender>-seed<n>/  tuning (lives of the tuning users), exposure, interest, learning,
                                                    and, written last, fresh (lives of the fresh users)
agents/finals/<world>/<contender>-seed<n>           the trained agents
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import process_time

import polars as pl

from agents.base import Agent
from agents.loading import resolve_agent
from agents.oracles import OracleLookahead
from envs.measures import RewardWeights
from evaluation.runs import Run
from evaluation.verdict.arena import Arena
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.contenders import CONSTANT, RL, SUPERVISED, Contender, Settings
from evaluation.verdict.jobs import Job, Workshop
from evaluation.verdict.search import Plan, prepare, spent_table

ZERO, MYOPIC, ONE = "random", "oracle_myopic", "oracle_lookahead"
"""The ends of the normalised reward, and the oracle that does not look ahead."""
BOUNDS = (ZERO, MYOPIC, ONE)
TRIED_LASTING = (1.0, 2.0, 3.0)
"""Requests for which the look-ahead oracle lets a change of state count: the best of these on the tuning users is the bound."""

Finalists = Sequence[tuple[Contender, Settings]]


# ------------------------------------------------------------------------------------------------------------- the jobs
def serve_bound(arena: Arena, table: str, name: str) -> None:
    """Lets a policy that learns nothing serve the fresh users; the look-ahead oracle as it is best for the tuning users."""
    agent = resolve_agent(name)(arena.comparison.serving.slate_size, arena.config.seed).fit(arena.world.policy_log)
    if isinstance(agent, OracleLookahead):
        worth = {}
        for lasting in TRIED_LASTING:
            agent.lasting = lasting
            worth[lasting] = arena.served(agent, name, fresh=False).users["reward"].to_numpy().mean()
        agent.lasting = max(worth, key=worth.__getitem__)
    served = arena.served(agent, name, fresh=True)
    for kind, rows in (("exposure", served.agents), ("interest", served.interest), ("fresh", served.users)):
        arena.run.write_table(table if kind == "fresh" else f"{table}/{kind}", rows)


def train_finalist(
    arena: Arena, table: str, contender: Contender, settings: Settings, seed: int, weights: RewardWeights | None = None
) -> None:
    """Trains a finalist and lets it serve tuning and fresh users."""
    begin, run, folder = process_time(), arena.run, table.rpartition("/")[0]
    taught = contender.trained(settings, arena, arena.config.requests, seed, run.curves_path(folder), weights)
    agent, seconds = taught.agent, process_time() - begin
    curve = getattr(agent, "learning_curve_", None)
    if curve is not None and len(curve):
        points = {"agent": contender.name, "training_seed": seed, "requests": curve[:, 0], "reward": curve[:, 1]}
        run.write_table(f"{folder}/learning", pl.DataFrame(points).cast({"requests": pl.Float64, "reward": pl.Float64}))
    _keep(agent, run.agent_path(folder.removeprefix("verdict/")), contender)
    run.write_table(
        f"{folder}/tuning", arena.served(agent, contender.name, fresh=False, seed=seed, weights=weights).users
    )
    served = arena.served(agent, contender.name, fresh=True, seed=seed, role=contender.family, weights=weights)
    run.write_table(f"{folder}/exposure", served.agents)
    run.write_table(f"{folder}/interest", served.interest)
    run.write_table(
        spent_table(table),
        pl.DataFrame({"requests": [taught.requests], "seconds": [seconds], "stopped": [taught.stopped]}),
    )
    run.write_table(table, served.users)


def _keep(agent: Agent, path: Path, contender: Contender) -> None:
    """Saves what was trained; a pipeline is its ranker, which is kept already."""
    if contender.family != SUPERVISED:
        agent.save(path)


# ------------------------------------------------------------------------------------------------------------ the stages
def bound_table(world: str, name: str) -> str:
    """Lives of the fresh users under a policy of `BOUNDS`."""
    return f"verdict/bound/{world}/{name}"


def final_table(world: str, contender: Contender, seed: int, kind: str = "fresh") -> str:
    """What a finalist left."""
    return f"verdict/finals/{world}/{contender.stem}-seed{seed}/{kind}"


def measure_bounds(workshop: Workshop) -> None:
    """What can be gained in each world: random, and the oracles."""
    jobs = [Job(key, bound_table(key, name), serve_bound, (name,)) for key in workshop.arenas for name in BOUNDS]
    workshop.do("bounds", jobs)


def final_plans(worlds: Iterable[str], finalists: Finalists, config: VerdictConfig) -> list[Plan]:
    """All trainings of all finalists."""
    return [
        (key, contender, settings, config.requests, seed)
        for key in worlds
        for contender, settings in finalists
        for seed in config.training_seeds()
    ]


def finals(workshop: Workshop, finalists: Finalists, config: VerdictConfig) -> None:
    """Trains all finalists in all worlds."""
    plans = final_plans(workshop.arenas, finalists, config)
    prepare(workshop, plans, "finals")
    jobs = [
        Job(key, final_table(key, contender, seed), train_finalist, (contender, settings, seed))
        for key, contender, settings, _, seed in plans
    ]
    # the longest first, so that none is left to run alone at the end
    order = {RL: 0, "bandit": 1, CONSTANT: 2, SUPERVISED: 3}
    jobs.sort(key=lambda job: order[job.arguments[0].family])
    workshop.do("finals", jobs)


def fresh_lives(run: Run, world: str, finalists: Finalists, config: VerdictConfig) -> pl.DataFrame:
    """Lives of the fresh users of a world under the bounds and all finalists, as `Served.users`."""
    return pl.concat(
        [run.table(bound_table(world, name)) for name in BOUNDS] + _tables(run, world, finalists, config, "fresh")
    )


def exposures(run: Run, world: str, finalists: Finalists, config: VerdictConfig) -> pl.DataFrame:
    """As `Served.agents`."""
    bounds = [run.table(f"{bound_table(world, name)}/exposure") for name in BOUNDS]
    return pl.concat(bounds + _tables(run, world, finalists, config, "exposure"))


def interests(run: Run, world: str, finalists: Finalists, config: VerdictConfig) -> pl.DataFrame:
    """As `Served.interest`."""
    bounds = [run.table(f"{bound_table(world, name)}/interest") for name in BOUNDS]
    return pl.concat(bounds + _tables(run, world, finalists, config, "interest"))


def learning(run: Run, world: str, finalists: Finalists, config: VerdictConfig) -> pl.DataFrame | None:
    """Learning curves: agent, training_seed, requests, reward; None where nobody has one."""
    names = [
        final_table(world, contender, seed, "learning")
        for contender, _ in finalists
        for seed in config.training_seeds()
    ]
    curves = [run.table(name) for name in names if run.has_table(name)]
    return pl.concat(curves) if curves else None


def chosen(run: Run, world: str, finalists: Finalists, config: VerdictConfig) -> dict[str, str]:
    """Family -> its best finalist in a world, by the mean reward of the tuning users over all trainings."""
    best: dict[str, tuple[float, str]] = {}
    for contender, _ in finalists:
        tables = [run.table(final_table(world, contender, seed, "tuning")) for seed in config.training_seeds()]
        mean = float(pl.concat(tables)["reward"].to_numpy().mean())
        if contender.family not in best or mean > best[contender.family][0]:
            best[contender.family] = mean, contender.name
    return {family: name for family, (_, name) in best.items()}


def _tables(run: Run, world: str, finalists: Finalists, config: VerdictConfig, kind: str) -> list[pl.DataFrame]:
    return [
        run.table(final_table(world, contender, seed, kind))
        for contender, _ in finalists
        for seed in config.training_seeds()
    ]
