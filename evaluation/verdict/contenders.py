"""Contenders: what competes, and which configurations of it are tried.

Every contender gets the same number of configurations and of simulated events. The first configuration is always that
of the defaults; the others are drawn without repetition from the products below.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from agents.base import Agent, TrainingStopped
from agents.constant import Constant, SearchConfig
from agents.loading import agent_names, resolve_agent
from agents.pipeline import Pipeline, PipelineAgent, PipelineConfig
from agents.rankers.loading import shown_name
from envs.errors import ConfigurationError
from envs.measures import RewardWeights
from evaluation.comparison import blamed_on
from evaluation.verdict.arena import LESSONS, Arena, ranker_class
from evaluation.verdict.config import VerdictConfig

SUPERVISED, CONSTANT, RL, BANDIT = "supervised", "constant", "rl", "bandit"
FAMILIES = (SUPERVISED, CONSTANT, RL, BANDIT)

Settings = Mapping[str, Any]
"""A configuration, as JSON can hold it; empty for the defaults."""

RERANKED: tuple[tuple[str, Settings], ...] = (
    ("greedy", {}),
    *(("mmr", {"trade_off": weight}) for weight in (0.9, 0.7, 0.5)),
    *(("dpp", {"trade_off": weight}) for weight in (0.9, 0.7)),
    *(("boosted", {"freshness": boost}) for boost in (0.25, 0.5, 1.0, 2.0)),
    *(("boosted", {"freshness": boost, "popularity": -0.25}) for boost in (0.5, 1.0)),
)
"""Re-rankers of supervised pipelines and their strengths."""
_RANKERS = {"rankers": (("sasrec",), ("sasrec", "logistic"), ("logistic", "sasrec"), ("sasrec", "gbdt"))}
"""What agents that score candidates see of the log's rankers; where they begin with an order, it is that of the first."""
_GRADIENT = {"learning_rate": (3e-4, 1e-3, 3e-3), "gamma": (0.0, 0.8, 0.95, 0.99)}
_PPO = {
    **_GRADIENT,
    "gae_lambda": (0.7, 0.9, 1.0),
    "entropy": (0.0, 0.003, 0.01),
    "epochs": (3, 6, 10),
    "batch": (512, 1024, 2048),
    "num_envs": (64, 256),
}
_WEIGHTS = {**_PPO, "initial_log_std": (-1.2, -0.7, -0.3)}
_SLATES = {**_PPO, **_RANKERS, "sharpness": (1.5, 3.0, 6.0)}
_VALUE = {
    "learning_rate": (2e-4, 5e-4, 1e-3),
    "gamma": (0.0, 0.8, 0.9, 0.97),
    "gradient_steps": (2, 4, 8),
    "num_envs": (64, 128),
    "warm_up_share": (0.03, 0.1),
    "epsilon_start": (0.03, 0.1, 0.3),
    "epsilon_end": (0.01, 0.03),
    "prioritise": (0.0, 0.5),
    "target_every": (500, 2_000),
}
_BANDIT = {**_RANKERS, "ridge": (0.1, 1.0, 10.0), "num_envs": (64, 256)}
SPACES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "ppo": _WEIGHTS,
    "ppo_preference": _WEIGHTS,
    "ppo_blend": {**_WEIGHTS, "rankers": (("sasrec", "din"), ("sasrec", "logistic"), ("sasrec", "gbdt"))},
    "ppo_slate": _SLATES,
    "marwil": {**_SLATES, "beta": (0.0, 1.0), "logged": (1_000, 2_000, 5_000)},
    "dqn": {**_VALUE, "n_step": (1, 3, 10), "epsilon_start": (0.1, 0.3, 1.0)},
    # its steps are slots
    "dqn_slots": {**_VALUE, **_RANKERS, "n_step": (1, 10, 30), "prior": (0.03, 0.1, 0.3)},
    "slateq": {
        **_VALUE,
        **_RANKERS,
        "learning_rate": (5e-4, 1e-3, 2e-3),
        "n_step": (1, 3, 6, 10),
        "sharpness": (0.5, 1.0, 2.0),
    },
    "linucb": {**_BANDIT, "alpha": (0.1, 0.25, 0.5, 1.0, 2.0)},
    "thompson": {**_BANDIT, "scale": (0.05, 0.1, 0.2, 0.4, 0.8)},
}
"""Agent -> field of its options -> values tried. Fields that its options lack are passed over; an agent that is not named has
those of `_GRADIENT`."""
_SEARCHES = {"settings": (12, 24, 48), "kept": (1 / 3, 1 / 2), "rounds": (2, 3, 4), "fewest_lives": (6, 12)}
"""Searches of the contender 'constant', which tunes its four weights on its events by itself."""


@dataclass(frozen=True)
class Taught:
    """What a training gives."""

    agent: Agent
    requests: int
    """Simulated events that it learnt from."""
    stopped: bool = False
    """Whether losses or rewards were no longer finite; the agent is then what it was before that."""


