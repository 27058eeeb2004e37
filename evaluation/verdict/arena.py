"""Where contenders learn and serve: a world, its recall, its three kinds of users, and the rankers that are fitted but once.

agents/rankers/<log>/<ranker>-seed<n>                  rankers fitted to a log, shared by all who build on them
agents/<world>/taught/<ranker>-<lessons>-...           rankers that have learnt from simulated events, too
events/, tables/serving/events/                        these events
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Training
from agents.pipeline import PipelineConfig
from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker, shown_name
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.popularity import Popularity
from envs.artefacts import content_hash, written_whole
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights
from envs.randomness import Purpose, draw_uniform
from envs.world import World
from evaluation.comparison import ComparisonConfig, Served, serve, split_users
from evaluation.progress import Progress
from evaluation.runs import Run
from evaluation.serving.config import FLOOR
from evaluation.serving.events import collected_lives
from evaluation.traffic import CountedTraffic
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.worlds import Entry
from recall import MergedRecall

TUNING_SHARE = 1 / 3
"""Of the users who are not trained on, the share that is tuned on; the others are fresh."""
TUNING_SEED_OFFSET = 4_000_037
"""Added to the seed for lives that are tuned on."""
LESSONS = {
    "log": "the log alone",
    "events": "the log, then simulated events by the steps of the fit",
    "events_gently": "the log, then simulated events by the small steps of an online update",
    "events_debiased": "as events, each weighed by one over the chance with which it was shown",
}
"""What a ranker of a supervised pipeline may learn from."""


@dataclass(frozen=True)
class Arena:
    """A world in which contenders are trained and measured; pickles, so that Ray tasks share it."""

    key: str
    world: World
    recall: MergedRecall
    config: VerdictConfig
    run: Run

    @cached_property
    def comparison(self) -> ComparisonConfig:
        """How lives are served."""
        return self.config.comparison().within(self.world)

    # ------------------------------------------------------------------ users
    @property
    def tuning_users(self) -> NDArray[np.int64]:
        """[T] whom configurations are chosen by."""
        return self._evaluation_users[0][: self.config.tuning_users]

    @property
    def fresh_users(self) -> NDArray[np.int64]:
        """[F] whom all is measured on."""
        return self._evaluation_users[1][: self.config.fresh_users]

    @cached_property
    def _evaluation_users(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        _, others = split_users(self.world, self.config.seed)
        order = np.argsort(draw_uniform(self.config.seed, Purpose.SPLIT, others, 2), kind="stable")
        cut = max(int(len(others) * TUNING_SHARE), 2)
        return others[order[:cut]], others[order[cut:]]

    def served(
        self,
        agent: Agent,
        name: str,
        *,
        fresh: bool,
        seed: int = 0,
        role: str | None = None,
        weights: RewardWeights | None = None,
    ) -> Served:
        """Lives of the fresh users under an agent, or of the tuning users, under draws of their own each."""
        config = self.comparison if weights is None else self.rewarded(weights)
        config = replace(config, traced_users=self.config.traced_users if fresh else 0)
        return serve(
            agent,
            self.world,
            self.recall,
            config,
            name=name,
            role=role,
            training_seed=seed,
            users=np.sort(self.fresh_users if fresh else self.tuning_users),
            lives_seed=None if fresh else self.config.seed + TUNING_SEED_OFFSET,
        )

    # ------------------------------------------------------------------ what is learnt from
    def rewarded(self, weights: RewardWeights) -> ComparisonConfig:
        """How lives are served under another reward."""
        return replace(self.comparison, serving=replace(self.comparison.serving, reward_weights=weights))

    def lessons(
        self, requests: int, seed: int, folder: Path, weights: RewardWeights | None = None
    ) -> tuple[Training, CountedTraffic]:
        """(simulated traffic of the training users, its counter)."""
        config = self.comparison if weights is None else self.rewarded(weights)
        traffic = CountedTraffic(self.world, self.recall, config, seed)
        return Training(make_env=traffic.make_env, requests=requests, seed=seed, folder=folder), traffic

    def events(self, requests: int, seed: int) -> list[InteractionLog]:
        """The first `requests` of what training users live through under a policy that tries things out and says with which chance.

        Users come in an order that is drawn, one life after another; smaller numbers give the beginning of what larger ones give.
        The traffic is simulated once for all who learn from it, and may be larger than what anybody learns from.
        """
        name = f"{self.key}-seed{seed}"
        laps = collected_lives(self.world, self.recall, self.comparison, self.config.requests, self.run, name, seed)
        cut = []
        for lap in laps:
            cut.append(first_requests(lap, requests, self.config.seed + seed))
            requests -= count_requests(cut[-1])
        return [lap for lap in cut if len(lap)]

    # ------------------------------------------------------------------ rankers
    @cached_property
    def _log_key(self) -> str:
        log = self.world.policy_log
        arrays: dict[str, NDArray[Any]] = {
            "user": log.user,
            "item": log.item,
            "timestamp": log.timestamp,
            "categories": log.catalogue.categories,
        }
        return f"{log.name}-{content_hash(arrays, {'users': len(log.users)})[:10]}"

    def ranker_path(self, spec: str, seed: int) -> Path:
        """Where a ranker that was fitted to this world's log lies."""
        return self.run.agent_path(f"rankers/{self._log_key}/{shown_name(spec)}-seed{seed}")

    def ranker(self, spec: str, seed: int) -> Ranker:
        """A ranker fitted to the log, from the run folder where it is there."""
        kind, path = ranker_class(spec), self.ranker_path(spec, seed)
        if not path.exists():
            own: Any = kind.config_class()
            if self.config.epochs is not None and isinstance(own, NetworkRankerConfig):
                own = replace(own, training=replace(own.training, epochs=self.config.epochs))
            kind(own, seed).fit(self.world.policy_log).save(path)
        # what was saved is used, also in the run that saved it: a run that goes on gives the same bits
        return kind.load(path, self.world.policy_log.catalogue)

    def taught_ranker(self, spec: str, lessons: str, requests: int, seed: int) -> Ranker:
        """A ranker after one of `LESSONS`, from the run folder where it is there."""
        if lessons == "log":
            return self.ranker(spec, seed)
        kind = ranker_class(spec)
        path = self.run.agent_path(f"{self.key}/taught/{shown_name(spec)}-{lessons}-{requests}-seed{seed}")
        if not path.exists():
            ranker = self.ranker(spec, seed)
            own = replace(ranker.config, samples=replace(ranker.config.samples, debias=lessons == "events_debiased"))
            if isinstance(own, NetworkRankerConfig) and lessons != "events_gently":
                own = replace(own, training=replace(own.training, update_learning_rate=own.training.learning_rate))
            ranker.config = own
            for lives in self.events(requests, seed):
                ranker.update(lives, remember=False)
            ranker.save(path)
        return kind.load(path, self.world.policy_log.catalogue)

    def lend_ranker(self, spec: str, seed: int, path: Path) -> None:
        """Copies a fitted ranker to where an agent that builds on it finds it."""
        self.ranker(spec, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            copyfile(self.ranker_path(spec, seed), temporary)


def ranker_class(spec: str) -> type[Ranker]:
    """The class of a ranker; popularity is one, too."""
    return Popularity if spec == FLOOR else resolve_ranker(spec)


def arenas_of(worlds: Sequence[Entry], config: VerdictConfig, run: Run, progress: Progress) -> dict[str, Arena]:
    """Makes the worlds and fits the recall of each.

    Raises:
        ConfigurationError: if a world has too few items for a slate, or too few users to train, to tune and to measure on.
    """
    arenas = {}
    # workers may have another working folder
    run = Run(run.folder.resolve(), run.subcommand, run.config)
    with progress("worlds", len(worlds)) as report:
        for done, entry in enumerate(worlds, start=1):
            world = entry.make()
            recall = PipelineConfig(seed=config.seed).make_recall().fit(world.policy_log)
            arena = Arena(entry.key, world, recall, config, run)
            if len(arena.fresh_users) < 2 or len(arena.tuning_users) < 2:
                raise ConfigurationError(
                    f"world '{entry.key}' has {len(world.simulated_users)} users; to train, tune and measure on takes 8."
                )
            arenas[entry.key] = arena
            report(done)
    return arenas


def count_requests(lap: InteractionLog) -> int:
    """Requests in a log with exposures."""
    return len(np.unique(lap.request))


def first_requests(lap: InteractionLog, requests: int, seed: int) -> InteractionLog:
    """The rows of at most `requests` requests: whole lives of users in an order that is drawn, and the beginning of one more."""
    number, first, row = np.unique(lap.request, return_index=True, return_inverse=True)
    turn = draw_uniform(seed, Purpose.SPLIT, lap.user[first], 3)
    order = np.lexsort((number, lap.timestamp[first], lap.user[first], turn))
    kept = np.zeros(len(number), bool)
    kept[order[: max(requests, 0)]] = True
    return lap.where(kept[row])
