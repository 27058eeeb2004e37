"""Each re-ranker beside its definition, one request and one candidate at a time, in double precision."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.rerankers import (
    RERANKERS,
    Boosted,
    BoostedConfig,
    Calibrated,
    CalibratedConfig,
    DeterminantalPointProcess,
    DPPConfig,
    Greedy,
    MaximalMarginalRelevance,
    MMRRerankerConfig,
    kernels,
)
from envs.errors import ArtefactError, ConfigurationError
from envs.observation import FIRST_CATEGORY, Candidates

NUM_ITEMS, NUM_CATEGORIES = 300, 6
POPULARITY = np.random.default_rng(9).exponential(2, NUM_ITEMS).astype(np.float32)
CATEGORIES = (np.random.default_rng(8).random((NUM_ITEMS, NUM_CATEGORIES)) < 0.3).astype(np.float32)
CATEGORIES /= np.maximum(CATEGORIES.sum(axis=1, keepdims=True), 1)


def made(kind, config=None):
    """A re-ranker that has learnt `POPULARITY` and `CATEGORIES`."""
    reranker = kind(config)
    if kind is Boosted:
        reranker.popularity_ = POPULARITY
    if kind is Calibrated:
        reranker.categories_ = CATEGORIES
    return reranker


@pytest.fixture(params=list(RERANKERS.values()), ids=list(RERANKERS))
def reranker(request):
    return made(request.param)


def scores_for(observation, seed=4):
    return np.random.default_rng(seed).normal(3, 2, observation.candidates.items.shape).astype(np.float32)


def reordered(observation, order):
    candidates = observation.candidates
    moved = (candidates.items[:, order], candidates.mask[:, order], candidates.features[:, order])
    return replace(observation, candidates=Candidates(*moved))


# ---------------------------------------------------------------------- references
def cosine_of(categories, first, second):
    length = np.linalg.norm(categories[first]) * np.linalg.norm(categories[second])
    return float(categories[first] @ categories[second]) / length if length else 0.0


def mmr_worth(slate, relevance, categories, trade_off):
    worth = 0.0
    for place, item in enumerate(slate):
        likeness = max((cosine_of(categories, item, other) for other in slate[:place]), default=0.0)
        worth += trade_off * relevance[item] - (1 - trade_off) * max(likeness, 0.0)
    return worth


def dpp_worth(slate, relevance, categories, trade_off, distinctness):
    """Log-probability of a slate, up to a constant and a factor, by the determinant of its kernel L."""
    quality = np.exp(trade_off / (2 - 2 * trade_off) * relevance[slate])
    likeness = np.array([[cosine_of(categories, first, second) for second in slate] for first in slate])
    likeness = (1 - distinctness) * likeness
    np.fill_diagonal(likeness, 1)
    return (1 - trade_off) * np.linalg.slogdet(quality[:, None] * likeness * quality)[1]


def calibration_worth(slate, relevance, categories, wanted, trade_off, smoothing):
    """Steck's objective, eq. 2, 3 and 6."""
    members = [categories[item] for item in slate if categories[item].any()]
    shares = np.mean(members, axis=0) if members else np.zeros(len(wanted))
    smoothed = (1 - smoothing) * shares + smoothing * wanted
    divergence = sum(p * np.log(p / q) for p, q in zip(wanted, smoothed, strict=True) if p > 0)
    return (1 - trade_off) * relevance[slate].sum() - trade_off * divergence


def assert_greedy_for(worth, observation, scores, slates, tolerance=2e-4):
    """That each slot holds a candidate whose slate so far has the largest worth(row, slate, relevance, categories)."""
    candidates = observation.candidates
    for row in range(len(observation)):
        shown = np.flatnonzero(candidates.mask[row])
        relevance = scores[row].astype(np.float64)
        relevance = (relevance - relevance[shown].mean()) / relevance[shown].std()
        categories = candidates.categories[row].astype(np.float64)
        for slot in range(min(slates.shape[1], len(shown))):
            before = slates[row, :slot].tolist()
            worths = {
                candidate: worth(row, [*before, candidate], relevance, categories)
                for candidate in shown.tolist()
                if candidate not in before
            }
            assert worths[slates[row, slot]] >= max(worths.values()) - tolerance


# ---------------------------------------------------------------------- each equals its definition
def test_greedy_sorts_by_score(observe):
    observation = observe(30, 25)
    scores = scores_for(observation)
    slates = Greedy().rerank(observation, scores, 10)
    for row, mask in enumerate(observation.candidates.mask):
        shown = np.flatnonzero(mask)
        assert_array_equal(slates[row], shown[np.argsort(-scores[row, shown])][:10])


@pytest.mark.parametrize("trade_off", [0.0, 0.4, 0.9])
def test_mmr_is_its_definition(observe, trade_off):
    observation = observe(10, 30)
    scores = scores_for(observation)
    slates = made(MaximalMarginalRelevance, MMRRerankerConfig(trade_off=trade_off)).rerank(observation, scores, 8)
    assert_greedy_for(lambda row, *slate: mmr_worth(*slate, trade_off), observation, scores, slates)


