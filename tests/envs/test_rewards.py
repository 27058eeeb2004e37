import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.oracles import OracleMyopic
from envs.errors import ConfigurationError
from envs.measures import RewardWeights
from envs.rewards import Parts, Reward, reward_from
from envs.slate_env import SlateVectorEnv

OWN = """
import numpy as np

from envs.rewards import Reward


class Patience(Reward):
    def of(self, parts):
        return np.where(parts.left, -1.0, parts.engagement) + 0.25


class Twice(Reward):
    def of(self, parts):
        return 2 * parts.engagement + parts.diversity


class Rated(Reward):
    def of(self, parts):
        return np.where(parts.item >= 0, np.nan_to_num(parts.rating), 0.0)


class Nothing(Reward):
    pass


class Other:
    def of(self, parts):
        return parts.engagement


class Picky(Reward):
    def __init__(self, size):
        self.size = size

    def of(self, parts):
        return parts.engagement


class Single(Reward):
    def of(self, parts):
        return parts.engagement.sum()


class Undefined(Reward):
    def of(self, parts):
        return parts.rating * np.nan


class Failing(Reward):
    def of(self, parts):
        return parts.clicks
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(OWN)
    return path


def lives(world, reward, steps=12):
    """(rewards [T, N], infos) under fixed slates; users whose life is over wait."""
    env = SlateVectorEnv(
        60, world=world, num_candidates=60, reward_weights=reward, autoreset_mode=AutoresetMode.DISABLED, seed=2
    )
    env.reset()
    told = [env.step(np.tile(np.arange(10), (60, 1))) for _ in range(steps)]
    return np.array([each[1] for each in told]), [each[-1] for each in told]


def test_a_reward_of_a_file_pays_what_it_says_and_only_the_living(file, world):
    paid, infos = lives(world, reward_from(f"{file}:Patience"), steps=60)
    for row, info in zip(paid, infos, strict=True):
        expected = np.where(info["leave"], -1, info["engagement"]) + 0.25
        assert_allclose(row, np.where(info["active"], expected, 0))
    assert not all(info["active"].all() for info in infos)


def test_parts_tell_what_was_seen(file, world):
    told = []

    class Spy(Reward):
        def of(self, parts: Parts):
            told.append(parts)
            return parts.engagement

    _, infos = lives(world, Spy(), steps=3)
    for parts, info in zip(told, infos, strict=True):
        for name, seen in (
            ("item", "clicked_item"),
            ("slot", "clicked_slot"),
            ("slates", "slate_items"),
            ("left", "leave"),
        ):
            assert_array_equal(getattr(parts, name), info[seen])
        shown = np.where(
            parts.slot >= 0, np.take_along_axis(parts.slates, np.maximum(parts.slot, 0)[:, None], 1)[:, 0], -1
        )
        assert_array_equal(parts.item, shown)
        assert len(parts.catalogue) == world.num_items


def test_the_default_is_the_weighted_sum(world):
    paid, infos = lives(world, RewardWeights(engagement=2, diversity=0.25, freshness=4))
    for row, info in zip(paid, infos, strict=True):
        assert_allclose(row, 2 * info["engagement"] + 0.25 * info["diversity"] + 4 * info["freshness"], rtol=1e-6)
    assert isinstance(reward_from("weights"), RewardWeights)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Nothing", r"lacks the method of\(self, parts\)"),
        ("Other", "not a subclass of envs.rewards.Reward"),
        ("Picky", "cannot be made without arguments"),
        ("Absent", "has no class 'Absent'"),
    ],
)
def test_a_wrong_reward_is_refused_with_what_it_lacks(file, name, told):
    with pytest.raises(ConfigurationError, match=told):
        reward_from(f"{file}:{name}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Single", r"of returned float32 \(\); it must return 60 finite numbers"),
        ("Undefined", "of returned a number that is not finite"),
        ("Failing", "reward 'Failing' failed in of .*mine.py, line 51.*clicks"),
    ],
)
def test_a_reward_that_fails_is_named(file, world, name, told):
    with pytest.raises(ConfigurationError, match=told):
        lives(world, reward_from(f"{file}:{name}"), steps=1)


def test_another_process_finds_a_reward_of_a_file(file, tmp_path):
    path = tmp_path / "pickled"
    path.write_bytes(pickle.dumps(reward_from(f"{file}:Twice")))
    code = f"import pickle; print(type(pickle.load(open({str(path)!r}, 'rb'))).__name__)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "Twice"
    )


def test_oracles_plan_for_a_reward_of_a_file(file, world):
    def slates(reward):
        env = SlateVectorEnv(40, world=world, num_candidates=60, reward_weights=reward, seed=4)
        env.reset()
        oracle = OracleMyopic()
        oracle.bind(env)
        return oracle.act(env.observation)

    known = slates(RewardWeights(engagement=2, diversity=1, freshness=0))
    assert_array_equal(slates(reward_from(f"{file}:Twice")), known)
    assert (slates(reward_from(f"{file}:Rated")) != known).any()
