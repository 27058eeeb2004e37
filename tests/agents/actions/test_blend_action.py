import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose, assert_array_equal

from agents.actions import action_wrapper
from agents.actions.blend import Blend, BlendAction
from agents.actions.ranker_scores import RankerScores
from agents.rankers import RankingInput
from agents.rerankers import best_first
from agents.summary import BOUND, PublicItems, summarise
from envs.errors import ConfigurationError

ALONE = {"popular": (0, 0, 0), "youngest": (-1, 1, 0), "recall": (-1, 0, 1)}
"""Actions that leave one ranker, or the recall score, by itself."""


@pytest.fixture
def blend(small_world, two_rankers):
    return Blend(RankerScores(two_rankers), PublicItems.from_log(small_world.policy_log))


@pytest.fixture
def observation(make_env):
    env = make_env(200)
    env.reset(seed=3)
    return env.observation


def raw_scores(two_rankers, observation, name):
    if name == "recall":
        return observation.candidates.score
    return next(ranker for ranker in two_rankers if ranker.name == name).score(RankingInput.of(observation))


@pytest.mark.parametrize("name", ALONE)
def test_weight_on_one_ranker_alone_is_its_greedy_slate(make_env, two_rankers, name):
    env = BlendAction(make_env(), RankerScores(two_rankers))
    env.reset(seed=2)
    for _ in range(20):
        observation = env.env.observation
        slates = best_first(raw_scores(two_rankers, observation, name), observation.candidates.mask, 4)
        shown = np.take_along_axis(observation.candidates.mask, slates, axis=1) == 1
        items = np.where(shown, np.take_along_axis(observation.candidates.items, slates, axis=1), -1)
        *_, info = env.step(np.tile(np.float32(ALONE[name]), (12, 1)))
        assert_array_equal(info["slate_items"], items)


def test_a_slate_holds_the_largest_weighted_sums(blend, two_rankers, observation):
    scores = blend.rankers(observation)
    weights = np.random.default_rng(0).uniform(-1, 2, (200, 3)).astype(np.float32)
    slates = blend.slates(observation, scores, weights, 4)
    mask = observation.candidates.mask == 1
    for row in range(200):
        columns = [raw_scores(two_rankers, observation, name)[row] for name in ("popular", "youngest", "recall")]
        own = [(c - c[mask[row]].mean()) / c[mask[row]].std() if c[mask[row]].std() > 1e-6 else 0 * c for c in columns]
        value = sum(weight * column for weight, column in zip(weights[row], own, strict=True))
        assert mask[row][slates[row]].all()
        assert_allclose(value[slates[row]], -np.sort(-value[mask[row]])[:4], atol=1e-3)


def test_only_the_direction_of_weights_matters(blend, observation):
    scores = blend.rankers(observation)
    weights = np.random.default_rng(0).uniform(-1, 2, (200, 3)).astype(np.float32)
    assert_array_equal(blend.slates(observation, scores, weights, 4), blend.slates(observation, scores, 4 * weights, 4))


def test_rows_are_the_summary_and_the_description(make_env, blend, two_rankers):
    env = BlendAction(make_env(), RankerScores(two_rankers))
    rows, _ = env.reset(seed=2)
    summary = summarise(env.env.observation, env.blend.items)
    names = blend.description_names()
    assert len(set(names)) == len(names) == rows.shape[1] - summary.shape[1]
    assert_array_equal(rows[:, : summary.shape[1]], summary)


def test_the_description_tells_correlations_and_the_best_of_each_ranker(blend, two_rankers, observation):
    described = blend.describe(observation, blend.rankers(observation))
    assert (np.abs(described) <= BOUND).all()
    names, candidates = blend.description_names(), observation.candidates
    logs = {
        "popular": raw_scores(two_rankers, observation, "popular"),
        "youngest": raw_scores(two_rankers, observation, "youngest"),
        "recall": candidates.score,
        "age": np.log1p(candidates.age),
        "popularity": blend.items.popularity[np.maximum(candidates.items, 0)],
    }
    for row in range(0, 200, 20):
        shown = candidates.mask[row] == 1
        of_row = {name: column[row][shown] for name, column in logs.items()}
        for column, name in enumerate(names):
            if "_with_" in name:
                first, second = name.split("_with_")
                expected = np.corrcoef(of_row[first], of_row[second])[0, 1]
            else:
                first, second = name.split("_top_")
                values = of_row[first if second == "score" else second]
                best = np.argsort(-of_row[first], kind="stable")[:10]
                expected = np.clip((values[best].mean() - values.mean()) / values.std(), -BOUND, BOUND)
            assert described[row, column] == pytest.approx(expected, abs=2e-3), name


def test_rows_do_not_depend_on_the_batch(blend, observation):
    together, rows = blend.observe(observation, blend.rankers(observation)), np.array([150, 3, 77])
    few = observation.take(rows)
    assert_array_equal(blend.observe(few, blend.rankers(few)), together[rows])


def test_one_ranker_is_not_enough(make_env, two_rankers):
    for rankers, told in ((two_rankers[:1], r"1 \(popular\)"), ((), r"0 \(none\)")):
        with pytest.raises(ConfigurationError, match=told):
            action_wrapper(make_env(), "blend", rankers=rankers)


def test_weights_that_are_no_numbers_are_refused(make_env, two_rankers):
    env = BlendAction(make_env(mode=AutoresetMode.DISABLED), RankerScores(two_rankers))
    env.reset(seed=0)
    for actions in (np.full((12, 3), np.nan), np.zeros((12, 2))):
        with pytest.raises(ConfigurationError, match="cannot blend 2 rankers"):
            env.step(actions)


def test_a_ranker_that_returns_nonsense_is_told(blend, observation, two_rankers, monkeypatch):
    monkeypatch.setattr(two_rankers[1], "_score", lambda batch: np.full(batch.items.shape, np.nan))
    with pytest.raises(ConfigurationError, match="ranker 'youngest' gave candidate 0 of request 0 the score nan"):
        blend.rankers(observation)
