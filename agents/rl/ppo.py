"""PPO by RLlib, setting weights of relevance, diversity, freshness and popularity for each request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from agents.actions import SlateActionWrapper, WeightsAction, weights_of_actions
from agents.base import Training
from agents.rl.batched_env_runner import AdvantageEnvRunner
from agents.rl.modules import GaussianPolicyModule
from agents.rl.networks import arrays_of
from agents.rl.rllib import local_algorithm
from agents.rl.served import LearningCurve, ReinforcedAgent, Trained
from agents.summary import PublicItems


@dataclass(frozen=True, kw_only=True)
class PPOOptions:
    """Settings of PPO; the defaults suit some 40,000 requests."""

    num_envs: int = 256
    """Users simulated side by side."""
    batch: int = 4096
    """Requests between two updates of the policy."""
    minibatch: int = 512
    """Requests of one gradient step."""
    epochs: int = 6
    """Passes over each batch."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    gamma: float = 0.95
    """Discount per request; lives have tens of requests."""
    gae_lambda: float = 0.9
    """Weight of longer returns in the advantage estimates."""
    clip: float = 0.2
    """Change of an action's probability beyond which an update gains nothing more."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    initial_log_std: float = -0.7
    """Log of the exploration's standard deviation before training, in units of the action (half the box's width)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of the value."""


class BatchedPPO(PPO):
    """PPO whose env runner returns whole batches with advantages."""

    # RLlib types these as perhaps None; they are set when `training_step` runs
    config: Any
    metrics: Any
    learner_group: Any
    env_runner_group: Any

    def training_step(self) -> None:
        options = self.config.env_config
        runner = self.env_runner
        batch = runner.sample(
            num_timesteps=self.config.total_train_batch_size, limit=options["limit"] - runner.sampler.requests
        )
        self.metrics.aggregate([runner.get_metrics()], key=ENV_RUNNER_RESULTS)
        learnt = self.learner_group.update(
            batch=MultiAgentBatch({"default_policy": batch}, env_steps=len(batch)),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: runner.sampler.requests},
            num_epochs=self.config.num_epochs,
            minibatch_size=min(self.config.minibatch_size, len(batch)),
            shuffle_batch_per_epoch=True,
        )
        self.metrics.aggregate(learnt, key=LEARNER_RESULTS)
        self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=False)


class BatchedPPOConfig(PPOConfig):
    """Configuration of `BatchedPPO`."""

    def __init__(self) -> None:
        super().__init__(algo_class=BatchedPPO)


def ppo_config(options: PPOOptions, requests: int) -> BatchedPPOConfig:
    """RLlib's configuration of PPO without KL penalty, whose batches divide a budget of `requests` evenly."""
    updates = max(1, round(requests / options.batch))
    batch = -(-requests // updates)
    return BatchedPPOConfig().training(
        train_batch_size_per_learner=batch,
        minibatch_size=min(options.minibatch, batch),
        num_epochs=options.epochs,
        lr=options.learning_rate,
        gamma=options.gamma,
        lambda_=options.gae_lambda,
        clip_param=options.clip,
        entropy_coeff=options.entropy,
        use_kl_loss=False,
        vf_clip_param=float("inf"),
        vf_loss_coeff=0.5,
        grad_clip=0.5,
        grad_clip_by="global_norm",
    )


class PPOAgent(ReinforcedAgent):
    """Sets re-ranking weights by a policy that PPO learns."""

    name = "ppo"
    options_class = PPOOptions

    @staticmethod
    def weights_of_outputs(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weights [N, 4] of the network's unbounded means [N, 4]."""
        return weights_of_actions(np.tanh(outputs))

    @staticmethod
    def wrapped(env: Any, items: PublicItems) -> SlateActionWrapper:
        """The environment with weights as actions."""
        return WeightsAction(env, items)

    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains by RLlib in this process."""
        options: PPOOptions = self.options
        with local_algorithm(
            ppo_config(options, training.requests),
            make_env=lambda: make_env(min(options.num_envs, training.requests)),
            env_runner=AdvantageEnvRunner,
            module=GaussianPolicyModule,
            model_config={"hidden": options.hidden, "initial_log_std": options.initial_log_std},
            limit=training.requests,
            seed=training.seed,
        ) as algorithm:
            runner = algorithm.env_runner
            initial = arrays_of(runner.module.policy)
            curve = LearningCurve(training.report)
            while runner.sampler.requests < training.requests:
                algorithm.train()
                curve.add(runner.sampler.requests, runner.reward_per_request())
            return Trained(initial, arrays_of(runner.module.policy), curve.points())
