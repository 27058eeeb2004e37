"""MARWIL: learns to show slates from an event log that another policy left, then goes on by PPO on simulated traffic."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.algorithms.marwil.torch.marwil_torch_learner import MARWILTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from tensorboardX import SummaryWriter
from torch import Tensor

from agents.base import Agent, Training, TrainingStopped, checked_slates
from agents.loading import resolve_agent
from agents.rl.checkpoints import PREFIX, Checkpoints
from agents.rl.learner import ArrayLearner, Rows
from agents.rl.logged_requests import LoggedRequests
from agents.rl.networks import arrays_of, one_thread
from agents.rl.ppo import trained_by_ppo
from agents.rl.ppo_slate import PPOSlateAgent, PPOSlateOptions, SlatePolicyModule
from agents.rl.rllib import quiet_rllib
from agents.rl.seeding import seeded_generators
from agents.rl.served import Trained, TrainedAgent, Weights, with_prefix
from agents.rl.training import CURVES
from agents.sampled import Sampled
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.event_log import EventLog
from envs.logs.schema import InteractionLog
from envs.slate_env import SlateVectorEnv


@dataclass(frozen=True, kw_only=True)
class MARWILOptions(PPOSlateOptions):
    """Settings of MARWIL and of PPO behind it; those of PPO suit some 40,000 requests."""

    events: str | None = None
    """Parquet file of the event log to learn from, as a run leaves it in its folder `events`, in this world and with this recall.
    None: `behaviour` leaves one first, in the training's traffic."""
    behaviour: str = "sampled"
    """The policy that leaves the log: 'sampled' draws slates from the recall scores; or another that needs no traffic to learn, by
    name or as "file.py:Class"."""
    logged: int = 10_000
    """Requests of the budget that it serves."""
    beta: float = 1.0
    """How much more is imitated what turned out better than expected; 0 is behaviour cloning: all is imitated alike."""
    passes: int = 10
    """Passes over the log."""
    norm_rate: float = 0.01
    """Share by which the mean square of the advantages, whose root they are divided by, follows that of each minibatch."""
    fine_tune: bool = True
    """Whether PPO goes on in what is left of the budget; otherwise the agent is what the log alone gives."""


class ArrayMARWILLearner(ArrayLearner, MARWILTorchLearner):  # type: ignore[misc]
    """MARWIL over arrays: RLlib's loss, without RLlib's way of reading data, which knows files of episodes only."""

    def lean_loss(self, rows: Rows) -> Tensor:
        """- mean(exp(beta (R - V) / c) log pi) + mean((R - V)^2) / 2, RLlib's own.

        Source: Wang et al. (2018), Exponentially weighted imitation learning for batched historical data, algorithm 1.
        """
        outputs: dict[str, Any] = {**self.forward(rows)}
        loss: Any = self.compute_loss_for_module(
            module_id=DEFAULT_MODULE_ID, config=self.config, batch=rows, fwd_out=outputs
        )
        return loss


class StartedModule(SlatePolicyModule):
    """The module with the weights `model_config["start"]`."""

    def setup(self) -> None:
        super().setup()
        self.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in self.model_config["start"].items()}
        )


