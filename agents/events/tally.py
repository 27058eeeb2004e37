"""Sums for each user or item, ever and in windows that end now."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Which serving features are made."""

    windows_days: tuple[int, ...] = (1, 7)
    """Lengths of the windows that end at the time asked for, in days, ascending."""
    step_seconds: int = 3_600
    """Windows begin at whole multiples of this, so a window is up to one step longer than its name says."""
    smoothing: float = 20.0
    """Requests or slots, with the click rate of everybody, that are added to those counted for a click rate."""
    event_delay: float = 0.0
    """Seconds until an event is known: what is younger than this is not counted."""

    def __post_init__(self) -> None:
        windows = self.windows_days
        if not windows or min(windows) < 1 or list(windows) != sorted(set(windows)):
            raise ConfigurationError(f"windows_days is {windows}; give whole days of at least 1, ascending.")
        if self.step_seconds < 1 or self.event_delay < 0:
            raise ConfigurationError(
                f"step_seconds is {self.step_seconds} and event_delay {self.event_delay}; give at least 1 and 0 seconds."
            )
        if self.smoothing <= 0:
            raise ConfigurationError(f"smoothing is {self.smoothing}; it must be positive.")


class Tally:
    """Sums for each key, ever and in windows, kept up to date: work in proportion to what comes and what leaves the windows.

    Args:
        width: W values that are summed; the first two, trials and clicks, in windows too.
        config: the windows.
    """

    def __init__(self, width: int, config: FeatureConfig) -> None:
        self.width, self.config = width, config
        windows = len(config.windows_days)
        self._ids = np.zeros(0, np.int64)
        """[n] keys, ascending."""
        self._place = np.zeros(0, np.int64)
        """[n] their rows in what follows."""
        self._sums = np.zeros((0, width))
        self._last = np.zeros((0, 2))
        self._recent = np.zeros((0, windows, 2))
        self._first = np.full(windows, np.iinfo(np.int64).min)
        """[windows] first step of each."""
        self._steps: dict[int, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
        """(rows, trials and clicks) of each step that the longest window reaches."""
        self._ahead: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
        """(keys, clocks, values) that are not known yet."""

    def expect(self, who: NDArray[np.int64], clock: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Takes in events of keys [M] with values [M, W], to be counted when they are known."""
        self._ahead.append((who, clock, values))

    def move_on(self, known: float) -> None:
        """Lets the windows end at `known` and counts what is older."""
        first = np.array([first_step(known, days, self.config.step_seconds) for days in self.config.windows_days])
        for number, begin in enumerate(first):
            for step in [step for step in self._steps if self._first[number] <= step < begin]:
                for row, values in self._steps[step]:
                    np.subtract.at(self._recent[:, number], row, values)
        self._steps = {step: parts for step, parts in self._steps.items() if step >= first[-1]}
        self._first = first
        ahead, self._ahead = self._ahead, []
        for who, clock, values in ahead:
            now = clock < known
            if now.any():
                self._count(who[now], clock[now], values[now])
            if not now.all():
                self._ahead.append((who[~now], clock[~now], values[~now]))

    def _count(self, who: NDArray[np.int64], clock: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        row = self._rows(who)
        np.add.at(self._sums, row, values)
        for place in (0, 1):
            happened = values[:, place] > 0
            np.maximum.at(self._last[:, place], row[happened], clock[happened])
        step = np.floor(clock / self.config.step_seconds).astype(np.int64)
        for number, begin in enumerate(self._first):
            inside = step >= begin
            np.add.at(self._recent[:, number], row[inside], values[inside, :2])
        for each in np.unique(step[step >= self._first[-1]]):
            mine = step == each
            self._steps.setdefault(int(each), []).append((row[mine], values[mine, :2]))

    def _rows(self, who: NDArray[np.int64]) -> NDArray[np.int64]:
        """[M] rows of keys, which get one if they have none."""
        new = np.setdiff1d(who, self._ids)
        if len(new):
            place = np.arange(len(self._ids), len(self._ids) + len(new))
            at = np.searchsorted(self._ids, new)
            self._ids, self._place = np.insert(self._ids, at, new), np.insert(self._place, at, place)
            self._sums = np.concatenate([self._sums, np.zeros((len(new), self.width))])
            self._last = np.concatenate([self._last, np.full((len(new), 2), -np.inf)])
            self._recent = np.concatenate([self._recent, np.zeros((len(new), *self._recent.shape[1:]))])
        return self._place[np.searchsorted(self._ids, who)]

    def of(self, who: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(sums [N, W], clocks of the last trial and click [N, 2], trials and clicks in windows [N, windows, 2]) of keys [N]."""
        sums, last = np.zeros((len(who), self.width)), np.full((len(who), 2), -np.inf)
        recent = np.zeros((len(who), *self._recent.shape[1:]))
        if len(self._ids):
            at = np.minimum(np.searchsorted(self._ids, who), len(self._ids) - 1)
            found = self._ids[at] == who
            row = self._place[at[found]]
            sums[found], last[found], recent[found] = self._sums[row], self._last[row], self._recent[row]
        return sums, last, recent

    def of_all(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(trials and clicks [2], the same in windows [windows, 2]) of all keys together."""
        return self._sums[:, :2].sum(axis=0), self._recent.sum(axis=0)

    def arrays(self) -> dict[str, NDArray]:
        """All that is kept."""
        parts = [(row, np.full(len(row), step), values) for step, some in self._steps.items() for row, values in some]
        step_row, step, step_values = _joined(parts, (np.int64, np.int64, np.float64), (0, 0, 2))
        who, clock, values = _joined(self._ahead, (np.int64, np.float64, np.float64), (0, 0, self.width))
        return {
            **{"ids": self._ids, "place": self._place, "sums": self._sums, "last": self._last, "recent": self._recent},
            **{"first": self._first, "step_row": step_row, "step": step, "step_values": step_values},
            **{"ahead": who, "ahead_clock": clock, "ahead_values": values},
        }

    def take_back(self, arrays: dict[str, NDArray]) -> None:
        """Goes on from what `arrays` returned."""
        self._ids, self._place, self._sums = arrays["ids"], arrays["place"], arrays["sums"]
        self._last, self._recent, self._first = arrays["last"], arrays["recent"], arrays["first"]
        for each in np.unique(arrays["step"]):
            mine = arrays["step"] == each
            self._steps[int(each)] = [(arrays["step_row"][mine], arrays["step_values"][mine])]
        self._ahead = [(arrays["ahead"], arrays["ahead_clock"], arrays["ahead_values"])]


def _joined(
    parts: Sequence[tuple[NDArray, ...]], kinds: tuple[type, ...], widths: tuple[int, ...]
) -> tuple[NDArray, ...]:
    """The parts of each array as one; where there are none, an empty one of its kind and width (0 for no second axis)."""
    if not parts:
        return tuple(np.zeros((0, width) if width else 0, kind) for kind, width in zip(kinds, widths, strict=True))
    return tuple(np.concatenate(some) for some in zip(*parts, strict=True))


def first_step(known: ArrayLike, days: int, step_seconds: int) -> NDArray[np.int64]:
    """Number of the first step of a window that ends at `known`."""
    return np.floor((np.asarray(known, np.float64) - days * SECONDS_PER_DAY) / step_seconds).astype(np.int64)
