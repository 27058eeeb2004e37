import numpy as np
import pytest

from envs.candidate_source import RecallRequest
from envs.logs.schema import InteractionLog


@pytest.fixture
def requested(world):
    """Makes requests of a world's users on day 0: requested(users, extra=mask of more items to leave out)."""

    def make(users, extra=None):
        excluded = world.seen(users) | world.calendar.changes[1][0]
        if extra is not None:
            excluded = excluded | np.packbits(extra, axis=1, bitorder="little")
        return RecallRequest(users, world.history(30)[0][users], excluded, np.stack([users, 0 * users], axis=1))

    return make


@pytest.fixture
def events_of(world):
    """Makes rows of the policy's users and catalogue: events_of(user, item, timestamp=None)."""

    def make(user, item, timestamp=None):
        times = np.full(len(user), world.reference_time) if timestamp is None else np.asarray(timestamp)
        log = world.policy_log
        return InteractionLog.from_rows(
            name="events",
            users=log.users,
            catalogue=log.catalogue,
            user=np.asarray(user, np.int32),
            item=np.asarray(item, np.int32),
            timestamp=times,
        )

    return make
