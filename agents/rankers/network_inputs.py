"""What networks read: a ranking input as tensors, and the encoder of users, items and context that rankers share."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.rankers.ranking_input import RankingInput

NUM_CONTEXT = 10
"""Context features: hour as sine and cosine, weekday one-hot, log(1 + requests so far in the visit)."""
NUM_ITEM_FEATURES = 3
"""Numeric item features: log of the relative count, log(1 + age) / 8, exp(-age / 30 days)."""
_FRESH_DAYS = 30


@dataclass(frozen=True)
class Tensors:
    """N requests with C items each, as tensors. Indices are clipped into the catalogue; masks tell what is there."""

    user: Tensor
    """[N] int64 index of the user, U for a stranger."""
    user_features: Tensor
    """[N, Fu]."""
    history: Tensor
    """[N, H] int64 items, newest first; 0 where there is none."""
    history_mask: Tensor
    """[N, H] bool, whether there is one."""
    history_days: Tensor
    """[N, H]."""
    context: Tensor
    """[N, `NUM_CONTEXT`]."""
    items: Tensor
    """[N, C] int64; 0 where there is none."""
    item_mask: Tensor
    """[N, C] bool."""
    item_features: Tensor
    """[N, C, `NUM_ITEM_FEATURES`]."""

    @classmethod
    def of(cls, inputs: RankingInput, known_users: NDArray[np.bool_], history_size: int) -> Self:
        """Tensors of an input whose counts are filled in, which share nothing with it, as it may be read-only; the history is cut
        or padded to `history_size`."""
        users = len(known_users)
        user = np.where((inputs.user >= 0) & (inputs.user < users), inputs.user, users)
        user = np.where(np.append(known_users, False)[user], user, users)
        history = inputs.history[:, :history_size].astype(np.int64)
        days = inputs.history_days[:, :history_size]
        missing = history_size - history.shape[1]
        if missing > 0:
            history = np.pad(history, ((0, 0), (0, missing)), constant_values=-1)
            days = np.pad(days, ((0, 0), (0, missing)))
        assert inputs.counts is not None
        present = inputs.items >= 0
        features = np.empty((*present.shape, NUM_ITEM_FEATURES), np.float32)
        ages = np.maximum(inputs.ages, 0).astype(np.float32, copy=False)
        np.log(np.maximum(inputs.counts, 1e-6), out=features[:, :, 0], casting="same_kind")
        np.multiply(np.log1p(ages), np.float32(1 / 8), out=features[:, :, 1])
        np.exp(ages * np.float32(-1 / _FRESH_DAYS), out=features[:, :, 2])
        features[~present] = 0
        return cls(
            user=torch.from_numpy(user),
            user_features=torch.from_numpy(np.array(inputs.user_features, np.float32)),
            history=torch.from_numpy(np.maximum(history, 0)),
            history_mask=torch.from_numpy(history >= 0),
            history_days=torch.from_numpy(np.array(days, np.float32)),
            context=torch.from_numpy(context_features(inputs.context)),
            items=torch.from_numpy(np.maximum(inputs.items, 0).astype(np.int64)),
            item_mask=torch.from_numpy(present),
            item_features=torch.from_numpy(features),
        )


def context_features(context: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, `NUM_CONTEXT`] features of a context [N, 4]."""
    turn = context[:, 0] * (2 * np.pi / 24)
    weekday = context[:, 1].astype(np.int64) % 7
    return np.column_stack([np.sin(turn), np.cos(turn), np.eye(7)[weekday], np.log1p(context[:, 2])]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a network has to know of log and catalogue."""

    num_users: int
    num_user_features: int
    categories: NDArray[np.float32]
    """[I, G]."""
    known_items: NDArray[np.bool_]
    """[I] items with rows in what is learnt from; the others have no vector of their own."""


class ItemVectors(nn.Module):
    """Vectors of items: one of the item's own plus that of its categories. An unknown item has only the latter, and in training
    some known ones are taken for unknown, so that the categories learn to stand alone.

    In evaluation mode vectors are read from a table that `prepare` makes.
    """

    categories: Tensor
    known: Tensor
    _table: Tensor | None

    def __init__(self, sizes: Sizes, width: int, hide: float = 0.1, spread: float = 0.1) -> None:
        super().__init__()
        self.own = nn.Embedding(len(sizes.categories), width)
        nn.init.normal_(self.own.weight, std=spread)
        self.of_categories = nn.Linear(sizes.categories.shape[1], width, bias=False)
        nn.init.normal_(self.of_categories.weight, std=spread)
        self.register_buffer("categories", torch.from_numpy(sizes.categories), persistent=False)
        self.register_buffer("known", torch.from_numpy(sizes.known_items.astype(np.float32)[:, None]), persistent=False)
        self.hide = hide
        self._table = None

    def forward(self, items: Tensor) -> Tensor:
        """[..., width] vectors of `items` [...]."""
        if not self.training and self._table is not None:
            return self._table[items]
        own = self.own(items) * self.known[items]
        if self.training and self.hide:
            own = own * (torch.rand(items.shape) >= self.hide).unsqueeze(-1)
        return own + self.of_categories(self.categories[items])

    def prepare(self, known_items: NDArray[np.bool_]) -> None:
        """Makes the table of evaluation mode [I, width], with these items known [I]."""
        self.known = torch.from_numpy(known_items.astype(np.float32)[:, None])
        with torch.no_grad():
            self._table = self.own.weight * self.known + self.of_categories(self.categories)


class UserVectors(nn.Module):
    """Vectors of users: one of the user's own plus that of the public attributes. A stranger has only the latter, and in training
    some are taken for strangers."""

    def __init__(self, sizes: Sizes, width: int, hide: float = 0.1, spread: float = 0.1) -> None:
        super().__init__()
        self.own = nn.Embedding(sizes.num_users, width)
        nn.init.normal_(self.own.weight, std=spread)
        self.of_features = nn.Linear(sizes.num_user_features, width, bias=False)
        nn.init.normal_(self.of_features.weight, std=spread)
        self.hide = hide

    def forward(self, user: Tensor, user_features: Tensor) -> Tensor:
        """[N, width] vectors of `user` [N], U for a stranger, with attributes [N, Fu]."""
        known = user < self.own.num_embeddings
        if self.training and self.hide:
            known = known & (torch.rand(user.shape) >= self.hide)
        own = self.own(user.clamp(max=self.own.num_embeddings - 1)) * known.unsqueeze(-1)
        return own + self.of_features(user_features)
