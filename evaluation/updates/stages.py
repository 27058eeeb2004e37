"""The stages of a study of update policies: each job leaves a table when it is done, and is not done again.

updates/decay/<scenario>-<model>-<seed>      losses, and ..._curves
updates/tuned/<scenario>-<family>            what tuning or training came to
updates/judged/<scenario>-<seed>             days of all policies in a world that none has met
updates/hindsight/<scenario>-<seed>          days of the best schedule in that world
updates/watched/<scenario>                   what monitoring showed of one judged world, under the rule that was chosen
updates/importance/<scenario>-<family>       what a learnt policy looks at
updates/taught/<scenario>-<family>           what training on the other scenarios came to
updates/unmet/<scenario>-<seed>              days of that policy
updates/pipelines/<scenario>-<ranker>-<seed> days of the chosen policies on a pipeline with another ranker
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import polars as pl

from agents.updates.decay import measure_decay
from agents.updates.fronts import Front
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies import learnt
from agents.updates.policies.base import UpdatePolicy
from agents.updates.policies.hindsight import best_in_hindsight
from agents.updates.policies.learnt import OBSERVED, LearntPolicy
from agents.updates.policies.rules import Every, Never
from agents.updates.policies.tuning import tune
from agents.updates.study import run_episode, watch_episode
from evaluation.updates.arena import UpdateArena, table_of
from evaluation.updates.summary import HINDSIGHT, NEVER, OWN, REFERENCE, RL, RULE, importance
from evaluation.verdict.jobs import Job

STUDY = "study"
"""Key of the arena in the workshop."""
DECAY_DAYS = 30
STEADY = "stationary"
"""Fresh users come every day: nothing must be lost."""
AGEING = ("slow_drift", "shock", "news")
"""Scenarios in which models must decay, and by more than in `CONTROL`."""
CONTROL = "returning"
"""The same users come back, as in all of these, and nothing else happens."""
HABITS = tuple(Every(1, action) for action in (UpdateAction.FULL_RETRAIN, *learnt.HABITS) if action)
"""What is done without a thought before every period; judged as rules whatever tuning finds, as learnt policies begin with one."""
FRONT_RULES = 6
"""Configurations on the tuning worlds' front that are judged besides the best of each family, at most."""
FRONT_EPISODES = 2
"""Tuning episodes that a configuration must have played to count for the front; those that were left out first have played one."""
_ALSO = 2
"""Judged policies whose schedules hindsight begins with: the best ones."""


@dataclass(frozen=True)
class Entrant:
    """A policy that is judged."""

    name: str
    """In tables: the label of a rule, the family of a learnt policy."""
    role: str
    family: str
    label: str

    def policy(self, arena: UpdateArena, scenario: str) -> UpdatePolicy:
        """The policy itself."""
        if self.family == NEVER:
            return Never()
        usual = {habit.label: habit for habit in HABITS}
        return usual.get(self.label) or arena.policy(scenario, self.family, self.label)


# ------------------------------------------------------------------------------------------------------------------- decay
def decay_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario, model and world; the control is there where a scenario must lose more than it."""
    models = ("logistic", *arena.config.rankers)
    return [
        Job(STUDY, table_of("decay", name, model, seed), measure, (name, model, seed))
        for name in decaying(arena)
        for model in models
        for seed in decay_seeds(arena, model)
    ]


def decay_seeds(arena: UpdateArena, model: str) -> range:
    """Of the worlds in which a model's decay is measured."""
    every, of_others = arena.config.decay_seeds, arena.config.ranker_decay_seeds
    return range(every if model == "logistic" or of_others is None else of_others)


def decaying(arena: UpdateArena) -> list[str]:
    """Scenarios in which decay is measured."""
    names = list(arena.specs)
    return [*names, CONTROL] if CONTROL not in names and not set(AGEING).isdisjoint(names) else names


def measure(arena: UpdateArena, table: str, scenario: str, model: str, seed: int) -> None:
    """The decay of a frozen pipeline in one world: of the models that a market would begin with there."""
    config = arena.config.environment(model)
    asked = arena.scenario(scenario, seed, DECAY_DAYS, arena.config.decay_visits)
    begin = perf_counter()
    found = measure_decay([asked], lambda log: config.models().fit(log), seeds=[seed], pipeline=config.pipeline)
    keys = [pl.lit(scenario).alias("scenario"), pl.lit(model).alias("model"), pl.lit(seed).alias("seed")]
    arena.run.write_table(f"{table}_curves", found.curves.with_columns(keys))
    arena.run.write_table(table, found.losses.with_columns(*keys, seconds=pl.lit(perf_counter() - begin)))


