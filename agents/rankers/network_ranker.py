"""Base of rankers that are torch networks: fit, update, batched scoring on two threads, checkpoints."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agents.rankers.base import Progress, Ranker, RankerConfig
from agents.rankers.network_inputs import ItemVectors, Sizes, Tensors
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import Samples
from agents.rankers.training import OBJECTIVE, TrainingConfig, train, train_on
from agents.updates.metrics import auc
from envs.users.threads import single_torch_thread


@dataclass(frozen=True, kw_only=True)
class NetworkRankerConfig(RankerConfig):
    """What every network ranker can be told."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How the network is trained."""


@dataclass(frozen=True)
class TensorBatch:
    """A batch of samples as tensors."""

    inputs: Tensors
    labels: Tensor
    """[B, C] 1 for liked, else 0."""
    weights: Tensor
    """[B, C] weight of each pair; 0 where there is no item."""


class NetworkRanker(Ranker):
    """A ranker whose scores are those of a network: `network_(Tensors) -> logits [N, C]`.

    A pointwise ranker adds `make_network`. One with another loss overrides `loss`, one with other samples `batches` too, one that
    is judged by other figures `validate`.
    """

    config_class: ClassVar[type[RankerConfig]] = NetworkRankerConfig
    reads_history: ClassVar[bool] = True
    """Whether the network reads what a user consumed last; one that does not knows a user without rows by attributes alone."""
    network_: nn.Module
    passes_: list[dict[str, float]]
    """Figures of each pass of the last fit."""

    @abstractmethod
    def make_network(self, sizes: Sizes) -> nn.Module:
        """A network with random weights that gives logits [N, C] of `Tensors`."""

    def loss(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        """Mean loss of a batch; by default the weighted logistic loss of each pair."""
        return logistic_loss(network(batch.inputs), batch.labels, batch.weights)

    def batches(self, samples: Samples, number: int) -> Iterator[Any]:
        """The batches of pass `number`, each of which `loss` takes."""
        for batch in samples.epoch(number, self.config.training.batch_size):
            yield TensorBatch(
                self.tensors(batch.inputs), torch.from_numpy(batch.labels), torch.from_numpy(batch.weights)
            )

    def validate(self, network: nn.Module, samples: Samples) -> dict[str, float]:
        """Figures of the network in evaluation mode, without gradients; `OBJECTIVE`, by default the log-loss, stops training."""
        return pointwise_figures(self, network, samples)

    # ------------------------------------------------------------------ Ranker
    def _fit(self, training: Samples, validation: Samples, progress: Progress | None, folder: Path | None) -> None:
        with _seeded(self.seed):
            network = self.make_network(self._sizes)
            if self._is_warm:
                network.load_state_dict(self.network_.state_dict())
            self.passes_ = train(
                network,
                batches=lambda number: self.batches(training, number),
                loss=lambda batch: self.loss(network, batch),
                validate=lambda: self.validate(self._prepared(network), validation),
                config=self.config.training,
                progress=progress,
                folder=folder,
            )
        self.network_ = self._prepared(network)

    def _update(self, samples: Samples) -> None:
        network = self._prepared(self.network_)
        with _seeded(self.seed):
            train_on(
                network,
                lambda number: self.batches(samples, number),
                lambda batch: self.loss(network, batch),
                self.config.training,
            )
        self.network_ = self._prepared(network)

    def _score(self, batch: RankingInput) -> NDArray[np.float32]:
        with torch.no_grad():
            return self.network_(self.tensors(batch)).numpy()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {f"network.{name}": tensor.numpy() for name, tensor in self.network_.state_dict().items()}

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        network = self.make_network(self._sizes)
        network.load_state_dict({name.removeprefix("network."): torch.from_numpy(a) for name, a in arrays.items()})
        network.eval()
        self.network_ = self._prepared(network)

    # ------------------------------------------------------------------ for rankers
    def tensors(self, inputs: RankingInput) -> Tensors:
        """An input, whose counts are filled in, as tensors."""
        return Tensors.of(inputs, self.known_users_, self.config.samples.history_size)

    @property
    def _passes_of_fit(self) -> int:
        return len(self.passes_)

    @property
    def _passes_of_update(self) -> int:
        return int(self.config.training.update_epochs)

    @property
    def _sizes(self) -> Sizes:
        return Sizes(
            num_users=len(self.known_users_),
            num_user_features=self.num_user_features_,
            categories=self.categories_,
            known_items=self.known_items_,
        )

    def _prepared(self, network: nn.Module) -> nn.Module:
        """The network with the tables of its evaluation mode made anew."""
        for part in network.modules():
            if isinstance(part, ItemVectors):
                part.prepare(self.known_items_)
        return network


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside the block torch draws from `seed` and works in one thread: for steps of this size a second one costs more than it
    saves, and stalls where another process has the core."""
    with torch.random.fork_rng(devices=[]), single_torch_thread():
        torch.manual_seed(seed)
        yield


def logistic_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the logistic loss of pairs [B, C]."""
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-9)


def pointwise_figures(ranker: NetworkRanker, network: nn.Module, samples: Samples) -> dict[str, float]:
    """Log-loss (the objective) and AUC over all pairs of the samples; NaN where there are none, or only one label."""
    logits, labels, weights = [], [], []
    for batch in samples.epoch(0, 4 * ranker.config.training.batch_size, shuffled=False):
        logits.append(network(ranker.tensors(batch.inputs)).numpy()[batch.weights > 0])
        labels.append(batch.labels[batch.weights > 0])
        weights.append(batch.weights[batch.weights > 0])
    if not logits:
        return {OBJECTIVE: float("nan")}
    logit, label, weight = (torch.from_numpy(np.concatenate(parts)) for parts in (logits, labels, weights))
    log_loss = logistic_loss(logit, label, weight).item()
    return {OBJECTIVE: log_loss, "log_loss": log_loss, "auc": auc(label.numpy() > 0.5, logit.numpy())}
