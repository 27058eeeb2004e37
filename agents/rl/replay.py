"""A replay buffer of arrays: rollouts go in, n-step transitions come out."""

import numpy as np
from numpy.typing import NDArray

from agents.rl.sampling import Rollout


class ReplayBuffer:
    """The newest steps of N environments, as a ring over time.

    Rows that are no request are kept in their place but never sampled. Observations are kept once: the one that follows
    step t is the one before step t + 1, which with next-step autoreset is the final one of a life that ended.
    """

    def __init__(self, steps: int, num_envs: int, observation_width: int) -> None:
        """Args: steps: vector steps to keep; num_envs: N; observation_width: S."""
        self.steps, self.num_envs = steps, num_envs
        self._observations = np.zeros((steps + 1, num_envs, observation_width), np.float32)
        self._actions = np.zeros((steps + 1, num_envs), np.int64)
        self._rewards = np.zeros((steps + 1, num_envs), np.float32)
        self._terminated = np.zeros((steps + 1, num_envs), bool)
        self._ended = np.zeros((steps + 1, num_envs), bool)
        self._real = np.zeros((steps + 1, num_envs), bool)
        self._newest = 0
        self._choosable = np.zeros((0, 2), np.int64)

    def __len__(self) -> int:
        """Number of requests that may be sampled."""
        return len(self._choosable)

    def add(self, rollout: Rollout) -> None:
        """Appends a rollout that goes on where the last one stopped."""
        for step in range(len(rollout.rewards)):
            row = self._newest % (self.steps + 1)
            self._observations[row] = rollout.observations[step]
            self._actions[row] = rollout.actions[step].numpy()
            self._rewards[row] = rollout.rewards[step]
            self._terminated[row] = rollout.terminated[step]
            self._ended[row] = rollout.ended[step]
            self._real[row] = rollout.real[step]
            self._newest += 1
        self._observations[self._newest % (self.steps + 1)] = rollout.observations[-1]
        times = np.arange(max(0, self._newest - self.steps), self._newest)
        time, env = np.nonzero(self._real[times % (self.steps + 1)])
        self._choosable = np.stack([times[time], env], axis=1)

    def sample(
        self, count: int, n_step: int, gamma: float, generator: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Draws `count` requests, with replacement, as n-step transitions; see `transitions`."""
        chosen = self._choosable[generator.integers(len(self._choosable), size=count)]
        return self.transitions(chosen[:, 0], chosen[:, 1], n_step, gamma)

    def transitions(
        self, times: NDArray[np.int64], envs: NDArray[np.int64], n_step: int, gamma: float
    ) -> dict[str, NDArray[np.generic]]:
        """n-step transitions that begin at steps `times` [B] (counted from the first ever added) of `envs` [B].

        A transition is shorter where the life ends earlier, or where nothing newer is known yet; its length is the
        column "n_step", so that the bootstrap is discounted by gamma ** n_step.

        Returns:
            Columns obs [B, S], actions [B], rewards [B] (discounted sum), new_obs [B, S], terminateds [B],
            truncateds [B], n_step [B] float32, weights [B] ones: what RLlib's DQN loss reads.

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
            "actions": self._actions[times % ring, envs],
            "rewards": rewards,
            "new_obs": self._observations[following, envs],
            "terminateds": terminated,
            "truncateds": ended & ~terminated,
            "n_step": lengths.astype(np.float32),
            "weights": np.ones(len(times), np.float32),
        }
