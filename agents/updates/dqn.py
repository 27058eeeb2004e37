"""An update policy learnt by RLlib's DQN."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.updates.market import Market, UpdateConfig
from agents.updates.monitoring import UpdateAction
from agents.updates.training_env import training_envs
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.world import World

TRAINING_SEEDS = 1_000_000_000
"""Training episodes have seeds from here on; episodes to be judged on have smaller ones."""
SEEDS_PER_TRAINING = 1_000


@dataclass(frozen=True, kw_only=True)
class UpdateDQNOptions:
    """Settings of the training; the defaults take some minutes on two cores."""

    episodes: int = 80
    """Episodes to learn from."""
    num_envs: int = 4
    """Episodes side by side."""
    processes: bool = True
    """Whether each of them runs in a process of its own."""
    reward_scale: float = 20.0
    """Factor of rewards, so that the values of actions differ by about one."""
    gamma: float = 0.9
    """Discount per day."""
    n_step: int = 3
    """Days whose rewards are summed before the value of the next one is trusted."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    minibatch: int = 128
    """Transitions of one gradient step."""
    gradient_steps: int = 6
    """Gradient steps after each day of all episodes."""
    target_every: int = 120
    """Days between two copies of the network to its target."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""


class UpdateDQN:
    """Chooses keep, incremental update or refit by the values that DQN learns on simulated episodes.

    Untrained it keeps: all actions are worth the same and the first of equals is taken. So the rule `never` is its
    initial policy, which it has to beat.
    """

    learning_curve_: NDArray[np.float64]
    """[M, 2] days spent, mean reward of a day since the point before: reward beyond that of keeping."""

    def __init__(self, options: UpdateDQNOptions | None = None, seed: int = 0) -> None:
        self.options = options or UpdateDQNOptions()
        self.seed = seed
        if self.options.episodes < 1 or self.options.num_envs < 1:
            raise ConfigurationError("UpdateDQN needs at least one episode and one environment to train on.")

    def fit(
        self,
        world: World,
        config: UpdateConfig | None = None,
        report: Callable[[int], None] = lambda days: None,
        users: NDArray[np.int64] | None = None,
    ) -> Self:
        """Trains on `options.episodes` episodes of visits by `users` (log users, by default all); `report` is called with the
        number of simulated days so far."""
        # RLlib takes seconds to import, and serving does not need it
        from agents.rl.batched_env_runner import EpsilonGreedyEnvRunner
        from agents.rl.dqn import DQNOptions, dqn_config
        from agents.rl.modules import DuelingModule
        from agents.rl.networks import arrays_of
        from agents.rl.rllib import local_algorithm
        from agents.rl.served import LearningCurve

        config, options = config or UpdateConfig(), self.options
        limit = options.episodes * config.days
        num_envs = min(options.num_envs, options.episodes)
        envs = training_envs([Market(world, config, users)], num_envs, options.reward_scale, options.processes)
        sampling = DQNOptions(
            num_envs=num_envs,
            buffer=limit + num_envs * (options.episodes + 1),
            minibatch=options.minibatch,
            learning_rate=options.learning_rate,
            target_every=options.target_every,
            gradient_steps=options.gradient_steps,
            warm_up_share=0.1,
            gamma=options.gamma,
            n_step=options.n_step,
            iteration=num_envs * config.days,
        )
        try:
            with local_algorithm(
                dqn_config(sampling),
                make_env=lambda: envs,
                env_runner=EpsilonGreedyEnvRunner,
                module=DuelingModule,
                model_config={"hidden": options.hidden},
                seed=TRAINING_SEEDS + SEEDS_PER_TRAINING * self.seed,
                limit=limit,
                options=sampling,
            ) as algorithm:
                curve = LearningCurve(report)
                while algorithm.requests < limit:
                    algorithm.train()
                    curve.add(algorithm.requests, algorithm.reward_per_request() / options.reward_scale)
                self._take_over(arrays_of(algorithm.get_module().policy))
        finally:
            envs.close()
        self.learning_curve_ = curve.points()
        return self

    def act(self, observation: NDArray[np.float32]) -> int:
        """The action of largest value for an observation [S]; the first of equals.

        Raises:
            AgentError: if the agent is not trained.
        """
        if not hasattr(self, "policy_"):
            raise AgentError("the update agent 'dqn' is not trained; call fit or load first.")
        from agents.rl.networks import in_blocks

        return int(in_blocks(self._network, np.asarray(observation, np.float32)[None]).argmax())

    def save(self, path: Path) -> None:
        """Writes the agent, whole or not at all.

        Raises:
            AgentError: if the agent is not trained.
        """
        if not hasattr(self, "policy_"):
            raise AgentError("the update agent 'dqn' is not trained, so there is nothing to save; call fit first.")
        arrays = {f"policy.{name}": array for name, array in self.policy_.items()}
        settings = {"seed": self.seed, "options": asdict(self.options)}
        save_arrays(path, "UpdateDQN", {"learning_curve": self.learning_curve_, **arrays}, settings)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote; the loaded agent acts the same.

        Raises:
            ArtefactError: if the file is missing, damaged or holds something else.
        """
        arrays, settings = load_arrays(path, "UpdateDQN")
        try:
            options: dict[str, Any] = settings["options"] | {"hidden": tuple(settings["options"]["hidden"])}
            agent = cls(UpdateDQNOptions(**options), settings["seed"])
            agent.learning_curve_ = arrays.pop("learning_curve")
            agent._take_over({name.removeprefix("policy."): array for name, array in arrays.items()})
            if len(agent.policy_[f"{len(agent.policy_) - 2}.bias"]) != len(UpdateAction):
                raise ValueError("it values another number of actions")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"'{path}' is not a whole UpdateDQN ({error}); train it again.") from error
        return agent

    def _take_over(self, weights: dict[str, NDArray[np.float32]]) -> None:
        from agents.rl.networks import network_from

        self.policy_ = weights
        self._network = network_from(weights)
