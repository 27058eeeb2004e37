"""Deep interest network: a user's interest is a sum over the history, weighed anew for each item that is scored."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.rankers.base import RankerConfig
from agents.rankers.network_inputs import NUM_CONTEXT, NUM_ITEM_FEATURES, ItemVectors, Sizes, Tensors, UserVectors
from agents.rankers.network_ranker import NetworkRanker, NetworkRankerConfig
from agents.rankers.training import TrainingConfig

NUM_TIMES = 3
"""Numbers that tell when an item of the history was consumed: log(1 + days) / 4, exp(-days), 1 / (1 + place)."""


@dataclass(frozen=True, kw_only=True)
class DINConfig(NetworkRankerConfig):
    """How `DIN` is made."""

    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(patience=3))
    """How the network is trained."""
    width: int = 32
    """d: width of the vectors."""
    attention_width: int = 32
    """A: hidden units of the attention."""
    hidden: tuple[int, ...] = (64, 32)
    """Hidden units of the network over all features."""
    dropout: float = 0.2
    """Share of hidden units dropped in training."""


class DIN(NetworkRanker):
    """The history is weighed by its activation by the item: a small network over item, consumed item and their product, whose
    weights are not normalised, so that their sum tells how strong an interest is. Pooled interest, user, item, context, age
    and popularity go through a network of hidden layers.

    Source: Zhou et al. (2018), Deep interest network for click-through rate prediction, eq. 3; times of the history enter as in
    Zhou et al. (2019) its order does, here as features.
    """

    name: ClassVar[str] = "din"
    config_class: ClassVar[type[RankerConfig]] = DINConfig

    def make_network(self, sizes: Sizes) -> nn.Module:
        """See the class."""
        return DINNetwork(sizes, self.config)


class DINNetwork(nn.Module):
    """See `DIN`."""

    def __init__(self, sizes: Sizes, config: DINConfig) -> None:
        super().__init__()
        self.user_vectors = UserVectors(sizes, config.width)
        self.item_vectors = ItemVectors(sizes, config.width)
        self.times = nn.Linear(NUM_TIMES, config.width)
        self.activation = Activation(config.width, config.attention_width)
        self.head = Head(config.width, config.hidden, config.dropout)

    def forward(self, inputs: Tensors) -> Tensor:
        """[N, C] logits."""
        items = self.item_vectors(inputs.items)
        history = self.item_vectors(inputs.history) + self.times(history_times(inputs))
        history = history * inputs.history_mask.unsqueeze(-1)
        weights = self.activation(items, history) * inputs.history_mask.unsqueeze(1)
        interest = torch.bmm(weights, history)
        user = self.user_vectors(inputs.user, inputs.user_features)
        return self.head(user, items, interest, inputs)


class Activation(nn.Module):
    """Weights of a history for each item: w . relu(A q + B k + C (q * k) + b) + c, over the root of the history's length.

    For many items the products with a consumed item k are folded into one matrix, (A + C diag(k)) q, so that a request costs one
    batched product; for few items that matrix would cost more than it saves.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.of_item = nn.Linear(width, hidden, bias=False)
        self.of_history = nn.Linear(width, hidden)
        self.of_product = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def forward(self, items: Tensor, history: Tensor) -> Tensor:
        """[N, C, H] weights of history vectors [N, H, d] for item vectors [N, C, d]."""
        folds = items.shape[1] > self.out.in_features
        weights = self.folded(items, history) if folds else self.plain(items, history)
        return weights / history.shape[1] ** 0.5

    def plain(self, items: Tensor, history: Tensor) -> Tensor:
        """The weights before scaling, product by product."""
        product = self.of_product(items.unsqueeze(2) * history.unsqueeze(1))
        hidden = product + self.of_item(items).unsqueeze(2) + self.of_history(history).unsqueeze(1)
        return self.out(functional.relu(hidden)).squeeze(-1)

    def folded(self, items: Tensor, history: Tensor) -> Tensor:
        """The weights before scaling, with the products folded into matrices."""
        requests, length, width = history.shape
        matrices = history.unsqueeze(-1) * self.of_product.weight.T + self.of_item.weight.T
        matrices = matrices.transpose(1, 2).reshape(requests, width, -1)
        offsets = self.of_history(history).reshape(requests, 1, -1)
        hidden = torch.baddbmm(offsets, items, matrices).relu_()
        return self.out(hidden.view(requests, items.shape[1], length, -1)).squeeze(-1)


class Head(nn.Module):
    """Logits from user, item, interest (and its product with the item), item features and context, by hidden layers; what is the
    same for all items of a request goes through the first layer once.."""

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.per_request = nn.Linear(width + NUM_CONTEXT, hidden[0])
        self.per_item = nn.Linear(4 * width + NUM_ITEM_FEATURES, hidden[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(hidden, (*hidden[1:], 1), strict=True))
        self.dropout = nn.Dropout(dropout)

    def forward(self, user: Tensor, items: Tensor, interest: Tensor, inputs: Tensors) -> Tensor:
        """[N, C] logits of user vectors [N, d], item vectors [N, C, d] and interests [N, C, d]."""
        request = self.per_request(torch.cat([user, inputs.context], dim=1)).unsqueeze(1)
        crossed = [items, interest, interest * items, user.unsqueeze(1) * items, inputs.item_features]
        hidden = self.per_item(torch.cat(crossed, dim=2)) + request
        for layer in self.layers:
            hidden = layer(self.dropout(functional.relu(hidden)))
        return hidden.squeeze(-1)


def history_times(inputs: Tensors) -> Tensor:
    """[N, H, `NUM_TIMES`] when each item of the history was consumed."""
    days = inputs.history_days
    place = torch.arange(days.shape[1], dtype=torch.float32).expand_as(days)
    return torch.stack([torch.log1p(days) / 4, torch.exp(-days), 1 / (1 + place)], dim=2)
