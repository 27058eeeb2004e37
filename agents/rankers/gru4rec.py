"""GRU4Rec: a recurrent network reads the history, item by item."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from agents.rankers.base import RankerConfig
from agents.rankers.network_inputs import Sizes
from agents.rankers.sequence_ranker import SequenceNetwork, SequenceRanker, SequenceRankerConfig


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(SequenceRankerConfig):
    """How `GRU4Rec` is made."""

    hidden: int = 128
    """Width of the recurrent state."""
    dropout: float = 0.3
    """Share of the items' vectors that is lost in training."""


class GRU4Rec(SequenceRanker):
    """state = W GRU(q of the items consumed), logits by the inner product with items' vectors.

    Source: Hidasi et al. (2016), Session-based recommendations with recurrent neural networks, with items' vectors shared
    between input and output.
    """

    name: ClassVar[str] = "gru4rec"
    config_class: ClassVar[type[RankerConfig]] = GRU4RecConfig

    def make_network(self, sizes: Sizes) -> SequenceNetwork:
        """See the class."""
        return GRU4RecNetwork(sizes, self.config)


class GRU4RecNetwork(SequenceNetwork):
    """See `GRU4Rec`."""

    def __init__(self, sizes: Sizes, config: GRU4RecConfig) -> None:
        super().__init__(sizes, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.width, config.hidden, batch_first=True)
        self.out = nn.Linear(config.hidden, config.width)

    def states(self, items: Tensor) -> Tensor:
        """[B, L, d]."""
        read, _ = self.gru(self.dropout(self.vectors(items)[0]))
        return self.out(read)
