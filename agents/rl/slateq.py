"""SlateQ: long-term values of single items, put together to slates by a model of what users choose, on top of a fitted ranker.

What a request brings, now and later, depends on the slate only by what the user consumes. So

    Q(s, slate) = P(none | s, slate) Q(s, none) + sum over slots k of P(k | s, slate) Q(s, a_k),

and a few values of items replace one for every slate. The choice model is `agents.rl.choice_model`, learnt from the clicks
of the training's own traffic. Values are learnt by Q-learning: the target is the value of the best slate of the next request, found
exactly by `best_slates`, of which the paper's top-k and greedy slates are approximations.

Source: Ie et al. (2019), SlateQ: A tractable decomposition for reinforcement learning with recommendation sets, arXiv 1905.12767,
eq. 5, 17 and 18 and section 4.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.dqn_learner import QF_MEAN_KEY, QF_PREDS, QF_TARGET_NEXT_PREDS, TD_ERROR_MEAN_KEY
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.metrics import TD_ERROR_KEY
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from agents.base import Training
from agents.request_layout import RequestLayout
from agents.rl.batched_env_runner import CandidateEnvRunner
from agents.rl.candidate_agent import CandidateAgent, CandidateOptions
from agents.rl.choice_model import ChoiceModel, choice_loss, log_chances
from agents.rl.dqn import DQNOptions, dqn_config
from agents.rl.learner import ArrayDQNLearner, Rows
from agents.rl.networks import arrays_of, in_blocks, mlp
from agents.rl.plackett_luce import MASKED
from agents.rl.scorer import CandidateScorer, ItemTable, Request, ScorerConfig, column_names, leading_column
from agents.rl.served import Trained, Weights
from agents.rl.training import trained_by_rllib
from envs.observation import Observation

CLICKED_SLOT = "clicked_slot"
"""Column of the slot that was clicked, -1 for none."""
LOG_CHANCES = "log_chances"
"""Column of what `log_chances` makes of the slates that were shown."""
PASSES = 6
"""Passes of `best_slates`; each at least squares how near it is, so that these are plenty."""


@dataclass(frozen=True, kw_only=True)
class SlateQOptions(CandidateOptions, DQNOptions):
    """Settings of SlateQ; the defaults suit some 40,000 requests. `hidden` and `normalise` have no say and are refused."""

    sharpness: float = 1.0
    """Logits of attraction, before training, per deviation of the first ranker's score within a request."""
    num_envs: int = 64
    """Users simulated side by side; few, so that the slates learnt from are seldom those of a policy long improved upon."""
    minibatch: int = 128
    """Transitions of one gradient step."""
    warm_up_share: float = 0.03
    """Share of the budget that is sampled before learning begins."""
    epsilon_start: float = 0.1
    """Share of slates drawn at random while warming up. The first ranker's order is a good start: most of what random slates tell
    is about items that nobody would show."""
    epsilon_end: float = 0.02
    """Share of them from `explore_share` of the budget on; linear between."""
    n_step: int = 3
    """Requests whose rewards are summed before the value of the next one is trusted; what was shown in those after the first is
    not corrected for."""
    choice_weight: float = 1.0
    """Weight of the choice model's loss, which shares no network with the values, beside theirs."""


class ItemValues(nn.Module):
    """Long-term values of a request for each item that may be consumed in it, and for consuming none.

    Before training, an item is worth 1, and nothing 0.
    """

    def __init__(self, layout: RequestLayout, table: ItemTable, config: ScorerConfig) -> None:
        super().__init__()
        self.gain = CandidateScorer(layout, table, config)
        self.none = mlp((config.width + 2 * len(column_names(layout)), config.width, 1), last_gain=0.0)

    def forward(self, request: Request, places: Tensor | None = None) -> Tensor:
        """[N, C + 1] values of consuming each candidate, or each at `places` [N, P], and in the last column of consuming none."""
        encoded = self.gain.encoder(request if places is None else request.at(places))
        none = self.none(torch.cat([encoded.state, request.offer()], dim=1))
        return torch.cat([none + 1 + self.gain.of_encoded(encoded).squeeze(2), none], dim=1)


class SlateQNetwork(nn.Module):
    """The choice model and the items' values; together they make slates."""

    def __init__(self, layout: RequestLayout, table: ItemTable, options: SlateQOptions, slots: int) -> None:
        super().__init__()
        config = ScorerConfig(width=options.width, heads=options.heads)
        self.choice = ChoiceModel(layout, table, config, slots, prior=(leading_column(layout), options.sharpness))
        self.values = ItemValues(layout, table, config)

    def forward(self, rows: Tensor) -> Tensor:
        """Best slates [N, K] of flat rows [N, W]."""
        request = self.choice.read(rows)
        attractions, outside = self.choice(request)
        return best_slates(attractions, outside, self.choice.positions, self.values(request))


class SlateQModule(TorchRLModule, QNetAPI, TargetNetworkAPI):
    """`SlateQNetwork`, and a target of the items' values. `model_config`: `layout`, `items`, `options`, `slots`."""

    model_config: Any

    def setup(self) -> None:
        self.policy = SlateQNetwork(*(self.model_config[name] for name in ("layout", "items", "options", "slots")))

    def make_target_networks(self) -> None:
        self.target_values = make_target_network(self.policy.values)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.policy.values, self.target_values)]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: self.policy.values(self.policy.choice.read(batch[Columns.OBS]))}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {QF_PREDS: self.target_values(self.policy.choice.read(batch[Columns.OBS]))}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.policy(batch[Columns.OBS])}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        choice, slates_shown = self.policy.choice, batch[Columns.ACTIONS]
        with torch.no_grad():
            request, following = (choice.read(batch[name]) for name in (Columns.OBS, Columns.NEXT_OBS))
            attractions, outside = choice(following)
            slates = best_slates(attractions, outside, choice.positions, self.policy.values(following))
            next_values = slate_values(attractions, outside, choice.positions, self.target_values(following), slates)
        # what was not shown cannot have been consumed, so that nothing of it is learnt
        shown, outside = choice(request.at(slates_shown))
        return {
            QF_PREDS: self.policy.values(request, slates_shown),
            QF_TARGET_NEXT_PREDS: next_values,
            LOG_CHANCES: log_chances(shown, outside, choice.positions),
        }

    def served_policy(self) -> Weights:
        """A copy of the policy's weights."""
        return arrays_of(self.policy)


