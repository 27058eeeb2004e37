from dataclasses import replace

import numpy as np
import pytest
from implicit.als import AlternatingLeastSquares
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix

from envs.candidate_source import CatalogueListener, RecallRequest, is_excluded, tell_changes
from envs.catalogue_calendar import ItemCalendar
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from recall.embedding import EmbeddingConfig, EmbeddingRecall

CONFIG = EmbeddingConfig(dimension=16, iterations=5)
COUNT = 40


@pytest.fixture(scope="module")
def recall(world):
    return EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log)


def request_of(world, users, keys=None, extra=None):
    history = world.history(30)[0][users]
    excluded = world.seen(users) | world.calendar.changes[1][0]
    if extra is not None:
        excluded = excluded | np.packbits(extra, axis=1, bitorder="little")
    keys = users if keys is None else keys
    return RecallRequest(users, history, excluded, np.stack([keys, np.zeros_like(keys)], axis=1))


def events_of(world, user, item):
    log = world.policy_log
    return InteractionLog.from_rows(
        name="events",
        users=log.users,
        catalogue=log.catalogue,
        user=np.asarray(user),
        item=np.asarray(item),
        timestamp=np.full(len(user), world.reference_time),
    )


def test_same_seed_same_bits(world, recall):
    again = EmbeddingRecall(replace(CONFIG, num_threads=2), seed=1).fit(world.policy_log)
    assert_array_equal(again.item_vectors_, recall.item_vectors_)
    assert_array_equal(again.user_vectors_, recall.user_vectors_)
    assert (EmbeddingRecall(CONFIG, seed=2).fit(world.policy_log).item_vectors_ != recall.item_vectors_).any()


def test_folding_in_solves_the_normal_equations_of_als(world, recall):
    """The library's own equations, with the whole history at full confidence, are the reference."""
    plain = EmbeddingRecall(replace(CONFIG, history_decay=1.0), seed=1).fit(world.policy_log)
    reference = AlternatingLeastSquares(
        factors=16, regularization=CONFIG.regularisation, use_cg=False, num_threads=1, dtype=np.float32
    )
    reference.item_factors = plain.item_vectors_
    history = world.history(30)[0][:20]
    consumed = np.zeros((20, world.num_items), np.float32)
    np.put_along_axis(consumed, np.maximum(history, 0), (history >= 0) * np.float32(1 + CONFIG.confidence), axis=1)
    expected = reference.recalculate_user(np.arange(20), csr_matrix(consumed))
    assert_allclose(plain.user_vectors(history), expected, rtol=2e-3, atol=2e-4)


def test_an_item_repeated_in_the_history_counts_once(recall):
    once = np.array([[5, 7, -1, -1]], np.int32)
    repeated = np.array([[5, 7, 5, 7]], np.int32)
    assert_array_equal(recall.user_vectors(once), recall.user_vectors(repeated))


def test_a_user_without_history_is_the_mean_user(world, recall):
    vector = recall.user_vectors(np.full((1, 30), -1, np.int32))[0]
    active = np.unique(world.policy_log.consumed().user)
    assert_allclose(vector, recall.user_vectors_[active].mean(axis=0), rtol=1e-5)


def test_candidates_are_the_best_that_are_allowed(world):
    recall = EmbeddingRecall(replace(CONFIG, newcomer_share=0.0), seed=1).fit(world.policy_log)
    request = request_of(world, np.arange(20))
    items, scores = recall.candidates(request, COUNT)
    assert not is_excluded(request.excluded, items).any()
    exact = recall.user_vectors(request.history) @ recall.item_vectors_.T
    exact[np.unpackbits(request.excluded, axis=1, bitorder="little", count=world.num_items) == 1] = -np.inf
    assert_allclose(scores, -np.sort(-exact, axis=1)[:, :COUNT], atol=1e-4)
    assert all(len(set(row)) == COUNT for row in items)


