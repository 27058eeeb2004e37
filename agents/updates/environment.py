"""`driftrec/ModelUpdate-v0`: an agent decides period by period whether the served models are kept, updated or retrained."""

import operator
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.updates.episode import Episode, known_action
from agents.updates.market import Market, UpdateConfig
from agents.updates.models import ServedModels
from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.traffic import Day
from envs.errors import ConfigurationError
from envs.world import World, default_world

__all__ = ["ModelUpdateEnv", "UpdateConfig"]


class ModelUpdateEnv(gymnasium.Env[NDArray[np.float32], int]):
    """A step is a period: first the action is carried out on the events known by then, then the period's users are served.

    Actions: see `UpdateAction`; one that cannot be carried out counts as keep. Observation: `Monitoring`, scaled to order one.
    Reward: `config.weights` of the period's engagement, diversity, freshness and -cost. The former are per visit, and a period
    shorter than a day counts as its share of the day's visits, so that the mean over a day's periods is the day's. Cost is
    counted work, the same on every machine; measured seconds are in `update_seconds` and `serve_seconds`, outside reward and
    info, which a seed reproduces to the bit. The info has the mask of actions that can be carried out in the next step, also
    at reset. Episodes end by truncation.

    Args:
        market: the market, or several, which are played one after another, or a world; by default that of the synthetic log of
            seed 0.
        config: see `UpdateConfig`; only with a world, since a market has its own.
        users: [M] users who may visit; only with a world.
        render_mode: "ansi" or None.
        events: folder in which each episode leaves its event log (see `agents.events.EventStore`) under `episode-N`, the next N
            that is not there; None keeps them in memory.
        registry: folder in which each episode leaves the versions of its models (see `agents.updates.registry.ModelRegistry`)
            likewise; None keeps them in memory, which is faster.

    Raises:
        ConfigurationError: if an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}

    def __init__(
        self,
        market: Market | Sequence[Market] | World | None = None,
        config: UpdateConfig | None = None,
        users: NDArray[np.int64] | None = None,
        render_mode: str | None = None,
        events: Path | str | None = None,
        registry: Path | str | None = None,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigurationError(f"render_mode is '{render_mode}'; it must be 'ansi' or None.")
        self.render_mode = render_mode
        self.markets = _markets(market, config, users)
        self.market = self.markets[0]
        """The one that is played."""
        self.observation_space = Monitoring.space()
        self.action_space = gymnasium.spaces.Discrete(len(UpdateAction))
        self.episode: Episode | None = None
        """The one that is played, None before the first."""
        self._next = 0
        """Place of the market whose turn it is."""
        self._events, self._registry = (None if folder is None else Path(folder) for folder in (events, registry))

    @property
    def config(self) -> UpdateConfig:
        """Of the market that is played."""
        return self.market.config

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode with the market's first models and a full budget.

        Which of several markets it is: the one of the option; else with a seed the first, so that a seed alone says all; else the
        one after the last that was played.

        Args:
            seed: of this episode and those that follow without a seed.
            options: `market`, the number of a market from 0 on. Others are passed over.

        Raises:
            ConfigurationError: if there is no such market.
        """
        asked = (options or {}).get("market")
        place = self._place(asked) if asked is not None else 0 if seed is not None else self._next
        super().reset(seed=seed)
        self.market, self._next = self.markets[place], (place + 1) % len(self.markets)
        folders = self._folders()
        self.episode = Episode(self.market, int(self.np_random.integers(2**63)), *folders)
        return self.episode.monitoring.to_array(), self.episode.state()

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Carries out the action, then serves the period.

        Raises:
            ConfigurationError: if there is no such action.
        """
        asked, episode = known_action(action), self.episode
        if episode is None or episode.is_over:
            raise gymnasium.error.ResetNeeded("call reset before step: no episode has begun, or the last one is over.")
        reward, info = episode.step(asked)
        return episode.monitoring.to_array(), reward, False, episode.is_over, info

    @property
    def models(self) -> ServedModels:
        """What serves."""
        return self._playing.models

    @property
    def history(self) -> list[Day]:
        """The periods of the episode so far, with the event log of each."""
        return [] if self.episode is None else self.episode.history

    @property
    def monitoring(self) -> Monitoring:
        """What is known now, in natural units."""
        return self._playing.monitoring

    @property
    def update_seconds(self) -> float:
        """Measured time of the last step's training."""
        return self._playing.update_seconds

    @property
    def serve_seconds(self) -> float:
        """Measured time of the last step's traffic."""
        return self._playing.serve_seconds

    def render(self) -> str:  # type: ignore[override]
        """The last period as a line of text."""
        if not self.history:
            return "No period yet."
        day, episode = self.history[-1], self._playing
        return (
            f"period {len(self.history) - 1}: version {episode.version}, {day.visits} visits, {day.engagement:.3f} clicks a visit, "
            f"{100 * day.unseen_share:.1f} % of slots unseen by the models, {100 * episode.budget_left:.0f} % of the budget left"
        )

    def _place(self, asked: Any) -> int:
        try:
            place = operator.index(asked)
        except TypeError:
            place = -1
        if not 0 <= place < len(self.markets):
            raise ConfigurationError(f"there is no market {asked!r}; the option takes 0 to {len(self.markets) - 1}.")
        return place

    def _folders(self) -> tuple[Path | None, Path | None]:
        """Of the next episode's event log and registry; both have the same number."""
        kept = [folder for folder in (self._events, self._registry) if folder is not None]
        numbers = (number for number in count() if not any((folder / f"episode-{number}").exists() for folder in kept))
        name = f"episode-{next(numbers)}"
        events, registry = (None if folder is None else folder / name for folder in (self._events, self._registry))
        return events, registry

    @property
    def _playing(self) -> Episode:
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("call reset first: no episode has begun.")
        return self.episode


def _markets(
    market: Market | Sequence[Market] | World | None, config: UpdateConfig | None, users: NDArray[np.int64] | None
) -> Sequence[Market]:
    if market is None or isinstance(market, World):
        return [Market(market or default_world(), config, users)]
    if config is not None or users is not None:
        raise ConfigurationError("a market has a configuration and users of its own; give them to Market.")
    markets = [market] if isinstance(market, Market) else list(market)
    if not markets:
        raise ConfigurationError("markets is empty; give at least one.")
    return markets
