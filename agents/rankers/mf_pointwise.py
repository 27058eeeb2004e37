"""Matrix factorisation with biases, trained pair by pair by the logistic loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agents.rankers.base import RankerConfig
from agents.rankers.network_inputs import NUM_CONTEXT, NUM_ITEM_FEATURES, ItemVectors, Sizes, Tensors, UserVectors
from agents.rankers.network_ranker import NetworkRanker, NetworkRankerConfig


@dataclass(frozen=True, kw_only=True)
class MFPointwiseConfig(NetworkRankerConfig):
    """How `MFPointwise` is made."""

    width: int = 32
    """d: width of the vectors."""


class MFPointwise(NetworkRanker):
    """logit(u, i) = p_u . q_i + b_u + b_i + b, where p and q have parts for public attributes and categories; the biases also read
    context, age and popularity.

    Source: Koren, Bell and Volinsky (2009), Matrix factorization techniques for recommender systems, eq. 4, with attributes as
    in its section "Additional input sources" and a logistic loss.
    """

    name: ClassVar[str] = "mf_pointwise"
    reads_history: ClassVar[bool] = False
    config_class: ClassVar[type[RankerConfig]] = MFPointwiseConfig
    block_pairs: ClassVar[int | None] = 6_400

    def make_network(self, sizes: Sizes) -> nn.Module:
        """See the class."""
        return MFNetwork(sizes, self.config.width)


class MFNetwork(nn.Module):
    """Inner product of user and item vectors, whose first columns are their biases."""

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.user_vectors = UserVectors(sizes, width + 1)
        self.item_vectors = ItemVectors(sizes, width + 1)
        self.context = nn.Linear(NUM_CONTEXT, 1)
        self.features = nn.Linear(NUM_ITEM_FEATURES, 1, bias=False)

    def forward(self, inputs: Tensors) -> Tensor:
        """[N, C] logits."""
        user = self.user_vectors(inputs.user, inputs.user_features)
        item = self.item_vectors(inputs.items)
        # the first column of the item is its bias, that of the user stands alone
        crossed = torch.cat([torch.ones_like(user[:, :1]), user[:, 1:]], dim=1)
        product = torch.bmm(item, crossed.unsqueeze(2)).squeeze(2)
        per_user = user[:, :1] + self.context(inputs.context)
        return product + per_user + self.features(inputs.item_features).squeeze(-1)
