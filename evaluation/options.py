"""Options of the script, one class for each subcommand, and how they are read from the command line and from files."""

import inspect
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from agents.loading import AGENT, agent_names, default_agents
from agents.rankers.loading import RANKER, ranker_names, resolve_ranker, shown_name
from agents.updates.policies.loading import UPDATE_POLICY, resolve_update_policy
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights
from envs.modifiers import modifiers_from
from envs.rewards import reward_from
from envs.scenarios import SCENARIO, scenario
from envs.users.fit import FitConfig
from envs.users.models import check_user_model
from envs.users.selection import Choice, choose_config
from envs.world import WorldConfig
from evaluation.comparison import ComparisonConfig, ServingConfig
from evaluation.fidelity.study import FidelityConfig
from evaluation.ranking.growth import GROWN
from evaluation.ranking.study import RANKER_PARTS
from evaluation.ranking.trials import RankerStudyConfig
from evaluation.serving.config import FLOOR, ServingStudyConfig
from evaluation.training import TrainingConfig
from evaluation.updates.config import UpdateStudyConfig
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.worlds import DEFAULT_WORLDS, PLAIN_MODEL, WORLD, own_world
from recall import EmbeddingRecall, MergedRecall, RecallConfig

NOT_PART_OF_A_RUN = ("out", "resume", "config", "jobs", "ray_address")
"""Options that say where and how a run is made, not what it computes."""


REFERENCES = ("random", "mf", "constant", "oracle_lookahead")
"""Agents that a comparison is measured by: the ends of the normalised reward, and the baselines of paired differences."""


def _sized(default: str) -> Any:
    """Help for an option whose default depends on --fast."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {default} with --fast)")


def _at_least(low: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < low:
            raise ConfigurationError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}.")


def _one_size(fast: bool, reference: bool, hours: float | None) -> None:
    if fast and reference:
        raise ConfigurationError("--fast and --reference exclude each other; give one of them.")
    if hours is not None and not 0 < hours < float("inf"):
        raise ConfigurationError(f"--hours is {hours}; it must be a positive number.")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that every subcommand but `plot` has."""

    dataset: str = "ml-100k"
    """'ml-100k' (fetched once and cached), 'synthetic', or a path: a folder or archive of MovieLens or KuaiRand, or a CSV, TSV
    or Parquet file (or folder of such) with --columns."""
    columns: str | None = None
    """Which column is what in a table of your own, as in user=userId,item=movieId,time=timestamp; further keys are rating,
    click, watch, request, position, random, category and birth."""
    user_model: str = "parametric"
    """How users are modelled: 'parametric', 'dien', or file.py:Class for a user model of your own."""
    skip_bad_rows: bool = False
    """Leave corrupt rows out and count them, instead of stopping at the first."""
    seed: int = 0
    """Seed of everything random."""
    fast: bool = False
    """Every stage, but small: a look at how it works, not at who wins."""
    out: Path | None = None
    """Folder of the run; by default results/<subcommand>-<date>-<time>."""
    config: Path | None = None
    """TOML or JSON file with options (also the config.json of an earlier run); the command line has precedence."""

    def __post_init__(self) -> None:
        check_user_model(self.user_model)

    def choose_fit(self, log: InteractionLog, search: bool | None = None) -> Choice:
        """How users are fitted: d and regularisation as chosen for the log; with --fast one pass over each user's first events."""
        if self.fast:
            return Choice(config=FitConfig(seed=self.seed, epochs=1, max_events=60), tried=(), users=0)
        return choose_config(log, FitConfig(seed=self.seed), search)


