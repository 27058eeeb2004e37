import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from evaluation.fidelity.free_running import Sequences
from evaluation.fidelity.sequence_classifier import sequence_test
from evaluation.fidelity.sequence_features import ItemFeatures, sequence_statistics
from evaluation.fidelity.study import fidelity_figures, shuffled, with_random_items
from evaluation.fidelity.two_sample import folds_by_user, scored, tree_test

ITEMS, GROUPS = 200, 8


def features(seed: int = 0) -> ItemFeatures:
    """Items of eight categories, which the embedding tells too; popularity falls with the item's number."""
    rng = np.random.default_rng(seed)
    group = np.arange(ITEMS) % GROUPS
    categories = np.eye(GROUPS)[group]
    embedding = categories + 0.3 * rng.normal(size=(ITEMS, GROUPS))
    return ItemFeatures(
        popularity=np.log1p(1000 / (1 + np.arange(ITEMS))),
        directions=categories,
        categories=categories,
        birth_years=rng.uniform(0, 20, ITEMS),
        embedding=embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
    )


def sequences(users: int, seed: int, stay: float = 0.7, length: int = 20) -> Sequences:
    """Users who stay in a category with probability `stay` and take popular items."""
    rng = np.random.default_rng(seed)
    weight = 1 / (1 + np.arange(ITEMS)) ** 0.7
    item = np.empty((users, length), np.int64)
    group = rng.integers(GROUPS, size=users)
    for place in range(length):
        moves = rng.random(users) > stay
        group = np.where(moves, rng.integers(GROUPS, size=users), group)
        for user in range(users):
            share = weight * (np.arange(ITEMS) % GROUPS == group[user])
            item[user, place] = rng.choice(ITEMS, p=share / share.sum())
    return Sequences(
        num_users=users,
        user=np.repeat(np.arange(users), length),
        item=item.ravel(),
        timestamp=np.tile(np.arange(length), users),
    )


@pytest.fixture(scope="module")
def users() -> tuple[Sequences, Sequences]:
    """(real users, their past)."""
    return sequences(300, 1), sequences(300, 2)


def test_folds_keep_a_users_sequences_together() -> None:
    of_user = np.array([3, 5, 9, 3, 5, 9, 11])
    fold = folds_by_user(of_user, seed=0)
    assert_array_equal(fold[:3], fold[3:6])
    many = folds_by_user(np.tile(np.arange(100), 2), seed=1)
    assert_array_equal(np.bincount(many), [40] * 5)


def test_trees_find_one_event_in_ten_but_not_users_of_the_same_kind(users: tuple[Sequences, Sequences]) -> None:
    real, past = users
    known = features()
    values, names, who = sequence_statistics(real, past, known)

    def auc(other: Sequences) -> float:
        theirs, _, their_users = sequence_statistics(other, past, known)
        return tree_test(values, theirs, who, their_users, names).auc

    assert auc(with_random_items(real, ITEMS, 0.1, seed=0)) >= 0.65
    assert abs(auc(sequences(300, 3)) - 0.5) < 0.08


def test_importances_say_where_users_differ(users: tuple[Sequences, Sequences]) -> None:
    real, past = users
    known = features()
    values, names, who = sequence_statistics(real, past, known)
    theirs = values.copy()
    theirs[:, names.index("birth_mean")] += 2.0
    result = tree_test(values, theirs, who, who, names, importances=True)
    assert max(result.importance, key=lambda name: result.importance[name][0]) == "birth_mean"
    assert result.low < result.auc < result.high


@pytest.mark.slow
def test_the_sequence_classifier_finds_shuffling_but_not_users_of_the_same_kind(
    users: tuple[Sequences, Sequences],
) -> None:
    real, _ = users
    assert sequence_test(real, shuffled(real, seed=0), features()).auc >= 0.60
    assert abs(sequence_test(real, sequences(300, 3), features()).auc - 0.5) < 0.08


def test_intervals_draw_users_with_all_their_sequences() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat([False, True], 400)
    score = rng.normal(size=800) + label
    paired = scored(label, score, np.tile(np.arange(400), 2), {}, seed=0)
    assert paired.low < paired.auc < paired.high
    assert 0.02 < paired.high - paired.low < 0.12


def test_statistics_are_what_they_are_called() -> None:
    known = features()
    item = np.array([0, 8, 16, 1, 9])  # three of category 0, two of category 1
    own = Sequences(num_users=1, user=np.zeros(5, np.int64), item=item, timestamp=np.arange(5))
    past = Sequences(num_users=1, user=np.zeros(2, np.int64), item=np.array([24, 32]), timestamp=np.arange(2))
    values, names, who = sequence_statistics(own, past, known)
    of = dict(zip(names, values[0], strict=True))
    assert_array_equal(who, [0])
    assert of["category_entropy"] == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))
    assert of["category_lag_1"] == pytest.approx(3 / 4)
    assert of["category_lag_3"] == 0
    assert np.isnan(of["category_lag_5"])
    assert of["top_category_share"] == pytest.approx(0.6)
    assert of["popularity_mean"] == pytest.approx(known.popularity[item].mean())
    assert of["popularity_against_past"] == pytest.approx(
        known.popularity[item].mean() - known.popularity[[24, 32]].mean()
    )
    assert of["similarity_first"] == pytest.approx(known.embedding[0] @ known.embedding[32])


def test_shuffling_keeps_each_users_items() -> None:
    real = sequences(5, 4)
    other = shuffled(real, seed=1)
    assert (other.item != real.item).any()
    table = pl.DataFrame({"user": real.user, "item": real.item}).sort("user", "item")
    assert table.equals(pl.DataFrame({"user": other.user, "item": other.item}).sort("user", "item"))


def test_every_auc_is_a_figure_with_its_interval() -> None:
    names = ["model", "static", "popularity"]
    names = [*names, *(f"{name}, as sequences" for name in names)]
    names += ["real halves", "one event in ten replaced", "order shuffled"]
    rows = [
        {"test": name, "auc": 0.5 + n / 100, "low": 0.4 + n / 100, "high": 0.6 + n / 100}
        for n, name in enumerate(names)
    ]
    distance = pl.DataFrame({"source": ["model", "static"], "aspect": ["gap", "gap"], "ratio": [1.5, 3.0]})
    figures = fidelity_figures(distance, pl.DataFrame(rows))
    places = {"": 0, "_static": 1, "_popularity": 2, "_sequence": 3, "_real_halves": 6}
    for name, place in places.items():
        found = [figures[f"c2st_auc{name}{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([0.5 + place / 100, 0.4 + place / 100, 0.6 + place / 100])
    assert figures["worst_distance_over_floor"] == figures["distance_over_floor_gap"] == 1.5
