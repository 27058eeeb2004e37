"""The torch side of the DIEN-like user model: its network over all events of a batch of users at once, and the auxiliary loss.

What is simulated is `envs.users.dien` in numpy; `DienNetwork` there has the same arrays under the same names.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from envs.users.augru import augru
from envs.users.dien import SHARPNESS, DienNetwork

_ALWAYS = 30.0
"""Bias of an attention that is always 1, to the last bit of a float."""
_LOG_FADING_AT_START = -0.7
"""Log of the rate, per day, at which states fade before the first step: half in about 1.4 days."""


class Network(nn.Module):
    """Weights that learn; each is the array of that name in `DienNetwork`."""

    def __init__(
        self, embedding_size: int, num_categories: int, size: int, facets: int, attentive: bool, dropout: float
    ) -> None:
        super().__init__()
        inputs = embedding_size + num_categories + 2

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape) - 1) / size**0.5)

        self.extractor_input = nn.Parameter((2 * torch.rand(inputs, 3 * size) - 1) / inputs**0.5)
        self.extractor_input_bias = uniform(3 * size)
        self.extractor_recurrent = uniform(size, 3 * size)
        self.extractor_recurrent_bias = uniform(3 * size)
        self.extractor_log_fading = nn.Parameter(torch.full((size,), _LOG_FADING_AT_START))
        self.directions = nn.Parameter(torch.randn(facets, embedding_size))
        self.attention = uniform(size, embedding_size)
        self.attention_bias = nn.Parameter(torch.zeros(facets))
        self.evolution_input = uniform(size, 3 * size)
        self.evolution_input_bias = uniform(3 * size)
        self.evolution_recurrent = uniform(size, 3 * size)
        self.evolution_recurrent_bias = uniform(3 * size)
        self.evolution_log_fading = nn.Parameter(torch.full((size,), _LOG_FADING_AT_START))
        self.output = nn.Parameter(0.1 * torch.randn(size, embedding_size))
        self.expected_next = uniform(size, embedding_size)  # of the auxiliary loss alone
        self.dropout = nn.Dropout(dropout)
        if not attentive:
            with torch.no_grad():
                self.attention.zero_()
                self.attention_bias.fill_(_ALWAYS)
            self.attention.requires_grad_(False)
            self.attention_bias.requires_grad_(False)

    @property
    def prototypes(self) -> Tensor:
        """q [K, d], of norm 1."""
        return functional.normalize(self.directions, dim=1)

    def forward(self, consumed: Tensor, categories: Tensor, days_away: Tensor) -> tuple[Tensor, Tensor]:
        """States of B users along T events.

        Args:
            consumed: [T, B, d] embeddings of the items consumed.
            categories: [T, B, G] categories of these.
            days_away: [T, B] days between visits before each event, 0 inside a visit.

        Returns:
            ([T, B, K, d] u O of each facet just before each event, [T, B, h] state of the extractor just after it).
        """
        away = days_away[..., None]
        features = torch.cat([self.dropout(consumed), categories, torch.log1p(away), (away > 0).float()], dim=-1)
        _, extracted = augru(
            features @ self.extractor_input + self.extractor_input_bias,
            torch.exp(-away * self.extractor_log_fading.exp()),
            self.extractor_recurrent,
            self.extractor_recurrent_bias,
            features.new_ones(*days_away.shape, 1),
        )
        read = self.dropout(extracted[:, :, 0])
        evolved, _ = augru(
            read @ self.evolution_input + self.evolution_input_bias,
            torch.exp(-away * self.evolution_log_fading.exp()),
            self.evolution_recurrent,
            self.evolution_recurrent_bias,
            torch.sigmoid(read @ (self.attention @ self.prototypes.T) + self.attention_bias),
        )
        return self.dropout(evolved) @ self.output, extracted[:, :, 0]

    def facet_vectors(self, embedding: Tensor) -> Tensor:
        """[I, K d] embedding of each item times its share in each facet."""
        shares = torch.softmax(SHARPNESS * functional.normalize(embedding, dim=1) @ self.prototypes.T, dim=1)
        return (shares[:, :, None] * embedding[:, None]).flatten(1)

    def auxiliary_loss(self, extracted: Tensor, following: Tensor, other: Tensor) -> Tensor:
        """Sum over events of how badly the extractor's state [E, h] tells the embedding of the next item [E, d] from that of
        another one [E, d].

        Source: Zhou et al. (2019), eq. 8, with an inner product after a linear map.
        """
        expected = extracted @ self.expected_next
        return (
            functional.softplus(-(expected * following).sum(dim=1)).sum()
            + functional.softplus((expected * other).sum(dim=1)).sum()
        )

    def exported(self, scale: float) -> DienNetwork:
        """The weights for embeddings that have been divided by `scale`."""
        size = len(self.prototypes.T)
        arrays = {
            name: getattr(self, name).detach().clone()
            for name in (
                "extractor_input",
                "extractor_input_bias",
                "extractor_recurrent",
                "extractor_recurrent_bias",
                "prototypes",
                "attention",
                "attention_bias",
                "evolution_input",
                "evolution_input_bias",
                "evolution_recurrent",
                "evolution_recurrent_bias",
                "output",
            )
        }
        arrays["extractor_input"][:size] *= scale
        arrays["output"] *= scale
        arrays["extractor_fading"] = self.extractor_log_fading.detach().exp()
        arrays["evolution_fading"] = self.evolution_log_fading.detach().exp()
        return DienNetwork(**{name: np.ascontiguousarray(tensor.numpy()) for name, tensor in arrays.items()})
