import numpy as np
import pyarrow as pa
import pytest

from agents.events import EventStore
from agents.events.facts import Items
from agents.events.samples import with_predictions
from agents.events.statistics import STATISTICS, StatisticsConfig, daily_statistics, statistics
from agents.updates.metrics import population_stability
from envs.errors import ConfigurationError
from envs.event_log import EventLog, matrix
from envs.measures import intra_list_distance

DAY = 86_400


@pytest.fixture(scope="session")
def items(world):
    return Items.of(world.policy_log.catalogue, world.reference_time)


@pytest.fixture
def events(make_events):
    clock = np.sort(np.random.default_rng(8).uniform(0, 3 * DAY, 400))
    return make_events(clock, users=20, items=60, versions=("1.0", "1.1", "2.0")).table


def test_each_day_and_version_has_its_figures(events, items):
    born = np.linspace(-40, 3, 500) * DAY  # items are born all the time
    items = Items(categories=items.categories, directions=items.directions, birth_clock=born[: len(items)])
    trained = {"1.0": -20.0 * DAY, "2.0": 0.0}
    table = statistics(events, items, StatisticsConfig(fresh_days=38.0), trained_at=trained)
    assert table.schema == STATISTICS
    day = events["clock"].to_numpy() // DAY
    version = np.array(events["policy_version"].to_pylist())
    pairs = sorted(set(zip(day.astype(int).tolist(), version.tolist(), strict=True)))
    assert list(zip(table["day"].to_pylist(), table["policy_version"].to_pylist(), strict=True)) == pairs
    for row in table.to_pylist():
        mine = events.filter(pa.array((day == row["day"]) & (version == row["policy_version"])))
        slate, item, user = matrix(mine, "slate"), mine["item"].to_numpy(), mine["user"].to_numpy()
        filled, clicked = slate >= 0, item >= 0
        age = (mine["clock"].to_numpy()[:, None] - born[np.maximum(slate, 0)]) / DAY
        age_clicked = ((mine["clock"].to_numpy() - born[np.maximum(item, 0)]) / DAY)[clicked]
        visits = len(set(zip(user, mine["visit"].to_pylist(), strict=True)))
        expected = {
            "requests": len(mine),
            "visits": visits,
            "users": len(set(user)),
            "shown": filled.sum(),
            "clicks": clicked.sum(),
            "ctr": clicked.mean(),
            "engagement": clicked.sum() / visits,
            "diversity": intra_list_distance(items.directions, slate).mean(),
            "freshness": (age_clicked < 38).mean(),
            "shown_fresh": (age[filled] < 38).mean(),
            "shown_age_days": np.maximum(age[filled], 0).mean(),
            "newborn_share": (born[slate[filled]] > trained.get(row["policy_version"], np.inf)).mean(),
        }
        if row["policy_version"] == "1.1":
            expected["newborn_share"] = np.nan  # nobody told when it was trained
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-6, err_msg=name)
        if len(set(clicked)) == 2:
            assert 0 <= row["ctr_low"] < row["ctr"] < row["ctr_high"] <= 1
        assert np.isnan(
            [row["predicted_ctr"], row["calibration_bias"], row["calibration_error"], row["score_psi"]]
        ).all()


def test_the_interval_of_the_click_rate_covers_it(make_events, items):
    """Users of one day differ in what they like, and each makes many requests: the interval must be one over users."""
    random = np.random.default_rng(0)
    covered, widths = 0, []
    for trial in range(120):
        table = make_events(np.sort(random.uniform(0, DAY, 300)), seed=trial, users=40, items=60).table
        taste = random.random(40)
        slot = np.where(random.random(300) < taste[table["user"].to_numpy()], 0, -1)
        item = np.where(slot == 0, 5, -1).astype(np.int32)
        table = table.set_column(table.column_names.index("item"), "item", pa.array(item))
        row = statistics(table, items).to_pylist()[0]
        covered += row["ctr_low"] <= 0.5 <= row["ctr_high"]
        widths.append(row["ctr_high"] - row["ctr_low"])
    assert covered >= 107 and np.mean(widths) < 0.25


