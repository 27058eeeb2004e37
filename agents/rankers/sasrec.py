"""SASRec: self-attention over the history."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.rankers.base import RankerConfig
from agents.rankers.network_inputs import Sizes
from agents.rankers.sequence_ranker import SequenceNetwork, SequenceRanker, SequenceRankerConfig
from envs.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(SequenceRankerConfig):
    """How `SASRec` is made."""

    blocks: int = 2
    """Blocks of attention and feed-forward layers."""
    heads: int = 2
    """Heads of attention; they share the width."""
    dropout: float = 0.3
    """Share that is lost in training of vectors, of attention and of each layer's output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1 or self.width % self.heads:
            raise ConfigurationError(f"heads is {self.heads}; it must divide width, which is {self.width}.")


class SASRec(SequenceRanker):
    """state = blocks of causal self-attention over q of the items consumed plus a vector of each place, logits by the inner product
    with items' vectors.

    Source: Kang and McAuley (2018), Self-attentive sequential recommendation, eq. 1 to 6.
    """

    name: ClassVar[str] = "sasrec"
    config_class: ClassVar[type[RankerConfig]] = SASRecConfig

    def make_network(self, sizes: Sizes) -> SequenceNetwork:
        """See the class."""
        return SASRecNetwork(sizes, self.config)


class SASRecNetwork(SequenceNetwork):
    """See `SASRec`."""

    def __init__(self, sizes: Sizes, config: SASRecConfig) -> None:
        super().__init__(sizes, config.width)
        self.places = nn.Embedding(config.samples.history_size + 1, config.width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config.width, config.heads, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def states(self, items: Tensor) -> Tensor:
        """[B, L, d]."""
        read = self.dropout(
            self.vectors(items)[0] * self.norm.normalized_shape[0] ** 0.5 + self.places(torch.arange(items.shape[1]))
        )
        for block in self.blocks:
            read = block(read)
        return self.norm(read)


class _Block(nn.Module):
    """Causal attention and a feed-forward layer, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.share = heads, dropout
        self.attention_norm, self.layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layer = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, read: Tensor) -> Tensor:
        """[B, L, d]."""
        rows, length, width = read.shape
        parts = self.project(self.attention_norm(read)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        share = self.share if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
        read = read + self.dropout(self.out(seen.transpose(1, 2).reshape(rows, length, width)))
        return read + self.dropout(self.layer(self.layer_norm(read)))
