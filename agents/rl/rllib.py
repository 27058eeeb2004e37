"""RLlib with its learner in this process: quiet, seeded, sampling here or in workers."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from gymnasium.vector import VectorEnv
from ray import cloudpickle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agents.rl.batched_env_runner import BatchedEnvRunner
from agents.rl.networks import one_thread
from agents.rl.seeding import seeded_generators
from agents.side_by_side import let_own_classes_travel
from envs.errors import ConfigurationError


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
    runners: int = 0,
    beside: bool = False,
    scale_rewards: bool = True,
    catalog: type[Any] | None = None,
) -> Iterator[Any]:
    """An RLlib algorithm whose learner lives in this process, stopped at the end of the block.

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
        runners: workers that sample, each on an environment that a copy of `make_env` makes; 0 samples in this process.
        beside: whether workers sample the next batch while the learner works on the present one.
        scale_rewards: whether rewards are divided by the running deviation of returns before advantages are made of them.
        catalog: of RLlib, where `module` is one of RLlib's own.

    Raises:
        ConfigurationError: if sampling is to go on beside learning without workers.
    """
    if runners < 0 or (beside and not runners):
        raise ConfigurationError(
            f"sampling {'beside learning ' if beside else ''}with {runners} env runners does not work; ask for at least 1."
        )
    start_ray()
    with one_thread(), seeded_generators(seed), quiet_rllib():
        env = make_env()
        algorithm = (
            config.environment(
                env="driftrec/Slate-v0",
                env_config={
                    "make_env": _Maker(make_env) if runners else _Maker(lambda: env, travels=False),
                    "limit": limit,
                    "options": options,
                    "beside": beside,
                    "scale_rewards": scale_rewards,
                },
                observation_space=env.single_observation_space,
                action_space=env.single_action_space,
                disable_env_checking=True,
            )
            .env_runners(
                env_runner_cls=env_runner,
                num_env_runners=runners,
                num_envs_per_env_runner=env.num_envs,
                num_cpus_per_env_runner=0,  # a trial or a machine holds its cores already
            )
            .fault_tolerance(restart_failed_env_runners=True)
            .reporting(metrics_num_episodes_for_smoothing=env_runner.smoothing)
            .learners(num_learners=0, num_gpus_per_learner=0)
            .rl_module(
                rl_module_spec=RLModuleSpec(module_class=module, model_config=model_config, catalog_class=catalog)
            )
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


class _Maker:
    """Makes the environment: shared by copies of a configuration; a worker gets a copy of the function, once a machine.

    A checkpoint keeps neither: it is restored into an algorithm that `local_algorithm` has built.
    """

    def __init__(self, function: Callable[[], Any], travels: bool = True) -> None:
        self._function, self._travels = function, travels
        self._kept: Any = None

    def __call__(self) -> Any:
        return self._function()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Maker":
        return self

    def __reduce__(self) -> Any:
        if not self._travels:
            return _Maker, (_no_environment, False)
        if self._kept is None:
            let_own_classes_travel()
            self._kept = ray.put(cloudpickle.dumps(self._function))
        return _arrived, (self._kept,)


def _arrived(kept: Any) -> _Maker:
    """In a worker, the maker that was sent."""
    return _Maker(lambda: cloudpickle.loads(ray.get(kept))())


def _no_environment() -> Any:
    raise ConfigurationError(
        "a checkpoint does not hold its environment; build the algorithm by `local_algorithm` and call restore_from_path."
    )
