"""How users choose from a slate: a conditional logit with position weights and an outside option, learnt from clicks.

    P(slot k is clicked | s, slate) = exp(v(s, a_k) + w_k) / (exp(o(s)) + sum over slots j of exp(v(s, a_j) + w_j))

v is the attraction of an item in a request s, w_k the weight of slot k (w_0 = 0), o the logit of clicking nothing. All three are
learnt by the likelihood of clicks that were observed: nothing is read from the simulator, and a real log of slates and clicks would
do as well.

Source: Train (2009), Discrete Choice Methods with Simulation, eq. 3.6.
"""

import torch
from torch import Tensor, nn

from agents.request_layout import RequestLayout
from agents.rl.plackett_luce import MASKED, masked_logits
from agents.rl.scorer import CandidateScorer, ItemTable, Request, ScorerConfig


class ChoiceModel(nn.Module):
    """Attractions of candidates, weights of slots, and the logit of the outside option.

    Args:
        layout: of the rows.
        table: what is public of the items.
        config: sizes.
        slots: K.
        prior: see `CandidateScorer`; what attracts before anything is learnt.
    """

    def __init__(
        self,
        layout: RequestLayout,
        table: ItemTable,
        config: ScorerConfig,
        slots: int,
        prior: tuple[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.attraction = CandidateScorer(layout, table, config, prior=prior)
        self.below = nn.Parameter(torch.zeros(slots - 1))
        self.outside = nn.Linear(config.width, 1)
        nn.init.zeros_(self.outside.weight)
        nn.init.zeros_(self.outside.bias)

    @property
    def positions(self) -> Tensor:
        """[K] weights of the slots, in logits; 0 for the first."""
        return torch.cat([self.below.new_zeros(1), self.below])

    def read(self, rows: Tensor) -> Request:
        """Reads flat rows [N, W]."""
        return self.attraction.encoder.read(rows)

    def forward(self, request: Request) -> tuple[Tensor, Tensor]:
        """(attractions [N, C], `MASKED` for masked candidates; logits [N] of the outside option) of requests that were read."""
        encoded = self.attraction.encoder(request)
        attractions = masked_logits(self.attraction.of_encoded(encoded).squeeze(2), request.mask)
        return attractions, self.outside(encoded.state).squeeze(1)


def log_chances(shown: Tensor, outside: Tensor, positions: Tensor) -> Tensor:
    """[N, K + 1] logs of the chances that each slot is clicked, and in the last column that none is.

    Args:
        shown: [N, K] attractions of what the slots hold; `MASKED` where a slot stays empty, which is never clicked.
        outside: [N].
        positions: [K].
    """
    logits = torch.where(shown > MASKED / 2, shown + positions, MASKED)
    return torch.cat([logits, outside[:, None]], dim=1).log_softmax(dim=1)


def choice_loss(chances: Tensor, clicked_slot: Tensor) -> Tensor:
    """[N] negative log-likelihood of the slots [N] that were clicked, -1 for none, by `log_chances` [N, K + 1]."""
    column = torch.where(clicked_slot < 0, chances.shape[1] - 1, clicked_slot)
    return -chances.gather(1, column[:, None]).squeeze(1)
