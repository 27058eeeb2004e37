"""Networks that score the candidates of a request, fed flat rows of `RequestLayout`: plain torch, no Ray.

    history, context, attributes ──► StateEncoder ──► state [N, d] ──────────────────► StateValue [N]
                                                        │
    candidates, item table ────────────────────► RequestEncoder ──► [N, C, d] ──► CandidateScorer [N, C, outputs]

`CandidateScorer` gives logits to a policy (`outputs=1`, `prior` set: the order of a ranker until something better is learnt),
values to a slot-wise Q-network (a layout with slots: what earlier slots took is part of the state), or several numbers of each
candidate. All treat candidates alike, so permuting them permutes the scores; a row depends on no other row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agents.request_layout import RequestLayout, RequestParts
from agents.rerankers.weighted import FRESHNESS_DAYS, log_counts
from agents.rl.networks import mlp
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.measures import RECENT_ITEMS
from recall.embedding import EmbeddingConfig, EmbeddingRecall

NUM_CONTEXT = 8
"""Numbers of the state that are no attributes of the user: hour and weekday as sine and cosine, place in the visit, day, length of
the history and time since its last item."""
COLUMNS = ("freshness", "age", "popularity", "unlikeness")
"""What the networks see of each candidate besides the layout's columns: exp(-age / 30 days), log(1 + age) / 8 in place of the age
itself, standardised log popularity, and 1 - mean cosine of its categories with those of the ten items last consumed."""


@dataclass(frozen=True)
class ItemTable:
    """What is public of the catalogue's items, learnt from the policy's log and saved with the agent."""

    popularity: NDArray[np.float32]
    """[I] log(1 + times consumed in the policy's log)."""
    categories: NDArray[np.float32]
    """[I, G] category memberships."""
    embedding: NDArray[np.float32]
    """[I, D] embedding of each item, of mean square 1 in each dimension; items without rows stand at their categories' mean."""

    @classmethod
    def from_log(cls, log: InteractionLog, dimension: int = 32, seed: int = 0) -> Self:
        """Counts a policy's log, and factorises it by alternating least squares as recall does."""
        recall = EmbeddingRecall(EmbeddingConfig(dimension=dimension), seed).fit(log)
        vectors = recall.item_vectors_
        scale = np.sqrt((vectors**2).mean(axis=0)) + 1e-6
        return cls(log_counts(log), log.catalogue.categories.astype(np.float32), (vectors / scale).astype(np.float32))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From what `arrays` returned.

        Raises:
            KeyError: if an array is missing.
            ValueError: if the arrays are not of the same items.
        """
        table = cls(*(np.asarray(arrays[name], np.float32) for name in ("popularity", "categories", "embedding")))
        items = len(table.popularity)
        if table.categories.shape[:1] != (items,) or table.embedding.shape[:1] != (items,):
            raise ValueError("the tables are not of the same items")
        return table

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The tables by name."""
        return {"popularity": self.popularity, "categories": self.categories, "embedding": self.embedding}


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """How the networks are made."""

    width: int = 32
    """d: width of all vectors."""
    heads: int = 4
    """Ways in which the history is pooled."""


class Items(nn.Module):
    """The item table as buffers, and vectors of items by linear layers of it."""

    popularity: Tensor
    directions: Tensor
    features: Tensor

    def __init__(self, table: ItemTable) -> None:
        super().__init__()
        popularity, categories = torch.from_numpy(table.popularity), torch.from_numpy(table.categories)
        popularity = (popularity - popularity.mean()) / (popularity.std(correction=0) + 1e-6)
        buffers = {
            "popularity": popularity,
            "directions": functional.normalize(categories, dim=1),
            "features": torch.cat([popularity[:, None], categories, torch.from_numpy(table.embedding)], dim=1),
        }
        for name, values in buffers.items():
            # one more item, all zeros, stands for none
            padded = torch.cat([values, torch.zeros(1, *values.shape[1:])])
            self.register_buffer(name, padded, persistent=False)

    @property
    def none(self) -> int:
        """Index of the item that stands for none."""
        return len(self.popularity) - 1

    def indices(self, items: Tensor) -> Tensor:
        """Items [...] of a flat row, with -1 for none, as indices."""
        items = items.long()
        return torch.where(items < 0, self.none, items)

    def vectors(self, project: nn.Linear, indices: Tensor) -> Tensor:
        """[..., d] projected features of the items `indices` [...]."""
        if indices.numel() > len(self.features):
            return functional.embedding(indices, project(self.features))
        return project(self.features[indices])

    def read(self, parts: RequestParts[Any]) -> "Request":
        """What the rows say, before any layer."""
        return Request(parts, self.indices(parts.items), self.columns(parts), parts.mask)

    def columns(self, parts: RequestParts[Any]) -> Tensor:
        """See `Request.columns`."""
        given = torch.cat([parts.columns[..., :1], parts.columns[..., 2:]], dim=2)
        age = parts.columns[..., 1].clamp(min=0)
        items, recent = self.indices(parts.items), self.indices(parts.history[:, :RECENT_ITEMS])
        number = (recent != self.none).sum(dim=1, keepdim=True)
        mean = self.directions[recent].sum(dim=1) / number.clamp(min=1)
        cosine = (self.directions[items] @ mean[..., None]).squeeze(2)
        own = [(-age / FRESHNESS_DAYS).exp(), age.log1p() / 8, self.popularity[items], 1 - cosine]
        return torch.cat([standardised(given, parts.mask), torch.stack(own, dim=2)], dim=2)


class StateEncoder(nn.Module):
    """User, moment and history as a vector.

    The history is pooled by attention: each head weighs items by a linear score of their vector and of the time since they were
    consumed.
    """

    def __init__(self, layout: RequestLayout, items: Items, config: ScorerConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.items = items
        self.project = nn.Linear(items.features.shape[1], width, bias=False)
        self.attention = nn.Linear(width + 3, heads)
        self.user = mlp((NUM_CONTEXT + layout.user_features + heads * width, width, width), last_gain=1.0)

    def forward(self, parts: RequestParts[Any]) -> tuple[Tensor, Tensor]:
        """(states [N, d], pooled histories [N, heads, d])."""
        vectors = self.items.vectors(self.project, self.items.indices(parts.history))
        pooled = self._pooled(vectors, parts)
        return self.user(torch.cat([_context(parts), parts.user, pooled.flatten(1)], dim=1)), pooled

    def _pooled(self, vectors: Tensor, parts: RequestParts[Any]) -> Tensor:
        """[N, heads, d]; zeros where there is no history."""
        known = parts.history >= 0
        days = parts.history_days.clamp(min=0)
        place = torch.arange(known.shape[1], device=known.device).log1p().expand_as(days)
        times = torch.stack([days.log1p() / 4, (-days).exp(), place / 4], dim=2)
        scores = self.attention(torch.cat([vectors, times], dim=2)).masked_fill(~known[..., None], -1e9)
        shares = scores.softmax(dim=1) * known[..., None]
        return shares.transpose(1, 2) @ vectors


@dataclass(frozen=True)
class Request:
    """N requests as their flat rows tell them; the same for every network with the same table of items."""

    parts: RequestParts[Any]
    items: Tensor
    """[N, C] indices of the candidates."""
    columns: Tensor
    """[N, C, F - 1 + 4] numbers of each candidate, see `column_names`: the layout's columns but age, standardised over the
    request's unmasked candidates, then `COLUMNS`."""
    mask: Tensor
    """[N, C] 1 where the candidate may be shown."""

    def at(self, places: Tensor) -> Self:
        """The candidates at `places` [N, P] alone, with the numbers that they have among all of them."""
        wide = places[..., None].expand(-1, -1, self.columns.shape[2])
        items, columns, mask = self.items.gather(1, places), self.columns.gather(1, wide), self.mask.gather(1, places)
        return replace(self, items=items, columns=columns, mask=mask)

    def offer(self) -> Tensor:
        """[N, 2 F] see `offered`."""
        return offered(self.columns, self.mask)


@dataclass(frozen=True)
class Encoded:
    """N requests as vectors."""

    state: Tensor
    """[N, d] of user, moment and what earlier slots took."""
    candidates: Tensor
    """[N, C, d] of each candidate in this state."""
    request: Request
    """What both were made of."""


class RequestEncoder(nn.Module):
    """Turns flat rows into vectors of the state and of the candidates in it.

    A candidate's vector is read off its item's features, its inner products with the pooled histories and with what earlier slots
    took, its numbers, and the state.
    """

    def __init__(self, layout: RequestLayout, table: ItemTable, config: ScorerConfig) -> None:
        super().__init__()
        self.layout, width = layout, config.width
        self.items = Items(table)
        self.states = StateEncoder(layout, self.items, config)
        self.slate = nn.Linear(width + 1, width, bias=False) if layout.slots else None
        self.of_item = nn.Linear(self.items.features.shape[1], width, bias=False)
        self.of_state = nn.Linear(width, width)
        numbers = len(layout.columns) - 1 + len(COLUMNS) + config.heads + bool(layout.slots)
        self.of_numbers = nn.Linear(numbers, width, bias=False)

    def read(self, rows: Tensor) -> Request:
        """Reads flat rows [N, W]."""
        return self.items.read(self.layout.parts(rows))

    def forward(self, request: Request) -> Encoded:
        """Encodes requests that were read, or some of their candidates (`Request.at`), whose vectors are the same."""
        parts, items = request.parts, request.items
        state, pooled = self.states(parts)
        vectors = self.items.vectors(self.states.project, items)
        scale = vectors.shape[-1] ** -0.5
        numbers = [request.columns, vectors @ (pooled.transpose(1, 2) * scale)]
        if self.slate is not None:
            taken = self._taken(parts)
            state = state + self.slate(taken)
            numbers.append(vectors @ (taken[:, :-1, None] * scale))
        of_numbers = torch.cat(numbers, dim=2).flatten(0, 1) @ self.of_numbers.weight.T
        of_items = self.items.vectors(self.of_item, items)
        candidates = of_numbers.view_as(of_items) + of_items + self.of_state(state)[:, None]
        return Encoded(state, torch.relu(candidates), request)

    def _taken(self, parts: RequestParts[Any]) -> Tensor:
        """[N, d + 1] sum of the vectors of what earlier slots took over the number of slots, and the share of slots filled."""
        filled = (parts.slate >= 0).float()
        items = self.items.indices(parts.items.gather(1, parts.slate.long().clamp(min=0)))
        taken = self.items.vectors(self.states.project, items) * filled[..., None]
        return torch.cat([taken.mean(dim=1), filled.mean(dim=1, keepdim=True)], dim=1)


class CandidateScorer(nn.Module):
    """Scores of each candidate: a learnt correction that begins at 0, upon a linear score of its numbers.

    Args:
        layout: of the rows.
        table: what is public of the items.
        config: sizes.
        outputs: numbers of each candidate.
        prior: name of a column of the layout and its weight before training, in units of its deviation within a request: the
            first output then begins as `weight` times the standardised column, so that candidates are ordered by it. All scores
            begin at 0 where None.

    Raises:
        ConfigurationError: if the layout has no such column.
    """

    def __init__(
        self,
        layout: RequestLayout,
        table: ItemTable,
        config: ScorerConfig = ScorerConfig(),
        *,
        outputs: int = 1,
        prior: tuple[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = RequestEncoder(layout, table, config)
        self.correction = nn.Linear(config.width, outputs)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        names = column_names(layout)
        weights = torch.zeros(outputs, len(names))
        if prior is not None:
            if prior[0] not in names:
                raise ConfigurationError(f"the layout has no column '{prior[0]}'; it has {', '.join(names)}.")
            weights[0, names.index(prior[0])] = prior[1]
        self.column_weights = nn.Parameter(weights)

    def forward(self, rows: Tensor) -> Tensor:
        """[N, C, outputs] scores of flat rows [N, W]; those of masked candidates mean nothing."""
        return self.of_encoded(self.encoder(self.encoder.read(rows)))

    def of_encoded(self, encoded: Encoded) -> Tensor:
        """[N, C, outputs], where the rows are encoded already."""
        return self.correction(encoded.candidates) + functional.linear(encoded.request.columns, self.column_weights)


class StateValue(nn.Module):
    """The worth of a request's state: of the user, the moment, and the mean and the best of what the candidates have to offer.

    It begins at 0. Its encoder is its own: a value's gradient would pull a shared one away from what the policy needs.
    """

    def __init__(self, layout: RequestLayout, table: ItemTable, config: ScorerConfig = ScorerConfig()) -> None:
        super().__init__()
        self.layout = layout
        self.states = StateEncoder(layout, Items(table), config)
        self.head = mlp((config.width + 2 * len(column_names(layout)), config.width, 1), last_gain=0.0)

    def forward(self, rows: Tensor) -> Tensor:
        """[N] values of flat rows [N, W]."""
        request = self.states.items.read(self.layout.parts(rows))
        state, _ = self.states(request.parts)
        return self.head(torch.cat([state, request.offer()], dim=1)).squeeze(1)


def leading_column(layout: RequestLayout) -> str:
    """The score that a policy is ordered by before training: that of the first ranker, of recall where there is none."""
    return layout.columns[2] if len(layout.columns) > 2 else layout.columns[0]


def offered(columns: Tensor, mask: Tensor) -> Tensor:
    """[N, 2 F] mean and best of the numbers [N, C, F] of what may be shown by `mask` [N, C]."""
    shown = mask[..., None]
    mean = (columns * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
    return torch.cat([mean, (columns * shown).amax(dim=1)], dim=1)


def column_names(layout: RequestLayout) -> list[str]:
    """Names of `Request.columns`."""
    return [*(name for name in layout.columns if name != "age"), *COLUMNS]


def standardised(columns: Tensor, mask: Tensor) -> Tensor:
    """Columns [N, C, F] less their mean over a request's unmasked candidates, over their deviation; 0 for masked ones and where
    all are equal."""
    shown = mask[..., None] > 0
    number = shown.sum(dim=1, keepdim=True).clamp(min=1)
    columns = columns.masked_fill(~shown, 0)
    centred = (columns - columns.sum(dim=1, keepdim=True) / number).masked_fill(~shown, 0)
    spread = ((centred**2).sum(dim=1, keepdim=True) / number).sqrt()
    return torch.where(spread > 1e-6, centred / spread.clamp(min=1e-6), 0)


def _context(parts: RequestParts[Any]) -> Tensor:
    """[N, NUM_CONTEXT]."""
    hour, weekday, place, day = parts.context.unbind(dim=1)
    known = parts.history >= 0
    last = torch.where(known[:, 0], parts.history_days[:, 0].clamp(min=0), 0)
    turns = [hour * (2 * np.pi / 24), weekday * (2 * np.pi / 7)]
    return torch.stack(
        [
            *(turn.sin() for turn in turns),
            *(turn.cos() for turn in turns),
            place.log1p() / 3,
            day / 30,
            known.float().mean(dim=1),
            last.log1p() / 4,
        ],
        dim=1,
    )
