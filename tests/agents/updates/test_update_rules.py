import pytest
from update_runs import run

from agents.updates.rules import DEFAULT_RULES, RULES, EveryDays, rule
from envs.errors import ConfigurationError


def actions(env, policy, days: int) -> list[int]:
    observation, _ = env.reset(seed=0)
    taken = []
    for _ in range(days):
        taken.append(int(policy.act(observation)))
        observation = env.step(taken[-1])[0]
    return taken


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("never", [0, 0, 0, 0, 0, 0]),
        ("daily", [0, 6, 6, 6, 6, 6]),
        ("every 3 days", [0, 0, 0, 6, 0, 0]),
        ("daily incremental", [0, 3, 3, 3, 3, 3]),
    ],
)
def test_rules_keep_their_calendar(env, name, expected):
    assert actions(env, rule(name), 6) == expected


def test_a_rule_counts_from_the_last_update_of_either_kind(env):
    *_, last = run(env, [0, 3, 0])
    assert EveryDays(3).act(last[0]) == 0
    assert EveryDays(2).act(last[0]) == 6


def test_an_unknown_rule_is_refused_with_those_that_exist():
    with pytest.raises(ConfigurationError, match="every 3 days"):
        rule("hourly")
    assert set(DEFAULT_RULES) <= set(RULES)
