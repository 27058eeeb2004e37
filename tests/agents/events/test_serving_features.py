import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.events import EventStore
from agents.events.facts import FACTS, Items
from agents.events.features import LiveFeatures, PastFeatures, item_schema, user_schema
from agents.events.tally import FeatureConfig
from envs.errors import ArtefactError, ConfigurationError
from envs.event_log import EventLog, matrix

DAY, HOUR = 86_400, 3_600
WHO, WHAT = np.arange(8), np.arange(-1, 30)


@pytest.fixture(scope="session")
def items():
    random = np.random.default_rng(9)
    categories = random.random((30, 5)).astype(np.float32)
    categories /= categories.sum(axis=1, keepdims=True)
    birth = random.uniform(-30 * DAY, 3 * DAY, 30)
    norm = np.linalg.norm(categories, axis=1, keepdims=True)
    return Items(categories=categories, directions=categories / norm, birth_clock=birth)


@pytest.fixture
def events(make_events):
    """Four days; clocks are quarters of an hour, so that many tie."""
    return make_events(np.sort(np.random.default_rng(3).integers(0, 4 * 96, 500)) * 900.0).table


def told(table):
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def assert_same(first, second, but=()):
    for name in first.column_names:
        if name not in but:
            np.testing.assert_array_equal(
                *(np.array(table[name].to_pylist()) for table in (first, second)), err_msg=name
            )


def differ(first, second):
    return any(not np.array_equal(told(first)[name], told(second)[name], equal_nan=True) for name in first.column_names)


def counted_by_hand(events, items, config, user, item, now):
    """Row by row, by the words of the schema."""
    known = now - config.event_delay
    rows = [row for row in events.to_pylist() if row["clock"] < known]

    def since(days):
        begin = np.floor((known - days * DAY) / config.step_seconds) * config.step_seconds
        return [row for row in rows if row["clock"] >= begin]

    def rate(clicks, trials, all_clicks, all_trials):
        everybody = (all_clicks + 1) / (all_trials + 2)
        return (clicks + config.smoothing * everybody) / (trials + config.smoothing)

    def newest(clocks):
        return (now - max(clocks)) / DAY if clocks else np.nan

    own = {}
    for window, some in [("", rows), *((f"_{days}d", since(days)) for days in config.windows_days)]:
        mine, clicks = [row for row in some if row["user"] == user], sum(row["item"] >= 0 for row in some)
        clicked = sum(row["item"] >= 0 for row in mine)
        own[f"user_requests{window}"], own[f"user_clicks{window}"] = len(mine), clicked
        own[f"user_click_rate{window}"] = rate(clicked, len(mine), clicks, len(some))
        shown, taken = sum(item in row["slate"] for row in some), sum(row["item"] == item for row in some)
        own[f"item_shown{window}"], own[f"item_clicks{window}"] = shown, taken
        all_shown = sum(shown >= 0 for row in some for shown in row["slate"])
        own[f"item_click_rate{window}"] = rate(taken, shown, clicks, all_shown)
        if window:
            own[f"item_popularity{window}"] = (1 + taken) / (1 + clicks / len(items))
    mine = [row for row in rows if row["user"] == user]
    own["user_days_since_request"] = newest([row["clock"] for row in mine])
    own["user_days_since_click"] = newest([row["clock"] for row in mine if row["item"] >= 0])
    own["item_days_since_click"] = newest([row["clock"] for row in rows if row["item"] == item])
    own["item_age_days"] = max(now - items.birth_clock[item], 0) / DAY
    mass = sum((items.categories[row["item"]] for row in mine if row["item"] >= 0), np.zeros(5))
    own["user_profile"] = mass / max(mass.sum(), 1e-12)
    return own


@pytest.mark.parametrize("delay", [0.0, 1_800.0])
def test_features_are_what_their_schema_says(events, items, delay):
    config = FeatureConfig(windows_days=(1, 2), event_delay=delay, smoothing=5)
    past = PastFeatures(events, items, config)
    for user, item, now in [(0, 4, 3.3 * DAY), (3, 11, 2 * DAY + 900), (6, 29, 0.0), (1, 2, 9 * DAY), (99, 0, 2 * DAY)]:
        of_user, of_item = past.users([user], now).to_pylist()[0], past.item_table([item], now).to_pylist()[0]
        expected = counted_by_hand(events, items, config, user, item, now)
        found = {name: value for name, value in (of_user | of_item).items() if name not in ("user", "item", "as_of")}
        assert set(found) == set(expected)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), delay=st.sampled_from([0.0, 700.0, 1.5 * DAY]), step=st.sampled_from([900, HOUR])
)
def test_kept_up_to_date_and_counted_anew_are_the_same(make_events, items, seed, delay, step):
    """Asked at any moments, whatever the micro-batches, and whether events were read before or after the moment."""
    random = np.random.default_rng(seed)
    clock = np.sort(np.round(random.uniform(0, 4 * DAY, 150), 0))
    config = FeatureConfig(windows_days=(1, 2), event_delay=delay, step_seconds=step)
    store = EventStore()
    store.append(make_events(clock, seed=seed))
    consumer, live = store.consumer("features"), LiveFeatures(items, config)
    for _ in range(6):
        live.update(consumer.poll(int(random.integers(1, 60))))
        newest = clock[min(consumer.position, 149)]
        now = float(random.choice([newest, newest - 0.5])) if consumer.position < 150 else 5.0 * DAY
        past = PastFeatures(pa.concat_tables([store.consumer("all").poll().select(FACTS)]), items, config)
        assert_same(live.users(WHO, now), past.users(WHO, now))
        assert_same(live.item_table(WHAT, now), past.item_table(WHAT, now))


