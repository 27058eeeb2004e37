"""Who is chosen, by whose episodes, and who is judged where: on made-up tables, with worlds that only note who asks for them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest

from agents.updates.policies.rules import Every, Never
from evaluation.updates import stages
from evaluation.updates.arena import table_of
from evaluation.updates.config import UpdateStudyConfig
from evaluation.updates.stages import Entrant

CONFIG = UpdateStudyConfig(
    scenarios=("shock", "news"),
    rules=("every", "cara"),
    learners=("dqn", "ppo"),
    own=("mine.py:Patient",),
    rankers=("din",),
    seeds=3,
    tuning_worlds=2,
    unmet=("news",),
)


@dataclass
class Noted:
    """An arena and its run folder in one: notes which worlds and policies are asked for."""

    kept: dict[str, pl.DataFrame]
    config: UpdateStudyConfig = CONFIG
    specs: dict[str, str] = field(default_factory=lambda: {"shock": "shock", "news": "news"})
    worlds: list[tuple[Any, ...]] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def run(self) -> "Noted":
        return self

    def table(self, name: str) -> pl.DataFrame:
        return self.kept[name]

    def tables(self, *names: str) -> pl.DataFrame:
        return pl.concat([self.kept[name] for name in names], how="diagonal")

    def write_table(self, name: str, table: pl.DataFrame) -> None:
        assert name not in self.kept, "done twice"
        self.kept[name] = table

    def market(self, name: str, seed: int, ranker: str = "logistic") -> tuple[Any, ...]:
        self.worlds.append((name, seed, ranker))
        return self.worlds[-1]

    def policy(self, scenario: str, family: str, label: str) -> str:
        self.asked.append((scenario, family, label))
        return f"{scenario}/{label}"


def tuned(scenario: str, family: str, *tried: tuple[str, bool, list[tuple[float, float]]]) -> pl.DataFrame:
    """What tuning leaves: of each configuration (label, whether it was chosen, (engagement, cost) of each episode played)."""
    rows = [
        {
            "scenario": scenario,
            "family": family,
            "learnt": family in CONFIG.learners,
            "configuration": number,
            "label": label,
            "market": episode % 2,
            "seed": 1_000 + episode,
            "engagement": engagement,
            "cost": cost,
            "reward": engagement - cost,
            "worth": engagement - cost,
            "chosen": chosen,
            "episodes": 9,
            "seconds": 1.0,
        }
        for number, (label, chosen, episodes) in enumerate(tried)
        for episode, (engagement, cost) in enumerate(episodes)
    ]
    return pl.DataFrame(rows)


@pytest.fixture
def arena() -> Noted:
    """In `shock`, dqn has one lucky episode more than ppo, which is better where both were; in `news` dqn is better."""
    tables = [
        tuned(
            "shock",
            "every",
            ("every(1, update_both)", False, [(0.50, 0.05), (0.52, 0.05)]),
            ("every(2, update_ranker)", True, [(0.49, 0.01), (0.51, 0.01), (0.2, 0.01)]),
            ("every(5, update_ranker)", False, [(0.30, 0.005), (0.32, 0.005)]),
            ("every(9, full_retrain)", False, [(0.40, 0.30), (0.42, 0.30)]),  # behind the front
            ("every(3, update_both)", False, [(9.0, 0.0)]),  # luck: one episode only
        ),
        tuned("shock", "cara", ("cara(1.0, True, update_both)", True, [(0.48, 0.02), (0.50, 0.02)])),
        tuned(
            "shock",
            "dqn",
            ("dqn", True, [(0.40, 0.0), (0.40, 0.0), (5.0, 0.0)]),
            ("dqn", False, [(0.90, 0.0), (0.90, 0.0)]),  # a network that was not taken
        ),
        tuned("shock", "ppo", ("ppo", True, [(0.45, 0.0), (0.45, 0.0)])),
        tuned("shock", "mine.py:Patient", ("patient(3)", True, [(0.1, 0.0), (0.1, 0.0)])),
        tuned("news", "every", ("every(1, update_both)", True, [(0.3, 0.1), (0.3, 0.1)])),
        tuned("news", "cara", ("cara(0.5, True, update_both)", True, [(0.4, 0.1), (0.4, 0.1)])),
        tuned("news", "dqn", ("dqn", True, [(0.3, 0.0), (0.3, 0.0)])),
        tuned("news", "ppo", ("ppo", True, [(0.2, 0.0), (0.2, 0.0)])),
        tuned("news", "mine.py:Patient", ("patient(3)", True, [(0.1, 0.0), (0.1, 0.0)])),
    ]
    return Noted({table_of("tuned", table["scenario"][0], table["family"][0]): table for table in tables})


@pytest.fixture
def played(monkeypatch) -> list[tuple[Any, ...]]:
    """What `run_episode` is asked for; a policy's reward is as long as its name."""
    episodes: list[tuple[Any, ...]] = []

    def run_episode(market, name, policy, seed):
        episodes.append((market, name, policy, seed))
        rows = {
            "policy": name,
            "seed": seed,
            "period": [0, 1],
            "reward": float(len(name)),
            "action": [0, len(name) % 7],
        }
        return pl.DataFrame(rows)

    monkeypatch.setattr(stages, "run_episode", run_episode)
    return episodes


