"""What the bandits share: how they learn from traffic, serve, go on learning, and are saved. They differ in how they explore."""

from abc import abstractmethod
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from agents.actions.ranker_scores import RankerScores
from agents.bandits.belief import LinearBelief
from agents.bandits.features import BanditFeatures
from agents.base import Agent, Training, TrainingStopped
from agents.matching import matches, requests_of
from agents.rerankers import best_first
from agents.rl.checkpoints import Checkpoints, Progress
from agents.rl.served import LearningCurve, check_data_set, checked_training, fingerprint
from agents.rl.traffic import read_learner, write_learner
from agents.summary import PublicItems
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights
from envs.observation import Observation
from envs.randomness import Purpose, draw_normal
from envs.slate_env import SlateVectorEnv

BLOCK_ROWS = 128
"""Requests scored at a time: bounds memory, and a matrix product's last bits depend on its shape."""


@dataclass(frozen=True, kw_only=True)
class BanditOptions:
    """Settings that all bandits have."""

    rankers: tuple[str, ...] = ("sasrec",)
    """Rankers, fitted to the policy's log, whose scores are among the features: names, or 'file.py:Class'."""
    num_envs: int = 256
    """Users simulated side by side; one vector step of them is one update of the belief."""
    ridge: float = 1.0
    """Weight of the prior, in rows."""
    explores_when_serving: bool = False
    """Whether `act` goes on exploring after training; else it shows what is best by the mean of the belief."""
    remembered: int = 20_000
    """Served requests whose features are kept for `update`, at most (the newest)."""
    reward_weights: RewardWeights = field(default_factory=RewardWeights)
    """Of the reward that `update` makes of events, which tell only what was consumed; in training the reward is told."""
    iteration: int = 2_000
    """Requests between two points of the learning curve."""


