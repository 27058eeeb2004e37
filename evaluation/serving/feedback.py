"""The feedback loop: a pipeline learns from the traffic that it has itself chosen, round after round."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.base import Agent
from agents.heuristics import Random
from agents.pipeline import PipelineAgent
from agents.rankers.loading import shown_name
from envs.catalogue import SECONDS_PER_DAY
from envs.event_log import EventLog
from envs.world import World
from evaluation.comparison import ComparisonConfig, serve
from evaluation.serving.config import CONTROL
from evaluation.serving.events import lives_log
from evaluation.serving.pipelines import Pipelines

LOOP_SEED_OFFSET = 3_000_017
"""Added to the run's seed for the lives of the feedback loop."""
_SEED_STRIDE = 1_009
LOOP_MEASURES = ("engagement", "coverage", "gini", "jaccard", "cosine")
"""Columns of `feedback_loop`."""


def feedback_loop(
    ranker: str,
    pipelines: Pipelines,
    world: World,
    config: ComparisonConfig,
    *,
    rounds: int,
    seed: int,
    report: Callable[[], None] = lambda: None,
) -> pl.DataFrame:
    """Lets one pipeline (greedy) serve the same users from the same start again and again, learning from each round's traffic.

    Recall and ranker learn. Users begin anew in each round, under other draws, so what changes from round to round is the pipeline.
    The draws of a round are the same for all rankers.

    Args:
        ranker: its name, or `CONTROL` for a policy that shows candidates in random order.
        pipelines: fitted to the log.
        world: where users start.
        config: whom it serves.
        rounds: R, times that it learns; the rounds are numbered 0 to R, and 0 is before it has learnt.
        seed: number of the repetition.
        report: called after each round.

    Returns:
        One row a round: ranker, seed, round, and `LOOP_MEASURES`: items consumed per user; share of the catalogue shown; Gini of
        exposure; `likeness` of what users consumed.
    """
    is_control = ranker == CONTROL
    recall = pipelines.new_recall()
    pipeline = None if is_control else pipelines.joined(pipelines.ranker(ranker), "greedy", recall)
    slate_size = config.serving.slate_size
    agent: Agent = Random(slate_size, seed) if pipeline is None else PipelineAgent(pipeline, slate_size)
    rows = []
    for number in range(rounds + 1):
        lives_seed = config.seed + LOOP_SEED_OFFSET + _SEED_STRIDE * seed + number
        served = serve(
            agent,
            world,
            recall,
            replace(config, record_events=True, traced_users=0),
            name=shown_name(ranker),
            lives_seed=lives_seed,
        )
        consumed = consumption(served.events, world.num_users, world.num_items)
        jaccard, cosine = likeness(consumed)
        rows.append(
            {
                "ranker": shown_name(ranker),
                "seed": seed,
                "round": number,
                "engagement": float(served.users["clicks"].to_numpy().mean()),
                "coverage": float(served.agents["coverage"][0]),
                "gini": float(served.agents["gini"][0]),
                "jaccard": jaccard,
                "cosine": cosine,
            }
        )
        if number < rounds:
            # recall fades by date, so rounds follow one another there
            later = number * world.config.days * SECONDS_PER_DAY
            recall.update(served.events.to_log(world.policy_log, world.reference_time + int(later)))
            if pipeline is not None:
                pipeline.ranker.update(lives_log(served.events, world), remember=False)
        report()
    return pl.DataFrame(rows)


def consumption(events: EventLog, num_users: int, num_items: int) -> NDArray[np.bool_]:
    """[N, I] whether each user with events consumed each item."""
    table = events.table
    user, item = table["user"].to_numpy() % num_users, table["item"].to_numpy()
    _, place = np.unique(user, return_inverse=True)
    consumed = np.zeros((int(place.max(initial=-1)) + 1, num_items), bool)
    consumed[place[item >= 0], item[item >= 0]] = True
    return consumed


def likeness(consumed: NDArray[np.bool_]) -> tuple[float, float]:
    """(mean Jaccard index, mean cosine) over all pairs of users who consumed anything; NaN where there are fewer than two.

    Both count items in common; Jaccard's index divides by the items of either, the cosine by the geometric mean of each one's
    number, so it hangs less on how much users consume.

    Args:
        consumed: [N, I].

    Source: Chaney, Stewart and Engelhardt (2018), How algorithmic confounding in recommendation systems increases homogeneity and
    decreases utility, section 4.2, which takes Jaccard's index.
    """
    some = consumed[consumed.any(axis=1)].astype(np.float64)
    if len(some) < 2:
        return float("nan"), float("nan")
    common, number = some @ some.T, some.sum(axis=1)
    pairs = np.triu_indices(len(some), 1)
    either = (number[:, None] + number[None, :] - common)[pairs]
    size = np.sqrt(np.outer(number, number))[pairs]
    return float((common[pairs] / either).mean()), float((common[pairs] / size).mean())
