"""World modifiers: small classes that change users' tastes over the days of a run, hidden from every policy.

A modifier adds columns to the items and, moment by moment, weights of these columns to the users' preference; so it works
with every user model, and costs as much as a few more dimensions of its item vectors. docs/worlds.md shows how to write one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.loading import FromFile, Kind, failing_in, made_from
from envs.randomness import Purpose, draw_bits, draw_normal, draw_uniform
from envs.users.protocol import ChoiceParams, UserModel, VisitParams

DAYS_PER_WEEK = 7


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a modifier may build on: public facts of the world and a seed of its own."""

    categories: NDArray[np.float32]
    """[I, G] membership; each row sums to 1, or to 0 for an item without category."""
    category_names: tuple[str, ...]
    """G names of categories."""
    days: int
    """Horizon of a life in days."""
    first_weekday: int
    """Weekday of day 0, Monday 0."""
    seed: int
    """Of everything that the modifier draws (`envs.randomness`, `Purpose.MODIFIER`); no other modifier of the world has it."""


@dataclass(frozen=True)
class Moment:
    """N requests: who is there, and when."""

    user: NDArray[np.int64]
    """[N] number of the simulated user; part of the key of draws that are the user's own."""
    clock: NDArray[np.float64]
    """[N] seconds since the run's start."""

    @property
    def day(self) -> NDArray[np.float64]:
        """[N] days since the run's start, with their fraction."""
        return self.clock / SECONDS_PER_DAY


