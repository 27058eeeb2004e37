"""All action spaces share one engine, and pass the checkers of the libraries that train on them."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal
from stable_baselines3.common.env_checker import check_env as check_sb3

from agents.actions import SingleUser, action_names, action_wrapper, resolve_action
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log

KINDS = {
    "weights": spaces.Box,
    "presets": spaces.Discrete,
    "slate": spaces.MultiDiscrete,
    "slots": spaces.Discrete,
    "blend": spaces.Box,
}
MODES = list(AutoresetMode)


@pytest.fixture
def make(make_env, two_rankers):
    """make(action, num_envs, mode): the wrapped environment."""

    def wrapped(action, num_envs=12, mode=AutoresetMode.NEXT_STEP, **further):
        rankers = two_rankers if action in ("blend", "slate", "slots") else ()
        return action_wrapper(make_env(num_envs, mode, **further), action, rankers=rankers)

    return wrapped


def test_there_are_five():
    assert action_names() == tuple(KINDS)


@pytest.mark.parametrize("action", KINDS)
def test_the_checkers_pass(make, action):
    assert isinstance(make(action).single_action_space, KINDS[action])
    assert resolve_action(action).name == action
    with warnings.catch_warnings():
        # flat rows have no bounds, and MultiDiscrete(1-dim) is what a slate is
        warnings.filterwarnings("ignore", message=".*infinity.*")
        for check in (lambda env: check_gymnasium(env, skip_render_check=True), check_sb3):
            check(SingleUser(make(action, 1, AutoresetMode.DISABLED)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("action", KINDS)
def test_the_vector_face_keeps_to_its_spaces_and_a_seed_gives_the_same_bits(make, action, mode):
    traces = []
    for seed in (7, 7, 8):
        env = make(action, 5, mode)
        rows, info = env.reset(seed=seed)
        env.action_space.seed(1)
        trace = [rows]
        assert rows in env.observation_space and env.observation_space.shape == (5, *env.single_observation_space.shape)
        for _ in range(25):
            rows, rewards, terminated, truncated, info = env.step(env.action_space.sample())
            assert rows in env.observation_space and np.isfinite(rows).all()
            assert rewards.shape == terminated.shape == truncated.shape == info["active"].shape == (5,)
            assert rewards.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
            trace += [rows, rewards, terminated, truncated]
            if mode == AutoresetMode.DISABLED and (terminated | truncated).any():
                rows, _ = env.reset(options={"reset_mask": terminated | truncated})
                trace.append(rows)
        traces.append(trace)
    for first, again in zip(*traces[:2], strict=True):
        assert_array_equal(first, again)
    assert not all(np.array_equal(first, other) for first, other in zip(traces[0], traces[2], strict=False))


@pytest.mark.parametrize("action", KINDS)
def test_users_side_by_side_are_single_users(make, action):
    """Gymnasium's own vector of single users and the wrapper's batch of one tell the same of the first user."""
    alone = make(action, 1, AutoresetMode.DISABLED)
    vector = SyncVectorEnv([lambda: SingleUser(make(action, 1, AutoresetMode.DISABLED))] * 2)
    first, _ = alone.reset(seed=5)
    rows, _ = vector.reset(seed=[5, 6])
    assert_array_equal(rows[0], first[0])
    vector.action_space.seed(2)
    for _ in range(6):
        actions = vector.action_space.sample()
        first, reward, *_ = alone.step(actions[:1])
        rows, rewards, *_ = vector.step(actions)
        assert_array_equal(rows[0], first[0])
        assert rewards[0] == reward[0]


@pytest.mark.parametrize("action", KINDS)
def test_a_row_does_not_depend_on_the_batch(make, action):
    env = make(action, 9)
    env.reset(seed=2)
    observation, scores = env._observation, env._scores
    together = env.observe(observation, scores)
    rows = np.array([7, 2])
    few = observation.take(rows)
    assert_array_equal(env.observe(few, env._score(few)), together[rows])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("action", KINDS)
def test_a_final_row_is_the_one_that_a_life_without_autoreset_ends_with(make, action, mode):
    same, other = make(action, 20, mode), make(action, 20, AutoresetMode.DISABLED)
    assert_array_equal(same.reset(seed=1)[0], other.reset(seed=1)[0])
    same.action_space.seed(0)
    for _ in range(400):
        actions = same.action_space.sample()
        *_, info = same.step(actions)
        rows, _, terminated, truncated, _ = other.step(actions)
        ended = terminated | truncated
        if ended.any():
            assert_array_equal(info["_final_obs"], ended)
            assert_array_equal(info["final_obs"][ended], rows[ended])
            assert (info["final_obs"][~ended] == 0).all()
            return
    raise AssertionError("no life ended, so nothing was tested")


@pytest.mark.parametrize("action", KINDS)
@pytest.mark.parametrize("count", [0, 2])
def test_few_candidates_and_none(make, few_candidates, action, count):
    """Served short: no more items are shown than there are, and an empty slate earns nothing."""
    env = make(action, 6, candidate_source=few_candidates(count))
    rows, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(4 * env.steps_per_request):
        assert np.isfinite(rows).all()
        rows, rewards, *_, info = env.step(env.action_space.sample())
        if "slate_items" in info:
            assert ((info["slate_items"] >= 0).sum(axis=1) <= count).all()
            assert count or ((rewards == 0).all() and (info["clicked_item"] == -1).all())


def test_a_request_is_discounted_alike_however_many_steps_it_takes(make):
    for action in KINDS:
        env = make(action)
        assert env.steps_per_request == (4 if action == "slots" else 1)
        assert env.discount(0.9) ** env.steps_per_request == pytest.approx(0.9)


def test_an_unknown_action_space_is_refused(make_env):
    with pytest.raises(ConfigurationError, match="did you mean 'slots'") as caught:
        action_wrapper(make_env(), "slot")
    assert ", ".join(KINDS) in str(caught.value)


def test_what_does_not_fit_is_refused(make_env, two_rankers):
    for action in ("weights", "presets"):
        with pytest.raises(ConfigurationError, match="takes no rankers"):
            action_wrapper(make_env(), action, rankers=two_rankers)
    for action in KINDS:
        with pytest.raises(ConfigurationError, match="wraps a SlateVectorEnv, not a SingleUser"):
            action_wrapper(
                SingleUser(action_wrapper(make_env(1, AutoresetMode.DISABLED))),
                action,
                rankers=two_rankers if action == "blend" else (),
            )


def test_rankers_of_another_catalogue_or_unfitted_are_refused(make_env, two_rankers):
    other, _ = generate_log(SyntheticConfig(num_users=20, num_items=40, events_per_user=10), seed=1)
    foreign = tuple(type(ranker)().fit(other) for ranker in two_rankers)
    for action in ("blend", "slate", "slots"):
        with pytest.raises(ConfigurationError, match="another catalogue"):
            action_wrapper(make_env(), action, rankers=foreign)
        with pytest.raises(ConfigurationError, match="'youngest' is not fitted"):
            action_wrapper(make_env(), action, rankers=(two_rankers[0], type(two_rankers[1])()))
        with pytest.raises(ConfigurationError, match="two rankers are called 'popular'"):
            action_wrapper(make_env(), action, rankers=two_rankers[:1] * 2)
