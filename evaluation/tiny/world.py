"""Six items, and users whose only state is what they consumed last; the real environment, worlds and observations around them.

Two of the items are baits: from most states they are the likeliest to be clicked, and whoever has had one is in no mood for
anything afterwards. So who looks one request ahead is caught, and who looks further is not. What is like the last item is less
wanted too, so that a policy must mind the state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agents.base import Training
from envs.candidate_source import RecallRequest
from envs.catalogue import SECONDS_PER_DAY, Catalogue
from envs.compiled import VECTOR_LANES
from envs.logs.schema import InteractionLog, Users
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv
from envs.users.protocol import AGE_KNOTS, ChoiceParams, Trait, VisitParams
from envs.world import World, WorldConfig, build_world

ITEMS = ("cake", "gossip", "fruit", "report", "novel", "pottery")
CATEGORIES = ("food", "news", "craft", "quick")
MEMBERSHIP = np.array(
    [[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0]], np.float32
)
"""[6, 4] categories of the items."""
APPEAL = np.array([2.0, 1.6, 0.6, 0.4, 0.2, 0.0])
"""[6] logit of clicking an item at the top, alone, for a user who has no mood."""
SPOILS = np.array([2.0, 1.7, 0.0, 0.0, 0.0, 0.0])
"""[6] logits that everything loses while an item is the last one consumed: what makes a bait of the first two."""
SATIATION = 2.5
"""Logits that an item loses in proportion to the cosine of its categories with those of the last item."""
AGE_DAYS = np.array([200.0, 40.0, 400.0, 3.0, 7.0, 300.0])
"""[6] days since birth; the fourth and the fifth are fresh."""
RECALL_SCORE = np.array([2.0, 1.5, 0.5, -0.5, 1.0, 0.0], np.float32)
"""[6] score of the recall stage, which finds the baits best, as clicks would have taught it."""
CONSUMED = np.array([1, 2, 12, 3, 2, 16])
"""[6] times that an item stands in the policies' log beside being a user's last one."""
SURVIVAL = 0.9
"""Chance that a life goes on after a request."""
USERS_PER_ITEM = 2
"""Users who begin with each item as their last one."""


@dataclass
class TinyState:
    """The last item of N users, and the traits that every user model has, here all zero."""

    last: NDArray[np.int64]
    """[N] item consumed last, -1 for none."""
    traits: NDArray[np.float32]
    """[N, len(Trait)]."""

    def take(self, rows: NDArray[np.int64]) -> "TinyState":
        """A copy of the users at `rows`."""
        return TinyState(self.last[rows], self.traits[rows])

    def put(self, rows: NDArray[np.int64], values: "TinyState") -> None:
        """Overwrites the users at `rows`."""
        self.last[rows], self.traits[rows] = values.last, values.traits


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A user model that is a table of utilities by last item and item shown; fulfils `envs.users.protocol.UserModel`.

    Every visit has one request. After it the user comes back at once with a fixed chance, or never: so neither place, hour, day nor
    satisfaction ever moves, and the last item is all that there is to know.
    """

    utility: NDArray[np.float32]
    """[I + 1, I] logits of an item by what was consumed last; the last row is for nothing."""
    num_users: int
    survival: float = SURVIVAL
    """Chance that a life goes on after a request."""
    choice: ChoiceParams = field(default_factory=lambda: ChoiceParams(outside=0.0))

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D] unit vectors, padded to the vector lanes: a user's preference is its row of the table."""
        count = self.utility.shape[1]
        return np.eye(count, count + -count % VECTOR_LANES, dtype=np.float32)

    @cached_property
    def item_bias(self) -> NDArray[np.float32]:
        """[I] zeros."""
        return np.zeros(self.utility.shape[1], np.float32)

    @cached_property
    def visits(self) -> VisitParams:
        """Of one request each, without any influence of satisfaction."""
        return VisitParams(
            leave_intercept=40.0,
            leave_log_place=0.0,
            leave_miss=40.0,
            impatience=0.0,
            leave_satisfaction=0.0,
            return_intercept=float(np.log(self.survival / (1 - self.survival))),
            return_satisfaction=0.0,
            gap_log_mean=-87.0,
            gap_log_sd=0.0,
            gap_satisfaction=0.0,
        )

    @cached_property
    def age_values(self) -> NDArray[np.float32]:
        """Zeros: age is not among what users care for."""
        return np.zeros(len(AGE_KNOTS), np.float32)

    @cached_property
    def user_parameters(self) -> NDArray[np.float32]:
        """[U, len(Trait)] zeros."""
        return np.zeros((self.num_users, len(Trait)), np.float32)

    @property
    def walk_width(self) -> int:
        """Nothing is drawn between visits."""
        return 0

    def start(self, parameters: NDArray[np.float32]) -> TinyState:
        """Users who have consumed nothing yet."""
        return TinyState(np.full(len(parameters), -1), parameters.copy())

    def preference(
        self, state: TinyState, hour: NDArray[np.float32], weekday: NDArray[np.int64], place_in_visit: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """[N, D] rows of the table."""
        preference = np.zeros((len(state.last), self.item_vectors.shape[1]), np.float32)
        preference[:, : self.utility.shape[1]] = self.utility[state.last]
        return preference

    def consume(self, state: TinyState, rows: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        """The last item is what was consumed now."""
        state.last[rows] = items

    def pause(
        self, state: TinyState, rows: NDArray[np.int64], days: NDArray[np.float32], walk: NDArray[np.float32] | None
    ) -> None:
        """Nothing is forgotten."""

    def expected_rating(
        self, state: TinyState, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """NaN: nobody rates."""
        return np.full(len(items), np.nan, np.float32)

    def rate(
        self,
        state: TinyState,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """NaN: nobody rates."""
        return np.full(len(items), np.nan, np.float32)


class EveryItem:
    """A recall stage that finds the whole catalogue, in one order and with fixed scores."""

    def candidates(self, request: RecallRequest, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, count], scores [N, count]), the first `count` by score."""
        order = np.argsort(-RECALL_SCORE, kind="stable")[:count].astype(np.int32)
        shape = (len(request), len(order))
        return np.broadcast_to(order, shape).copy(), np.broadcast_to(RECALL_SCORE[order], shape).copy()


def tiny_model() -> TinyModel:
    """The user model of the constants above."""
    directions = MEMBERSHIP / np.linalg.norm(MEMBERSHIP, axis=1, keepdims=True)
    moods = APPEAL - SATIATION * directions @ directions.T - SPOILS[:, None]
    return TinyModel(
        utility=np.concatenate([moods, APPEAL[None]]).astype(np.float32), num_users=USERS_PER_ITEM * len(ITEMS)
    )


@lru_cache(maxsize=1)
def tiny_world() -> World:
    """The world: twelve users alike but for their last item, two of whom begin with each."""
    model = tiny_model()
    last = np.repeat(np.arange(len(ITEMS)), USERS_PER_ITEM)
    before = np.repeat(np.arange(len(ITEMS)), CONSUMED).reshape(-1, len(last)).T
    # the fifth row of each user lies after the cut at 80 %, and is seen by nobody
    item = np.column_stack([before, last, last]).astype(np.int32)
    seconds = np.broadcast_to(SECONDS_PER_DAY * 20_000 + 60 * np.arange(item.shape[1]), item.shape)
    catalogue = Catalogue(
        item_ids=np.array(ITEMS),
        titles=np.array(ITEMS),
        category_names=CATEGORIES,
        categories=MEMBERSHIP,
        birth=(SECONDS_PER_DAY * (20_000 - AGE_DAYS)).astype(np.int64),
    )
    users = Users(
        user_ids=np.arange(len(last)).astype(np.str_),
        feature_names=(),
        features=np.zeros((len(last), 0), np.float32),
    )
    log = InteractionLog.from_rows(
        name="tiny",
        users=users,
        catalogue=catalogue,
        user=np.repeat(np.arange(len(last)), item.shape[1]).astype(np.int32),
        item=item.ravel(),
        timestamp=seconds.ravel(),
    )
    return build_world(log, model, WorldConfig(days=1, held_back_share=0.0, exclude_seen=False), progress=False)


def tiny_env(
    num_envs: int = 1,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    *,
    slate_size: int = 2,
    seed: int = 0,
    world: World | None = None,
) -> SlateVectorEnv:
    """The real environment of `num_envs` of those users, which shows agents the last item as history."""
    world = world or tiny_world()
    return SlateVectorEnv(
        num_envs,
        world=world,
        candidate_source=EveryItem(),
        slate_size=slate_size,
        num_candidates=world.num_items,
        history_size=1,
        autoreset_mode=autoreset_mode,
        seed=seed,
    )


def tiny_training(
    requests: int, seed: int, *, slate_size: int = 2, report: Callable[[int], None] = lambda requests: None
) -> Training:
    """Traffic of the tiny world for an agent to learn from."""

    def make_env(num_envs: int, mode: AutoresetMode) -> SlateVectorEnv:
        return tiny_env(num_envs, mode, slate_size=slate_size)

    return Training(make_env=make_env, requests=requests, seed=seed, report=report)


def tiny_observation(slate_size: int = 2, world: World | None = None) -> Observation:
    """What agents are shown of every user in every state: U * I requests, user by user, state by state."""
    world = world or tiny_world()
    env = tiny_env(len(world.simulated_users), AutoresetMode.DISABLED, slate_size=slate_size, world=world)
    env.reset()
    states = np.tile(np.arange(world.num_items, dtype=np.int32), env.num_envs)
    shown: dict[str, Any] = {
        name: np.repeat(array, world.num_items, axis=0) for name, array in env.observation.to_dict().items()
    }
    return Observation.from_dict({**shown, "history": states[:, None]})