@pytest.mark.parametrize(("trade_off", "distinctness"), [(0.0, 0.1), (0.5, 0.05), (0.9, 0.5)])
def test_fast_greedy_map_is_greedy_by_determinants(observe, trade_off, distinctness):
    observation = observe(10, 30)
    scores = scores_for(observation)
    config = DPPConfig(trade_off=trade_off, distinctness=distinctness)
    slates = made(DeterminantalPointProcess, config).rerank(observation, scores, 8)
    assert_greedy_for(lambda row, *slate: dpp_worth(*slate, trade_off, distinctness), observation, scores, slates)


@pytest.mark.parametrize(("trade_off", "smoothing"), [(0.2, 0.01), (0.6, 0.1), (1.0, 0.01)])
def test_calibration_is_its_definition(observe, trade_off, smoothing):
    observation = observe(10, 30)
    scores = scores_for(observation)
    calibrated = made(Calibrated, CalibratedConfig(trade_off=trade_off, smoothing=smoothing))
    slates = calibrated.rerank(observation, scores, 8)
    wanted = calibrated.proportions(observation.history)
    assert_greedy_for(
        lambda row, *slate: calibration_worth(*slate, wanted[row], trade_off, smoothing), observation, scores, slates
    )


@pytest.mark.parametrize(("freshness", "popularity"), [(1.5, 0.0), (0.0, 0.8), (0.7, -0.4)])
def test_boosts_are_added_to_the_standardised_score(observe, freshness, popularity):
    observation = observe(20, 30, masked=0)
    scores = scores_for(observation)
    slates = made(Boosted, BoostedConfig(freshness=freshness, popularity=popularity)).rerank(observation, scores, 10)
    fame = POPULARITY[observation.candidates.items].astype(np.float64)
    relevance, fame = ((term - term.mean(1, keepdims=True)) / term.std(1, keepdims=True) for term in (scores, fame))
    gain = relevance + freshness * np.exp(-observation.candidates.age / 30) + popularity * fame
    best = np.take_along_axis(gain, np.argsort(-gain, axis=1)[:, :10], axis=1)
    assert_allclose(np.take_along_axis(gain, slates, axis=1), best, atol=1e-4)


# ---------------------------------------------------------------------- what holds for all
def test_the_order_of_candidates_does_not_matter(observe, reranker):
    observation = observe(60, 40)
    scores = scores_for(observation)
    order = np.random.default_rng(3).permutation(40)
    straight = reranker.rerank(observation, scores, 10)
    assert_array_equal(order[reranker.rerank(reordered(observation, order), scores[:, order], 10)], straight)


@pytest.mark.parametrize("rows", [1, 700, 3_000])
def test_a_request_does_not_depend_on_the_batch(observe, reranker, rows):
    observation = observe(3_000, 20)
    scores = scores_for(observation)
    order = np.random.default_rng(2).permutation(3_000)[:rows]
    part = reranker.rerank(observation.take(order), scores[order], 6)
    assert_array_equal(part, reranker.rerank(observation, scores, 6)[order])


@pytest.mark.parametrize("masked", [0.0, 0.5, 0.95, 1.0])
def test_slates_are_distinct_and_masked_candidates_last(observe, reranker, masked):
    observation = observe(50, 12, masked=masked)
    scores = scores_for(observation)
    scores[observation.candidates.mask == 0] = np.nan
    slates = reranker.rerank(observation, scores, 12)
    assert_array_equal(np.sort(slates, axis=1), np.tile(np.arange(12), (50, 1)))
    assert (np.diff(np.take_along_axis(observation.candidates.mask, slates, axis=1), axis=1) <= 0).all()


def test_scale_and_origin_of_scores_do_not_matter(observe, reranker):
    observation = observe(60, 30)
    scores = scores_for(observation)
    assert_array_equal(reranker.rerank(observation, 4 * scores - 16, 8), reranker.rerank(observation, scores - 4, 8))


def test_a_shorter_slate_is_the_beginning_of_a_longer_one(observe, reranker):
    observation = observe(60, 30)
    scores = scores_for(observation)
    assert_array_equal(reranker.rerank(observation, scores, 4), reranker.rerank(observation, scores, 9)[:, :4])


# ---------------------------------------------------------------------- what each is for
def likeness(observation, slates):
    """Mean cosine within slates."""
    chosen = np.take_along_axis(observation.candidates.categories, slates[:, :, None], axis=1)
    unit = chosen / np.maximum(np.linalg.norm(chosen, axis=2, keepdims=True), 1e-9)
    return float(np.matmul(unit, unit.transpose(0, 2, 1)).mean())


