"""The loop around RLlib: curves, checkpoints, and an end before what is not finite spoils what was learnt.

Every agent here that RLlib trains goes through it, whatever the algorithm and wherever batches are sampled.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS
from tensorboardX import SummaryWriter

from agents.base import Training, TrainingStopped
from agents.rl.batched_env_runner import BatchedEnvRunner
from agents.rl.checkpoints import Checkpoints, Progress
from agents.rl.rllib import local_algorithm
from agents.rl.served import LearningCurve, Trained, TrainedAgent

CURVES = ("total_loss", "policy_loss", "vf_loss", "entropy", "qf_mean", "td_error_mean")
"""Of RLlib's figures of learning, those that are written as curves where an algorithm has them."""


def trained_by_rllib(
    agent: TrainedAgent,
    make_env: Callable[[int], Any],
    training: Training,
    *,
    config: AlgorithmConfig,
    env_runner: type[BatchedEnvRunner],
    module: type[Any],
    model_config: dict[str, Any],
    shape: Any = None,
    beside: bool = False,
) -> Trained:
    """Trains an agent's module with the learner in this process; goes on from a checkpoint in `training.folder`.

    After each iteration the curves for TensorBoard grow in the folder, and a checkpoint is written if one is due.

    Args:
        agent: whose name and options are taken; they have `num_envs` and `runners`.
        make_env: makes the wrapped environment of so many users; with runners it travels to them.
        training: the budget.
        config: of an algorithm that is a `BatchedAlgorithm`.
        env_runner: samples.
        module: class of the RLlib module; its `served_policy()` returns a copy of the policy's weights.
        model_config: what the module is made of.
        shape: of what the agent observes, which a checkpoint must have, too; as JSON can hold it. By default that of a row.
        beside: as `local_algorithm` has it.

    Raises:
        TrainingStopped: if a loss, a weight or the reward is not finite. It holds the policy of the last iteration that was well;
            the newest checkpoint is of such an iteration, too.
        ArtefactError: if the folder's checkpoint is damaged, or one of another training.
    """
    options, users = agent.options, min(agent.options.num_envs, training.requests)
    checkpoints = None
    if training.folder is not None:
        checkpoints = Checkpoints.of(agent, training, shape or make_env(1).single_observation_space.shape)
    resumed = checkpoints.progress() if checkpoints is not None else None
    with local_algorithm(
        config,
        make_env=lambda: make_env(users),
        env_runner=env_runner,
        module=module,
        model_config=model_config,
        limit=training.requests,
        options=options,
        # lives in workers begin anew in a training that goes on: others than those it began with
        seed=training.seed + (resumed.requests if resumed is not None else 0),
        runners=options.runners,
        beside=beside,
    ) as algorithm:
        return _spend(algorithm, agent.name, training, checkpoints, resumed)


def _spend(
    algorithm: Any, name: str, training: Training, checkpoints: Checkpoints | None, resumed: Progress | None
) -> Trained:
    """Trains until the budget is spent."""
    curve, initial = LearningCurve(training.report), algorithm.get_module().served_policy()
    if resumed is not None and checkpoints is not None:
        checkpoints.restore(algorithm)
        initial = resumed.initial
        curve.go_on(resumed.learning_curve)
    good = algorithm.get_module().served_policy()
    writer = SummaryWriter(str(training.folder)) if training.folder is not None else None
    try:
        while (before := algorithm.requests) < training.requests:
            learnt = algorithm.train().get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
            figures = {"reward": algorithm.reward_per_request()}
            figures |= {figure: float(learnt[figure]) for figure in CURVES if figure in learnt}
            spent, module = algorithm.requests, algorithm.get_module()
            broken = [figure for figure, value in figures.items() if not np.isfinite(value)]
            if broken or not all(torch.isfinite(weights).all() for weights in module.state_dict().values()):
                raise TrainingStopped(
                    f"agent '{name}' cannot go on: {', '.join(broken) or 'a weight'} is not finite after "
                    f"{spent:,} requests; kept is the policy after {before:,}. "
                    "Lower learning_rate, or look for rewards that are no numbers.",
                    Trained(initial, good, curve.points()),
                )
            good = module.served_policy()
            curve.add(spent, figures["reward"])
            if writer is not None:
                for figure, value in figures.items():
                    writer.add_scalar(figure, value, spent)
            if checkpoints is not None and (checkpoints.due or spent >= training.requests):
                checkpoints.write(algorithm, Progress(spent, initial, curve.points()))
    finally:
        if writer is not None:
            writer.close()
    return Trained(initial, good, curve.points())
