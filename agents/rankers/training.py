"""The training loop that all network rankers share: AdamW, early stopping, curves for TensorBoard."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch import Tensor, nn

from envs.errors import ConfigurationError

Item = TypeVar("Item")
OBJECTIVE = "objective"
"""Key of the figure by which training stops, among those of `validate`; smaller is better."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained."""

    epochs: int = 60
    """Passes over the samples at most."""
    patience: int = 5
    """Passes without a better validation objective after which training ends; the best pass is kept."""
    batch_size: int = 2048
    """Pairs (request, item) of a step, about."""
    learning_rate: float = 2e-3
    """Step size of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled decay of all weights but embeddings."""
    embedding_decay: float = 0.3
    """Decoupled decay of embeddings."""
    max_gradient: float = 10.0
    """Norm to which the gradient of a step is clipped."""
    update_epochs: int = 1
    """Passes over new events in an update."""
    update_learning_rate: float = 1e-4
    """Step size in an update."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "update_epochs"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("learning_rate", "update_learning_rate", "max_gradient"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive.")


def train(
    network: nn.Module,
    *,
    batches: Callable[[int], Iterable[Item]],
    loss: Callable[[Item], Tensor],
    validate: Callable[[], dict[str, float]],
    config: TrainingConfig,
    progress: Callable[[int, int, float], None] | None = None,
    folder: Path | None = None,
) -> list[dict[str, float]]:
    """Trains `network` in place and leaves it, in evaluation mode, as it was after its best pass.

    Args:
        network: what learns.
        batches: gives the batches of a pass, by its number from 0.
        loss: mean loss of a batch, differentiable.
        validate: figures of the network (in evaluation mode, without gradients), one of them `OBJECTIVE`; NaN where there is
            nothing to validate on, then each pass counts as better.
        config: how.
        progress: called after each pass with (its number from 1, passes at most, best objective so far).
        folder: where TensorBoard curves are written; None for nowhere.

    Returns:
        The figures of each pass, with its mean training loss as `loss`.

    Raises:
        ConfigurationError: if the loss is not finite.
    """
    optimiser = _optimiser(network, config, config.learning_rate)
    best, waited, kept, passes = np.inf, 0, copy.deepcopy(network.state_dict()), []
    writer = SummaryWriter(str(folder)) if folder is not None else None
    try:
        for number in range(config.epochs):
            mean = _one_pass(network, batches(number), loss, optimiser, config)
            network.eval()
            with torch.no_grad():
                figures = {"loss": mean, **validate()}
            passes.append(figures)
            if writer is not None:
                for name, value in figures.items():
                    writer.add_scalar(name, value, number + 1)
            if not figures[OBJECTIVE] >= best:
                best, waited, kept = figures[OBJECTIVE], 0, copy.deepcopy(network.state_dict())
                best = np.inf if np.isnan(best) else best
            else:
                waited += 1
            if progress is not None:
                progress(number + 1, config.epochs, float(best))
            if waited >= config.patience:
                break
    finally:
        if writer is not None:
            writer.close()
    network.load_state_dict(kept)
    network.eval()
    return passes


def train_on(
    network: nn.Module, batches: Callable[[int], Iterable[Item]], loss: Callable[[Item], Tensor], config: TrainingConfig
) -> None:
    """Takes a trained network some small steps further, `update_epochs` passes over the batches; leaves it in evaluation mode.

    Raises:
        ConfigurationError: if the loss is not finite.
    """
    optimiser = _optimiser(network, config, config.update_learning_rate)
    for number in range(config.update_epochs):
        _one_pass(network, batches(number), loss, optimiser, config)
    network.eval()


def _optimiser(network: nn.Module, config: TrainingConfig, learning_rate: float) -> torch.optim.Optimizer:
    embeddings = {id(part.weight) for part in network.modules() if isinstance(part, nn.Embedding)}
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if id(w) in embeddings], "weight_decay": config.embedding_decay},
        {"params": [w for w in weights if id(w) not in embeddings], "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def _one_pass(
    network: nn.Module,
    batches: Iterable[Item],
    loss: Callable[[Item], Tensor],
    optimiser: torch.optim.Optimizer,
    config: TrainingConfig,
) -> float:
    """Mean loss over the batches of a pass; NaN where there are none."""
    network.train()
    losses = []
    for batch in batches:
        optimiser.zero_grad()
        value = loss(batch)
        if not torch.isfinite(value):
            raise ConfigurationError(
                f"the loss of {type(network).__name__} is {value.item()} in training; lower its learning_rate "
                f"(now {optimiser.param_groups[0]['lr']})."
            )
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient)
        optimiser.step()
        losses.append(value.item())
    return float(np.mean(losses)) if losses else float("nan")
