import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import CategoryShock, Drift, ModifiedModel, Modifier, Moment, Scene, WeeklySeason, modifiers_from
from envs.slate_env import SlateVectorEnv
from envs.world import World, WorldConfig, build_world

DAY = 86_400.0
SCENE = Scene(categories=np.eye(6, dtype=np.float32), category_names=tuple("abcdef"), days=30, first_weekday=3, seed=11)
FILE = """
import numpy as np
from envs.modifiers import Modifier

class Rising(Modifier):
    def item_columns(self, scene):
        return np.linspace(-1, 1, len(scene.categories), dtype=np.float32)[:, None]

    def weights(self, scene, moment):
        return 0.1 * moment.day[:, None]

class Nothing(Modifier):
    pass

class Picky(Modifier):
    def __init__(self, strength):
        self.strength = strength

    def weights(self, scene, moment):
        return np.zeros((len(moment.user), 6))

class Misshapen(Modifier):
    def weights(self, scene, moment):
        return np.zeros(len(moment.user))

class Failing(Modifier):
    def weights(self, scene, moment):
        return moment.nothing_of_this_name

class Other:
    def weights(self, scene, moment):
        return 0
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def moment_at(days, user=None) -> Moment:
    days = np.atleast_1d(np.asarray(days, float))
    return Moment(np.zeros(len(days), int) if user is None else np.asarray(user), days * DAY)


def under(modifiers, world: World) -> World:
    """The default world's log and model under modifiers."""
    log, model = generate_log(SyntheticConfig(), seed=0)
    return build_world(log, model, WorldConfig(modifiers=tuple(modifiers)))


def test_a_shock_comes_on_its_day_and_goes() -> None:
    shock = CategoryShock(count=1, strength=2, days=5)
    weights = shock.weights(SCENE, moment_at(np.arange(0, 40, 0.01)))
    touched = np.flatnonzero((weights != 0).any(axis=0))
    assert len(touched) == 1 and set(np.unique(weights[:, touched])) in ({0.0, 2.0}, {-2.0, 0.0})
    assert_allclose((weights[:, touched] != 0).sum() * 0.01, 5, atol=0.02)
    others = [replace(SCENE, seed=seed) for seed in range(40)]
    days = [np.argmax((shock.weights(scene, moment_at(np.arange(35.0))) != 0).any(axis=1)) for scene in others]
    assert min(days) < 6 and max(days) > 22


def test_a_season_repeats_after_a_week_and_begins_with_the_weekday() -> None:
    season = WeeklySeason(strength=1.0)
    week = season.weights(SCENE, moment_at(np.arange(7)))
    assert_allclose(season.weights(SCENE, moment_at(np.arange(7, 14))), week, atol=1e-4)
    assert_allclose(week.mean(axis=0), 0, atol=1e-5)
    later = season.weights(replace(SCENE, first_weekday=4), moment_at(np.arange(6)))
    assert_allclose(later, week[1:], atol=1e-4)
    assert np.ptp(week, axis=0).min() > 0 and len(np.unique(week[0])) == 6


def test_drift_moves_interest_further_over_the_same_gap(world: World) -> None:
    plain, drifting = world.user_model, under([Drift(scale=3)], world).user_model
    states = [model.start(model.user_parameters[:4]) for model in (plain, drifting)]
    before = states[0].long_term.copy()
    walk = np.random.default_rng(0).normal(size=(4, plain.walk_width)).astype(np.float32)
    for model, state in zip((plain, drifting), states, strict=True):
        model.pause(state, np.arange(4), np.full(4, 2, np.float32), walk)
    assert_allclose(states[1].long_term - before, 3 * (states[0].long_term - before), rtol=1e-3, atol=1e-6)
    drifting.pause(states[1], np.arange(4), np.full(4, 2, np.float32), None)


def test_utilities_move_by_the_weights_of_the_items_categories(world: World) -> None:
    modified = under([CategoryShock(strength=2, days=100, count=5), WeeklySeason()], world)
    model = modified.user_model
    groups = world.policy_log.catalogue.num_categories
    assert isinstance(model, ModifiedModel)
    assert model.item_vectors.shape[1] == model.base.item_vectors.shape[1] + groups  # shared by both
    state = modified.start_state(np.arange(50), np.zeros(50, int))
    state.clock = state.clock + np.arange(50) % 30 * DAY
    moved = modified.preference(state) @ model.item_vectors.T
    plain = world.preference(state) @ world.user_model.item_vectors.T
    moment = Moment(state.user, state.clock)
    weights = sum(m.weights(scene, moment) for m, scene in zip(model.modifiers, model.scenes, strict=True))
    assert_allclose(moved - plain, weights @ world.policy_log.catalogue.categories.T, atol=1e-4)
    assert np.abs(weights).max() > 1


def test_two_modifiers_of_a_kind_draw_their_own(world: World) -> None:
    scenes = under([WeeklySeason(), WeeklySeason()], world).user_model.scenes
    assert scenes[0].seed != scenes[1].seed


