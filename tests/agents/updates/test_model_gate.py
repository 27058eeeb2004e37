from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from small_models import small_log, small_models

from agents.updates.gate import Gate, GateConfig, HeldOut, SharedTraffic, challenged
from agents.updates.models import ServedModels
from envs.catalogue import NEVER, Catalogue
from envs.errors import ConfigurationError

LOG = small_log()
CUT = int(np.quantile(LOG.timestamp, 0.5))
PAST, EVENTS = LOG.where(LOG.timestamp < CUT), LOG.where(LOG.timestamp >= CUT)
SMALL = GateConfig(min_events=100, candidates=20)


@pytest.fixture(scope="module")
def champion() -> ServedModels:
    return small_models(PAST)


def copy_of(models: ServedModels) -> ServedModels:
    return ServedModels.of(models.snapshot())


def broken(models: ServedModels, how: str, seed: int) -> ServedModels:
    """A copy of a model with one thing wrong."""
    copied, random = copy_of(models), np.random.default_rng(seed)
    ranker, recall = copied.ranker, copied.recall
    weights = ranker.coefficients_
    if how == "shuffled weights":
        ranker.coefficients_ = random.permutation(weights)
    elif how == "constant scores":
        ranker.coefficients_ = np.full_like(weights, random.normal()) * (np.arange(len(weights)) == len(weights) - 1)
    elif how == "NaN":
        ranker.coefficients_ = np.where(np.arange(len(weights)) == random.integers(len(weights)), np.nan, weights)
    elif how == "reversed":
        ranker.coefficients_ = -weights
    elif how == "shuffled items":
        recall.item_vectors_ = random.permutation(recall.item_vectors_)
    elif how == "zero items":
        recall.item_vectors_ = np.zeros_like(recall.item_vectors_)
    elif how == "NaN items":
        recall.item_vectors_[random.integers(len(recall.item_vectors_))] = np.nan
    ranker._terms = None
    return copied


def test_a_broken_challenger_never_goes_live(champion):
    """Over 240 decisions, each on the clicks of other users drawn at random."""
    random, gate = np.random.default_rng(0), Gate(SMALL)
    live = []
    kinds = ("shuffled weights", "constant scores", "NaN", "reversed", "NaN items", "shuffled items", "zero items")
    for number in range(240):
        how = kinds[number % len(kinds)]
        users = random.random(len(LOG.users)) < 0.8
        decision = gate.judge(champion, broken(champion, how, number), PAST, EVENTS.where(users[EVENTS.user]))
        assert decision.events >= 100 and decision.reason
        live += [how] * decision.promote
    assert not live


def test_a_model_promotes_itself_and_a_broken_champion_is_replaced(champion):
    gate = Gate(SMALL)
    decision = gate.judge(champion, copy_of(champion), PAST, EVENTS)
    assert decision.promote and "non-inferior in ndcg, recall" in decision.reason
    ndcg = decision.findings[0]
    assert ndcg.champion == ndcg.challenger and 0 < ndcg.low < 0.02 * ndcg.champion
    assert decision.figures()["gate_ndcg"] == ndcg.challenger
    for how in ("NaN", "reversed", "constant scores"):
        assert gate.judge(broken(champion, how, 0), champion, PAST, EVENTS).promote


def test_embeddings_of_other_items_are_kept_out_by_recall(champion):
    """Nearly always, however many candidates: the margin is wide, and a lucky shuffle may be half as good."""
    decisions = []
    for candidates in (3, 20, 40):
        gate = Gate(replace(SMALL, candidates=candidates))
        healthy = gate.judge(champion, small_models(PAST, seed=5), PAST, EVENTS)
        assert healthy.findings[1].is_non_inferior and healthy.findings[1].challenger > 0
        decisions += [
            gate.judge(champion, broken(champion, "shuffled items", seed), PAST, EVENTS) for seed in range(30)
        ]
    refused = [decision for decision in decisions if not decision.promote]
    assert len(refused) >= 87
    assert all("recall" in decision.reason and "ndcg" not in decision.reason for decision in refused)


