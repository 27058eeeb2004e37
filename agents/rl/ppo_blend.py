"""PPO by RLlib that blends fitted rankers: it weighs their scores and the recall score for each request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from agents.actions.blend import Blend, BlendAction
from agents.actions.engine import SlateActionWrapper
from agents.actions.ranker_scores import RankerScores
from agents.base import Training
from agents.rl.modules import GaussianPolicyModule
from agents.rl.networks import in_blocks, network_from
from agents.rl.ppo import PPOOptions, gaussian, trained_by_ppo
from agents.rl.served import Trained, TrainedAgent, Weights, check_items
from agents.summary import PublicItems
from envs.errors import AgentError
from envs.logs.schema import InteractionLog
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv


@dataclass(frozen=True, kw_only=True)
class PPOBlendOptions(PPOOptions):
    """Settings of PPO on blends; the defaults suit some 40,000 requests."""

    rankers: tuple[str, ...] = ("sasrec", "din")
    """Two or more rankers, by name or as "file.py:Class". The first one's order is the policy before training.

    SASRec's order is the best of ours; DIN, the quickest to fit of those that come near it, errs in other places: it reads age,
    popularity, hour and attributes, where SASRec reads only which items were consumed in which order.
    """


class PPOBlendAgent(TrainedAgent):
    """Weighs rankers fitted to the policy's log, and the recall score, by a policy that PPO learns.

    The rankers stay as they were fitted. Untrained, it serves the first of them.
    """

    name = "ppo_blend"
    options_class = PPOBlendOptions

    blend_: Blend

    def prepare(self, log: InteractionLog, training: Training) -> None:
        # what is wrong with the options is told before minutes are spent on fits
        Blend.check(self.options.rankers)
        rankers = RankerScores.for_training(self.options.rankers, log, training)
        self.blend_ = Blend(rankers, PublicItems.from_log(log))

    def with_actions(self, env: SlateVectorEnv) -> SlateActionWrapper:
        return BlendAction(env, self.blend_.rankers, self.blend_.items)

    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains by RLlib; goes on from a checkpoint in `training.folder`."""
        return trained_by_ppo(
            self, make_env, training, module=GaussianPolicyModule, model_config=gaussian(self.options)
        )

    def network_of(self, weights: Weights) -> nn.Module:
        return network_from(weights)

    def choose(self, observation: Observation) -> NDArray[np.int64]:
        check_items(self.name, observation, len(self.blend_.items.popularity))
        sizes = observation.user_features.shape[1], observation.candidates.categories.shape[2]
        trained, found = len(self.policy_["0.weight"][0]), self.blend_.observation_space(*sizes).shape[0]
        if trained != found:
            raise AgentError(
                f"agent '{self.name}' was trained on rows of {trained} numbers, these have {found}; train it on this data set."
            )
        scores = self.blend_.rankers(observation)
        rows = self.blend_.observe(observation, scores)
        weights = self.blend_.weights(np.tanh(in_blocks(self._network, rows)))
        return self.blend_.slates(observation, scores, weights, self.slate_size)

    def kept_arrays(self) -> Mapping[str, NDArray[Any]]:
        items = self.blend_.items
        return {**self.blend_.rankers.arrays(), "popularity": items.popularity, "categories": items.categories}

    def restore(self, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        rankers = RankerScores.from_arrays(self.options.rankers, arrays)
        self.blend_ = Blend(rankers, PublicItems(arrays["popularity"], arrays["categories"]))

    def fits(self) -> bool:
        """Whether the network takes rows of these items and rankers and gives a weight of each."""
        items = self.blend_.items
        least = self.blend_.observation_space(0, items.categories.shape[1]).shape[0]
        return all(len(ranker.categories_) == len(items.popularity) for ranker in self.blend_.rankers.rankers) and all(
            len(policy["0.weight"][0]) >= least and len(policy[f"{len(policy) - 2}.bias"]) == self.blend_.num_weights
            for policy in (self.policy_, self.initial_)
        )