class SlateQLearner(ArrayDQNLearner):
    """Learns the value of what was consumed and the choices that were made, both from the same rows."""

    def lean_loss(self, rows: Rows) -> Tensor:
        """Weighted error of the value of what was consumed, and negative log-likelihood of the choice.

        Source: Ie et al. (2019), eq. 18 (the error; with a target network and the slate chosen by the learning one).
        """
        return self._loss(rows, self.forward(rows))[0]

    def compute_loss_for_module(self, *, module_id: Any, config: Any, batch: Any, fwd_out: Any) -> Any:
        loss, figures = self._loss(batch, fwd_out)
        self.metrics.log_dict(figures, key=module_id, window=1)
        return loss

    def _loss(self, rows: Rows, outputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss, figures to be logged)."""
        config = self.config
        clicked, values = rows[CLICKED_SLOT], outputs[QF_PREDS]
        consumed = torch.where(clicked < 0, values.shape[1] - 1, clicked)
        chosen = values.gather(1, consumed[:, None]).squeeze(1)
        going = 1.0 - rows[Columns.TERMINATEDS].float()
        following = config.gamma ** rows["n_step"] * going * outputs[QF_TARGET_NEXT_PREDS]
        target = (rows[Columns.REWARDS] + following).detach()
        error = (chosen - target).abs().detach()
        self.metrics.log_value((DEFAULT_MODULE_ID, TD_ERROR_KEY), error, reduce="item_series")
        choice = (rows["weights"] * choice_loss(outputs[LOG_CHANCES], clicked)).mean()
        value = (rows["weights"] * huber_loss(chosen, target, reduction="none")).mean()
        figures = {QF_MEAN_KEY: chosen.mean(), TD_ERROR_MEAN_KEY: error.mean(), "choice_loss": choice}
        return value + config.env_config["options"].choice_weight * choice, figures


class ClickEnvRunner(CandidateEnvRunner):
    """Keeps of the environment's answers what a real log has: the slot that was clicked."""

    told: ClassVar[tuple[str, ...]] = (CLICKED_SLOT,)


class SlateQAgent(CandidateAgent):
    """Shows the slates of the largest long-term value by the items' values and the choice model."""

    name = "slateq"
    options_class = SlateQOptions

    def make_network(self) -> nn.Module:
        return SlateQNetwork(self.layout_, self.items_, self.options, self.slate_size)

    def choose(self, observation: Observation) -> NDArray[np.int64]:
        """The best slates [N, K]; spare slots take masked candidates."""
        rows = self.rows(observation)
        if not len(rows):
            return np.zeros((0, self.slate_size), np.int64)
        return in_blocks(self._network, rows).astype(np.int64)

    def train(self, make_env: Callable[[int], Any], training: Training) -> Trained:
        """Trains by RLlib; goes on from a checkpoint in `training.folder`."""
        self.layout_ = make_env(1).layout
        return trained_by_rllib(
            self,
            make_env,
            training,
            config=dqn_config(self.options).learners(learner_class=SlateQLearner),
            env_runner=ClickEnvRunner,
            module=SlateQModule,
            model_config=self.model_config(),
            shape=asdict(self.layout_),
        )


def slate_values(attractions: Tensor, outside: Tensor, positions: Tensor, values: Tensor, slates: Tensor) -> Tensor:
    """[N] values of slates: what is consumed, by its chance.

    Args:
        attractions: [N, C]; `MASKED` for candidates whose slot stays empty.
        outside: [N].
        positions: [K].
        values: [N, C + 1] of consuming each candidate, and none.
        slates: [N, K].

    Source: Ie et al. (2019), eq. 5, with an outside option that has a value of its own.
    """
    chances = log_chances(attractions.gather(1, slates), outside, positions).exp()
    worth = torch.cat([values.gather(1, slates), values[:, -1:]], dim=1)
    return (chances * worth).sum(dim=1)


def best_slates(attractions: Tensor, outside: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """[N, K] the slates of the largest `slate_values`, whose arguments see; the earlier of equals.

    Masked candidates come in only where there are too few.

    The value of a slate is a ratio of two sums over its slots, so that it is the largest, x, for the slate with the largest sum of
    exp(attraction + position) (value - x): the candidates by exp(attraction) (value - x), the largest in the slot of the largest
    weight, and so on. x is found by going round: from the value of the slate found to the slate for that value, until it
    stays, which is after two or three passes. This solves the paper's fractional programme exactly, for slots that differ, too.

    Source: Dinkelbach (1967), On nonlinear fractional programming; Ie et al. (2019), section 4.2.
    """
    masked = attractions <= MASKED / 2
    odds = (attractions - attractions.amax(dim=1, keepdim=True)).exp()
    order = positions.argsort(descending=True, stable=True)
    places = order.argsort()
    reached = values[:, -1]
    for _ in range(PASSES):
        gains = (odds * (values[:, :-1] - reached[:, None])).masked_fill(masked, MASKED)
        slates = gains.argsort(dim=1, descending=True, stable=True)[:, places]
        reached = slate_values(attractions, outside, positions, values, slates)
    return slates
