"""Which inputs each ranker reads: the table of docs/rankers.md, cell by cell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small_rankers import CATALOGUE, POINTWISE, made

DOCS = Path(__file__).parents[3] / "docs/rankers.md"
READS, IGNORES, SHIFTS = "yes", "–", "alike"
"""Cells of the table: moves scores, does not, moves those of all items of a request alike."""


def _table():
    """Ranker -> input -> cell."""
    lines = DOCS.read_text().partition("## What each reads")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _, *body = rows
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


TABLE = _table()


def _context(column, by, turn):
    def change(asked):
        context = asked.context.copy()
        context[:, column] = (context[:, column] + by) % turn
        return replace(asked, context=context)

    return change


CHANGES = {
    "history": lambda asked: replace(asked, history=np.roll(asked.history, 1, axis=0)),
    "its times": lambda asked: replace(asked, history_days=asked.history_days * 9 + 3),
    "user": lambda asked: replace(asked, user=np.roll(asked.user, 1)),
    "attributes": lambda asked: replace(asked, user_features=asked.user_features + 1),
    "age": lambda asked: replace(asked, ages=asked.ages + 200),
    "popularity": lambda asked: replace(asked, counts=asked.counts[:, ::-1] * 7),
    "hour": _context(0, 11, 24),
    "weekday": _context(1, 3, 7),
    "place": _context(2, 3, 100),
}
"""Changes one input, and no other."""


@pytest.fixture(scope="module", params=[*POINTWISE, *CATALOGUE], ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def log(kind, shown_log, rated_log):
    return shown_log if kind in POINTWISE else rated_log


@pytest.fixture(scope="module")
def ranker(kind, log):
    """A fourth of the items are not in what it learns from."""
    return made(kind).fit(log.where(log.item % 4 != 1))


@pytest.fixture(scope="module")
def asked(log, ask):
    """Users with a history that is full, all items of the catalogue."""
    late = np.flatnonzero(log.place > np.diff(log.user_starts)[log.user] * 0.7)
    inputs = ask(log, late[:: max(len(late) // 40, 1)], 60)
    return replace(inputs, counts=np.random.default_rng(0).uniform(0.5, 2, inputs.items.shape).astype(np.float32))


def test_the_table_has_every_ranker_and_input(kind):
    assert set(TABLE[kind.name]) == {*CHANGES, "item", "category"}


@pytest.mark.parametrize("changed", CHANGES)
def test_an_input_moves_scores_as_the_table_says(kind, ranker, asked, changed):
    before, after = ranker.score(asked), ranker.score(CHANGES[changed](asked))
    told = TABLE[kind.name][changed]
    if told == IGNORES:
        assert_array_equal(before, after)
    else:
        assert (before != after).any()
        difference = after - before
        alike = np.abs(difference - difference[:, :1]).max() < 1e-4
        assert alike == (told == SHIFTS)


def _pair_scores(ranker, asked, one, two, **other):
    """[N] score of item `one` less that of `two`, which are of the same age and as popular, but for `other`."""
    shape = (len(asked), 2)
    pair = {"ages": np.full(shape, 40), "counts": np.ones(shape)} | other
    inputs = replace(
        asked,
        items=np.tile(np.array([one, two], np.int32), (len(asked), 1)),
        **{name: np.broadcast_to(values, shape).astype(np.float32) for name, values in pair.items()},
    )
    scores = ranker.score(inputs)
    return scores[:, 0] - scores[:, 1]


def _pairs(ranker, log, known, same):
    """Pairs of items that are known, or not, of the same categories, or of others."""
    categories, items = log.catalogue.categories, np.flatnonzero(ranker.known_items_ == known)
    found = [(a, b) for a in items for b in items if a < b and (categories[a] == categories[b]).all() == same]
    return found[:12]


def test_an_items_own_vector_and_its_categories(kind, ranker, log, asked):
    for known, same, read in ((True, True, "item"), (False, False, "category")):
        moved = [np.abs(_pair_scores(ranker, asked, *pair)).max() for pair in _pairs(ranker, log, known, same)]
        assert TABLE[kind.name][read] == READS and len(moved) > 2 and np.max(moved) > 1e-4, read


def test_items_unknown_at_fit_are_told_apart_by_their_features_alone(kind, ranker, log, asked):
    for pair in _pairs(ranker, log, False, True)[:3]:
        assert_allclose(_pair_scores(ranker, asked, *pair), 0, atol=1e-5)
    one, two = _pairs(ranker, log, False, True)[0]
    for read, other in (("age", {"ages": [1, 300]}), ("popularity", {"counts": [0.2, 5]})):
        apart = np.abs(_pair_scores(ranker, asked, one, two, **other)).max() > 1e-4
        assert apart == (TABLE[kind.name][read] == READS), read