@pytest.mark.parametrize(
    ("kind", "config"), [(MaximalMarginalRelevance, MMRRerankerConfig), (DeterminantalPointProcess, DPPConfig)]
)
def test_less_weight_of_relevance_makes_slates_more_diverse(observe, kind, config):
    observation = observe(200, 60)
    scores = scores_for(observation)
    alike = [
        likeness(observation, made(kind, config(trade_off=weight)).rerank(observation, scores, 8))
        for weight in (0.1, 0.6, 1.0)
    ]
    assert alike[0] < alike[1] < alike[2]
    assert alike[2] == likeness(observation, Greedy().rerank(observation, scores, 8))


def test_calibration_brings_slates_near_to_the_history(observe):
    observation = observe(200, 60)
    scores = scores_for(observation)

    def distance(slates):
        chosen = np.take_along_axis(observation.candidates.categories, slates[:, :, None], axis=1)
        wanted = made(Calibrated).proportions(observation.history)
        return float(np.abs(chosen.mean(axis=1) - wanted).sum(axis=1).mean())

    far, nearer, near = (
        distance(made(Calibrated, CalibratedConfig(trade_off=weight)).rerank(observation, scores, 10))
        for weight in (0.0, 0.5, 0.95)
    )
    assert near < nearer < far


def test_without_history_calibration_is_the_order_of_relevance(observe):
    observation = replace(observe(40, 30), history=np.full((40, 20), -1, np.int32))
    scores = scores_for(observation)
    assert_array_equal(made(Calibrated).rerank(observation, scores, 10), Greedy().rerank(observation, scores, 10))


def test_proportions_are_the_mean_of_items_with_a_category():
    calibrated = Calibrated()
    calibrated.categories_ = np.array([[1, 0], [0.5, 0.5], [0, 0]], np.float32)
    history = np.array([[0, 1, 2, -1], [2, -1, -1, -1], [1, 1, 1, 0]], np.int32)
    assert_allclose(calibrated.proportions(history), [[0.75, 0.25], [0, 0], [0.625, 0.375]])


def test_identical_items_without_categories_are_served(observe, reranker):
    observation = observe(5, 12, masked=0)
    observation.candidates.features[:, :, 1:] = 0
    observation.candidates.items[:] = 0
    slates = reranker.rerank(observation, np.ones((5, 12), np.float32), 6)
    assert_array_equal(slates, np.tile(np.arange(6), (5, 1)))


def test_fitted_to_a_log(world, reranker):
    fitted = type(reranker)().fit(world.policy_log)
    if isinstance(fitted, Calibrated):
        assert_array_equal(fitted.categories_, world.policy_log.catalogue.categories)
    if isinstance(fitted, Boosted):
        assert_allclose(np.expm1(fitted.popularity_), world.policy_log.item_counts(), rtol=1e-5)


# ---------------------------------------------------------------------- bad input, saving
def test_a_slate_longer_than_the_candidates_is_refused(observe, reranker):
    with pytest.raises(ConfigurationError, match="slate_size is 21"):
        reranker.rerank(observe(3, 20), np.zeros((3, 20), np.float32), 21)


def test_scores_of_another_shape_are_refused(observe, reranker):
    with pytest.raises(ConfigurationError, match="score each candidate once"):
        reranker.rerank(observe(3, 20), np.zeros((3, 19), np.float32), 5)


def test_scores_that_are_not_finite_are_refused(observe, reranker):
    scores = np.zeros((3, 20), np.float32)
    scores[1, 7] = np.nan
    with pytest.raises(ConfigurationError, match="candidate 7 of request 1"):
        reranker.rerank(observe(3, 20, masked=0), scores, 5)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (MMRRerankerConfig, {"trade_off": 1.1}),
        (DPPConfig, {"trade_off": -0.1}),
        (DPPConfig, {"distinctness": 0.0}),
        (CalibratedConfig, {"trade_off": 2.0}),
        (CalibratedConfig, {"smoothing": 0.0}),
        (BoostedConfig, {"freshness": float("nan")}),
    ],
)
def test_wrong_settings_are_refused(config, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        config(**wrong)


def test_saved_and_loaded_whole(observe, reranker, tmp_path):
    observation = observe(20, 30)
    scores = scores_for(observation)
    reranker.save(tmp_path / "reranker.npz")
    loaded = type(reranker).load(tmp_path / "reranker.npz")
    assert loaded.config == reranker.config
    assert_array_equal(loaded.rerank(observation, scores, 8), reranker.rerank(observation, scores, 8))
    other = Greedy if type(reranker) is not Greedy else Calibrated
    with pytest.raises(ArtefactError, match="re-ranker"):
        other.load(tmp_path / "reranker.npz")


def test_the_tree_says_what_is_set():
    assert repr(MaximalMarginalRelevance()) == "mmr(trade_off=0.7)"
    assert repr(Greedy()) == "greedy()"


def test_the_kernels_read_categories_where_observations_keep_them():
    assert kernels._FIRST_CATEGORY == FIRST_CATEGORY
