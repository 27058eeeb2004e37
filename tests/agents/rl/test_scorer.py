"""Candidates are scored alike whatever their order, requests whatever their neighbours, and by the ranker before training."""

import numpy as np
import pytest
import torch

from agents.request_layout import RequestLayout
from agents.rl.scorer import CandidateScorer, ItemTable, ScorerConfig, StateValue, column_names, standardised
from envs.errors import ConfigurationError
from envs.measures import consumed_diversity

ITEMS, CANDIDATES, SLOTS = 300, 30, 4
CONFIG = ScorerConfig(width=16, heads=2)


@pytest.fixture
def table(observe):
    random = np.random.default_rng(3)
    categories = (random.random((ITEMS, 6)) < 0.4).astype(np.float32)
    popularity = random.exponential(size=ITEMS).astype(np.float32)
    return ItemTable(popularity, categories, random.standard_normal((ITEMS, 8)).astype(np.float32))


def layout_of(slots=0):
    return RequestLayout(
        user_features=2, history=20, candidates=CANDIDATES, columns=("recall", "age", "mine"), slots=slots
    )


@pytest.fixture
def rows(observe):
    """Flat rows, some without a history."""
    observation = observe(40, CANDIDATES, masked=0.3)
    observation.history[:5], observation.history[5:9, 3:] = -1, -1
    observation.candidates.items[9:12, 20:] = -1
    observation.candidates.mask[9:12, 20:] = 0
    scores = np.random.default_rng(1).normal(3, 7, (40, CANDIDATES, 1)).astype(np.float32)
    return torch.from_numpy(layout_of().encode(observation, scores))


