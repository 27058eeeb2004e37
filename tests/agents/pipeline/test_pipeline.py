"""Recall, ranking and re-ranking as one object."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from agents.pipeline import Pipeline, PipelineConfig
from agents.pipeline.served_users import ServedUsers
from agents.rankers.loading import ranker_names
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import SampleConfig
from agents.rerankers import MaximalMarginalRelevance, MMRRerankerConfig
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log

CONFIG = PipelineConfig(
    recall={"als": 0.6, "popular": 0.2, "fresh": 0.2},
    ranker="logistic",
    reranker="mmr",
    reranker_settings={"trade_off": 0.8},
    candidates=30,
    history_size=8,
)


@pytest.fixture(scope="module")
def log():
    return generate_log(SyntheticConfig(num_users=40, events_per_user=25, num_items=120, embedding_size=4), seed=0)[0]


@pytest.fixture(scope="module")
def pipeline(log):
    return Pipeline(CONFIG).fit(log)


def test_recommends_items_that_may_be_offered_and_tells_who_found_them(log, pipeline):
    users = [str(name) for name in log.users.user_ids]
    now = int(log.timestamp.max()) - 20 * SECONDS_PER_DAY
    found = pipeline.recommend(users, now=now, k=7)
    assert found.items.shape == found.scores.shape == (40, 7)
    for row, items in enumerate(found.items):
        shown = items[items >= 0]
        assert len(set(shown)) == len(shown)
        had = log.item[(log.user == row) & log.clicked]
        assert not set(shown) & set(had)
        assert (log.catalogue.birth[shown] <= now).all()
    assert_array_equal(found.item_ids[found.items >= 0], log.catalogue.item_ids[found.items[found.items >= 0]])
    names = pipeline.recall.names
    told = found.provenance(names)
    assert all(sources and set(sources) <= set(names) for row in told for sources in row)


def test_provenance_is_that_of_the_item_shown(log, pipeline):
    user = np.arange(40)
    now = np.full(40, int(log.timestamp.max()) + 1)
    observation, brought = pipeline.observe(user, now)
    found = pipeline.recommend([str(name) for name in log.users.user_ids], k=7)
    assert len(np.unique(found.channels)) > 2, "the rows tell channels apart"
    for row, items in enumerate(found.items):
        bits = dict(zip(observation.candidates.items[row].tolist(), brought[row].tolist(), strict=True))
        assert found.channels[row].tolist() == [bits[item] for item in items.tolist()]


def test_a_stranger_who_brings_a_history_is_served_by_it(log, pipeline):
    """With the mean user's attributes in place of one's own, one's own history gives what one gets by name."""
    user, strangers = 5, ["new", "newer"]
    own = log.consumed()
    rows = np.flatnonzero(own.user == user)
    history = [(str(own.catalogue.item_ids[own.item[row]]), int(own.timestamp[row])) for row in rows]
    plain = pipeline.recommend(strangers, k=7)
    found = pipeline.recommend(strangers, k=7, histories={"new": history[::-1]})
    assert_array_equal(found.items[1], plain.items[1])
    assert not np.array_equal(found.items[0], plain.items[0])
    assert not set(found.items[0].tolist()) & set(own.item[rows].tolist())

    states = pipeline.served.states(np.array([user, -1]), np.full(2, pipeline.served.last_second + 1), 8)
    guests = pipeline.served.guests({"new": history})
    guest = guests.states(np.array([0]), np.array([pipeline.served.last_second + 1]), 8)
    for part in ("history", "history_days", "excluded", "place_in_visit"):
        assert_array_equal(getattr(guest, part)[0], getattr(states, part)[0], err_msg=part)
    assert guest.features[0, 0] == states.features[0, 0]
    assert_allclose(guest.features[0, 1:], states.features[1, 1:], atol=1e-6)


def test_a_stranger_s_history_may_be_later_than_all_events_known(log, pipeline):
    late = pipeline.served.last_second + 5 * SECONDS_PER_DAY
    item = str(log.catalogue.item_ids[3])
    found = pipeline.recommend("new", k=7, histories={"new": [(item, late)]})
    assert_array_equal(
        found.items, pipeline.recommend("new", k=7, now=late + 1, histories={"new": [(item, late)]}).items
    )


