"""Simulated traffic to learn from: lives of training users under a policy that says with which probability it showed what."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.base import Agent
from agents.sampled import Sampled
from envs.candidate_source import CandidateSource
from envs.event_log import EventLog
from envs.logs.schema import InteractionLog
from envs.world import World
from evaluation.comparison import ComparisonConfig, Served, serve, split_users
from evaluation.runs import Run

LAP_SEED_OFFSET = 2_000_003
"""Added to the run's seed for the lives that are learnt from."""
TRAINING_STRIDE = 10_007
"""Added to it for each training seed; far more than there are laps."""


def collected_lives(
    world: World,
    recall: CandidateSource,
    config: ComparisonConfig,
    requests: int,
    run: Run,
    folder: str,
    training_seed: int = 0,
) -> list[InteractionLog]:
    """Lets training users live under the policy `Sampled`, lap after lap under other draws, until it has spent `requests`.

    The last lap has so many users as the mean life needs for what is left, so the number of requests is met about. What is in the
    run folder is not simulated again.

    Args:
        world: where users start.
        recall: the candidate source.
        config: tells training users from evaluation users, and how the environment is made.
        requests: about how many in all.
        run: keeps the event logs.
        folder: their name there.
        training_seed: other seeds give other lives of the same users.

    Returns:
        A log for each lap, as `lives_log` makes it.
    """
    table = f"serving/events/{folder}"
    if not run.has_table(table):
        training, _ = split_users(world, config.seed)
        spent, users = 0, training
        rows: list[dict[str, int]] = []
        while len(users):
            seed = config.seed + LAP_SEED_OFFSET + TRAINING_STRIDE * training_seed + len(rows)
            agent = Sampled(config.serving.slate_size, seed)
            served = recorded(agent, world, recall, config, users, seed)
            served.events.write(run.events_path(f"{folder}-lap{len(rows)}"))
            lap = int(served.users["requests"].sum())
            rows.append({"users": len(users), "requests": lap, "clicks": int(served.users["clicks"].sum())})
            spent += lap
            more = round((requests - spent) / (spent / sum(row["users"] for row in rows)))
            users = training[:: max(len(training) // max(more, 1), 1)][:more] if more > 0 else training[:0]
        run.write_table(table, pl.DataFrame(rows))
    laps = len(run.table(table))
    return [lives_log(EventLog.read(run.events_path(f"{folder}-lap{lap}")), world) for lap in range(laps)]


def recorded(
    agent: Agent,
    world: World,
    recall: CandidateSource,
    config: ComparisonConfig,
    users: NDArray[np.int64],
    lives_seed: int,
) -> Served:
    """Lives of users [N], ascending, with the event log that is learnt from."""
    config = replace(config, record_events=True, traced_users=0)
    return serve(agent, world, recall, config, name=agent.name, users=users, lives_seed=lives_seed)


def lives_log(events: EventLog, world: World) -> InteractionLog:
    """Lives as rows that go on from each user's last row of the policies' log, as the environment has them do.

    A life begins on day 0 of the run, whatever the date of its user's last row: the environment tells histories as if that row had
    just been. So that a ranker is taught by histories of the ages that it will be asked with, the rows of each user are moved back
    to its own last row.
    """
    log = events.to_log(world.policy_log, world.reference_time)
    if not len(log):
        return log
    past = world.policy_log.consumed()
    last = np.full(len(past.users), world.reference_time, np.int64)
    known = np.flatnonzero(np.diff(past.user_starts))
    last[known] = past.timestamp[past.user_starts[known + 1] - 1] - world.start_second[known].astype(np.int64)
    return replace(log, timestamp=log.timestamp + (last - world.reference_time)[log.user])
