import numpy as np
import pytest

from envs.event_log import EventLog


@pytest.fixture(scope="session")
def make_events():
    """Makes an event log of random requests in order of time: make_events(clock, seed=0, users=7, items=30)."""

    def make(clock, seed=0, users=7, items=30, slots=4, candidates=6, versions=("1.0",)):
        random = np.random.default_rng(seed)
        clock = np.asarray(clock, np.float64)
        events = EventLog()
        for part in np.array_split(np.arange(len(clock)), len(versions)):
            count = len(part)
            shown = np.argsort(random.random((count, items)), axis=1)[:, :candidates].astype(np.int32)
            slate = shown[:, :slots].copy()
            slate[random.random(slate.shape) < 0.1] = -1
            slot = random.integers(-1, slots, count)
            item = np.where(slot >= 0, slate[np.arange(count), slot], -1).astype(np.int32)
            slot = np.where(item >= 0, slot, -1)
            user = random.integers(0, users, count)
            events.append(
                user=user,
                log_user=user,
                visit=(np.nan_to_num(clock[part]) // 86_400).astype(np.int64),
                request=part,
                clock=clock[part],
                policy_version=versions[0],
                candidates=shown,
                slate=slate,
                propensity=random.random(slate.shape, np.float32),
                slot=slot,
                item=item,
                rating=np.where(item >= 0, random.integers(1, 6, count), np.nan).astype(np.float32),
                left=random.random(count) < 0.2,
            )
            versions = versions[1:]
        return events

    return make
