"""Ordered slates drawn without replacement: the Plackett-Luce distribution over K of C candidates, for torch and for RLlib.

The top slot's item is drawn with a chance in proportion to exp(logit), that of each slot below likewise among what is left. So an
ordered slate a has the log-probability

    sum over slots k of  logit[a_k] - log sum of exp(logit[j]) over the candidates j that the slots above k left.

Masked candidates have the logit `MASKED`. Where fewer candidates are allowed than there are slots, the slate is served short: its
spare slots take masked candidates, which stay empty, and add nothing to the log-probability.

Source: Plackett (1975), The analysis of permutations; Yellott (1977), for drawing by Gumbel noise; Kool et al. (2019), Stochastic
beams and where to find them, for the top k of it.
"""

from typing import Any

import torch
from gymnasium.spaces import MultiDiscrete, Space
from ray.rllib.core.distribution.torch.torch_distribution import TorchDeterministic, TorchDistribution
from torch import Tensor

MASKED = -1e9
"""Logit of a candidate that may not be shown. It is finite, so that gradients are."""


def masked_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """[..., C] logits, `MASKED` where `mask` [..., C] is 0."""
    return logits.masked_fill(mask == 0, MASKED)


class PlackettLuce:
    """Ordered slates of K of C candidates for each of N requests.

    Args:
        logits: [N, C], `MASKED` for candidates that may not be shown.
        slots: K, at most C.

    Raises:
        ValueError: if there are more slots than candidates.
    """

    def __init__(self, logits: Tensor, slots: int) -> None:
        if slots > logits.shape[-1]:
            raise ValueError(f"{slots} slots are more than the {logits.shape[-1]} candidates.")
        self.logits, self.slots = logits, slots
        allowed = (logits > MASKED / 2).sum(dim=-1, keepdim=True)
        self._spare = torch.arange(slots, device=logits.device) >= allowed

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """[*sample_shape, N, K] slates: the K largest of logit plus Gumbel noise, largest first."""
        logits = self.logits.detach().expand(*sample_shape, *self.logits.shape)
        noise = -torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
        return (logits + noise).topk(self.slots).indices

    def mode(self) -> Tensor:
        """[N, K] likeliest slates: the largest logits, largest first."""
        return self.logits.topk(self.slots).indices

    def log_prob(self, slates: Tensor) -> Tensor:
        """[..., N] log-probability of `slates` [..., N, K], which hold distinct candidates but for spare slots.

        A masked candidate in a slot that an allowed one could have filled is next to impossible: about `MASKED`.
        """
        chosen, left, _ = self._along(slates)
        return torch.where(self._spare, 0.0, chosen - left).sum(dim=-1)

    def entropy(self) -> Tensor:
        """[N] an estimate of the entropy in nats from one slate that is drawn for it.

        By the chain rule the entropy of a slate is the mean over slates of the sum over slots of the entropy of drawing the slot's
        item from what is left; that of one slate has this mean. Its gradient is that of these entropies for the slate drawn.
        """
        chosen, left, rest = self._along(self.sample())
        # E of the logits of what is left: those of the rest, and of what this and the later slots take
        of_rest = (rest.softmax(dim=-1) * rest).sum(dim=-1, keepdim=True)
        share_of_rest = (rest.logsumexp(dim=-1, keepdim=True) - left).exp()
        later = torch.ones(self.slots, self.slots, dtype=torch.bool, device=rest.device).triu()
        gaps = (chosen[..., None, :] - left[..., :, None]).masked_fill(~later, MASKED)
        mean = share_of_rest * of_rest + (gaps.exp() * chosen[..., None, :]).sum(dim=-1)
        return torch.where(self._spare, 0.0, left - mean).sum(dim=-1)

    def _along(self, slates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits [..., N, K] of what the slots took; [..., N, K] log of the summed exp of what was left to each; logits
        [..., N, C], `MASKED` for what the slots took)."""
        logits = self.logits.expand(*slates.shape[:-1], self.logits.shape[-1])
        chosen = logits.gather(-1, slates)
        rest = logits.scatter(-1, slates, MASKED)
        # summed from the last slot up, so that nothing is lost to the difference of large sums
        from_below = torch.cat([rest.logsumexp(dim=-1, keepdim=True), chosen.flip(-1)], dim=-1)
        left = from_below.logcumsumexp(dim=-1)[..., 1:].flip(-1)
        return chosen, left, rest


class TorchPlackettLuce(TorchDistribution):
    """`PlackettLuce` as RLlib's learners take it; a module returns the class `TorchPlackettLuce.get_partial_dist_cls(slots=K)`."""

    def _get_torch_distribution(self, logits: Tensor, slots: int) -> Any:
        return PlackettLuce(logits, slots)

    @staticmethod
    def required_input_dim(space: Space[Any], **kwargs: Any) -> int:
        """C, candidates of a `MultiDiscrete` of K equal parts."""
        assert isinstance(space, MultiDiscrete)
        return int(space.nvec[0])

    def rsample(self, *, sample_shape: Any = (), return_logp: bool = False, **kwargs: Any) -> Any:
        """Slates are discrete, so draws have no gradient."""
        raise NotImplementedError("slates are discrete; sample() draws them.")

    def to_deterministic(self) -> TorchDeterministic:
        """The likeliest slate."""
        return TorchDeterministic(loc=self._dist.mode())