# ------------------------------------------------------------------------------------------------------ tuning and training
def tuning_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario and family."""
    return [
        Job(STUDY, table_of("tuned", name, family), tune_in, (name, family))
        for name in arena.specs
        for family in arena.config.families
    ]


def tune_in(arena: UpdateArena, table: str, scenario: str, family: str) -> None:
    """Tunes or trains a family on the scenario's tuning worlds, whose facts are kept while they are at hand."""
    arena.facts(scenario)
    _tune(arena, table, [(scenario, seed) for seed in arena.config.tuning_seeds], family, scenario)


def teach(arena: UpdateArena, table: str, scenario: str, family: str) -> None:
    """Trains a family on a tuning world of each scenario but one, the same number of episodes."""
    others = [name for name in arena.specs if name != scenario]
    _tune(arena, table, [(name, arena.config.tuning_seeds[0]) for name in others], family, unmet_folder(scenario))


def unmet_folder(scenario: str) -> str:
    """Folder of policies trained on all scenarios but this one."""
    return f"{scenario}-unmet"


def _tune(arena: UpdateArena, table: str, worlds: Sequence[tuple[str, int]], family: str, folder: str) -> None:
    markets = [arena.market(name, seed) for name, seed in worlds]
    config = arena.config
    found = tune(family, markets, config.tuning_seeds, config.episodes, seed=config.seed)
    is_learnt = isinstance(found.policy, LearntPolicy)
    if isinstance(found.policy, LearntPolicy):
        found.policy.save(arena.policy_path(folder, family))
        curve = pl.DataFrame(found.policy.learning_curve_, schema=["requests", "reward"], orient="row")
        arena.run.write_table(f"{table}_curve", curve)
    chosen = pl.col("configuration") == next(
        place for place, policy in enumerate(found.configurations) if policy is found.policy
    )
    arena.run.write_table(
        table,
        found.outcomes.select(
            pl.lit(folder).alias("scenario"),
            pl.lit(family).alias("family"),
            pl.lit(is_learnt).alias("learnt"),
            pl.all(),
            chosen.alias("chosen"),
            pl.lit(found.episodes).alias("episodes"),
            pl.lit(found.seconds).alias("seconds"),
        ),
    )


def tuned(arena: UpdateArena, scenario: str) -> pl.DataFrame:
    """What all families came to in a scenario's tuning worlds."""
    return arena.tables(*[table_of("tuned", scenario, family) for family in arena.config.families])


def chosen_learner(arena: UpdateArena, scenario: str) -> str:
    """The learnt family that stands for its side: the one of the largest mean reward in the tuning worlds, on the episodes that all
    have played."""
    return _best_learner(arena, [scenario])


def chosen_by_others(arena: UpdateArena, scenario: str) -> str:
    """The one of the largest mean reward in the tuning worlds of all scenarios but one, likewise."""
    return _best_learner(arena, [name for name in arena.specs if name != scenario])


def _best_learner(arena: UpdateArena, scenarios: Sequence[str]) -> str:
    is_best = pl.col("family").is_in(arena.config.learners) & pl.col("chosen")
    means = pl.concat([_on_common_episodes(tuned(arena, name).filter(is_best)) for name in scenarios])
    worth = means.group_by("family", maintain_order=True).agg(pl.col("worth").mean())
    return str(worth.sort("worth", descending=True, maintain_order=True)["family"][0])


def chosen_rule(arena: UpdateArena, scenario: str) -> Entrant:
    """The tuned rule of the largest mean reward in the tuning worlds, likewise."""
    table = tuned(arena, scenario).filter(pl.col("family").is_in(arena.config.rules) & pl.col("chosen"))
    means = _on_common_episodes(table).sort("worth", descending=True, maintain_order=True)
    return Entrant(means["label"][0], RULE, means["family"][0], means["label"][0])


