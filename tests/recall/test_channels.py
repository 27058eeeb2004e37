import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from envs.candidate_source import RecallRequest, is_excluded, tell_changes
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from recall.channels import resolve_channel
from recall.channels.category import Category, CategoryConfig
from recall.channels.item_to_item import ItemToItem, ItemToItemConfig
from recall.channels.loading import CHANNEL
from recall.channels.popular import Popular, PopularConfig
from recall.channels.two_tower import _keys, _Towers, sampled_softmax

NAMES = tuple(CHANNEL.known)
LIGHT = {
    "bpr": {"iterations": 20},
    "two_tower": {"epochs": 3, "hidden": 24, "embedding": 8, "dimension": 8, "update_epochs": 5},
}
USERS = np.arange(50)


def made(name, seed=1, **changes):
    kind = resolve_channel(name)
    return kind(kind.config_type(**{**LIGHT.get(name, {}), **changes}) if kind.config_type else None, seed)


@pytest.fixture(scope="module")
def fitted(world):
    return {name: made(name).fit(world.policy_log) for name in NAMES}


def take(request, rows):
    return RecallRequest(*(getattr(request, name)[rows] for name in ("user", "history", "excluded", "key")))


@pytest.mark.parametrize("name", NAMES)
def test_items_are_allowed_distinct_and_best_first(name, fitted, requested):
    request = requested(USERS)
    items, scores = fitted[name].recall(request, 40)
    assert items.shape == scores.shape == (50, 40)
    assert items.dtype == np.int32 and scores.dtype == np.float32
    assert (is_excluded(request.excluded, items) == (items < 0)).all()
    assert (scores[items < 0] == 0).all() and (items >= 0).mean() > 0.9
    for row, row_scores in zip(items, scores, strict=True):
        found = row[row >= 0]
        assert len(set(found)) == len(found) and (row[len(found) :] == -1).all()
        assert (np.diff(row_scores[: len(found)]) <= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_on_its_own_request_only(name, fitted, requested):
    request = requested(USERS)
    items, scores = fitted[name].recall(request, 30)
    for rows in (np.random.default_rng(0).permutation(50), np.array([17])):
        some, some_scores = fitted[name].recall(take(request, rows), 30)
        assert_array_equal(some, items[rows])
        assert_array_equal(some_scores, scores[rows])


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits(name, world, fitted, requested):
    again = made(name).fit(world.policy_log)
    for mine, theirs in zip(again.recall(requested(USERS), 30), fitted[name].recall(requested(USERS), 30), strict=True):
        assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "item_to_item"])