@dataclass(frozen=True)
class Contender:
    """Something that competes."""

    name: str
    family: str
    """One of `FAMILIES`."""
    spec: str
    """Of the ranker or agent."""

    @property
    def stem(self) -> str:
        """What its files are called."""
        return stem_of(self.name)

    # ------------------------------------------------------------------ configurations
    def configurations(self, count: int, seed: int) -> list[Settings]:
        """At most `count` of them, fewer where there are no more.

        The first is that of the defaults; of a pipeline, greedy order by the log alone, and the second greedy order by its own
        events.
        """
        if self.family == SUPERVISED:
            reranked = [{"reranker": name, "strength": strength} for name, strength in RERANKED]
            every = [{"lessons": lessons, **order} for order in reranked for lessons in LESSONS]
            begun = [settings for settings in every[: len(LESSONS)] if settings["lessons"] in ("log", "events_own")]
        else:
            space = self._space()
            every = [dict(zip(space, values, strict=True)) for values in product(*space.values())] if space else []
            begun = [{}]
        others = [settings for settings in every if settings not in begun]
        order = np.random.default_rng(seed).permutation(len(others))
        return [*begun, *(others[place] for place in order)][:count]

    def _space(self) -> Mapping[str, Sequence[Any]]:
        if self.family == CONSTANT:
            return _SEARCHES
        options = getattr(resolve_agent(self.spec), "options_class", None)
        known = {field.name for field in fields(options)} if options is not None else set()
        return {name: values for name, values in SPACES.get(self.name, _GRADIENT).items() if name in known}

    # ------------------------------------------------------------------ what it needs beforehand
    def rankers(self, settings: Settings) -> tuple[str, ...]:
        """Rankers that must have been fitted to the log."""
        if self.family == SUPERVISED:
            return (self.spec,)
        options = self._options(settings)
        return tuple(getattr(options, "rankers", ()))

    def needs_events(self, settings: Settings) -> bool:
        """Whether it learns from simulated events that another policy has made."""
        return self.family == SUPERVISED and settings["lessons"] not in ("log", "events_own")

    def _options(self, settings: Settings) -> Any:
        kind: Any = resolve_agent(self.spec)
        options = getattr(kind, "options_class", None)
        # what JSON holds as a list was a tuple
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        return None if options is None else options(**given)

    # ------------------------------------------------------------------ learning
    def trained(
        self,
        settings: Settings,
        arena: Arena,
        requests: int,
        seed: int,
        folder: Path,
        weights: RewardWeights | None = None,
    ) -> Taught:
        """The agent after a training. One that cannot go on is judged by what it had learnt, and is no reason to stop the verdict.

        Args:
            settings: the configuration.
            arena: where it learns.
            requests: simulated events that it may learn from.
            seed: of the training.
            folder: of checkpoints and curves.
            weights: of the reward, by default the arena's own. A pipeline does not look at rewards.

        Raises:
            AgentError: if an agent of a user's own fails.
        """
        slate_size = arena.comparison.serving.slate_size
        if self.family == SUPERVISED:
            config = PipelineConfig(
                reranker=settings["reranker"],
                reranker_settings=settings["strength"],
                candidates=arena.comparison.serving.num_candidates,
            )
            pipeline = Pipeline(config)
            pipeline.recall = arena.recall
            pipeline.ranker = arena.taught_ranker(self.spec, settings["lessons"], requests, seed)
            pipeline.reranker = config.make_reranker().fit(arena.world.policy_log)
            return Taught(PipelineAgent(pipeline, slate_size), arena.spent(settings["lessons"], requests, seed))
        training, traffic = arena.lessons(requests, seed, folder, weights)
        told: list[int] = []
        agent = self._agent(settings, slate_size, seed, weights)
        for ranker in self.rankers(settings):
            arena.ranker(ranker, seed)
        stopped = False
        try:
            with blamed_on(self.name, type(agent), "fit"):
                agent.fit(arena.world.policy_log, replace(training, report=told.append))
        except TrainingStopped:
            stopped = True
        for checkpoint in folder.glob("checkpoint-*"):
            rmtree(checkpoint)
        # what an agent tells is what it learnt from: also before a training was cut short, and without the surplus of a vector step
        return Taught(agent, told[-1] if told else traffic.requests, stopped)

    def _agent(self, settings: Settings, slate_size: int, seed: int, weights: RewardWeights | None) -> Agent:
        if self.family == CONSTANT:
            constant = Constant(slate_size, seed)
            constant.search = SearchConfig(**settings)  # type: ignore[misc]
            return constant
        kind: Any = resolve_agent(self.spec)
        options = self._options(settings)
        if options is None:
            return kind(slate_size=slate_size, seed=seed)
        if weights is not None and hasattr(options, "reward_weights"):
            options = replace(options, reward_weights=weights)
        return kind(slate_size=slate_size, seed=seed, options=options)


def stem_of(name: str) -> str:
    """A contender's name as files and figures bear it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def contenders_of(config: VerdictConfig) -> list[Contender]:
    """All that compete, family by family.

    Raises:
        AgentError: if there is no such agent.
        ConfigurationError: if there is no such ranker, one is named twice, or an oracle is.
    """
    found = [Contender(f"{shown_name(spec)}", SUPERVISED, spec) for spec in config.rankers]
    for contender in found:
        ranker_class(contender.spec)
    found.append(Contender(Constant.name, CONSTANT, Constant.name))
    for family, specs in ((RL, config.learners), (BANDIT, config.bandits)):
        for spec in specs:
            kind = resolve_agent(spec)
            if kind.is_oracle:
                raise ConfigurationError(
                    f"'{spec}' looks into the simulator; an oracle bounds the contenders and is none."
                )
            name = spec if spec in agent_names() else vars(kind).get("name") or kind.__name__
            found.append(Contender(name, family, spec))
    names = [contender.name for contender in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"'{name}' competes twice; name it once, or give your own another `name`.")
    return found