class Modifier(FromFile):
    """Base of all modifiers: override `weights`, `walk_scale`, `age_scale`, `rest`, `wander`, or several of them.

    An instance is made without arguments, holds nothing that changes, and draws everything from the scene's seed: the same
    moment gives the same weights, whatever was asked before.
    """

    def item_columns(self, scene: Scene) -> NDArray[np.float32]:
        """[I, R] how much each item has of what `weights` weighs; by default its categories (R = G)."""
        return scene.categories

    def weights(self, scene: Scene, moment: Moment) -> NDArray[np.floating]:
        """[N, R] logits of utility per unit of each column, for each request."""
        raise NotImplementedError

    def walk_scale(self, scene: Scene) -> float:
        """Factor on the steps by which long-term interest wanders between visits."""
        return 1.0

    def age_scale(self, scene: Scene) -> float:
        """Factor on what an item's age adds to its utility."""
        return 1.0

    def rest(self, scene: Scene) -> tuple[float, NDArray[np.floating]] | None:
        """(rate per day at which long-term interest returns between visits, [d] where to), before it wanders; None where it does
        not. Over a pause of t days exp(-rate t) of its distance from there is left."""
        return None

    def wander(
        self, scene: Scene, moment: Moment, days: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> NDArray[np.floating]:
        """[N, d] steps by which long-term interest wanders over the pause that ends at each moment.

        Args:
            scene: of the world.
            moment: N users at the begin of their next visits.
            days: [N] days since their last ones.
            steps: [N, d] standard normal draws; the user model multiplies what is returned by the standard deviation of a day's
                step, the root of `days` and every modifier's `walk_scale`.
        """
        return steps


@dataclass(frozen=True, kw_only=True)
class Drift(Modifier):
    """Interests wander faster than the user model assumes: by a factor on every step, which grows with the root of the days
    between two visits."""

    scale: float = 5.0
    """Factor on the standard deviation of the steps."""

    def walk_scale(self, scene: Scene) -> float:
        return self.scale


@dataclass(frozen=True, kw_only=True)
class CategoryShock(Modifier):
    """On days that nobody knows beforehand a category rises or falls for everybody, and comes back after a while."""

    strength: float = 1.5
    """Logits by which it rises or falls."""
    count: int = 2
    """Number of shocks in a run."""
    days: float = 7.0
    """Days until the category is back."""

    def weights(self, scene: Scene, moment: Moment) -> NDArray[np.float32]:
        weights = np.zeros((len(moment.user), scene.categories.shape[1]), np.float32)
        number = np.arange(self.count)
        onset = draw_uniform(scene.seed, Purpose.MODIFIER, number, 0) * scene.days
        rises = draw_uniform(scene.seed, Purpose.MODIFIER, number, 1) < 0.5
        category = (draw_bits(scene.seed, Purpose.MODIFIER, number, 2) % np.uint64(weights.shape[1])).astype(np.int64)
        for shock in range(self.count):
            since = moment.day - onset[shock]
            sign = 1 if rises[shock] else -1
            weights[:, category[shock]] += sign * self.strength * ((since >= 0) & (since < self.days))
        return weights


@dataclass(frozen=True, kw_only=True)
class WeeklySeason(Modifier):
    """Each category has its days of the week: a wave of seven days, with a height and a phase of its own."""

    strength: float = 0.5
    """Standard deviation over categories of a wave's height, in logits."""

    def weights(self, scene: Scene, moment: Moment) -> NDArray[np.float32]:
        category = np.arange(scene.categories.shape[1])
        height = self.strength * draw_normal(scene.seed, Purpose.MODIFIER, category, 0)
        phase = draw_uniform(scene.seed, Purpose.MODIFIER, category, 1)
        of_week = (scene.first_weekday + moment.day) / DAYS_PER_WEEK
        return (height * np.cos(2 * np.pi * (of_week[:, None] - phase))).astype(np.float32)


MODIFIER = Kind(
    name="modifier",
    wanted="a subclass of envs.modifiers.Modifier",
    error=ConfigurationError,
    known={
        "drift": "envs.modifiers:Drift",
        "shock": "envs.modifiers:CategoryShock",
        "season": "envs.modifiers:WeeklySeason",
    },
)
"""Modifiers that come with driftrec, and how others are found."""


def modifiers_from(specs: Sequence[str]) -> tuple[Modifier, ...]:
    """A modifier for each of `specs`: a name of `MODIFIER.known`, or "path/to/file.py:Class".

    Raises:
        ConfigurationError: if there is no such name, file or class, the class is no modifier, overrides nothing, or cannot be
            made without arguments.
    """
    return tuple(_made(spec) for spec in specs)


def _made(spec: str) -> Modifier:
    kind: Any = MODIFIER.find(spec)
    path, _, class_name = spec.rpartition(":")
    if not issubclass(kind, Modifier):
        raise ConfigurationError(
            f"class '{class_name}' in '{path}' is not a subclass of envs.modifiers.Modifier; write "
            f"'class {class_name}(Modifier):' and import Modifier by 'from envs.modifiers import Modifier'."
        )
    if all(
        getattr(kind, name) is getattr(Modifier, name)
        for name in ("weights", "walk_scale", "age_scale", "rest", "wander")
    ):
        raise ConfigurationError(
            f"class '{class_name}' in '{path}' lacks the method weights(self, scene, moment), which returns logits [N, G] "
            "for each request and category, and the methods walk_scale(self, scene) and wander(self, scene, moment, days, "
            "steps); add one of them."
        )
    return made_from(MODIFIER, spec, kind)


@dataclass(frozen=True)
class ModifiedModel:
    """A user model under modifiers; fulfils `UserModel`.

    `preference` knows no date, so it leaves the added columns at zero; `World.preference` fills them for the moment of each
    request by `add_moment`.
    """

    base: UserModel
    modifiers: tuple[Modifier, ...]
    scenes: tuple[Scene, ...]
    """One for each modifier."""
    _blocks: tuple[tuple[int, slice], ...] = field(init=False, repr=False)
    _columns: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width = self.base.item_vectors.shape[1]
        blocks, columns, of_categories = [], [], None
        for number, (modifier, scene) in enumerate(zip(self.modifiers, self.scenes, strict=True)):
            if type(modifier).weights is Modifier.weights:
                continue
            shares = type(modifier).item_columns is Modifier.item_columns
            if not shares or of_categories is None:
                block = np.asarray(_asked(modifier, "item_columns", scene), np.float32)
                _check(modifier, "item_columns", block, (len(scene.categories), block.shape[-1] if block.ndim else 0))
                place = slice(width, width + block.shape[1])
                width += block.shape[1]
                columns.append(block)
                of_categories = place if shares else of_categories
            blocks.append((number, of_categories if shares and of_categories else place))
        object.__setattr__(self, "_blocks", tuple(blocks))
        object.__setattr__(
            self, "_columns", np.concatenate([self.base.item_vectors, *columns], axis=1, dtype=np.float32)
        )

    def add_moment(
        self, preference: NDArray[np.float32], user: NDArray[np.int64], clock: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Adds what the modifiers say of the requests of users `user` [N] at `clock` [N] to `preference` [N, D], in place.

        Raises:
            ConfigurationError: if a modifier fails, or its weights have another shape than its columns.
        """
        moment = Moment(user, clock)
        for number, place in self._blocks:
            modifier = self.modifiers[number]
            weights = np.asarray(_asked(modifier, "weights", self.scenes[number], moment))
            _check(modifier, "weights", weights, (len(user), place.stop - place.start))
            preference[:, place] += weights
        return preference

    def wander(
        self,
        user: NDArray[np.int64],
        clock: NDArray[np.float64],
        days: NDArray[np.float32],
        walk: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """[N, d] draws `walk` of users `user` [N] who come back at `clock` [N] after `days` [N], as the modifiers want them.

        Raises:
            ConfigurationError: if a modifier fails, or its steps have another shape than the draws.
        """
        for modifier, scene in zip(self.modifiers, self.scenes, strict=True):
            if type(modifier).wander is not Modifier.wander:
                walk = np.asarray(_asked(modifier, "wander", scene, Moment(user, clock), days, walk), np.float32)
                _check(modifier, "wander", walk, (len(user), self.walk_width))
        return walk

    @cached_property
    def _walk_scale(self) -> np.float32:
        scales = [
            _asked(modifier, "walk_scale", scene) for modifier, scene in zip(self.modifiers, self.scenes, strict=True)
        ]
        return np.float32(np.prod(scales))

    @cached_property
    def _age_values(self) -> NDArray[np.float32]:
        scales = [
            _asked(modifier, "age_scale", scene) for modifier, scene in zip(self.modifiers, self.scenes, strict=True)
        ]
        return (self.base.age_values * np.float32(np.prod(scales))).astype(np.float32)

    @cached_property
    def _rests(self) -> list[tuple[float, NDArray[np.floating]]]:
        told = [_asked(modifier, "rest", scene) for modifier, scene in zip(self.modifiers, self.scenes, strict=True)]
        return [each for each in told if each is not None]

    # ------------------------------------------------------------------ the protocol
    @property
    def item_vectors(self) -> NDArray[np.float32]:
        return self._columns

    @property
    def item_bias(self) -> NDArray[np.float32]:
        return self.base.item_bias

    @property
    def visits(self) -> VisitParams:
        return self.base.visits

    @property
    def choice(self) -> ChoiceParams:
        return self.base.choice

    @property
    def age_values(self) -> NDArray[np.float32]:
        return self._age_values

    @property
    def user_parameters(self) -> NDArray[np.float32]:
        return self.base.user_parameters

    @property
    def walk_width(self) -> int:
        return self.base.walk_width

    def start(self, parameters: NDArray[np.float32]) -> Any:
        return self.base.start(parameters)

    def preference(
        self, state: Any, hour: NDArray[np.float32], weekday: NDArray[np.int64], place_in_visit: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        plain = self.base.preference(state, hour, weekday, place_in_visit)
        added = self.item_vectors.shape[1] - plain.shape[1]
        return np.concatenate([plain, np.zeros((len(plain), added), np.float32)], axis=1)

    def consume(self, state: Any, rows: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        self.base.consume(state, rows, items)

    def pause(
        self, state: Any, rows: NDArray[np.int64], days: NDArray[np.float32], walk: NDArray[np.float32] | None
    ) -> None:
        for rate, centre in self._rests:
            away = state.long_term[rows] - centre
            state.long_term[rows] = centre + np.exp(-rate * days)[:, None] * away
        self.base.pause(state, rows, days, None if walk is None else self._walk_scale * walk)

    def expected_rating(
        self, state: Any, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self.base.expected_rating(state, rows, items, utility)

    def rate(
        self,
        state: Any,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        return self.base.rate(state, rows, items, utility, noise)


def modified(model: UserModel, modifiers: Sequence[Modifier], scene: Scene) -> UserModel:
    """`model` under `modifiers`, each with a seed of its own made from that of `scene`; the model itself where there are none."""
    if not modifiers:
        return model
    seeds = draw_bits(scene.seed, Purpose.MODIFIER, np.arange(len(modifiers))) >> np.uint64(1)
    shared = {name: getattr(scene, name) for name in ("categories", "category_names", "days", "first_weekday")}
    return ModifiedModel(model, tuple(modifiers), tuple(Scene(**shared, seed=int(seed)) for seed in seeds))


def _asked(modifier: Modifier, method: str, *arguments: Any) -> Any:
    """What a method returns; an exception in a user's own file is told in one sentence."""
    try:
        return getattr(modifier, method)(*arguments)
    except Exception as error:
        if type(modifier).__module__ == __name__:
            raise
        raise ConfigurationError(failing_in("modifier", modifier, method, error)) from error


def _check(modifier: Modifier, method: str, array: NDArray[Any], shape: tuple[int, int]) -> None:
    if array.shape != shape or not np.isfinite(array).all():
        fault = f"shape {array.shape}" if array.shape != shape else "a number that is not finite"
        raise ConfigurationError(
            f"modifier '{type(modifier).__name__}': {method} returned {fault}; it must return finite numbers {shape}."
        )