def entrants(arena: UpdateArena, scenario: str) -> list[Entrant]:
    """Who is judged: never, what is done out of habit, the best configuration of each family, and the rules on the front of cost
    and engagement in the tuning worlds, on the first `FRONT_EPISODES` episodes of those that got so far."""
    table = tuned(arena, scenario)
    rules = table.filter(pl.col("family").is_in(arena.config.rules))
    found = [Entrant(NEVER, RULE, NEVER, NEVER)]
    found += [Entrant(habit.label, RULE, habit.name, habit.label) for habit in HABITS]
    best = rules.filter(pl.col("chosen")).select("family", "label").unique(maintain_order=True)
    found += [Entrant(label, RULE, family, label) for family, label in best.iter_rows()]
    far = pl.len().over("family", "label") >= FRONT_EPISODES
    means = _on_common_episodes(rules.filter(far))
    points = {
        label: (cost, engagement) for label, cost, engagement in means.select("label", "cost", "engagement").iter_rows()
    }
    families = dict(means.select("label", "family").iter_rows())
    names = Front.of(points).names if points else ()
    places = np.unique(np.linspace(0, max(len(names) - 1, 0), FRONT_RULES).round().astype(int))
    kept = [names[place] for place in places if place < len(names)]
    found += [Entrant(label, RULE, families[label], label) for label in kept]
    found += [Entrant(name, RL, name, name) for name in arena.config.learners]
    own = table.filter(pl.col("family").is_in(arena.config.own) & pl.col("chosen"))
    found += [
        Entrant(label, OWN, family, label)
        for family, label in own.select("family", "label").unique(maintain_order=True).iter_rows()
    ]
    return list({entrant.name: entrant for entrant in reversed(found)}.values())[::-1]


def _on_common_episodes(table: pl.DataFrame) -> pl.DataFrame:
    """family, label, and mean cost, engagement and worth on the episodes that all of the table's configurations have played."""
    everybody = table.select("family", "label").n_unique() if len(table) else 0
    common = table.group_by("market", "seed").agg(pl.struct("family", "label").n_unique().alias("count"))
    common = common.filter(pl.col("count") == everybody).select("market", "seed")
    return (
        table.join(common, on=["market", "seed"], how="semi", maintain_order="left")
        .group_by("family", "label", maintain_order=True)
        .agg(pl.col("cost", "engagement", "worth").mean())
    )


# ----------------------------------------------------------------------------------------------------------------- judging
def judging_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario and judged world."""
    return [
        Job(STUDY, table_of("judged", name, seed), judge, (name, seed, tuple(entrants(arena, name))))
        for name in arena.specs
        for seed in arena.config.judged_seeds
    ]


def judge(arena: UpdateArena, table: str, scenario: str, seed: int, judged: Sequence[Entrant]) -> None:
    """The days of all entrants in one world."""
    arena.run.write_table(table, _judged_in(arena, arena.market(scenario, seed), scenario, seed, judged))


def _judged_in(arena: UpdateArena, market: Market, scenario: str, seed: int, judged: Sequence[Entrant]) -> pl.DataFrame:
    """Days of policies, as they were tuned in the scenario, in a market of it."""
    return pl.concat(
        _days(market, scenario, entrant.name, entrant.role, entrant.policy(arena, scenario), seed) for entrant in judged
    )


def _days(market: Market, scenario: str, name: str, role: str, policy: UpdatePolicy, seed: int) -> pl.DataFrame:
    keys = [pl.lit(scenario).alias("scenario"), pl.lit(role).alias("role")]
    return run_episode(market, name, policy, seed).select(*keys, pl.all())


def judged(arena: UpdateArena, scenario: str) -> pl.DataFrame:
    """Days of all entrants in all judged worlds of a scenario."""
    return arena.tables(*[table_of("judged", scenario, seed) for seed in arena.config.judged_seeds])


def hindsight_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario and judged world."""
    return [
        Job(STUDY, table_of("hindsight", name, seed), look_back, (name, seed))
        for name in arena.specs
        for seed in arena.config.judged_seeds
    ]


def look_back(arena: UpdateArena, table: str, scenario: str, seed: int) -> None:
    """The days of the best schedule in one judged world."""
    market = arena.market(scenario, seed)
    days = arena.run.table(table_of("judged", scenario, seed))
    means = days.group_by("policy", maintain_order=True).agg(pl.col("reward").mean(), pl.col("action"))
    best = means.sort("reward", descending=True, maintain_order=True)["action"].head(_ALSO).to_list()
    begin = perf_counter()
    found = best_in_hindsight(market, seed, arena.config.replays, also=[tuple(schedule) for schedule in best])
    days = _days(market, scenario, HINDSIGHT, REFERENCE, found.policy, seed)
    spent = [pl.lit(found.tried).alias("replays"), pl.lit(perf_counter() - begin).alias("search_seconds")]
    arena.run.write_table(table, days.with_columns(spent))