def test_histories_that_cannot_be_are_refused(log, pipeline):
    known, item = str(log.users.user_ids[0]), str(log.catalogue.item_ids[0])
    with pytest.raises(ConfigurationError, match=f"user '{known}', whose history the pipeline keeps"):
        pipeline.recommend(known, histories={known: [(item, 1)]})
    with pytest.raises(ConfigurationError, match="history of user 'new' has the item 'nothing'"):
        pipeline.recommend("new", histories={"new": [("nothing", 1)]})


@pytest.mark.parametrize("num_items", [1, 28])
def test_where_fewer_items_are_left_the_rest_stays_empty(num_items):
    config = SyntheticConfig(num_users=20, events_per_user=min(25, num_items), num_items=num_items, embedding_size=4)
    log = generate_log(config, seed=1)[0]
    small = Pipeline(replace(CONFIG, recall={"popular": 0.5, "fresh": 0.5}, candidates=10)).fit(log)
    found = small.recommend([str(name) for name in log.users.user_ids] + ["a stranger"], k=10)
    empty = found.items == -1
    assert empty.any() and (found.item_ids[empty] == "").all() and np.isneginf(found.scores[empty]).all()
    assert not found.channels[empty].any()
    assert np.isfinite(found.scores[~empty]).all()
    left = num_items - len(np.unique(log.item[(log.user == 0) & log.clicked]))
    assert (~empty[0]).sum() == min(left, 10) and (~empty[-1]).sum() == min(num_items, 10)


def test_one_user_gets_what_it_gets_among_many(log, pipeline):
    users = [str(name) for name in log.users.user_ids]
    together = pipeline.recommend(users, k=5)
    alone = pipeline.recommend(users[17], k=5)
    assert_array_equal(alone.items[0], together.items[17])
    assert_allclose(alone.scores[0], together.scores[17], rtol=1e-5)


def test_each_user_may_have_a_moment_of_its_own(log, pipeline):
    users = [str(name) for name in log.users.user_ids[:2]]
    late = int(log.timestamp.max()) + 1
    moments = [late - 20 * SECONDS_PER_DAY, late]
    together = pipeline.recommend(users, now=moments, k=5)
    for row, (user, now) in enumerate(zip(users, moments, strict=True)):
        assert_array_equal(pipeline.recommend(user, now=now, k=5).items[0], together.items[row])
    assert (pipeline.recommend(users, k=5).items[0] != together.items[0]).any()
    assert pipeline.recommend([], now=[]).items.shape == (0, 10)


def test_what_recommend_cannot_take_is_refused(log, pipeline):
    for wrong in ([1, 2, 3], [[1, 2]], "today"):
        with pytest.raises(ConfigurationError, match=r"now is of shape .* for 2 users"):
            pipeline.recommend(["user0", "user1"], now=wrong)
    for k in (0, -1, 31):
        with pytest.raises(ConfigurationError, match=f"k is {k}; it must lie in 1 to 30"):
            pipeline.recommend("user0", k=k)
    with pytest.raises(TypeError, match="positional"):
        pipeline.recommend("user0", 5)


def test_ids_may_be_numbers(log):
    numbered = replace(log, users=replace(log.users, user_ids=np.arange(40).astype(str)))
    pipeline = Pipeline(CONFIG).fit(numbered)
    one = pipeline.recommend(17, k=5)
    assert_array_equal(one.items, pipeline.recommend("17", k=5).items)
    assert_array_equal(pipeline.recommend([3, 17], k=5).items[1:], one.items)
    assert (one.items != pipeline.recommend("a stranger", k=5).items).any()


def test_strangers_are_served_without_a_history(log, pipeline):
    known = str(log.users.user_ids[3])
    found = pipeline.recommend(["nobody", known, "somebody else"], k=5)
    assert (found.items >= 0).all()
    assert_array_equal(found.items[0], found.items[2])
    assert_array_equal(found.items[1], pipeline.recommend(known, k=5).items[0])


def test_the_slate_is_the_reranker_s_on_the_ranker_s_scores(log, pipeline):
    greedy = Pipeline(replace(CONFIG, reranker="greedy", reranker_settings={})).fit(log)
    found = greedy.recommend([str(name) for name in log.users.user_ids], k=10)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    diverse = pipeline.recommend([str(name) for name in log.users.user_ids], k=10)
    assert (diverse.items != found.items).any()
    user = np.arange(len(log.users))
    observation, _ = pipeline.observe(user, np.full(len(user), pipeline.served.last_second + 1))
    scores = pipeline.ranker.score(RankingInput.of(observation))
    slots = MaximalMarginalRelevance(MMRRerankerConfig(trade_off=0.8)).fit(log).rerank(observation, scores, 10)
    assert_array_equal(diverse.items, np.take_along_axis(observation.candidates.items, slots, axis=1))
    assert_array_equal(diverse.scores, np.take_along_axis(scores, slots, axis=1))