def test_what_a_model_has_learnt_from_is_not_held_against_it(champion):
    challenger = copy_of(champion)
    seen = int(np.quantile(EVENTS.timestamp, 0.5))
    challenger.update_ranker(EVENTS.where(EVENTS.timestamp <= seen))
    fresh = EVENTS.timestamp > seen
    for first, second in ((champion, challenger), (challenger, champion)):
        decision = Gate(SMALL).judge(first, second, PAST, EVENTS)
        alone = Gate(SMALL).judge(first, second, LOG.where(LOG.timestamp <= seen), EVENTS.where(fresh))
        assert decision.events == alone.events == int((fresh & EVENTS.clicked).sum())
        # nor is it missing from histories
        assert decision.findings == alone.findings
    challenger.update_recall(EVENTS)
    nothing = Gate(SMALL).judge(champion, challenger, PAST, EVENTS)
    assert not nothing.promote and "0 clicks" in nothing.reason


@pytest.mark.parametrize("rows", [0, 50])
def test_too_few_events_promote_nothing_and_divide_by_nothing(champion, rows):
    few = EVENTS.where(np.arange(len(EVENTS)) < rows)
    decision = Gate().judge(champion, copy_of(champion), PAST, few)
    assert not decision.promote and "are needed" in decision.reason and decision.findings == ()
    one_user = EVENTS.where(EVENTS.user == 0)
    alone = Gate(GateConfig(min_events=5)).judge(champion, copy_of(champion), PAST, one_user)
    assert not alone.promote and "1 users" in alone.reason
    consumed_only = replace(EVENTS, request=np.full(len(EVENTS), -1)).consumed()
    assert not Gate(SMALL).judge(champion, copy_of(champion), PAST, consumed_only).promote


def test_a_challenger_can_wait_until_there_are_enough_clicks(champion):
    """The count says beforehand whether clicks or users would be too few."""
    challenger, order = copy_of(champion), np.argsort(EVENTS.timestamp, kind="stable")
    clicks = np.flatnonzero(EVENTS.clicked[order])
    for number in (99, 100):
        some = EVENTS.where(EVENTS.timestamp <= EVENTS.timestamp[order][clicks[number - 1]])
        gate = Gate(replace(SMALL, min_events=number + (number == 99), min_users=2))
        told = gate.enough(champion, challenger, some)
        assert told == ("are needed" not in gate.judge(champion, challenger, PAST, some).reason) == (number == 100)
    assert not Gate(replace(SMALL, min_users=41)).enough(champion, challenger, EVENTS)
    assert not Gate(SMALL).enough(champion, challenger, EVENTS.where(np.zeros(len(EVENTS), bool)))
    challenger.update_recall(EVENTS)
    assert not Gate(SMALL).enough(champion, challenger, EVENTS)


def test_measures_are_those_of_a_loop_over_clicks(champion):
    cases = HeldOut.of(PAST, EVENTS, 40)
    ndcg, found = cases.measured(champion, 20)
    scores = champion.score(cases.inputs)
    newest = np.sort(EVENTS.timestamp[EVENTS.clicked])[-40:]
    assert len(cases) == 40
    for case in range(40):
        items, place = cases.inputs.items[case], cases.place[case]
        rows = np.flatnonzero((EVENTS.user == cases.user[case]) & (EVENTS.item == items[place]) & EVENTS.clicked)
        row = rows[np.isin(EVENTS.timestamp[rows], newest)][0]
        slate = EVENTS.request == EVENTS.request[row]
        assert sorted(items[items >= 0]) == sorted(EVENTS.item[slate])
        better = sum(
            scores[case, other] > scores[case, place] for other in range(len(items)) if cases.others[case, other]
        )
        assert ndcg[case] == pytest.approx(1 / np.log2(better + 2))
        before = LOG.item[(LOG.user == cases.user[case]) & (LOG.timestamp < EVENTS.timestamp[row]) & LOG.clicked]
        of_all = champion.recall.user_vectors(cases.inputs.history[case][None])[0] @ champion.recall.item_vectors_.T
        allowed = np.setdiff1d(np.arange(60), before)
        assert found[case] == (items[place] in allowed[np.argsort(-of_all[allowed])][:20])
    chance = [np.mean(1 / np.log2(np.arange(cases.others[case].sum() + 1) + 2)) for case in range(40)]
    np.testing.assert_allclose(cases.by_chance, chance)


