"""Constant weights, tuned through the same re-ranker and on as much traffic as an agent trained by reinforcement learning.

This is the baseline that learning to set weights must beat. A search by successive halving (Jamieson and Talwalkar 2016)
lets many settings serve a few lives, the best third of them more lives, and so on. Settings are compared on the same users
under common random numbers, and a setting's estimate borrows from its likes.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from scipy.stats import qmc

from agents.actions import PRESETS, weights_of_actions
from agents.base import Agent, Training, TrainingStopped
from agents.rerankers import log_counts, rerank
from envs.logs.schema import InteractionLog
from envs.observation import Observation

DEFAULT_WEIGHTS = PRESETS[0]
"""[4] relevance only: what is served where there is no traffic to tune on, or too little."""
SEARCH_COLUMNS = ("relevance", "diversity", "freshness", "popularity", "expected_return", "lives")
"""Columns of `Constant.search_`."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How constant weights are searched for."""

    settings: int = 24
    """Settings tried at most: the presets of the DQN agent, then quasi-random actions of the PPO agent."""
    kept: float = 1 / 3
    """Share of the settings that go on to the next round."""
    rounds: int = 3
    """Rounds; each may spend as many requests as the others."""
    fewest_lives: int = 6
    """Lives that a setting serves at least; where traffic is scarce fewer settings are tried."""


LENGTH_SCALE = 0.5
"""Distance between the directions of two settings' weights over which what they earn is alike."""


