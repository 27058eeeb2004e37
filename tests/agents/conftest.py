import numpy as np
import pytest

from envs.observation import CONTEXT_NAMES, FIRST_CATEGORY, Candidates, Observation


@pytest.fixture
def observe():
    """Makes an observation of random requests: observe(rows, candidates, seed=0, masked=0.1)."""

    def make(rows, candidates, seed=0, masked=0.1, num_items=300, num_categories=6, users=50):
        random = np.random.default_rng(seed)
        categories = (random.random((num_items, num_categories)) < 0.3).astype(np.float32)
        categories /= np.maximum(categories.sum(axis=1, keepdims=True), 1)
        items = np.argsort(random.random((rows, num_items)), axis=1)[:, :candidates].astype(np.int32)
        features = np.zeros((rows, candidates, FIRST_CATEGORY + num_categories), np.float32)
        features[:, :, 0] = random.standard_normal((rows, candidates))
        features[:, :, 1] = random.exponential(40, (rows, candidates))
        features[:, :, FIRST_CATEGORY:] = categories[items]
        return Observation(
            user=random.integers(0, users, rows),
            user_features=random.random((rows, 2), np.float32),
            history=random.integers(0, num_items, (rows, 20)).astype(np.int32),
            history_days=np.sort(random.exponential(5, (rows, 20)).astype(np.float32), axis=1),
            context=random.integers(0, 7, (rows, len(CONTEXT_NAMES))).astype(np.float32),
            candidates=Candidates(items, (random.random((rows, candidates)) >= masked).astype(np.int8), features),
        )

    return make
