"""Neural matrix factorisation: a weighted inner product beside a network of layers."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from agents.rankers.base import RankerConfig
from agents.rankers.catalogue_ranker import CatalogueRanker
from agents.rankers.network_inputs import NUM_CONTEXT, NUM_ITEM_FEATURES, ItemVectors, Sizes, Tensors, UserVectors
from agents.rankers.network_ranker import NetworkRankerConfig
from agents.rankers.samples import SampleConfig
from agents.rankers.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class NeuMFConfig(NetworkRankerConfig):
    """How `NeuMF` is made."""

    samples: SampleConfig = field(default_factory=lambda: SampleConfig(avoid_later=True, negatives=2))
    """What is learnt: a user's vector knows no time, so an item to be consumed later should not be pushed down now."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(learning_rate=3e-3, embedding_decay=0.1, patience=4)
    )
    """How the network is trained."""
    width: int = 64
    """d: width of the vectors of either part."""
    layers: tuple[int, ...] = (128, 64)
    """Widths of the network's layers."""
    dropout: float = 0.1
    """Share of its inputs that a layer loses in training."""


class NeuMF(CatalogueRanker):
    """logit(u, i) = h . [p_u * q_i, MLP(p'_u, q'_i, context, age and popularity)] + b_i, trained pair by pair by the logistic loss.

    Vectors have parts for public attributes and categories; the two parts of the model share none, and are trained
    together from the start, as in the paper without its pre-training.
    Source: He et al. (2017), Neural collaborative filtering, eq. 9 to 12.
    """

    name: ClassVar[str] = "neumf"
    reads_history: ClassVar[bool] = False
    config_class: ClassVar[type[RankerConfig]] = NeuMFConfig

    def make_network(self, sizes: Sizes) -> nn.Module:
        """See the class."""
        return NeuMFNetwork(sizes, self.config.width, self.config.layers, self.config.dropout)


class NeuMFNetwork(nn.Module):
    """See `NeuMF`."""

    def __init__(self, sizes: Sizes, width: int, layers: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.product_users, self.layer_users = (UserVectors(sizes, width, hide=0) for _ in range(2))
        self.product_items, self.layer_items = (ItemVectors(sizes, width, hide=0) for _ in range(2))
        widths = (2 * width + NUM_CONTEXT + NUM_ITEM_FEATURES, *layers)
        self.layers = nn.Sequential(
            *(part for w, v in pairwise(widths) for part in (nn.Dropout(dropout), nn.Linear(w, v), nn.ReLU()))
        )
        self.out = nn.Linear(width + widths[-1], 1)

    def forward(self, inputs: Tensors) -> Tensor:
        """[N, C] logits."""
        rows, columns = inputs.items.shape
        product = self.product_users(inputs.user, inputs.user_features)[:, None] * self.product_items(inputs.items)
        user = torch.cat([self.layer_users(inputs.user, inputs.user_features), inputs.context], dim=1)
        pair = (user[:, None].expand(rows, columns, -1), self.layer_items(inputs.items), inputs.item_features)
        return self.out(torch.cat([product, self.layers(torch.cat(pair, dim=2))], dim=2)).squeeze(-1)
