import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal

import envs
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.measures import RewardWeights
from envs.modifiers import CategoryShock
from envs.tasks import TASKS, task_named
from envs.tasks import fingerprint as prints
from envs.tasks.fingerprint import check_frozen, fingerprint
from envs.tasks.frozen_users import FrozenUsers, load_users, save_users
from envs.world import WorldConfig
from envs.worlds import LogWorld

SMALL = TASKS["Satiation-Small-v1"]


@pytest.fixture(scope="module")
def generated():
    return generate_log(SyntheticConfig(num_users=24, num_items=60, events_per_user=12), seed=1)


@pytest.fixture
def own_folder(tmp_path, monkeypatch, generated):
    """A task on users of its own, frozen in a folder of its own."""
    log, model = generated
    monkeypatch.setattr("envs.tasks.frozen_users.FOLDER", tmp_path)
    monkeypatch.setattr(prints, "FROZEN", tmp_path / "fingerprints.json")
    save_users(tmp_path / "village.npz", model, log)
    world = LogWorld(name="village", fitted=FrozenUsers(file="village.npz"), config=WorldConfig(days=9))
    task = replace(SMALL, name="Village-v1", world=world)
    prints.freeze(task)
    return task, tmp_path


def test_every_task_is_registered_and_only_those():
    assert tuple(TASKS) == envs.TASK_NAMES
    for task in TASKS.values():
        assert gymnasium.spec(task.id).kwargs == {"task": task.name}


def test_every_task_has_a_fingerprint():
    assert list(json.loads(prints.FROZEN.read_text())) == list(TASKS)


def test_the_small_task_steps_and_is_the_same_each_time():
    def rewards():
        env = gymnasium.make_vec("driftrec/Satiation-Small-v1", num_envs=8)
        env.reset(seed=3)
        assert env.single_action_space == gymnasium.spaces.MultiDiscrete(np.full(5, 20))
        slates = np.tile(np.arange(SMALL.slate_size), (8, 1))
        return np.array([env.step(slates)[1] for _ in range(6)])

    first = rewards()
    assert first.any()
    assert_array_equal(first, rewards())


def test_one_user_of_a_task_passes_the_checker():
    check_env(gymnasium.make("driftrec/Satiation-Small-v1").unwrapped, skip_render_check=True)


def test_training_and_evaluation_users_are_others():
    training, evaluation = (
        gymnasium.make_vec(SMALL.id, num_envs=2, users=part).users for part in ("training", "evaluation")
    )
    assert not set(training) & set(evaluation)
    assert_array_equal(np.union1d(training, evaluation), SMALL.users("all"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"slate_size": 3}, "fixes slate_size"),
        ({"reward_weights": RewardWeights()}, "fixes reward_weights"),
        ({"users": "test"}, "it has training, evaluation, all"),
    ],
)
def test_what_a_task_fixes_cannot_be_given(arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        gymnasium.make_vec(SMALL.id, num_envs=2, **arguments)


def test_an_unknown_task_is_told_with_a_near_one():
    with pytest.raises(ConfigurationError, match="did you mean 'ML100K-Drift-v1'"):
        task_named("driftrec/ML100k-drift-v1")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"slate_size": 4}, {"requests", "behaviour"}),
        ({"num_candidates": 21}, {"requests"}),
        ({"history_size": 20}, {"requests"}),
        ({"recall_seed": 1}, {"requests"}),
        ({"reward_weights": RewardWeights(diversity=0.6)}, {"reward", "behaviour"}),
        ({"split_seed": 1}, {"split"}),
        ({"requests": 9_999}, {"split"}),
        ({"days": 11}, {"world"}),
        ({"births_per_day": 1.0}, {"world", "behaviour"}),
        ({"popular_click_rate": 0.3}, {"world", "behaviour"}),
        ({"modifiers": (CategoryShock(),)}, {"world"}),
        # came after tasks were frozen, so that its default must not count
        ({"keep_histories": False}, {"world"}),
    ],
)
def test_a_changed_setting_changes_the_fingerprint(own_folder, change, parts):
    task, _ = own_folder
    own = set(vars(task)) & set(change)
    changed = (
        replace(task, **change)
        if own
        else replace(task, world=replace(task.world, config=replace(task.world.config, **change)))
    )
    before, after = fingerprint(task), fingerprint(changed)
    assert parts <= {part for part in before if before[part] != after[part]}