def test_newcomers_take_the_places_of_the_last_others(world):
    """By a plain loop: the best newcomers up to their share, then the best of all that are left."""
    recall = EmbeddingRecall(replace(CONFIG, newcomer_share=0.3), seed=1).fit(world.policy_log)
    request = request_of(world, np.arange(40))
    # every third newcomer is born already, so that some rows would have them among the best anyhow
    born = np.unpackbits(request.excluded, axis=1, bitorder="little", count=world.num_items).astype(bool)
    born[:, np.flatnonzero(world.born_in_run)[::3]] = False
    request = replace(request, excluded=np.packbits(born, axis=1, bitorder="little"))
    items, scores = recall.candidates(request, COUNT)
    known = np.isin(np.arange(world.num_items), world.policy_log.consumed().item)
    exact = recall.user_vectors(request.history) @ recall.item_vectors_.T
    for row in range(len(items)):
        ranked = [item for item in np.argsort(-exact[row], kind="stable") if not born[row, item]]
        share = [item for item in ranked if not known[item]][: int(np.ceil(0.3 * COUNT))]
        rest = [item for item in ranked if item not in share]
        expected = np.sort(exact[row, share + rest[: COUNT - len(share)]])[::-1]
        assert len(share) > 0 and len(set(items[row])) == COUNT
        assert (~known[items[row]]).sum() >= len(share)
        assert_allclose(scores[row], expected, atol=1e-4)
        assert_allclose(scores[row], exact[row, items[row]], atol=1e-4)


