"""Replay buffers of arrays: rollouts go in, n-step transitions come out, all alike or by priority."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.rl.sampling import Rollout

SMALLEST_ERROR = 1e-3
"""Added to errors, so that what was learnt well is still drawn at times."""


class SumTree:
    """Non-negative numbers of which one is found by its place in their running sum, all operations on whole arrays."""

    def __init__(self, size: int) -> None:
        self._depth = max(1, size - 1).bit_length()
        self._nodes = np.zeros(2 << self._depth)
        """Node i is the sum of nodes 2 i and 2 i + 1; the numbers themselves begin at 2 ** depth."""

    @property
    def total(self) -> float:
        """Sum of all."""
        return float(self._nodes[1])

    def at(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers at `places`."""
        return self._nodes[places + (1 << self._depth)]

    def put(self, places: NDArray[np.int64], numbers: NDArray[np.float64]) -> None:
        """Sets the numbers at `places`; of a place named twice the last one stays."""
        nodes = places + (1 << self._depth)
        self._nodes[nodes] = numbers
        for _ in range(self._depth):
            nodes = np.unique(nodes >> 1)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, sums: NDArray[np.float64]) -> NDArray[np.int64]:
        """For each of `sums` in [0, total) the first place at which the running sum exceeds it; its number is not 0."""
        nodes, sums = np.ones(len(sums), np.int64), sums.copy()
        for _ in range(self._depth):
            left = 2 * nodes
            beyond = (sums >= self._nodes[left]) & (self._nodes[left + 1] > 0)
            sums -= np.where(beyond, self._nodes[left], 0.0)
            nodes = left + beyond
        return nodes - (1 << self._depth)


