import numpy as np
import pyarrow as pa
import pytest

from agents.events import EventStore
from agents.events.facts import FACTS, Items
from agents.events.features import PastFeatures
from agents.events.samples import daily_samples, samples_schema, training_samples, with_predictions
from envs.errors import ConfigurationError
from envs.event_log import EventLog, matrix

DAY = 86_400


@pytest.fixture(scope="session")
def items(world):
    return Items.of(world.policy_log.catalogue, world.reference_time)


@pytest.fixture
def events(make_events, world):
    clock = np.sort(np.random.default_rng(6).integers(0, 3 * 96, 300)) * 900.0
    return make_events(clock, users=20, items=60, versions=("1.0", "1.1")).table


def features_of(samples):
    return [name for name in samples.column_names if name.startswith(("user_", "item_"))]


def test_samples_are_the_rows_of_the_interaction_log(events, items, world):
    samples = training_samples(events, items)
    log = EventLog.of(events).to_log(world.policy_log, world.reference_time)
    assert samples.schema == samples_schema(items.categories.shape[1])
    order = np.lexsort((samples["clock"].to_numpy(), samples["log_user"].to_numpy()))
    ours = {
        name: samples[name].to_numpy(zero_copy_only=False)[order]
        for name in ("item", "slot", "clicked", "propensity", "rating")
    }
    for name, column in {"item": "item", "slot": "position", "clicked": "clicked"}.items():
        np.testing.assert_array_equal(ours[name], getattr(log, column), err_msg=name)
    np.testing.assert_array_equal(ours["propensity"], log.propensity)
    np.testing.assert_array_equal(ours["rating"], log.rating)
    assert samples["clicked"].to_numpy(zero_copy_only=False).sum() == (events["item"].to_numpy() >= 0).sum()
    assert set(samples["policy_version"].to_pylist()) == {"1.0", "1.1"}
    assert np.isnan(samples["prediction"].to_numpy()).all()


def test_features_are_those_of_serving_at_the_request(events, items):
    samples, past = training_samples(events, items), PastFeatures(events, items)
    for row in (0, 57, 400, len(samples) - 1):
        sample = samples.slice(row, 1).to_pylist()[0]
        served = past.users([sample["user"]], sample["clock"]).to_pylist()[0]
        served |= past.item_table([sample["item"]], sample["clock"]).to_pylist()[0]
        for name in features_of(samples):
            np.testing.assert_array_equal(sample[name], served[name], err_msg=name)


def test_a_request_s_own_outcome_is_in_none_of_its_features(events, items):
    """Each user's last request had another outcome: only labels differ. The first ones': later features differ too."""
    user = events["user"].to_numpy()
    _, from_end = np.unique(user[::-1], return_index=True)
    last = len(user) - 1 - from_end
    slate = matrix(events, "slate")

    def flipped(rows):
        slot = events["slot"].to_numpy().copy()
        first = (slate >= 0).argmax(axis=1)
        slot[rows] = np.where(slot[rows] >= 0, -1, first[rows])
        item = np.where(slot >= 0, slate[np.arange(len(slot)), slot], -1).astype(np.int32)
        changed = events.set_column(events.column_names.index("slot"), "slot", pa.array(slot))
        return changed.set_column(changed.column_names.index("item"), "item", pa.array(item))

    def by_user(table):
        names = [name for name in features_of(table) if name.startswith("user_") and "rate" not in name]
        return [table.select(names).to_pylist(), table["clicked"].to_pylist()]

    before, after = by_user(training_samples(events, items)), by_user(training_samples(flipped(last), items))
    assert str(before[0]) == str(after[0]) and before[1] != after[1]  # as text, since NaN is not NaN
    one = np.array([len(user) - 1])
    alone = [training_samples(table, items) for table in (events, flipped(one))]
    assert str(alone[0].select(features_of(alone[0])).to_pylist()) == str(
        alone[1].select(features_of(alone[1])).to_pylist()
    )
    early = by_user(training_samples(flipped(np.arange(40)), items))
    assert str(before[0]) != str(early[0])


def test_a_stored_day_has_the_samples_of_the_whole_log(events, items, tmp_path):
    store = EventStore(tmp_path)
    store.append(events)
    store.close_days(3)
    whole = training_samples(events, items)
    days = [daily_samples(store, day, items) for day in store.partitions()]
    assert str(pa.concat_tables(days).to_pylist()) == str(whole.to_pylist())
    head, tail = events.slice(0, 200), events.slice(200)
    continued = training_samples(tail, items, past=[head.select(FACTS)])
    assert str(continued.to_pylist()) == str(whole.slice(len(whole) - len(continued)).to_pylist())


def test_predictions_go_along(events, items, tmp_path):
    chances = np.random.default_rng(0).random((len(events), 4))
    told = with_predictions(events, chances)
    store = EventStore(tmp_path)
    store.append(told)
    store.close_days(3)
    samples = pa.concat_tables([daily_samples(store, day, items) for day in store.partitions()])
    expected = chances[matrix(events, "slate") >= 0].astype(np.float32)
    np.testing.assert_array_equal(samples["prediction"].to_numpy(), expected)
    with pytest.raises(ConfigurationError, match=r"\(300, 3\)"):
        with_predictions(events, chances[:, :3])


def test_no_events_make_no_samples(items):
    samples = training_samples(EventLog().table, items)
    assert len(samples) == 0 and samples.schema == samples_schema(items.categories.shape[1])
    assert len(with_predictions(EventLog(), np.zeros((0, 4)))) == 0


def test_every_column_is_described(items):
    schema = samples_schema(items.categories.shape[1])
    assert schema.metadata[b"name"] == b"training_samples"
    assert all(field.metadata[b"description"] for field in schema)
