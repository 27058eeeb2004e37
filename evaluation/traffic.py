"""What agents learn from: environments of training users, whose requests are counted."""

from typing import Any

from gymnasium.vector import AutoresetMode

from envs.candidate_source import CandidateSource
from envs.slate_env import SlateVectorEnv
from envs.world import World
from evaluation.comparison import ComparisonConfig, split_users


class CountedTraffic:
    """Environments of training users that count the requests which an agent spends."""

    def __init__(self, world: World, candidate_source: CandidateSource, config: ComparisonConfig, seed: int) -> None:
        self.requests = 0
        self._world, self._candidate_source, self._config, self._seed = world, candidate_source, config, seed

    def make_env(self, num_envs: int, autoreset_mode: AutoresetMode) -> SlateVectorEnv:
        """An environment whose users the comparison does not use."""
        users, _ = split_users(self._world, self._config.seed)
        return _CountingEnv(
            self,
            num_envs,
            world=self._world,
            candidate_source=self._candidate_source,
            users=users,
            slate_size=self._config.serving.slate_size,
            num_candidates=self._config.serving.num_candidates,
            reward_weights=self._config.serving.reward_weights,
            autoreset_mode=autoreset_mode,
            seed=self._seed,
        )


class _CountingEnv(SlateVectorEnv):
    """Adds the requests of living users to a count."""

    def __init__(self, traffic: CountedTraffic, num_envs: int, **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        self._traffic = traffic

    def step(self, actions: Any) -> Any:
        result = super().step(actions)
        self._traffic.requests += int(result[-1]["active"].sum())
        return result
