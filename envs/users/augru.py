"""The recurrence of the DIEN-like user model in torch: GRU and AUGRU, forwards and backwards, for all users at once.

One function does both: a GRU is an AUGRU of one facet whose attention is 1. Its gradient is written out, since a recorded loop
costs several times more: each step of either direction is one matrix product and a few products of elements.
What is simulated is `envs.users.dien.augru_step` in numpy.
"""

from typing import Any

import torch
from torch import Tensor


class _AUGRU(torch.autograd.Function):
    """See `augru`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, keep: Tensor, weight: Tensor, bias: Tensor, attention: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, users, facets = attention.shape
        size = len(weight)
        gates = inputs.new_empty(steps, users, facets, 3 * size)
        candidate_part = inputs.new_empty(steps, users, facets, size)
        before = inputs.new_empty(steps, users, facets, size)
        after = inputs.new_empty(steps, users, facets, size)
        state = inputs.new_zeros(users, facets, size)
        for step in range(steps):
            held = torch.mul(state, keep[step, :, None], out=before[step])
            recurrent = torch.addmm(bias, held.view(-1, size), weight).view(users, facets, 3 * size)
            candidate_part[step] = recurrent[..., 2 * size :]
            now, given = gates[step], inputs[step, :, None]
            torch.add(given[..., : 2 * size], recurrent[..., : 2 * size], out=now[..., : 2 * size]).sigmoid_()
            reset, update, candidate = now.split(size, dim=-1)
            torch.addcmul(given[..., 2 * size :], reset, candidate_part[step], out=candidate).tanh_()
            update_now = update * attention[step, :, :, None]
            state = torch.lerp(held, candidate, update_now, out=after[step])
        ctx.save_for_backward(keep, weight, attention, gates, candidate_part, before, after)
        return before, after

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        before_grad, after_grad = grads
        keep, weight, attention, gates, candidate_part, before, after = ctx.saved_tensors
        size = len(weight)
        reset, update, candidate = gates.split(size, dim=-1)
        attended = update * attention[..., None]
        # Slopes of the next state by what enters reset gate, update gate and candidate, all steps at once.
        by_candidate = attended * (1 - candidate**2)
        by_update = (candidate - before) * attended * (1 - update)
        slopes = torch.stack(
            [by_candidate * candidate_part * reset * (1 - reset), by_update, by_candidate * reset], dim=3
        )
        stays = 1 - attended
        flows = torch.empty_like(before)
        held_grads = torch.empty_like(before)
        transposed = weight.T
        flow = torch.zeros_like(before[0])
        for step in range(len(before) - 1, -1, -1):
            flow = torch.add(after_grad[step], flow, out=flows[step])
            recurrent = (flow[:, :, None] * slopes[step]).view(-1, 3 * size)
            direct = torch.addcmul(before_grad[step], flow, stays[step]).view(-1, size)
            held = held_grads[step]
            torch.addmm(direct, recurrent, transposed, out=held.view(-1, size))
            flow = held * keep[step, :, None]
        recurrent_grad = (flows[:, :, :, None] * slopes).flatten(3)
        input_grad = recurrent_grad.clone()
        input_grad[..., 2 * size :] = flows * by_candidate
        keep_grad = torch.zeros_like(keep)
        keep_grad[1:] = (held_grads[1:] * after[:-1]).sum(dim=2)
        flat = recurrent_grad.view(-1, 3 * size)
        attention_grad = (flows * (candidate - before) * update).sum(dim=3)
        return input_grad.sum(dim=2), keep_grad, before.view(-1, size).T @ flat, flat.sum(dim=0), attention_grad


def augru(inputs: Tensor, keep: Tensor, weight: Tensor, bias: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """States of GRUs with attentional update gates over T steps, from zero on; differentiable in every argument.

    held = keep * state;  r, z, c = inputs + held @ weight + bias (r scales the recurrent part of c);
    state = held + attention * sigmoid(z) * (tanh(c) - held).

    Args:
        inputs: [T, B, 3 h] the inputs' part of reset gate, update gate and candidate; the same for all facets.
        keep: [T, B, h] share of the state kept by the pause before each step.
        weight: [h, 3 h] recurrent weights.
        bias: [3 h] recurrent biases.
        attention: [T, B, K] factor of each facet's update gate, in [0, 1]; ones [T, B, 1] make it a GRU.

    Returns:
        ([T, B, K, h] states before each step, the pause done, [T, B, K, h] states after it).

    Source: Cho et al. (2014) in the form of torch.nn.GRU; Zhou et al. (2019), eq. 12 to 14, for the attention.
    """
    return _AUGRU.apply(inputs, keep, weight, bias, attention)  # type: ignore[no-any-return]
