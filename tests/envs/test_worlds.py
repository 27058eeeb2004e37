from dataclasses import replace

import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import Drift
from envs.world import World, WorldConfig
from envs.worlds import DriftWorld, LogWorld, SatiationWorld, made, own_world

OWN = """
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import build_world


class Village:
    name = "village"

    def make(self):
        return build_world(*generate_log(SyntheticConfig(num_users=12, num_items=30), seed=3), progress=False)


class Nameless:
    def make(self):
        return None


class Idle:
    name = "idle"


class Needy:
    name = "needy"

    def __init__(self, size):
        self.size = size


class Empty:
    name = "empty"

    def make(self):
        return None


class Broken:
    name = "broken"

    def make(self):
        return 1 / 0
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "places.py"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def fitted():
    generated = generate_log(SyntheticConfig(num_users=30, num_items=80, events_per_user=15), seed=2)
    return lambda: generated


def test_a_world_of_a_file_is_made(own):
    world = made(own_world(f"{own}:Village"))
    assert isinstance(world, World) and world.num_users == 12


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nameless", "needs a name of letters, digits and underscores"),
        ("Idle", r"lacks the method make\(self\)"),
        ("Needy", "cannot be made without arguments"),
        ("Nobody", "has no class 'Nobody'"),
    ],
)
def test_a_world_that_cannot_be_used_is_refused(own, name, said):
    with pytest.raises(ConfigurationError, match=said):
        own_world(f"{own}:{name}")


@pytest.mark.parametrize(("name", "said"), [("Empty", "make returned a NoneType"), ("Broken", "line 40")])
def test_a_make_that_fails_is_told_with_its_place(own, name, said):
    with pytest.raises(ConfigurationError, match=said):
        made(own_world(f"{own}:{name}"))


def test_drift_bears_items_and_lets_interests_wander_over_the_same_users(fitted):
    config = WorldConfig(days=10, seed=4)
    plain = LogWorld(name="log", fitted=fitted, config=config).make()
    drift = DriftWorld(name="drift", fitted=fitted, config=config).make()
    assert drift.num_items > plain.num_items
    assert drift.config.modifiers == (Drift(scale=5.0),)
    assert_array_equal(drift.policy_log.user, plain.policy_log.user)


def test_heavy_items_tire_users_of_everything_and_are_of_all_categories_to_see():
    world = SatiationWorld(users=40, config=WorldConfig(seed=1))
    log, model = world.generated()
    public, load = log.catalogue.categories, model.categories.sum(axis=1)
    assert_allclose(public.sum(axis=1), 1, rtol=1e-5)
    heavy = load > 1.5
    assert 0.05 < heavy.mean() < 0.2
    assert_allclose(load[heavy], world.heavy_load, rtol=1e-5)
    assert (public[heavy] == public[heavy][0, 0]).all()
    assert_array_equal(model.categories[~heavy], public[~heavy])
    plain, _ = replace(world, heavy_share=0.0).generated()
    assert_array_equal(log.catalogue.categories[~heavy], plain.catalogue.categories[~heavy])
    assert heavy[log.item[log.clicked]].mean() > 2 * heavy[plain.item[plain.clicked]].mean(), "users like them"
    assert made(world).num_users == 40