@dataclass(frozen=True, kw_only=True)
class WorldOptions(DataOptions):
    """How the world is made in which users live."""

    days: int = 30
    """Horizon of a life in days (at most 10 with --fast)."""
    held_back_share: float = 0.2
    """Share of the catalogue that is withheld from policies and born during the run."""
    births_per_day: float = 0.0
    """Mean number of new items, drawn from the fitted ones, that are born on each day."""
    retire_after_days: float | None = None
    """Days after its birth at which an item is no longer offered; by default never."""
    drawn_users: int = 0
    """Number of simulated users that are drawn from the fitted population, each with a history of its own; 0 simulates the
    log's own users."""
    arrivals_per_day: float = 0.0
    """Mean number of new users, without a history, who arrive on each day."""
    modifiers: str = ""
    """Hidden changes over the days, separated by commas: drift, shock, season, or file.py:Class for one of your own."""
    popular_click_rate: float = 0.2
    """Click rate of popular slates on day 0; sets how willing users are to consume nothing (assumed, where the log has no
    exposures)."""
    fresh_days: float = 14.0
    """Items younger than this count as fresh."""
    exclude_seen: Annotated[
        bool | None, tyro.conf.arg(help_behavior_hint="(default: as the log: True where it has no repeats)")
    ] = None
    """Whether items that a user has consumed are left out of its candidates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.world()

    def world(self) -> WorldConfig:
        """The part of the options that makes the world."""
        return WorldConfig(
            days=min(self.days, 10) if self.fast else self.days,
            held_back_share=self.held_back_share,
            births_per_day=self.births_per_day,
            retire_after_days=self.retire_after_days,
            drawn_users=self.drawn_users,
            arrivals_per_day=self.arrivals_per_day,
            modifiers=modifiers_from([spec.strip() for spec in self.modifiers.split(",") if spec.strip()]),
            popular_click_rate=self.popular_click_rate,
            fresh_days=self.fresh_days,
            exclude_seen=self.exclude_seen,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(WorldOptions):
    """Compares agents on the same simulated users: fit, recall, training, comparison, model updates, plots."""

    agents: Annotated[
        str,
        tyro.conf.arg(
            help="Names, or file.py:Class for an agent of your own, separated by commas. Further names are "
            f"{', '.join(name for name in agent_names() if name not in default_agents())}; many of these fit supervised rankers "
            "first, which takes minutes, also with --fast."
        ),
    ] = ",".join(default_agents())
    recall: str | None = None
    """Recall channels with their shares of the candidates, "als=0.6,popular=0.4", or without for equal ones; a name or
    file.py:Class each. By default ALS alone, which keeps a tenth for items without rows in the log. Model updates keep to ALS."""
    references: bool = True
    """Add those of random, mf, constant and oracle_lookahead that are missing: what every comparison is measured by."""
    users: Annotated[int | None, _sized("400, or 16")] = None
    """Evaluation users, at most; none of them is met in training."""
    requests: Annotated[int | None, _sized("40000, or 2048")] = None
    """Simulated requests that each agent that trains may spend."""
    training_seeds: int = 1
    """Number of times that each agent is trained, with seeds counted up from --seed."""
    user_model_seeds: int = 1
    """Above 1: that many user models, each fitted to users drawn with replacement, whose spread widens every interval."""
    diversity_weight: float = RewardWeights.diversity
    """Worth of the diversity of a consumed item, in clicks."""
    freshness_weight: float = RewardWeights.freshness
    """Worth of a consumed item being fresh, in clicks."""
    reward: str | None = None
    """What a request earns instead of these weighted sums: file.py:Class for a reward of your own."""
    update_seeds: Annotated[int | None, _sized("3, or 1")] = None
    """Seeds of the model-update rules; 0 leaves them out."""
    jobs: int = 2 if (os.cpu_count() or 1) > 1 else 1
    """Agents and seeds trained side by side, as Ray tasks; where users are many, parts of them too."""
    ray_address: str | None = None
    """A Ray cluster on whose machines the work is done ("auto" or host:port); by default it is done on this one."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def sized(self) -> "CompareOptions":
        """The options with sizes filled in."""
        small = self.fast
        return replace(
            self,
            users=self.users if self.users is not None else (16 if small else 400),
            requests=self.requests if self.requests is not None else (2_048 if small else 40_000),
            update_seeds=self.update_seeds if self.update_seeds is not None else (1 if small else 3),
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, jobs=self.jobs, training_seeds=self.training_seeds, user_model_seeds=self.user_model_seeds)
        _at_least(1, requests=self.requests)
        _at_least(2, users=self.users)
        _at_least(0, update_seeds=self.update_seeds)
        self.recall_stage()
        self.comparison()

    def recall_stage(self) -> EmbeddingRecall | MergedRecall:
        """The candidate source, not yet fitted.

        Raises:
            ConfigurationError: if there is no such channel, one is named twice, or the shares do not sum to 1.
        """
        if self.recall is None:
            return EmbeddingRecall(seed=self.seed)
        return MergedRecall.of(RecallConfig.parse(self.recall, self.seed))

    def specs(self) -> list[str]:
        """The agents to compare, references added."""
        specs = [spec.strip() for spec in self.agents.split(",") if spec.strip()]
        return specs + [name for name in REFERENCES if self.references and specs and name not in specs]

    def comparison(self) -> ComparisonConfig:
        """The part of the options that says whom the agents serve."""
        weights = RewardWeights(diversity=self.diversity_weight, freshness=self.freshness_weight)
        if self.reward is not None and weights != RewardWeights():
            raise ConfigurationError(
                f"--reward '{self.reward}' pays by a rule of its own; leave out --diversity-weight and --freshness-weight."
            )
        reward = weights if self.reward is None else reward_from(self.reward)
        return ComparisonConfig(users=self.users, seed=self.seed, serving=ServingConfig(reward_weights=reward))

    def training(self) -> TrainingConfig:
        """The part of the options that says what the agents learn from."""
        seeds = tuple(range(self.seed, self.seed + self.training_seeds))
        return TrainingConfig(requests=self.requests or 0, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class FitOptions(DataOptions):
    """Fits the user model and its baselines, as logged and shuffled inside visits, and prints what was found.

    Example: python simulate.py fit --dataset path/to/ml-latest-small
    """

    ablation: bool = False
    """Fit again without each term and print what the term buys on held-out events; what was fitted is kept and not fitted twice."""
    search: bool = False
    """Choose d and regularisation anew, also for a log whose defaults were chosen before."""


@dataclass(frozen=True, kw_only=True)
class FidelityOptions(DataOptions):
    """Shows how like the log's users the simulated ones are: free-running users beside held-out real ones.

    Example: python simulate.py fidelity --dataset ml-100k
    """

    free_users: Annotated[int | None, _sized("2000, or 200")] = None
    """Users who run freely, at most; drawn at random where the log has more."""
    halvings: Annotated[int | None, _sized("50, or 10")] = None
    """Random halvings of the users for the distances."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(20, free_users=self.free_users)
        _at_least(2, halvings=self.halvings)

    def fidelity(self, max_events: int) -> FidelityConfig:
        """What the report rests on, of each user's first `max_events` events."""
        return FidelityConfig(
            max_users=self.free_users or (200 if self.fast else 2_000),
            splits=self.halvings or (10 if self.fast else 50),
            max_events=max_events,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(WorldOptions):
    """Moves every assumed parameter over its plausible range and shows whether 'agent A beats agent B' still holds.

    Example: python simulate.py sensitivity --pairs mf:popular,mmr:mf
    """

    pairs: str = "mf:popular,mmr:mf"
    """Pairs of agents A:B, separated by commas."""
    users: Annotated[int | None, _sized("200, or 16")] = None
    """Evaluation users, at most."""
    requests: Annotated[int | None, _sized("40000, or 2048")] = None
    """Simulated requests that an agent that trains may spend, once, in the world of the defaults."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(2, users=self.users)
        _at_least(1, requests=self.requests)

    def comparison(self) -> ComparisonConfig:
        """Whom the agents serve."""
        users = self.users or (16 if self.fast else 200)
        return ComparisonConfig(users=users, seed=self.seed, traced_users=0, record_events=False)

    def training_requests(self) -> int:
        """Simulated requests that an agent that trains may spend."""
        return self.requests or (2_048 if self.fast else 40_000)


@dataclass(frozen=True, kw_only=True)
class RankerOptions(DataOptions):
    """Fits supervised rankers to a log and judges them on rows held out: by ranks in the whole catalogue, and by probabilities.

    Example: python simulate.py rankers --rankers mf_bpr,sasrec,my_file.py:MyRanker
    """

    rankers: str = ",".join(ranker_names())
    """Rankers by name or file.py:Class, separated by commas; popularity is always beside them."""
    parts: str = ",".join(RANKER_PARTS)
    """Parts of the report, separated by commas: offline (held-out rows of the log), growth (with the amount of data, late events,
    wrong labels), serving (pipelines of all rankers and re-rankers against simulated users)."""
    growth_rankers: str | None = None
    """Rankers of the growth part; by default those of gbdt, mf_bpr, neumf, din and sasrec, and those from a file, that
    --rankers names, or all of them where it names none of these."""
    ranker_seeds: int = 1
    """Times that each ranker is fitted for offline and growth, with seeds counted up from --seed; their spread widens the
    intervals."""
    users: Annotated[int | None, _sized("200, or 12")] = None
    """Simulated users who are served, at most."""
    requests: Annotated[int | None, _sized("40000, or 500")] = None
    """Simulated requests that the rankers' second training learns from, about."""
    debias: bool = False
    """Weigh what is learnt by one over the chance with which it was shown, where that is known: of simulated requests, and of
    logs that tell it."""
    rounds: Annotated[int | None, _sized("5, or 1")] = None
    """Rounds in which pipelines learn from their own traffic."""
    loop_seeds: Annotated[int | None, _sized("3, or 2")] = None
    """Times that these rounds are run, under other draws."""
    epochs: int | None = None
    """Passes of network rankers at most; by default each ranker's own, with --fast 1."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, epochs=self.epochs, requests=self.requests, rounds=self.rounds, loop_seeds=self.loop_seeds)
        _at_least(1, ranker_seeds=self.ranker_seeds)
        _at_least(2, users=self.users)
        self.chosen_parts()

    def chosen_parts(self) -> tuple[str, ...]:
        """The parts of the report, in the order in which they are made.

        Raises:
            ConfigurationError: if none is named, or one that is none.
        """
        named = [part.strip() for part in self.parts.split(",") if part.strip()]
        unknown = [part for part in named if part not in RANKER_PARTS]
        if unknown or not named:
            wrong = f"names '{unknown[0]}'" if unknown else "is empty"
            raise ConfigurationError(f"--parts {wrong}; name some of {', '.join(RANKER_PARTS)}.")
        return tuple(part for part in RANKER_PARTS if part in named)

    def study(self) -> RankerStudyConfig:
        """What is compared.

        Raises:
            ConfigurationError: if there is no such ranker, or one is named twice, or two have the same class name.
        """
        names = _ranker_list(self.rankers, "--rankers")
        some = tuple(name for name in names if name in GROWN or ":" in name) or names
        grown = some if self.growth_rankers is None else _ranker_list(self.growth_rankers, "--growth-rankers")
        return RankerStudyConfig(
            names=names,
            grown=grown,
            epochs=self.epochs or (1 if self.fast else None),
            debias=self.debias,
            ranker_seeds=self.ranker_seeds,
            seed=self.seed,
        )

    def serving(self) -> ServingStudyConfig:
        """What is served against simulated users: those of `user_model`, and of the parametric and the DIEN-like model."""
        small = ServingStudyConfig(
            rankers=self.study().names,
            rerankers=("greedy", "mmr"),
            users=12,
            days=4,
            requests=500,
            loop_rankers=("popular", "mf_bpr", "din", "sasrec"),
            loop_rounds=1,
            loop_seeds=2,
            learnt_users=200,
            draws=200,
        )
        sizes = small if self.fast else ServingStudyConfig(rankers=self.study().names)
        return replace(
            sizes,
            user_models=tuple(dict.fromkeys((self.user_model, "parametric", "dien"))),
            users=self.users or sizes.users,
            requests=self.requests or sizes.requests,
            loop_rounds=self.rounds or sizes.loop_rounds,
            loop_seeds=self.loop_seeds or sizes.loop_seeds,
            epochs=self.study().epochs,
            debias=self.debias,
            seed=self.seed,
        )


def _ranker_list(text: str, option: str) -> tuple[str, ...]:
    """The rankers that an option names.

    Raises:
        ConfigurationError: if there is no such ranker, none is named, or two would stand under one name in the tables.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigurationError(f"{option} is empty; name some of {', '.join(ranker_names())}.")
    shown = [shown_name(name) for name in names]
    for name in names:
        resolve_ranker(name)
        if shown.count(shown_name(name)) > 1:
            raise ConfigurationError(f"{option} names '{shown_name(name)}' twice; name it once.")
    return names


@dataclass(frozen=True)
class UpdateScale:
    """How large a study of updates is, and the hours on two cores that it is made for."""

    config: UpdateStudyConfig
    hours: float
    """The episodes of `config` are those of so many hours; they grow in proportion to the hours that are given."""


FAST_UPDATES = UpdateScale(
    UpdateStudyConfig(
        scenarios=("shock", "news"),
        days=8,
        visits=30,
        seeds=2,
        tuning_worlds=2,
        episodes=6,
        rules=("every", "cara"),
        learners=("dqn",),
        replays=4,
        unmet=("news",),
        decay_seeds=1,
        decay_visits=15,
    ),
    hours=1 / 60,
)
SMALL_UPDATES = UpdateScale(
    UpdateStudyConfig(
        scenarios=("stationary", "shock", "news"),
        days=30,
        visits=200,
        seeds=3,
        tuning_worlds=3,
        episodes=20,
        replays=36,
        decay_seeds=1,
        decay_visits=150,
    ),
    hours=0.25,
)
REFERENCE_UPDATES = UpdateScale(
    UpdateStudyConfig(
        scenarios=("stationary", "returning", "slow-drift", "shock", "news", "season", "growth"),
        visits=500,
        episodes=36,
        unmet=("shock", "news"),
        rankers=("neumf", "din"),
        decay_seeds=60,
        ranker_decay_seeds=20,
    ),
    hours=2.5,
)


@dataclass(frozen=True, kw_only=True)
class UpdateOptions(DataOptions):
    """When should served models be refreshed? Tuned rules, drift detectors and reinforcement learning, where models age.

    Policies are tuned and trained in worlds that they are not judged in, each family with the same number of episodes; schedules
    replayed on the judged worlds say how good one could be. Without --fast or --reference it is a small study of a quarter of an
    hour on two cores; its intervals are wide.

    Example: python simulate.py updates --scenarios shock,news
    """

    reference: bool = False
    """Seven scenarios, five judged worlds each, and pipelines of further rankers: made for two and a half hours on two cores."""
    hours: float | None = None
    """Hours to be spent, about: episodes of each family grow in proportion."""
    scenarios: str | None = None
    """Scenarios, separated by commas: stationary, returning, slow-drift, shock, news, season, growth, or file.py:Class; by
    default as many as the size of the study allows."""
    update_agents: str = ""
    """Update policies of your own, file.py:Class, separated by commas: tuned or trained and judged like the others; sb3:PPO and the
    like too."""
    event_delay: float = 0.0
    """Hours by which events reach the models late."""
    update_price: float = 1.0
    """Factor of what updates cost: at 30, a nightly update of both parts costs about a twentieth of engagement."""
    episodes: int | None = None
    """Episodes of each family in each scenario; overrides --hours."""
    update_seeds: int | None = None
    """Worlds that policies are judged on: 3, 5 with --reference, 2 with --fast."""
    visits: int | None = None
    """Visits of a day: 200, 500 with --reference, 30 with --fast."""
    days: int | None = None
    """Length of an episode: 30, 60 with --reference, 8 with --fast."""
    jobs: int = 2 if (os.cpu_count() or 1) > 1 else 1
    """Parts of the study done side by side, as Ray tasks."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, jobs=self.jobs, update_seeds=self.update_seeds, visits=self.visits)
        _at_least(2, days=self.days)
        _at_least(3, episodes=self.episodes)
        _one_size(self.fast, self.reference, self.hours)
        if not 0 <= self.event_delay < float("inf"):
            raise ConfigurationError(
                f"--event-delay is {self.event_delay}; it must be a number of hours from 0 upwards."
            )
        if not 0 <= self.update_price < float("inf"):
            raise ConfigurationError(f"--update-price is {self.update_price}; it must be a number from 0 upwards.")
        self.study()

    def scale(self) -> UpdateScale:
        """How large it is unless options say otherwise."""
        return FAST_UPDATES if self.fast else REFERENCE_UPDATES if self.reference else SMALL_UPDATES

    def study(self) -> UpdateStudyConfig:
        """Which policies meet which scenarios, and how often.

        Raises:
            ConfigurationError: if there is no such scenario, none is named, or two have the same name.
            AgentError: if there is no such update policy.
        """
        scale = self.scale()
        sizes = scale.config
        scenarios = sizes.scenarios if self.scenarios is None else tuple(_listed(self.scenarios))
        if not scenarios:
            raise ConfigurationError(f"--scenarios is empty; name some of {', '.join(SCENARIO.known)}.")
        scenarios = tuple(SCENARIO.absolute(spec) if ":" in spec else spec for spec in scenarios)
        names = [scenario(spec).name for spec in scenarios]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(
                    f"--scenarios names '{name}' twice; name it once, or give your own another `name`."
                )
        named = _listed(self.update_agents)
        kinds = [resolve_update_policy(spec) for spec in named]
        # by their names policies stand in tables, by those of their classes in files
        taken = [*sizes.rules, *sizes.learners, "never", "hindsight", *(kind.name for kind in kinds)]
        classes = [kind.__name__ for kind in kinds]
        for spec, kind in zip(named, kinds, strict=True):
            if taken.count(kind.name) > 1 or classes.count(kind.__name__) > 1:
                raise ConfigurationError(
                    f"--update-agents names '{spec}', but the study has a policy of the name '{kind.name}' or a class "
                    f"'{kind.__name__}' besides; name it once, or give your own another `name` and class."
                )
        own = tuple(UPDATE_POLICY.absolute(spec) for spec in named)
        return replace(
            sizes,
            scenarios=scenarios,
            own=own,
            event_delay=self.event_delay,
            update_price=self.update_price,
            episodes=self.episodes or max(round(sizes.episodes * (self.hours or scale.hours) / scale.hours), 3),
            seeds=self.update_seeds or sizes.seeds,
            visits=self.visits or sizes.visits,
            days=self.days or sizes.days,
            seed=self.seed,
        )


LEARNERS = ("ppo", "dqn", "ppo_blend", "ppo_slate", "dqn_slots", "slateq")
"""Agents trained by reinforcement learning that a reference verdict has, as far as there are such."""
REWARDS = tuple(
    RewardWeights(diversity=diversity, freshness=freshness)
    for diversity, freshness in ((0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (1.0, 1.0), (2.0, 2.0))
)
"""Rewards of a verdict's trade-off."""


@dataclass(frozen=True)
class VerdictScale:
    """How large a verdict is: what is in it, and the hours on two cores that it is made for."""

    config: VerdictConfig
    hours: float
    """The requests of `config` are those of so many hours; they grow in proportion to the hours that are given."""
    satiation_users: int
    """Users of the generated world."""
    days: int = 30
    """Horizon of lives."""


FAST_VERDICT = VerdictScale(
    VerdictConfig(
        rankers=("mf_bpr", "logistic"),
        learners=("ppo", "ppo_slate"),
        bandits=("linucb",),
        configurations=2,
        requests=2_048,
        tuning_users=16,
        fresh_users=24,
        seeds=1,
        sweep=REWARDS[1:3],
        epochs=1,
        draws=200,
    ),
    hours=1 / 6,
    satiation_users=80,
    days=10,
)
SMALL_VERDICT = VerdictScale(
    VerdictConfig(
        rankers=("mf_bpr", "logistic", "sasrec"),
        learners=("dqn", "ppo_slate", "slateq"),
        bandits=("linucb",),
        configurations=4,
        requests=8_000,
        tuning_users=60,
        fresh_users=150,
        seeds=2,
        sweep=REWARDS[:3],
    ),
    hours=0.25,
    satiation_users=300,
)
REFERENCE_VERDICT = VerdictScale(
    VerdictConfig(
        rankers=ranker_names(),
        learners=tuple(name for name in LEARNERS if name in agent_names()),
        bandits=("linucb", "thompson"),
        configurations=20,
        requests=20_000,
        tuning_users=100,
        fresh_users=300,
        seeds=5,
        sweep=REWARDS,
        sweep_seeds=2,
    ),
    hours=2.5,
    satiation_users=800,
)


@dataclass(frozen=True, kw_only=True)
class VerdictOptions(DataOptions):
    """Does reinforcement learning beat tuned supervised pipelines? The same search for all, finals on fresh users in three worlds.

    Without --fast or --reference it is a small one of a quarter of an hour on two cores; its intervals are wide.

    Example: python simulate.py verdict --reference
    """

    reference: bool = False
    """All rankers and agents, twenty configurations each, five trainings, both user models: made for two and a half hours on two
    cores."""
    hours: float | None = None
    """Hours to be spent, about: simulated events of each training grow in proportion."""
    worlds: str = ",".join(DEFAULT_WORLDS)
    """Worlds, separated by commas: log (its fitted users), drift (with births and fast drift), satiation (generated), or
    file.py:Class. The search is held in the first."""
    rankers: str | None = None
    """Rankers of the supervised pipelines, by name or file.py:Class; by default as many as the size of the verdict allows."""
    learners: str | None = None
    """Agents that learn by reinforcement, likewise."""
    bandits: str | None = None
    """Contextual bandits, which have rows of their own; "" for none."""
    configurations: int | None = None
    """Configurations tried of each contender: 4, 20 with --reference, 2 with --fast."""
    training_seeds: int | None = None
    """Trainings of each finalist: 2, 5 with --reference, 1 with --fast."""
    requests: int | None = None
    """Simulated events of each training; overrides --hours."""
    users: int | None = None
    """Fresh users, at most; a third as many are tuned on: 150, 300 with --reference, 24 with --fast."""
    jobs: int = 2 if (os.cpu_count() or 1) > 1 else 1
    """Trainings side by side, as Ray tasks."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, jobs=self.jobs, configurations=self.configurations, training_seeds=self.training_seeds)
        _at_least(1, requests=self.requests)
        _at_least(6, users=self.users)
        _one_size(self.fast, self.reference, self.hours)
        for world in self.world_specs():
            if world not in DEFAULT_WORLDS:
                own_world(world)

    def scale(self) -> VerdictScale:
        """How large it is unless options say otherwise."""
        return FAST_VERDICT if self.fast else REFERENCE_VERDICT if self.reference else SMALL_VERDICT

    def world_specs(self) -> list[str]:
        """The worlds, paths made absolute."""
        return [WORLD.absolute(spec) for spec in _listed(self.worlds)]

    def user_models(self) -> list[str]:
        """The user models under which each world with a log is made."""
        return list(dict.fromkeys([self.user_model, PLAIN_MODEL, "dien"] if self.reference else [self.user_model]))

    def world(self) -> WorldConfig:
        """How worlds that come with driftrec are made."""
        return WorldConfig(days=self.scale().days, seed=self.seed)

    def verdict(self) -> VerdictConfig:
        """Who is in it, and what each contender gets."""
        scale = self.scale()
        sizes = scale.config
        requests = self.requests or max(round(sizes.requests * (self.hours or scale.hours) / scale.hours), 1)
        fresh = self.users or sizes.fresh_users
        return replace(
            sizes,
            rankers=sizes.rankers
            if self.rankers is None
            else tuple(_ranker_path(each) for each in _listed(self.rankers)),
            learners=sizes.learners if self.learners is None else tuple(map(AGENT.absolute, _listed(self.learners))),
            bandits=sizes.bandits if self.bandits is None else tuple(map(AGENT.absolute, _listed(self.bandits))),
            configurations=self.configurations or sizes.configurations,
            requests=requests,
            fresh_users=fresh,
            tuning_users=max(fresh // 3, 2) if self.users else sizes.tuning_users,
            seeds=self.training_seeds or sizes.seeds,
            seed=self.seed,
        )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _ranker_path(spec: str) -> str:
    return spec if spec == FLOOR else RANKER.absolute(spec)


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Draws saved runs again, one alone or several side by side.

    Example: python simulate.py plot results/compare-a results/compare-b --out results/both
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """Folder for the plots; by default the plots folder of a single run, or results/plots for several."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Writes the trajectories of a run for other tools: a Parquet file, or a Minari data set, for each agent and training seed.

    A run keeps what was shown and what users did. The slates are shown again to the same users in the same world, which gives
    observations and rewards to the bit; docs/export.md has the columns.

    Example: python simulate.py export results/compare-... --format minari --agents mf,ppo
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run of compare, or of one that python -m benchmarks.task_scores made with --events."""
    format: Literal["parquet", "minari"] = "parquet"
    """parquet: one row a request; minari: episodes, a user's life each, which needs pip install -e '.[minari]'."""
    agents: str = ""
    """Whose, by the names that they have in the run, separated by commas; by default everybody's."""
    out: Path | None = None
    """Folder for what is made; by default the run's folder exported for parquet, and for minari its own, $MINARI_DATASETS_PATH or
    ~/.minari/datasets."""

    def named(self) -> list[str]:
        """The agents that are named; none for all."""
        return _listed(self.agents)


Options = TypeVar("Options")


def chosen_command(arguments: Sequence[str], commands: Sequence[str]) -> tuple[str, list[str]]:
    """(subcommand, the arguments behind it); compare where none is named.

    Raises:
        ConfigurationError: if the first argument is no subcommand, or one stands behind an option.
    """
    if arguments and arguments[0] in commands:
        return arguments[0], list(arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        raise ConfigurationError(f"there is no subcommand '{arguments[0]}'; known are {', '.join(commands)}.")
    for before, argument in pairwise(arguments):
        if argument in commands and before in FLAGS:
            raise ConfigurationError(f"'{argument}' comes first: simulate.py {argument} {before} ...")
    return "compare", list(arguments)


FLAGS = tuple(
    f"--{no}{flag}"
    for flag in ("fast", "skip-bad-rows", "ablation", "search", "debias", "reference")
    for no in ("", "no-")
)


def parsed_options(kind: type[Options], arguments: Sequence[str], name: str, description: str | None = None) -> Options:
    """The options of subcommand `name`; those in the file that --config names stand before those of the command line.

    Raises:
        ConfigurationError: if the file cannot be read, or has an option that is unknown or no number, word or truth value.
        SystemExit: with code 2, if an option on the command line is unknown or its value of the wrong type.
    """
    return tyro.cli(
        kind,
        args=[*_file_arguments(arguments, kind), *arguments],
        prog=f"simulate.py {name}",
        description=description or inspect.getdoc(kind),
    )


def _file_arguments(arguments: Sequence[str], kind: type) -> list[str]:
    """The options of the file that `--config` names, as arguments."""
    path = next(
        (
            argument.partition("=")[2] if "=" in argument else following
            for argument, following in pairwise([*arguments, ""])
            if argument.partition("=")[0] == "--config"
        ),
        None,
    )
    if not path:
        return []
    try:
        text = Path(path).read_text()
        content = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except OSError as error:
        raise ConfigurationError(f"--config '{path}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigurationError(f"--config '{path}' is neither TOML (.toml) nor JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"--config '{path}' holds a {type(content).__name__}, not options by name.")
    content = content.get("config", content)
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    given: list[str] = []
    for option, value in content.items():
        name = option.replace("-", "_")
        flag = name.replace("_", "-")
        if name not in known:
            raise ConfigurationError(
                f"--config '{path}' has an unknown option '{option}'; known are {', '.join(sorted(known))}."
            )
        if known[name] is bool and isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        elif known[name] is bool and value is not None:
            raise ConfigurationError(f"--config '{path}': option '{option}' is {value!r}; give true or false.")
        elif isinstance(value, str | int | float):
            given += [f"--{flag}", str(value)]
        elif value is not None:
            raise ConfigurationError(
                f"--config '{path}': option '{option}' is {value!r}; give a number, word or truth value."
            )
    return given
