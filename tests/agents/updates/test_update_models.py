from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.rankers import RankingInput
from agents.rankers.log_history import LogHistory
from agents.updates.costs import Cost, Prices
from agents.updates.models import ServedModels, Window, joined, last_days
from envs.candidate_source import RecallRequest
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.world import World
from recall.embedding import EmbeddingConfig

CONFIG = EmbeddingConfig(iterations=4, update_passes=2)


def fitted(world: World) -> ServedModels:
    return ServedModels(CONFIG, ranker=None).fit(world.policy_log)


def clicks(world: World, users: np.ndarray, item: int) -> InteractionLog:
    """Rows in which each of `users` consumes `item` at the run's start."""
    return InteractionLog.from_rows(
        name="clicks",
        users=world.policy_log.users,
        catalogue=world.policy_log.catalogue,
        user=users,
        item=np.full(len(users), item),
        timestamp=np.full(len(users), world.reference_time),
    )


def state(models: ServedModels, world: World) -> dict[str, np.ndarray]:
    """Weights, index, counts, and what everybody would be served."""
    users = np.arange(world.num_users)
    request = RecallRequest(users, world.history(50)[0], world.seen(users), np.stack([users, users], axis=1))
    items, scores = models.recall.candidates(request, 50)
    return {
        "items": items,
        "scores": scores,
        "item_vectors": models.recall.item_vectors_.copy(),
        "user_vectors": models.recall.user_vectors_.copy(),
        "index": models.recall._index.index.vectors.copy(),
        "counts": models.counts_.copy(),
    }


def test_weights_and_index_change_with_an_update_and_are_back_to_the_bit_after_a_rollback(world):
    item = int(np.flatnonzero(world.born_in_run)[0])
    new = clicks(world, np.arange(0, world.num_users, 4), item)
    changes = {
        "incremental": lambda models: models.update(new),
        "refit": lambda models: models.fit(joined([world.policy_log, new])),
    }
    for change in changes.values():
        models = fitted(world)
        before, version = state(models, world), models.version
        snapshot = models.snapshot()
        for _ in range(2):  # a snapshot can be used again
            change(models)
            after = state(models, world)
            for name in before:
                assert not np.array_equal(before[name], after[name]), name
            assert models.version != version
            models.rollback(snapshot)
            back = state(models, world)
            for name in before:
                assert_array_equal(before[name], back[name], err_msg=name)
                assert before[name].dtype == back[name].dtype
            assert models.version == version


def test_after_a_rollback_an_update_has_the_same_effect_to_the_bit(world):
    item = int(np.flatnonzero(world.born_in_run)[0])
    new = clicks(world, np.arange(0, world.num_users, 4), item)
    models = fitted(world)
    snapshot = models.snapshot()
    models.update(new)
    first = state(models, world)
    models.rollback(snapshot)
    models.update(new)
    for name, array in state(models, world).items():
        assert_array_equal(first[name], array, err_msg=name)


def test_an_update_makes_a_born_item_reachable_by_those_who_like_it(world):
    """Those who share a taste consume a born item; then others of that taste are offered it, who were not before."""
    models = fitted(world)
    item = int(np.flatnonzero(world.born_in_run)[0])
    assert not models.known[item]
    taste = models.recall.user_vectors_ @ models.recall.user_vectors_[0]
    alike = np.argsort(-taste)[:60]
    fans, others = np.sort(alike[::2]), alike[1::2]

    def mean_rank() -> float:
        scores = models.recall.user_vectors(world.history(50)[0][others]) @ models.recall.item_vectors_.T
        return float((scores > scores[:, [item]]).sum(axis=1).mean())

    mean, rank = models.recall.item_vectors_[item].copy(), mean_rank()
    models.update(clicks(world, fans, item))
    assert models.known[item]
    assert not np.allclose(models.recall.item_vectors_[item], mean, atol=1e-3)
    assert mean_rank() < rank / 2


def test_versions_count_refits_and_updates(world):
    models = fitted(world)
    new = clicks(world, np.array([0]), int(np.flatnonzero(world.born_in_run)[0]))
    versions = [models.version]
    models.update(new)
    versions.append(models.version)
    models.fit(world.policy_log)
    versions.append(models.version)
    assert versions == ["0.0", "0.1", "1.0"]


