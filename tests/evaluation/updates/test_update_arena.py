"""Policies of a run by their labels, without the worlds that they were tuned in."""

import pytest

from agents.updates.policies.base import MarketFacts
from agents.updates.policies.tuning import configurations_of, facts_of
from envs.errors import ArtefactError
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.runs import Run
from evaluation.updates.arena import _MARKETS, UpdateArena
from evaluation.updates.config import UpdateStudyConfig


def test_rules_are_scaled_by_facts_of_the_tuning_world_without_making_it_again(tmp_path, monkeypatch):
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=130, events_per_user=10), seed=0)
    config = UpdateStudyConfig(scenarios=("shock",), days=4, visits=8)
    arena = UpdateArena.of(log, model, config, Run.create(tmp_path / "run", "updates", {}))
    market = arena.market("shock", config.tuning_seeds[0])
    facts = arena.facts("shock")
    assert facts == facts_of(market)
    _MARKETS.clear()
    monkeypatch.setattr(UpdateArena, "market", None)
    configurations = configurations_of("after_data", facts)
    for wanted in (configurations[0], configurations[-1]):
        assert arena.policy("shock", "after_data", wanted.label) == wanted
    with pytest.raises(ArtefactError, match="make the run again"):
        arena.policy("shock", "after_data", "after_data(-3, full_retrain)")
    path = arena.run.agent_path("updates") / "shock" / "facts.json"
    path.write_text('{"periods": 4}')
    with pytest.raises(ArtefactError, match="delete it"):
        arena.facts("shock")
    path.write_text(path.read_text().replace("}", ', "visits": 80, "retrain_price": 1e-3, "budget_price": 9}'))
    assert arena.facts("shock") == MarketFacts(periods=4, visits=80, retrain_price=1e-3, budget_price=9)


def test_a_damaged_policy_names_the_table_that_must_go_for_it_to_be_trained_again(tmp_path):
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=130, events_per_user=10), seed=0)
    config = UpdateStudyConfig(scenarios=("shock",), days=4, visits=8)
    arena = UpdateArena.of(log, model, config, Run.create(tmp_path / "run", "updates", {}))
    path = arena.policy_path("shock", "dqn")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no policy")
    with pytest.raises(
        ArtefactError, match=f"'{path}'.*tables/updates/{{tuned,taught}}' too, then go on with --resume"
    ):
        arena.policy("shock", "dqn", "dqn")
