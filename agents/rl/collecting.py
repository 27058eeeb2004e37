"""What RLlib's algorithms share here: gathering batches from env runners, handing weights back, and checkpoints that go on."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS
from torch import Tensor

from agents.rl.batched_env_runner import BatchedEnvRunner, Share
from envs.errors import AgentError

PATIENCE_SECONDS = 120
"""How long to wait for env runners to be replaced when all have died."""


class BatchedAlgorithm:
    """Mixed into an RLlib algorithm whose env runners are `BatchedEnvRunner`s, here or in workers.

    With workers and `env_config["beside"]`, the next batch is sampled while the learner works on the present one: its policy lags
    behind by exactly one update, because a request for a batch brings the weights that it is to be sampled with.
    """

    config: Any
    metrics: Any
    learner_group: Any
    env_runner_group: Any
    env_runner: Any

    def setup(self, config: Any) -> None:
        """RLlib's, and the books of what was sampled."""
        super().setup(config)  # type: ignore[misc]
        self._collected = 0
        self._earned, self._told = 0.0, 0
        self._under_way = 0
        self._reward_scale: Any = None

    @property
    def requests(self) -> int:
        """Requests spent so far."""
        return self._collected if self.config.num_env_runners else self.env_runner.sampler.requests

    def reward_per_request(self) -> float:
        """Mean reward of the requests since the last call."""
        mean = self._earned / max(self.requests - self._told, 1)
        self._earned, self._told = 0.0, self.requests
        return mean

    def collect(self, num_timesteps: int, **wishes: Any) -> list[Share]:
        """Shares of at least `num_timesteps` requests together, never beyond the budget; fewer where a worker has died.

        Raises:
            AgentError: if no worker answers any more.
        """
        if not self.config.num_env_runners:
            shares = [self.env_runner.share(num_timesteps=num_timesteps, limit=self._left, **wishes)]
            self._count(shares)
            return shares
        shares, deadline = [], time.monotonic() + PATIENCE_SECONDS
        while not shares:
            if not self._under_way:
                self._ask(num_timesteps, wishes)
            shares = self._answers()
            if not shares:
                if time.monotonic() > deadline:
                    raise AgentError(
                        f"no env runner answered for {PATIENCE_SECONDS} s; see Ray's logs, or use fewer of them."
                    )
                time.sleep(0.2)
                self.restore_env_runners(self.env_runner_group)  # type: ignore[attr-defined]
        self._count(shares)
        if self.config.env_config["beside"] and self._left:
            self._ask(num_timesteps, wishes)
        return shares

    def hand_back_weights(self) -> None:
        """Gives the learner's weights to the env runner in this process; workers get them with the next request."""
        module = self.env_runner.module
        self.learner_group.foreach_learner(
            lambda learner: module.load_state_dict(learner.module[DEFAULT_MODULE_ID].state_dict(), strict=False)
        )

    @property
    def _left(self) -> int:
        return self.config.env_config["limit"] - self.requests

    def _count(self, shares: list[Share]) -> None:
        self.metrics.aggregate([share.metrics for share in shares], key=ENV_RUNNER_RESULTS)
        self._collected += sum(share.requests for share in shares)
        self._earned += sum(share.earned for share in shares)
        self._reward_scale = shares[0].reward_scale

    def _ask(self, num_timesteps: int, wishes: dict[str, Any]) -> None:
        """Requests a batch from the workers that are alive, in equal parts; they sample with the learner's present weights."""
        runners = self.env_runner_group.healthy_env_runner_ids()
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        state = self.learner_group.get_state(components=component)[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        weights = ray.put(state[DEFAULT_MODULE_ID])
        parts = _parts(num_timesteps, len(runners)), _parts(self._left, len(runners))
        calls = [
            partial(_share, weights, num_timesteps=wanted, limit=limit, reward_scale=self._reward_scale, **wishes)
            for wanted, limit in zip(*parts, strict=True)
            if limit
        ]
        runners = runners[: len(calls)]
        if runners:
            self._under_way = self.env_runner_group.foreach_env_runner_async(
                calls, tag="share", remote_worker_ids=runners
            )

    def _answers(self) -> list[Share]:
        """The shares asked for, in the order of the workers; those of workers that died are missing."""
        found: dict[int, Share | Exception] = {}
        while self.env_runner_group.num_in_flight_async_reqs("share"):
            found |= dict(self.env_runner_group.fetch_ready_async_reqs(tags="share", timeout_seconds=1.0))
        self._under_way = 0
        for _, share in sorted(found.items()):
            if isinstance(share, Exception):
                raise share
        return [share for _, share in sorted(found.items())]  # type: ignore[misc]

    # ------------------------------------------------------------------ checkpoints
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, the books, and torch's random state."""
        state = super().get_state(components, not_components=not_components, **kwargs)  # type: ignore[misc]
        return state | {
            "books": (self._collected, self._earned, self._told, self._reward_scale),
            "torch": torch.get_rng_state().numpy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` returned."""
        super().set_state(state)  # type: ignore[misc]
        self._collected, self._earned, self._told, self._reward_scale = state["books"]
        torch.set_rng_state(torch.from_numpy(state["torch"]))

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Goes on from a checkpoint that `save_to_path` wrote."""
        super().restore_from_path(path, *args, **kwargs)  # type: ignore[misc]
        self.hand_back_weights()


def _share(weights: Any, runner: BatchedEnvRunner, **wishes: Any) -> Share | Exception:
    """In a worker: RLlib takes an exception for a death, so that it is brought back as a result."""
    try:
        return runner.share(weights=ray.get(weights), **wishes)
    except Exception as error:
        return error


def _parts(number: int, count: int) -> list[int]:
    """`count` numbers as even as can be that add up to `number`, the larger ones first."""
    return [number // count + (place < number % count) for place in range(count)]


def joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all batches, column by column."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
