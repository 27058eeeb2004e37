"""RLlib's learners going through one batch of arrays: what a gradient step costs is its arithmetic.

Algorithms, modules, schedules, checkpoints and results are RLlib's own. Replaced is the loop around them: RLlib copies each
minibatch into objects of its own, checks every gradient by itself, and computes and logs some twenty numbers a minibatch, of
which it keeps the last. Here the last minibatch alone goes through RLlib's loss, which logs; the others through the same loss
without what is only logged.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite, nan
from typing import Any, ClassVar

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import WEIGHTS_SEQ_NO
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import (
    MODULE_TRAIN_BATCH_SIZE_MEAN,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    TD_ERROR_KEY,
)
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import huber_loss, mse_loss

_TARGET_UPDATES = "last_target_updates"
Rows = dict[str, Tensor]
"""Rows of a batch, column by column; all of one length."""


class ArrayLearner(TorchLearner):
    """Goes through a batch by minibatches gathered from it, each followed by one fused optimiser step.

    For one module in this process (RLlib's `num_learners=0`), trained on batches of tensors.
    """

    only_logged: ClassVar[tuple[str, ...]] = ()
    """Columns that only RLlib's own loss reads."""

    # RLlib types these as their bases; which ones they are, the algorithm says
    config: Any
    module: Any

    @abstractmethod
    def lean_loss(self, rows: Rows) -> Tensor:
        """The loss of RLlib's `compute_loss_for_module`, without what that computes for the log."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam as RLlib's, of which all parameters take their step in one call."""
        parameters = self.get_parameters(self.module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(parameters, fused=True),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )

    def update(  # type: ignore[override]
        self,
        batch: Any = None,
        *,
        training_data: Any = None,
        timesteps: dict[str, Any] | None = None,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """RLlib's `Learner.update` for one batch of tensors; its results tell of the last minibatch, as RLlib's do.

        A gradient that is not finite ends the update: the weights stay as they were before it, and the results' total loss is NaN.
        """
        columns = dict((batch or training_data.batch).policy_batches[DEFAULT_MODULE_ID])
        length = len(next(iter(columns.values())))
        size = minibatch_size or length
        steps = -(-length * num_epochs // size)
        lean = {name: column for name, column in columns.items() if name not in self.only_logged}
        self.before_gradient_based_update(timesteps=timesteps or {})
        self._weights_seq_no += 1
        self.module[DEFAULT_MODULE_ID].train()
        with unvalidated_distributions():
            for step, chosen in enumerate(minibatches(length, size, steps, shuffle_batch_per_epoch), 1):
                last = step == steps
                rows = {name: column.index_select(0, chosen) for name, column in (columns if last else lean).items()}
                if not self._descend(rows, logged=last):
                    break
        self._log_steps(size, step)
        self._move_on(columns, timesteps or {})
        self.after_gradient_based_update(timesteps=timesteps or {})
        return self.metrics.reduce()

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """What the module makes of rows in training (RLlib's `forward_train` would switch modes again each time)."""
        return self.module[DEFAULT_MODULE_ID]._forward_train(rows)

    def _descend(self, rows: Rows, logged: bool) -> bool:
        """One gradient step; False, and none, if the gradient is not finite."""
        config = self.config
        ((name, optimizer),) = self.get_optimizers_for_module(DEFAULT_MODULE_ID)
        loss: Any
        if logged:
            outputs: dict[str, Any] = {**self.forward(rows)}
            loss = self.compute_loss_for_module(module_id=DEFAULT_MODULE_ID, config=config, batch=rows, fwd_out=outputs)
        else:
            loss = self.lean_loss(rows)
        parameters: list[Any] = self._optimizer_parameters[optimizer]
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        norm = _clipped(parameters, config.grad_clip if config.grad_clip_by == "global_norm" else None)
        if logged:
            self.metrics.log_value((DEFAULT_MODULE_ID, f"gradients_{name}_global_norm"), norm, window=1)
        if logged or not isfinite(norm):
            total = loss.item() if isfinite(norm) else nan
            self.metrics.log_value((DEFAULT_MODULE_ID, self.TOTAL_LOSS_KEY), total, window=1)
        if isfinite(norm):
            optimizer.step()
        return isfinite(norm)

    def _move_on(self, columns: Rows, timesteps: dict[str, Any]) -> None:
        """Lets a module see this batch if it normalises what it observes, and narrow its exploration if that hangs on the budget.

        Both after the update: what a batch was sampled with, it is learnt from with; the next one is sampled with what comes now.
        """
        module = self.module[DEFAULT_MODULE_ID]
        normaliser, narrow = getattr(module, "normaliser", None), getattr(module, "narrow", None)
        if normaliser is not None:
            normaliser.take_in(columns[Columns.OBS])
        if narrow is not None:
            narrow(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0) / self.config.env_config["limit"])

    def _log_steps(self, size: int, steps: int) -> None:
        """What RLlib logs of each minibatch, once for all."""
        log, rows = self.metrics.log_value, size * steps
        log((DEFAULT_MODULE_ID, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
        log((DEFAULT_MODULE_ID, MODULE_TRAIN_BATCH_SIZE_MEAN), size, reduce="mean")
        for owner in (DEFAULT_MODULE_ID, ALL_MODULES):
            log((owner, NUM_MODULE_STEPS_TRAINED), rows, reduce="sum")
            log((owner, NUM_MODULE_STEPS_TRAINED_LIFETIME), rows, reduce="lifetime_sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), rows, reduce="sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), rows, reduce="lifetime_sum", with_throughput=True)


class ArrayPPOLearner(ArrayLearner, PPOTorchLearner):
    """PPO over arrays."""

    only_logged = (Columns.ACTION_DIST_INPUTS,)

    def lean_loss(self, rows: Rows) -> Tensor:
        """Clipped surrogate, clipped squared error of the value, entropy bonus.

        Source: Schulman et al. (2017), Proximal policy optimization algorithms, eq. 9.
        """
        config, module = self.config, self.module[DEFAULT_MODULE_ID]
        outputs = self.forward(rows)
        distribution = module.get_train_action_dist_cls().from_logits(outputs[Columns.ACTION_DIST_INPUTS])
        ratio = torch.exp(distribution.logp(rows[Columns.ACTIONS]) - rows[Columns.ACTION_LOGP])
        advantages, clip = rows[Postprocessing.ADVANTAGES], config.clip_param
        gain = torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
        values = module.compute_values(rows, embeddings=outputs.get(Columns.EMBEDDINGS))
        error = (values - rows[Postprocessing.VALUE_TARGETS]).square().clamp(max=config.vf_clip_param).mean()
        loss = config.vf_loss_coeff * error - gain
        bonus = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        return loss - bonus * distribution.entropy().mean() if bonus else loss


class ArrayDQNLearner(ArrayLearner, DQNTorchLearner):
    """Double DQN over arrays; its results hold the errors of all rows in the order of the batch."""

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and when the target network was last updated, which RLlib leaves out."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        return state | {_TARGET_UPDATES: dict(self.last_update_ts_by_mid)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` returned."""
        super().set_state(state)
        self.last_update_ts_by_mid.update(state.get(_TARGET_UPDATES, {}))

    def lean_loss(self, rows: Rows) -> Tensor:
        """Weighted error of the chosen action's value.

        Source: van Hasselt et al. (2016), Deep reinforcement learning with double Q-learning, eq. 4.
        """
        config, outputs = self.config, self.forward(rows)
        chosen = outputs[QF_PREDS].gather(-1, rows[Columns.ACTIONS].unsqueeze(-1)).squeeze(-1)
        judge = outputs[QF_NEXT_PREDS] if config.double_q else outputs[QF_TARGET_NEXT_PREDS]
        best = judge.argmax(dim=-1, keepdim=True)
        following = torch.nan_to_num(outputs[QF_TARGET_NEXT_PREDS].gather(-1, best), neginf=0.0).squeeze(-1)
        going = 1.0 - rows[Columns.TERMINATEDS].float()
        target = (rows[Columns.REWARDS] + config.gamma ** rows["n_step"] * going * following).detach()
        error = huber_loss if config.td_error_loss_fn == "huber" else mse_loss
        self.metrics.log_value(
            (DEFAULT_MODULE_ID, TD_ERROR_KEY), (chosen - target).abs().detach(), reduce="item_series"
        )
        return (rows["weights"] * error(chosen, target, reduction="none")).mean()


def _clipped(parameters: Any, limit: float | None) -> float:
    """Norm of all gradients together; they are scaled down in place where it is beyond the limit."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm


def minibatches(length: int, size: int, steps: int, shuffle: bool) -> Iterator[Tensor]:
    """Row numbers [size] of `steps` minibatches, going round and round through a batch as RLlib does.

    Args:
        length: rows of the batch.
        size: rows of a minibatch; where it does not divide the batch, a minibatch takes its last rows from the next round.
        steps: minibatches in all.
        shuffle: whether each round has an order of its own; otherwise all have that of the batch.
    """
    rounds = -(-size * steps // length)
    order = torch.cat([torch.randperm(length) if shuffle else torch.arange(length) for _ in range(rounds)])
    yield from order[: size * steps].split(size)


@contextmanager
def unvalidated_distributions() -> Iterator[None]:
    """Torch's distributions do not check their parameters inside the block: a gradient that is no number is caught later."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
