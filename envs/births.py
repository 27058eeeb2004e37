"""The items of a run: which are withheld, born and retired when, and new ones drawn from the fitted items."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import NEVER, SECONDS_PER_DAY, Catalogue
from envs.catalogue_calendar import ItemCalendar
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_bits, draw_normal, draw_poisson, draw_uniform
from envs.users.protocol import ExtendableUserModel, UserModel
from envs.world_config import WorldConfig

HOUR = 3_600


@dataclass(frozen=True, kw_only=True)
class RunItems:
    """The items of a run: the log's, then those that were drawn."""

    catalogue: Catalogue
    """Public; births and retirements are those of the run."""
    user_model: UserModel
    """Hidden; knows the drawn items too."""
    born_in_run: NDArray[np.bool_]
    """[I] whether an item is born during the run."""
    calendar: ItemCalendar


def withheld_items(num_items: int, config: WorldConfig) -> NDArray[np.bool_]:
    """[I] the seeded share of the catalogue that policies learn nothing of before it is born."""
    return draw_uniform(config.seed, Purpose.HELD_BACK, np.arange(num_items)) < config.held_back_share


def items_of_run(
    log: InteractionLog,
    user_model: UserModel,
    config: WorldConfig,
    withheld: NDArray[np.bool_],
    known: NDArray[np.bool_],
    reference_time: int,
) -> RunItems:
    """Decides births and retirements, and draws new items.

    Withheld items are born at the midnight before a seeded day. An item whose logged birth lies in the run, and that nobody
    has consumed before it (`known` [I] is False), is born then; births and retirements inside the run stand at whole hours.

    Raises:
        ConfigurationError: if items are to be drawn and the user model cannot take new ones.
    """
    num_items = len(log.catalogue)
    day = draw_bits(config.seed, Purpose.BIRTH, np.arange(num_items)) % np.uint64(config.days)
    logged = (log.catalogue.birth - reference_time).astype(np.float64)
    # an item with rows before the run exists when it starts, even where users' calendars differ
    birth = np.where(known, np.minimum(logged, 0), _to_hours(logged))
    birth = np.where(withheld, day.astype(np.float64) * SECONDS_PER_DAY, birth)
    catalogue, new_birth = log.catalogue, np.zeros(0)
    if config.births_per_day:
        catalogue, user_model, new_birth = _with_drawn_items(log, user_model, config)
        birth = np.concatenate([birth, new_birth])
    retire = _retirements(catalogue, birth, len(new_birth), withheld, config, reference_time)
    public = replace(
        catalogue,
        birth=(reference_time + birth).astype(np.int64),
        retired=None if not np.isfinite(retire).any() else _as_times(reference_time + retire),
    )
    is_drawn = np.arange(len(birth)) >= num_items
    return RunItems(
        catalogue=public,
        user_model=user_model,
        born_in_run=(birth > 0) | is_drawn | np.append(withheld, np.zeros(len(new_birth), bool)),
        calendar=ItemCalendar(birth_clock=birth, retire_clock=retire),
    )


def _with_drawn_items(
    log: InteractionLog, user_model: UserModel, config: WorldConfig
) -> tuple[Catalogue, UserModel, NDArray[np.float64]]:
    """(catalogue, user model, birth clocks [B] of the new items). A new item has the categories and length of a parent among
    the log's consumed items; its hidden vector and bias lie around the parent's."""
    if not isinstance(user_model, ExtendableUserModel):
        raise ConfigurationError(
            f"births_per_day is {config.births_per_day}, but the user model {type(user_model).__name__} cannot take new "
            "items (it has no with_items); set births_per_day to 0, or withhold items by held_back_share."
        )
    days = np.arange(config.days)
    day = np.repeat(days, draw_poisson(config.seed, Purpose.NEW_ITEM, config.births_per_day, days))
    number = np.arange(len(day))
    hour = draw_bits(config.seed, Purpose.NEW_ITEM, number, 0) % np.uint64(24)
    # nothing is drawn on the stroke of day 0, where the run begins: those items would not be births
    hour = np.where((day == 0) & (hour == 0), 1, hour.astype(np.int64))
    consumed = np.flatnonzero(log.item_counts())
    pool = consumed if len(consumed) else np.arange(len(log.catalogue))
    place = draw_bits(config.seed, Purpose.NEW_ITEM, number, 1) % np.uint64(len(pool))
    parents = pool[place.astype(np.int64)]
    width = np.arange(user_model.item_noise_width)[None, :]
    noise = draw_normal(config.seed, Purpose.NEW_ITEM, number[:, None], 2, width)
    extended = cast(UserModel, user_model.with_items(parents, noise))
    return log.catalogue.with_offspring(parents), extended, (day * SECONDS_PER_DAY + hour * HOUR).astype(np.float64)


def _retirements(
    catalogue: Catalogue,
    birth: NDArray[np.float64],
    num_drawn: int,
    withheld: NDArray[np.bool_],
    config: WorldConfig,
    reference_time: int,
) -> NDArray[np.float64]:
    """[I] clock of each item's retirement. A logged one counts, but not against an item whose birth the run has moved."""
    retire = np.full(len(birth), np.inf)
    if catalogue.retired is not None:
        moved = np.append(withheld, np.ones(num_drawn, bool))
        stays = catalogue.retired == NEVER
        logged = (catalogue.retired - reference_time).astype(np.float64)
        retire = np.where(moved | stays, np.inf, _to_hours(logged))
    if config.retire_after_days is not None:
        seconds = config.retire_after_days * SECONDS_PER_DAY
        share = draw_uniform(config.seed, Purpose.RETIREMENT, np.arange(len(birth))).astype(np.float64)
        due = np.where(birth + seconds > 0, birth + seconds, share * seconds)
        retire = np.minimum(retire, np.maximum(_to_hours(due), HOUR))
    return retire


def _to_hours(clock: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clocks inside the run moved on to the next whole hour; those before it stay."""
    return np.where(clock > 0, np.ceil(clock / HOUR) * HOUR, clock)


def _as_times(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds since 1970, `NEVER` where infinite."""
    return np.where(np.isfinite(seconds), np.where(np.isfinite(seconds), seconds, 0).astype(np.int64), NEVER)