class MARWILAgent(PPOSlateAgent):
    """`ppo_slate` with an offline start: before PPO it imitates the slates of an event log, the better ones more.

    How good a slate was is told by the return of the life's rest against the value that is learnt beside it. A log of consumptions
    without exposures, such as MovieLens, shows no slates to imitate: what it gives are the rankers fitted to it, whose order is
    where this agent begins.

    Source: Wang et al. (2018), Exponentially weighted imitation learning for batched historical data; the likelihood of a slate is
    that of Plackett-Luce.
    """

    name = "marwil"
    options_class: ClassVar[type[Any]] = MARWILOptions

    def prepare(self, log: InteractionLog, training: Training) -> None:
        # what is wrong with the options is told before minutes are spent on fits
        options = self.options
        if not options.beta >= 0 or min(options.logged, options.passes) < 1:
            raise ConfigurationError(
                f"agent '{self.name}' cannot learn from a log with beta={options.beta}, logged={options.logged}, "
                f"passes={options.passes}; beta must be at least 0, the others at least 1."
            )
        if options.events is None:
            self._behaviour(training.seed)
        super().prepare(log, training)

    def train(self, make_env: Callable[[int], Any], training: Training) -> Trained:
        """Learns from the log, then trains by RLlib's PPO; goes on from what `training.folder` holds."""
        self.layout_ = make_env(1).layout
        start = self._started(make_env, training)
        cloned, initial = with_prefix(start, "cloned."), with_prefix(start, "initial.")
        spent = int(start["spent"])
        point = np.array([[spent, start["reward"]]], np.float64)
        if not self.options.fine_tune or spent >= training.requests:
            return Trained(initial, with_prefix(cloned, "policy."), point)

        def whole(trained: Trained) -> Trained:
            return Trained(
                initial, trained.final, np.concatenate([point, trained.learning_curve + np.array([spent, 0])])
            )

        try:
            trained = trained_by_ppo(
                self,
                make_env,
                replace(
                    training,
                    requests=training.requests - spent,
                    report=lambda requests: training.report(spent + requests),
                ),
                module=StartedModule,
                model_config=self.model_config() | {"start": cloned},
                shape=asdict(self.layout_),
            )
        except TrainingStopped as stopped:
            stopped.trained = whole(stopped.trained)
            raise
        return whole(trained)

    # ------------------------------------------------------------------ what the log gives
    def _started(self, make_env: Callable[[int], Any], training: Training) -> dict[str, NDArray[Any]]:
        """What was learnt from the log, read back where the folder has it."""
        checkpoints = Checkpoints.of(self, training, asdict(self.layout_))
        if checkpoints is None:
            return self._learnt_from_log(make_env, training)
        path = checkpoints.folder / f"{PREFIX}of-log" / "start.npz"
        if path.exists():
            arrays, about = load_arrays(path, "start from a log")
            if about != checkpoints.about:
                raise ArtefactError(f"'{path}' is of another training; give another folder, or delete this file.")
            return arrays
        arrays = self._learnt_from_log(make_env, training)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, "start from a log", arrays, checkpoints.about)
        return arrays

    def _learnt_from_log(self, make_env: Callable[[int], Any], training: Training) -> dict[str, NDArray[Any]]:
        """Weights of the whole module as "cloned.*", of the untrained policy as "initial.*"; requests "spent", "reward" of one."""
        options, env = self.options, make_env(1)
        if options.events is None:
            events = self._left(make_env(min(options.num_envs, training.requests)).env, training)
        else:
            events = EventLog.read(Path(options.events))
        limit = None if options.events is not None else min(options.logged, training.requests)
        logged = LoggedRequests.of(events, env.env, self.rows, limit)
        spaces = {DEFAULT_MODULE_ID: (env.single_observation_space, env.single_action_space)}
        with one_thread(), seeded_generators(training.seed), quiet_rllib():
            learner = marwil_config(options, self.model_config()).build_learner(spaces=spaces)
            module: Any = learner.module[DEFAULT_MODULE_ID]
            initial = module.served_policy()
            batch, mean = marwil_batch(logged, options.gamma)
            torch.nn.init.constant_(module.value.head[-1].bias, mean)
            cloned = self._pass_over(learner, batch, initial, training)
        return {
            **{f"initial.{name}": array for name, array in initial.items()},
            **{f"cloned.{name}": array for name, array in cloned.items()},
            "spent": np.array(limit or 0),
            "reward": np.array(logged.rewards.mean()),
        }

    def _pass_over(self, learner: Any, batch: Rows, initial: Weights, training: Training) -> Weights:
        """Weights of the learner's module after all passes over a batch.

        Raises:
            TrainingStopped: if the loss or a weight is not finite; kept is the untrained policy.
        """
        writer = SummaryWriter(str(training.folder)) if training.folder is not None else None
        try:
            for number in range(self.options.passes):
                learnt = learner.update(
                    batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(batch)}, env_steps=len(batch[Columns.OBS])),
                    minibatch_size=min(self.options.minibatch, len(batch[Columns.OBS])),
                    shuffle_batch_per_epoch=True,
                )[DEFAULT_MODULE_ID]
                figures = {name: float(learnt[name]) for name in CURVES if name in learnt}
                weights = arrays_of(learner.module[DEFAULT_MODULE_ID])
                well = np.isfinite(list(figures.values())).all() and all(
                    np.isfinite(array).all() for array in weights.values()
                )
                if not well:
                    raise TrainingStopped(
                        f"agent '{self.name}' cannot go on: the loss on the log is not finite in pass {number + 1}; kept is the "
                        "policy before training. Lower learning_rate or beta.",
                        Trained(initial, initial, np.zeros((0, 2))),
                    )
                if writer is not None:
                    for name, value in figures.items():
                        writer.add_scalar(f"from_log/{name}", value, number + 1)
        finally:
            if writer is not None:
                writer.close()
        return arrays_of(learner.module[DEFAULT_MODULE_ID])

    def _left(self, env: SlateVectorEnv, training: Training) -> EventLog:
        """The event log that the behaviour policy leaves in the environment."""
        env.event_log = events = EventLog()
        env.policy_version = self.options.behaviour
        limit = min(self.options.logged, training.requests)
        behaviour = self._behaviour(training.seed).fit(env.world.policy_log)
        env.reset(seed=training.seed)
        while len(events) < limit:
            slates, propensities = checked_slates(
                behaviour.name, behaviour.act(env.observation), env.observation, self.slate_size
            )
            env.set_propensities(propensities)
            env.step(slates)
            training.report(min(len(events), limit))
        return events

    def _behaviour(self, seed: int) -> Agent:
        """The policy that leaves the log.

        Raises:
            AgentError: if there is no such policy, it reads what is hidden, or needs traffic to learn.
        """
        spec = self.options.behaviour
        if spec == Sampled.name:
            return Sampled(self.slate_size, seed)
        kind = resolve_agent(spec)
        if kind.is_oracle or issubclass(kind, TrainedAgent):
            raise AgentError(
                f"agent '{spec}' cannot leave the log that '{self.name}' learns from; name another behaviour."
            )
        return kind(self.slate_size, seed)