class Constant(Agent):
    """Re-ranks with the same four weights for everybody, those that earned the largest mean return of a life in training."""

    name: ClassVar[str] = "constant"
    search: ClassVar[SearchConfig] = SearchConfig()
    popularity_: NDArray[np.float32]
    """[I] log(1 + times consumed)."""
    weights_: NDArray[np.float32]
    """[4] chosen weights, see `agents.rerankers.WEIGHT_NAMES`."""
    search_: NDArray[np.float64]
    """[S, 6] settings that were tried, see `SEARCH_COLUMNS`; the estimated return borrows from like settings."""

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Counts the log, and tunes the weights on simulated traffic where there is some.

        Raises:
            TrainingStopped: if a reward is not finite; the weights are then the best ones of the rounds before.
        """
        self.popularity_ = log_counts(log)
        self.weights_ = DEFAULT_WEIGHTS.copy()
        self.search_ = np.zeros((0, len(SEARCH_COLUMNS)))
        if training is not None:
            self._tune(training)
        return self

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        return rerank(observation, self.weights_, self.popularity_, self.slate_size)

    def _tune(self, training: Training) -> None:
        """Successive halving within `training.requests`, never above it."""
        config, traffic = self.search, _Traffic(training, self.popularity_, self.slate_size)
        # how long lives are decides how many settings the traffic allows
        if traffic.returns(self.weights_[None], config.fewest_lives) is None:
            return
        per_round = (training.requests - traffic.spent) / config.rounds
        count = int(min(config.settings, per_round / (config.fewest_lives * traffic.requests_per_life)))
        settings = _settings(count, self.seed + training.seed)
        trials = _Trials(settings)
        try:
            self._halve(traffic, trials, settings)
        finally:
            if trials.lives.any():
                self.search_ = np.column_stack([settings, trials.smoothed(), trials.lives]).astype(np.float64)

    def _halve(self, traffic: "_Traffic", trials: "_Trials", settings: NDArray[np.float32]) -> None:
        """Lets ever fewer of the settings [S, 4] serve ever more lives; the best so far are kept after each round."""
        config, running = self.search, np.arange(len(settings))
        for rounds_left in range(config.rounds, 0, -1):
            # lives vary in length: the margin keeps a round from running out of traffic before its lives end
            budget = 0.92 * (traffic.limit - traffic.spent) / rounds_left
            number = int(budget / (max(len(running), 1) * traffic.requests_per_life))
            returns = traffic.returns(settings[running], number) if number > 1 and len(running) > 1 else None
            if returns is None:
                break
            trials.add(running, returns)
            ranked = running[np.argsort(-trials.smoothed()[running], kind="stable")]
            self.weights_ = settings[ranked[0]]
            running = ranked[: max(2, int(np.ceil(config.kept * len(running))))]


class _Trials:
    """What settings [S, 4] earned, and what like settings earned, put together."""

    def __init__(self, settings: NDArray[np.float32]) -> None:
        # only the direction of the weights matters to a slate; diversity and freshness lie in [0, 1], the others vary twice that
        scaled = settings / np.array([1.0, 2.0, 2.0, 1.0])
        scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-9)
        distance = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
        self._likeness = np.exp(-0.5 * (distance / LENGTH_SCALE) ** 2)
        self.lives = np.zeros(len(settings), np.int64)
        self._sums = np.zeros(len(settings))
        self._noise: list[float] = []

    def add(self, running: NDArray[np.int64], returns: NDArray[np.float64]) -> None:
        """Takes the returns [R, L] of settings `running` [R] on the same L users.

        The users of one round may be better ones than those of another, so what counts is the difference to the mean of the
        settings running, laid at the mean that these have from the rounds before.
        """
        anchor = self.smoothed()[running].mean() if self.lives.any() else returns.mean()
        self._sums[running] += (returns - returns.mean() + anchor).sum(axis=1)
        self.lives[running] += returns.shape[1]
        paired = returns - returns.mean(axis=0) - (returns.mean(axis=1, keepdims=True) - returns.mean())
        self._noise.append(float((paired**2).sum() / ((len(running) - 1) * (returns.shape[1] - 1))))

    def smoothed(self) -> NDArray[np.float64]:
        """[S] expected return of each setting given all trials.

        A regression by a Gaussian process: settings alike earn alike. Source: Rasmussen and Williams (2006), eq. 2.25.
        """
        tried = np.flatnonzero(self.lives)
        means = self._sums[tried] / self.lives[tried]
        noise = np.mean(self._noise) / self.lives[tried]
        signal = max(float(means.var() - noise.mean()), 0.1 * float(means.var()), 1e-12)
        covariance = signal * self._likeness[np.ix_(tried, tried)] + np.diag(noise + 1e-9)
        weights = np.linalg.solve(covariance, means - means.mean())
        return means.mean() + signal * self._likeness[:, tried] @ weights


class _Traffic:
    """Training traffic, counted."""

    def __init__(self, training: Training, popularity: NDArray[np.float32], slate_size: int) -> None:
        self.spent = 0
        self._training, self._popularity, self._slate_size = training, popularity, slate_size
        self._lives, self._users_met, self._batches = 0, 0, 0

    @property
    def limit(self) -> int:
        """Requests that may be spent."""
        return self._training.requests

    @property
    def requests_per_life(self) -> float:
        """Mean so far."""
        return self.spent / max(self._lives, 1)

    def returns(self, settings: NDArray[np.float32], number: int) -> NDArray[np.float64] | None:
        """[S, number] returns of lives served with `settings` [S, 4]; None if the traffic does not suffice to end them.

        All settings meet the same users under the same draws; each call goes on with the next users, under other draws.
        """
        parts: list[NDArray[np.float64]] = []
        while number > 0:
            part = self._batch(settings, number)
            if part is None:
                return None
            parts.append(part)
            number -= part.shape[1]
        return np.concatenate(parts, axis=1)

    def _batch(self, settings: NDArray[np.float32], number: int) -> NDArray[np.float64] | None:
        """As `returns`, with at most one life of each training user."""
        users = self._training.make_env(1, AutoresetMode.DISABLED).users
        block = np.roll(users, -self._users_met)[:number]
        env = self._training.make_env(len(settings) * len(block), AutoresetMode.DISABLED)
        # one slot for each pair of setting and user: who has the same number of lives behind it draws the same
        env.users = np.tile(block, len(settings))
        self._users_met, self._batches = self._users_met + len(block), self._batches + 1
        env.reset(seed=self._training.seed + self._batches)
        place = np.arange(env.num_envs)
        earned, weights = np.zeros(env.num_envs), np.repeat(settings, len(block), axis=0)
        while env.num_envs:
            if self.spent + env.num_envs > self._training.requests:
                return None
            slates = rerank(env.observation, weights[place], self._popularity, self._slate_size)
            reward = env.step(slates)[1]
            if not np.isfinite(reward).all():
                raise TrainingStopped(
                    f"agent 'constant' was given a reward that is not finite after {self.spent:,} requests; "
                    "mend the environment."
                )
            earned[place] += reward
            self.spent += len(place)
            self._training.report(self.spent)
            if env.ended.any():
                place = place[env.drop_ended()]
        self._lives += len(earned)
        return earned.reshape(len(settings), len(block))


def _settings(count: int, seed: int) -> NDArray[np.float32]:
    """[count, 4] the first presets, then quasi-random actions as the PPO agent could take them."""
    more = max(count - len(PRESETS), 0)
    actions = 2 * qmc.Halton(PRESETS.shape[1], seed=seed).random(more) - 1
    return np.concatenate([PRESETS[:count], weights_of_actions(actions)])
