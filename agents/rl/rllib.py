"""RLlib inside this process: quiet, seeded, without remote workers."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from gymnasium.vector import VectorEnv
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agents.rl.batched_env_runner import BatchedEnvRunner
from agents.rl.networks import one_thread
from agents.rl.seeding import seeded_generators


@contextmanager
def local_algorithm(
    config: AlgorithmConfig,
    *,
    make_env: Callable[[], VectorEnv[Any, Any, Any]],
    env_runner: type[BatchedEnvRunner],
    module: type[Any],
    model_config: dict[str, Any],
    seed: int,
    limit: int,
    options: Any = None,
) -> Iterator[Algorithm]:
    """An RLlib algorithm whose env runner and learner live in this process, stopped at the end of the block.

    Ray is started if it does not run yet (and then left running), so this works on its own and inside a Ray task. Torch
    has one thread inside the block; the global generators of random, numpy and torch are seeded in it and given back.

    Args:
        config: of the algorithm; environment, env runner, learner and module are set here.
        make_env: makes the wrapped environment.
        env_runner: samples it.
        module: RLlib module, built with `model_config`.
        model_config: see the module.
        seed: of everything random.
        limit: requests that may be spent; with `options` in the algorithm's `env_config`.
        options: the agent's settings.
    """
    start_ray()
    with one_thread(), seeded_generators(seed), quiet_rllib():
        env = make_env()
        algorithm = (
            config.environment(
                env="driftrec/Slate-v0",
                env_config={"make_env": _Shared(lambda: env), "limit": limit, "options": options},
                observation_space=env.single_observation_space,
                action_space=env.single_action_space,
                disable_env_checking=True,
            )
            .env_runners(env_runner_cls=env_runner, num_env_runners=0, num_envs_per_env_runner=env.num_envs)
            .learners(num_learners=0, num_gpus_per_learner=0)
            .rl_module(rl_module_spec=RLModuleSpec(module_class=module, model_config=model_config))
            .debugging(seed=seed, log_level="ERROR")
            .build_algo()
        )
        try:
            yield algorithm
        finally:
            algorithm.stop()
            with suppress(OSError):  # Tune makes an empty folder for every algorithm
                Path(algorithm.logdir).rmdir()


def start_ray() -> None:
    """Starts a small Ray without dashboard in this machine, unless one is running or this is a Ray worker."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


@contextmanager
def quiet_rllib() -> Iterator[None]:
    """Keeps RLlib's and Tune's notices of deprecation off the terminal inside the block."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.rllib", "ray.tune", "ray._common.deprecation")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Shared:
    """A function that copies of a configuration share, world and all, instead of copying what it holds.

    Checkpoints leave it out.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> Any:
        return self._function()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Shared, (_left_out,)


def _left_out() -> Any:
    raise RuntimeError("a checkpoint holds no environment; make the algorithm anew and restore its learner.")
