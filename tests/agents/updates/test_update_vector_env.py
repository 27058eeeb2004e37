import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal
from update_runs import varied

from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.vector_env import ModelUpdateVectorEnv
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.scenarios import scenario

ACTIONS = [[0, 0], [3, 6], [1, 5]]


@pytest.fixture(scope="module")
def markets(config) -> list[Market]:
    """Two scenarios of one small log, of three days."""
    generated = generate_log(SyntheticConfig(num_users=40, num_items=80, events_per_user=20), seed=3)
    settings = {"fitted": lambda: generated, "days": 3, "visits_per_day": 30}
    return [
        Market.of(scenario(name, **settings), varied(config, days=3, visits_per_day=1)) for name in ("news", "growth")
    ]


def test_markets_side_by_side_are_what_each_is_alone(markets):
    """The step after the last one of an episode only begins the next."""
    together = ModelUpdateVectorEnv(markets, 2)
    alone = [ModelUpdateEnv(market) for market in markets]
    assert together.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    seen, info = together.reset(seed=7)
    for place, env in enumerate(alone):
        own, told = env.reset(seed=7 + place)
        assert_array_equal(seen[place], own)
        assert_array_equal(info["action_mask"][place], told["action_mask"])
    for actions in ACTIONS:
        seen, rewards, terminated, truncated, info = together.step(np.array(actions))
        assert info["action_mask"].shape == (2, len(UpdateAction)) and info["vector"].shape == (2, 4)
        for place, env in enumerate(alone):
            own, reward, _, ended, told = env.step(actions[place])
            assert_array_equal(seen[place], own)
            assert (rewards[place], truncated[place], terminated[place]) == (reward, ended, False)
            for name in ("action_mask", "vector", "action_taken", "clicks", "work", "model_version", "gate"):
                assert_array_equal(info[name][place], told[name], err_msg=name)
    assert truncated.all()
    seen, rewards, _, truncated, info = together.step(np.array([0, 0]))
    assert not rewards.any() and not truncated.any() and info["action_mask"].tolist() == [[1, 0, 0, 0, 0, 0, 0]] * 2


def test_a_market_is_that_of_its_scenario(markets):
    news, growth = markets
    assert news.plan.visits_per_day == 30 and news.name == "news" and growth.plan.grows
    assert (growth.world.start_day[growth.users] > 0).any()


def test_places_play_all_markets_in_turn(market, markets):
    three = [market, *markets]
    played = ModelUpdateVectorEnv(three, 2)
    orders = [[each.name for each in env.markets] for env in played.envs]
    # episode n of place i plays market (i + 2 n) mod 3
    assert orders == [["market", "growth", "news"], ["news", "market", "growth"]]
    assert ModelUpdateVectorEnv(three).num_envs == 3


def test_a_seed_begins_with_the_first_market_again(markets):
    env = ModelUpdateEnv(markets)
    names = []
    for seed in (0, None, None, 0, None):
        env.reset(seed=seed)
        names.append(env.market.name)
    assert names == ["news", "growth", "news", "news", "growth"]


def test_an_episode_may_begin_in_any_market(markets):
    env = ModelUpdateEnv(markets)
    names = []
    for seed, options in (
        (0, {"market": 1}),
        (None, None),
        (None, {"market": 0}),
        (3, {"market": np.int64(1)}),
        (3, {}),
    ):
        env.reset(seed=seed, options=options)
        names.append(env.market.name)
    assert names == ["growth", "news", "news", "growth", "news"]
    first, _ = env.reset(seed=5, options={"market": 1})
    drawn = env.episode.seed
    again, _ = env.reset(seed=5, options={"market": 1})
    assert_array_equal(first, again)
    assert env.episode.seed == drawn


@pytest.mark.parametrize("place", [2, -1, "news", 0.5])
def test_an_unknown_market_is_refused_and_the_episode_goes_on(markets, place):
    env = ModelUpdateEnv(markets)
    env.reset(seed=0, options={"market": 1})
    playing = env.episode
    with pytest.raises(ConfigurationError, match=r"no market .*takes 0 to 1"):
        env.reset(options={"market": place})
    assert env.episode is playing and env.market.name == "growth"


def test_it_is_made_by_name(markets):
    made = gymnasium.make_vec("agents:driftrec/ModelUpdate-v0", num_envs=3, markets=markets)
    assert made.num_envs == 3 and made.single_action_space.n == 7
    observation, _ = made.reset(seed=0)
    assert made.observation_space.contains(observation)


def test_no_market_or_two_sources_of_one_are_refused(markets, world, config):
    with pytest.raises(ConfigurationError, match="0 markets"):
        ModelUpdateVectorEnv([], 2)
    with pytest.raises(ConfigurationError, match="0 environments"):
        ModelUpdateVectorEnv(markets, 0)
    with pytest.raises(ConfigurationError, match="give them to Market"):
        ModelUpdateVectorEnv(markets, 2, config=config)
