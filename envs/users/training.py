"""The torch side of the fit: the softmax over the catalogue and the evolution of interests, both differentiable.

What is simulated is `InterestModel` in numpy; the functions here compute the same, all events of a batch of users at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from envs.users.likelihood import EventSplit
from envs.users.threads import in_two_threads

_CELLS = 2**20
"""Utilities held at once: chunks are as many events as make about so many."""
_NEVER = 1e30


class CatalogueLoss(torch.autograd.Function):
    """Sum over events of the negative log-likelihood under a softmax over the catalogue.

    The gradient is formed in the forward pass, chunk by chunk, so that no [E, I] array outlives its chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        preference: Tensor,
        vectors: Tensor,
        bias: Tensor,
        target: Tensor,
        earlier: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Args: preference [E, D], vectors [I, D], bias [I], target [E], and (event, item) pairs [M] to be masked, events
        ascending."""
        wanted = any(ctx.needs_input_grad)
        held, items, biases = preference.detach(), vectors.detach(), bias.detach()

        def chunk_loss(begin: int) -> tuple[Tensor, ...]:
            chunk, chosen = held[begin : begin + events], target[begin : begin + events, None]
            utility = torch.addmm(biases, chunk, items.T)
            if earlier is not None:
                first, last = torch.searchsorted(pair_events, torch.tensor([begin, begin + len(chunk)])).tolist()
                flat = (pair_events[first:last] - begin) * len(biases) + earlier[1][first:last]
                utility.view(-1)[flat] = -torch.inf
            log_share = torch.log_softmax(utility, dim=1)
            loss = -log_share.gather(1, chosen).sum()
            if not wanted:
                return (loss,)
            share = log_share.exp_()
            share.scatter_add_(1, chosen, share.new_full((len(chunk), 1), -1.0))
            return loss, share @ items, share.T @ chunk, share.sum(dim=0)

        pair_events = torch.empty(0) if earlier is None else earlier[0].contiguous()
        events = max(_CELLS // len(bias), 1)
        losses, *grads = zip(*in_two_threads(chunk_loss, range(0, len(target), events)), strict=True)
        if wanted:
            ctx.save_for_backward(
                torch.cat(grads[0]), torch.stack(grads[1]).sum(dim=0), torch.stack(grads[2]).sum(dim=0)
            )
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Scales the gradients formed in `forward`."""
        preference_grad, vectors_grad, bias_grad = ctx.saved_tensors
        return preference_grad * grads[0], vectors_grad * grads[0], bias_grad * grads[0], None, None


