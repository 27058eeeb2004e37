"""Base of sequence models: each item of a history foretells the next by a softmax over the catalogue."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agents.rankers.base import RankerConfig
from agents.rankers.catalogue_ranker import CatalogueRanker
from agents.rankers.network_inputs import ItemVectors, Sizes, Tensors
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.samples import SampleConfig, Samples, propensity_weights
from agents.rankers.training import TrainingConfig
from envs.errors import ConfigurationError

_LEFT_OUT = -1e9
"""Logit of an item that is not foretold."""


@dataclass(frozen=True, kw_only=True)
class SequenceRankerConfig(NetworkRankerConfig):
    """What every sequence model can be told."""

    samples: SampleConfig = field(default_factory=lambda: SampleConfig(label="consumed", history_size=50))
    """What is learnt: items consumed; those passed over are not looked at."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(learning_rate=1e-3, embedding_decay=1e-2, patience=4)
    )
    """How the network is trained; its `batch_size` has no say here, see `windows`."""
    width: int = 64
    """d: width of the items' vectors."""
    windows: int = 64
    """Stretches of H items in a step of training."""
    within_slates: bool = False
    """Whether an item that was consumed from a slate is foretold among the slate's items alone, so that what is learnt does not
    hang on how often items were shown."""
    softmax_items: int = 20_000
    """Items up to which the softmax is over all; where there are more, it is over as many drawn ones and the step's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples.label != "consumed":
            raise ConfigurationError(
                f"label is '{self.samples.label}'; a sequence model learns what is consumed next, so it must be consumed."
            )
        for name in ("width", "windows", "softmax_items"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class Stretches:
    """B stretches of L items that users consumed one after the other, the oldest first."""

    items: Tensor
    """[B, L] int64; 0 behind the end."""
    weights: Tensor
    """[B, L] weight of foretelling each item from those before it; 0 for items that are only read, and behind the end."""
    known: Tensor
    """[B, L] int64 number of items at the begin of the stretch that were known when each was consumed: all before it, unless
    events are known late."""
    rows: NDArray[np.int64]
    """[B, L] row of the log of each item; any behind the end."""


class SequenceNetwork(nn.Module):
    """logit(i) = state . q_i + b_i, where the state is read off the history. Items without rows have the vectors of their
    categories; a user without history has a state that is learnt."""

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.item_vectors = ItemVectors(sizes, width + 1, spread=0.02)
        self.no_history = nn.Parameter(torch.zeros(width))

    def states(self, items: Tensor) -> Tensor:
        """[B, L, d] state after each of `items` [B, L], which knows nothing of those behind it."""
        raise NotImplementedError

    def vectors(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors [..., d], biases [...]) of `items` [...]."""
        both = self.item_vectors(items)
        return both[..., 1:], both[..., 0]

    def forward(self, inputs: Tensors) -> Tensor:
        """[N, C] logits."""
        vectors, bias = self.vectors(inputs.items)
        return torch.einsum("nd,ncd->nc", self.last_state(inputs), vectors) + bias

    def last_state(self, inputs: Tensors) -> Tensor:
        """[N, d] state after the whole history."""
        length = inputs.history_mask.sum(dim=1)
        # newest first becomes oldest first, without a gap before it; as long for all, so that no row hangs on the others
        place = (length[:, None] - 1 - torch.arange(inputs.history.shape[1])).clamp(min=0)
        states = self.states(inputs.history.gather(1, place))
        last = states[torch.arange(len(states)), (length - 1).clamp(min=0)]
        return torch.where((length > 0)[:, None], last, self.no_history)


