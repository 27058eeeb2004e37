"""Where policies are tuned, trained and judged: markets of scenarios, and the policies that a run folder has.

agents/updates/<scenario>/<family>       a trained policy; one that is not trained is known by its label
agents/updates/<scenario>/facts.json     what the configurations of the scenario's rules are scaled by
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

import polars as pl

from agents.updates.market import Market
from agents.updates.policies.base import MarketFacts, UpdatePolicy
from agents.updates.policies.learnt import LearntPolicy
from agents.updates.policies.loading import resolve_update_policy
from agents.updates.policies.tuning import configurations_of, facts_of
from envs.artefacts import load_json, save_json
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.scenarios import TrafficScenario, scenario
from envs.users.protocol import UserModel
from evaluation.runs import Run
from evaluation.updates.config import UpdateStudyConfig

KEPT_MARKETS = 6
"""Markets that a process keeps."""
_MAKINGS = "makings"
_MARKETS: OrderedDict[tuple[Any, ...], Market] = OrderedDict()


@dataclass(frozen=True)
class UpdateArena:
    """What all jobs of a study share; pickles, so that Ray tasks have it."""

    log: InteractionLog
    user_model: UserModel
    specs: Mapping[str, str]
    """Name of each scenario -> how it is asked for."""
    config: UpdateStudyConfig
    run: Run

    @classmethod
    def of(cls, log: InteractionLog, user_model: UserModel, config: UpdateStudyConfig, run: Run) -> "UpdateArena":
        """The arena of a study's scenarios, each of which is found.

        Raises:
            ConfigurationError: if there is no such scenario, or it is not whole.
        """
        return cls(log, user_model, {scenario(spec).name: spec for spec in config.scenarios}, config, run)

    def scenario(self, name: str, seed: int, days: int, visits: int) -> TrafficScenario:
        """A scenario, of the study or one that comes with driftrec; one of a user's own has days, visits and seed of its own."""
        return scenario(
            self.specs.get(name, name),
            fitted=partial(_both, self.log, self.user_model),
            days=days,
            visits_per_day=visits,
            event_delay=self.config.event_delay,
            seed=seed,
        )

    def market(self, name: str, seed: int, ranker: str = "logistic") -> Market:
        """The market of a scenario's world; this process keeps the last few."""
        key = (str(self.run.folder), self.config, name, seed, ranker)
        if key not in _MARKETS:
            asked, begin = self.scenario(name, seed, self.config.days, self.config.visits), perf_counter()
            _MARKETS[key] = Market.of(asked, self.config.environment(ranker))
            self._note_making(name, perf_counter() - begin)
            while len(_MARKETS) > KEPT_MARKETS:
                _MARKETS.popitem(last=False)
        _MARKETS.move_to_end(key)
        return _MARKETS[key]

    def makings(self) -> list[float]:
        """Seconds that it took to make each market, in any process; none of those that were made before this was measured."""
        folder = self.run.table_path(table_of(_MAKINGS, "any")).parent
        return [float(pl.read_parquet(path)["seconds"][0]) for path in sorted(folder.glob("*.parquet"))]

    def _note_making(self, name: str, seconds: float) -> None:
        """Leaves a table of its own, since processes may make the same market."""
        table = table_of(_MAKINGS, name, os.getpid(), time_ns())
        self.run.write_table(table, pl.DataFrame({"scenario": [name], "seconds": [seconds]}))

    def policy_path(self, scenario: str, family: str) -> Path:
        """Where a trained policy lies."""
        return self.run.agent_path("updates") / scenario / _file_name(family)

    def facts(self, scenario: str) -> MarketFacts:
        """What the configurations of a scenario's rules are scaled by: facts of its first tuning world. Kept in the run folder, so
        that who is judged elsewhere need not make that world.

        Raises:
            ArtefactError: if they are damaged.
        """
        path = self.run.agent_path("updates") / scenario / "facts.json"
        if not path.exists():
            save_json(path, asdict(facts_of(self.market(scenario, self.config.tuning_seeds[0]))))
        try:
            return MarketFacts(**load_json(path))
        except TypeError as error:
            raise ArtefactError(f"'{path}' lacks a fact of the market ({error}); delete it.") from error

    def policy(self, scenario: str, family: str, label: str) -> UpdatePolicy:
        """A configuration of a family, as it was trained, or by its label.

        Raises:
            ArtefactError: if the run has no such policy, or a damaged one.
        """
        kind = resolve_update_policy(family)
        if issubclass(kind, LearntPolicy):
            try:
                return kind.load(self.policy_path(scenario, family))
            except ArtefactError as error:
                trained = self.run.table_path("updates/{tuned,taught}").with_suffix("")
                raise ArtefactError(
                    f"{error} In this run: delete its table in '{trained}' too, then go on with --resume."
                ) from error
        for policy in configurations_of(family, self.facts(scenario)):
            if policy.label == label:
                return policy
        raise ArtefactError(
            f"run '{self.run.folder}' names '{label}', which family '{family}' does not have in '{scenario}'; make the run again."
        )

    def tables(self, *names: str) -> pl.DataFrame:
        """Tables of the run, one below the other."""
        return pl.concat([self.run.table(name) for name in names], how="diagonal")


def table_of(stage: str, *parts: object) -> str:
    """Name of what a job leaves: 'updates/tuned/shock-every'."""
    return f"updates/{stage}/" + "-".join(_file_name(str(part)) for part in parts)


def _file_name(text: str) -> str:
    """A name for files: the class of one from a file."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text.rpartition(".py:")[2])


def _both(log: InteractionLog, model: UserModel) -> tuple[InteractionLog, UserModel]:
    return log, model
