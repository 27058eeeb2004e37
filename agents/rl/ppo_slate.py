"""PPO that scores candidates and draws whole slates from the scores, on top of a fitted ranker."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agents.base import Training
from agents.request_layout import RequestLayout
from agents.rl.candidate_agent import CandidateAgent, CandidateOptions
from agents.rl.networks import arrays_of
from agents.rl.plackett_luce import TorchPlackettLuce, masked_logits
from agents.rl.ppo import PPOOptions, trained_by_ppo
from agents.rl.scorer import CandidateScorer, ItemTable, ScorerConfig, StateValue, leading_column
from agents.rl.served import Trained, Weights


@dataclass(frozen=True, kw_only=True)
class PPOSlateOptions(CandidateOptions, PPOOptions):
    """Settings of PPO on slates; the defaults suit some 40,000 requests. `hidden`, `normalise` and deviations have no say
    and are refused."""

    sharpness: float = 3.0
    """Logits, before training, per deviation of the first ranker's score within a request: large ones explore little."""


class PolicyNetwork(nn.Module):
    """Logits of a request's candidates."""

    def __init__(self, layout: RequestLayout, table: ItemTable, options: PPOSlateOptions) -> None:
        super().__init__()
        config = ScorerConfig(width=options.width, heads=options.heads)
        self.scorer = CandidateScorer(layout, table, config, prior=(leading_column(layout), options.sharpness))

    def forward(self, rows: Tensor) -> Tensor:
        """[N, C] for flat rows [N, W]; those of masked candidates mean nothing."""
        return self.scorer(rows).squeeze(2)


class SlatePolicyModule(TorchRLModule, ValueFunctionAPI):
    """Plackett-Luce over slates and a value, in two separate networks. `model_config`: `layout`, `items`, `options`, `slots`."""

    model_config: Any

    def setup(self) -> None:
        layout, items, options = (self.model_config[name] for name in ("layout", "items", "options"))
        self.layout: RequestLayout = layout
        self.policy = PolicyNetwork(layout, items, options)
        self.value = StateValue(layout, items, ScorerConfig(width=options.width, heads=options.heads))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        rows = batch[Columns.OBS]
        return {Columns.ACTION_DIST_INPUTS: masked_logits(self.policy(rows), self.layout.parts(rows).mask)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        rows = batch[Columns.OBS]
        return self.value(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape[:-1])

    def served_policy(self) -> Weights:
        """A copy of the policy's weights."""
        return arrays_of(self.policy)

    def get_train_action_dist_cls(self) -> Any:
        kind: Any = TorchPlackettLuce
        return kind.get_partial_dist_cls(slots=self.model_config["slots"])

    get_exploration_action_dist_cls = get_train_action_dist_cls
    get_inference_action_dist_cls = get_train_action_dist_cls


class PPOSlateAgent(CandidateAgent):
    """Shows the candidates with the largest logits, which PPO learns from slates drawn by Plackett-Luce."""

    name = "ppo_slate"
    options_class = PPOSlateOptions
    idle_options = ("hidden", "normalise", "initial_log_std", "final_log_std")

    def make_network(self) -> nn.Module:
        return PolicyNetwork(self.layout_, self.items_, self.options)

    def train(self, make_env: Callable[[int], Any], training: Training) -> Trained:
        """Trains by RLlib; goes on from a checkpoint in `training.folder`."""
        self.layout_ = make_env(1).layout
        return trained_by_ppo(
            self,
            make_env,
            training,
            module=SlatePolicyModule,
            model_config=self.model_config(),
            shape=asdict(self.layout_),
        )
