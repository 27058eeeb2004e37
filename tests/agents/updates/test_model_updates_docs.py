"""docs/model-updates.md: its tables and its code, as they stand there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.policies.loading import UPDATE_POLICY
from agents.updates.study import run_episode
from envs.scenarios import SCENARIO

PAGE = (Path(__file__).parents[3] / "docs" / "model-updates.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def ran(word, **smaller):
    """What the block of the page that has a word defines, with some of its numbers made smaller."""
    code = next(block for block in BLOCKS if word in block)
    for name, value in smaller.items():
        code, found = re.subn(rf"\b{name}=\d+", f"{name}={value}", code)
        assert found
    names: dict = {}
    exec(compile(code.replace("range(5)", "range(1)"), "docs/model-updates.md", "exec"), names)
    return names


def rows(begin, end):
    """First cells of the table between two headings."""
    part = PAGE[PAGE.index(f"\n{begin}\n") :]
    return re.findall(r"^\| ([^|]*?) \|", part[: part.index(f"\n{end}\n")], re.MULTILINE)[1:]


def test_every_field_action_family_and_scenario_has_its_row():
    named = [name for row in rows("### Observation", "### Actions") for name in re.findall(r"`(\w+)`", row)]
    assert named == [field.name for field in fields(Monitoring)]
    actions = [row.split(" ", 1) for row in rows("### Actions", "### Reward and cost")]
    assert [int(number) for number, _ in actions] == list(UpdateAction)
    named = {name for row in rows("## Policies", "## Running it") for name in re.findall(r"`([\w:]+)`", row)}
    assert set(UPDATE_POLICY.known) <= named
    assert {row.strip("`") for row in rows("## How models decay", "## The environment")} == set(SCENARIO.known)


def test_the_page_s_environment_runs():
    names = ran("gymnasium.make", days=3, visits_per_day=20)
    assert names["env"].unwrapped.action_space.n == len(names["info"]["action_mask"]) == len(UpdateAction)
    assert names["info"]["vector"].shape == (4,) and not names["terminated"]


def test_the_page_s_measurement_of_decay_runs():
    names = ran("measure_decay", visits_per_day=3)
    assert set(names["decay"].figures("news")) >= {"decay_30_days_news"}


@pytest.mark.parametrize(("unseen", "action"), [(0.3, UpdateAction.FULL_RETRAIN), (0.1, UpdateAction.KEEP)])
def test_the_page_s_policy_does_what_it_says(unseen, action):
    policy = ran("WhenUnseen")["WhenUnseen"]()
    seen = {field.name: 0.0 for field in fields(Monitoring)} | {"unseen_share": unseen}
    assert policy.act(Monitoring(**seen).to_array()) == action


def test_the_page_s_policy_plays_an_episode(market):
    days = run_episode(market, "when_unseen", ran("WhenUnseen")["WhenUnseen"](), 0)
    assert len(days) == market.periods and days["reward"].is_finite().all()