def catalogue_loss(
    preference: Tensor, vectors: Tensor, bias: Tensor, target: Tensor, earlier: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Differentiable sum over events of the next item's negative log-likelihood; see `CatalogueLoss`."""
    return CatalogueLoss.apply(preference, vectors, bias, target, earlier)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B users with their events up to the last one wanted, padded to T; of each, Q places at the end are looked at, and E
    events among these are wanted."""

    users: Tensor
    """[B] users."""
    item: Tensor
    """[B, T] items consumed; 0 beyond a user's end."""
    looked: Tensor
    """[B, Q] places looked at."""
    lag: Tensor
    """[B, Q, T] events between an earlier event and the place looked at: 0 for the last one before it; `_NEVER` for an event
    that comes later, so that any decay leaves nothing of it."""
    days: Tensor
    """[B, Q, T] days spent between visits from an earlier event to the place looked at."""
    event: Tensor
    """[E] number of the wanted event in the split, ascending in each user."""
    row: Tensor
    """[E] its row in the batch."""
    column: Tensor
    """[E] its column among the Q places."""
    target: Tensor
    """[E] its item."""
    earlier: tuple[Tensor, Tensor] | None
    """(number of the wanted event in the batch, earlier item of its user) pairs; None where nothing is masked."""


def make_batch(split: EventSplit, users: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> Batch:
    """The batch of `users` [B] whose wanted events lie at places `low[user]` to `high[user]` - 1 (low, high [U])."""
    starts, low, high = split.starts[users], low[users], high[users]
    place = np.arange(int(high.max(initial=0)))
    looked = low[:, None] + np.arange(int((high - low).max(initial=0)))
    exists = place < high[:, None]
    events = np.where(exists, starts[:, None] + place, 0)
    item = np.where(exists, split.item[events], 0)
    paused = np.where(exists, split.pause_days[events], 0).cumsum(axis=1, dtype=np.float64)
    lag = looked[:, :, None] - 1 - place
    paused_then = np.take_along_axis(paused, np.minimum(looked, len(place) - 1), axis=1)
    before = lag >= 0
    days = np.where(before, paused_then[:, :, None] - paused[:, None, :], 0)
    row, column = np.nonzero(looked < high[:, None])
    wanted = looked[row, column]
    earlier = None
    if split.mask_earlier:
        event, had = np.nonzero(place < wanted[:, None])
        earlier = (torch.from_numpy(event), torch.from_numpy(item[row[event], had]))
    return Batch(
        users=torch.from_numpy(users),
        item=torch.from_numpy(item),
        looked=torch.from_numpy(looked),
        lag=torch.from_numpy(np.where(before, lag, _NEVER).astype(np.float32)),
        days=torch.from_numpy(days.astype(np.float32)),
        event=torch.from_numpy(starts[row] + wanted),
        row=torch.from_numpy(row),
        column=torch.from_numpy(column),
        target=torch.from_numpy(item[row, wanted]),
        earlier=earlier,
    )


def user_batches(
    size: NDArray[np.int64], events: int, rng: np.random.Generator | None = None
) -> Iterator[NDArray[np.int64]]:
    """Groups users into batches of about `events` events, users of like size [U] together (less padding), those without
    events left out; with `rng` batches differ from call to call and come in random order."""
    noise = np.zeros(len(size)) if rng is None else rng.normal(0, 0.3, len(size))
    order = np.argsort(np.log(np.maximum(size, 1)) + noise, kind="stable")
    order = order[size[order] > 0]
    if not len(order):
        return iter(())
    total = np.cumsum(size[order])
    batches = np.split(order, np.flatnonzero(np.diff(total // events)) + 1)
    if rng is not None:
        batches = [batches[number] for number in rng.permutation(len(batches))]
    return iter(batches)


def decay_weights(batch: Batch, log_keep: Tensor, half_life: Tensor | None = None) -> Tensor:
    """[B, Q, T] share of each earlier event that is left at each place looked at.

    With these, y = weights @ inputs solves y_t = decay_t * (keep * y_{t-1} + inputs_{t-1}), y_0 = 0, for all t at once.

    Args:
        batch: the events.
        log_keep: log of the share kept per event.
        half_life: days between visits after which half is left; None for no decay with time.
    """
    exponent = batch.lag * log_keep
    if half_life is not None:
        exponent = exponent - batch.days * (np.log(2.0) / half_life)
    # Zero below e^-60: shares so small change nothing, but as denormal numbers they would slow every product with them.
    return functional.threshold(exponent, -60.0, -torch.inf).exp()


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """Scalars of the model as tensors in their own units; see `InterestParams`."""

    log_short_keep: Tensor
    """log of lambda."""
    short_weight: Tensor
    long_weight: Tensor
    log_long_keep: Tensor
    """log of 1 - eta."""
    log_satiation_keep: Tensor
    """log of gamma."""
    satiation_gain: Tensor
    short_half_life: Tensor
    satiation_half_life: Tensor

    @classmethod
    def from_free(cls, free: Mapping[str, Tensor]) -> "Scalars":
        """From unbounded numbers: logits of shares, logs of half-lives, weights as they are."""
        return cls(
            log_short_keep=functional.logsigmoid(free["short_decay"]),
            short_weight=free["short_weight"],
            long_weight=free["long_weight"],
            log_long_keep=functional.logsigmoid(-free["long_rate"]),
            log_satiation_keep=functional.logsigmoid(free["satiation_decay"]),
            satiation_gain=free["satiation_gain"],
            short_half_life=free["short_half_life_days"].exp(),
            satiation_half_life=free["satiation_half_life_days"].exp(),
        )


def preferences(
    batch: Batch,
    scalars: Scalars,
    embedding: Tensor,
    categories: Tensor,
    start: Tensor,
    context_taste: Tensor,
) -> Tensor:
    """[E, d + G] preference of the batch's wanted events, as `InterestModel.preference` gives it after a replay.

    Args:
        batch: the users and events.
        scalars: the model's scalars.
        embedding: [I, d] v.
        categories: [I, G] m.
        start: [B, d] long-term interest before the first event.
        context_taste: [E, G] sum of the rows of omega of each wanted event's context.
    """
    consumed = embedding[batch.item]
    short_gain = -torch.expm1(scalars.log_short_keep)
    long_gain = -torch.expm1(scalars.log_long_keep)
    short = short_gain * torch.bmm(decay_weights(batch, scalars.log_short_keep, scalars.short_half_life), consumed)
    fade = torch.exp(batch.looked[:, :, None] * scalars.log_long_keep)
    long = start[:, None] * fade + long_gain * torch.bmm(decay_weights(batch, scalars.log_long_keep), consumed)
    weights = decay_weights(batch, scalars.log_satiation_keep, scalars.satiation_half_life)
    satiation = torch.bmm(weights, categories[batch.item])
    interest = (scalars.long_weight * long + scalars.short_weight * short)[batch.row, batch.column]
    taste = context_taste - scalars.satiation_gain * satiation[batch.row, batch.column]
    return torch.cat([interest, taste], dim=1)