@pytest.mark.parametrize("kind", ["retired", "unborn"])
def test_items_that_are_not_on_offer_take_no_place_among_candidates(champion, kind):
    """Fifteen items whose embeddings beat all others would crowd clicked items out of twenty places."""
    healthy = HeldOut.of(PAST, EVENTS).measured(champion, 5)[1].mean()
    crowded = copy_of(champion)
    crowd = np.argsort(LOG.item_counts(), kind="stable")[:15]
    history = HeldOut.of(PAST, EVENTS).inputs.history
    liked = crowded.recall.user_vectors(history).mean(axis=0)
    crowded.recall.item_vectors_[crowd] = 1_000 * liked

    def found(catalogue: Catalogue) -> np.ndarray:
        logs = (replace(log, catalogue=catalogue) for log in (PAST, EVENTS))
        return HeldOut.of(*logs).measured(crowded, 5)[1]

    def with_times(moment: int) -> Catalogue:
        """The crowd is gone from, or comes at, a moment."""
        some = np.isin(np.arange(60), crowd)
        if kind == "retired":
            return replace(LOG.catalogue, retired=np.where(some, moment, NEVER))
        return LOG.catalogue.with_birth(np.where(some, moment, LOG.catalogue.birth))

    first, last = int(EVENTS.timestamp.min()), int(EVENTS.timestamp.max())
    before, after = (found(with_times(moment)) for moment in (first, last + 1))
    offered, closed = (after, before) if kind == "retired" else (before, after)
    assert offered.mean() < 0.2 * healthy and closed.mean() > 0.8 * healthy
    # each case as of its own time
    middle = int(np.median(EVENTS.timestamp))
    time = HeldOut.of(PAST, EVENTS).time
    gone = time >= middle if kind == "retired" else time < middle
    np.testing.assert_array_equal(found(with_times(middle)), np.where(gone, closed, offered))


@pytest.mark.parametrize("candidates", [1, 20, 40])
def test_embeddings_that_know_nothing_are_kept_out_whatever_serves(champion, candidates):
    """All alike: each item is among the candidates by chance, which with 40 of some 45 on offer is nearly always."""
    blind = copy_of(champion)
    blind.recall.item_vectors_ = np.zeros_like(blind.recall.item_vectors_)
    gate = Gate(replace(SMALL, candidates=candidates))
    for serving in (champion, blind):
        refused = gate.judge(serving, copy_of(blind), PAST, EVENTS)
        assert refused.findings[0].is_non_inferior and not refused.promote and "recall" in refused.reason
        assert refused.findings[1].challenger == pytest.approx(0, abs=1e-12)
    # what knows something takes its place
    assert gate.judge(blind, champion, PAST, EVENTS).promote


def test_where_everything_on_offer_would_be_a_candidate_recall_is_no_matter(champion):
    gate = Gate(replace(SMALL, candidates=60))
    decision = gate.judge(champion, broken(champion, "shuffled items", 0), PAST, EVENTS)
    assert decision.promote and [finding.measure for finding in decision.findings] == ["ndcg"]


def test_where_recall_could_tell_of_too_few_users_it_is_not_judged(champion):
    """Else a model as good as the champion could never go live where candidates are nearly all that is on offer."""
    chance = HeldOut.of(PAST, EVENTS).found_by_chance(54)
    assert 0 < (chance < 1).sum() < 10
    decision = Gate(replace(SMALL, candidates=54)).judge(champion, copy_of(champion), PAST, EVENTS)
    assert decision.promote and [finding.measure for finding in decision.findings] == ["ndcg"]


def test_recall_counts_beyond_what_draws_from_the_items_on_offer_would_find(champion):
    cases, random = HeldOut.of(PAST, EVENTS), np.random.default_rng(3)
    chance = cases.found_by_chance(20)
    noise, hits = copy_of(champion), np.zeros(len(cases))
    for _ in range(300):
        noise.recall._set_items(random.normal(size=noise.recall.item_vectors_.shape).astype(np.float32))
        hits += cases.measured(noise, 20)[1]
    assert hits.mean() / 300 == pytest.approx(chance.mean(), abs=0.03)
    case, item = cases.consumed
    for number in range(0, len(cases), 9):
        offered = np.flatnonzero(LOG.catalogue.offered(np.arange(60), cases.time[number]))
        open_to = set(offered) - set(item[case == number]) | {cases.inputs.items[number, cases.place[number]]}
        assert chance[number] == 20 / len(open_to)
    # ties are drawn among, too
    noise.recall.item_vectors_ = np.zeros_like(noise.recall.item_vectors_)
    np.testing.assert_array_equal(cases.measured(noise, 20)[1], chance)


