"""Rankers fitted once, joined with every re-ranker over one recall. All of it learns from what policies may know."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agents.pipeline import Pipeline, PipelineConfig
from agents.pipeline.served_users import ServedUsers
from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker, shown_name
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.popularity import Popularity
from agents.rerankers import RERANKERS
from envs.logs.schema import InteractionLog
from evaluation.ranking.splits import Split, leave_last_out
from evaluation.runs import Run
from evaluation.serving.config import FLOOR, LOG, LOG_AND_EVENTS, ServingStudyConfig
from recall import MergedRecall


class Pipelines:
    """The pipelines of a study: all rankers with all re-rankers over one recall, fitted to one log.

    The last two items of each user are held out from the fits, for early stopping and for the offline measure, so that the very
    pipelines that serve are the ones that are judged offline.

    Args:
        policy_log: what policies may learn from, of the world that they will serve.
        num_candidates: C.
        config: of the study.
        run: keeps the fitted rankers.
    """

    def __init__(self, policy_log: InteractionLog, num_candidates: int, config: ServingStudyConfig, run: Run) -> None:
        self.num_candidates, self.config, self.run = num_candidates, config, run
        if config.learnt_users is not None:
            policy_log = policy_log.where(policy_log.user < config.learnt_users)
        self.split: Split = leave_last_out(policy_log)
        self.policy_log = policy_log
        self.recall = self.new_recall()
        self.served = ServedUsers.of(policy_log.where(~self.split.test))

    def new_recall(self) -> MergedRecall:
        """Recall fitted to the log, for those who want to let it learn on."""
        return PipelineConfig(seed=self.config.seed).make_recall().fit(self.split.training_log)

    def joined(self, ranker: Ranker, reranker: str, recall: MergedRecall | None = None) -> Pipeline:
        """A pipeline of fitted parts."""
        pipeline = Pipeline(PipelineConfig(reranker=reranker, candidates=self.num_candidates))
        pipeline.recall, pipeline.ranker, pipeline.served = recall or self.recall, ranker, self.served
        pipeline.reranker = RERANKERS[reranker]().fit(self.split.training_log)
        return pipeline

    def ranker(self, name: str) -> Ranker:
        """A ranker fitted to the log; from the run folder if it is there."""

        def fit() -> Ranker:
            folder = self.run.curves_path(f"serving/{shown_name(name)}")
            return self._new(name).fit(self.split.training_log, self.split.validation_log, folder=folder)

        return self._kept(name, LOG, fit)

    def taught_ranker(self, name: str, user_model: str, events: list[InteractionLog]) -> Ranker:
        """A ranker fitted to the log that has then learnt from simulated lives of users under `user_model`.

        Args:
            name: of the ranker.
            user_model: names the file.
            events: logs of lives from the same start, one life of a user in each.
        """

        def teach() -> Ranker:
            ranker = self.ranker(name)
            for lives in events:
                ranker.update(lives, remember=False)
            return ranker

        return self._kept(name, f"{LOG_AND_EVENTS}-{shown_name(user_model)}", teach)

    def _new(self, name: str) -> Ranker:
        kind = _kind(name)
        own: Any = kind.config_class()
        own = replace(own, samples=replace(own.samples, debias=self.config.debias))
        if isinstance(own, NetworkRankerConfig):
            # one pass over events as large as the log, by the steps of the fit: the small ones of online updates would hardly move
            training = replace(own.training, update_learning_rate=own.training.learning_rate)
            if self.config.epochs is not None:
                training = replace(training, epochs=self.config.epochs)
            own = replace(own, training=training)
        return kind(own, self.config.seed)

    def _kept(self, name: str, training: str, make: Callable[[], Ranker]) -> Ranker:
        path = self.run.agent_path(f"{shown_name(name)}-{training}.safetensors")
        if not path.exists():
            make().save(path)
        # what was saved is used, also in the run that saved it: a run that goes on gives the same bits
        return _kind(name).load(path, self.policy_log.catalogue)


def _kind(name: str) -> type[Ranker]:
    return Popularity if name == FLOOR else resolve_ranker(name)
