"""DRN: an agent that goes on updating itself, by the answers to what it shows."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.base import Training
from agents.matching import matches, requests_of
from agents.rl.candidate_agent import CandidateAgent
from agents.rl.checkpoints import Checkpoints
from agents.rl.networks import BLOCK_ROWS, arrays_of
from agents.rl.seeding import seeded_generators
from agents.rl.served import Trained, with_prefix
from agents.summary import FRESH_DAYS
from agents.updates.drn.learner import Learner
from agents.updates.drn.lesson import Lesson, taught
from agents.updates.drn.network import DRNNetwork
from agents.updates.drn.options import DRNOptions
from envs.errors import AgentError
from envs.logs.schema import InteractionLog
from envs.measures import consumed_diversity
from envs.observation import Observation
from envs.randomness import Purpose, draw_uniform


class DRNAgent(CandidateAgent):
    """Shows the candidates of the largest Q, and learns from each answer.

    - *Minor updates.* A rival network, whose weights are a little off, takes part in each slate by probabilistic interleaving;
      where its items earn more, the weights move towards its own. The rival is one for all requests between two updates, and all of
      their answers are one duel: of N users served side by side, N updates in a row become one, with N users' votes.
    - *Major updates.* Every so many requests, gradient steps on remembered ones: a slot's value is what it earned, β times how
      active the user is at the next request, and γ times the value of the best candidate then.

    It learns in `fit` and in `update`, by the same steps. `update` is given events of what `act` served: requests are recognised by
    user and slate, the oldest first. It makes major updates, and minor ones too where `options.explores_when_serving` lets the
    rival take part. What is remembered is in the file: an agent that was loaded goes on to the bit.

    Weights, optimiser and memory are plain torch and arrays: RLlib's loop owns the environment, while this one must learn from
    `act` and `update` as well, and its minor updates are no gradient steps.

    Source: Zheng et al. (2018), DRN: A deep reinforcement learning framework for news recommendation (WWW).
    """

    name = "drn"
    options_class = DRNOptions

    _learner: Learner

    def make_network(self) -> DRNNetwork:
        """See `DRNNetwork`."""
        return DRNNetwork(self.layout_, self.items_, self.options)

    # ------------------------------------------------------------------ training
    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Learns from the policy's log, then from simulated traffic; raises as `TrainedAgent.fit` does."""
        super().fit(log, training)
        self._adopt(self.__dict__.pop("_taught"))
        return self

    def train(self, make_env: Callable[[int], Any], training: Training) -> Trained:
        """Serves training users, updating itself all along; goes on from a checkpoint in `training.folder`."""
        env = make_env(min(self.options.num_envs, training.requests))
        self.layout_ = env.layout
        with seeded_generators(training.seed):
            network = self.make_network()
        learner = Learner(network, self.options, self.slate_size, training.seed)
        lesson = Lesson(learner, env, env.reset(seed=training.seed)[0])
        trained = taught(lesson, training, self.name, Checkpoints.of(self, training, asdict(self.layout_)))
        lesson.learner.close()
        self._taught = lesson.learner
        return trained

    # ------------------------------------------------------------------ serving
    def choose(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K], which are remembered until they are answered; spare slots take masked candidates."""
        slates = np.zeros((len(observation), self.slate_size), np.int64)
        if not len(observation):
            return slates
        rows = self.rows(observation)
        draws = self._draws(observation) if self.options.explores_when_serving else None
        for start in range(0, len(rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            own = None if draws is None else draws[part]
            slates[part], _ = self._learner.serve(rows[part], observation.user[part], own)
        return slates

    @property
    def duels(self) -> tuple[int, int]:
        """(duels that are over, those of them that the rival won), training included."""
        return self._learner.duels, self._learner.won

    def update(self, events: InteractionLog) -> None:
        """Learns from events (exposures included) of requests that this agent served since the last update.

        Each request is recognised by its user and slate, and learnt as it was when it was served; events of other policies'
        requests are left aside.

        Raises:
            AgentError: if the agent is not trained, or an update made a weight that is not finite; it is then what it was before.
        """
        if not hasattr(self, "policy_"):
            raise AgentError(f"agent '{self.name}' is not trained; fit or load it before it is updated.")
        learner, memory = self._learner, self._learner.memory
        waiting = memory.unanswered()
        if not len(events) or not len(waiting):
            return
        asked, clicked = requests_of(events, self.slate_size)
        at = waiting % memory.size
        of_waiting, of_asked = matches(np.column_stack([memory.user[at], memory.items[at]]), asked)
        numbers, clicked = waiting[of_waiting], clicked[of_asked]
        earned = self._payoffs(numbers, clicked)
        learner.answer(numbers, earned, float(memory.days[at].max()) - self.options.absent_days)
        weights = arrays_of(learner.network)
        if not all(np.isfinite(array).all() for array in weights.values()):
            self._take_over(Trained(self.initial_, self.policy_, self.learning_curve_))
            raise AgentError(
                f"agent '{self.name}' could not take in these events: a weight became infinite, so it serves with the weights of "
                "before and has forgotten what it remembered. Lower learning_rate."
            )
        self.policy_ = weights

    def _payoffs(self, numbers: NDArray[np.int64], clicked: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[M, K] what the clicked slots of remembered requests `numbers` [M] earned, by what is public of the items."""
        memory, weights = self._learner.memory, self.options.reward_weights
        at = numbers % memory.size
        row, slot = np.nonzero(clicked & (memory.items[at] >= 0))
        parts = self.layout_.parts(memory.rows[at[row]])
        item = memory.items[at[row], slot]
        lengths = np.linalg.norm(self.items_.categories, axis=1, keepdims=True)
        directions = self.items_.categories / np.maximum(lengths, 1e-12)
        diversity = consumed_diversity(directions, item, parts.history.astype(np.int32))
        age = parts.columns[np.arange(len(row)), memory.places[at[row], slot], 1]
        earned = np.zeros(clicked.shape, np.float32)
        earned[row, slot] = (
            weights.engagement + weights.diversity * diversity + weights.freshness * (age < FRESH_DAYS[0])
        )
        return earned

    def _draws(self, observation: Observation) -> NDArray[np.float32]:
        """[N, K, 2] draws that are a hash of the agent's seed and of what is observed of the request."""
        keys = (key[:, None, None] for key in observation.hash_keys())
        return draw_uniform(self.seed, Purpose.AGENT, *keys, np.arange(self.slate_size)[:, None], np.arange(2))

    # ------------------------------------------------------------------ one file for all
    def kept_arrays(self) -> Mapping[str, NDArray[Any]]:
        """Rankers, items' table, and all that the learner goes on from."""
        return {
            **super().kept_arrays(),
            **{f"learner.{name}": array for name, array in self._learner.arrays().items()},
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        """Takes back what `kept_arrays` and `kept_content` gave."""
        super().restore(arrays, content)
        self._kept = with_prefix(arrays, "learner.")

    def _take_over(self, trained: Trained) -> None:
        super()._take_over(trained)
        learner = Learner(self._network, self.options, self.slate_size, self.seed)
        kept = self.__dict__.pop("_kept", None)
        if kept is not None:
            learner.take_back(kept)
        self._adopt(learner)

    def _adopt(self, learner: Learner) -> None:
        """Serves with a learner's network from now on."""
        self._learner, self._network = learner, learner.network