def clicks_of(world: World, seed: int = 0) -> np.ndarray:
    env = SlateVectorEnv(100, world=world, autoreset_mode=AutoresetMode.DISABLED, num_candidates=60)
    env.reset(seed=seed)
    return np.array([env.step(np.tile(np.arange(10), (100, 1)))[-1]["clicked_item"] for _ in range(15)])


def test_what_users_do_changes_and_is_reproducible(world: World) -> None:
    shocked = under([CategoryShock(strength=4, days=100, count=6)], world)
    first = clicks_of(shocked)
    assert_array_equal(first, clicks_of(shocked))
    assert (first != clicks_of(replace(shocked, user_model=shocked.user_model.base))).any()


def test_without_modifiers_the_model_is_the_fitted_one(world: World) -> None:
    assert under([], world).user_model.__class__ is world.user_model.__class__


def test_columns_of_ones_own_and_known_names_mix(file, world: World) -> None:
    given = modifiers_from(["shock", f"{file}:Rising", "drift"])
    assert [type(each).__name__ for each in given] == ["CategoryShock", "Rising", "Drift"]
    modified = under(given, world)
    state = modified.start_state(np.arange(3), np.zeros(3, int))
    state.clock = np.array([0.0, 10, 29]) * DAY
    added = modified.preference(state)[:, -1]
    assert_allclose(added, [0, 1, 2.9], rtol=1e-6)
    assert_allclose(modified.user_model.item_vectors[:, -1], np.linspace(-1, 1, world.num_items), rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("sesaon", "did you mean 'season'"),
        ("{file}", "names no class"),
        ("{file}:Nobody", "no class 'Nobody'; it has Rising"),
        ("{file}:Nothing", "lacks the method weights"),
        ("{file}:Other", "not a subclass of envs.modifiers.Modifier"),
        ("{file}:Picky", "cannot be made without arguments"),
        ("absent.py:Rising", "modifier file 'absent.py' does not exist"),
    ],
)
def test_a_wrong_modifier_is_refused_with_what_it_lacks(file, spec, told) -> None:
    with pytest.raises(ConfigurationError) as caught:
        modifiers_from([spec.format(file=file)])
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Misshapen", r"weights returned shape \(\d+,\)"),
        ("Failing", "failed in weights .*mine.py, line 28.*nothing_of_this_name"),
    ],
)
def test_a_modifier_that_fails_is_named(file, world: World, name, told) -> None:
    with pytest.raises(ConfigurationError, match=told):
        under(modifiers_from([f"{file}:{name}"]), world)


def test_another_process_finds_a_modifier_of_a_file(file, tmp_path) -> None:
    path = tmp_path / "pickled"
    path.write_bytes(pickle.dumps(modifiers_from([f"{file}:Rising", "shock"])))
    code = f"import pickle; print([type(m).__name__ for m in pickle.load(open({str(path)!r}, 'rb'))])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "['Rising', 'CategoryShock']"


def test_a_modifier_is_its_scenes_and_moments_only() -> None:
    for modifier in (CategoryShock(), WeeklySeason()):
        days = np.linspace(0, 29, 40)
        order = np.random.default_rng(0).permutation(40)
        whole = modifier.weights(SCENE, moment_at(days))
        assert_array_equal(modifier.weights(SCENE, moment_at(days[order])), whole[order])
    assert Modifier().walk_scale(SCENE) == 1.0


class Leaning(Modifier):
    """Interests drift the same way for everybody, from the tenth day on."""

    def wander(self, scene, moment, days, steps):
        assert steps.shape[0] == len(days) == len(moment.user) and (days > 0).all()
        return steps + 3.0 * (moment.day >= 10)[:, None]


class Lost(Modifier):
    def wander(self, scene, moment, days, steps):
        return steps[:, :1]


def interests_of(world: World, requests: int = 40) -> tuple[np.ndarray, np.ndarray]:
    env = SlateVectorEnv(60, world=world, autoreset_mode=AutoresetMode.DISABLED, num_candidates=60, seed=1)
    env.reset()
    for _ in range(requests):
        env.step(np.tile(np.arange(10), (60, 1)))
    return env._state.interest.long_term.mean(axis=1), env._state.clock / DAY


def test_a_drift_of_ones_own_moves_interests_from_its_day_on(world: World) -> None:
    plain, day = interests_of(world)
    leaning, same_day = interests_of(under([Leaning()], world))
    early = (day < 10) & (same_day < 10)
    assert early.any() and (day >= 10).any()
    assert_allclose(leaning[early], plain[early], atol=1e-6)
    assert leaning[same_day >= 10].mean() > plain[day >= 10].mean() + 0.01


def test_steps_of_another_shape_are_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="wander returned shape"):
        interests_of(under([Lost()], world))


def test_a_drift_is_scaled_with_the_others(world: World) -> None:
    leaning = interests_of(under([Leaning()], world))[0]
    faster = interests_of(under([Leaning(), Drift(scale=4.0)], world))[0]
    assert np.abs(faster - leaning).max() > 0.01
