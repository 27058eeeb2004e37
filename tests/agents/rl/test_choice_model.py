"""The choice model is the conditional logit, and finds the parameters of one from its clicks."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agents.request_layout import RequestLayout
from agents.rl.choice_model import ChoiceModel, choice_loss, log_chances
from agents.rl.plackett_luce import MASKED
from agents.rl.scorer import ItemTable, ScorerConfig, standardised

ITEMS, CANDIDATES, SLOTS = 300, 10, 3
POSITIONS = torch.tensor([0.0, -0.5, -1.2])
OUTSIDE = 0.7


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(3)
    categories = (random.random((ITEMS, 6)) < 0.4).astype(np.float32)
    popularity = random.exponential(size=ITEMS).astype(np.float32)
    return ItemTable(popularity, categories, random.standard_normal((ITEMS, 4)).astype(np.float32))


def test_chances_are_those_of_the_plain_logit():
    random = torch.Generator().manual_seed(0)
    attractions = torch.randn((20, CANDIDATES), generator=random)
    attractions[:, 9:] = MASKED
    outside = torch.randn(20, generator=random)
    slates = torch.rand((20, CANDIDATES), generator=random).topk(SLOTS).indices
    chances = log_chances(attractions.gather(1, slates), outside, POSITIONS).exp()
    clicked = torch.randint(-1, SLOTS, (20,), generator=random)
    losses = choice_loss(chances.log(), clicked)
    for row in range(20):
        odds = [
            np.exp(float(attractions[row, place]) + float(POSITIONS[slot])) if place < 9 else 0.0
            for slot, place in enumerate(slates[row].tolist())
        ]
        odds.append(np.exp(float(outside[row])))
        assert_allclose(chances[row], np.array(odds) / sum(odds), rtol=1e-5)
        assert_allclose(np.exp(-losses[row].numpy()), chances[row, clicked[row]].numpy(), rtol=1e-5)
    assert (slates >= 9).any() and (clicked < 0).any()


def test_the_parameters_of_a_logit_are_recovered_from_its_clicks(table, observe):
    torch.manual_seed(0)
    layout = RequestLayout(user_features=2, history=20, candidates=CANDIDATES)
    rows = torch.from_numpy(layout.encode(observe(8_000, CANDIDATES)))
    parts = layout.parts(rows)
    of_item = -0.8 * torch.from_numpy(table.categories[:, 0])[parts.items.long()]
    truth = 1.2 * standardised(parts.columns[..., :1], parts.mask).squeeze(2) + of_item
    truth = truth.masked_fill(parts.mask == 0, MASKED)
    slates = torch.rand(truth.shape).masked_fill(parts.mask == 0, -1.0).topk(SLOTS).indices
    chances = log_chances(truth.gather(1, slates), torch.full((len(rows),), OUTSIDE), POSITIONS).exp()
    clicked = chances.multinomial(1).squeeze(1)
    clicked = torch.where(clicked == SLOTS, -1, clicked)

    model = ChoiceModel(layout, table, ScorerConfig(width=8, heads=1), SLOTS)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-2)
    for step in range(160):
        optimiser.param_groups[0]["lr"] = 4e-2 * (1 - step / 160)
        chosen = torch.randint(len(rows), (500,))
        attractions, outside = model(model.read(rows[chosen]))
        shown = attractions.gather(1, slates[chosen])
        loss = choice_loss(log_chances(shown, outside, model.positions), clicked[chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        attractions, outside = model(model.read(rows[:1_000]))
        found, shown = attractions - outside[:, None], parts.mask[:1_000] == 1
    expected = truth[:1_000] - OUTSIDE
    assert_allclose(model.positions.detach(), POSITIONS, atol=0.12)
    assert_allclose(found[shown].mean(), expected[shown].mean(), atol=0.1)
    assert np.corrcoef(found[shown], expected[shown])[0, 1] > 0.98
    assert_allclose(np.polyfit(expected[shown], found[shown], 1)[0], 1.0, atol=0.1)
