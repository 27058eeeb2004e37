"""The loop around RLlib: curves, checkpoints, and an end before losses that are not finite spoil what was learnt."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS
from tensorboardX import SummaryWriter

from agents.base import Training
from agents.rl.batched_env_runner import AdvantageEnvRunner
from agents.rl.checkpoints import Checkpoints, Progress
from agents.rl.networks import arrays_of
from agents.rl.ppo import ppo_config
from agents.rl.rllib import local_algorithm
from agents.rl.served import LearningCurve, Trained, TrainedAgent, TrainingStopped, Weights

CURVES = ("total_loss", "policy_loss", "vf_loss", "entropy")
"""Of RLlib's figures of learning, those that are written as curves where an algorithm has them."""


def trained_by_ppo(
    agent: TrainedAgent, env: Any, training: Training, *, module: Any, model_config: dict[str, Any], shape: Any
) -> Trained:
    """Trains the `policy` of a module by PPO in this process; goes on from a checkpoint in `training.folder`.

    Args:
        agent: whose name and options (`PPOOptions`) are taken.
        env: with the agent's actions.
        training: the budget.
        module: class of the RLlib module.
        model_config: what the module is made of.
        shape: of what the agent observes, which a checkpoint must have, too; as JSON can hold it.

    Raises:
        TrainingStopped: as `train_with`.
    """
    checkpoints = Checkpoints.of(agent, training, shape)
    resumed = checkpoints.progress() if checkpoints is not None else None
    with local_algorithm(
        ppo_config(agent.options, training.requests),
        make_env=lambda: env,
        env_runner=AdvantageEnvRunner,
        module=module,
        model_config=model_config,
        limit=training.requests,
        # a training that goes on meets other lives than those it began with
        seed=training.seed + (resumed.requests if resumed is not None else 0),
    ) as algorithm:
        policy = algorithm.env_runner.module.policy
        return train_with(
            algorithm,
            training,
            lambda: arrays_of(policy),
            name=agent.name,
            checkpoints=checkpoints,
            resumed=resumed,
        )


def train_with(
    algorithm: Any,
    training: Training,
    policy: Callable[[], Weights],
    *,
    name: str,
    checkpoints: Checkpoints | None = None,
    resumed: Progress | None = None,
) -> Trained:
    """Trains an algorithm of `local_algorithm` until `training.requests` are spent.

    After each iteration the curves for TensorBoard grow in `training.folder`, and a checkpoint is written.

    Args:
        algorithm: whose env runner is a `BatchedEnvRunner`.
        training: the budget.
        policy: a copy of the policy's weights as they are.
        name: of the agent, for messages.
        checkpoints: where they are written; None for nowhere.
        resumed: where the training goes on; the algorithm is given the newest checkpoint.

    Raises:
        TrainingStopped: if a loss, a weight or the reward is not finite. It holds the policy of the last iteration that was well,
            whose checkpoint is the newest.
    """
    runner, curve = algorithm.env_runner, LearningCurve(training.report)
    initial = policy()
    if resumed is not None and checkpoints is not None:
        checkpoints.restore(algorithm)
        initial, runner.sampler.requests = resumed.initial, resumed.requests
        for requests, reward in resumed.learning_curve:
            curve.add(int(requests), float(reward))
    good = policy()
    writer = SummaryWriter(str(training.folder)) if training.folder is not None else None
    try:
        while runner.sampler.requests < training.requests:
            before = runner.sampler.requests
            learnt = algorithm.train().get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
            figures = {"reward": runner.reward_per_request()}
            figures |= {figure: float(learnt[figure]) for figure in CURVES if figure in learnt}
            latest = policy()
            broken = [figure for figure, value in figures.items() if not np.isfinite(value)]
            if broken or not all(np.isfinite(array).all() for array in latest.values()):
                raise TrainingStopped(
                    f"agent '{name}' cannot go on: {', '.join(broken) or 'a weight'} is not finite after "
                    f"{runner.sampler.requests:,} requests; kept is the policy after {before:,}. "
                    "Lower learning_rate, or look for rewards that are no numbers.",
                    Trained(initial, good, curve.points()),
                )
            good, spent = latest, runner.sampler.requests
            curve.add(spent, figures["reward"])
            if writer is not None:
                for figure, value in figures.items():
                    writer.add_scalar(figure, value, spent)
            if checkpoints is not None:
                checkpoints.write(algorithm, Progress(spent, initial, curve.points()))
    finally:
        if writer is not None:
            writer.close()
    return Trained(initial, good, curve.points())
