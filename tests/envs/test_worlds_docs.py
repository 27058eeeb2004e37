"""The classes in docs/worlds.md, as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import modifiers_from
from envs.rewards import reward_from
from envs.slate_env import SlateVectorEnv
from envs.world import WorldConfig, build_world
from envs.worlds import made, own_world

PAGE = Path(__file__).parents[2] / "docs" / "worlds.md"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """All classes of the page in one file."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path_factory.mktemp("page") / "page.py"
    path.write_text("\n".join(block for block in blocks if "class " in block))
    return path


def clicks(world, **arguments):
    env = SlateVectorEnv(40, world=world, num_candidates=40, seed=1, **arguments)
    env.reset()
    steps = [env.step(np.tile(np.arange(10), (40, 1))) for _ in range(25)]
    return np.array([step[-1]["clicked_item"] for step in steps]), np.array([step[1] for step in steps])


def test_the_page_s_modifiers_change_what_users_do(file):
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=100, events_per_user=20), seed=1)
    plain = clicks(build_world(log, model, WorldConfig(days=12)))[0]
    for name in ("WinterSleep", "Fashion"):
        modified = build_world(log, model, WorldConfig(days=12, modifiers=modifiers_from([f"{file}:{name}"])))
        assert (clicks(modified)[0] != plain).any()


def test_the_page_s_reward_pays_and_charges(file, world):
    paid = clicks(world, reward_weights=reward_from(f"{file}:Liking"))[1]
    assert {-0.5, 0.0, 1.0} == set(np.unique(paid))


def test_the_page_s_world_is_made(file):
    world = made(own_world(f"{file}:Festival"))
    assert world.config.arrivals_per_day == 10 and world.num_users > 150 and world.num_items > 550