def changed_from(events, items, time):
    """The events with another history from `time` on: other users, slates and choices, and more of them."""
    before = np.flatnonzero(events["clock"].to_numpy() < time)
    after = events.take(np.flatnonzero(events["clock"].to_numpy() >= time))
    size = len(after)
    slate = (matrix(after, "slate") + 7) % len(items)
    flat = pa.array(slate.astype(np.int32).reshape(-1))
    replaced = {
        "user": pa.array((after["user"].to_numpy() + 3) % 7),
        "slate": pa.FixedSizeListArray.from_arrays(flat, slate.shape[1]),
        "slot": pa.array(np.zeros(size, np.int16)),
        "item": pa.array(slate[:, 0].astype(np.int32)),
    }
    for name, column in replaced.items():
        after = after.set_column(after.column_names.index(name), name, column)
    return pa.concat_tables([events.take(before), after, after])


@pytest.mark.parametrize("hour", [0, 7, 24, 60, 95])
def test_nothing_of_the_future_is_known(events, items, hour):
    """Whatever happens from a moment on, the features as of it stay; those of later moments do not."""
    time = hour * float(HOUR)
    other = changed_from(events, items, time)
    for past, changed in [(PastFeatures(events, items), PastFeatures(other, items))]:
        for now in (time, time - 10):
            assert_same(past.users(WHO, now), changed.users(WHO, now))
            assert_same(past.item_table(WHAT, now), changed.item_table(WHAT, now))
        assert differ(past.users(WHO, time + DAY), changed.users(WHO, time + DAY))
        assert differ(past.item_table(WHAT, time + DAY), changed.item_table(WHAT, time + DAY))
    live = [LiveFeatures(items), LiveFeatures(items)]
    for each, some in zip(live, (events, other), strict=True):
        each.update(some)  # all of the future was read
    assert_same(live[0].users(WHO, time), live[1].users(WHO, time))
    assert_same(live[0].item_table(WHAT, time), live[1].item_table(WHAT, time))
    assert differ(live[0].users(WHO, time + DAY), live[1].users(WHO, time + DAY))


def test_events_seen_twice_count_once(events, items):
    store, live = EventStore(), LiveFeatures(items)
    store.append(events)
    for most in (200, 120, 300, 1_000):  # each consumer begins anew
        live.update(store.consumer("features").poll(most))
    assert live.position == len(events)
    assert_same(live.users(WHO, 5.0 * DAY), PastFeatures(events, items).users(WHO, 5.0 * DAY))


def test_late_events_count_from_the_next_question_on(events, items):
    live, past = LiveFeatures(items), PastFeatures(events, items)
    clock = events["clock"].to_numpy()
    late = (clock > DAY) & (clock < 2 * DAY)
    live.update(events.filter(pa.array(~late)))
    assert differ(live.users(WHO, 3.0 * DAY), past.users(WHO, 3.0 * DAY))
    live.update(events.filter(pa.array(late)))
    assert_same(live.users(WHO, 3.0 * DAY), past.users(WHO, 3.0 * DAY))
    assert_same(live.item_table(WHAT, 3.5 * DAY), past.item_table(WHAT, 3.5 * DAY))


def test_features_go_on_after_a_restart(events, items, tmp_path):
    store = EventStore()
    store.append(events)
    config = FeatureConfig(event_delay=HOUR)
    through, consumer = LiveFeatures(items, config), store.consumer("features")
    through.update(consumer.poll(300))
    through.users(WHO, 1.0 * DAY)
    through.save(tmp_path / "features.npz")
    again = LiveFeatures.load(tmp_path / "features.npz", items)
    consumer = store.consumer("features")
    consumer.seek(again.position)
    again.update(consumer.poll())
    for now in (3.0 * DAY, 9.0 * DAY):
        expected = PastFeatures(events, items, config)
        assert_same(again.users(WHO, now), expected.users(WHO, now))
        assert_same(again.item_table(WHAT, now), expected.item_table(WHAT, now))
    fewer = Items(categories=items.categories[:, :4], directions=items.directions, birth_clock=items.birth_clock)
    with pytest.raises(ArtefactError, match="other categories"):
        LiveFeatures.load(tmp_path / "features.npz", fewer)


def test_without_events_features_are_those_of_nobody(items):
    live, past = LiveFeatures(items), PastFeatures(EventLog().table, items)
    live.update(EventStore().consumer("features").poll())
    for source in (live, past):
        table = source.users(WHO, 100.0)
        assert table.schema == user_schema(5) and table["user_requests"].to_pylist() == [0] * len(WHO)
        assert np.isnan(told(table)["user_days_since_click"]).all()
        assert source.item_table(WHAT, 100.0).schema == item_schema()
        np.testing.assert_allclose(told(source.item_table(WHAT, 100.0))["item_click_rate_1d"], 0.5)


def test_every_column_is_described():
    for schema in (user_schema(3), item_schema()):
        assert schema.metadata[b"name"].startswith(b"serving_features")
        assert all(field.metadata[b"description"] for field in schema)


def test_live_features_do_not_go_back(items, events):
    live = LiveFeatures(items)
    live.update(events)
    live.users(WHO, 1_000.0)
    with pytest.raises(ConfigurationError, match="use PastFeatures"):
        live.item_table(WHAT, 999.0)


@pytest.mark.parametrize(
    "wrong",
    [{"windows_days": ()}, {"windows_days": (7, 1)}, {"step_seconds": 0}, {"smoothing": 0}, {"event_delay": -1}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        FeatureConfig(**wrong)
