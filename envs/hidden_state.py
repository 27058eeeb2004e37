"""The one door from the environment to what policies may not know; tests find a policy that goes through it."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from envs.engine import utilities
from envs.rewards import Parts, Reward, earned
from envs.users.protocol import age_effect

if TYPE_CHECKING:
    from envs.slate_env import SlateVectorEnv


class HiddenState:
    """What only oracles and recorders may read: the true utilities of the present requests and their near future."""

    def __init__(self, env: "SlateVectorEnv") -> None:
        self._env = env

    @property
    def outside(self) -> float:
        """Logit of consuming nothing."""
        return self._env.world.outside

    @property
    def reward_weights(self) -> Reward:
        """Of the scalar reward, weights or another."""
        return self._env.reward_weights

    def utilities(self, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N, C] utility in logits of `items` [N, C] for each user's present request; -inf for items of -1."""
        env = self._env
        return utilities(env.world.user_model, env._preference, items, env._age_days(items))

    def payoff(
        self, items: NDArray[np.int32], diversity: NDArray[np.float32], freshness: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """[N, C] what consuming each of `items` [N, C] earns more than consuming nothing, in the user's present request.

        The rating is the expected one. A reward that asks for the slot, for the rest of the slate or for who left is told that the
        slot is open (-1), that the item stands alone and that nobody left: of such a reward oracles are no upper bounds.
        """
        env, count = self._env, items.size
        rows, flat = np.repeat(np.arange(len(items)), items.shape[1]), np.maximum(items, 0).reshape(-1)
        utility = self.utilities(np.maximum(items, 0)).reshape(-1)
        consumed = Parts(
            engagement=np.ones(count, np.float32),
            diversity=diversity.reshape(-1),
            freshness=freshness.reshape(-1).astype(np.float32),
            rating=env.world.user_model.expected_rating(env._state.interest, rows, flat, utility),
            item=flat,
            slot=np.full(count, -1),
            slates=flat[:, None],
            left=np.zeros(count, bool),
            catalogue=env.world.policy_log.catalogue,
        )
        nothing = np.zeros(count, np.float32)
        passed = replace(
            consumed,
            engagement=nothing,
            diversity=nothing,
            freshness=nothing,
            rating=np.full(count, np.nan, np.float32),
            item=np.full(count, -1, np.int32),
        )
        return (earned(self.reward_weights, consumed) - earned(self.reward_weights, passed)).reshape(items.shape)

    def utilities_after_each(self, consumed: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N, M, C] utility of `items` [N, C] in each user's next request, had it consumed each of `consumed` [N, M] alone."""
        env = self._env
        model, rows = env.world.user_model, np.repeat(np.arange(len(consumed)), consumed.shape[1])
        state = env._state.take(rows)
        model.consume(state.interest, np.arange(len(rows)), consumed.reshape(-1))
        state.consumed_in_visit += 1
        preference = env.world.preference(state)
        shown = np.maximum(items, 0)
        taste = np.matmul(preference.reshape(*consumed.shape, -1), model.item_vectors[shown].transpose(0, 2, 1))
        taste += (model.item_bias[shown] + age_effect(model.age_values, env._age_days(items)))[:, None, :]
        return np.where(items[:, None, :] >= 0, taste, -np.inf)

    def interest(self) -> NDArray[np.float32]:
        """[N, G] interest of each user in each category: softmax of the mean taste for its items, popularity and age aside."""
        env = self._env
        categories = env.world.policy_log.catalogue.categories
        centre = categories.T @ env.world.user_model.item_vectors / np.maximum(categories.sum(axis=0), 1e-9)[:, None]
        taste = env._preference @ centre.T
        taste = np.exp(taste - taste.max(axis=1, keepdims=True, initial=-np.inf))
        return taste / taste.sum(axis=1, keepdims=True)