class BanditAgent(Agent):
    """Ranks candidates by the reward that showing each is thought to earn in this request, linear in the candidate's features.

    All items share one vector of weights (the shared part of the hybrid model of Li et al. 2010, section 3.2): of weights of each
    item's own (the disjoint model) most would be learnt from a handful of requests, and those of items born in the run from none.
    A shown item earns the request's reward if it was consumed, and 0 if it was passed over; a vector step of N users is one
    batched update, so all of them are served by the same belief.

    Args:
        slate_size: K.
        seed: of draws in serving; training takes its seed from `Training`.
        options: see the subclass.
    """

    options_class: ClassVar[type[Any]] = BanditOptions
    """Frozen dataclass of the bandit's settings."""

    def __init__(self, slate_size: int = 10, seed: int = 0, options: Any = None) -> None:
        super().__init__(slate_size, seed)
        self.options = self.options_class() if options is None else options
        self.learning_curve_: NDArray[np.float64] = np.zeros((0, 2))
        self._shown: list[_Shown] = []

    @abstractmethod
    def explored(
        self,
        features: NDArray[np.float32],
        mean: NDArray[np.float64],
        root: NDArray[np.float64],
        noise: NDArray[np.floating],
    ) -> NDArray[np.float64]:
        """[N, C] scores by which the bandit explores.

        Args:
            features: [N, C, D].
            mean: [D] of the belief.
            root: [D, D], see `LinearBelief.root`.
            noise: [N, D] standard normal draws, of each request its own.
        """

    tells_propensities: ClassVar[bool]
    """Whether slates shown while exploring are certain given the belief, so that their propensities are known (as 1)."""

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Fits the rankers to the policy's log, and learns from simulated traffic; goes on from a checkpoint in `training.folder`.

        Raises:
            AgentError: if there is no traffic to learn from.
            TrainingStopped: if a reward is not finite; the belief, and the newest checkpoint, are of before.
            ArtefactError: if the folder's checkpoint is damaged, or one of another training.
            ConfigurationError: if a ranker cannot be found, or no request may be spent.
        """
        training = checked_training(self.name, training)
        rankers = RankerScores.for_training(self.options.rankers, log, training)
        self._begin(BanditFeatures(PublicItems.from_log(log), rankers), fingerprint(log))
        curve = LearningCurve(training.report)
        with ExitStack() as opened:
            writer = opened.enter_context(SummaryWriter(str(training.folder))) if training.folder is not None else None
            try:
                self._learn(training, curve, writer)
            finally:
                self.learning_curve_ = curve.points()
        return self

    def act(self, observation: Observation) -> NDArray[np.int64] | tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Slates [N, K], with propensities [N, K] of 1 where the choice is certain; a row does not depend on the others.

        Raises:
            AgentError: if the agent is not trained, or was trained on data of another shape.
        """
        self._need_training("call fit or load first")
        exploring, slates = self.options.explores_when_serving, np.zeros((len(observation), self.slate_size), np.int64)
        for start in range(0, len(observation), BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, len(observation)))
            part = observation.take(rows)
            features = self.features_.of(part)
            noise = self._noise(part) if exploring else np.zeros((len(rows), features.shape[2]))
            slates[rows] = self._slates(part, features, noise, exploring)
            self._remember(part, slates[rows], features)
        if exploring and not self.tells_propensities:
            return slates
        return slates, np.ones(slates.shape, np.float32)

    def update(self, events: InteractionLog) -> None:
        """Learns from events (exposures included) of requests that this agent served since the last update.

        A request is recognised by its user and slate, and is learnt with the features that it had when it was served; events of
        other policies' requests are left aside.
        """
        self._need_training("fit or load it before it is updated")
        if not self._shown or not len(events):
            return
        shown = _Shown.together(self._shown)
        asked, clicked = requests_of(events, self.slate_size)
        of_shown, of_asked = matches(np.column_stack([shown.user, shown.items]), asked)
        weights, features = self.options.reward_weights, shown.features[of_shown]
        payoff = (
            weights.engagement
            + weights.diversity * self.features_.diversity(features)
            + weights.freshness * self.features_.freshness(features)
        )
        self._take_in(features, payoff * clicked[of_asked], shown.items[of_shown] >= 0)
        self._shown = [shown.take(np.setdiff1d(np.arange(len(shown.user)), of_shown))]

    def save(self, path: Path) -> None:
        """Writes the agent and its rankers to one file, whole or not at all.

        Raises:
            AgentError: if the agent is not trained.
        """
        self._need_training("so there is nothing to save; call fit first")
        save_arrays(
            path,
            f"agent {type(self).__name__}",
            {
                "popularity": self.features_.items.popularity,
                "categories": self.features_.items.categories,
                "precision": self.belief_.precision,
                "earned": self.belief_.earned,
                "learning_curve": self.learning_curve_,
                **self.features_.rankers.arrays(),
            },
            {
                "slate_size": self.slate_size,
                "seed": self.seed,
                "options": asdict(self.options),
                "data": self.data_,
            },
        )

    @classmethod
    def load(cls, path: Path, log: InteractionLog | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            path: the file.
            log: the log that the agent is to serve, if it shall be checked that it was trained on that data set.

        Raises:
            ArtefactError: if the file is damaged, holds another agent, or one of another data set.
        """
        arrays, configuration = load_arrays(path, f"agent {cls.__name__}")
        try:
            options: dict[str, Any] = dict(configuration["options"])
            options["rankers"] = tuple(options["rankers"])
            options["reward_weights"] = RewardWeights(**options["reward_weights"])
            agent = cls(configuration["slate_size"], configuration["seed"], cls.options_class(**options))
            rankers = RankerScores.from_arrays(agent.options.rankers, arrays)
            items = PublicItems(arrays["popularity"], arrays["categories"])
            agent._begin(BanditFeatures(items, rankers), configuration["data"])
            blank = agent.belief_
            agent.belief_ = LinearBelief(arrays["precision"], arrays["earned"])
            agent.learning_curve_ = arrays["learning_curve"].reshape(-1, 2)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"'{path}' is not a whole '{cls.name}' agent ({error}); train it again.") from error
        if agent.belief_.precision.shape != blank.precision.shape or agent.belief_.earned.shape != blank.earned.shape:
            raise ArtefactError(f"'{path}' holds a '{cls.name}' agent whose parts do not fit together; train it again.")
        check_data_set(path, agent.name, agent.data_, log)
        return agent

    # ------------------------------------------------------------------ learning
    def _begin(self, features: BanditFeatures, data: str) -> None:
        self.features_, self.data_ = features, data
        self.belief_ = LinearBelief.blank(len(features.names()), self.options.ridge)
        self.__dict__.pop("_solved", None)

    def _learn(self, training: Training, curve: LearningCurve, writer: SummaryWriter | None) -> None:
        """Serves training users until the budget is spent; where it ends inside a vector step, the surplus is not learnt from."""
        spent, earned, since = 0, 0.0, 0
        lesson = _Lesson(
            self.belief_,
            np.random.default_rng(training.seed),
            training.make_env(min(self.options.num_envs, training.requests), AutoresetMode.NEXT_STEP),
        )
        checkpoints = Checkpoints.of(self, training, len(self.features_.names()))
        resumed = checkpoints.progress() if checkpoints is not None else None
        if checkpoints is not None and resumed is not None:
            checkpoints.restore(lesson)
            self.belief_, spent = lesson.belief, resumed.requests
            curve.go_on(resumed.learning_curve)
        else:
            lesson.env.reset(seed=training.seed)
        while spent < training.requests:
            env = lesson.env
            observation = env.observation
            features = self.features_.of(observation)
            noise = lesson.draws.standard_normal((len(features), features.shape[2]))
            slates = self._slates(observation, features, noise, True)
            _, reward, _, _, info = env.step(slates)
            # a slot whose life is over only begins the next one
            rows = np.flatnonzero(info["active"])[: training.requests - spent]
            if not np.isfinite(reward[rows]).all():
                raise TrainingStopped(
                    f"agent '{self.name}' was given a reward that is not finite after {spent:,} requests; mend the environment."
                )
            clicked = info["clicked_slot"][rows, None] == np.arange(self.slate_size)
            shown = np.take_along_axis(features[rows], slates[rows, :, None], axis=1)
            self._take_in(shown, reward[rows, None] * clicked, info["slate_items"][rows] >= 0)
            spent, since, earned = spent + len(rows), since + len(rows), earned + float(reward[rows].sum())
            if since >= self.options.iteration or spent == training.requests:
                reward_per_request = earned / max(since, 1)
                if writer is not None:
                    writer.add_scalar("reward", reward_per_request, spent)
                curve.add(spent, reward_per_request)
                earned, since = 0.0, 0
                if checkpoints is not None and (checkpoints.due or spent == training.requests):
                    checkpoints.write(lesson, Progress(spent, {}, curve.points()))

    def _take_in(
        self, features: NDArray[np.float32], earned: NDArray[np.floating], is_shown: NDArray[np.bool_]
    ) -> None:
        """Updates the belief by slots with features [N, K, D] that earned [N, K], where `is_shown` [N, K]."""
        self.belief_.add(features[is_shown], earned[is_shown])
        self.__dict__.pop("_solved", None)

    def _slates(
        self, observation: Observation, features: NDArray[np.float32], noise: NDArray[np.floating], exploring: bool
    ) -> NDArray[np.int64]:
        """Slates [N, K] of the largest scores; ties go to the earlier candidate."""
        if "_solved" not in self.__dict__:
            self._solved = self.belief_.mean(), self.belief_.root()
        mean, root = self._solved
        scores = self.explored(features, mean, root, noise) if exploring else (features * mean).sum(axis=2)
        return best_first(scores.astype(np.float32), observation.candidates.mask, self.slate_size)

    def _noise(self, observation: Observation) -> NDArray[np.float32]:
        """[N, D] draws that are a hash of the agent's seed and of what is observed of the request."""
        keys = (key[:, None] for key in observation.hash_keys())
        return draw_normal(self.seed, Purpose.AGENT, *keys, np.arange(len(self.features_.names())))

    def _remember(self, observation: Observation, slates: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Keeps what was shown for `update`."""
        if not self.options.remembered:
            return
        candidates = observation.candidates
        items = np.where(candidates.mask == 1, candidates.items, -1)
        self._shown.append(
            _Shown(
                observation.user.copy(),
                np.take_along_axis(items, slates, axis=1),
                np.take_along_axis(features, slates[:, :, None], axis=1),
            )
        )
        while sum(len(part.user) for part in self._shown[1:]) >= self.options.remembered:
            del self._shown[0]

    def _need_training(self, cure: str) -> None:
        if not hasattr(self, "belief_"):
            raise AgentError(f"agent '{self.name}' is not trained; {cure}.")


@dataclass
class _Lesson:
    """What a training goes on from, as `Checkpoints` write and restore it."""

    belief: LinearBelief
    draws: np.random.Generator
    """Of the exploration."""
    env: SlateVectorEnv
    """The traffic."""

    def save_to_path(self, path: str) -> None:
        """Writes it into a folder."""
        write_learner(path, (self.belief, self.draws, self.env), self.env)

    def restore_from_path(self, path: str) -> None:
        """Takes it back, in the world of the present traffic."""
        self.belief, self.draws, self.env = read_learner(path, self.env)


@dataclass(frozen=True)
class _Shown:
    """Requests that were served."""

    user: NDArray[np.int64]
    """[M]."""
    items: NDArray[np.int32]
    """[M, K], -1 for empty slots."""
    features: NDArray[np.float32]
    """[M, K, D]."""

    @classmethod
    def together(cls, parts: list["_Shown"]) -> "_Shown":
        """All of them, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "items", "features")))

    def take(self, rows: NDArray[np.int64]) -> "_Shown":
        """Some of them."""
        return _Shown(self.user[rows], self.items[rows], self.features[rows])
