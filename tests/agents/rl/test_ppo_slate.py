"""The agent that scores candidates: under the contract, in training, from its checkpoints, and in what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from ray.rllib.core.columns import Columns

from agents.actions.slate import SlateAction
from agents.base import Training, checked_slates
from agents.rankers.ranking_input import RankingInput
from agents.rerankers import best_first
from agents.rl import training as loop
from agents.rl.plackett_luce import MASKED
from agents.rl.ppo_slate import PPOSlateAgent, PPOSlateOptions, SlatePolicyModule
from agents.rl.scorer import ItemTable
from agents.rl.served import TrainingStopped
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv

OPTIONS = PPOSlateOptions(
    rankers=("logistic",),
    num_envs=16,
    batch=160,
    minibatch=40,
    epochs=2,
    learning_rate=3e-2,
    width=8,
    heads=2,
    embedding=8,
)
BARE = replace(OPTIONS, rankers=())


def training(world, requests=320, seed=0, folder=None, make_env=None, report=lambda requests: None):
    def real_env(num_envs, mode):
        return SlateVectorEnv(num_envs, world=world, num_candidates=40, autoreset_mode=mode, seed=seed)

    return Training(make_env=make_env or real_env, requests=requests, seed=seed, folder=folder, report=report)


@pytest.fixture(scope="module")
def trained(world):
    return PPOSlateAgent(options=OPTIONS).fit(world.policy_log, training(world))


@pytest.fixture(scope="module")
def observation(world):
    return Observation.from_dict(SlateVectorEnv(300, world=world, num_candidates=40).reset(seed=4)[0])


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_slates_are_valid_and_training_changed_them(trained, observation):
    slates, _ = checked_slates("ppo_slate", trained.act(observation), observation, 10)
    initial = trained.initial_policy()
    assert (slates != initial.act(observation)).any()
    assert_array_equal(initial.initial_policy().act(observation), initial.act(observation))
    assert trained.learning_curve_[-1, 0] == 320 and not len(initial.learning_curve_)


def test_the_initial_policy_is_the_order_of_the_ranker(trained, world, observation):
    ranker = trained.rankers_.rankers[0]
    expected = best_first(ranker.score(RankingInput.of(observation)), observation.candidates.mask, 10)
    assert_array_equal(trained.initial_policy().act(observation), expected)
    bare = PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, requests=20)).initial_policy()
    expected = best_first(observation.candidates.score, observation.candidates.mask, 10)
    assert_array_equal(bare.act(observation), expected)


def test_a_slate_does_not_depend_on_the_batch(trained, observation):
    together = trained.act(observation)
    for rows in (np.array([7]), np.arange(250, 300), np.arange(300)[::-1].copy()):
        assert_array_equal(trained.act(observation.take(rows)), together[rows])
    assert trained.act(observation.take(np.arange(0))).shape == (0, 10)


def test_masked_candidates_come_last(trained, observation):
    arrays = {name: array.copy() for name, array in observation.to_dict().items()}
    arrays["candidate_mask"][:, 4:] = 0
    slates = trained.act(Observation.from_dict(arrays))
    assert_array_equal(np.sort(slates[:, :4], axis=1), np.tile(np.arange(4), (300, 1)))


def test_one_file_holds_all_parts(trained, world, observation, tmp_path):
    trained.save(tmp_path / "agent.npz")
    loaded = PPOSlateAgent.load(tmp_path / "agent.npz", world.policy_log)
    assert_array_equal(loaded.act(observation), trained.act(observation))
    assert_array_equal(loaded.initial_policy().act(observation), trained.initial_policy().act(observation))
    assert_array_equal(loaded.learning_curve_, trained.learning_curve_)
    assert (loaded.slate_size, loaded.seed, loaded.options) == (trained.slate_size, trained.seed, trained.options)


def test_damaged_files_and_those_of_other_data_are_refused(trained, world, tmp_path):
    path = tmp_path / "agent.npz"
    trained.save(path)
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=len(world.policy_log.catalogue) + 1), seed=1)
    with pytest.raises(ArtefactError, match="another data set"):
        PPOSlateAgent.load(path, other)
    arrays, configuration = load_arrays(path, "agent PPOSlateAgent")
    policy = "policy.scorer.encoder.of_state.bias"
    for spoilt in (
        {name: array for name, array in arrays.items() if name != "items.popularity"},
        {name: array for name, array in arrays.items() if name != "ranker.0"},
        {name: array for name, array in arrays.items() if name != policy},
        arrays | {policy: arrays[policy][:1]},
        arrays | {"ranker.0": arrays["ranker.0"][:99]},
        arrays | {name: arrays[name][:-1] for name in arrays if name.startswith("items.")},
    ):
        save_arrays(path, "agent PPOSlateAgent", spoilt, configuration)
        with pytest.raises(ArtefactError):
            PPOSlateAgent.load(path)
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ArtefactError, match="damaged"):
        PPOSlateAgent.load(path)


def test_requests_of_another_shape_or_catalogue_are_refused(trained, world, observation):
    arrays = observation.to_dict()
    with pytest.raises(AgentError, match="train"):
        trained.act(Observation.from_dict(arrays | {"user_features": np.zeros((300, 1), np.float32)}))
    items = arrays["candidate_items"].copy()
    items[3, 5] = len(world.policy_log.catalogue)
    with pytest.raises(AgentError, match="train it on this data set"):
        trained.act(Observation.from_dict(arrays | {"candidate_items": items}))
    with pytest.raises(AgentError, match="slate_size=10"):
        PPOSlateAgent(slate_size=7, options=BARE).fit(world.policy_log, training(world))


def test_what_is_missing_is_said(world, observation, tmp_path):
    with pytest.raises(AgentError, match="simulated traffic"):
        PPOSlateAgent().fit(world.policy_log)
    with pytest.raises(ConfigurationError, match="at least 1 request"):
        PPOSlateAgent().fit(world.policy_log, training(world, requests=0))
    with pytest.raises(AgentError, match="not trained"):
        PPOSlateAgent().act(observation)
    with pytest.raises(ConfigurationError, match="nobody"):
        PPOSlateAgent(options=replace(OPTIONS, rankers=("nobody",))).fit(world.policy_log, training(world))


def test_the_module_masks_candidates_and_values_rollouts(world):
    env = SlateAction(SlateVectorEnv(30, world=world, num_candidates=40))
    rows = torch.from_numpy(env.reset(seed=0)[0])
    mask = env.layout.parts(rows).mask
    mask[:, 3:30] = 0
    module = SlatePolicyModule(
        observation_space=env.single_observation_space,
        action_space=env.single_action_space,
        model_config={
            "layout": env.layout,
            "items": ItemTable.from_log(world.policy_log, 8),
            "options": BARE,
            "slots": 10,
        },
    )
    logits = module.forward_exploration({Columns.OBS: rows})[Columns.ACTION_DIST_INPUTS]
    assert ((logits == MASKED) == (mask == 0)).all()
    slates = module.get_exploration_action_dist_cls().from_logits(logits).sample()
    assert_array_equal(mask.gather(1, slates).sum(dim=1), mask.sum(dim=1).clamp(max=10))
    torch.nn.init.ones_(module.value.head[-1].weight)
    values = module.compute_values({Columns.OBS: torch.stack([rows, rows.flip(0)])})
    torch.testing.assert_close(values[1], values[0].flip(0))
    assert values.shape == (2, 30) and values.std() > 0


def test_a_seed_gives_the_same_weights_to_the_bit_and_the_budget_is_kept(world):
    spent = []
    first, again, other = (
        PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 77, seed=seed, report=spent.append))
        for seed in (3, 3, 4)
    )
    assert same(first.policy_, again.policy_) and not same(first.policy_, other.policy_)
    assert spent[-1] == 77


class NoNumbers(SlateVectorEnv):
    """Pays what is no number from some step on."""

    def __init__(self, *args, from_step, **arguments):
        super().__init__(*args, **arguments)
        self.steps, self.from_step = 0, from_step

    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        self.steps += 1
        return observation, reward if self.steps < self.from_step else reward * np.nan, *rest


def test_rewards_that_are_no_numbers_stop_the_training_and_keep_what_was_well(world, observation, tmp_path):
    def make_env(num_envs, mode):
        return NoNumbers(num_envs, world=world, num_candidates=40, autoreset_mode=mode, seed=0, from_step=15)

    agent = PPOSlateAgent(options=BARE)
    with pytest.raises(TrainingStopped, match=r"ppo_slate.*reward.*kept is the policy after 1\d\d"):
        agent.fit(world.policy_log, training(world, 480, folder=tmp_path, make_env=make_env))
    assert all(np.isfinite(array).all() for array in agent.policy_.values())
    assert not same(agent.policy_, agent.initial_) and len(agent.learning_curve_) == 1
    checked_slates("ppo_slate", agent.act(observation), observation, 10)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{agent.learning_curve_[0, 0]:012.0f}"]


class CutShort(Exception):
    pass


def test_a_training_cut_short_goes_on_from_its_checkpoint(world, tmp_path, monkeypatch):
    def cut(requests):
        if requests >= 300:
            raise CutShort

    with pytest.raises(CutShort):
        PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 480, folder=tmp_path, report=cut))
    (kept,) = tmp_path.glob("checkpoint-*")
    before = int(kept.name.rpartition("-")[2])
    restored, spent = [], []
    restore = loop.Checkpoints.restore
    monkeypatch.setattr(
        loop.Checkpoints,
        "restore",
        lambda self, algorithm: (
            restore(self, algorithm),
            restored.append({name: value.clone() for name, value in algorithm.env_runner.module.state_dict().items()}),
            restored.append(algorithm.learner_group.get_state()["learner"]["optimizer"]),
        ),
    )
    agent = PPOSlateAgent(options=BARE).fit(
        world.policy_log, training(world, 480, folder=tmp_path, report=spent.append)
    )
    whole = PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 480))
    assert spent[0] == before and spent[-1] == 480
    assert_array_equal(agent.learning_curve_[:1], whole.learning_curve_[:1])
    assert same(agent.initial_, whole.initial_)
    weights, optimiser = restored
    assert not torch.equal(weights["policy.scorer.correction.weight"], torch.zeros(1, 8))
    steps = [float(each["step"]) for kept in optimiser.values() for each in kept["state"]["state"].values()]
    assert steps and min(steps) > 0
    # a training that is done is only read
    done = PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 480, folder=tmp_path))
    assert same(done.policy_, agent.policy_)
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_checkpoints_of_another_training_and_damaged_ones_are_refused(world, tmp_path):
    PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 20, folder=tmp_path))
    with pytest.raises(ArtefactError, match=r"another training \(options differ\)"):
        options = replace(BARE, learning_rate=1e-3)
        PPOSlateAgent(options=options).fit(world.policy_log, training(world, 20, folder=tmp_path))
    (kept,) = tmp_path.glob("checkpoint-*")
    next(kept.glob("**/state.pkl")).write_bytes(b"nonsense")
    for state in kept.glob("**/*.pkl"):
        state.write_bytes(b"nonsense")
    with pytest.raises(ArtefactError, match="damaged"):
        PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 20, folder=tmp_path))
    (kept / "progress.npz").write_bytes(b"nonsense")
    with pytest.raises(ArtefactError, match="damaged"):
        PPOSlateAgent(options=BARE).fit(world.policy_log, training(world, 20, folder=tmp_path))