def done(arena: Noted, jobs: list[Any]) -> None:
    for job in jobs:
        job.work(arena, job.table, *job.arguments)


# ------------------------------------------------------------------------------------------------------------------ choice
def test_the_learner_is_chosen_on_the_episodes_that_all_have_played(arena):
    assert stages.chosen_learner(arena, "shock") == "ppo"
    assert stages.chosen_learner(arena, "news") == "dqn"


def test_what_never_meets_a_scenario_is_chosen_by_the_others(arena):
    assert stages.chosen_by_others(arena, "news") == "ppo"
    assert stages.chosen_by_others(arena, "shock") == "dqn"
    (job,) = stages.teaching_jobs(arena)
    assert job.arguments == ("news", "ppo")


def test_the_rule_is_chosen_among_the_families_best_on_common_episodes(arena):
    """CARA is worth less than the best period where both were; where it was not, the period had bad luck."""
    assert stages.chosen_rule(arena, "shock") == Entrant(
        "every(2, update_ranker)", "rule", "every", "every(2, update_ranker)"
    )
    assert stages.chosen_rule(arena, "news").label == "cara(0.5, True, update_both)"


def test_judged_are_never_habits_the_best_of_each_family_and_the_front(arena):
    found = stages.entrants(arena, "shock")
    names = [entrant.name for entrant in found]
    assert names[0] == "never" and len(set(names)) == len(names)
    roles = {entrant.name: entrant.role for entrant in found}
    habits = {"every(1, full_retrain)", "every(1, update_both)", "every(1, update_ranker)"}
    front = {"every(5, update_ranker)", "every(2, update_ranker)", "every(1, update_both)"}
    rules = {"never", *habits, *front, "cara(1.0, True, update_both)"}
    assert {name for name, role in roles.items() if role == "rule"} == rules
    assert {name for name, role in roles.items() if role == "rl"} == {"dqn", "ppo"}
    assert {name for name, role in roles.items() if role == "own"} == {"patient(3)"}
    # a habit is what it is, whatever tuning tried; others are made from what the run has
    assert isinstance(found[0].policy(arena, "shock"), Never) and not arena.asked
    (nightly,) = (entrant for entrant in found if entrant.name == "every(1, full_retrain)")
    assert isinstance(nightly.policy(arena, "shock"), Every) and not arena.asked
    assert found[-1].policy(arena, "shock") == "shock/patient(3)" and arena.asked == [
        ("shock", "mine.py:Patient", "patient(3)")
    ]


# ----------------------------------------------------------------------------------------------------------------- judging
STAGES: dict[str, Callable[[Noted], list[Any]]] = {
    "judged": stages.judging_jobs,
    "unmet": stages.unmet_jobs,
    "pipelines": stages.pipeline_jobs,
}


