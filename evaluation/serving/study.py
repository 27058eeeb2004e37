"""All pipelines against the simulated users, part by part in a run folder; what is there is not done again.

agents/<ranker>-<training>.safetensors               fitted rankers
events/<user model>-lap<n>.parquet                   simulated traffic that the second training learns from
tables/serving/<user model>/<training>/<pipeline>/   gains for held-out rows, exposure, and, last, per-user results
tables/serving/loop/<ranker>-seed<n>                 rounds of the feedback loop
tables/recall_channels                               what each recall channel places and adds
tables/serving, serving_correlations, feedback       what tables and plots are made of
"""

from collections.abc import Callable, Mapping
from functools import cached_property, partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.base import Agent
from agents.loading import resolve_agent
from agents.pipeline import PipelineAgent
from agents.rankers.loading import shown_name
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.world import World
from evaluation.comparison import serve
from evaluation.progress import Progress
from evaluation.recall_report import tell_channels
from evaluation.runs import Run
from evaluation.serving.config import FLOOR, LOG, TRAININGS, ServingStudyConfig, pipeline_name
from evaluation.serving.correlation import rank_correlations
from evaluation.serving.events import collected_lives
from evaluation.serving.feedback import feedback_loop
from evaluation.serving.offline import HeldOutRequests
from evaluation.serving.pipelines import Pipelines
from evaluation.statistics import Measured
from evaluation.summary import summarise

ENDS = ("random", "oracle_lookahead")
"""The ends of the normalised reward."""
REFERENCE = pipeline_name(FLOOR, "greedy")
"""The pipeline that paired differences are taken to."""
WITHIN = "within_rankers"
"""Name of the correlation among re-rankers of the same ranker."""
OUTCOMES = {"reward": "reward", "engagement": "clicks"}
"""Simulated outcomes that are held against the offline measure, and their columns."""


