"""Update policies that RLlib and Stable-Baselines3 train, on episodes of a fraction of a second."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents.updates.costs import Prices
from agents.updates.environment import ModelUpdateEnv
from agents.updates.episode import habit_rewards
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies import resolve_update_policy
from agents.updates.policies.learnt import ACTIONS, HABITS, OBSERVED, TRAINING_SEEDS, UpdateDQN, UpdateDQNOptions
from agents.updates.policies.playing import play
from agents.updates.policies.rules import Every
from agents.updates.policies.training_env import Lessons, play_habits, training_envs
from agents.updates.policies.tuning import tune
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError

FAMILIES = ("dqn", "ppo", "sb3:PPO", "sb3:A2C", "sb3:DQN")
ALL = np.ones(len(ACTIONS), np.int8)
SMALL = {"num_envs": 2, "twin_seeds": 1}


@pytest.fixture(scope="module")
def tiny(world, config) -> Market:
    return Market(world, replace(config, days=4, visits_per_day=8, requests_per_visit=1))


@pytest.fixture(scope="module")
def trained(tiny):
    """A policy of each family, trained when it is first asked for."""
    policies = {}

    def of(family: str):
        if family not in policies:
            kind = resolve_update_policy(family)
            policies[family] = kind(kind.options_class(**SMALL)).fit([tiny], 7)
        return policies[family]

    return of


def observations(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 3, (count, len(OBSERVED))).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_policy_is_kept_in_one_file_and_acts_the_same(trained, tiny, tmp_path, family):
    policy = trained(family)
    assert policy.learning_curve_[-1, 0] == 4 * 4
    assert policy.about_["episodes"] == 7 and policy.about_["learnt_from"] == 7 - len(HABITS)
    policy.save(tmp_path / "policy.npz")
    loaded = type(policy).load(tmp_path / "policy.npz")
    seen = observations(100)
    assert [policy.act(row) for row in seen] == [loaded.act(row) for row in seen]
    assert loaded.options == policy.options and loaded.about_ == policy.about_
    np.testing.assert_array_equal(loaded.learning_curve_, policy.learning_curve_)
    assert play(ModelUpdateEnv(tiny), loaded, 0) == play(ModelUpdateEnv(tiny), policy, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.npz"]


@pytest.mark.parametrize("family", ["dqn", "ppo", "sb3:DQN"])
def test_the_same_seed_learns_the_same(trained, tiny, family):
    policy = trained(family)
    again = type(policy)(policy.options).fit([tiny], 7)
    np.testing.assert_array_equal(again.learning_curve_, policy.learning_curve_)
    for name, weights in policy.policy_.items():
        np.testing.assert_array_equal(weights, again.policy_[name], err_msg=name)
    assert policy.learning_curve_[:, 1].any()


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("family", ["dqn", "ppo", "sb3:A2C", "sb3:DQN"])
def test_training_begins_with_the_best_habit(trained, tiny, family, habit, monkeypatch):
    """Without a step of learning the policy is that habit, and so is what is kept from before training."""
    policy = trained(family)
    seeds = {seed for seed, action in tiny.habits}
    for seed in seeds:
        for action in HABITS:
            worth = np.full((4, 2), (float(action == habit), 0.0))
            monkeypatch.setitem(tiny.habits, (seed, action), worth)
    monkeypatch.setattr("torch.optim.Adam.step", lambda self, closure=None: None)
    monkeypatch.setattr("torch.optim.RMSprop.step", lambda self, closure=None: None)
    optimiser = "stable_baselines3.common.sb2_compat.rmsprop_tf_like.RMSpropTFLike.step"
    monkeypatch.setattr(optimiser, lambda self, closure=None: None)
    frozen = type(policy)(policy.options).fit([tiny], 7)
    before = frozen.candidates()[-1]
    assert frozen.about_["habit"] == habit.name.lower() and before.about_["spent"] == 0
    assert {each.act(row) for row in observations(50) for each in (frozen, before)} == {habit}
    only = np.zeros(len(ACTIONS), np.int8)
    only[UpdateAction.KEEP] = 1
    if policy.sees_mask:
        assert before.act_among(observations(1)[0], only) == UpdateAction.KEEP


def test_masked_actions_are_never_taken(trained):
    policy = trained("dqn")
    masks = np.random.default_rng(1).integers(0, 2, (60, len(ACTIONS))).astype(np.int8)
    masks[:, UpdateAction.KEEP] = 1
    for row, mask in zip(observations(60), masks, strict=True):
        assert mask[policy.act_among(row, mask)]
    only = np.zeros(len(ACTIONS), np.int8)
    only[UpdateAction.ROLL_BACK] = 1
    assert policy.act_among(observations(1)[0], only) == UpdateAction.ROLL_BACK


def test_masked_actions_are_neither_explored_nor_valued():
    from gymnasium.spaces import Box, Discrete
    from ray.rllib.algorithms.dqn.dqn_learner import QF_PREDS
    from ray.rllib.core.columns import Columns

    from agents.rl.plackett_luce import MASKED
    from agents.updates.policies.rllib import MaskedDuelingModule, MaskedEnvRunner, MaskedPolicyModule

    width = len(OBSERVED) + len(ACTIONS)
    masks = torch.randint(0, 2, (200, len(ACTIONS))).float()
    masks[:, UpdateAction.KEEP] = 1
    masks[0, 1:] = 0
    rows = torch.cat([torch.rand(200, len(OBSERVED)), masks], dim=1)
    for habit in HABITS:
        runner = SimpleNamespace(module=SimpleNamespace(model_config={"habit": int(habit)}))
        explored = torch.stack([MaskedEnvRunner.any_actions(runner, rows) for _ in range(20)])
        assert bool((masks.expand(20, -1, -1).gather(2, explored.unsqueeze(2)) == 1).all())
        usual = torch.where(masks[:, habit] == 1, int(habit), int(UpdateAction.KEEP))
        strays = (explored != usual).float().mean(dim=0)[1:]
        assert float(strays[3::4].mean()) > 2 * float(strays[2::4].mean())  # places differ in how often they stray
        assert len(torch.unique(explored)) == len(ACTIONS)
    spaces = {
        "observation_space": Box(-1, 1, (width,)),
        "action_space": Discrete(len(ACTIONS)),
        "inference_only": False,
    }
    settings = {"hidden": (8,), "normalise": True, "habit": 0, "initial_habit": 3.0}
    values = MaskedDuelingModule(**spaces, model_config=settings).compute_q_values({Columns.OBS: rows})[QF_PREDS]
    logits = MaskedPolicyModule(**spaces, model_config=settings)._forward({Columns.OBS: rows})[
        Columns.ACTION_DIST_INPUTS
    ]
    for numbers in (values, logits):
        assert bool(((numbers == MASKED) == (masks == 0)).all())
    assert bool((logits.argmax(dim=1) == UpdateAction.KEEP).all())


def test_what_was_trained_on_other_observations_is_refused(trained, tmp_path):
    policy, path = trained("dqn"), tmp_path / "policy.npz"
    policy.save(path)
    arrays, settings = load_arrays(path, "update policy dqn")
    save_arrays(path, "update policy dqn", arrays, settings | {"observed": settings["observed"][1:]})
    with pytest.raises(ArtefactError, match="observed differ"):
        UpdateDQN.load(path)
    narrow = {name: array[:, 1:] if name == "policy.0.weight" else array for name, array in arrays.items()}
    save_arrays(path, "update policy dqn", narrow, settings)
    with pytest.raises(ArtefactError, match="another shape"):
        UpdateDQN.load(path)
    with pytest.raises(ArtefactError, match="not a 'update policy ppo'"):
        resolve_update_policy("ppo").load(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtefactError, match=r"policy\.npz"):
        UpdateDQN.load(path)
    with pytest.raises(AgentError, match="rows of"):
        policy.act(observations(1)[0][1:])


def test_an_untrained_policy_says_so(tmp_path):
    with pytest.raises(AgentError, match="fit or load"):
        UpdateDQN().act(observations(1)[0])
    with pytest.raises(AgentError, match="nothing to save"):
        UpdateDQN().save(tmp_path / "policy.npz")
    with pytest.raises(ConfigurationError, match="at least 1"):
        UpdateDQN(UpdateDQNOptions(num_envs=0))


def test_trainings_that_cannot_be_are_refused(tiny, market):
    with pytest.raises(ConfigurationError, match="1 episodes"):
        UpdateDQN().fit([tiny], 1)
    with pytest.raises(ConfigurationError, match="all of one length"):
        UpdateDQN().fit([tiny, market], 8)


@pytest.mark.parametrize("habit", HABITS)
def test_rewards_are_paired_with_a_habit_in_the_same_episode(tiny, habit):
    seed = TRAINING_SEEDS
    lessons = Lessons(markets=[tiny], seeds=[seed], scale=3.0, price=2.0, habit=habit)
    envs = training_envs(lessons, 1)
    alone = ModelUpdateEnv(tiny)
    alone.reset(seed=seed)
    seen, _ = envs.reset(seed=5)
    assert seen.shape == (1, len(OBSERVED) + len(ACTIONS))
    for period, action in enumerate((0, 6, 0, 0)):
        seen, rewards, *_ = envs.step([action])
        _, reward, *_, info = alone.step(action)
        earned, cost = habit_rewards(tiny, alone.episode.seed, habit)[period]
        assert rewards[0] == pytest.approx(3 * (reward - info["cost"] - (earned - cost)), abs=1e-6)
        np.testing.assert_array_equal(seen[0, len(OBSERVED) :], info["action_mask"])
        assert not rewards[0] or period
    envs.step([0])  # only begins the next episode, of the same seed
    assert [envs.step([int(habit)])[1][0] for _ in range(4)] == [0.0] * 4


def test_places_play_markets_and_seeds_by_turns(tiny, config):
    other = Market(tiny.world, replace(config, days=4, visits_per_day=4, requests_per_visit=1), name="other")
    envs = training_envs(Lessons(markets=[tiny, other], seeds=[10, 11]), 2)
    played = []
    for episode in range(2):
        if not episode:
            envs.reset(seed=0)
        for _ in range(4 + bool(episode)):
            envs.step([0, 0])
        played += [(env.unwrapped.market.name, env.unwrapped.episode.seed) for env in envs.envs]
    assert [name for name, _ in played] == ["market", "other", "market", "other"]
    assert len(set(played)) == 4


def test_a_place_plays_all_of_its_markets_with_every_seed(tiny, config):
    """Three markets, and places for one or two of them at a time."""
    small = replace(config, days=1, visits_per_day=2, requests_per_visit=1)
    markets = [Market(tiny.world, small, name=name) for name in "abc"]
    for places, rounds in ((1, 6), (2, 6)):
        envs = training_envs(Lessons(markets=markets, seeds=[10, 11]), places)
        envs.reset(seed=0)
        played = [[(env.unwrapped.market.name, env.unwrapped.episode.seed) for env in envs.envs]]
        for _ in range(rounds - 1):
            envs.step([0] * places), envs.step([0] * places)  # the second only begins the next episode
            played.append([(env.unwrapped.market.name, env.unwrapped.episode.seed) for env in envs.envs])
        for own in zip(*played, strict=True):
            assert len(set(own)) == 6 and {name for name, _ in own} == {"a", "b", "c"}


def test_habits_are_played_once_and_side_by_side_the_same(tiny, two_workers):
    lessons, habits = Lessons(markets=[tiny], seeds=[21, 22], price=3.0), HABITS[1:]
    told: list[int] = []
    worth = play_habits(lessons, habits, 2, told.append)
    assert told == [1, 2, 3, 4]
    apart = dict(tiny.habits)
    tiny.habits.clear()
    assert play_habits(lessons, habits) == worth
    for key, rewards in tiny.habits.items():
        np.testing.assert_array_equal(apart[key], rewards)
    play_habits(lessons, habits, 2, told.append)
    assert told == [1, 2, 3, 4]
    every = Every(1, HABITS[2])
    played = [play(ModelUpdateEnv(tiny), every, seed) for seed in lessons.seeds]
    assert worth[1] == pytest.approx(np.mean([outcome.worth(3.0) for outcome in played]))


@pytest.mark.slow
def test_processes_change_nothing_but_the_time(tiny):
    lessons = Lessons(markets=[tiny], seeds=[31])
    rewards = []
    for processes in (False, True):
        envs = training_envs(lessons, 2, processes)
        try:
            envs.reset(seed=11)
            rewards.append([envs.step(np.array([3, 6]))[1].tolist() for _ in range(6)])
        finally:
            envs.close()
    assert rewards[0] == rewards[1]


def test_tuning_chooses_among_the_last_networks(tiny):
    tuned = tune("ppo", [tiny], [0, 1, 2], 30)
    assert tuned.episodes <= 30
    labels = tuned.means()["label"].to_list()
    assert len(labels) == 4 and tuned.policy.label in labels
    assert tuned.policy.about_["spent"] <= tuned.policy.learning_curve_[-1, 0]
    assert len({policy.about_["spent"] for policy in tuned.configurations}) == 4


@pytest.mark.slow
def test_dqn_learns_not_to_pay_for_what_is_not_worth_it(world, config):
    """At an absurd price the best is to keep; at no price it updates. Judged on episodes that it was not trained on."""
    for price, keeps in ((100.0, True), (0.0, False)):
        setting = replace(config, visits_per_day=20, prices=Prices(per_billion=price))
        market = Market(world, setting)
        policy = UpdateDQN().fit([market], 40)
        actions = [play(ModelUpdateEnv(market), policy, seed).actions for seed in (0, 1)]
        share = float((np.array(actions) > 0).mean())
        assert share < 0.1 if keeps else share > 0.2