@pytest.mark.parametrize("stage", STAGES)
def test_policies_are_judged_in_worlds_of_the_judged_seeds_alone(arena, played, stage):
    done(arena, STAGES[stage](arena))
    assert {seed for _, seed, _ in arena.worlds} == {0, 1, 2} == {seed for *_, seed in played}
    assert all(market[1] == seed for market, *_, seed in played)
    assert not {seed for _, seed, _ in arena.worlds} & set(CONFIG.tuning_seeds)
    assert {ranker for *_, ranker in arena.worlds} == {"din" if stage == "pipelines" else "logistic"}
    assert {name for name, *_ in arena.worlds} == ({"news"} if stage == "unmet" else {"shock", "news"})


def test_each_world_judges_all_entrants_of_its_scenario(arena, played):
    done(arena, stages.judging_jobs(arena))
    for scenario in ("shock", "news"):
        days = stages.judged(arena, scenario)
        wanted = {entrant.name: entrant.role for entrant in stages.entrants(arena, scenario)}
        for _, own in days.group_by("seed"):
            assert dict(own.select("policy", "role").unique().iter_rows()) == wanted
        assert days["scenario"].unique().to_list() == [scenario] and days["seed"].n_unique() == 3
        # policies are those that were tuned there
        assert all(
            asked.startswith(scenario)
            for (market, _, asked, _) in played
            if market[0] == scenario and isinstance(asked, str)
        )


def test_what_never_met_a_scenario_comes_from_the_training_on_the_others(arena, played):
    done(arena, stages.unmet_jobs(arena))
    assert arena.asked == [("news-unmet", "ppo", "ppo")] * 3
    assert {name for _, name, _, _ in played} == {"ppo, unmet"}


def test_other_pipelines_judge_never_the_chosen_rule_and_the_chosen_learner(arena, played):
    done(arena, stages.pipeline_jobs(arena))
    days = arena.kept[table_of("pipelines", "shock", "din", 1)]
    assert days["policy"].unique(maintain_order=True).to_list() == ["never", "every(2, update_ranker)", "ppo"]
    assert days["ranker"].unique().to_list() == ["din"] and days["seed"].unique().to_list() == [1]


def test_hindsight_looks_back_on_the_judged_episode_from_the_two_best_schedules(arena, played, monkeypatch):
    done(arena, stages.judging_jobs(arena))
    arena.worlds.clear()
    searched = []

    @dataclass
    class Found:
        policy: str = "the best"
        tried: int = 50

    def best_in_hindsight(market, seed, replays, *, also):
        searched.append((market, seed, replays, also))
        return Found()

    monkeypatch.setattr(stages, "best_in_hindsight", best_in_hindsight)
    done(arena, stages.hindsight_jobs(arena))
    for market, seed, replays, also in searched:
        assert market[1] == seed and replays == CONFIG.replays
        # rewards are as long as names
        names = sorted((entrant.name for entrant in stages.entrants(arena, market[0])), key=len, reverse=True)[:2]
        assert also == [(0, len(name) % 7) for name in names]
    assert [(name, seed) for name, seed, _ in arena.worlds] == [(n, s) for n in ("shock", "news") for s in range(3)]
    days = arena.kept[table_of("hindsight", "news", 2)]
    assert days["role"].unique().to_list() == ["reference"] and days["replays"].unique().to_list() == [50]
    assert played[-1][1:] == ("hindsight", "the best", 2)


def test_monitoring_watches_the_chosen_rule_in_the_first_judged_world(arena, monkeypatch):
    watched = []
    monkeypatch.setattr(stages, "watch_episode", lambda *asked: watched.append(asked) or pl.DataFrame({"day": [0]}))
    done(arena, stages.watching_jobs(arena))
    assert watched[0] == (("shock", 0, "logistic"), "shock/every(2, update_ranker)", 0) and len(watched) == 2
    (row,) = arena.kept[table_of("watched", "news")].iter_rows(named=True)
    assert row == {"scenario": "news", "policy": "cara(0.5, True, update_both)", "day": 0}
