"""Where contenders learn and serve: a world, its recall, its three kinds of users, and the rankers that are fitted but once.

agents/rankers/<log>/<ranker>-seed<n>                  rankers fitted to a log, shared by all who build on them
agents/<world>/taught/<ranker>-<lessons>-...           rankers that have learnt from simulated events, too
events/, tables/serving/events/                        these events
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Training
from agents.pipeline import PipelineConfig
from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker, shown_name
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.popularity import Popularity
from agents.rankers.sequence_ranker import SequenceRankerConfig
from agents.sampled import Sampled
from envs.artefacts import content_hash
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights
from envs.randomness import Purpose, draw_uniform
from envs.world import World
from evaluation.comparison import ComparisonConfig, Served, serve, split_users
from evaluation.progress import Progress
from evaluation.runs import Run
from evaluation.serving.config import FLOOR
from evaluation.serving.events import TRAINING_STRIDE, collected_lives, lives_log, recorded
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
    "events_debiased": "as events, each weighed by one over the chance with which it was shown",
    "events_own": "as events, but from slates that are drawn by its own scores, learnt from round by round",
}
"""What a ranker of a supervised pipeline may learn from."""
OWN_ROUNDS = 4
"""Equal parts of the events of `events_own`; each is served by the ranker that has learnt from those before it."""
OWN_SEED_OFFSET = 5_000_011
"""Added to the seed for these lives."""
_SHORT_LIFE = 8
"""Requests of a life, if lives are short: of so many users lives are simulated that this would be enough."""


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
        training = Training(
            make_env=traffic.make_env, requests=requests, seed=seed, folder=folder, rankers=self._rankers_path
        )
        return training, traffic

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

    def own_events(self, ranker: Ranker, requests: int, seed: int) -> Iterator[InteractionLog]:
        """What training users live through under slates drawn by a ranker that learns from each log before it asks for the next.

        The logs have `requests` requests in all, the same number in each of `OWN_ROUNDS` rounds. A round has a second log where the
        first lives were too few.
        """
        training, _ = split_users(self.world, self.config.seed)
        lap_seed = self.config.seed + OWN_SEED_OFFSET + TRAINING_STRIDE * seed
        ends = [requests * number // OWN_ROUNDS for number in range(OWN_ROUNDS + 1)]
        for missing in np.diff(ends).tolist():
            while missing:
                users = training[np.argsort(_turn(training, lap_seed), kind="stable")][: -(-missing // _SHORT_LIFE)]
                agent = Sampled(self.comparison.serving.slate_size, lap_seed, ranker=ranker)
                served = recorded(agent, self.world, self.recall, self.comparison, np.sort(users), lap_seed)
                lap = first_requests(lives_log(served.events, self.world), missing, lap_seed)
                yield lap
                missing -= count_requests(lap)
                lap_seed += 1

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
        return self._rankers_path / f"{shown_name(spec)}-seed{seed}"

    @cached_property
    def _rankers_path(self) -> Path:
        return self.run.agent_path(f"rankers/{self._log_key}")

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
            if isinstance(own, NetworkRankerConfig):
                own = replace(own, training=replace(own.training, update_learning_rate=own.training.learning_rate))
            if isinstance(own, SequenceRankerConfig):
                # over the whole catalogue they would learn what was shown instead of what is liked of it
                own = replace(own, within_slates=True)
            ranker.config = own
            learnt = self.own_events(ranker, requests, seed) if lessons == "events_own" else self.events(requests, seed)
            for lives in learnt:
                ranker.update(lives, remember=False)
            ranker.save(path)
        return kind.load(path, self.world.policy_log.catalogue)

    def spent(self, lessons: str, requests: int, seed: int) -> int:
        """Simulated events that a ranker has learnt from in one of `LESSONS`."""
        if lessons in ("log", "events_own"):
            return 0 if lessons == "log" else requests
        return sum(map(count_requests, self.events(requests, seed)))


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
    order = np.lexsort((number, lap.timestamp[first], lap.user[first], _turn(lap.user[first], seed)))
    kept = np.zeros(len(number), bool)
    kept[order[: max(requests, 0)]] = True
    return lap.where(kept[row])


def _turn(users: NDArray[np.integer], seed: int) -> NDArray[np.float32]:
    """Numbers by whose order users' lives are learnt from."""
    return draw_uniform(seed, Purpose.SPLIT, users, 3)
