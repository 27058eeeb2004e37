"""Update policies that are learnt on simulated episodes: what they share, and DQN and PPO by RLlib."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agents.updates.market import Market
from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.policies.base import UpdatePolicy
from agents.updates.policies.training_env import Lessons, play_habits, training_envs
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError

Weights = dict[str, NDArray[np.float32]]
"""Of a network, by name; see `agents.rl.networks.arrays_of`."""
Learnt = tuple[list[tuple[int, Weights]], NDArray[np.float64]]
"""What a training leaves: the `SNAPSHOTS` last (periods spent, network), and the learning curve [M, 2] of rewards as the
environments return them."""

TRAINING_SEEDS = 1_000_000_000
"""Training episodes have seeds from here on; episodes to be tuned and judged on have smaller ones."""
SEEDS_PER_TRAINING = 1_000
OBSERVED = tuple(field.name for field in fields(Monitoring))
"""Names of what an observation holds."""
ACTIONS = tuple(action.name for action in UpdateAction)
"""Names of the actions."""
SNAPSHOTS = 3
"""Points of the learning curve whose policies are kept until one of them is chosen."""
HABITS = (UpdateAction.KEEP, UpdateAction.UPDATE_RANKER, UpdateAction.UPDATE_BOTH)
"""What may be done before every period without a thought: the best of these is where learning begins."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """Settings that all learnt update policies have; the defaults suit some 80 episodes."""

    num_envs: int = 4
    """Episodes side by side."""
    twin_seeds: int = 2
    """Seeds that each market is played with, again and again. With each of them every habit is played once, to begin with the best
    and pair rewards with it; these episodes count like any other."""
    reward_scale: float = 20.0
    """Factor of rewards, so that the values of actions differ by about one."""
    gamma: float = 0.95
    """Discount per period."""
    learning_rate: float = 1e-3
    """Adam's step size (A2C: RMSprop's)."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(LearningOptions):
    """Settings of algorithms that learn values from what they have kept."""

    initial_habit: float = 0.5
    """How far the value of the habit is above the others before training, in scaled rewards."""
    minibatch: int = 128
    """Transitions of one gradient step."""
    gradient_steps: int = 16
    """Gradient steps after each period of all episodes."""
    target_every: int = 120
    """Periods between two copies of the network to its target."""
    warm_up_share: float = 0.1
    """Share of the budget that is explored before learning begins."""
    epsilon_end: float = 0.1
    """Share of explored choices from 60 % of the budget on."""


@dataclass(frozen=True, kw_only=True)
class UpdateDQNOptions(ReplayOptions):
    """Settings of DQN by RLlib."""

    n_step: int = 5
    """Periods whose rewards are summed before the value of the next one is trusted."""


@dataclass(frozen=True, kw_only=True)
class OnPolicyOptions(LearningOptions):
    """Settings of algorithms that learn from what they have just sampled."""

    learning_rate: float = 3e-3
    """Adam's step size (A2C: RMSprop's); with few updates, a small one would leave keeping the likeliest action whatever is
    learnt."""
    gae_lambda: float = 0.9
    """Weight of longer returns in the advantage estimates."""
    entropy: float = 0.005
    """Weight of the entropy bonus."""
    initial_habit: float = 1.5
    """How far the logit of the habit is above the others before training: large ones explore little. With 1.5, four of ten
    choices are the habit."""


@dataclass(frozen=True, kw_only=True)
class UpdatePPOOptions(OnPolicyOptions):
    """Settings of PPO by RLlib."""

    batch_episodes: int = 4
    """Episodes between two updates of the policy."""
    minibatch: int = 64
    """Periods of one gradient step."""
    epochs: int = 8
    """Passes over each batch."""
    clip: float = 0.2
    """Change of an action's probability beyond which an update gains nothing more."""


@dataclass(frozen=True)
class Course:
    """What a training is told."""

    lessons: Lessons
    periods: int
    """Of an episode."""
    steps: int
    """Periods to learn from, of all episodes."""
    seed: int
    make_envs: Callable[[AutoresetMode], Any]
    """Makes the environments of the lessons."""
    num_envs: int
    habit: UpdateAction
    """What untrained networks choose, and rewards are paired with."""
    report: Callable[[int], None]
    """To be told the periods so far."""