def test_answers_depend_on_neither_batch_nor_memory(world):
    users = np.arange(world.num_users)
    warm = EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log)
    shown = np.zeros((len(users), world.num_items), bool)
    random = np.random.default_rng(0)
    for _ in range(4):
        request = request_of(world, users, extra=shown)
        items, scores = warm.candidates(request, COUNT)
        cold = EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log)
        rows = random.permutation(len(users))[:33]
        part = RecallRequest(*(getattr(request, name)[rows] for name in ("user", "history", "excluded", "key")))
        cold_items, cold_scores = cold.candidates(part, COUNT)
        assert_array_equal(cold_items, items[rows])
        assert_array_equal(cold_scores, scores[rows])
        moved = np.flatnonzero(random.random(len(users)) < 0.5)
        shown[moved, items[moved, 0]] = True
    fewer = EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log).candidates(request, COUNT // 2)
    assert_array_equal(warm.candidates(request, COUNT // 2)[0], fewer[0])


def test_finds_what_users_alike_consumed(world):
    """Even users consume even items: half of what is popular is nothing for them."""
    random = np.random.default_rng(0)
    user, item = random.integers(0, world.num_users, 4_000), random.integers(0, world.num_items // 2, 4_000)
    recall = EmbeddingRecall(CONFIG).fit(events_of(world, user, 2 * item + user % 2))
    users = np.arange(40)
    history = (2 * random.integers(0, world.num_items // 2, (40, 8)) + users[:, None] % 2).astype(np.int32)
    nothing = np.zeros((40, (world.num_items + 7) // 8), np.uint8)
    items, _ = recall.candidates(RecallRequest(users, history, nothing, np.stack([users, users], axis=1)), COUNT)
    assert (items % 2 == users[:, None] % 2).mean() > 0.95


def test_items_without_rows_stand_at_their_categories_mean(world, recall):
    log = world.policy_log
    cold = np.flatnonzero(log.item_counts() == 0)
    assert world.born_in_run[cold].any()
    seen = log.item_counts() > 0
    means = log.catalogue.categories[seen].T @ recall.item_vectors_[seen]
    means /= log.catalogue.categories[seen].sum(axis=0)[:, None]
    assert_allclose(recall.item_vectors_[cold], log.catalogue.categories[cold] @ means, rtol=1e-3, atol=1e-5)


def test_an_item_is_found_from_the_moment_of_its_birth(world, recall):
    users = np.arange(5)
    born = np.flatnonzero(world.born_in_run)[0]
    others = np.ones((5, world.num_items), bool)
    others[:, born] = False
    before = request_of(world, users, extra=others)
    assert (recall.candidates(before, COUNT)[0] == -1).all()
    after = replace(before, excluded=np.packbits(others, axis=1, bitorder="little"))
    items, _ = recall.candidates(after, COUNT)
    assert_array_equal(items[:, 0], born)
    assert (items[:, 1:] == -1).all()


def test_what_is_found_does_not_depend_on_what_was_heard(world, recall):
    """Births and retirements make the newcomers' index smaller, and nothing else."""
    listening = EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log)
    newcomers = listening._newcomers
    for day in (0, 4, 11, 3):
        tell_changes(listening, world.calendar, np.array([day * 86_400.0]))
        assert_array_equal(listening._newcomers, newcomers[world.birth_clock[newcomers] <= day * 86_400])
        request = request_of(world, np.arange(40), keys=np.arange(40) + 1000 * day)
        request = replace(request, excluded=world.seen(request.user) | world.calendar.closed(np.full(40, day * 86_400)))
        for one, two in zip(listening.candidates(request, COUNT), recall.candidates(request, COUNT), strict=True):
            assert_array_equal(one, two)
    listening.fit(world.policy_log)
    assert (world.birth_clock[listening._newcomers] <= 3 * 86_400).all()


def test_recall_hears_of_births_and_retirements_as_the_first_and_the_last_user_meet_them():
    class Heard(CatalogueListener):
        def __init__(self):
            self.events = []

        def items_changed(self, born, retired):
            self.events.append((born.tolist(), retired.tolist()))

    day = 86_400.0
    calendar = ItemCalendar(birth_clock=np.array([-1, 1, 2, -5]) * day, retire_clock=np.array([9, 9, 9, 3]) * day)
    source = Heard()
    for clocks in ([0.0, 0.1], [0.2, 1.0], [0.9, 2.5], [2.6, 3.5], [3.0, 4.0], [0.0, 4.0]):
        tell_changes(source, calendar, np.array(clocks) * day)
    assert source.events == [([0, 3], []), ([1], []), ([2], []), ([], [3]), ([3], [])]


def test_an_update_moves_what_it_touches_and_only_that(world):
    recall = EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log)
    vectors, users = recall.item_vectors_.copy(), recall.user_vectors_.copy()
    born = int(np.flatnonzero(world.born_in_run)[0])
    consumers = np.arange(30)
    recall.update(events_of(world, consumers, np.full(30, born)))
    moved = np.flatnonzero((recall.item_vectors_ != vectors).any(axis=1))
    assert born in moved
    # items that nobody has consumed yet stand at means, which follow
    assert (world.policy_log.item_counts()[moved] == 0).all()
    assert_array_equal(np.flatnonzero((recall.user_vectors_ != users).any(axis=1)), consumers)
    assert_allclose(recall._index.index.vectors, recall.item_vectors_)
    fans = (recall.user_vectors_[consumers] @ recall.item_vectors_[born]).mean()
    assert fans > 1.3 * (users[consumers] @ vectors[born]).mean()


def test_an_item_counts_as_not_consumed_only_while_it_was_on_offer(world):
    log = world.policy_log
    consumed = log.consumed()
    counts, order = log.item_counts(), np.sort(consumed.timestamp)
    young = np.argsort(-counts)[[30, 60, 90]]
    birth = np.minimum(log.catalogue.birth, order[0])
    birth[young] = order[-(len(order) // 10)]
    late = ~np.isin(log.item, young) | (log.timestamp >= birth[young[0]])
    log = replace(log, catalogue=log.catalogue.with_birth(birth)).where(late)
    plain, recall = (EmbeddingRecall(replace(CONFIG, exposure=exposure), seed=1).fit(log) for exposure in (False, True))
    events = log.consumed()
    users, old = recall.user_vectors_.astype(np.float64), np.setdiff1d(np.flatnonzero(log.item_counts()), young)
    assert_array_equal(recall.item_vectors_[old], plain.item_vectors_[old])
    categories = log.catalogue.categories.astype(np.float64)
    for item in young[log.item_counts()[young] > 0]:
        exposure = (events.timestamp >= birth[item]).mean()
        middle = np.zeros(16)
        for group in np.flatnonzero(categories[item]):
            share = categories[old, group] / categories[old, group].sum()
            middle += categories[item, group] / categories[item].sum() * (share @ plain.item_vectors_[old])
        own = users[np.unique(events.user[events.item == item])]
        left = exposure * users.T @ users + CONFIG.confidence * own.T @ own + CONFIG.regularisation * np.eye(16)
        right = (1 + CONFIG.confidence) * own.sum(axis=0) + (1 - exposure) * CONFIG.regularisation * middle
        assert_allclose(recall.item_vectors_[item], np.linalg.solve(left, right), rtol=2e-2, atol=2e-3)


def test_a_click_does_not_push_a_newborn_item_back(world):
    """Without exposure one that has some clicks stands behind those that nobody has ever seen."""
    born = int(np.flatnonzero(world.born_in_run)[0])
    log = world.policy_log
    strangers = np.setdiff1d(np.arange(world.num_users), np.arange(3))
    moved = []
    for exposure in (False, True):
        recall = EmbeddingRecall(replace(CONFIG, exposure=exposure), seed=1).fit(log)
        before = (recall.user_vectors_[strangers] @ recall.item_vectors_[born]).mean()
        recall.update(events_of(world, np.arange(3), np.full(3, born)))
        moved.append((recall.user_vectors_[strangers] @ recall.item_vectors_[born]).mean() / before)
    assert moved[0] < 0.8 and moved[1] > 1


def test_an_update_comes_near_a_refit_for_less(world):
    log = world.policy_log
    late = log.place >= np.floor(0.9 * np.diff(log.user_starts))[log.user]
    recall = EmbeddingRecall(CONFIG, seed=1).fit(log.where(~late))
    seen = np.zeros((world.num_users, world.num_items), np.float32)
    seen[log.user[log.clicked], log.item[log.clicked]] = 1
    known = seen.any(axis=0)

    def loss():
        users, items = recall.user_vectors_, recall.item_vectors_[known]
        error = seen[:, known] - users @ items.T
        length = (users**2).sum() + (items**2).sum()
        return float(((1 + CONFIG.confidence * seen[:, known]) * error**2).sum() + CONFIG.regularisation * length)

    before, cost = loss(), recall.trained_samples_
    recall.update(log.where(late))
    after, update_cost = loss(), recall.trained_samples_
    recall.fit(log)
    # a few passes of a full fit have not converged either, so the update may even come out below it
    assert after < before and after < 1.02 * loss() < 1.02 * before
    assert update_cost < cost


def test_rows_that_are_known_change_nothing(world):
    recall = EmbeddingRecall(CONFIG, seed=1).fit(world.policy_log)
    vectors = recall.item_vectors_.copy()
    recall.update(world.policy_log.where(np.arange(len(world.policy_log)) < 50))
    assert recall.trained_samples_ == 0
    assert_allclose(recall.item_vectors_, vectors, rtol=1e-5, atol=1e-7)


def test_loads_what_it_saved_to_the_bit(world, recall, tmp_path):
    recall.save(tmp_path / "recall.npz")
    loaded = EmbeddingRecall.load(tmp_path / "recall.npz")
    assert loaded.config == recall.config and loaded.trained_samples_ == recall.trained_samples_
    request = request_of(world, np.arange(20))
    for mine, theirs in zip(recall.candidates(request, COUNT), loaded.candidates(request, COUNT), strict=True):
        assert_array_equal(mine, theirs)
    events = events_of(world, [0, 1, 2], [3, 4, 5])
    again = EmbeddingRecall.load(tmp_path / "recall.npz")
    loaded.update(events)
    again.update(events)
    assert_array_equal(loaded.item_vectors_, again.item_vectors_)


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "recall.npz"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"recall\.npz"):
        EmbeddingRecall.load(path)


def test_a_truncated_or_foreign_file_is_refused(world, recall, tmp_path):
    path = tmp_path / "recall.npz"
    recall.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtefactError, match=r"recall\.npz"):
        EmbeddingRecall.load(path)
    world.user_model.save(path)
    with pytest.raises(ArtefactError, match="not a recall file"):
        EmbeddingRecall.load(path)


def test_events_of_another_catalogue_are_refused(world, recall):
    log = world.policy_log
    fewer = replace(log.users, user_ids=log.users.user_ids[:10], features=log.users.features[:10])
    events = log.where(log.user < 10)
    with pytest.raises(ConfigurationError, match="10 users"):
        recall.update(replace(events, users=fewer))


def test_a_log_without_consumption_is_refused(world):
    with pytest.raises(ConfigurationError, match="no consumed rows"):
        EmbeddingRecall().fit(world.policy_log.where(np.zeros(len(world.policy_log), bool)))
