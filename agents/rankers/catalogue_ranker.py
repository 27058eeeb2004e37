"""Base of rankers that are trained to find the next item in the whole catalogue, and are judged by its rank there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.rankers.base import Progress
from agents.rankers.log_history import LogHistory
from agents.rankers.network_inputs import Tensors
from agents.rankers.network_ranker import NetworkRanker
from agents.rankers.samples import Samples
from agents.rankers.training import OBJECTIVE

MOST_PAIRS = 2_000_000
"""Pairs (request, item) of the catalogue on which a pass is judged, at most; but `FEWEST_CASES` requests in any case."""
FEWEST_CASES = 200
TOP = 10
_PAIRS_AT_ONCE = 100_000


class CatalogueRanker(NetworkRanker):
    """A network ranker whose passes are judged by where the consumed item ranks among all that the user had not consumed.

    Training stops by the NDCG over the whole list, which sees every shift of a rank; that of the first ten, which hangs on
    the few requests whose item is near the top, is shown beside it. Where the samples are slates with clicks, the loss stops.
    """

    _cases: "_Cases | None" = None

    def _fit(self, training: Samples, validation: Samples, progress: Progress | None, folder: Path | None) -> None:
        if training.draws_negatives and len(validation):
            training = _unaware_of(validation, training)
        try:
            super()._fit(training, validation, progress, folder)
        finally:
            self._cases = None

    def validate(self, network: nn.Module, samples: Samples) -> dict[str, float]:
        """NDCG (less is better: negative as the objective), NDCG and recall at 10; of slates, the loss."""
        if not len(samples):
            return {OBJECTIVE: float("nan")}
        if not samples.draws_negatives:
            losses = [self.loss(network, batch).item() for batch in self.batches(samples, 0)]
            return {OBJECTIVE: float(np.mean(losses))}
        if self._cases is None or self._cases.samples is not samples:
            self._cases = self._cases_of(samples)
        rank = torch.cat([_ranks(network(case.inputs), case) for case in self._cases.blocks])
        gain = 1 / torch.log2(rank + 2)
        top = rank < TOP
        return {
            OBJECTIVE: -gain.mean().item(),
            "ndcg": gain.mean().item(),
            f"ndcg{TOP}": (gain * top).mean().item(),
            f"recall{TOP}": top.float().mean().item(),
        }

    def _cases_of(self, samples: Samples) -> "_Cases":
        """Some of the samples, evenly spread, each with the whole catalogue."""
        history, catalogue = samples.history, np.arange(self.num_items, dtype=np.int32)
        count = min(len(samples), max(MOST_PAIRS // self.num_items, FEWEST_CASES))
        rows = samples.starts[np.linspace(0, len(samples) - 1, count).astype(np.int64)]
        step, blocks = max(_PAIRS_AT_ONCE // self.num_items, 1), []
        for part in (rows[first : first + step] for first in range(0, count, step)):
            items = np.ascontiguousarray(np.broadcast_to(catalogue, (len(part), len(catalogue))))
            target = history.log.item[part].astype(np.int64)
            skipped = np.zeros(items.shape, bool)
            if not history.log.has_repeats:
                skipped = history.consumed_by(part, items)
            blocks.append(
                _Block(self.tensors(history.inputs(part, items)), torch.from_numpy(target), as_mask(skipped, target))
            )
        return _Cases(samples, blocks)


def _unaware_of(validation: Samples, training: Samples) -> Samples:
    """The training samples of a log without the rows that validate. Else `avoid_later` would keep the items of those from being
    drawn, and what is never pushed down comes out too high."""
    log = training.history.log
    kept = np.ones(len(log), bool)
    kept[validation.starts] = False
    history = LogHistory(log.where(kept), training.history.history_size, delay=training.history.delay)
    rows = np.zeros(len(log), bool)
    rows[training.starts] = True
    return Samples(history, rows[kept], training.config, training.seed)


@dataclass(frozen=True)
class _Block:
    """Requests with the whole catalogue, and what was consumed."""

    inputs: Tensors
    target: Tensor
    """[N] the item consumed."""
    skipped: Tensor
    """[N, I] bool, items that are not ranked: consumed before, or the target itself."""


@dataclass(frozen=True)
class _Cases:
    """What passes are judged on."""

    samples: Samples
    blocks: list[_Block]


def as_mask(skipped: NDArray[np.bool_], target: NDArray[np.int64]) -> Tensor:
    """`skipped` [N, I] with the targets [N] too, as a tensor."""
    skipped[np.arange(len(target)), target] = True
    return torch.from_numpy(skipped)


def _ranks(logits: Tensor, case: _Block) -> Tensor:
    """[N] ranks of the targets, 0 for the best; of equal logits half count as better."""
    own = logits.gather(1, case.target[:, None])
    better = ((logits > own) & ~case.skipped).sum(dim=1)
    equal = ((logits == own) & ~case.skipped).sum(dim=1)
    return better + equal / 2