class LearntPolicy(UpdatePolicy):
    """An update policy that is a network from what monitoring shows, and the mask of valid actions, to a number for each action.

    It takes the valid action of the largest number, the first of equals. Untrained, that is the best of `HABITS`, which a part of
    the episodes is spent on finding; so every training begins with what a tuned habit would do, as one would dare to in a service,
    and looks for something better around it.

    Source: Uchendu et al. (2023), Jump-start reinforcement learning, for learning from a guide on.

    Args:
        options: settings of the training.
        seed: of everything random in it.

    Raises:
        ConfigurationError: if a setting is out of its range.
    """

    options_class: ClassVar[type[LearningOptions]] = LearningOptions
    sees_mask: ClassVar[bool] = True
    """Whether the mask belongs to what the network sees, and invalid actions are never taken; else they count as keep."""

    policy_: Weights
    snapshots_: list[tuple[int, Weights]]
    """(periods spent, network) at the last points of the learning curve; not saved."""
    learning_curve_: NDArray[np.float64]
    """[M, 2] periods spent, mean reward of a period since the point before: reward beyond that of the habit."""
    about_: dict[str, Any]
    """What it was trained on: markets, periods, price, habit, episodes (with those of habits), episodes learnt from, periods spent,
    seconds."""

    def __init__(self, options: Any = None, seed: int = 0) -> None:
        self.options: Any = options or self.options_class()
        self.seed = seed
        if min(self.options.num_envs, self.options.twin_seeds) < 1:
            raise ConfigurationError(
                f"update policy '{self.name}' has num_envs={self.options.num_envs} and "
                f"twin_seeds={self.options.twin_seeds}; both must be at least 1."
            )

    @property
    def is_trained(self) -> bool:
        """Whether there is a network to act by."""
        return hasattr(self, "policy_")

    @property
    def seeds(self) -> range:
        """Of the training's episodes."""
        first = TRAINING_SEEDS + SEEDS_PER_TRAINING * self.seed
        return range(first, first + self.options.twin_seeds)

    def fit(
        self,
        markets: Sequence[Market],
        episodes: int,
        *,
        price: float = 1.0,
        jobs: int = 1,
        report: Callable[[int], None] = lambda episodes: None,
    ) -> Self:
        """Trains on simulated episodes.

        Args:
            markets: to train on, with episodes of one length; the first ones of them where there are too few episodes for all.
            episodes: to simulate in all, those of habits among them.
            price: factor of the cost in the reward.
            jobs: more than 1 simulates side by side in processes; what is learnt is the same.
            report: called with the number of episodes so far.

        Raises:
            ConfigurationError: if there are fewer than two episodes, no markets, or episodes of different lengths.
        """
        lengths = {market.periods for market in markets}
        if episodes < 2 or len(lengths) != 1:
            raise ConfigurationError(
                f"update policy '{self.name}' was given {episodes} episodes of {len(markets)} markets with "
                f"{' and '.join(map(str, sorted(lengths))) or 'no'} periods; it needs 2 episodes or more, all of one length."
            )
        start, periods = perf_counter(), lengths.pop()
        # at least a third of the episodes is learnt from
        habits = HABITS if episodes >= 2 * len(HABITS) else HABITS[:1]
        most = max(1, 2 * episodes // (3 * len(habits)))
        markets = markets[:most]
        seeds = self.seeds[: max(1, most // len(markets))]
        scale, twins = self.options.reward_scale, len(habits) * len(markets) * len(seeds)
        lessons = Lessons(markets=markets, seeds=seeds, scale=scale, price=price, shows_mask=self.sees_mask)
        worth = play_habits(lessons, habits, jobs, report)
        habit = habits[int(np.argmax(worth))]
        lessons = replace(lessons, habit=habit)
        learnt_from = episodes - twins
        num_envs = min(self.options.num_envs, learnt_from)
        course = Course(
            lessons=lessons,
            periods=periods,
            steps=learnt_from * periods,
            seed=self.seeds[0],
            make_envs=lambda mode: training_envs(lessons, num_envs, jobs > 1, mode),
            num_envs=num_envs,
            habit=habit,
            report=lambda spent: report(twins + spent // periods),
        )
        self.snapshots_, curve = self.train(course)
        self.snapshots_ = [(0, _always(habit, self.snapshots_[-1][1])), *self.snapshots_]
        self._take_over(self.snapshots_[-1][1])
        self.learning_curve_ = curve / (1.0, scale)
        self.about_ = {
            "markets": [market.name for market in markets],
            "periods": periods,
            "price": price,
            "habit": habit.name.lower(),
            "episodes": episodes,
            "learnt_from": learnt_from,
            "spent": self.snapshots_[-1][0],
            "seconds": round(perf_counter() - start, 1),
        }
        return self

    @abstractmethod
    def train(self, course: Course) -> Learnt:
        """Trains, and tells what was learnt."""

    def candidates(self) -> list[Self]:
        """The policies at the last points of the learning curve, the last one first, and the one before training; tuning chooses
        among them."""
        found = []
        for spent, weights in reversed(self.snapshots_):
            policy = copy(self)
            policy._take_over(weights)
            policy.snapshots_ = [(spent, weights)]
            policy.about_ = self.about_ | {"spent": spent}
            found.append(policy)
        return found

    @property
    def label(self) -> str:
        """The name with the periods learnt from."""
        return f"{self.name}({self.about_['spent']})" if self.is_trained else self.name

    def act(self, observation: NDArray[np.float32]) -> int:
        """The action of the largest number where all actions are valid."""
        return self.act_among(observation, np.ones(len(ACTIONS), np.int8))

    def act_among(self, observation: NDArray[np.float32], mask: NDArray[np.int8]) -> int:
        """The valid action of the largest number.

        Raises:
            AgentError: if the policy is not trained, or was trained on other observations.
        """
        if not self.is_trained:
            raise AgentError(f"the update policy '{self.name}' is not trained; call fit or load first.")
        from agents.rl.networks import in_blocks

        seen = np.append(observation, mask) if self.sees_mask else observation
        width = self.policy_["0.weight"].shape[1]
        if len(seen) != width:
            raise AgentError(
                f"update policy '{self.name}' was trained on rows of {width} numbers, this one has {len(seen)}; train it anew."
            )
        values = in_blocks(self._network, np.asarray(seen, np.float32)[None])[0]
        return int((np.where(mask == 1, values, -np.inf) if self.sees_mask else values).argmax())

    def save(self, path: Path) -> None:
        """Writes the policy, whole or not at all.

        Raises:
            AgentError: if the policy is not trained.
        """
        if not self.is_trained:
            raise AgentError(
                f"the update policy '{self.name}' is not trained, so there is nothing to save; call fit first."
            )
        arrays = {f"policy.{name}": array for name, array in self.policy_.items()}
        settings = {
            "seed": self.seed,
            "options": asdict(self.options),
            "observed": OBSERVED,
            "actions": ACTIONS,
            "about": self.about_,
        }
        save_arrays(path, f"update policy {self.name}", {"learning_curve": self.learning_curve_, **arrays}, settings)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote; the loaded policy acts the same.

        Raises:
            ArtefactError: if the file is missing, damaged, holds something else, or was trained on other observations or actions.
        """
        arrays, settings = load_arrays(path, f"update policy {cls.name}")
        for what, found in (("observed", OBSERVED), ("actions", ACTIONS)):
            if tuple(settings.get(what, ())) != found:
                raise ArtefactError(f"'{path}' holds an update policy of other shape ({what} differ); train it anew.")
        try:
            options: dict[str, Any] = settings["options"] | {"hidden": tuple(settings["options"]["hidden"])}
            policy = cls(cls.options_class(**options), settings["seed"])
            policy.learning_curve_, policy.about_ = arrays.pop("learning_curve"), settings["about"]
            policy._take_over({name.removeprefix("policy."): array for name, array in arrays.items()})
            weights = policy.policy_
            width = len(OBSERVED) + (len(ACTIONS) if cls.sees_mask else 0)
            if weights["0.weight"].shape[1] != width or len(weights[f"{len(weights) - 2}.bias"]) != len(ACTIONS):
                raise ValueError("its network has another shape")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"'{path}' is not a whole update policy ({error}); train it again.") from error
        return policy

    def _take_over(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        from agents.rl.networks import network_from

        self.policy_ = dict(weights)
        self._network = network_from(weights)


def _always(action: UpdateAction, weights: Weights) -> Weights:
    """A network of the same shape that puts `action` first, whatever it sees."""
    arrays = {name: np.zeros_like(array) for name, array in weights.items()}
    arrays[list(arrays)[-1]][action] = 1.0
    return arrays


class UpdateDQN(LearntPolicy):
    """Takes the valid action of the largest value, which double DQN by RLlib learns with masked values.

    A choice that is explored is the habit, or one of the other valid actions, with odds that differ between the episodes that run
    side by side: some stray often, some seldom.
    """

    name = "dqn"
    options_class = UpdateDQNOptions

    def train(self, course: Course) -> Learnt:
        """Trains by RLlib."""
        # RLlib takes seconds to import, and serving does not need it
        from agents.updates.policies.rllib import trained_by_dqn

        return trained_by_dqn(self.options, course)


class UpdatePPO(LearntPolicy):
    """Takes the likeliest valid action of a policy that PPO by RLlib learns with masked logits."""

    name = "ppo"
    options_class = UpdatePPOOptions

    def train(self, course: Course) -> Learnt:
        """Trains by RLlib."""
        from agents.updates.policies.rllib import trained_by_ppo

        return trained_by_ppo(self.options, course)
