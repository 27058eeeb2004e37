import pytest
from numpy.testing import assert_array_equal

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


def test_satiation_is_that_of_the_world_and_not_of_the_log():
    config = WorldConfig(seed=1)
    log, model = SatiationWorld(users=20, config=config).generated()
    plain, known = generate_log(SyntheticConfig(num_users=20, num_categories=8), seed=1)
    assert_array_equal(log.item, plain.item)
    assert model.params.satiation_gain == 0.8 > known.params.satiation_gain
    assert made(SatiationWorld(users=20, config=config)).num_users == 20