def test_changed_users_or_rows_change_the_fingerprint(own_folder, generated):
    task, folder = own_folder
    log, model = generated
    before = fingerprint(task)
    for name, changed in (
        ("tired.npz", (replace(model, params=replace(model.params, satiation_gain=0.9)), log)),
        ("rows.npz", (model, log.where(np.arange(len(log)) > 40))),
    ):
        save_users(folder / name, *changed)
        other = replace(task, world=replace(task.world, fitted=FrozenUsers(file=name)))
        moved = {part for part, digest in fingerprint(other).items() if digest != before[part]}
        assert {"behaviour", "users" if name == "tired.npz" else "data"} <= moved


def test_changed_code_is_seen_in_what_users_do(own_folder, monkeypatch):
    task, _ = own_folder
    before = fingerprint(task)
    monkeypatch.setattr(
        "envs.slate_env.consumed_diversity", lambda *arguments: np.full(len(arguments[1]), 0.25, np.float32)
    )
    moved = {part for part, digest in fingerprint(task).items() if digest != before[part]}
    assert moved == {"behaviour"}


def test_a_task_that_has_changed_is_refused_with_the_version_to_use(own_folder):
    task, folder = own_folder
    check_frozen(task)
    changed = replace(task, reward_weights=RewardWeights(freshness=2.0))
    with pytest.raises(
        ConfigurationError, match=r"changed is the reward; .* use driftrec [\d.]+, with which it was frozen"
    ):
        check_frozen(changed)
    kept = json.loads((folder / "fingerprints.json").read_text())
    (folder / "fingerprints.json").write_text(json.dumps(kept | {"Village-v3": kept["Village-v1"]}))
    with pytest.raises(ConfigurationError, match="use Village-v3, or driftrec"):
        check_frozen(replace(changed, split_seed=5))


def test_a_task_without_a_fingerprint_is_refused(own_folder):
    with pytest.raises(ConfigurationError, match="has no fingerprint"):
        check_frozen(replace(own_folder[0], name="Town-v1"))


def test_frozen_users_come_back_to_the_bit(tmp_path, generated):
    log, model = generated
    save_users(tmp_path / "with.npz", model, log)
    save_users(tmp_path / "without.npz", model)
    for path, given in ((tmp_path / "with.npz", None), (tmp_path / "without.npz", log)):
        back_log, back = load_users(path, given)
        assert_array_equal(back_log.consumed().item, log.consumed().item)
        assert_array_equal(back.item_vectors, model.item_vectors)
        assert_array_equal(back.user_parameters, model.user_parameters)
        assert back.params == model.params and back.visits == model.visits
    with pytest.raises(ArtefactError, match="holds no log"):
        load_users(tmp_path / "without.npz")
    other = generate_log(SyntheticConfig(num_users=10, num_items=60, events_per_user=12), seed=1)[0]
    with pytest.raises(ArtefactError, match="24 users and 60 items, log 'synthetic' has 10"):
        load_users(tmp_path / "without.npz", other)


def test_a_fingerprint_is_written_once(own_folder):
    task, folder = own_folder
    with pytest.raises(
        ConfigurationError, match="is frozen already; give what you have changed a new version, Village-v2"
    ):
        prints.freeze(task)
    town = replace(task, name="Town-v1")
    prints.freeze(town)
    assert list(json.loads((folder / "fingerprints.json").read_text())) == ["Village-v1", "Town-v1"]
    check_frozen(town)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_is_what_it_was_when_it_was_frozen(name):
    check_frozen(TASKS[name])
