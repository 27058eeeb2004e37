"""PPO for all weights of the rewards at once: one network takes a preference as input and covers the trade-off."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.actions import SlateActionWrapper
from agents.actions.preference import OBJECTIVES, PreferenceAction, preference_of
from agents.base import Training
from agents.rl.ppo import PPOAgent, PPOOptions
from agents.summary import PublicItems
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv


@dataclass(frozen=True, kw_only=True)
class PPOPreferenceOptions(PPOOptions):
    """Settings of PPO on preferences; the defaults suit some 40,000 requests."""

    preference: tuple[float, float, float] | None = None
    """Weights of engagement, diversity and freshness that are served; only their proportions matter. None: those of the world that
    the agent is trained in. Training covers all, whatever they are."""


class PPOPreferenceAgent(PPOAgent):
    """Sets re-ranking weights by a policy that is told how much engagement, diversity and freshness are wanted.

    In training each life draws a preference from the simplex, and is paid by it (`PreferenceAction`). Served is one preference;
    `with_preference` gives the same agent for another, without training.

    Source: Abels et al. (2019), Dynamic weights in multi-objective deep reinforcement learning, section 4 (the conditioned network;
    there of values, here of a policy and its value); Yang et al. (2019), A generalized algorithm for multi-objective reinforcement
    learning and policy adaptation, arXiv 1908.08342, for one network over the space of linear preferences. Their envelope,
    which learns from other preferences than the one that acted, is for value-based learning off the policy, and not used.
    """

    name = "ppo_preference"
    options_class = PPOPreferenceOptions

    preference_: NDArray[np.float32]
    """[3] share of engagement, diversity and freshness that is served."""

    def with_preference(self, weights: RewardWeights | Sequence[float]) -> Self:
        """This agent, serving other weights of engagement, diversity and freshness.

        Raises:
            ConfigurationError: if they are not three numbers of at least 0, one of them larger.
        """
        agent = copy.copy(self)
        agent.preference_ = preference_of(weights)
        return agent

    def prepare(self, log: InteractionLog, training: Training) -> None:
        super().prepare(log, training)
        if self.options.preference is not None:
            self.preference_ = preference_of(self.options.preference)

    def with_actions(self, env: SlateVectorEnv) -> SlateActionWrapper:
        wrapped = self.wrapped(env, self.items_)
        if self.options.preference is None:
            self.preference_ = wrapped.own
        return wrapped

    @staticmethod
    def wrapped(env: Any, items: PublicItems) -> PreferenceAction:
        """The environment with weights as actions and a preference for each life."""
        return PreferenceAction(env, items)

    def rows(self, observation: Observation) -> NDArray[np.float32]:
        summaries = super().rows(observation)
        return np.concatenate([summaries, np.tile(self.preference_, (len(summaries), 1))], axis=1)

    def kept_arrays(self) -> Mapping[str, NDArray[Any]]:
        return {**super().kept_arrays(), "preference": self.preference_}

    def restore(self, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        super().restore(arrays, content)
        self.preference_ = arrays["preference"]

    def fits(self) -> bool:
        """Whether there is a preference, and the network takes summaries of these items and gives this agent's outputs."""
        return self.preference_.shape == (len(OBJECTIVES),) and super().fits()
