"""RLlib env runners that sample whole batches as arrays.

RLlib keeps its modules, learners, losses, optimisers and results; replaced is how an env runner samples: no Python episode
per user and no connector per step, which is where RLlib as shipped spends most of its time on a vector environment.
"""

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import SampleBatch
from torch import Tensor

from agents.rl.advantages import RewardScale, generalised_advantages
from agents.rl.sampling import Rollout, RolloutSampler


class BatchedEnvRunner(SingleAgentEnvRunner):
    """Steps the vector environment that `env_config["make_env"]()` makes.

    The environment comes from the configuration, not from RLlib's registry, which would pickle it, world and all.
    """

    # RLlib types these as perhaps None; they are set when `sample` runs
    config: Any
    env: Any
    module: Any

    def make_env(self) -> None:
        self.env = self.config.env_config["make_env"]()
        self.num_envs = self.env.num_envs
        self._sampler: RolloutSampler | None = None
        self._earned, self._requests = 0.0, 0

    def make_module(self) -> None:
        # the value head is needed to sample, so the module is the whole one
        spec = self.config.get_rl_module_spec(env=self.env, spaces=self.get_spaces(), inference_only=False)
        self.module = spec.build()

    @property
    def sampler(self) -> RolloutSampler:
        """The environment's sampler; resets the environment when first asked for."""
        if self._sampler is None:
            self._sampler = RolloutSampler(self.env, self._seed)
        return self._sampler

    def reward_per_request(self) -> float:
        """Mean reward of the requests since the last call."""
        mean = self._earned / max(self._requests, 1)
        self._earned, self._requests = 0.0, 0
        return mean

    def rollout(self, num_timesteps: int, limit: int | None, choose: Any) -> Rollout:
        """Samples, and logs lives and requests to RLlib's metrics."""
        rollout = self.sampler.sample(choose, num_timesteps, limit)
        finished = self.sampler.finished_lives()
        for length, life_return in finished:
            self._log_episode_metrics(int(length), float(life_return), 0.0)
        self._increase_sampled_metrics(int(rollout.real.sum()), len(finished))
        self._earned += float(rollout.rewards[rollout.real].sum())
        self._requests += int(rollout.real.sum())
        return rollout


class AdvantageEnvRunner(BatchedEnvRunner):
    """Returns one flat batch with advantages and value targets: what PPO's loss reads."""

    def sample(  # type: ignore[override]
        self, *, num_timesteps: int, limit: int | None = None, **_: Any
    ) -> SampleBatch:
        """At least `num_timesteps` requests, at most `limit`; steps that only reset are left out."""
        rollout = self.rollout(num_timesteps, limit, self._choose)
        if not hasattr(self, "_reward_scale"):
            self._reward_scale = RewardScale(self.num_envs, self.config.gamma)
        rewards = self._reward_scale.scaled(rollout.rewards, rollout.ended, rollout.real)
        with torch.inference_mode():
            values = self.module.compute_values({Columns.OBS: torch.from_numpy(rollout.observations)}).numpy()
        advantages = generalised_advantages(
            rewards,
            values,
            rollout.terminated,
            rollout.ended,
            rollout.real,
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
        )
        real = torch.from_numpy(rollout.real)
        kept = torch.from_numpy(advantages)[real]
        columns = {
            Columns.OBS: torch.from_numpy(rollout.observations[:-1])[real],
            Columns.ACTIONS: rollout.actions[real],
            **{name: column[real] for name, column in rollout.extras.items()},
            Postprocessing.VALUE_TARGETS: torch.from_numpy(advantages + values[:-1])[real],
            Postprocessing.ADVANTAGES: (kept - kept.mean()) / kept.std(correction=0).clamp_min(1e-4),
        }
        return SampleBatch(columns)

    def _choose(self, observations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = self.module.forward_exploration({Columns.OBS: observations})[Columns.ACTION_DIST_INPUTS]
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        actions = distribution.sample()
        return actions, {Columns.ACTION_LOGP: distribution.logp(actions), Columns.ACTION_DIST_INPUTS: inputs}


class EpsilonGreedyEnvRunner(BatchedEnvRunner):
    """Returns the rollout itself, for a replay buffer; explores a share `epsilon` of requests at random."""

    def sample(  # type: ignore[override]
        self, *, num_timesteps: int, limit: int | None = None, epsilon: float = 0.0, **_: Any
    ) -> Rollout:
        """At least `num_timesteps` requests, at most `limit`."""
        count = int(self.env.single_action_space.n)

        def choose(observations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            greedy = self.module.forward_inference({Columns.OBS: observations})[Columns.ACTIONS]
            explores = torch.rand(len(greedy)) < epsilon
            return torch.where(explores, torch.randint(count, (len(greedy),)), greedy), {}

        return self.rollout(num_timesteps, limit, choose)
