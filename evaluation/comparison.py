"""The comparison: every agent serves the same simulated users under common random numbers, life for life.

`serve` lets one agent serve all evaluation users until every life has ended; `compare` does it for several agents. Step
measures are those of `envs.measures`; `lives.py` sums them over lives, `summary.py` makes figures of the sums.
"""

import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agents.base import Agent, checked_slates
from agents.side_by_side import in_shards, let_own_classes_travel
from envs.candidate_source import CandidateSource
from envs.errors import AgentError, ConfigurationError, DriftrecError
from envs.event_log import EventLog
from envs.measures import RewardWeights
from envs.randomness import Purpose, draw_uniform
from envs.rewards import Reward
from envs.slate_env import SlateVectorEnv
from envs.splits import split_users
from envs.world import World
from evaluation.lives import Lives, Shown, Traces
from evaluation.summary import flat_figures, initial_name, summarise

EVALUATION_SEED_OFFSET = 1_000_003
"""Added to the run's seed for the lives of the comparison, so that no training meets the same draws."""


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What environments of a run have in common, in training and in the comparison."""

    slate_size: int = 10
    """Slots of a slate."""
    num_candidates: int = 100
    """Candidates of a request."""
    reward_weights: Reward = field(default_factory=RewardWeights)
    """Of the scalar reward; or another `Reward`."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Whom the agents serve, and what is kept of it."""

    users: int | None = None
    """Number of evaluation users, at most; None for all of them."""
    seed: int = 0
    """Decides who is an evaluation user, and all draws of their lives."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Of the environment."""
    traced_users: int = 16
    """Number of users whose hidden interest is recorded for the plot of interests."""
    record_events: bool = True
    """Whether the event log is kept."""
    shard_users: int = 8192
    """Users that are served in one piece; more are served side by side where a Ray runs."""

    def __post_init__(self) -> None:
        if self.users is not None and self.users < 2:
            raise ConfigurationError(f"users is {self.users}; an interval over users needs at least 2.")

    def within(self, world: World) -> "ComparisonConfig":
        """The same with no more candidates than a small catalogue has items.

        Raises:
            ConfigurationError: if it has fewer items than a slate has slots.
        """
        if world.num_items < self.serving.slate_size:
            raise ConfigurationError(
                f"log '{world.policy_log.name}' has {world.num_items} items; a slate of {self.serving.slate_size} needs more."
            )
        count = min(self.serving.num_candidates, world.num_items)
        return replace(self, serving=replace(self.serving, num_candidates=count))


def evaluation_users(world: World, config: ComparisonConfig) -> NDArray[np.int64]:
    """The users that the comparison simulates."""
    _, users = split_users(world, config.seed)
    if config.users is None or config.users >= len(users):
        return users
    order = np.argsort(draw_uniform(config.seed, Purpose.SPLIT, users, 1), kind="stable")
    return np.sort(users[order[: config.users]])


def role_of(agent: Agent) -> str:
    """'oracle', 'learner' (trained by reinforcement learning) or 'baseline'."""
    if agent.is_oracle:
        return "oracle"
    return "baseline" if agent.initial_policy() is None else "learner"