def serving_study(
    worlds: Mapping[str, World], config: ServingStudyConfig, run: Run, progress: Progress
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Lets every pipeline serve the users of every world, after both trainings, and judges each offline too.

    Args:
        worlds: name of the user model -> its world; what policies may learn from must be the same in all.
        config: what is served, to whom.
        run: the folder.
        progress: of the parts.

    Returns:
        (pipelines: user_model, training, ranker, reranker, metric, versus, value, low, high, where `ndcg10` is the offline measure;
        correlations: user_model, training, outcome, pipelines, measure and the fields of `RankCorrelation`;
        rounds of the feedback loops, see `feedback_loop`). They are written as the tables serving, serving_correlations, feedback.

    Raises:
        ConfigurationError: if policies may learn other things in one world than in another.
    """
    study = _Study(worlds, config, run)
    for title, parts in (("pipelines", study.pipeline_parts()), ("feedback loops", study.loop_parts())):
        with progress(title, len(parts)) as report:
            for done, part in enumerate(parts):
                part()
                report(done + 1)
    tables = study.summary(), study.correlations(), study.rounds()
    for name, table in zip(("serving", "serving_correlations", "feedback"), tables, strict=True):
        run.write_table(name, table)
    return tables


class _Study:
    """The parts of a study, and what is made of them."""

    def __init__(self, worlds: Mapping[str, World], config: ServingStudyConfig, run: Run) -> None:
        self.worlds = {shown_name(name): world for name, world in worlds.items()}
        self.config, self.run = config, run
        first, *others = self.worlds.values()
        for other in others:
            if not np.array_equal(first.policy_log.item, other.policy_log.item):
                raise ConfigurationError(
                    "policies must be able to learn the same in all worlds; build them by one config."
                )
        self.policy_log = first.policy_log
        self.comparison = config.comparison().within(first)
        self.rankers = (FLOOR, *config.rankers)
        self._events: dict[str, list[InteractionLog]] = {}

    @cached_property
    def pipelines(self) -> Pipelines:
        """Fitted when the first part asks for them."""
        return Pipelines(self.policy_log, self.comparison.serving.num_candidates, self.config, self.run)

    @cached_property
    def held_out(self) -> HeldOutRequests:
        """The requests of the offline measure."""
        floor = self.pipelines.joined(self.pipelines.ranker(FLOOR), "greedy")
        return HeldOutRequests.of(self.pipelines.split, floor)

    # ------------------------------------------------------------------ doing the parts
    def pipeline_parts(self) -> list[Callable[[], None]]:
        """What recall is worth; then what is to be served: for each world the ends of the scale, then each ranker after each
        training."""
        parts: list[Callable[[], None]] = [self._tell_channels]
        parts += [partial(self._serve_ends, model) for model in self.worlds]
        for model in self.worlds:
            for training in TRAININGS:
                parts += [partial(self._serve_ranker, model, training, ranker) for ranker in self.rankers]
        return parts

    def loop_parts(self) -> list[Callable[[], None]]:
        """The feedback loops, under the first user model."""
        return [
            partial(self._loop, name, seed) for name in self.config.looped for seed in range(self.config.loop_seeds)
        ]

    def _tell_channels(self) -> None:
        tell_channels(self.pipelines.recall, self.pipelines.policy_log, self.pipelines.num_candidates, self.run)

    def _serve_ends(self, model: str) -> None:
        for name in ENDS:
            folder = f"serving/{model}/ends/{name}"
            if not self.run.has_table(f"{folder}/users"):
                agent = resolve_agent(name)(self.comparison.serving.slate_size, self.config.seed)
                self._serve(agent, name, model, folder)

    def _serve_ranker(self, model: str, training: str, name: str) -> None:
        folder = f"serving/{model}/{training}"
        names = {reranker: pipeline_name(name, reranker) for reranker in self.config.rerankers}
        missing = [reranker for reranker in names if not self.run.has_table(f"{folder}/{names[reranker]}/users")]
        if not missing:
            return
        on_log = training == LOG
        ranker = (
            self.pipelines.ranker(name) if on_log else self.pipelines.taught_ranker(name, model, self._lives(model))
        )
        for reranker in missing:
            pipeline, place = self.pipelines.joined(ranker, reranker), f"{folder}/{names[reranker]}"
            gains = {
                "user": self.held_out.user,
                "ndcg10": self.held_out.gains(pipeline),
                "found": self.held_out.found(),
            }
            self.run.write_table(f"{place}/offline", pl.DataFrame(gains))
            agent = PipelineAgent(pipeline, self.comparison.serving.slate_size)
            self._serve(agent, names[reranker], model, place)

    def _serve(self, agent: Agent, name: str, model: str, folder: str) -> None:
        served = serve(agent, self.worlds[model], self.pipelines.recall, self.comparison, name=name)
        self.run.write_table(f"{folder}/exposure", served.agents)
        self.run.write_table(f"{folder}/users", served.users)

    def _lives(self, model: str) -> list[InteractionLog]:
        if model not in self._events:
            self._events[model] = collected_lives(
                self.worlds[model], self.pipelines.recall, self.comparison, self.config.requests, self.run, model
            )
        return self._events[model]

    def _loop(self, name: str, seed: int) -> None:
        table = f"serving/loop/{shown_name(name)}-seed{seed}"
        if not self.run.has_table(table):
            world = next(iter(self.worlds.values()))
            rounds = feedback_loop(
                name, self.pipelines, world, self.comparison, rounds=self.config.loop_rounds, seed=seed
            )
            self.run.write_table(table, rounds)

    # ------------------------------------------------------------------ what is made of them
    @property
    def _grid(self) -> list[tuple[str, str]]:
        return [(ranker, reranker) for ranker in self.rankers for reranker in self.config.rerankers]

    def _tables(self, model: str, training: str, kind: str) -> list[pl.DataFrame]:
        names = [pipeline_name(*pair) for pair in self._grid]
        return [self.run.table(f"serving/{model}/{training}/{name}/{kind}") for name in names]

    def summary(self) -> pl.DataFrame:
        """The figures of all pipelines, of the ends of the scale, and the offline measure."""
        parts = []
        for model in self.worlds:
            ends = {kind: [self.run.table(f"serving/{model}/ends/{name}/{kind}") for name in ENDS] for kind in _KINDS}
            for training in TRAININGS:
                users, agents = (pl.concat([*ends[kind], *self._tables(model, training, kind)]) for kind in _KINDS)
                figures = summarise(users, agents, REFERENCE)
                offline = self._offline_figures(model, training)
                parts.append(_labelled(figures.select(offline.columns), model, training))
                parts.append(_labelled(offline, model, training))
        table = pl.concat(parts)
        pair = pl.col("agent").str.split_exact("+", 1)
        return table.with_columns(
            pair.struct.field("field_0").alias("ranker"), pair.struct.field("field_1").alias("reranker")
        ).drop("agent")

    def _offline_figures(self, model: str, training: str) -> pl.DataFrame:
        gains = self._gains(model, training)
        rows = []
        for (ranker, reranker), own in zip(self._grid, gains, strict=True):
            known = own[np.isfinite(own)]
            estimate = Measured.mean(known).estimate()
            rows.append(
                {
                    "agent": pipeline_name(ranker, reranker),
                    "metric": "ndcg10",
                    "versus": None,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                }
            )
        schema = {"agent": pl.String, "metric": pl.String, "versus": pl.String}
        return pl.DataFrame(rows, schema={**schema, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64})

    def _gains(self, model: str, training: str) -> NDArray[np.float64]:
        """[P, U] NDCG at 10 of each user's held-out row, NaN for users without one."""
        gains = np.full((len(self._grid), len(self.policy_log.users)), np.nan)
        for place, table in enumerate(self._tables(model, training, "offline")):
            gains[place, table["user"].to_numpy()] = table["ndcg10"].to_numpy()
        return gains

    def _outcomes(self, model: str, training: str, column: str) -> NDArray[np.float64]:
        """[P, U] what came of each user's life, NaN for users who were not served."""
        outcomes = np.full((len(self._grid), len(self.policy_log.users)), np.nan)
        for place, table in enumerate(self._tables(model, training, "users")):
            outcomes[place, table["user"].to_numpy()] = table[column].to_numpy()
        return outcomes

    def correlations(self) -> pl.DataFrame:
        """Rank correlations by user model, training, outcome, which pipelines, and measure.

        Of `WITHIN` both sides are less the mean of the pipelines of the same ranker: what is left are the re-rankers.
        """
        plain = self.config.rerankers[0]
        views: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
            "all": _all,
            plain: partial(_every, len(self.config.rerankers)),
        }
        if len(self.config.rerankers) > 1:
            views[WITHIN] = partial(_centred, len(self.config.rerankers))
        rows = []
        for model in self.worlds:
            for training in TRAININGS:
                gains = self._gains(model, training)
                for outcome, column in OUTCOMES.items():
                    outcomes = self._outcomes(model, training, column)
                    for which, view in views.items():
                        found = rank_correlations(
                            view(gains),
                            view(outcomes),
                            rankers=len(self.rankers),
                            draws=self.config.draws,
                            seed=self.config.seed,
                        )
                        label = {"user_model": model, "training": training, "outcome": outcome, "among": which}
                        rows += [{**label, "measure": name, **vars(own)} for name, own in found.items()]
        return pl.DataFrame(rows)

    def rounds(self) -> pl.DataFrame:
        """All rounds of all loops."""
        names = [shown_name(name) for name in self.config.looped]
        return pl.concat(
            [
                self.run.table(f"serving/loop/{name}-seed{seed}")
                for name in names
                for seed in range(self.config.loop_seeds)
            ]
        )


_KINDS = ("users", "exposure")


def _all(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P, U] as they are."""
    return values


def _every(size: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P / size, U] of each ranker's first pipeline; `size` is the number of re-rankers."""
    return values[::size]


def _centred(size: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P, U] less the mean of the `size` pipelines of the same ranker."""
    by_ranker = values.reshape(-1, size, values.shape[1])
    return (by_ranker - by_ranker.mean(axis=1, keepdims=True)).reshape(values.shape)


def _labelled(table: pl.DataFrame, model: str, training: str) -> pl.DataFrame:
    return table.select(pl.lit(model).alias("user_model"), pl.lit(training).alias("training"), pl.all())
