from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from agents.heuristics import Popular, Random
from envs.candidate_source import SampledCandidates
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import WorldConfig, build_world
from evaluation import sensitivity
from evaluation.comparison import ComparisonConfig, ServingConfig
from evaluation.runs import Run
from evaluation.sensitivity import (
    ASSUMPTIONS,
    DEFAULTS,
    conclusion,
    parsed_pairs,
    sensitivity_figures,
    sensitivity_report,
    sensitivity_table,
)
from evaluation.statistics import Estimate


def test_pairs_are_read_or_refused() -> None:
    assert parsed_pairs("mf:popular, mmr:mf") == [("mf", "popular"), ("mmr", "mf")]
    for wrong in ("", "mf", "mf:", "mf:mf", "a:b:c"):
        with pytest.raises(ConfigurationError, match="--pairs"):
            parsed_pairs(wrong)


def test_every_assumption_changes_its_own_parameter() -> None:
    _, model = generate_log(SyntheticConfig(num_users=10, num_items=30, events_per_user=5), seed=0)
    config = WorldConfig()
    for assumption in ASSUMPTIONS:
        changed = assumption.applied(assumption.high, model, config)
        assert changed is not None
        holder = changed[1] if assumption.holder == "world" else getattr(changed[0], assumption.holder)
        before = config if assumption.holder == "world" else getattr(model, assumption.holder)
        assert getattr(holder, assumption.name) == assumption.high
        assert replace(holder, **{assumption.name: getattr(before, assumption.name)}) == before
        assert assumption.low <= getattr(before, assumption.name) <= assumption.high
    walk = next(assumption for assumption in ASSUMPTIONS if assumption.name == "walk_sd")
    assert walk.applied(0.0, object(), config) is None  # type: ignore[arg-type]


def test_a_conclusion_needs_an_interval_beside_zero() -> None:
    def of(low: float, high: float) -> str:
        return conclusion(Estimate((low + high) / 2, low, high, 10, 1), "a", "b")

    assert (of(0.1, 1), of(-1, -0.1), of(-1, 1)) == ("a is better", "b is better", "undecided")


def test_the_sweep_says_which_conclusions_change_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=120, events_per_user=20), seed=1)
    kept = [assumption for assumption in ASSUMPTIONS if assumption.name in ("popular_click_rate", "walk_sd")]
    monkeypatch.setattr(sensitivity, "ASSUMPTIONS", tuple(kept))
    agents = {"popular": Popular(slate_size=5, seed=0), "random": Random(slate_size=5, seed=0)}
    config = WorldConfig(days=4)
    world = build_world(log, model, config)
    for agent in agents.values():
        agent.fit(world.policy_log, None)  # type: ignore[arg-type]
    run = Run.create(tmp_path / "run", "sensitivity", {})
    comparison = ComparisonConfig(
        serving=ServingConfig(slate_size=5, num_candidates=20), traced_users=0, record_events=False
    )
    arguments = (agents, [("popular", "random")], log, model, config, SampledCandidates(world.num_items), comparison)
    table = sensitivity_table(*arguments, run)
    assert table["assumption"].to_list() == [DEFAULTS, *(name for a in kept for name in [a.name] * 2)]
    rates = table.filter(pl.col("assumption") == "popular_click_rate").sort("value")
    assert rates["difference"][1] > rates["difference"][0]  # the more is clicked, the more there is to differ in
    assert not table.filter(pl.col("assumption") == DEFAULTS)["changed"].any()
    figures = sensitivity_figures(table)
    assert figures["worlds"] == 5
    of_defaults = table.row(by_predicate=pl.col("assumption") == DEFAULTS, named=True)
    assert [figures[f"reward_popular_minus_random{end}"] for end in ("", "_low", "_high", "_least", "_most")] == [
        *(of_defaults[name] for name in ("difference", "low", "high")),
        *(min(table["difference"]), max(table["difference"])),
    ]
    # neither end is the defaults' own, so these figures can be told from it
    assert min(table["difference"]) < of_defaults["difference"] < max(table["difference"])
    assert figures["conclusions_changed_popular_minus_random"] == table["changed"].sum()
    assert sensitivity_report(table).row_count == 5

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("served again")

    monkeypatch.setattr(sensitivity, "serve", fail)
    assert sensitivity_table(*arguments, run).equals(table)