def marwil_config(options: MARWILOptions, model_config: dict[str, Any]) -> MARWILConfig:
    """RLlib's configuration of the learner."""
    return (
        MARWILConfig()
        .training(
            beta=options.beta,
            lr=options.learning_rate,
            vf_coeff=1.0,
            moving_average_sqd_adv_norm_update_rate=options.norm_rate,
            moving_average_sqd_adv_norm_start=1.0,
            grad_clip=0.5,
            grad_clip_by="global_norm",
        )
        .learners(learner_class=ArrayMARWILLearner, num_learners=0)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=SlatePolicyModule, model_config=model_config))
    )


def marwil_batch(logged: LoggedRequests, gamma: float) -> tuple[Rows, float]:
    """(what MARWIL's loss reads of the requests whose slates are whole, mean value target).

    Returns are divided by their deviation, as PPO's are; see `agents.rl.advantages.RewardScale`.

    Raises:
        AgentError: if no slate is whole.
    """
    if not logged.whole.any():
        raise AgentError("the event log has no slate without an empty slot; there is nothing to imitate.")
    returns = logged.returns(gamma)
    targets = (returns / max(returns.std(), 1e-6))[logged.whole].astype(np.float32)
    columns = {
        Columns.OBS: logged.rows[logged.whole],
        Columns.ACTIONS: logged.slates[logged.whole],
        Postprocessing.VALUE_TARGETS: targets,
    }
    return {name: torch.from_numpy(column) for name, column in columns.items()}, float(targets.mean())