def test_predictions_are_judged(events, items):
    random = np.random.default_rng(1)
    day = events["clock"].to_numpy() // DAY
    chances = random.uniform(0, 0.4, (len(events), 4))
    chances[day == 2] += 0.3  # scores shift on the last day
    clicked = random.random(chances.shape) < chances
    slate = matrix(events, "slate")
    slot = np.where((clicked & (slate >= 0)).any(axis=1), (clicked & (slate >= 0)).argmax(axis=1), -1)
    item = np.where(slot >= 0, slate[np.arange(len(slot)), slot], -1).astype(np.int32)
    for name, column in {"slot": slot.astype(np.int16), "item": item}.items():
        events = events.set_column(events.column_names.index(name), name, pa.array(column))
    rows = statistics(with_predictions(events, chances), items).to_pylist()
    filled = slate >= 0
    for row in rows:
        mine = (day == row["day"]) & (np.array(events["policy_version"].to_pylist()) == row["policy_version"])
        told = chances[mine][filled[mine]].astype(np.float32)
        np.testing.assert_allclose(row["predicted_ctr"], told.mean(), rtol=1e-5)
        np.testing.assert_allclose(row["calibration_bias"], told.mean() - row["clicks"] / row["shown"], rtol=1e-5)
        assert row["calibration_error"] >= abs(row["calibration_bias"]) - 1e-6
        before = chances[day == row["day"] - 1][filled[day == row["day"] - 1]]
        np.testing.assert_allclose(row["score_psi"], population_stability(before, told), rtol=0.02, equal_nan=True)
    psi = {row["day"]: row["score_psi"] for row in rows if row["requests"] > 50}
    assert np.isnan(psi[0]) and psi[1] < 0.25 < psi[2]
    fixed = statistics(with_predictions(events, chances), items, reference=chances[day == 2].ravel()).to_pylist()
    psi = {row["day"]: row["score_psi"] for row in fixed if row["requests"] > 50}
    assert psi[2] < 0.25 < psi[0]


def test_a_stored_day_has_the_figures_of_the_whole_log(events, items, tmp_path):
    told = with_predictions(events, np.random.default_rng(2).random((len(events), 4)))
    store = EventStore(tmp_path)
    store.append(told)
    store.close_days(3)
    days = [daily_statistics(store, day, items, trained_at={"1.0": 0.0}) for day in store.partitions()]
    whole = statistics(told, items, trained_at={"1.0": 0.0})
    for name in STATISTICS.names:
        np.testing.assert_array_equal(
            *(table[name].to_numpy() for table in (pa.concat_tables(days), whole)), err_msg=name
        )


def test_sparse_traffic_divides_by_nothing(make_events, items):
    assert statistics(EventLog().table, items).schema == STATISTICS
    lonely = make_events([5.0], users=1).table
    nothing = {
        "slate": pa.array(np.full(4, -1, np.int32)),
        "item": np.array([-1], np.int32),
        "slot": np.array([-1], np.int16),
    }
    for name, column in nothing.items():
        column = pa.FixedSizeListArray.from_arrays(column, 4) if name == "slate" else pa.array(column)
        lonely = lonely.set_column(lonely.column_names.index(name), name, column)
    with np.errstate(all="raise"):
        row = statistics(lonely, items).to_pylist()[0]
    assert (row["requests"], row["visits"], row["shown"], row["clicks"], row["ctr"]) == (1, 1, 0, 0, 0.0)
    assert np.isnan([row["ctr_low"], row["freshness"], row["newborn_share"]]).all()


def test_every_column_is_described():
    assert STATISTICS.metadata[b"name"] == b"statistics"
    assert all(field.metadata[b"description"] for field in STATISTICS)
    with pytest.raises(ConfigurationError, match="bins"):
        StatisticsConfig(bins=1)
