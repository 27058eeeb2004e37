"""The best schedule in hindsight: an upper reference for update policies, which no policy can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies.base import UPDATES
from agents.updates.policies.playing import Episode, Outcome, Player
from agents.updates.policies.rules import PERIODS
from agents.updates.policies.schedule import FixedSchedule
from envs.errors import ConfigurationError

Schedule = tuple[int, ...]
"""Actions of an episode's periods."""
REPLAYS = 48
"""Schedules that are replayed unless another number is asked for."""
_STARTING_SHARE = 2 / 3
_NEIGHBOURS = 4
"""Neighbours of the best schedule that are replayed before the best is chosen anew."""


@dataclass(frozen=True)
class Hindsight:
    """The best schedule of an episode."""

    policy: FixedSchedule
    outcome: Outcome
    tried: int
    """Schedules that were replayed."""


def best_in_hindsight(
    market: Market,
    seed: int,
    replays: int = REPLAYS,
    *,
    also: Sequence[Schedule] = (),
    price: float = 1.0,
    jobs: int = 1,
    report: Callable[[int], None] = lambda replays: None,
) -> Hindsight:
    """Replays schedules on the very episode that a policy is judged on, and keeps the one of the largest reward.

    Two thirds of the replays are updates of each kind after every so many periods, from different periods on, and none at all;
    the others are neighbours of the best so far, which have an update more, less, of another kind, or a period sooner or later.
    Every replay is the episode of the same seed, so the largest reward is exact and not a matter of luck, but the search is not
    exhaustive.

    Args:
        market: of the episode.
        seed: of the episode.
        replays: schedules to replay; fewer where there are no more.
        also: further schedules to begin with, over and above: those of the policies that are judged on this episode make sure that
            hindsight is not below any of them.
        price: factor of the cost in the reward.
        jobs: replays side by side; the result is the same.
        report: called with the number of replays so far.

    Raises:
        ConfigurationError: if nothing is to be replayed.
    """
    if replays < 1:
        raise ConfigurationError(f"hindsight needs at least one schedule to replay, not {replays}.")
    periods = market.periods
    most = len(also) + replays
    starting = starting_schedules(periods, replays)
    waiting = list(dict.fromkeys([*(tuple(map(int, schedule)) for schedule in also), *starting]))[:most]
    known: dict[Schedule, Outcome] = {}
    draws = np.random.default_rng([seed, 0x41D5])
    with Player([market], jobs) as player:
        while waiting:
            done = len(known)
            episodes = [Episode(0, seed, FixedSchedule(schedule)) for schedule in waiting]
            outcomes = player(episodes, lambda count, done=done: report(done + count))  # type: ignore[misc]
            known |= dict(zip(waiting, outcomes, strict=True))
            ranked = sorted(known, key=lambda schedule: -known[schedule].worth(price))
            # neighbours of the best; where all of these are known, of the next best
            unknown = ([other for other in neighbours(schedule) if other not in known] for schedule in ranked)
            fresh = next(filter(None, unknown), [])
            chosen = draws.permutation(len(fresh))[: min(_NEIGHBOURS, most - len(known))]
            waiting = [fresh[place] for place in chosen]
    return Hindsight(FixedSchedule(ranked[0]), known[ranked[0]], len(known))


def starting_schedules(periods: int, replays: int) -> list[Schedule]:
    """Those of `periodic_schedules` that a search of so many replays begins with."""
    return periodic_schedules(periods)[: max(1, round(_STARTING_SHARE * replays))]


def periodic_schedules(periods: int) -> list[Schedule]:
    """No update at all; an update of each kind after every so many periods; the same from half as many periods on. In both,
    seldom ones first: of these it matters most when they begin."""
    schedules: list[Schedule] = [(0,) * periods]
    for half in (False, True):
        for length in reversed(PERIODS):
            first = length // 2 if half else length
            due = [0 < first <= period and (period - first) % length == 0 for period in range(periods)]
            schedules += [tuple(int(action) if now else 0 for now in due) for action in UPDATES]
    return list(dict.fromkeys(schedules))


def neighbours(schedule: Schedule) -> list[Schedule]:
    """Schedules that differ by one update: left out, of another kind, a period sooner or later, or one more."""
    found: list[Schedule] = []

    def changed(changes: dict[int, int]) -> None:
        found.append(tuple(changes.get(period, action) for period, action in enumerate(schedule)))

    for period, action in enumerate(schedule):
        if not period:
            continue  # there is nothing to learn yet
        if action == UpdateAction.KEEP:
            for update in UPDATES:
                changed({period: int(update)})
            continue
        changed({period: int(UpdateAction.KEEP)})
        for update in UPDATES:
            if update != action:
                changed({period: int(update)})
        for other in (period - 1, period + 1):
            if 0 < other < len(schedule) and schedule[other] == UpdateAction.KEEP:
                changed({period: int(UpdateAction.KEEP), other: action})
    return found