def test_joined_logs_keep_all_rows_and_their_requests_apart(world):
    log = world.policy_log
    half = log.user % 2 == 0
    # requests of both halves have the same numbers
    again = [replace(part, request=part.request - part.request.min()) for part in (log.where(half), log.where(~half))]
    whole = joined(again)
    for column in ("user", "item", "timestamp", "clicked", "position"):
        assert_array_equal(getattr(whole, column), getattr(log, column))
    assert len(np.unique(whole.request)) == len(np.unique(log.request))


# ---------------------------------------------------------------------- parts, costs, windows
def later(world: World, share: float = 0.2) -> tuple[InteractionLog, InteractionLog]:
    """(the first rows of the policy's log, the rest)."""
    log = world.policy_log
    cut = np.quantile(log.timestamp, 1 - share)
    return log.where(log.timestamp < cut), log.where(log.timestamp >= cut)


def ranking(world: World, seed: int = 0) -> RankingInput:
    """Requests of the log's users with random items."""
    rows = np.arange(0, len(world.policy_log), 37)
    items = np.random.default_rng(seed).integers(0, world.num_items, (len(rows), 20)).astype(np.int32)
    return replace(LogHistory(world.policy_log, 20).inputs(rows, items), counts=None)


def test_each_part_is_refreshed_by_itself(world):
    past, events = later(world)
    batch = ranking(world)
    for part in ("recall", "ranker"):
        for refit in (False, True):
            models = ServedModels(CONFIG).fit(past)
            vectors, scores, counts = models.recall.item_vectors_.copy(), models.score(batch), models.counts_.copy()
            if refit:
                cost = models.refit(world.policy_log, (part,))
            else:
                cost = (models.update_recall if part == "recall" else models.update_ranker)(events)
            assert (part == "recall") == (not np.array_equal(vectors, models.recall.item_vectors_))
            assert (part == "ranker") == (not np.array_equal(scores, models.score(batch)))
            assert (part == "recall") == (not np.array_equal(counts, models.counts_))
            assert cost.samples > 0 and cost == models.cost
            other = "ranker" if part == "recall" else "recall"
            assert models.windows[part] == Window.of(world.policy_log)
            assert models.windows[other] == Window.of(past)
            assert models.window.last == int(world.policy_log.timestamp.max())


def test_costs_are_samples_times_parameters_and_the_same_each_time(world):
    past, events = later(world)
    models = ServedModels(CONFIG, most_rows=300).fit(past)
    first = models.cost
    clicked = past.consumed()
    interactions = len(np.unique(clicked.user.astype(np.int64) * world.num_items + clicked.item))
    by_recall, by_ranker = 2 * CONFIG.iterations * interactions, 3 * min(300, len(clicked))
    width = CONFIG.dimension * (len(past.users) + world.num_items)
    assert first.samples == by_recall + by_ranker
    assert first.work == by_recall * width + by_ranker * models.ranker.num_parameters
    assert first.seconds > 0
    assert ServedModels(CONFIG, most_rows=300).fit(past).cost == first
    assert models.update_ranker(events).samples == 3 * int(events.clicked.sum())
    nothing = models.update(events.where(~events.clicked))
    assert nothing == Cost() and models.version == "0.1"
    assert Prices(per_billion=2.0).of(first + first) == pytest.approx(4e-9 * first.work)
    with pytest.raises(ConfigurationError, match="per_billion"):
        Prices(per_billion=-1)


def test_models_with_a_ranker_roll_back_and_save_to_the_bit(world, tmp_path):
    past, events = later(world)
    batch = ranking(world)
    models = ServedModels(CONFIG).fit(past)
    models.save(tmp_path)
    snapshot, scores = models.snapshot(), models.score(batch)
    models.update(events)
    after, updated = state(models, world), models.score(batch)
    assert not np.array_equal(scores, updated)
    for back in (ServedModels.load(tmp_path), ServedModels.of(snapshot)):
        assert_array_equal(back.score(batch), scores)
        assert (back.version, back.windows, back.configuration) == ("0.0", dict(snapshot.windows), models.configuration)
        back.update(events)
        assert_array_equal(back.score(batch), updated)
        for name, array in state(back, world).items():
            assert_array_equal(array, after[name], err_msg=name)
    models.rollback(snapshot)
    assert_array_equal(models.score(batch), scores)
    (tmp_path / "ranker.safetensors").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"ranker\.safetensors"):
        ServedModels.load(tmp_path)


