"""The torch side of a fit with exposures: interests before each request, and the likelihood of what was taken from slates.

The same states as in `InterestModel`, all requests of a batch of users at once, differentiable.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.users.exposures import Requests
from envs.users.training import Scalars


@dataclass(frozen=True, kw_only=True)
class RequestBatch:
    """R requests of B users, and the items that these consumed before, padded to T."""

    users: Tensor
    """[B] users."""
    item: Tensor
    """[B, T] items consumed."""
    pause_days: Tensor
    """[B, T] days spent between visits since the item before."""
    request: NDArray[np.int64]
    """[R] number of the request, ascending in each user."""
    row: Tensor
    """[R] its user's row in the batch."""
    consumed: Tensor
    """[R] items consumed before."""
    idle_days: Tensor
    """[R] days spent between visits since the last of them."""
    slate: NDArray[np.int64]
    """[R, K] items shown, 0 in an empty slot."""
    empty: NDArray[np.bool_]
    """[R, K] whether the slot was empty."""
    chosen: NDArray[np.int64]
    """[R] slot clicked, K for none."""

    @classmethod
    def of(cls, requests: Requests, users: NDArray[np.int64], high: NDArray[np.int64]) -> "RequestBatch":
        """The first `high[user]` requests of `users` [B]."""
        count = high[users]
        row = np.repeat(np.arange(len(users)), count)
        request = np.arange(count.sum()) + np.repeat(requests.starts[users] - np.cumsum(count) + count, count)
        consumed = requests.consumed[request]
        place = np.arange(int(consumed.max(initial=0)))
        exists = place < np.diff(requests.item_starts)[users, None]
        event = np.where(exists, requests.item_starts[users, None] + place, 0)
        slate = requests.slate[request].astype(np.int64)
        return cls(
            users=torch.from_numpy(users),
            item=torch.from_numpy(np.where(exists, np.append(requests.item, 0)[event], 0)),
            pause_days=torch.from_numpy(np.where(exists, np.append(requests.pause_days, np.float32(0))[event], 0)),
            request=request,
            row=torch.from_numpy(row),
            consumed=torch.from_numpy(consumed),
            idle_days=torch.from_numpy(requests.idle_days[request]),
            slate=np.maximum(slate, 0),
            empty=slate < 0,
            chosen=requests.chosen[request],
        )

    def __len__(self) -> int:
        return len(self.request)

    def of_items(self, weights: NDArray[np.floating], num_items: int) -> csr_array:
        """[R, I] sparse: `weights` [R, K] at the items shown."""
        ends = np.arange(0, self.slate.size + 1, self.slate.shape[1])
        return csr_array((weights.ravel(), self.slate.ravel(), ends), shape=(len(self), num_items))

    def fade(self, scalars: Scalars) -> Tensor:
        """[R] share of a user's first long-term interest that is left."""
        return torch.exp(self.consumed * scalars.log_long_keep)


def interests(
    batch: RequestBatch, scalars: Scalars, embedding: Tensor, categories: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """([R, d] interest kappa p + alpha s in logits, [R, G] satiation) before each request of the batch.

    Args:
        batch: the requests.
        scalars: the model's scalars.
        embedding: [I, d] v.
        categories: [I, G] m.
        start: [B, d] long-term interest before the first event.
    """
    size, groups = embedding.shape[1], categories.shape[1]
    half = float(np.log(2.0))
    consumed = embedding[batch.item]
    short_gain, long_gain = -torch.expm1(scalars.log_short_keep), -torch.expm1(scalars.log_long_keep)
    inputs = torch.cat([short_gain * consumed, long_gain * consumed, categories[batch.item]], dim=2)
    days = batch.pause_days[:, :, None]
    kept = torch.cat(
        [
            torch.exp(scalars.log_short_keep - days * half / scalars.short_half_life).expand(-1, -1, size),
            scalars.log_long_keep.exp().expand(*batch.item.shape, size),
            torch.exp(scalars.log_satiation_keep - days * half / scalars.satiation_half_life).expand(-1, -1, groups),
        ],
        dim=2,
    )
    state = inputs.new_zeros(len(batch.users), 2 * size + groups)
    states = [state]
    for arriving, keep in zip(inputs.unbind(1), kept.unbind(1), strict=True):
        state = torch.addcmul(arriving, state, keep)
        states.append(state)
    before = torch.stack(states, dim=1)[batch.row, batch.consumed]
    idle = batch.idle_days[:, None]
    short = before[:, :size] * torch.exp(-idle * half / scalars.short_half_life)
    long = before[:, size : 2 * size] + start[batch.row] * batch.fade(scalars)[:, None]
    satiation = before[:, 2 * size :] * torch.exp(-idle * half / scalars.satiation_half_life)
    return scalars.long_weight * long + scalars.short_weight * short, satiation


class SlateLoss(torch.autograd.Function):
    """Negative log-likelihood of what was taken from slates, summed, and [R, K] chance of each slot.

    A multinomial logit over the items shown and the outside option. Source: Train (2009), Discrete Choice Methods with
    Simulation, eq. 3.6. The gradient is formed in the forward pass, with sparse products over the items shown.
    """

    @staticmethod
    def forward(
        ctx: Any, preference: Tensor, vectors: Tensor, bias: Tensor, extra: Tensor, outside: Tensor, batch: RequestBatch
    ) -> tuple[Tensor, Tensor]:
        """Args: preference [R, D], vectors [I, D], bias [I], extra [R, K] logits of slots, outside [], the batch."""
        user, item = preference.detach().numpy(), vectors.detach().numpy()
        logit = np.empty((len(batch), batch.slate.shape[1] + 1), np.float32)
        logit[:, :-1] = np.matmul(item[batch.slate], user[:, :, None])[:, :, 0]
        logit[:, :-1] += bias.detach().numpy()[batch.slate]
        logit[:, :-1] += extra.detach().numpy()
        logit[:, :-1][batch.empty] = -np.inf
        logit[:, -1] = outside.item()
        logit -= logit.max(axis=1, keepdims=True)
        share = np.exp(logit)
        total = share.sum(axis=1, keepdims=True)
        share /= total
        rows = np.arange(len(batch))
        loss = (np.log(total[:, 0]) - logit[rows, batch.chosen]).sum(dtype=np.float64)
        residual = share.copy()
        residual[rows, batch.chosen] -= 1
        shown = np.ascontiguousarray(residual[:, :-1])
        of_items = batch.of_items(shown, len(item))
        ctx.save_for_backward(
            torch.from_numpy(of_items @ item),
            torch.from_numpy(of_items.T @ user),
            torch.from_numpy(np.bincount(batch.slate.ravel(), shown.ravel(), len(item)).astype(np.float32)),
            torch.from_numpy(shown),
            torch.tensor(residual[:, -1].sum()),
        )
        shares = torch.from_numpy(np.ascontiguousarray(share[:, :-1]))
        ctx.mark_non_differentiable(shares)
        return torch.tensor(loss, dtype=torch.float32), shares

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Scales the gradients formed in `forward`."""
        return *(grads[0] * part for part in ctx.saved_tensors), None