def test_new_events_are_history_at_once(log):
    cut = int(np.quantile(log.timestamp, 0.8))
    before, after = log.where(log.timestamp < cut), log.where(log.timestamp >= cut)
    pipeline = Pipeline(CONFIG).fit(before)
    pipeline.update(after)
    user = int(after.user[after.clicked][-1])
    newest = after.item[(after.user == user) & after.clicked][-1]
    now = np.array([log.timestamp.max() + 1])
    assert pipeline.served.history(np.array([user]), now, 4)[0][0, 0] == newest
    assert newest not in pipeline.recommend(str(log.users.user_ids[user]), k=20).items
    other = generate_log(SyntheticConfig(num_users=40, num_items=121), seed=0)[0]
    with pytest.raises(ConfigurationError, match="40 users and 121 items"):
        pipeline.update(other)


def test_history_time_and_visit_are_those_of_the_moment():
    log = generate_log(SyntheticConfig(num_users=6, events_per_user=12, num_items=60, embedding_size=4), seed=3)[0]
    served = ServedUsers.of(log)
    events = log.consumed()
    for user in range(6):
        rows = np.flatnonzero(events.user == user)
        now = int(events.timestamp[rows[-1]]) + 60
        items, days = served.history(np.array([user]), np.array([now]), 5)
        wanted = events.item[rows][::-1][:5]
        assert_array_equal(items[0, : len(wanted)], wanted)
        assert_allclose(days[0, : len(wanted)], (now - events.timestamp[rows][::-1][:5]) / SECONDS_PER_DAY, rtol=1e-5)
        gaps = np.diff(np.append(events.timestamp[rows], now))[::-1]
        place = int(np.cumprod(gaps <= 3600).sum())
        assert served.place_in_visit(np.array([user]), np.array([now]))[0] == place
        assert served.place_in_visit(np.array([user]), np.array([now + 7200]))[0] == 0


def test_saved_and_loaded_it_recommends_the_same(log, pipeline, tmp_path):
    pipeline.save(tmp_path / "kept")
    again = Pipeline.load(tmp_path / "kept", log)
    users = [str(name) for name in log.users.user_ids]
    assert_array_equal(again.recommend(users, k=6).items, pipeline.recommend(users, k=6).items)
    with pytest.raises(ConfigurationError, match="exists"):
        pipeline.save(tmp_path / "kept")
    other = generate_log(SyntheticConfig(num_users=41, events_per_user=25, num_items=120, embedding_size=4), seed=0)[0]
    with pytest.raises(ArtefactError):
        Pipeline.load(tmp_path / "kept", other)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_folder_that_is_not_whole_is_refused_by_the_file(log, pipeline, tmp_path, damage):
    pipeline.save(tmp_path / "whole")
    for name in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        folder = tmp_path / f"without-{name}"
        shutil.copytree(tmp_path / "whole", folder)
        part = folder / name
        if damage == "missing":
            part.unlink()
        else:
            part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
        with pytest.raises(ArtefactError, match=re.escape(name)):
            Pipeline.load(folder, log)


def test_another_catalogue_of_as_many_items_is_refused(log, pipeline, tmp_path):
    pipeline.save(tmp_path / "pipeline")
    renamed = replace(log.catalogue, item_ids=np.array([f"other-{name}" for name in log.catalogue.item_ids]))
    with pytest.raises(ArtefactError, match="catalogue"):
        Pipeline.load(tmp_path / "pipeline", replace(log, catalogue=renamed))


