"""DQN that fills a slate slot by slot by the values of its candidates, on top of a fitted ranker."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.dqn_learner import QF_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from torch import Tensor, nn

from agents.base import Training
from agents.request_layout import RequestLayout
from agents.rl.batched_env_runner import CandidateEnvRunner
from agents.rl.candidate_agent import CandidateAgent, CandidateOptions
from agents.rl.dqn import DQNOptions, dqn_config
from agents.rl.modules import DuelingModule
from agents.rl.networks import in_blocks, mlp
from agents.rl.plackett_luce import MASKED, masked_logits
from agents.rl.scorer import CandidateScorer, ItemTable, ScorerConfig, column_names, leading_column
from agents.rl.served import Trained
from agents.rl.training import trained_by_rllib
from envs.observation import Observation


@dataclass(frozen=True, kw_only=True)
class DQNSlotsOptions(CandidateOptions, DQNOptions):
    """Settings of DQN on slots; the defaults suit some 40,000 requests. `hidden` and `normalise` have no say and are refused."""

    prior: float = 0.1
    """Value, before training, of a deviation of the first ranker's score within a request, in units of the reward."""
    minibatch: int = 128
    """Slots of one gradient step; each takes the values of all candidates of three requests."""
    buffer: int = 100_000
    """Slots that the replay buffer keeps (the newest); a request has K of them."""
    n_step: int = 10
    """Slots over which rewards are summed before the value of what follows is trusted; a request has K of them."""
    prioritise: float = 0.5
    """Exponent of a transition's last error in the odds of its being drawn again; 0 draws all alike."""
    final_learning_rate: float = 5e-5
    """Adam's step size at the end of the budget, linear between: with a step size that stays, candidates that are worth nearly the
    same change places to the last."""
    epsilon_end: float = 0.02
    """Share of slots filled at random from `explore_share` of the budget on."""


class SlotQNetwork(nn.Module):
    """Q = V + A - mean A of the candidates of a request whose slots above are filled.

    A comes from the candidate's vector, V from the state's and from what the candidates have to offer; the mean is over the
    candidates that may be shown. Those that may not have the value `MASKED`; where there is none, all have the value of the state.

    Source: Wang et al. (2016), Dueling network architectures, eq. 9.
    """

    def __init__(self, layout: RequestLayout, table: ItemTable, options: DQNSlotsOptions) -> None:
        super().__init__()
        config = ScorerConfig(width=options.width, heads=options.heads)
        self.advantage = CandidateScorer(layout, table, config, prior=(leading_column(layout), options.prior))
        self.value = mlp((config.width + 2 * len(column_names(layout)), config.width, 1), last_gain=0.0)

    def forward(self, rows: Tensor) -> Tensor:
        """[N, C] values of flat rows [N, W]."""
        request = self.advantage.encoder.read(rows)
        encoded = self.advantage.encoder(request)
        advantages = self.advantage.of_encoded(encoded).squeeze(2) * request.mask
        count = request.mask.sum(dim=1, keepdim=True)
        centred = advantages - advantages.sum(dim=1, keepdim=True) / count.clamp(min=1)
        state = self.value(torch.cat([encoded.state, request.offer()], dim=1))
        return torch.where(count > 0, masked_logits(state + centred, request.mask), state)


class SlotQModule(DuelingModule):
    """`SlotQNetwork` and its target. `model_config`: `layout`, `items`, `options`."""

    def setup(self) -> None:
        self.begin(0, {})
        self.policy = SlotQNetwork(*(self.model_config[name] for name in ("layout", "items", "options")))

    def make_target_networks(self) -> None:
        self.target_policy = make_target_network(self.policy)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.policy, self.target_policy)]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: self.policy(batch[Columns.OBS])}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: self.target_policy(batch[Columns.OBS])}


class DQNSlotsAgent(CandidateAgent):
    """Fills slot after slot by the candidate of the largest value, which double DQN learns from prioritised replay."""

    name = "dqn_slots"
    options_class = DQNSlotsOptions
    slot_by_slot = True

    def make_network(self) -> nn.Module:
        return SlotQNetwork(self.layout_, self.items_, self.options)

    def choose(self, observation: Observation) -> NDArray[np.int64]:
        """The most valuable candidate given the slots above, slot after slot; spare slots take masked candidates."""
        rows = self.rows(observation)
        parts, users = self.layout_.parts(rows), np.arange(len(rows))
        slates = np.zeros((len(rows), self.slate_size), np.int64)
        taken = np.zeros(parts.mask.shape, bool)
        for slot in range(self.slate_size if len(rows) else 0):
            values = np.where(parts.mask == 1, in_blocks(self._network, rows), MASKED)
            chosen = np.where(taken, -np.inf, values).argmax(axis=1)
            slates[:, slot], parts.slate[:, slot] = chosen, chosen
            taken[users, chosen], parts.mask[users, chosen] = True, 0
        return slates

    def train(self, make_env: Callable[[int], Any], training: Training) -> Trained:
        """Trains by RLlib; goes on from a checkpoint in `training.folder`."""
        env = make_env(1)
        self.layout_ = env.layout
        # steps are slots, so that RLlib discounts each of them
        of_slots = replace(self.options, gamma=env.discount(self.options.gamma))
        falling = [[0, self.options.learning_rate], [training.requests, self.options.final_learning_rate]]
        return trained_by_rllib(
            self,
            make_env,
            training,
            config=dqn_config(of_slots).training(lr=falling),
            env_runner=CandidateEnvRunner,
            module=SlotQModule,
            model_config=self.model_config(),
            shape=asdict(self.layout_),
        )
