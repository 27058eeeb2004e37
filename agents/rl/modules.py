"""RLlib modules around the plain networks of `agents.rl.networks`."""

from typing import Any

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agents.rl.networks import mlp, squashed


class GaussianPolicyModule(TorchRLModule, ValueFunctionAPI):
    """A diagonal Gaussian over the box, and a value, in two separate networks.

    Untrained, its mean is 0 for every observation. `model_config`: `hidden` widths, `initial_log_std`.
    """

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        width_in, width_out = self.observation_space.shape[0], self.action_space.shape[0]
        hidden = tuple(self.model_config["hidden"])
        self.policy = mlp((width_in, *hidden, width_out), last_gain=0.0)
        self.value = mlp((width_in, *hidden, 1), last_gain=0.0)
        self.log_std = nn.Parameter(torch.full((width_out,), float(self.model_config["initial_log_std"])))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mean = squashed(self.policy(batch[Columns.OBS]))
        return {Columns.ACTION_DIST_INPUTS: torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        return self.value(batch[Columns.OBS]).squeeze(-1)


class DuelingModule(TorchRLModule, QNetAPI, TargetNetworkAPI):
    """Q = V + A - mean A over the presets, in two separate networks, each with a target.

    Untrained, all presets are worth the same, so the greedy choice is the first. `model_config`: `hidden` widths.

    Source: Wang et al. (2016), Dueling network architectures, eq. 9.
    """

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        width_in, hidden = self.observation_space.shape[0], tuple(self.model_config["hidden"])
        self.policy = mlp((width_in, *hidden, int(self.action_space.n)), last_gain=0.0)
        self.value = mlp((width_in, *hidden, 1), last_gain=0.0)

    def make_target_networks(self) -> None:
        self.target_policy = make_target_network(self.policy)
        self.target_value = make_target_network(self.value)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.policy, self.target_policy), (self.value, self.target_value)]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: _dueling(self.policy, self.value, batch[Columns.OBS])}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: _dueling(self.target_policy, self.target_value, batch[Columns.OBS])}

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
