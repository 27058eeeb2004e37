"""RLlib env runners that sample whole batches as arrays, in this process or in workers.

RLlib keeps its modules, learners, losses, optimisers and results; replaced is how an env runner samples: no Python episode
per user and no connector per step, which is where RLlib as shipped spends most of its time on a vector environment.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import SampleBatch
from torch import Tensor

from agents.rl.advantages import RewardScale, generalised_advantages
from agents.rl.learner import unvalidated_distributions
from agents.rl.sampling import Rollout, RolloutSampler
from agents.rl.traffic import with_world, without_world


@dataclass(frozen=True)
class Share:
    """What an env runner sampled, and what it has to tell."""

    batch: Any
    """A `SampleBatch` or a `Rollout`."""
    requests: int
    """Requests in it."""
    earned: float
    """Their rewards together, not scaled."""
    metrics: dict[str, Any]
    """For RLlib's results."""
    runner: int
    """Index of the env runner; 0 lives in the algorithm's process."""
    reward_scale: RewardScale | None
    """Of this runner, for one that replaces it."""


class BatchedEnvRunner(SingleAgentEnvRunner):
    """Steps the vector environment that `env_config["make_env"]()` makes.

    The environment comes from the configuration, not from RLlib's registry, which would pickle it, world and all.
    """

    # RLlib types these as perhaps None; they are set when `sample` runs
    config: Any
    env: Any
    module: Any
    smoothing: ClassVar[int] = 1
    """Rollouts over which RLlib's results average the lives that ended."""
    told: ClassVar[tuple[str, ...]] = ()
    """What rollouts keep of the environment's `info`."""

    def make_env(self) -> None:
        if self.worker_index:
            torch.set_num_threads(1)
        self.env = self.config.env_config["make_env"]()
        self.num_envs = self.env.num_envs
        self._sampler: RolloutSampler | None = None
        self._reward_scale: RewardScale | None = None

    def make_module(self) -> None:
        # the value head is needed to sample, so the module is the whole one
        spec = self.config.get_rl_module_spec(env=self.env, spaces=self.get_spaces(), inference_only=False)
        self.module = spec.build()
        self.module.eval()

    @property
    def sampler(self) -> RolloutSampler:
        """The environment's sampler; resets the environment when first asked for."""
        if self._sampler is None:
            self._sampler = RolloutSampler(self.env, self._seed, self.told)
        return self._sampler

    def share(self, weights: Any = None, reward_scale: RewardScale | None = None, **wishes: Any) -> Share:
        """What `sample(**wishes)` returns, with what belongs to it.

        Args:
            weights: state of the module to sample with; None for the present one.
            reward_scale: to begin with, where this runner has none yet.
            wishes: see `sample`.
        """
        if weights is not None:
            self.module.set_state(weights)
        self._reward_scale = self._reward_scale or reward_scale
        requests, earned = self.sampler.requests, self.sampler.earned
        batch = self.sample(**wishes)
        return Share(
            batch=batch,
            requests=self.sampler.requests - requests,
            earned=self.sampler.earned - earned,
            metrics=self.get_metrics(),
            runner=self.worker_index,
            reward_scale=self._reward_scale,
        )

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and where a sampler in the algorithm's process stands: its lives go on from a checkpoint."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if components is None and self.env is not None:
            traffic = self.sampler, self._reward_scale
            state["traffic"] = without_world(traffic, self.env)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` returned."""
        super().set_state(state)
        if "traffic" in state and self.env is not None:
            self._sampler, self._reward_scale = with_world(state["traffic"], self.env)
            self.env = self._sampler.env

    def rollout(self, num_timesteps: int, limit: int | None, choose: Any) -> Rollout:
        """Samples, and logs lives and requests to RLlib's metrics."""
        requests = self.sampler.requests
        with unvalidated_distributions():
            rollout = self.sampler.sample(choose, num_timesteps, limit)
        finished = self.sampler.finished_lives()
        if len(finished):
            # one entry a rollout: an entry a life would cost more than the rollout
            length, life_return = finished.mean(axis=0)
            self._log_episode_metrics(float(length), float(life_return), 0.0)
        self._increase_sampled_metrics(self.sampler.requests - requests, len(finished))
        return rollout


class AdvantageEnvRunner(BatchedEnvRunner):
    """Returns one flat batch with advantages and value targets: what PPO's loss reads."""

    def sample(  # type: ignore[override]
        self, *, num_timesteps: int, limit: int | None = None, **_: Any
    ) -> SampleBatch:
        """At least `num_timesteps` requests, at most `limit`; steps that only reset are left out."""
        rollout = self.rollout(num_timesteps, limit, self._choose)
        rewards = rollout.rewards
        if self.config.env_config.get("scale_rewards", True):
            self._reward_scale = self._reward_scale or RewardScale(self.num_envs, self.config.gamma)
            rewards = self._reward_scale.scaled(rewards, rollout.ended, rollout.real)
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
        inputs = self.module._forward_exploration({Columns.OBS: observations})[Columns.ACTION_DIST_INPUTS]
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        actions = distribution.sample()
        return actions, {Columns.ACTION_LOGP: distribution.logp(actions), Columns.ACTION_DIST_INPUTS: inputs}


class EpsilonGreedyEnvRunner(BatchedEnvRunner):
    """Returns the rollout itself, for a replay buffer; a share `epsilon` of actions is drawn at random."""

    smoothing = 100

    def sample(  # type: ignore[override]
        self, *, num_timesteps: int, limit: int | None = None, epsilon: float = 0.0, **_: Any
    ) -> Rollout:
        """At least `num_timesteps` requests, at most `limit`."""

        def choose(observations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            greedy = self.module._forward_inference({Columns.OBS: observations})[Columns.ACTIONS]
            explores = torch.rand(len(greedy)) < epsilon
            explored = self.any_actions(observations)
            return torch.where(explores.view(-1, *[1] * (greedy.ndim - 1)), explored, greedy), {}

        return self.rollout(num_timesteps, limit, choose)

    def any_actions(self, observations: Tensor) -> Tensor:
        """Actions [N] for observations [N, S], all alike."""
        return torch.randint(int(self.env.single_action_space.n), (len(observations),))


class CandidateEnvRunner(EpsilonGreedyEnvRunner):
    """Explores among the candidates that may be shown: an action is one of them, or a slate of different ones."""

    def any_actions(self, observations: Tensor) -> Tensor:
        """Candidates [N] or slates [N, K] for flat rows [N, W]; masked ones only where nothing else is left."""
        mask, shape = self.env.layout.parts(observations).mask, self.env.single_action_space.shape
        drawn = torch.rand(mask.shape).masked_fill(mask == 0, -1.0)
        return drawn.topk(prod(shape)).indices.view(-1, *shape)
