"""Deep interest evolution network: a GRU extracts interests from the history, a second one with attentional update gates follows
how the interest in the scored item evolved."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.rankers.base import RankerConfig
from agents.rankers.din import NUM_TIMES, Head, history_times
from agents.rankers.network_inputs import ItemVectors, Sizes, Tensors, UserVectors
from agents.rankers.network_ranker import NetworkRanker, NetworkRankerConfig, TensorBatch, logistic_loss
from agents.rankers.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class DIENConfig(NetworkRankerConfig):
    """How `DIEN` is made."""

    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(patience=3))
    """How the network is trained."""
    width: int = 32
    """d: width of vectors and states."""
    hidden: tuple[int, ...] = (64, 32)
    """Hidden units of the network over all features."""
    dropout: float = 0.2
    """Share of hidden units dropped in training."""
    auxiliary_weight: float = 0.5
    """alpha: weight of the auxiliary loss; 0 leaves it out."""
    attentive: bool = True
    """Whether attention scales the update gates of the second GRU; without, its last state is the same for all items."""


class DIEN(NetworkRanker):
    """Extractor states h_t = GRU(consumed items, oldest first) are taught by the auxiliary loss to tell the next consumed item
    from a random one. Attention a_t = softmax(h_t W q) of the scored item q scales the update gates of the second GRU (AUGRU).
    Its last state is the interest that goes, with user, item, context, age and popularity, through hidden layers.

    Source: Zhou et al. (2019), Deep interest evolution network for click-through rate prediction, arXiv 1809.03672: eq. 2 to 5
    extractor, 6 and 7 auxiliary loss, 9 attention, 14 to 16 AUGRU.
    """

    name: ClassVar[str] = "dien"
    config_class: ClassVar[type[RankerConfig]] = DIENConfig

    def make_network(self, sizes: Sizes) -> "DIENNetwork":
        """See the class."""
        return DIENNetwork(sizes, self.config)

    def loss(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        """Logistic loss of the pairs, plus the weighted auxiliary loss of the histories."""
        assert isinstance(network, DIENNetwork)
        past = network.past(batch.inputs)
        total = logistic_loss(network.logits(past, batch.inputs), batch.labels, batch.weights)
        if self.config.auxiliary_weight:
            total = total + self.config.auxiliary_weight * network.auxiliary_loss(past)
        return total


@dataclass(frozen=True)
class Past:
    """N histories, oldest item first, behind the last one padding."""

    vectors: Tensor
    """[N, T, d] vectors of the consumed items, with their times."""
    present: Tensor
    """[N, T] bool."""
    states: Tensor
    """[N, T, d] of the extractor after each."""


class DIENNetwork(nn.Module):
    """See `DIEN`."""

    def __init__(self, sizes: Sizes, config: DIENConfig) -> None:
        super().__init__()
        width = config.width
        self.user_vectors = UserVectors(sizes, width)
        self.item_vectors = ItemVectors(sizes, width)
        self.times = nn.Linear(NUM_TIMES, width)
        self.extractor = nn.GRU(width, width, batch_first=True)
        self.predictor = nn.Linear(width, width)
        self.attention = nn.Linear(width, width, bias=False)
        self.evolution = AUGRU(width, width)
        self.head = Head(width, config.hidden, config.dropout)
        self.attentive = config.attentive

    def forward(self, inputs: Tensors) -> Tensor:
        """[N, C] logits."""
        return self.logits(self.past(inputs), inputs)

    def past(self, inputs: Tensors) -> Past:
        """The histories and what the extractor makes of them."""
        length = inputs.history_mask.sum(dim=1, keepdim=True)
        place = torch.arange(inputs.history.shape[1])
        present = place < length
        oldest_first = (length - 1 - place).clamp_min(0)
        vectors = self.item_vectors(inputs.history) + self.times(history_times(inputs))
        vectors = vectors.gather(1, oldest_first.unsqueeze(-1).expand_as(vectors)) * present.unsqueeze(-1)
        return Past(vectors, present, self.extractor(vectors)[0])

    def logits(self, past: Past, inputs: Tensors) -> Tensor:
        """[N, C] logits of the items, given the histories."""
        items = self.item_vectors(inputs.items)
        if self.attentive:
            attention = torch.bmm(self.attention(items), past.states.transpose(1, 2))
            attention = attention.masked_fill(~past.present.unsqueeze(1), -1e9).softmax(dim=2)
            attention = attention * past.present.unsqueeze(1)
            interest = self.evolution(past.states, attention)
        else:
            interest = self.evolution(past.states, past.present.unsqueeze(1).float()).expand_as(items)
        return self.head(self.user_vectors(inputs.user, inputs.user_features), items, interest, inputs)

    def auxiliary_loss(self, past: Past) -> Tensor:
        """Mean logistic loss of telling the item consumed next (1) from that of another place in the batch (0) by the extractor's
        states; 0 without histories of two items."""
        states, after, both = self.predictor(past.states[:, :-1]), past.vectors[:, 1:], past.present[:, 1:]
        states, after = states[both], after[both]
        if not len(states):
            return past.states.sum() * 0
        other = after[torch.randint(len(after), (len(after),))]
        right, wrong = (states * after).sum(dim=1), (states * other).sum(dim=1)
        return (functional.softplus(-right) + functional.softplus(wrong)).mean() / 2


class AUGRU(nn.Module):
    """A GRU from a state of zeros, whose update gates are scaled by attention, for many attentions over the same inputs:

    r, z = sigmoid(W x + U h + b);  c = tanh(W x + r * (U h + b'));  h <- h + a z (c - h).

    Source: Zhou et al. (2019), eq. 14 to 16, in the form of torch.nn.GRU (whose (1 - z) is z here).
    """

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(input_width, 3 * width)
        self.of_state = nn.Linear(width, 3 * width)
        self.width = width

    def forward(self, inputs: Tensor, attention: Tensor) -> Tensor:
        """[N, C, h] last states of inputs [N, T, d] under attention [N, C, T]; an attention of 0 leaves the state as it is."""
        # taken apart at once, since a slice at each step would cost a gradient of full size each
        given = self.of_input(inputs).unsqueeze(2).unbind(1)
        state = inputs.new_zeros(*attention.shape[:2], self.width)
        for now, scale in zip(given, attention.unsqueeze(3).unbind(2), strict=True):
            now_gates, now_candidate = now.split([2 * self.width, self.width], dim=-1)
            own_gates, own_candidate = self.of_state(state).split([2 * self.width, self.width], dim=-1)
            reset, update = torch.sigmoid(now_gates + own_gates).chunk(2, dim=-1)
            candidate = torch.tanh(torch.addcmul(now_candidate, reset, own_candidate))
            state = torch.lerp(state, candidate, update * scale)
        return state
