"""Policies that follow rules, on observations made by hand."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.policies import (
    UPDATES,
    MarketFacts,
    UpdatePolicy,
    decide,
    make_update_policy,
    resolve_update_policy,
)
from agents.updates.policies.cara import CARA
from agents.updates.policies.detectors import ADWIN, DriftDetector, PageHinkley
from agents.updates.policies.loading import RULES
from agents.updates.policies.rules import PERIODS, AfterData, Every, Never
from agents.updates.policies.schedule import FixedSchedule
from envs.errors import AgentError, ConfigurationError

FACTS = MarketFacts(periods=60, visits=2_000.0, retrain_price=0.02, budget_price=2.4)
ALL = np.ones(len(UpdateAction), np.int8)
QUIET = Monitoring(**(dict.fromkeys(Monitoring.__dataclass_fields__, 0.0) | {"engagement": 0.5, "budget_left": 1.0}))
RETRAIN = int(UpdateAction.FULL_RETRAIN)


def chosen(policy: UpdatePolicy, **figures: list[float]) -> list[int]:
    """What a policy does in an episode of these figures, one a period."""
    policy.begin()
    length = len(next(iter(figures.values())))
    seen = [replace(QUIET, **{name: values[period] for name, values in figures.items()}) for period in range(length)]
    return [int(decide(policy, monitoring.to_array(), ALL)) for monitoring in seen]


def noisy(levels: list[float]) -> list[float]:
    """Levels with a noise of 2 %."""
    return list(np.array(levels) * (1 + 0.02 * np.random.default_rng(0).standard_normal(len(levels))))


def test_every_counts_periods_and_forgets_the_last_episode():
    policy = Every(3)
    for _ in range(2):
        assert chosen(policy, engagement=[0.5] * 8) == [0, 0, 0, RETRAIN, 0, 0, RETRAIN, 0]
    assert chosen(Every(1, UpdateAction.UPDATE_BOTH), engagement=[0.5] * 3) == [0, 3, 3]
    assert chosen(Never(), engagement=[0.5] * 3) == [0, 0, 0]


def test_after_data_waits_for_the_clicks():
    assert chosen(AfterData(100.0), clicks_since_training=[0.0, 99.0, 100.0, 20.0]) == [0, 0, RETRAIN, 0]


def test_a_schedule_is_followed_and_then_kept():
    assert chosen(FixedSchedule((0, 3, 6)), engagement=[0.5] * 5) == [0, 3, 6, 0, 0]
    assert FixedSchedule((0, 3, 6)).label == "schedule(1:3 2:6)"


@pytest.mark.parametrize("policy", [ADWIN(delta=0.1), PageHinkley(threshold=20.0)])
def test_a_detector_updates_soon_after_a_fall_and_not_before(policy: DriftDetector):
    falls, rises = noisy([0.5] * 20 + [0.4] * 10), noisy([0.5] * 20 + [0.6] * 10)
    actions = chosen(policy, engagement=falls)
    assert not any(actions[:20])
    assert RETRAIN in actions[20:26]
    assert not any(chosen(policy, engagement=rises))
    # an error is worse when it rises
    watching = replace(policy, watched="calibration_error")
    errors = {"engagement": [0.5] * 30, "calibration_error": [level / 10 for level in falls]}
    assert not any(chosen(watching, **errors))
    assert any(chosen(watching, **errors | {"calibration_error": rises}))


def test_a_detector_waits_after_an_update():
    class Alarmed(PageHinkley):
        def drifted(self, detector, value):
            return True

    actions = chosen(Alarmed(wait=3), engagement=[0.0] + [0.5] * 7)
    assert actions == [0, RETRAIN, 0, 0, RETRAIN, 0, 0, RETRAIN]


def test_cara_updates_when_what_is_lost_costs_more_than_an_update():
    levels = [0.5] * 6 + [0.47] * 6
    # 0.01, 0.02, 0.03, 0.03 ... clicks per visit are lost, against an update of 0.05
    prices = {"retrain_price": 0.05, "budget_price": 1.0}
    assert chosen(CARA(1.0, True, **prices), engagement=levels).index(RETRAIN) == 8
    assert chosen(CARA(2.0, True, **prices), engagement=levels).index(RETRAIN) == 10
    assert RETRAIN not in chosen(CARA(1.0, False, **prices), engagement=levels)
    assert chosen(CARA(0.5, False, **prices), engagement=levels).index(RETRAIN) == 8
    assert not any(chosen(CARA(1.0, True, **prices), engagement=[0.5] * 6 + [0.6] * 6))


def test_cara_learns_from_the_budget_what_an_update_costs():
    policy = CARA(1.0, True, retrain_price=0.05, budget_price=1.0)
    levels = [0.5] * 6 + [0.47] * 20
    budget = [1.0] * 9 + [0.8] * 17  # the update before period 9 took 0.2 of it
    actions = chosen(policy, engagement=levels, budget_left=budget)
    # staleness is measured anew, against what the update led to: nothing is lost since
    assert [period for period, action in enumerate(actions) if action] == [8]
    levels[14:] = [0.37] * 12
    actions = chosen(policy, engagement=levels, budget_left=budget)
    # 0.033, 0.067, 0.1 and 0.1 again are more than 0.2
    assert [period for period, action in enumerate(actions) if action][:2] == [8, 17]


@pytest.mark.parametrize("name", RULES)
def test_grids_have_all_kinds_of_update_and_travel(name):
    kind = resolve_update_policy(name)
    grid = kind.grid(FACTS)
    labels = [policy.label for policy in grid]
    assert len(set(labels)) == len(labels)
    if name != "never":
        assert {policy.action for policy in grid} >= set(UPDATES)
    assert [policy.label for policy in pickle.loads(pickle.dumps(grid))] == labels
    assert make_update_policy(name).name == name


def test_labels_tell_settings_but_not_the_markets_prices():
    assert Every(3).label == "every(3, full_retrain)"
    assert CARA.grid(FACTS)[0].label == "cara(0.25, True, update_both)"
    assert Never().label == "never"


def test_every_is_tuned_over_all_periods_with_all_kinds_of_update():
    assert PERIODS == (1, 2, 3, 5, 7, 14, 30)
    assert {(policy.periods, policy.action) for policy in Every.grid(FACTS)} == {
        (periods, action) for periods in PERIODS for action in UPDATES
    }


@pytest.mark.parametrize("returned", [7, -1, 2.0, None, "retrain"])
def test_what_is_no_action_is_refused_with_the_choices(returned):
    class Odd(UpdatePolicy):
        name = "odd"

        def act(self, observation):
            return returned

    with pytest.raises(AgentError, match=r"'odd' returned the action .*0 \(keep\).*6 \(full_retrain\)") as caught:
        decide(Odd(), QUIET.to_array(), ALL)
    assert repr(returned) in str(caught.value)


OWN = """
from agents.updates.policies import UpdatePolicy

