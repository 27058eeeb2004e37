"""PPO by RLlib, setting weights of relevance, diversity, freshness and popularity for each request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from agents.actions import SlateActionWrapper, WeightsAction, weights_of_actions
from agents.base import Training
from agents.rl.batched_env_runner import AdvantageEnvRunner
from agents.rl.collecting import BatchedAlgorithm, joined
from agents.rl.learner import ArrayPPOLearner
from agents.rl.modules import GaussianPolicyModule
from agents.rl.served import ReinforcedAgent, Trained, TrainedAgent
from agents.rl.training import trained_by_rllib
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
    final_entropy: float | None = None
    """Weight of it when the budget is spent, reached linearly; None for the same throughout."""
    initial_log_std: float = -0.7
    """Log of the exploration's standard deviation before training, in units of the action (half the box's width)."""
    final_log_std: float | None = None
    """The same when the budget is spent, reached linearly, so that exploration is wide at first and narrow at last; None lets the
    deviation be learnt."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of the value."""
    runners: int = 0
    """Workers that sample, each with `num_envs` users; 0 samples in the training process."""
    beside: bool = False
    """Whether workers sample the next batch while this one is learnt from; the policy that samples then lags by one batch."""
    normalise: bool = False
    """Whether observations are brought to mean 0 and deviation 1; summaries are bounded, so they need not be."""


class BatchedPPO(BatchedAlgorithm, PPO):
    """PPO whose env runners return whole batches with advantages."""

    def training_step(self) -> None:
        """Learns from one batch, whatever workers have died meanwhile."""
        shares = self.collect(self.config.total_train_batch_size)
        batch = SampleBatch(joined([share.batch for share in shares]))
        learnt = self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=len(batch)),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.requests},
            num_epochs=self.config.num_epochs,
            minibatch_size=min(self.config.minibatch_size, len(batch)),
            shuffle_batch_per_epoch=True,
        )
        self.metrics.aggregate(learnt, key=LEARNER_RESULTS)
        self.hand_back_weights()


class BatchedPPOConfig(PPOConfig):
    """Configuration of `BatchedPPO`."""

    def __init__(self) -> None:
        super().__init__(algo_class=BatchedPPO)
        self.learners(learner_class=ArrayPPOLearner)


def ppo_config(options: PPOOptions, requests: int) -> BatchedPPOConfig:
    """RLlib's configuration of PPO without KL penalty, whose batches divide a budget of `requests` evenly."""
    updates = max(1, round(requests / options.batch))
    batch = -(-requests // updates)
    entropy: Any = options.entropy
    if options.final_entropy is not None:
        entropy = [[0, options.entropy], [requests, options.final_entropy]]
    return BatchedPPOConfig().training(
        train_batch_size_per_learner=batch,
        minibatch_size=min(options.minibatch, batch),
        num_epochs=options.epochs,
        lr=options.learning_rate,
        gamma=options.gamma,
        lambda_=options.gae_lambda,
        clip_param=options.clip,
        entropy_coeff=entropy,
        use_kl_loss=False,
        vf_clip_param=float("inf"),
        vf_loss_coeff=0.5,
        grad_clip=0.5,
        grad_clip_by="global_norm",
    )


def gaussian(options: PPOOptions) -> dict[str, Any]:
    """What a `GaussianPolicyModule` is made of."""
    return {
        "hidden": options.hidden,
        "initial_log_std": options.initial_log_std,
        "final_log_std": options.final_log_std,
        "normalise": options.normalise,
    }


def trained_by_ppo(
    agent: TrainedAgent,
    make_env: Callable[[int], Any],
    training: Training,
    *,
    module: type[Any],
    model_config: dict[str, Any],
    shape: Any = None,
) -> Trained:
    """Trains the module of an agent whose options are `PPOOptions`; see `trained_by_rllib`."""
    options: PPOOptions = agent.options
    return trained_by_rllib(
        agent,
        make_env,
        training,
        config=ppo_config(options, training.requests),
        env_runner=AdvantageEnvRunner,
        module=module,
        model_config=model_config,
        shape=shape,
        beside=options.beside,
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
        """Trains by RLlib; goes on from a checkpoint in `training.folder`."""
        options: PPOOptions = self.options
        return trained_by_ppo(self, make_env, training, module=GaussianPolicyModule, model_config=gaussian(options))
