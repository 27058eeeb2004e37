"""The networks that training and serving share: plain torch, weights as arrays, no Ray."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BLOCK_ROWS = 32
"""Rows that a network scores at a time when it serves, always so many, since a matrix product's last bits depend on its shape.
Candidate scorers are as quick by the row with 32 as with 256, and towards the end of lives few users are left."""


def mlp(sizes: Sequence[int], last_gain: float) -> nn.Sequential:
    """Linear layers of `sizes` with tanh between them; orthogonal weights, zero biases.

    Args:
        sizes: widths from input to output.
        last_gain: scale of the last layer's weights; 0 makes the untrained network return zeros.

    Source: Andrychowicz et al. (2021), What matters in on-policy reinforcement learning, section 3.2 (small last layer).
    """
    layers: list[nn.Module] = []
    for place, (width_in, width_out) in enumerate(pairwise(sizes)):
        last = place == len(sizes) - 2
        layer = nn.Linear(width_in, width_out)
        nn.init.orthogonal_(layer.weight, last_gain if last else math.sqrt(2))
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, nn.Tanh()]
    return nn.Sequential(*layers)


def arrays_of(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A copy of the network's weights by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def network_from(arrays: Mapping[str, NDArray[np.float32]]) -> nn.Sequential:
    """The network whose weights `arrays_of` returned (names '0.weight', '0.bias', '2.weight', ... as `mlp` makes them).

    Raises:
        ValueError: if the arrays are not the layers of one network.
    """
    weights = [arrays[f"{place}.weight"] for place in range(0, len(arrays), 2) if f"{place}.weight" in arrays]
    if not weights or len(arrays) != 2 * len(weights) or any(weight.ndim != 2 for weight in weights):
        raise ValueError("the arrays are not the layers of one network")
    network = mlp([weights[0].shape[1], *(len(weight) for weight in weights)], last_gain=1.0)
    try:
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    except RuntimeError as error:
        raise ValueError("the arrays are not the layers of one network") from error
    return network


def in_blocks(network: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, outputs] of the network for inputs [N, S]; a row's bits depend on neither N nor the other rows."""
    rows = len(inputs)
    padded = np.zeros((-(-rows // BLOCK_ROWS) * BLOCK_ROWS, inputs.shape[1]), np.float32)
    padded[:rows] = inputs
    with torch.inference_mode(), one_thread():
        blocks = [network(block) for block in torch.from_numpy(padded).split(BLOCK_ROWS)] if rows else []
    return torch.cat(blocks).numpy()[:rows] if blocks else np.zeros((0, _width_out(network)), np.float32)


def _width_out(network: nn.Module) -> int:
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1].out_features


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside the block, as before after it: sums in one order, so that seeds reproduce bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def squashed(mean: Tensor) -> Tensor:
    """Brings an unbounded mean into the action box (-1, 1)."""
    return torch.tanh(mean)