class Weekly(UpdatePolicy):
    name = "weekly"

    def act(self, observation):
        return 6 if observation[7] >= 1 else 0

class Broken(Weekly):
    def act(self, observation):
        return observation.nothing

class Nameless(UpdatePolicy):
    def act(self, observation):
        return 0

class Other:
    name = "other"
"""


def test_a_policy_of_a_users_own_is_found_in_its_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    policy = make_update_policy(f"{path}:Weekly")
    assert chosen(policy, retrain_age=[6.0, 7.0]) == [0, RETRAIN]
    assert pickle.loads(pickle.dumps(policy)).name == "weekly"
    with pytest.raises(AgentError, match=r"'Broken' failed in act .*mine\.py, line 12"):
        chosen(make_update_policy(f"{path}:Broken"), engagement=[0.5])
    with pytest.raises(AgentError, match="lacks name"):
        make_update_policy(f"{path}:Nameless")
    with pytest.raises(AgentError, match="is not a subclass of"):
        make_update_policy(f"{path}:Other")


def test_unknown_names_are_refused_with_those_that_exist():
    with pytest.raises(AgentError, match="every"):
        resolve_update_policy("hourly")
    with pytest.raises(AgentError, match="sb3:A2C"):
        resolve_update_policy("sb3:SAC")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Every(0),
        lambda: AfterData(0.0),
        lambda: ADWIN(delta=1.0),
        lambda: ADWIN(watched="weather"),
        lambda: PageHinkley(threshold=0.0),
        lambda: PageHinkley(wait=0),
        lambda: CARA(threshold=-1.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigurationError):
        make()