class Simulated:
    """Outcomes of 60 users with 10 clicks each, whose means hang on the user; the challenger's are `loss` lower in truth."""

    def __init__(self, champion: ServedModels, loss: float) -> None:
        self.champion, self.loss, self.random = champion, loss, np.random.default_rng(7)

    def __call__(self, cases: HeldOut, models: ServedModels, candidates: int) -> tuple[np.ndarray, np.ndarray]:
        if models is self.champion:
            self.theirs = 0.6 + self.random.normal(0, 0.15, 60)[:, None] + self.random.normal(0, 0.2, (60, 10))
            values = self.theirs
        else:
            apart = self.random.normal(0, 0.03, 60)[:, None] + self.random.normal(0, 0.08, (60, 10))
            values = self.theirs - 0.6 * self.loss + apart
        return values.ravel(), np.ones(600)


@pytest.mark.parametrize(("loss", "low", "high"), [(0.02, 0.02, 0.1), (0.0, None, None), (-0.02, 0.99, 1.0)])
def test_promotions_come_at_the_stated_rates(champion, monkeypatch, loss, low, high):
    """Worse by the margin: alpha; as good: the power that the decision states; better: nearly always."""
    fixed = replace(HeldOut.of(PAST, EVENTS), user=np.repeat(np.arange(60), 10))
    made = Simulated(champion, loss)
    monkeypatch.setattr(HeldOut, "of", classmethod(lambda *_: fixed))
    monkeypatch.setattr(HeldOut, "by_chance", property(lambda _: np.full(600, 0.4)))
    monkeypatch.setattr(HeldOut, "found_by_chance", lambda *_: np.full(600, 0.2))
    monkeypatch.setattr(HeldOut, "measured", lambda *arguments: made(*arguments))
    challenger = copy_of(champion)
    decisions = [Gate().judge(champion, challenger, PAST, EVENTS) for _ in range(300)]
    rate = np.mean([decision.promote for decision in decisions])
    if low is None:
        stated = np.mean([decision.findings[0].power for decision in decisions])
        assert 0.3 < stated < 0.95
        assert abs(rate - stated) < 0.06
    else:
        assert low <= rate <= high


def test_a_share_of_traffic_has_its_say(champion):
    random = np.random.default_rng(1)

    def shared(factor: float, users: int = 300) -> SharedTraffic:
        requests = random.integers(5, 15, users).astype(float), random.integers(5, 15, users).astype(float)
        return SharedTraffic(
            random.binomial(requests[0].astype(int), 0.5).astype(float),
            requests[0],
            random.binomial(requests[1].astype(int), 0.5 * factor).astype(float),
            requests[1],
        )

    gate = Gate(SMALL)
    assert gate.judge(champion, copy_of(champion), PAST, EVENTS, shared(1.1)).promote
    worse = gate.judge(champion, copy_of(champion), PAST, EVENTS, shared(0.8))
    assert not worse.promote and "clicks" in worse.reason
    few = gate.judge(champion, copy_of(champion), PAST, EVENTS, shared(1.0, users=3))
    assert not few.promote and "shared traffic" in few.reason
    at_the_margin = [gate._of_traffic(shared(0.95)).is_non_inferior for _ in range(400)]
    assert 0.02 < np.mean(at_the_margin) < 0.09
    users = np.arange(5_000)
    assert challenged(users, 0.2, 3).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(challenged(users, 0.2, 3)[::7], challenged(users[::7], 0.2, 3))


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 0.0), ("ndcg_margin", 1.0), ("min_users", 1), ("most_events", 10)]
)
def test_a_gate_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        GateConfig(**{name: value})


def test_judging_changes_neither_model(champion):
    before, challenger = deepcopy(champion.ranker), copy_of(champion)
    Gate(SMALL).judge(champion, challenger, PAST, EVENTS)
    inputs = HeldOut.of(PAST, EVENTS).inputs
    np.testing.assert_array_equal(before.score(inputs), champion.ranker.score(inputs))
