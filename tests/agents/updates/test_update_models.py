import numpy as np
from numpy.testing import assert_array_equal

from agents.updates.models import ServedModels, joined
from envs.candidate_source import RecallRequest
from envs.logs.schema import InteractionLog
from envs.world import World
from recall.embedding import EmbeddingConfig

CONFIG = EmbeddingConfig(iterations=4, update_passes=2)


def fitted(world: World) -> ServedModels:
    return ServedModels(CONFIG).fit(world.policy_log)


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


def test_joined_logs_keep_the_consumed_rows_of_all(world):
    log = world.policy_log
    half = np.arange(len(log)) % 2 == 0
    whole = joined([log.where(half), log.where(~half)])
    expected = log.consumed()
    for column in ("user", "timestamp"):
        assert_array_equal(getattr(whole, column), getattr(expected, column))
    assert_array_equal(whole.item_counts(), log.item_counts())