def watching_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario."""
    return [Job(STUDY, table_of("watched", name), watch, (name, chosen_rule(arena, name))) for name in arena.specs]


def watch(arena: UpdateArena, table: str, scenario: str, rule: Entrant) -> None:
    """The statistics of the first judged world's event log, were the chosen rule live there."""
    seed = arena.config.judged_seeds[0]
    found = watch_episode(arena.market(scenario, seed), rule.policy(arena, scenario), seed)
    keys = [pl.lit(scenario).alias("scenario"), pl.lit(rule.name).alias("policy")]
    arena.run.write_table(table, found.select(*keys, pl.all()))


def importance_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario and learnt family."""
    return [
        Job(STUDY, table_of("importance", scenario, name), look_at, (scenario, name))
        for scenario in arena.specs
        for name in arena.config.learners
    ]


def look_at(arena: UpdateArena, table: str, scenario: str, name: str) -> None:
    """What a learnt policy looks at, by what it saw in the judged worlds."""
    days = judged(arena, scenario).filter(pl.col("policy") == name)
    episodes = [
        (np.array(own["observation"].to_list(), np.float32), np.array(own["mask"].to_list(), np.int8))
        for _, own in days.sort("period").group_by("seed", maintain_order=True)
    ]
    found = importance(arena.policy(scenario, name, name), episodes, OBSERVED)
    arena.run.write_table(
        table, found.select(pl.lit(scenario).alias("scenario"), pl.lit(name).alias("policy"), pl.all())
    )


# --------------------------------------------------------------------------------------------- what was never met, pipelines
def teaching_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each scenario that a policy is not to meet; none where there is no other scenario."""
    return [
        Job(STUDY, table_of("taught", name, family), teach, (name, family))
        for name in unmet_scenarios(arena)
        for family in [chosen_by_others(arena, name)]
    ]


def unmet_scenarios(arena: UpdateArena) -> list[str]:
    """Scenarios on which a policy that was trained on the others is judged."""
    wanted = [name.replace("-", "_") for name in arena.config.unmet]
    return [name for name in arena.specs if name in wanted and len(arena.specs) > 1]


def unmet_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each such scenario and judged world."""
    return [
        Job(STUDY, table_of("unmet", name, seed), judge_unmet, (name, seed, family))
        for name in unmet_scenarios(arena)
        for family in [chosen_by_others(arena, name)]
        for seed in arena.config.judged_seeds
    ]


def judge_unmet(arena: UpdateArena, table: str, scenario: str, seed: int, family: str) -> None:
    """The days of the policy that has never met the scenario."""
    policy = arena.policy(unmet_folder(scenario), family, family)
    days = _days(arena.market(scenario, seed), scenario, f"{family}, unmet", RL, policy, seed)
    arena.run.write_table(table, days)


def pipeline_jobs(arena: UpdateArena) -> list[Job]:
    """A job for each ranker, scenario and judged world that the study has for it."""
    wanted = [name.replace("-", "_") for name in arena.config.ranker_scenarios]
    return [
        Job(STUDY, table_of("pipelines", name, ranker, seed), judge_pipeline, (name, ranker, seed, _few(arena, name)))
        for ranker in arena.config.rankers
        for name in arena.specs
        if name in wanted
        for seed in arena.config.judged_seeds
    ]


def _few(arena: UpdateArena, scenario: str) -> tuple[Entrant, ...]:
    """Never, the best rule and the chosen learnt policy."""
    learner = chosen_learner(arena, scenario)
    return (Entrant(NEVER, RULE, NEVER, NEVER), chosen_rule(arena, scenario), Entrant(learner, RL, learner, learner))


def judge_pipeline(
    arena: UpdateArena, table: str, scenario: str, ranker: str, seed: int, judged: Sequence[Entrant]
) -> None:
    """The days of a few policies, tuned on the logistic pipeline, on that of another ranker."""
    days = _judged_in(arena, arena.market(scenario, seed, ranker), scenario, seed, judged)
    arena.run.write_table(table, days.with_columns(ranker=pl.lit(ranker)))
