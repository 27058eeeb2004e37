"""What a comparison keeps of lives: sums over each user's life, what was shown of the catalogue, traces of hidden interest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.measures import catalogue_coverage, category_entropy, gini, intra_list_distance, time_to_exposure
from envs.slate_env import SlateVectorEnv
from envs.world import World
from evaluation.summary import RETURN_DAYS


class Shown:
    """What lives together were shown of the catalogue."""

    def __init__(self, world: World) -> None:
        self._days, self._birth_clock, self._born = world.config.days, world.birth_clock, world.born_in_run
        self._exposures = np.zeros(world.num_items, np.int64)
        self._first = np.full(world.num_items, np.inf)

    def add(self, slates: NDArray[np.int32], clock: NDArray[np.float64]) -> None:
        """Adds slates [N, K] shown at `clock` [N]."""
        shown = slates >= 0
        self._exposures += np.bincount(slates[shown], minlength=len(self._exposures))
        np.minimum.at(self._first, slates[shown], np.broadcast_to(clock[:, None], slates.shape)[shown])

    def join(self, other: "Shown") -> None:
        """Adds what other lives were shown."""
        self._exposures += other._exposures
        self._first = np.minimum(self._first, other._first)

    def columns(self) -> dict[str, float]:
        """The columns that `CATALOGUE_METRICS` names."""
        born = self._born & (self._birth_clock < self._days * SECONDS_PER_DAY)
        share, days = time_to_exposure(self._birth_clock[born], self._first[born])
        return {
            "coverage": catalogue_coverage(self._exposures),
            "gini": gini(self._exposures),
            "born_exposed": share,
            "days_to_exposure": days,
        }


class Lives:
    """Sums over the lives of U users."""

    def __init__(self, count: int, world: World) -> None:
        names = [
            "reward",
            "clicks",
            "diversity_sum",
            "fresh_clicks",
            "consumed_age_sum",
            "rating_sum",
            "ratings",
            "requests",
            "list_distance_sum",
        ]
        names += [f"day_{days}{part}" for days in RETURN_DAYS for part in ("", "_told")]
        self.sums = {name: np.zeros(count) for name in names}
        self.visits = np.ones(count)
        self._world, self._catalogue = world, world.policy_log.catalogue
        self.shown = Shown(world)
        self._category_mass = np.zeros((count, self._catalogue.num_categories))
        self._last_clock = np.zeros(count)
        self._came_back = np.zeros(count, bool)

    def add(
        self, place: NDArray[np.int64], reward: NDArray[np.float64], ended: NDArray[np.bool_], info: Mapping[str, Any]
    ) -> None:
        """Adds a step of the users at `place` [N], all of them alive before it."""
        clock, slates, item = info["clock"], info["slate_items"], info["clicked_item"]
        clicked = item >= 0
        rated = np.isfinite(info["rating"])
        for name, values in (
            ("reward", reward),
            ("clicks", info["engagement"]),
            ("diversity_sum", info["diversity"]),
            ("fresh_clicks", info["freshness"]),
            ("consumed_age_sum", np.where(clicked, info["consumed_age"], 0)),
            ("rating_sum", np.where(rated, info["rating"], 0)),
            ("ratings", rated),
            ("requests", 1),
            ("list_distance_sum", intra_list_distance(self._catalogue.directions, slates)),
        ):
            self.sums[name][place] += values
        self._category_mass[place[clicked]] += self._catalogue.categories[item[clicked]]
        self.shown.add(slates, clock)

        first_return = self._came_back[place] & (self.visits[place] == 2)
        days_away = (clock - self._last_clock[place]) / SECONDS_PER_DAY
        days_left = self._world.config.days - clock / SECONDS_PER_DAY
        first_end = (self.visits[place] == 1) & (info["leave"] | ended)
        for days in RETURN_DAYS:
            # whoever's first visit ends too near to the horizon cannot be told to have come back in time or not
            self.sums[f"day_{days}_told"][place] += first_end & (days_left >= days)
            told = self.sums[f"day_{days}_told"][place] > 0
            self.sums[f"day_{days}"][place] += first_return & (days_away <= days) & told
        # whoever leaves and lives on begins another visit within the horizon
        self._came_back[place] = info["leave"] & ~ended
        self.visits[place] += self._came_back[place]
        self._last_clock[place] = clock

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The columns that `METRICS` names, [U] each."""
        return {**self.sums, "visits": self.visits, "category_entropy": category_entropy(self._category_mass)}


class Traces:
    """Records the hidden interest of a few users at each request; agents never see it."""

    def __init__(self, env: SlateVectorEnv, count: int) -> None:
        self._count = count
        self._names = env.world.policy_log.catalogue.category_names
        self._keys: list[NDArray[np.float64]] = []
        self._shares: list[NDArray[np.float32]] = []

    def record(self, env: SlateVectorEnv, place: NDArray[np.int64], lives: Lives) -> None:
        """Adds the present requests of those among the users at `place` [N] who are traced."""
        rows = np.flatnonzero(place < self._count)
        if not len(rows):
            return
        traced = place[rows]
        day = env.observation.context[rows, 3] + env.observation.context[rows, 0] / 24
        self._keys.append(np.column_stack([traced, lives.sums["requests"][traced], lives.visits[traced] - 1, day]))
        self._shares.append(env.hidden.interest()[rows])

    def table(self, users: NDArray[np.int64]) -> pl.DataFrame:
        """user (of `users` [U]), request, visit, day, category, share: one row for each request and category."""
        keys = np.concatenate(self._keys) if self._keys else np.zeros((0, 4))
        shares = np.concatenate(self._shares) if self._shares else np.zeros((0, len(self._names)), np.float32)
        repeated = np.repeat(keys, len(self._names), axis=0)
        return pl.DataFrame(
            {
                "user": users[repeated[:, 0].astype(np.int64)],
                "request": repeated[:, 1].astype(np.int32),
                "visit": repeated[:, 2].astype(np.int32),
                "day": repeated[:, 3].astype(np.float32),
                "category": pl.Series(np.tile(np.asarray(self._names), len(keys)), dtype=pl.String),
                "share": shares.reshape(-1),
            }
        )
