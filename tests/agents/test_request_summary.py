import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents.summary import BOUND, PublicItems, summarise, summary_names, summary_space
from envs.errors import AgentError
from envs.observation import Candidates, Observation

ITEMS, CATEGORIES, FEATURES = 40, 5, 3


def public_items(seed=0):
    random = np.random.default_rng(seed)
    categories = random.dirichlet(np.ones(CATEGORIES), ITEMS).astype(np.float32)
    return PublicItems(np.log1p(random.integers(0, 500, ITEMS)).astype(np.float32), categories)


def observation(seed, count=7, candidates=20, scale=1.0):
    """Requests with missing history, masked candidates and, at a large scale, absurd values."""
    random = np.random.default_rng(seed)
    items = np.stack([random.permutation(ITEMS)[:candidates] for _ in range(count)]).astype(np.int32)
    mask = (random.random((count, candidates)) < random.random((count, 1))).astype(np.int8)
    features = np.zeros((count, candidates, 2 + CATEGORIES), np.float32)
    features[:, :, 0] = random.normal(size=(count, candidates)) * scale
    features[:, :, 1] = random.exponential(300, (count, candidates)) * scale
    features[:, :, 2:] = public_items().categories[items]
    features *= mask[:, :, None]
    length = random.integers(0, 9, (count, 1))
    history = np.where(np.arange(8) < length, random.integers(0, ITEMS, (count, 8)), -1).astype(np.int32)
    days = np.sort(random.exponential(10, (count, 8)), axis=1) * scale
    context = np.column_stack(
        [
            random.uniform(0, 24, count),
            random.integers(0, 7, count),
            random.integers(0, 50, count),
            random.integers(0, 90, count),
        ]
    )
    return Observation(
        user=np.arange(count),
        user_features=(random.normal(size=(count, FEATURES)) * scale).astype(np.float32),
        history=history,
        history_days=np.where(history >= 0, days, 0).astype(np.float32),
        context=context.astype(np.float32),
        candidates=Candidates(np.where(mask == 1, items, -1).astype(np.int32), mask, features),
    )


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1.0, 1e6, 1e30]))
@settings(deadline=None, max_examples=60)
def test_summaries_lie_in_their_space(seed, scale):
    summary = summarise(observation(seed, scale=scale), public_items())
    space = summary_space(FEATURES, CATEGORIES)
    assert summary.shape == (7, *space.shape) == (7, len(summary_names(FEATURES, CATEGORIES)))
    assert summary.dtype == np.float32
    assert all(space.contains(row) for row in summary)


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_the_order_of_candidates_does_not_matter(seed):
    before = observation(seed)
    order = np.random.default_rng(seed).permutation(before.candidates.items.shape[1])
    shuffled = before.to_dict() | {
        name: before.to_dict()[name][:, order] for name in ("candidate_items", "candidate_mask", "candidate_features")
    }
    after = summarise(Observation.from_dict(shuffled), public_items())
    assert_allclose(after, summarise(before, public_items()), atol=2e-4)


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_a_row_does_not_depend_on_the_others(seed):
    together = summarise(observation(seed), public_items())
    for row in range(7):
        alone = summarise(observation(seed).take(np.array([row])), public_items())
        assert_array_equal(alone[0], together[row])


def test_what_is_masked_or_missing_is_not_read():
    before = observation(3)
    arrays = {name: array.copy() for name, array in before.to_dict().items()}
    masked = arrays["candidate_mask"] == 0
    arrays["candidate_features"][masked] = 77
    arrays["candidate_items"][masked] = 5
    arrays["history_days"][arrays["history"] < 0] = 99
    after = summarise(Observation.from_dict(arrays), public_items())
    assert_array_equal(after, summarise(before, public_items()))


def test_numbers_are_what_their_names_say():
    requests, items = observation(1, count=50), public_items()
    columns = dict(zip(summary_names(FEATURES, CATEGORIES), summarise(requests, items).T, strict=True))
    shown = requests.candidates.mask == 1
    for row in range(len(requests)):
        number = shown[row].sum()
        assert columns["candidates"][row] == pytest.approx(number / 20)
        assert columns["history_length"][row] == pytest.approx((requests.history[row] >= 0).mean())
        if number < 2:
            continue
        score, age = requests.candidates.score[row, shown[row]], requests.candidates.age[row, shown[row]]
        popularity = items.popularity[requests.candidates.items[row, shown[row]]]
        assert columns["score_mean"][row] == pytest.approx(score.mean() / (1 + abs(score.mean())), abs=1e-5)
        assert columns["younger_than_365"][row] == pytest.approx((age < 365).mean())
        expected = np.corrcoef(score, popularity)[0, 1]
        assert columns["score_with_popularity"][row] == pytest.approx(expected, abs=1e-3)
        best = np.argsort(-score)[:10]
        assert columns["top_popularity"][row] == pytest.approx(popularity[best].mean() / 5, abs=1e-4)


def test_another_data_set_is_refused():
    requests = observation(0)
    few = PublicItems(np.zeros(10, np.float32), np.zeros((10, CATEGORIES), np.float32))
    with pytest.raises(AgentError, match="beyond the 10"):
        summarise(requests, few)
    wide = PublicItems(np.zeros(ITEMS, np.float32), np.zeros((ITEMS, 9), np.float32))
    with pytest.raises(AgentError, match="5 categories"):
        summarise(requests, wide)


def test_most_numbers_vary_in_the_environment(world):
    from envs.slate_env import SlateVectorEnv

    env = SlateVectorEnv(64, world=world, autoreset_mode=AutoresetMode.NEXT_STEP)
    first, _ = env.reset(seed=0)
    summary = summarise(Observation.from_dict(first), PublicItems.from_log(world.policy_log))
    assert (summary.std(axis=0) > 1e-3).mean() > 0.6
    assert (np.abs(summary) < BOUND).mean() > 0.99
