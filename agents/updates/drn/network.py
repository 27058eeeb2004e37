"""The duelling Q-network of DRN, over flat rows: plain torch."""

from typing import Any

import torch
from torch import Tensor, nn

from agents.request_layout import RequestLayout
from agents.rl.networks import mlp
from agents.rl.scorer import CandidateScorer, ItemTable, Request, ScorerConfig, leading_column
from agents.updates.drn.options import DRNOptions


class DRNNetwork(nn.Module):
    """Q(s, a) = V(s) + A(s, a): V of the user and the moment, A of these and of the item and how it fits the user.

    It begins with V = 0 and A = `prior` times the first ranker's standardised score, so that candidates are ordered by it.

    Source: Zheng et al. (2018), DRN, section 4.3 and fig. 4; Wang et al. (2016), Dueling network architectures.
    """

    def __init__(self, layout: RequestLayout, table: ItemTable, options: DRNOptions) -> None:
        super().__init__()
        config = ScorerConfig(width=options.width, heads=options.heads)
        self.advantage = CandidateScorer(layout, table, config, prior=(leading_column(layout), options.prior))
        self.value = mlp((config.width, config.width, 1), last_gain=0.0)

    def read(self, rows: Tensor) -> Request:
        """Reads flat rows [N, W]."""
        return self.advantage.encoder.read(rows)

    def of(self, request: Request) -> Tensor:
        """[N, C] values of requests that were read, or of some of their candidates (`Request.at`)."""
        encoded = self.advantage.encoder(request)
        return self.value(encoded.state) + self.advantage.of_encoded(encoded).squeeze(2)

    def forward(self, rows: Tensor) -> Tensor:
        """[N, C] values of flat rows [N, W]; those of masked candidates mean nothing."""
        return self.of(self.read(rows))

    def ranking_weights(self) -> list[tuple[str, nn.Parameter]]:
        """Names and weights that have a say in how candidates are ranked: all but V's own."""
        return list(self.advantage.named_parameters())


def copied(network: DRNNetwork, other: DRNNetwork) -> Any:
    """Copies the weights of `network` into `other`, which is of the same shape, and returns it."""
    with torch.no_grad():
        for own, its in zip(network.parameters(), other.parameters(), strict=True):
            its.copy_(own)
    return other
