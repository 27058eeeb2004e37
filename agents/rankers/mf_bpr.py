"""Matrix factorisation trained by Bayesian personalised ranking: what was consumed before what was not."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from agents.rankers.base import RankerConfig
from agents.rankers.catalogue_ranker import CatalogueRanker
from agents.rankers.mf_pointwise import MFNetwork
from agents.rankers.network_inputs import Sizes
from agents.rankers.network_ranker import NetworkRankerConfig, TensorBatch
from agents.rankers.samples import SampleConfig
from agents.rankers.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class MFBPRConfig(NetworkRankerConfig):
    """How `MFBPR` is made."""

    samples: SampleConfig = field(default_factory=lambda: SampleConfig(avoid_later=True))
    """What is learnt: a user's vector knows no time, so an item to be consumed later should not be pushed down now."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=3e-3, embedding_decay=0.1))
    """How the vectors are trained."""
    width: int = 64
    """d: width of the vectors."""


class MFBPR(CatalogueRanker):
    """The scores of `MFPointwise`, trained by -log sigmoid(score of a liked item - score of another of the same request).

    Others are the items passed over in a slate, or items drawn at random. What a request's items have in common cancels, so
    scores are no logits of a click.

    Source: Rendle et al. (2009), BPR: Bayesian personalized ranking from implicit feedback, section 4.
    """

    name: ClassVar[str] = "mf_bpr"
    reads_history: ClassVar[bool] = False
    config_class: ClassVar[type[RankerConfig]] = MFBPRConfig

    def make_network(self, sizes: Sizes) -> nn.Module:
        """See `MFNetwork`."""
        return MFNetwork(sizes, self.config.width)

    def loss(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        """Weighted mean of -log sigmoid(difference) over the pairs of each request."""
        return pairwise_loss(network(batch.inputs), batch.labels, batch.weights)


def pairwise_loss(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean of -log sigmoid(s_i - s_j) over pairs of a liked item i and another item j of the same request [B, C].

    A pair weighs the product of its items' weights; the mean is over all pairs of the batch.
    """
    liked, other = labels * weights, (1 - labels) * weights
    difference = scores[:, :, None] - scores[:, None, :]
    pair = liked[:, :, None] * other[:, None, :]
    return (functional.softplus(-difference) * pair).sum() / pair.sum().clamp_min(1e-9)