@contextmanager
def blamed_on(name: str, kind: type[Agent], method: str) -> Iterator[None]:
    """Turns an exception in the code of a user's own agent into an AgentError that names the agent, file and line.

    Exceptions of driftrec's own agents pass: those are bugs, whose traceback is wanted.
    """
    try:
        yield
    except DriftrecError:
        raise
    except Exception as error:
        if kind.__module__.partition(".")[0] == "agents":
            raise
        frames = traceback.extract_tb(error.__traceback__)
        source = inspect.getsourcefile(kind)
        frame = next((frame for frame in reversed(frames) if frame.filename == source), frames[-1])
        raise AgentError(
            f"agent '{name}' failed in {method} ({frame.filename}, line {frame.lineno}): {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True)
class Served:
    """What is left when an agent has served everybody."""

    users: pl.DataFrame
    """One row a user: agent, role, training_seed, user and the columns that `METRICS` names."""
    agents: pl.DataFrame
    """One row: agent, role, training_seed, the columns that `CATALOGUE_METRICS` names, seconds."""
    interest: pl.DataFrame
    """agent, training_seed, user, request, visit, day, category, share: hidden interest of the traced users."""
    events: EventLog


def serve(
    agent: Agent,
    world: World,
    candidate_source: CandidateSource,
    config: ComparisonConfig,
    *,
    name: str,
    role: str | None = None,
    training_seed: int = 0,
    shards: int = 1,
    users: NDArray[np.int64] | None = None,
    lives_seed: int | None = None,
) -> Served:
    """Lets `agent` serve every evaluation user until each life has ended.

    The draws of a life depend on the run's seed, the user and what is shown, not on the agent's name or on who else is
    served: two agents that show the same meet the same user.

    Args:
        agent: fitted.
        world: where users start.
        candidate_source: the recall stage.
        config: whom it serves.
        name: of the agent in tables.
        role: there; `role_of(agent)` by default.
        training_seed: there.
        shards: parts of the users that are served as tasks of the Ray that runs; the result is the same to the bit.
        users: [N] the evaluation users to serve, ascending; all by default.
        lives_seed: of the draws of their lives, by default that of a comparison.

    Raises:
        AgentError: if a slate has the wrong shape, an index outside the candidates, or an item twice.
    """
    begin = perf_counter()
    users = evaluation_users(world, config) if users is None else users
    seed = config.seed + EVALUATION_SEED_OFFSET if lives_seed is None else lives_seed
    served = (agent, world, candidate_source, config, name, users, seed)
    if shards == 1:
        parts = [_serve_part(served, 0, len(users))]
    else:
        let_own_classes_travel(type(agent))
        parts = in_shards(_serve_part, served, len(users), shards)
    shown = Shown(world)
    for part in parts:
        shown.join(part.shown)
    label = {"agent": name, "role": role or role_of(agent), "training_seed": training_seed}
    return Served(
        users=_labelled(pl.concat([part.users for part in parts]), label),
        agents=pl.DataFrame({**label, **shown.columns(), "serve_seconds": perf_counter() - begin}),
        interest=_labelled(pl.concat([part.interest for part in parts]).sort("request", maintain_order=True), label),
        events=parts[0].events if shards == 1 else EventLog.merged([part.events for part in parts]),
    )


@dataclass(frozen=True)
class _Part:
    """What is left when an agent has served a part of the users."""

    users: pl.DataFrame
    interest: pl.DataFrame
    shown: Shown
    events: EventLog


def _serve_part(
    served: tuple[Agent, World, CandidateSource, ComparisonConfig, str, NDArray[np.int64], int], begin: int, end: int
) -> _Part:
    """Serves the users `begin` to `end` of those to be served until each life has ended."""
    agent, world, candidate_source, config, name, all_users, seed = served
    users = all_users[begin:end]
    events = EventLog() if config.record_events else None
    env = SlateVectorEnv(
        len(users),
        world=world,
        candidate_source=candidate_source,
        users=users,
        slate_size=config.serving.slate_size,
        num_candidates=config.serving.num_candidates,
        reward_weights=config.serving.reward_weights,
        autoreset_mode=AutoresetMode.DISABLED,
        event_log=events,
        seed=seed,
    )
    env.policy_version = name
    if agent.is_oracle:
        agent.bind(env)  # type: ignore[attr-defined]
    env.reset()
    lives = Lives(len(users), world)
    traces = Traces(env, min(max(config.traced_users - begin, 0), len(users)))
    place = np.arange(len(users))
    while env.num_envs:
        for array in env.observation.to_dict().values():
            array.flags.writeable = False  # what is shown is checked against what was offered
        with blamed_on(name, type(agent), "act"):
            returned = agent.act(env.observation)
        slates, propensities = checked_slates(name, returned, env.observation, config.serving.slate_size)
        env.set_propensities(propensities)
        traces.record(env, place, lives)
        _, reward, terminated, truncated, info = env.step(slates)
        lives.add(place, reward, terminated | truncated, info)
        if env.ended.any():
            place = place[env.drop_ended()]
    return _Part(
        users=pl.DataFrame({"user": users, **lives.columns()}),
        interest=traces.table(users),
        shown=lives.shown,
        events=events or EventLog(),
    )


def _labelled(table: pl.DataFrame, label: Mapping[str, Any]) -> pl.DataFrame:
    return table.select(*[pl.lit(value).alias(name) for name, value in label.items()], pl.all())


@dataclass(frozen=True)
class ComparisonResult:
    """Results of several agents on the same users; each table as in `Served`, one agent below the other."""

    users: pl.DataFrame
    agents: pl.DataFrame
    interest: pl.DataFrame
    events: Mapping[str, EventLog] = field(default_factory=dict)
    """Event logs by agent and training seed ('mf-seed0'), where they were kept in memory."""

    def summary(self, reference: str = "mf") -> pl.DataFrame:
        """See `summarise`."""
        return summarise(self.users, self.agents, reference)

    def figures(self, reference: str = "mf") -> dict[str, float | int | None]:
        """See `flat_figures`."""
        return flat_figures(self.summary(reference))


def compare(
    agents: Mapping[str, Agent | Sequence[Agent]],
    world: World,
    candidate_source: CandidateSource,
    config: ComparisonConfig | None = None,
) -> ComparisonResult:
    """Compares fitted agents on the same users.

    Args:
        agents: name -> a fitted agent, or one for each training seed (seeds are numbered from 0). Of an agent trained by
            reinforcement learning its policy before training is served too, as '<name> (initial)'.
        world: where users start.
        candidate_source: the recall stage, the same for all.
        config: whom they serve.

    Raises:
        AgentError: if an agent's slates cannot be shown.
    """
    config = config or ComparisonConfig()
    served = []
    events: dict[str, EventLog] = {}
    for name, given in agents.items():
        for training_seed, agent in enumerate([given] if isinstance(given, Agent) else given):
            for label, policy, role in policies(name, agent):
                result = serve(
                    policy, world, candidate_source, config, name=label, role=role, training_seed=training_seed
                )
                served.append(result)
                events[f"{label}-seed{training_seed}"] = result.events
    return ComparisonResult(
        users=pl.concat([part.users for part in served]),
        agents=pl.concat([part.agents for part in served]),
        interest=pl.concat([part.interest for part in served]),
        events=events,
    )


def policies(name: str, agent: Agent) -> list[tuple[str, Agent, str]]:
    """(name, policy, role) of all that is served for an agent: itself, and its policy before training where it has one."""
    initial = agent.initial_policy()
    served = [(name, agent, role_of(agent))]
    return served if initial is None else [*served, (initial_name(name), initial, "initial")]