def test_only_new_users_and_items_are_folded_in_where_asked(world):
    born = int(np.flatnonzero(world.born_in_run)[0])
    log = world.policy_log.where(world.policy_log.user > 0)  # user 0 is new
    old = int(np.argmax(log.item_counts()))
    models = ServedModels(CONFIG, ranker=None).fit(log)
    before = models.snapshot().recall
    together = joined([clicks(world, np.array([0, 5]), born), clicks(world, np.array([0, 7]), old)])
    cost = models.update_recall(together, only_new=True)
    changed = np.flatnonzero((models.recall.user_vectors_ != before.user_vectors_).any(axis=1))
    assert changed.tolist() == [0]
    # items without rows follow their categories' mean, of which the born one is part now
    moved = np.flatnonzero((models.recall.item_vectors_ != before.item_vectors_).any(axis=1))
    assert born in moved and old not in moved
    assert cost.samples == CONFIG.update_passes * 4  # two rows of the user, two of the item


def test_births_and_retirements_change_the_index_without_a_rebuild(world):
    models = ServedModels(CONFIG, ranker=None).fit(world.policy_log)
    offered = ~world.born_in_run
    models.recall.hear(offered)
    index, tiles = models.recall._index.index, models.recall._index.index._tiles
    users = np.arange(20)
    queries, open_to_all = models.recall.user_vectors_[users], np.zeros((20, (world.num_items + 7) // 8), np.uint8)
    gone = int(np.argmax(np.bincount(models.recall.search(queries, open_to_all, 30)[0].ravel())))
    now = np.ones(world.num_items, bool)
    now[gone] = False
    models.recall.hear(now)
    found = models.recall.search(queries, open_to_all, world.num_items)[0]
    assert models.recall._index.index is index and index._tiles is tiles
    assert gone not in found and np.isin(np.flatnonzero(world.born_in_run), found).all()


def test_recall_alone_ranks_by_its_own_score(world):
    models = ServedModels(CONFIG, ranker=None).fit(world.policy_log)
    batch = ranking(world)
    batch.items[:, -1] = -1
    scores = models.score(batch)
    users = models.recall.user_vectors(batch.history)
    expected = (users[3] * models.recall.item_vectors_[batch.items[3, 2]]).sum()
    assert scores[3, 2] == pytest.approx(expected, rel=1e-5) and np.isneginf(scores[:, -1]).all()


def test_what_cannot_be_done_is_refused(world):
    with pytest.raises(ConfigurationError, match="never fitted"):
        ServedModels(CONFIG).update(world.policy_log)
    with pytest.raises(ConfigurationError, match="call fit"):
        ServedModels(CONFIG).refit(world.policy_log, ("ranker",))
    models = ServedModels(CONFIG).fit(world.policy_log)
    with pytest.raises(ConfigurationError, match="'rank'"):
        models.refit(world.policy_log, ("rank",))
    with pytest.raises(ConfigurationError, match="no consumed rows"):
        models.refit(last_days(world.policy_log, 0, int(world.policy_log.timestamp.max()) + 1))
    with pytest.raises(ConfigurationError, match="most_rows"):
        ServedModels(CONFIG, most_rows=0)


def test_a_warm_refit_of_a_window_learns_from_its_newest_rows(world):
    models = ServedModels(CONFIG, most_rows=200).fit(world.policy_log)
    now = int(world.policy_log.timestamp.max())
    window = last_days(world.policy_log, 30, now)
    assert 0 < len(window) < len(world.policy_log)
    cost = models.refit(window, ("ranker",), warm=True)
    assert models.windows["ranker"] == Window.of(window) and models.version == "1.0"
    assert cost.samples == 3 * min(200, int(window.clicked.sum()))


@pytest.mark.parametrize("label", ["consumed", "click"])
def test_a_refit_learns_from_the_newest_rows_with_what_was_shown_beside_them(world, label):
    log, most = world.policy_log, 60
    assert log.has_exposures
    samples = {"label": label, "negatives": 2, "negatives_shown": label == "consumed"}
    settings = {"samples": samples, "validation_share": 0.0}
    models = ServedModels(CONFIG, settings=settings, most_rows=most).fit(log)
    newest = np.argsort(np.where(log.clicked | (label == "click"), log.timestamp, -1), kind="stable")[-most:]
    taught = np.isin(np.arange(len(log)), newest)
    if label == "consumed":
        taught |= np.isin(log.request, log.request[taught])
    assert_array_equal(models.ranker.known_items_, np.bincount(log.item[taught], minlength=world.num_items) > 0)
    assert models.ranker.trained_samples_ == most * (3 if label == "consumed" else 1)
    # what is learnt are differences, whatever the label: some were liked, others not
    assert models.ranker.coefficients_.any() and models.windows["ranker"].rows == log.clicked.sum()