@pytest.mark.parametrize("ranker", ranker_names())
def test_every_ranker_comes_back_with_the_settings_of_its_file(ranker, log, tmp_path):
    network = ranker not in ("logistic", "gbdt")
    (tmp_path / "pipeline.toml").write_text(
        f"""
        ranker = "{ranker}"
        candidates = 20
        recall = {{ popular = 0.5, fresh = 0.5 }}
        recall_settings.popular.half_life_days = 7
        [ranker_settings.samples]
        history_size = 6
        debias = true
        {"[ranker_settings.training]" if network else "[ranker_settings]"}
        {"epochs = 1" if network else "validation_share = 0.2"}
        """
    )
    pipeline = Pipeline(PipelineConfig.read(tmp_path / "pipeline.toml")).fit(log)
    own, default = pipeline.ranker.config, type(pipeline.ranker).config_class()
    assert own.samples == replace(default.samples, history_size=6, debias=True)
    assert (own.training.epochs, own.training.patience) == (1, default.training.patience) if network else True
    pipeline.save(tmp_path / "kept")
    again = Pipeline.load(tmp_path / "kept", log)
    assert again.ranker.config == own and again.recall.channels[0].config.half_life_days == 7
    users = [str(name) for name in log.users.user_ids]
    assert_array_equal(again.recommend(users, k=6).items, pipeline.recommend(users, k=6).items)


def test_a_reranker_from_a_file_comes_back(log, tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\nfrom agents.rerankers import Reranker\n\n\nclass Backwards(Reranker):\n"
        '    name = "backwards"\n\n    def choose(self, observation, scores, slate_size):\n'
        "        masked = np.where(observation.candidates.mask == 1, scores, np.inf)\n"
        "        return np.argsort(masked, axis=1, kind='stable')[:, :slate_size]\n"
    )
    spec = f"{tmp_path / 'own.py'}:Backwards"
    own = Pipeline(replace(CONFIG, reranker=spec, reranker_settings={})).fit(log)
    own.save(tmp_path / "kept")
    users = [str(name) for name in log.users.user_ids]
    found = own.recommend(users, k=4)
    assert (np.diff(found.scores, axis=1) >= 0).all(), "the worst first"
    assert_array_equal(Pipeline.load(tmp_path / "kept", log).recommend(users, k=4).items, found.items)
    with pytest.raises(ConfigurationError, match="Forwards"):
        replace(CONFIG, reranker=f"{tmp_path / 'own.py'}:Forwards")


def test_settings_that_are_objects_are_kept(log, tmp_path):
    samples = SampleConfig(label="consumed", history_size=6)
    pipeline = Pipeline(replace(CONFIG, ranker_settings={"samples": samples})).fit(log)
    pipeline.save(tmp_path / "kept")
    assert Pipeline.load(tmp_path / "kept", log).ranker.config.samples == samples


def test_a_save_that_fails_leaves_nothing(log, pipeline, tmp_path, monkeypatch):
    def fails(path):
        raise OSError("disk full")

    monkeypatch.setattr(pipeline.reranker, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        pipeline.save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_the_tree_names_every_stage(pipeline):
    from rich.console import Console

    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(pipeline.tree())
    text = console.export_text()
    for word in ("recall", "als: 60%", "rank: logistic", "re-rank: mmr(trade_off=0.8)"):
        assert word in text


def test_bad_configurations_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no re-ranker 'best'"):
        PipelineConfig(reranker="best")
    with pytest.raises(ConfigurationError, match="did you mean 'din'"):
        Pipeline(replace(CONFIG, ranker="dinn"))
    with pytest.raises(ConfigurationError, match="no setting 'layers'"):
        Pipeline(replace(CONFIG, ranker_settings={"layers": 3}))
    with pytest.raises(ConfigurationError, match="trade_off of re-ranker 'mmr' is 'high'; it must be a number"):
        Pipeline(replace(CONFIG, reranker_settings={"trade_off": "high"}))
    with pytest.raises(ConfigurationError, match="epochs of training of ranker 'din' is 'many'"):
        Pipeline(PipelineConfig(ranker="din", ranker_settings={"training": {"epochs": "many"}}))
    with pytest.raises(ConfigurationError, match=r"sum to 0\.9"):
        Pipeline(replace(CONFIG, recall={"als": 0.9}))
    bad = tmp_path / "pipeline.toml"
    bad.write_text("rankr = 'din'\n")
    with pytest.raises(ConfigurationError, match="'rankr'"):
        PipelineConfig.read(bad)
    for wrong in (
        "recall = 'als'",
        "candidates = 'ten'",
        "candidates = 2.5",
        "ranker_settings = 3",
        "reranker = ['mmr']",
    ):
        bad.write_text(wrong)
        with pytest.raises(ConfigurationError, match=r"of the pipeline is .*; it must be a"):
            PipelineConfig.read(bad)
    bad.write_text("ranker = 'din'\ncandidates = 20\n[recall]\nals = 1.0\n")
    assert PipelineConfig.read(bad) == PipelineConfig(ranker="din", candidates=20, recall={"als": 1.0})