class ReplayBuffer:
    """The newest steps of N environments, as a ring over time, with their actions and whatever else a rollout was told of them.

    Rows that are not real are kept in their place but never sampled. Observations are kept once: the one that follows
    step t is the one before step t + 1, which with next-step autoreset is the final one of a life that ended.
    """

    def __init__(self, steps: int, num_envs: int, observation_width: int, prioritise: float = 0.0) -> None:
        """Args: steps: vector steps to keep; num_envs: N; observation_width: S; prioritise: see `draw`."""
        self.steps, self.num_envs, self.prioritise = steps, num_envs, prioritise
        self._observations = np.zeros((steps + 1, num_envs, observation_width), np.float32)
        self._rewards = np.zeros((steps + 1, num_envs), np.float32)
        self._terminated = np.zeros((steps + 1, num_envs), bool)
        self._ended = np.zeros((steps + 1, num_envs), bool)
        self._real = np.zeros((steps + 1, num_envs), bool)
        self._further: dict[str, NDArray[np.generic]] = {}
        """"actions" and what the rollouts were told, [steps + 1, N, ...] each."""
        self._newest = 0
        self._choosable = np.zeros((0, 2), np.int64)
        self._priorities = SumTree((steps + 1) * num_envs) if prioritise else None
        self._largest = 1.0

    def __len__(self) -> int:
        """Number of steps that may be sampled."""
        return len(self._choosable)

    @property
    def mass(self) -> float:
        """Priorities of all of them together; their number where all are drawn alike."""
        return self._priorities.total if self._priorities else float(len(self))

    def add(self, rollout: Rollout) -> None:
        """Appends a rollout; where it does not go on where the last one stopped (its env runner is a new one), lives are cut."""
        ring = self.steps + 1
        if self._newest and (self._observations[self._newest % ring] != rollout.observations[0]).any():
            self._put(real=np.zeros(self.num_envs, bool))
        further = {"actions": rollout.actions.numpy(), **rollout.told}
        for name, column in further.items():
            if name not in self._further:
                self._further[name] = np.zeros((ring, *column.shape[1:]), column.dtype)
        for step in range(len(rollout.rewards)):
            self._put(
                {name: column[step] for name, column in further.items()},
                observations=rollout.observations[step],
                rewards=rollout.rewards[step],
                terminated=rollout.terminated[step],
                ended=rollout.ended[step],
                real=rollout.real[step],
            )
        last = self._newest % ring
        self._observations[last], self._real[last] = rollout.observations[-1], False
        if self._priorities:
            self._priorities.put(last * self.num_envs + np.arange(self.num_envs), np.zeros(self.num_envs))
        times = np.arange(max(0, self._newest - self.steps), self._newest)
        time, env = np.nonzero(self._real[times % ring])
        self._choosable = np.stack([times[time], env], axis=1)

    def _put(self, further: Mapping[str, NDArray[np.generic]] = {}, **columns: NDArray[np.generic]) -> None:
        row = self._newest % (self.steps + 1)
        for name, column in further.items():
            self._further[name][row] = column
        for name, column in columns.items():
            getattr(self, f"_{name}")[row] = column
        if self._priorities:
            leaves = row * self.num_envs + np.arange(self.num_envs)
            self._priorities.put(leaves, np.where(self._real[row], self._largest, 0.0))
        self._newest += 1

    def draw(self, count: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """[count, 2] (step, environment) of requests drawn with replacement, and their probabilities [count]."""
        if self._priorities is None:
            chosen = self._choosable[generator.integers(len(self), size=count)]
            return chosen, np.full(count, 1 / len(self))
        leaves = self._priorities.find(generator.random(count) * self._priorities.total)
        rows, envs = np.divmod(leaves, self.num_envs)
        ring = self.steps + 1
        oldest = self._newest - self.steps
        times = oldest + (rows - oldest) % ring
        return np.stack([times, envs], axis=1), self._priorities.at(leaves) / self._priorities.total

    def judge(self, chosen: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        """Takes the last errors [B] of requests `chosen` [B, 2] as their priorities; those forgotten meanwhile are left out."""
        assert self._priorities is not None
        kept = chosen[:, 0] >= self._newest - self.steps
        chosen, priorities = chosen[kept], (np.abs(errors[kept]) + SMALLEST_ERROR) ** self.prioritise
        self._largest = max(self._largest, float(priorities.max(initial=0.0)))
        self._priorities.put(chosen[:, 0] % (self.steps + 1) * self.num_envs + chosen[:, 1], priorities)

    def sample(
        self, count: int, n_step: int, gamma: float, generator: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Draws `count` requests, with replacement, as n-step transitions; see `transitions`."""
        chosen, _ = self.draw(count, generator)
        return self.transitions(chosen[:, 0], chosen[:, 1], n_step, gamma)

    def transitions(
        self, times: NDArray[np.int64], envs: NDArray[np.int64], n_step: int, gamma: float
    ) -> dict[str, NDArray[np.generic]]:
        """n-step transitions that begin at steps `times` [B] (counted from the first ever added) of `envs` [B].

        A transition is shorter where the life ends earlier, or where nothing newer is known yet; its length is the
        column "n_step", so that the bootstrap is discounted by gamma ** n_step.

        Returns:
            Columns obs [B, S], actions [B, ...], rewards [B] (discounted sum), new_obs [B, S], terminateds [B],
            truncateds [B], n_step [B] float32, weights [B] ones: what RLlib's DQN loss reads; then what was told of the first
            steps [B, ...].

        Source: Sutton and Barto (2018), Reinforcement Learning, eq. 7.1.
        """
        ring = self.steps + 1
        rewards, lengths = np.zeros(len(times), np.float32), np.zeros(len(times), np.int64)
        going = np.ones(len(times), bool)
        for ahead in range(n_step):
            going = going & (times + ahead < self._newest) & self._real[(times + ahead) % ring, envs]
            rows = (times + ahead) % ring
            rewards += np.float32(gamma**ahead) * self._rewards[rows, envs] * going
            lengths += going
            going = going & ~self._ended[rows, envs]
        last, following = (times + lengths - 1) % ring, (times + lengths) % ring
        terminated, ended = self._terminated[last, envs], self._ended[last, envs]
        return {
            "obs": self._observations[times % ring, envs],
            **{name: column[times % ring, envs] for name, column in self._further.items()},
            "rewards": rewards,
            "new_obs": self._observations[following, envs],
            "terminateds": terminated,
            "truncateds": ended & ~terminated,
            "n_step": lengths.astype(np.float32),
            "weights": np.ones(len(times), np.float32),
        }


@dataclass(frozen=True)
class Drawn:
    """Transitions drawn from several buffers."""

    columns: dict[str, NDArray[np.generic]]
    """See `ReplayBuffer.transitions`; "weights" correct for unequal odds."""
    parts: list[tuple[ReplayBuffer, NDArray[np.int64], NDArray[np.int64]]]
    """(buffer, requests drawn from it [B', 2], rows [B'] of the columns in which they stand)."""

    def judge(self, errors: NDArray[np.float64]) -> None:
        """Tells each buffer the errors of what was drawn from it, given those of all rows [B]."""
        for buffer, chosen, rows in self.parts:
            buffer.judge(chosen, errors[rows])


def draw(
    buffers: Sequence[ReplayBuffer],
    count: int,
    n_step: int,
    gamma: float,
    generator: np.random.Generator,
    correction: float = 1.0,
) -> Drawn:
    """Draws `count` requests of all buffers, each with odds of its priority: its last error to the power of `prioritise`.

    Args:
        buffers: they prioritise by the same exponent.
        count: B.
        n_step: see `ReplayBuffer.transitions`.
        gamma: likewise.
        generator: of the draws.
        correction: exponent β of the weights (N p) ** -β, which are divided by the largest of them.

    Source: Schaul et al. (2016), Prioritized experience replay, eq. 1 and section 3.4.
    """
    mass = np.array([buffer.mass for buffer in buffers])
    owner = (
        generator.choice(len(buffers), size=count, p=mass / mass.sum()) if len(buffers) > 1 else np.zeros(count, int)
    )
    requests = sum(len(buffer) for buffer in buffers)
    parts, columns, weights = [], [], np.zeros(count, np.float32)
    for place, buffer in enumerate(buffers):
        rows = np.flatnonzero(owner == place)
        chosen, odds = buffer.draw(len(rows), generator)
        weights[rows] = (requests * odds * mass[place] / mass.sum()) ** -correction
        parts.append((buffer, chosen, rows))
        columns.append(buffer.transitions(chosen[:, 0], chosen[:, 1], n_step, gamma))
    order = np.argsort(np.concatenate([rows for _, _, rows in parts]))
    joined = {name: np.concatenate([part[name] for part in columns])[order] for name in columns[0]}
    return Drawn({**joined, "weights": weights / weights.max()}, parts)
