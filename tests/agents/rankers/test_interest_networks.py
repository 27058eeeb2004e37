"""DIN and DIEN: what their parts compute."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agents.rankers.dien import AUGRU, DIEN, DIENConfig, DIENNetwork
from agents.rankers.din import DIN, Activation
from agents.rankers.network_inputs import Sizes, Tensors
from agents.rankers.ranking_input import RankingInput
from agents.rankers.training import TrainingConfig


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_augru_is_the_plain_loop():
    torch.manual_seed(3)
    requests, steps, items, inputs, width = 3, 5, 4, 2, 6
    cell = AUGRU(inputs, width)
    x, a = torch.randn(requests, steps, inputs), torch.rand(requests, items, steps)
    w, b = cell.of_input.weight.detach().numpy(), cell.of_input.bias.detach().numpy()
    u, d = cell.of_state.weight.detach().numpy(), cell.of_state.bias.detach().numpy()
    expected = np.zeros((requests, items, width))
    for n in range(requests):
        for i in range(items):
            h = np.zeros(width)
            for t in range(steps):
                given, own = w @ x[n, t].numpy() + b, u @ h + d
                reset = sigmoid(given[:width] + own[:width])
                update = sigmoid(given[width : 2 * width] + own[width : 2 * width])
                candidate = np.tanh(given[2 * width :] + reset * own[2 * width :])
                scaled = a[n, i, t].item() * update
                h = (1 - scaled) * h + scaled * candidate
            expected[n, i] = h
    assert_allclose(cell(x, a).detach().numpy(), expected, atol=1e-5)


def test_augru_of_full_attention_is_torchs_gru():
    torch.manual_seed(4)
    cell, gru = AUGRU(3, 5), torch.nn.GRU(3, 5, batch_first=True)
    with torch.no_grad():
        # torch's update gate keeps the state, ours lets the candidate in
        flip = torch.ones(15, 1)
        flip[5:10] = -1
        cell.of_input.weight.copy_(gru.weight_ih_l0 * flip)
        cell.of_state.weight.copy_(gru.weight_hh_l0 * flip)
        cell.of_input.bias.copy_(gru.bias_ih_l0 * flip[:, 0])
        cell.of_state.bias.copy_(gru.bias_hh_l0 * flip[:, 0])
    x = torch.randn(2, 7, 3)
    assert_allclose(cell(x, torch.ones(2, 1, 7))[:, 0].detach(), gru(x)[1][0].detach(), atol=1e-6)


def test_folded_attention_is_the_plain_one():
    torch.manual_seed(5)
    activation = Activation(8, 6)
    items, history = torch.randn(3, 10, 8), torch.randn(3, 4, 8)
    with torch.no_grad():
        assert_allclose(activation.folded(items, history), activation.plain(items, history), atol=1e-5)


@pytest.fixture(scope="module", params=[DIN, DIEN], ids=lambda kind: kind.name)
def fitted(request, shown_log):
    config = replace(request.param.config_class(), training=TrainingConfig(epochs=1, batch_size=512))
    return request.param(config).fit(shown_log)


def test_places_behind_the_history_change_nothing(fitted, shown_log, ask):
    asked = ask(shown_log, np.arange(5, len(shown_log), 201), 8)
    empty = asked.history < 0
    assert empty.any()
    other = replace(asked, history_days=np.where(empty, 77, asked.history_days).astype(np.float32))
    assert_allclose(fitted.score(other), fitted.score(asked), atol=1e-6)


@pytest.mark.parametrize("attentive", [False, True])
def test_only_attention_makes_the_interest_depend_on_the_item(attentive, shown_log, ask):
    config = DIENConfig(attentive=attentive, training=TrainingConfig(epochs=1, batch_size=512))
    ranker = DIEN(config).fit(shown_log)
    interests = []
    ranker.network_.head.register_forward_hook(lambda _, inputs, __: interests.append(inputs[2]))
    ranker.score(ask(shown_log, [900], 5))
    asked = interests[0][0]
    assert asked.shape == (5, 32) and asked.abs().max() > 0
    assert (asked == asked[0]).all() != attentive


def test_the_auxiliary_loss_teaches_the_extractor():
    torch.manual_seed(0)
    sizes = Sizes(
        num_users=4, num_user_features=2, categories=np.eye(6, dtype=np.float32), known_items=np.ones(6, bool)
    )
    model = DIENNetwork(sizes, DIENConfig())
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    # each history goes round the six items, so the next one can be told from the last
    start = np.arange(6)[:, None]
    history = ((start - np.arange(5)) % 6).astype(np.int32)
    none = np.zeros((6, 1), np.float32)
    asked = RankingInput(
        user=np.full(6, -1),
        user_features=np.zeros((6, 2), np.float32),
        history=history,
        history_days=np.zeros((6, 5), np.float32),
        context=np.zeros((6, 4), np.float32),
        items=np.zeros((6, 1), np.int32),
        ages=none,
        counts=none + 1,
    )
    inputs = Tensors.of(asked, np.ones(4, bool), 5)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = model.auxiliary_loss(model.past(inputs))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # a sixth of the random items is the right one, so the loss cannot reach 0
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])
    empty = Tensors.of(replace(asked, history=np.full((6, 5), -1, np.int32)), np.ones(4, bool), 5)
    assert model.auxiliary_loss(model.past(empty)).item() == 0