def shaken(network):
    """The network with all weights moved, so that nothing is 0."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return network


def permuted(layout, rows, order):
    """The rows with their candidates in another order."""
    moved = rows.clone()
    before, after = layout.parts(rows), layout.parts(moved)
    for name in ("items", "mask", "columns"):
        getattr(after, name)[:] = getattr(before, name)[:, order]
    return moved


def test_permuting_candidates_permutes_scores_and_leaves_the_value(table, rows):
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(0))
    moved = permuted(layout_of(), rows, order)
    scorer = shaken(CandidateScorer(layout_of(), table, CONFIG, outputs=3, prior=("mine", 2.0)))
    scores = scorer(rows)
    assert scores.shape == (40, CANDIDATES, 3)
    torch.testing.assert_close(scorer(moved), scores[:, order], rtol=1e-4, atol=1e-4)
    assert (scorer(moved) - scores).abs().max() > 0.1
    value = shaken(StateValue(layout_of(), table, CONFIG))
    torch.testing.assert_close(value(moved), value(rows), rtol=1e-4, atol=1e-4)
    assert value(rows).std() > 0.01


def test_a_row_depends_on_no_other_row(table, rows):
    scorer, value = shaken(CandidateScorer(layout_of(), table, CONFIG)), shaken(StateValue(layout_of(), table, CONFIG))
    other = rows.clone()
    other[1:] = rows[1:].flip(0) * 0
    torch.testing.assert_close(scorer(other)[0], scorer(rows)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scorer(rows[:1])[0], scorer(rows)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(value(rows[:1])[0], value(rows)[0], rtol=1e-4, atol=1e-4)


def test_the_untrained_network_orders_by_the_ranker(table, rows):
    parts = layout_of().parts(rows)
    logits = CandidateScorer(layout_of(), table, CONFIG, prior=("mine", 2.5))(rows)[..., 0]
    for row in range(len(rows)):
        shown = parts.mask[row] == 1
        mine = parts.columns[row, shown, 2]
        torch.testing.assert_close(logits[row, shown].argsort(), mine.argsort())
        expected = 2.5 * (mine - mine.mean()) / mine.std(correction=0)
        torch.testing.assert_close(logits[row, shown], expected, rtol=1e-4, atol=1e-4)
    assert (CandidateScorer(layout_of(), table, CONFIG)(rows) == 0).all()
    assert (StateValue(layout_of(), table, CONFIG)(rows) == 0).all()


def test_everything_in_a_row_moves_the_scores(table, rows):
    scorer, layout = shaken(CandidateScorer(layout_of(), table, CONFIG)), layout_of()
    before = scorer(rows)
    for name in ("context", "user", "history", "history_days", "items", "columns"):
        moved = rows.clone()
        part = getattr(layout.parts(moved), name)
        part[20] = part[20].flip(0) if name in ("history", "items") else part[20] + 1.5
        if name == "columns":
            part[20, 3] += 2
        assert (scorer(moved)[20] - before[20]).abs().max() > 1e-3, name


def test_what_earlier_slots_took_moves_the_scores_but_not_their_order_in_the_slate(observe, table):
    layout = layout_of(SLOTS)
    observation = observe(3, CANDIDATES, masked=0)
    scores = np.zeros((3, CANDIDATES, 1), np.float32)
    slates = np.array([[[-1] * 4] * 3, [[2, 5, -1, -1]] * 3, [[5, 2, -1, -1]] * 3, [[7, 2, -1, -1]] * 3])
    scorer = shaken(CandidateScorer(layout, table, CONFIG))
    none, first, second, other = (
        scorer(torch.from_numpy(layout.encode(observation, scores, slate))) for slate in slates
    )
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    assert (first - none).abs().min(dim=1).values.max() > 1e-4
    assert (first - other).abs().max() > 1e-3


def test_gradients_are_finite_where_nothing_is_there(table):
    """Rows of zeros pad a block: no candidate may be shown, and all are the same."""
    scorer, value = (kind(layout_of(), table, CONFIG) for kind in (CandidateScorer, StateValue))
    rows = torch.zeros(4, layout_of().width)
    (scorer(rows).sum() + value(rows).sum()).backward()
    for network in (shaken(scorer), shaken(value)):
        network(rows).sum().backward()
        assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())


def test_columns_are_what_their_names_say(table, rows, observe):
    layout = layout_of()
    columns = CandidateScorer(layout, table, CONFIG).encoder.read(rows).columns.numpy()
    parts = layout.parts(rows.numpy())
    assert column_names(layout) == ["recall", "mine", "freshness", "age", "popularity", "unlikeness"]
    np.testing.assert_allclose(columns[..., 2], np.exp(-parts.columns[..., 1] / 30), rtol=1e-5)
    norms = np.linalg.norm(table.categories, axis=1, keepdims=True)
    directions = table.categories / np.maximum(norms, 1e-12)
    history = parts.history.astype(np.int32)
    for candidate in range(3):
        item = parts.items[12:, candidate].astype(np.int32)
        found = consumed_diversity(directions, item, history[12:])
        np.testing.assert_allclose(columns[12:, candidate, 5], found, atol=1e-5)


def test_standardised_columns_leave_masked_candidates_out():
    columns = torch.tensor([[1.0, 3.0, 1e6], [4.0, 4.0, 9.0]])[..., None]
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    torch.testing.assert_close(standardised(columns, mask)[..., 0], torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_small_and_large_batches_read_the_same_vectors(table, rows):
    """A large batch multiplies the table once, a small one the items that it holds."""
    scorer = shaken(CandidateScorer(layout_of(), table, CONFIG))
    assert rows[:1].shape[0] * (CANDIDATES + 20) < ITEMS < len(rows) * (CANDIDATES + 20)
    torch.testing.assert_close(scorer(rows[:1]), scorer(rows)[:1], rtol=1e-4, atol=1e-4)


def test_tables_of_a_log(world):
    log = world.policy_log
    table = ItemTable.from_log(log, dimension=8)
    assert table.embedding.shape == (len(log.catalogue), 8)
    np.testing.assert_allclose((table.embedding**2).mean(axis=0), 1, rtol=1e-3)
    again = ItemTable.from_arrays(table.arrays())
    for name, array in table.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
    with pytest.raises(ValueError, match="same items"):
        ItemTable.from_arrays(table.arrays() | {"popularity": table.popularity[:-1]})


def test_a_prior_that_is_no_column_is_refused(table):
    with pytest.raises(ConfigurationError, match=r"no column 'sasrec'.*mine"):
        CandidateScorer(layout_of(), table, CONFIG, prior=("sasrec", 1.0))