class SequenceRanker(CatalogueRanker):
    """A ranker that reads the history alone. One of these adds `make_network`, a `SequenceNetwork`.

    Training reads users' items in stretches of H that begin elsewhere in each pass, and foretells the next item at every place
    of a stretch, so that a pass costs one reading of the log. Items that the user consumed before are left out of the
    softmax, as they are not offered again, unless the log has repeats.

    Source: Kang and McAuley (2018) for the stretches; the softmax over all items in place of sampled ones is what Klenitskiy and
    Vasilev (2023), Turning dross into gold loss: is BERT4Rec really better than SASRec?, found best.
    """

    config_class: ClassVar[type[RankerConfig]] = SequenceRankerConfig

    @abstractmethod
    def make_network(self, sizes: Sizes) -> SequenceNetwork:
        """A network with random weights."""

    def batches(self, samples: Samples, number: int) -> Iterator[tuple[Samples, Stretches]]:
        """Each item of the samples once, with what its user consumed before it. Where events are known late, an item is left out if
        nothing is known by then but what was consumed before its stretch."""
        cut = _Cut(samples, self.config.samples.history_size, np.random.default_rng((self.seed, number)))
        for first in range(0, len(cut.begins), self.config.windows):
            yield samples, cut.stretches(slice(first, first + self.config.windows))

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Weighted mean of -log softmax of each next item among those that the user had not consumed before; `batch` is one of
        `batches`."""
        assert isinstance(network, SequenceNetwork)
        samples, stretches = batch
        row, place = torch.nonzero(stretches.weights > 0, as_tuple=True)
        target, weight = stretches.items[row, place], stretches.weights[row, place]
        foretold = self._foretold(target)
        column = torch.zeros(self.num_items, dtype=torch.int64)
        column[foretold] = torch.arange(len(foretold))

        states = network.states(stretches.items)
        known = stretches.known[row, place]
        before = torch.where((known > 0)[:, None], states[row, (known - 1).clamp(min=0)], network.no_history)
        vectors, bias = network.vectors(foretold)
        logits = before @ vectors.T + bias
        if self.config.within_slates:
            logits = logits.masked_fill(
                ~_shown(samples, stretches.rows[row.numpy(), place.numpy()], foretold), _LEFT_OUT
            )
        if not samples.history.log.has_repeats:
            logits = logits.masked_fill(
                _consumed(samples, stretches, foretold)[row] < place.short()[:, None], _LEFT_OUT
            )
        losses = functional.cross_entropy(logits, column[target], reduction="none")
        return (losses * weight).sum() / weight.sum().clamp_min(1e-9)

    def _foretold(self, targets: Tensor) -> Tensor:
        """Items over which the softmax is: all that are known, or where these are too many, some of them and the targets."""
        known = torch.from_numpy(np.flatnonzero(self.known_items_))
        if len(known) <= self.config.softmax_items:
            return known
        drawn = known[torch.randperm(len(known))[: self.config.softmax_items]]
        return torch.unique(torch.cat([drawn, targets]))


def _shown(samples: Samples, rows: NDArray[np.int64], items: Tensor) -> Tensor:
    """[P, K] whether each of `items` [K] was in the slate of the rows [P] of the log; all, for rows that belong to no slate."""
    log, start = samples.history.log, samples.history.slate_start
    first, end = start[rows], np.searchsorted(start, start[rows], side="right")
    place = first[:, None] + np.arange(int((end - first).max(initial=1)))
    slate = torch.from_numpy(log.item[np.minimum(place, end[:, None] - 1)].astype(np.int64))
    shown = torch.zeros(len(rows), len(log.catalogue), dtype=torch.bool).scatter_(1, slate, True)[:, items]
    return shown | torch.from_numpy(log.request[rows] < 0)[:, None]


def _consumed(samples: Samples, stretches: Stretches, items: Tensor) -> Tensor:
    """[B, K] place in the stretch at which each of `items` [K] was consumed: -1 before it, its length for never."""
    asked = np.broadcast_to(items.numpy().astype(np.int32), (len(stretches.rows), len(items)))
    earlier = torch.from_numpy(samples.history.consumed_by(stretches.rows[:, 0], asked))
    length = stretches.items.shape[1]
    first = torch.full((len(asked), int(max(items.max(), stretches.items.max())) + 1), length)
    places = torch.arange(length).expand_as(stretches.items)
    # item 0 also stands behind the end, which is later than any item that is foretold
    first.scatter_reduce_(1, stretches.items, places, "amin")
    return first[:, items].masked_fill(earlier, -1).short()


class _Cut:
    """All that users consumed, cut into stretches of at most H items to foretell, elsewhere for each `random`; each stretch begins
    with the item before them."""

    def __init__(self, samples: Samples, size: int, random: np.random.Generator) -> None:
        log = samples.history.log
        self._rows, self._size = np.flatnonzero(log.clicked), size
        self._item, user = log.item[self._rows], log.user[self._rows]
        learnt = np.zeros(len(log), bool)
        learnt[samples.starts] = True
        self._weight = (propensity_weights(log, learnt, samples.config) * learnt)[self._rows]
        first = np.searchsorted(user, user)
        self._known = np.arange(len(user)) - samples.history.unread(self._rows)
        self._first = first
        number = (np.arange(len(user)) - first + random.integers(0, size, len(log.users))[user]) // size
        begins = np.flatnonzero(np.append(True, (np.diff(user) != 0) | (np.diff(number) != 0))[: len(user)])
        ends = np.append(begins[1:], len(user))
        some = np.add.reduceat(self._weight, begins) > 0 if len(begins) else np.zeros(0, bool)
        order = random.permutation(np.flatnonzero(some))
        self.begins, self._ends, self._starts = begins[order], ends[order], np.maximum(begins - 1, first[begins])[order]

    def stretches(self, part: slice) -> Stretches:
        """Some of the stretches."""
        place = self._starts[part, None] + np.arange(self._size + 1)
        inside = place < self._ends[part, None]
        place = np.where(inside, place, 0)
        known = self._known[place] - self._starts[part, None]
        # what is known of the user may all lie before the stretch, which does not show it
        shown = (known > 0) | (self._known[place] == self._first[place])
        weight = np.where(inside & shown & (place >= self.begins[part, None]), self._weight[place], 0)
        return Stretches(
            torch.from_numpy(np.where(inside, self._item[place], 0).astype(np.int64)),
            torch.from_numpy(weight.astype(np.float32)),
            torch.from_numpy(np.maximum(known, 0).astype(np.int64)),
            self._rows[place],
        )
