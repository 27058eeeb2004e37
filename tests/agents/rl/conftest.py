from collections.abc import Iterator

import pytest
import stub
from ray import cloudpickle


@pytest.fixture(scope="module")
def sent_by_value() -> Iterator[None]:
    """Workers cannot import what lies beside a test. Not for all modules: classes that a test patches for a while would go into
    checkpoints, and whoever reads one of these would patch them for good."""
    cloudpickle.register_pickle_by_value(stub)
    yield
    cloudpickle.unregister_pickle_by_value(stub)
