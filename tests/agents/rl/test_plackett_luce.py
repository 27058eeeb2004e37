"""Slates are drawn as the formula says, it sums to one, and masked candidates take no part."""

from itertools import permutations

import numpy as np
import pytest
import torch
from gymnasium.spaces import MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.rl.plackett_luce import MASKED, PlackettLuce, TorchPlackettLuce, masked_logits


def brute_force(logits: np.ndarray, slate: tuple[int, ...]) -> float:
    """Log-probability by the definition; masked candidates have the logit -inf and fill spare slots."""
    total, left = 0.0, dict(enumerate(logits))
    for item in slate:
        worth = {place: np.exp(value) for place, value in left.items()}
        if sum(worth.values()) > 0:
            total += np.log(worth[item] / sum(worth.values()))
        left.pop(item)
    return total


def brute_force_entropy(logits: np.ndarray, slots: int) -> float:
    """Of slates of allowed candidates, all of them enumerated."""
    chances = [np.exp(brute_force(logits, slate)) for slate in permutations(range(len(logits)), slots)]
    return -sum(chance * np.log(chance) for chance in chances)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), slots=st.integers(1, 4), masked=st.integers(0, 5))
def test_log_probabilities_are_those_of_the_definition_and_sum_to_one(seed: int, slots: int, masked: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(scale=random.choice([0.1, 1, 5]), size=6)
    mask = np.ones(6)
    mask[random.choice(6, masked, replace=False)] = 0
    allowed = np.flatnonzero(mask)
    spare = np.flatnonzero(mask == 0)
    short = min(slots, len(allowed))
    slates = [(*ranked, *spare[: slots - short]) for ranked in permutations(allowed, short)]
    expected = [brute_force(np.where(mask, logits, -np.inf), slate) for slate in slates]
    given = masked_logits(torch.from_numpy(logits), torch.from_numpy(mask)).expand(len(slates), 6)
    found = PlackettLuce(given, slots).log_prob(torch.tensor(slates)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-9)


def test_float32_keeps_what_is_left_over_exact_where_one_logit_towers() -> None:
    logits = np.array([40.0, 0.0, 1.0, 2.0, -1.0])
    found = PlackettLuce(torch.tensor(logits, dtype=torch.float32)[None], 3).log_prob(torch.tensor([[0, 2, 3]]))
    assert float(found) == pytest.approx(brute_force(logits, (0, 2, 3)), rel=1e-5)


def test_draws_are_as_frequent_as_the_formula_says() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.5, MASKED]])
    torch.manual_seed(0)
    drawn = PlackettLuce(logits.expand(60_000, 5), 2).sample()
    slates = list(permutations(range(4), 2))
    expected = PlackettLuce(logits.expand(len(slates), 5), 2).log_prob(torch.tensor(slates)).exp().numpy()
    found = np.array([(drawn == torch.tensor(slate)).all(dim=1).float().mean() for slate in slates])
    # five standard errors of each share
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / 60_000)).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), slots=st.integers(1, 8))
def test_the_mask_is_never_violated(seed: int, slots: int) -> None:
    random = np.random.default_rng(seed)
    mask = torch.from_numpy(random.random((200, 8)) < random.random((200, 1)))
    logits = torch.from_numpy(random.normal(scale=30, size=(200, 8)).astype(np.float32))
    torch.manual_seed(seed)
    distribution = PlackettLuce(masked_logits(logits, mask), slots)
    for slates in (distribution.sample(), distribution.mode()):
        shown = mask.gather(1, slates)
        # allowed candidates first, as many as there are or fit; then the spare slots
        assert (shown.sum(dim=1) == mask.sum(dim=1).clamp(max=slots)).all()
        assert (shown.int().diff(dim=1) <= 0).all()
        assert all(len(set(slate)) == slots for slate in slates.tolist())


@pytest.mark.parametrize("allowed", [0, 1, 2, 8])
def test_gradients_are_finite_and_those_of_the_definition(allowed: int) -> None:
    torch.manual_seed(1)
    raw = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(8) < allowed
    distribution = PlackettLuce(masked_logits(raw, mask), 4)
    slates = distribution.sample()
    (distribution.log_prob(slates).sum() + distribution.entropy().sum()).backward(retain_graph=True)
    assert torch.isfinite(raw.grad).all() and (raw.grad[:, ~mask] == 0).all()
    if allowed < 8:
        assert allowed > 1 or (raw.grad == 0).all()
        return
    raw.grad = None
    distribution.log_prob(slates).sum().backward()
    expected = np.zeros((5, 8))
    for row, slate in enumerate(slates.tolist()):
        left = np.ones(8, bool)
        for item in slate:
            worth = np.exp(raw[row].detach().numpy()) * left
            expected[row] -= worth / worth.sum()
            expected[row, item] += 1
            left[item] = False
    np.testing.assert_allclose(raw.grad.numpy(), expected, atol=1e-9)


def test_the_entropy_estimate_has_the_right_mean() -> None:
    logits = torch.tensor([1.0, 0.0, -2.0, 0.5, MASKED])
    torch.manual_seed(0)
    estimates = PlackettLuce(logits.expand(20_000, 5), 3).entropy()
    expected = brute_force_entropy(logits[:4].numpy().astype(float), 3)
    assert float(estimates.mean()) == pytest.approx(expected, abs=5 * float(estimates.std()) / 20_000**0.5)


def test_a_slate_that_skips_what_it_could_show_is_next_to_impossible() -> None:
    distribution = PlackettLuce(torch.tensor([[0.0, 1.0, MASKED]]), 2)
    assert float(distribution.log_prob(torch.tensor([[2, 0]]))) < MASKED / 2


def test_more_slots_than_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="4 slots"):
        PlackettLuce(torch.zeros(2, 3), 4)


def test_rllib_takes_the_distribution() -> None:
    logits = torch.randn(7, 6)
    kind = TorchPlackettLuce.get_partial_dist_cls(slots=3)
    distribution = kind.from_logits(logits)
    slates = distribution.sample()
    assert slates.shape == (7, 3)
    assert TorchPlackettLuce.required_input_dim(MultiDiscrete([6, 6, 6])) == 6
    torch.testing.assert_close(distribution.logp(slates), PlackettLuce(logits, 3).log_prob(slates))
    assert distribution.entropy().shape == (7,)
    torch.testing.assert_close(distribution.to_deterministic().sample(), PlackettLuce(logits, 3).mode())