def test_users_without_history_are_served(name, fitted, world):
    nothing = np.zeros((2, (world.num_items + 7) // 8), np.uint8)
    request = RecallRequest(np.zeros(2, int), np.full((2, 30), -1, np.int32), nothing, np.zeros((2, 2), int))
    items, _ = fitted[name].recall(request, 30)
    assert (items >= 0).all()
    assert_array_equal(items[0], items[1])


def test_nothing_is_like_an_empty_history(fitted, world):
    nothing = np.zeros((1, (world.num_items + 7) // 8), np.uint8)
    request = RecallRequest(np.zeros(1, int), np.full((1, 30), -1, np.int32), nothing, np.zeros((1, 2), int))
    items, scores = fitted["item_to_item"].recall(request, 30)
    assert (items == -1).all() and (scores == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_than_the_catalogue_may_be_asked_for(name, fitted, requested, world):
    request = requested(USERS[:4])
    items, _ = fitted[name].recall(request, world.num_items + 20)
    assert items.shape == (4, world.num_items + 20)
    assert (items[:, -20:] == -1).all()
    allowed = world.num_items - np.bitwise_count(request.excluded).sum(axis=1)
    if name != "item_to_item":  # which knows no item that none of the history was consumed with
        assert_array_equal((items >= 0).sum(axis=1), allowed)


@pytest.mark.parametrize("name", NAMES)
def test_a_catalogue_of_one_item(name):
    log, _ = generate_log(SyntheticConfig(num_users=5, num_items=1, num_categories=2), seed=0)
    channel = made(name).fit(log)
    request = RecallRequest(
        np.zeros(1, int), np.zeros((1, 3), np.int32), np.zeros((1, 1), np.uint8), np.zeros((1, 2), int)
    )
    items, _ = channel.recall(request, 3)
    assert_array_equal(items, [[-1, -1, -1]] if name == "item_to_item" else [[0, -1, -1]])


@pytest.mark.parametrize("name", NAMES)
def test_loads_what_it_saved_to_the_bit(name, fitted, requested, events_of, tmp_path):
    fitted[name].save(tmp_path / "channel.npz")
    loaded = type(fitted[name]).load(tmp_path / "channel.npz")
    assert loaded.config == fitted[name].config and loaded.seed == 1
    for mine, theirs in zip(
        fitted[name].recall(requested(USERS), 30), loaded.recall(requested(USERS), 30), strict=True
    ):
        assert_array_equal(mine, theirs)
    again = type(fitted[name]).load(tmp_path / "channel.npz")
    for channel in (loaded, again):
        channel.update(events_of([3, 4, 5], [7, 8, 9]))
    assert_array_equal(loaded.recall(requested(USERS), 30)[1], again.recall(requested(USERS), 30)[1])


def test_a_file_of_another_channel_or_a_damaged_one_is_refused(fitted, tmp_path):
    path = tmp_path / "channel.npz"
    fitted["popular"].save(path)
    with pytest.raises(ArtefactError, match=r"holds a 'recall channel popular', not a 'recall channel fresh'"):
        resolve_channel("fresh").load(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArtefactError, match=r"channel\.npz"):
        resolve_channel("popular").load(path)


@pytest.mark.parametrize("name", NAMES)
def test_births_are_found_and_what_was_heard_changes_nothing_else(name, world, requested):
    """A channel that heard of births and retirements finds what one that did not would find in the same request."""
    deaf, listening = (made(name).fit(world.policy_log) for _ in range(2))
    for day in (0, 6, 2):
        tell_changes(listening, world.calendar, np.array([day * 86_400.0]))
        request = requested(USERS)
        request = replace(request, excluded=world.seen(USERS) | world.calendar.closed(np.full(50, day * 86_400.0)))
        for mine, theirs in zip(listening.recall(request, 30), deaf.recall(request, 30), strict=True):
            assert_array_equal(mine, theirs)
    listening.fit(world.policy_log)
    assert_array_equal(listening.recall(request, 30)[0], deaf.recall(request, 30)[0])


@pytest.mark.parametrize("name", ["popular", "fresh", "category"])
def test_retired_items_are_dropped_from_the_ranking(name, world, requested):
    channel = made(name).fit(world.policy_log)
    offered = np.ones(world.num_items, bool)
    channel.hear(offered)
    before = channel.recall(requested(USERS), 30)[0]
    offered = offered.copy()
    offered[before[:, 0]] = False
    channel.hear(offered)
    assert not np.isin(channel.recall(requested(USERS), 30)[0], before[:, 0]).any()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fresh"])
def test_learns_from_events_and_refuses_those_of_others(name, world, requested, events_of):
    channel = made(name).fit(world.policy_log)
    item = int(np.flatnonzero(world.policy_log.item_counts() == 0)[0])
    extra = np.zeros((50, world.num_items), bool)
    request = replace(requested(USERS, extra), excluded=np.zeros((50, (world.num_items + 7) // 8), np.uint8))

    def place():
        items = channel.recall(request, world.num_items)[0]
        return np.where((items == item).any(axis=1), (items == item).argmax(axis=1), world.num_items).mean()

    before = place()
    channel.update(events_of(np.repeat(np.arange(100), 1), np.full(100, item), np.full(100, world.reference_time)))
    assert place() < before
    users = replace(world.policy_log.users, user_ids=np.array(["a"]), features=world.policy_log.users.features[:1])
    foreign = replace(events_of([0], [0]), users=users)
    with pytest.raises(ConfigurationError, match="1 users"):
        channel.update(foreign)


def test_a_log_without_consumption_is_refused(world):
    empty = world.policy_log.where(np.zeros(len(world.policy_log), bool))
    for name in NAMES:
        if name == "fresh":
            continue
        with pytest.raises(ConfigurationError, match="no consumed rows"):
            made(name).fit(empty)


def test_popularity_fades_by_the_half_life(world, events_of):
    day = SECONDS_PER_DAY
    channel = Popular(PopularConfig(half_life_days=2)).fit(events_of([0, 1, 2], [5, 5, 6], [0, 2 * day, 4 * day]))
    assert_allclose(channel.popularity_[[5, 6, 7]], [0.25 + 0.5, 1, 0])
    channel.update(events_of([3, 4], [7, 5], [6 * day, day]))
    assert_allclose(channel.popularity_[[5, 6, 7]], [0.375 + 2**-2.5, 0.5, 1])
    whole = Popular(PopularConfig(half_life_days=2)).fit(
        events_of([0, 1, 2, 3, 4], [5, 5, 6, 7, 5], [0, 2 * day, 4 * day, 6 * day, day])
    )
    assert_allclose(channel.popularity_, whole.popularity_)


def test_fresh_items_come_in_order_of_birth(world, fitted, requested):
    items, scores = fitted["fresh"].recall(requested(USERS), 30)
    birth = world.policy_log.catalogue.birth[items]
    assert (np.diff(birth, axis=1) <= 0).all()
    assert_allclose(scores, (birth - world.policy_log.timestamp.max()) / SECONDS_PER_DAY, rtol=1e-5)


def test_item_to_item_votes_as_plain_matrices_do(world, requested):
    config = ItemToItemConfig(neighbours=15, shrinkage=3.0, history_decay=0.8)
    channel = ItemToItem(config).fit(world.policy_log)
    log = world.policy_log.consumed()
    seen = np.zeros((world.num_users, world.num_items))
    seen[log.user, log.item] = 1
    both = seen.T @ seen
    likeness = both / (np.sqrt(np.outer(np.diag(both), np.diag(both))) + 3.0)
    np.fill_diagonal(likeness, 0)
    for row in likeness:
        row[np.argsort(-row, kind="stable")[15:]] = 0
    request = requested(USERS)
    items, scores = channel.recall(request, 20)
    for n in range(50):
        history = request.history[n][request.history[n] >= 0]
        total = (0.8 ** np.arange(len(history))) @ likeness[history]
        total[np.unpackbits(request.excluded[n], bitorder="little", count=world.num_items) == 1] = 0
        expected = -np.sort(-total)[:20]
        assert_allclose(scores[n], expected, rtol=1e-4, atol=1e-6)
        assert_allclose(total[items[n][items[n] >= 0]], expected[expected > 0], rtol=1e-4)


def test_an_update_of_item_to_item_equals_a_refit(world):
    log = world.policy_log
    late = log.place >= np.floor(0.9 * np.diff(log.user_starts))[log.user]
    updated = ItemToItem().fit(log.where(~late))
    updated.update(log.where(late))
    whole = ItemToItem().fit(log)
    assert_array_equal(updated.neighbours_, whole.neighbours_)
    assert_array_equal(updated.likeness_, whole.likeness_)


def test_categories_get_places_in_proportion(world, requested):
    channel = Category(CategoryConfig(prior_items=1e-6)).fit(world.policy_log)
    nothing = np.zeros((1, (world.num_items + 7) // 8), np.uint8)
    categories = world.policy_log.catalogue.categories
    alone = [int(np.flatnonzero(categories[:, g] == 1)[0]) for g in (2, 5)]
    history = np.array([[alone[0], alone[1], -1]], np.int32)
    items, _ = channel.recall(RecallRequest(np.zeros(1, int), history, nothing, np.zeros((1, 2), int)), 19)
    profile = channel.profiles(history)[0]
    assert_allclose(profile[[2, 5]], [1 / 1.9, 0.9 / 1.9], atol=1e-5)
    # by D'Hondt's quotients 10 of 19 places belong to the newer item's category; items of both count for either
    members = categories[items[0]][:, [2, 5]] > 0
    assert members.any(axis=1).all()
    assert members[:, 0].sum() >= 10 and members[:, 1].sum() >= 9
    counts = world.policy_log.item_counts()
    assert counts[items[0][0]] == counts[categories[:, 2] > 0].max()


def test_bpr_finds_what_users_alike_consumed(world, events_of):
    """Even users consume even items: half of what is popular is nothing for them."""
    random = np.random.default_rng(0)
    user, item = random.integers(0, world.num_users, 4_000), random.integers(0, world.num_items // 2, 4_000)
    channel = resolve_channel("bpr")().fit(events_of(user, 2 * item + user % 2))
    users = np.arange(40)
    history = (2 * random.integers(0, world.num_items // 2, (40, 8)) + users[:, None] % 2).astype(np.int32)
    nothing = np.zeros((40, (world.num_items + 7) // 8), np.uint8)
    items, _ = channel.recall(RecallRequest(users, history, nothing, np.stack([users, users], axis=1)), 40)
    assert (items % 2 == users[:, None] % 2).mean() > 0.9


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Mine: pass", "not a subclass of recall.RecallChannel"),
        ("from recall import RecallChannel\nclass Mine(RecallChannel):\n    name = 'mine'", "lacks fit, recall"),
        (
            "from recall import RecallChannel\nclass Mine(RecallChannel):\n    def fit(self, log): return self\n"
            "    def recall(self, request, n): return None",
            "lacks name",
        ),
    ],
)
def test_a_wrong_channel_is_refused_with_what_it_lacks(source, message, tmp_path):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ConfigurationError, match=message):
        resolve_channel(f"{tmp_path}/mine.py:Mine")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("popular", {"half_life_days": 0}),
        ("category", {"history_decay": 0}),
        ("category", {"prior_items": 0}),
        ("item_to_item", {"neighbours": 0}),
        ("item_to_item", {"shrinkage": -1}),
        ("item_to_item", {"history_decay": 1.5}),
        ("bpr", {"history_decay": 0}),
        ("two_tower", {"epochs": 0}),
        ("two_tower", {"temperature": 0}),
        ("two_tower", {"history_decay": 2}),
        ("two_tower", {"unknown_share": 1}),
    ],
)
def test_wrong_settings_are_refused_by_name(name, settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        resolve_channel(name).config_type(**settings)


def test_two_towers_find_what_users_alike_consumed(world, events_of):
    """Even users consume even items: half of what is popular is nothing for them."""
    random = np.random.default_rng(0)
    user, item = random.integers(0, world.num_users, 4_000), random.integers(0, world.num_items // 2, 4_000)
    channel = made("two_tower", epochs=40).fit(
        events_of(user, 2 * item + user % 2, world.reference_time + np.arange(4_000))
    )
    users = np.arange(40)
    history = (2 * random.integers(0, world.num_items // 2, (40, 8)) + users[:, None] % 2).astype(np.int32)
    nothing = np.zeros((40, (world.num_items + 7) // 8), np.uint8)
    items, _ = channel.recall(RecallRequest(users, history, nothing, np.stack([users, users], axis=1)), 40)
    assert (items % 2 == users[:, None] % 2).mean() > 0.9


def test_a_stranger_has_the_mean_attributes_and_nobody_s_own(world, fitted, requested):
    channel, request = copy.deepcopy(fitted["two_tower"]), requested(USERS[:2])
    stranger = replace(request, user=np.array([-1, 1]))
    before = channel.user_vectors(stranger)
    shown = channel.user_features_
    channel.user_features_ = shown.copy()
    channel.user_features_[[0, -1]] += np.array([[1.0], [-1.0]], np.float32)  # the mean stays
    assert (channel.user_vectors(replace(request, user=np.array([len(shown) - 1, 1])))[0] != before[0]).any()
    assert_allclose(channel.user_vectors(stranger), before, atol=1e-6)
    channel.user_features_ = np.tile(shown.mean(axis=0), (len(shown), 1))
    assert_allclose(channel.user_vectors(replace(request, user=np.array([0, 0])))[0], before[0], atol=1e-6)


def test_two_towers_serve_as_they_were_trained(world, fitted, requested):
    """The kernels that serve compute what the network of the training does."""
    channel = fitted["two_tower"]
    network = _Towers(channel.config, channel._user_width(), *channel.categories_.shape)
    network.load_state_dict({name: torch.from_numpy(vars(channel)[key]) for name, key in _keys().items()})
    request = requested(USERS)
    history = request.history[:, : channel.config.history_size]
    weight = (history >= 0) * np.float32(channel.config.history_decay) ** np.arange(history.shape[1], dtype=np.float32)
    weight /= weight.sum(axis=1, keepdims=True)
    profile = np.einsum("nh,nhg->ng", weight, channel.categories_[history])
    features = torch.from_numpy(channel.user_features_[request.user])
    padded = torch.from_numpy(np.where(history >= 0, history, world.num_items).astype(np.int64))
    with torch.no_grad():
        users = network.users(padded, torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(profile), features)
    assert_allclose(channel.user_vectors(request), users.numpy(), atol=1e-5)


def test_the_sampled_softmax_is_corrected_by_log_q():
    """With all items in the batch once and Q uniform it is the full softmax; with another Q it is that of logits less log Q."""
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.standard_normal((6, 6)))
    item = torch.from_numpy(random.permutation(6))
    full = -torch.log_softmax(logits, dim=1).diagonal().mean()
    uniform = torch.full((6,), -np.log(6.0))
    assert float(sampled_softmax(logits, item, uniform)) == pytest.approx(float(full))
    log_q = torch.from_numpy(np.log(random.dirichlet(np.ones(6))))
    corrected = logits - log_q[item][None, :]
    expected = -torch.log_softmax(corrected, dim=1).diagonal().mean()
    assert float(sampled_softmax(logits, item, log_q)) == pytest.approx(float(expected))


def test_an_item_is_no_negative_of_a_row_that_has_it():
    logits = torch.tensor([[1.0, 9.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    loss = sampled_softmax(logits, torch.tensor([4, 4, 2]), None)
    expected = np.mean([np.log(1 + np.exp(-1.0))] * 2 + [np.log(1 + 2 * np.exp(-1.0))])
    assert float(loss) == pytest.approx(expected)


def test_log_q_keeps_popular_items_from_being_pushed_away(world, requested):
    """Without the correction an item is a negative as often as it is consumed, so popular ones are found less."""
    counts = world.policy_log.item_counts()
    popularity = {
        debias: counts[
            made("two_tower", epochs=10, debias=debias).fit(world.policy_log).recall(requested(USERS), 20)[0]
        ].mean()
        for debias in (True, False)
    }
    assert popularity[True] > 1.2 * popularity[False]


def test_training_leaves_torch_as_it_was(world):
    torch.manual_seed(5)
    threads, expected = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(5)
    made("two_tower", epochs=1).fit(world.policy_log)
    assert torch.get_num_threads() == threads
    assert_array_equal(torch.rand(3).numpy(), expected.numpy())
