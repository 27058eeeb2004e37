"""RLlib modules around the plain networks of `agents.rl.networks`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agents.rl.networks import arrays_of, mlp, squashed


class Normaliser(nn.Module):
    """Brings observations to mean 0 and deviation 1 by the moments of all that was learnt from; before that, leaves them be.

    The moments belong to the module's state: they are in RLlib's checkpoints, and env runners get them with the weights. No
    gradient flows into them.
    """

    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("spread", torch.zeros(width, dtype=torch.float64))

    def take_in(self, observations: Tensor) -> None:
        """Adds observations [B, S] to the moments.

        Source: Chan et al. (1979), Updating formulae and a pairwise algorithm for computing sample variances.
        """
        rows = observations.double()
        count, mean = len(rows), rows.mean(dim=0)
        total, step = self.count + count, mean - self.mean
        self.spread += (rows - mean).square().sum(dim=0) + step.square() * self.count * count / total
        self.mean += step * count / total
        self.count += count

    @property
    def deviation(self) -> Tensor:
        """[S]; 1 for a number that never changed."""
        variance = self.spread / self.count.clamp_min(1)
        return torch.where(variance > 1e-12, variance, 1.0).sqrt()

    def forward(self, observations: Tensor) -> Tensor:
        """Normalised observations [..., S]."""
        return (observations - self.mean.float()) / self.deviation.float()

    def folded(self, arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Weights of a network on observations as they are that does what the given one does on normalised ones."""
        first = arrays["0.weight"].astype(np.float64) / self.deviation.numpy()
        bias = arrays["0.bias"] - first @ self.mean.numpy()
        return {**arrays, "0.weight": first.astype(np.float32), "0.bias": bias.astype(np.float32)}


class Normalising:
    """What modules with a `policy` network share if `model_config["normalise"]` may ask for a `Normaliser`."""

    policy: nn.Module
    normaliser: Normaliser | None

    def begin(self, width: int, model_config: dict[str, Any]) -> None:
        """Makes the normaliser, where asked for."""
        self.normaliser = Normaliser(width) if model_config.get("normalise") else None

    def observed(self, observations: Tensor) -> Tensor:
        """What the networks see of observations [N, S]."""
        return observations if self.normaliser is None else self.normaliser(observations)

    def served_policy(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the policy's weights, for observations as they are."""
        arrays = arrays_of(self.policy)
        return arrays if self.normaliser is None else self.normaliser.folded(arrays)


class GaussianPolicyModule(Normalising, TorchRLModule, ValueFunctionAPI):
    """A diagonal Gaussian over the box, and a value, in two separate networks.

    Untrained, its mean is 0 for every observation. The log of its standard deviation is learnt, or where there is a
    `final_log_std` goes there linearly while the budget is spent. `model_config`: `hidden` widths, `initial_log_std`,
    `final_log_std`, `normalise`.
    """

    observation_space: Any
    action_space: Any
    model_config: Any
    log_std: Tensor

    def setup(self) -> None:
        width_in, width_out = self.observation_space.shape[0], self.action_space.shape[0]
        hidden = tuple(self.model_config["hidden"])
        self.begin(width_in, self.model_config)
        self.policy = mlp((width_in, *hidden, width_out), last_gain=0.0)
        self.value = mlp((width_in, *hidden, 1), last_gain=0.0)
        log_std = torch.full((width_out,), float(self.model_config["initial_log_std"]))
        if self.model_config.get("final_log_std") is None:
            self.log_std = nn.Parameter(log_std)
        else:
            # in the module's state, so that env runners get it with the weights
            self.register_buffer("log_std", log_std)

    def narrow(self, share_spent: float) -> None:
        """Sets the deviation to that of a share of the budget, unless it is learnt."""
        first, last = self.model_config["initial_log_std"], self.model_config.get("final_log_std")
        if last is not None:
            self.log_std.fill_(first + (last - first) * min(share_spent, 1.0))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mean = squashed(self.policy(self.observed(batch[Columns.OBS])))
        return {Columns.ACTION_DIST_INPUTS: torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        return self.value(self.observed(batch[Columns.OBS])).squeeze(-1)


class DuelingModule(Normalising, TorchRLModule, QNetAPI, TargetNetworkAPI):
    """Q = V + A - mean A over the presets, in two separate networks, each with a target.

    Untrained, all presets are worth the same, so the greedy choice is the first. `model_config`: `hidden` widths,
    `normalise`.

    Source: Wang et al. (2016), Dueling network architectures, eq. 9.
    """

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        width_in, hidden = self.observation_space.shape[0], tuple(self.model_config["hidden"])
        self.begin(width_in, self.model_config)
        self.policy = mlp((width_in, *hidden, int(self.action_space.n)), last_gain=0.0)
        self.value = mlp((width_in, *hidden, 1), last_gain=0.0)

    def make_target_networks(self) -> None:
        self.target_policy = make_target_network(self.policy)
        self.target_value = make_target_network(self.value)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.policy, self.target_policy), (self.value, self.target_value)]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: _dueling(self.policy, self.value, self.observed(batch[Columns.OBS]))}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: _dueling(self.target_policy, self.target_value, self.observed(batch[Columns.OBS]))}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.compute_q_values(batch)[QF_PREDS].argmax(dim=-1)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        following = {Columns.OBS: batch[Columns.NEXT_OBS]}
        with torch.no_grad():
            next_values = self.compute_q_values(following)[QF_PREDS]
            target_values = self.forward_target(following)[QF_PREDS]
        return {
            QF_PREDS: self.compute_q_values(batch)[QF_PREDS],
            QF_NEXT_PREDS: next_values,
            QF_TARGET_NEXT_PREDS: target_values,
        }


def _dueling(policy: nn.Module, value: nn.Module, observations: Tensor) -> Tensor:
    advantages = policy(observations)
    return value(observations) + advantages - advantages.mean(dim=-1, keepdim=True)
