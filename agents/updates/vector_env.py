"""`driftrec/ModelUpdate-v0` as a vector: several markets side by side, with arrays for all of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market, UpdateConfig
from envs.errors import ConfigurationError
from envs.world import World, default_world


class ModelUpdateVectorEnv(SyncVectorEnv):
    """N episodes side by side, with next-step autoreset; episode n of place i plays market (i + n N) mod M.

    The batch is one of arrays, not of speed: the episodes are stepped one after another in this process, since most of a step
    is training and traffic of models of their own. For several cores play whole episodes in processes, as
    `agents.updates.policies.playing.Player` does on Ray with `jobs`, or put `ModelUpdateEnv` into
    `gymnasium.vector.AsyncVectorEnv`.

    Each place is a `ModelUpdateEnv`, whose seed is the vector's plus its number, and whose option `market` counts the place's
    own markets; the mask of actions is in the info as [N, A].

    Args:
        markets: [M] markets; by default that of `world`.
        num_envs: N, by default M.
        world: users, log and births of the only market; by default those of the synthetic log of seed 0.
        config, users: as of `ModelUpdateEnv`, of that market.

    Raises:
        ConfigurationError: if there is no market or environment, or both markets and a world are given.
    """

    def __init__(
        self,
        markets: Sequence[Market] | None = None,
        num_envs: int | None = None,
        *,
        world: World | None = None,
        config: UpdateConfig | None = None,
        users: NDArray[np.int64] | None = None,
    ) -> None:
        if markets is None:
            markets = [Market(world or default_world(), config, users)]
        elif world is not None or config is not None or users is not None:
            raise ConfigurationError("markets have worlds, configurations and users of their own; give them to Market.")
        count = len(markets) if num_envs is None else num_envs
        if not len(markets) or count < 1:
            raise ConfigurationError(
                f"there are {len(markets)} markets and {count} environments; give at least one of each."
            )
        self.markets = markets
        makers: list[Any] = [partial(ModelUpdateEnv, markets_of(markets, place, count)) for place in range(count)]
        super().__init__(makers, autoreset_mode=AutoresetMode.NEXT_STEP)


def markets_of(markets: Sequence[Market], place: int, num_envs: int) -> list[Market]:
    """The markets that place `place` of `num_envs` plays one after another, and then again."""
    return [markets[(place + number * num_envs) % len(markets)] for number in range(len(markets))]
