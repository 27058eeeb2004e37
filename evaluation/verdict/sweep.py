"""The trade-off: contenders trained anew for other rewards, what they give of each objective, and how much of the space they cover.

The best of each family, as chosen in the first world, take part. An agent is trained anew for each reward. A
supervised pipeline does not look at rewards; of its configurations that one is taken which earned most of the reward
on the tuning users in the search.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.measures import RewardWeights
from evaluation.runs import Run
from evaluation.statistics import Measured
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.contenders import SUPERVISED, Contender, Settings
from evaluation.verdict.finals import Finalists, train_finalist
from evaluation.verdict.jobs import Job, Workshop
from evaluation.verdict.search import prepare, trial_table
from evaluation.verdict.statistics import hypervolume, over_trainings_and_users, pareto_front

OBJECTIVES: Mapping[str, str] = {"engagement": "clicks", "diversity": "diversity_sum", "freshness": "fresh_clicks"}
"""What a life gives of each part of the reward, and its column; the reward is their weighted sum."""


def sweep(
    workshop: Workshop,
    world: str,
    best: Mapping[str, str],
    finalists: Finalists,
    trials: pl.DataFrame,
    config: VerdictConfig,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Trains the best of each family under every reward of `config.sweep`, and measures what they give.

    Args:
        workshop: does the work.
        world: key of the first world.
        best: family -> name, as `chosen`.
        finalists: with the configurations that they were found to be best with.
        trials: of the search.
        config: which rewards.

    Returns:
        (points: contender, family, diversity_weight, freshness_weight, on_front, and for each objective its mean per user with _low
        and _high; volumes: contender, family, objective, value, low, high, of the hypervolume (an area) of engagement and each
        other objective, above a life without any consumption).
    """
    taking_part = [
        (contender, settings) for contender, settings in finalists if best[contender.family] == contender.name
    ]
    seeds = config.training_seeds()[: config.sweep_seeds]
    settings_of = {
        (contender.name, place): _settings_for(contender, settings, weights, trials, workshop.run, world)
        for contender, settings in taking_part
        for place, weights in enumerate(config.sweep)
    }
    plans = [
        (world, contender, settings_of[contender.name, place], config.requests, seed)
        for contender, _ in taking_part
        for place in range(len(config.sweep))
        for seed in seeds
    ]
    prepare(workshop, plans, "trade-off")
    jobs = [
        Job(
            world,
            _table(world, contender, place, seed),
            train_finalist,
            (contender, settings_of[contender.name, place], seed, weights),
        )
        for contender, _ in taking_part
        for place, weights in enumerate(config.sweep)
        for seed in seeds
    ]
    workshop.do("trade-off", jobs)
    outcomes = {
        contender: np.stack(
            [
                np.stack([_objectives(workshop.run.table(_table(world, contender, place, seed))) for seed in seeds])
                for place in range(len(config.sweep))
            ],
            axis=1,
        )
        for contender, _ in taking_part
    }
    return _points(outcomes, config), _volumes(outcomes, config)


def _table(world: str, contender: Contender, place: int, seed: int) -> str:
    return f"verdict/sweep/{world}/{contender.stem}-reward{place}-seed{seed}/fresh"


def _settings_for(
    contender: Contender, settings: Settings, weights: RewardWeights, trials: pl.DataFrame, run: Run, world: str
) -> Settings:
    """The configuration for a reward."""
    if contender.family != SUPERVISED:
        return settings
    own = trials.filter(pl.col("contender") == contender.name)
    # trials of the same rung learnt from as many events; the first rung has all configurations
    earned = []
    for row in own.filter(pl.col("rung") == 0).iter_rows(named=True):
        lives = run.table(trial_table(world, contender, 0, row["configuration"]))
        given = _objectives(lives).mean(axis=0)
        earned.append(given @ [weights.engagement, weights.diversity, weights.freshness])
    return dict(json.loads(own.filter(pl.col("rung") == 0)["settings"][int(np.argmax(earned))]))


def _objectives(lives: pl.DataFrame) -> NDArray[np.float64]:
    """[U, M] what each user's life gave."""
    return lives.sort("user").select(*OBJECTIVES.values()).to_numpy().astype(np.float64)


def _points(outcomes: Mapping[Contender, NDArray[np.float64]], config: VerdictConfig) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    means = []
    for contender, values in outcomes.items():
        for place, weights in enumerate(config.sweep):
            row: dict[str, Any] = {
                "contender": contender.name,
                "family": contender.family,
                "diversity_weight": weights.diversity,
                "freshness_weight": weights.freshness,
            }
            for number, objective in enumerate(OBJECTIVES):
                estimate = Measured.mean(values[:, place, :, number]).estimate()
                row |= {objective: estimate.value, f"{objective}_low": estimate.low, f"{objective}_high": estimate.high}
            rows.append(row)
            means.append([row[objective] for objective in OBJECTIVES])
    front = pareto_front(np.array(means))
    return pl.DataFrame([{**row, "on_front": bool(flag)} for row, flag in zip(rows, front, strict=True)])


def _volumes(outcomes: Mapping[Contender, NDArray[np.float64]], config: VerdictConfig) -> pl.DataFrame:
    rows = []
    for contender, values in outcomes.items():
        users = values.shape[2]
        for number, objective in list(enumerate(OBJECTIVES))[1:]:
            plane = values[..., [0, number]]

            def statistic(weights: NDArray[np.float64], plane: NDArray[np.float64] = plane) -> NDArray[np.float64]:
                # [S, P, U, 2] and [D, U] -> [S, D, P, 2]
                points = np.einsum("spum,du->sdpm", plane, weights, optimize=True) / plane.shape[2]
                return hypervolume(points, np.zeros(2))

            estimate = over_trainings_and_users(statistic, users, draws=config.draws, seed=config.seed)
            label = {"contender": contender.name, "family": contender.family, "objective": objective}
            rows.append({**label, "value": estimate.value, "low": estimate.low, "high": estimate.high})
    return pl.DataFrame(rows)
