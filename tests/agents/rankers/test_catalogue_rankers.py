"""Rankers that are trained to find the next item in the whole catalogue."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from small_rankers import CATALOGUE, SEQUENCES, made

from agents.rankers.log_history import LogHistory
from agents.rankers.mf_bpr import MFBPR, pairwise_loss
from agents.rankers.neumf import NeuMF
from agents.rankers.samples import SampleConfig, Samples
from agents.rankers.sasrec import SASRec, SASRecConfig
from agents.rankers.sequence_ranker import SequenceRankerConfig
from agents.rankers.training import OBJECTIVE, TrainingConfig
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog


@pytest.fixture(scope="module", params=CATALOGUE, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=SEQUENCES, ids=lambda kind: kind.name)
def sequence(request):
    return request.param


@pytest.fixture(scope="module")
def ranker(kind, rated_log):
    return made(kind).fit(rated_log)


@pytest.fixture(scope="module")
def asked(rated_log, ask):
    return ask(rated_log, np.arange(5, len(rated_log), 37), 12)


def log_of(items, rated_log, seconds=600):
    """A log in which user n consumes items[n], one after the other."""
    user = np.repeat(np.arange(len(items)), [len(row) for row in items])
    place = np.concatenate([np.arange(len(row)) for row in items])
    return InteractionLog.from_rows(
        name="made",
        users=rated_log.users,
        catalogue=rated_log.catalogue,
        user=user.astype(np.int32),
        item=np.concatenate(items).astype(np.int32),
        timestamp=1_600_000_000 + seconds * place,
    )


@pytest.mark.parametrize("with_shown", [False, True])
def test_slates_are_learnt_from_too(kind, shown_log, asked, with_shown):
    """Clicks against what was passed over, for rankers of pairs; what was consumed next, for sequence models."""
    ranker = made(kind, epochs=1).fit(shown_log if with_shown else shown_log.consumed())
    assert np.isfinite(ranker.passes_[0][OBJECTIVE])
    before = ranker.score(asked)
    ranker.update(shown_log)
    assert (ranker.score(asked) != before).any()


# ---------------------------------------------------------------------- what they can learn
@pytest.fixture(scope="module")
def circle(rated_log):
    """Users walk round a circle of 30 items, each from an item of its own: the next item is certain, popularity tells nothing."""
    return log_of([np.arange(start, start + 24) % 30 for start in range(40)], rated_log)


def test_sequence_models_learn_what_comes_next(sequence, circle):
    ranker = made(sequence, epochs=40).fit(circle.where(circle.place < 22), circle.where(circle.place == 22))
    rows = np.flatnonzero(circle.place == 23)
    everything = np.broadcast_to(np.arange(30, dtype=np.int32), (len(rows), 30))
    scores = ranker.score(LogHistory(circle, 8).inputs(rows, everything))
    left = ~LogHistory(circle, 8).consumed_by(rows, everything)
    assert (np.where(left, scores, -np.inf).argmax(axis=1) == circle.item[rows]).mean() > 0.9


@pytest.fixture(scope="module")
def camps(rated_log):
    """Users of even number consume items below 20, the others items from 20 to 39, in random order."""
    random = np.random.default_rng(3)
    return log_of([random.permutation(20)[:14] + 20 * (user % 2) for user in range(40)], rated_log)


@pytest.mark.parametrize("kind", [MFBPR, NeuMF], ids=lambda kind: kind.name)
def test_factorisations_learn_who_likes_what(kind, camps):
    ranker = made(kind, epochs=12).fit(camps.where(camps.place < 12), camps.where(camps.place == 12))
    rows = np.flatnonzero(camps.place == 13)
    everything = np.broadcast_to(np.arange(40, dtype=np.int32), (len(rows), 40))
    scores = ranker.score(LogHistory(camps, 8).inputs(rows, everything))
    own = np.where(
        (np.arange(len(rows)) % 2 == 0)[:, None],
        scores[:, :20].mean(1, keepdims=True),
        scores[:, 20:].mean(1, keepdims=True),
    )
    assert (own[:, 0] > scores.mean(axis=1)).mean() > 0.95


# ---------------------------------------------------------------------- judged by ranks
def test_passes_are_judged_by_ranks_among_unseen_items(rated_log):
    last = rated_log.place == np.diff(rated_log.user_starts)[rated_log.user] - 1
    training, validation = rated_log.where(~last), rated_log.where(last)
    ranker = made(MFBPR, epochs=1).fit(training, validation)
    gains, near = [], []
    history = LogHistory(rated_log, 8)
    catalogue = np.arange(len(rated_log.catalogue), dtype=np.int32)
    for row in np.flatnonzero(last):
        scores = ranker.score(history.inputs(np.array([row]), catalogue[None]))[0]
        seen = rated_log.item[(rated_log.user == rated_log.user[row]) & ~last]
        left = np.setdiff1d(catalogue, np.setdiff1d(seen, [rated_log.item[row]]))
        rank = (scores[left] > scores[rated_log.item[row]]).sum()
        gains.append(1 / np.log2(rank + 2))
        near.append(rank < 10)
    assert_allclose(ranker.passes_[0]["ndcg"], np.mean(gains), rtol=1e-5)
    assert_allclose(ranker.passes_[0][OBJECTIVE], -np.mean(gains), rtol=1e-5)
    assert_allclose(ranker.passes_[0]["recall10"], np.mean(near), rtol=1e-5)


def test_items_that_validate_are_drawn_like_others(rated_log):
    """Else they alone would never be pushed down, and validation would flatter."""
    last = rated_log.place == np.diff(rated_log.user_starts)[rated_log.user] - 1
    drawn = {}

    class Spy(MFBPR):
        def batches(self, samples, number):
            for batch in super().batches(samples, number):
                inputs = batch.inputs
                for user, items, there in zip(inputs.user.tolist(), inputs.items, inputs.item_mask, strict=True):
                    drawn.setdefault(user, set()).update(items[1:][there[1:]].tolist())
                yield batch

    config = replace(Spy.config_class(), training=TrainingConfig(epochs=4), samples=SampleConfig(avoid_later=True))
    Spy(config).fit(rated_log.where(~last), rated_log.where(last))
    held = {int(rated_log.user[row]): int(rated_log.item[row]) for row in np.flatnonzero(last)}
    assert np.mean([item in drawn[user] for user, item in held.items()]) > 0.7
    earlier = zip(rated_log.user[~last].tolist(), rated_log.item[~last].tolist(), strict=True)
    assert not any(item in drawn[user] for user, item in earlier)


# ---------------------------------------------------------------------- losses and networks beside plain references
def test_the_pairwise_loss_is_a_mean_over_pairs():
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(6, 5)), (random.random((6, 5)) < 0.4).astype(float)
    weights = random.random((6, 5))
    total, weight = 0.0, 0.0
    for row in range(6):
        for liked in np.flatnonzero(labels[row] == 1):
            for other in np.flatnonzero(labels[row] == 0):
                pair = weights[row, liked] * weights[row, other]
                total -= pair * np.log(1 / (1 + np.exp(scores[row, other] - scores[row, liked])))
                weight += pair
    found = pairwise_loss(*(torch.from_numpy(values) for values in (scores, labels, weights)))
    assert_allclose(found.item(), total / weight, rtol=1e-9)


def test_the_score_of_neumf_is_its_formula(rated_log, asked):
    ranker = made(NeuMF).fit(rated_log)
    network, inputs = ranker.network_, ranker.tensors(replace(asked, counts=np.ones(asked.items.shape, np.float32)))
    with torch.no_grad():
        user = network.product_users(inputs.user, inputs.user_features)[3]
        product = user * network.product_items(inputs.items[3, 4])
        read = torch.cat(
            [
                network.layer_users(inputs.user, inputs.user_features)[3],
                inputs.context[3],
                network.layer_items(inputs.items[3, 4]),
                inputs.item_features[3, 4],
            ]
        )
        for layer in (part for part in network.layers if isinstance(part, torch.nn.Linear)):
            read = torch.relu(layer.weight @ read + layer.bias)
        found = network(inputs)
        expected = network.out.weight[0] @ torch.cat([product, read]) + network.out.bias[0]
    assert_allclose(found[3, 4], expected.item(), rtol=1e-4)


def test_a_state_knows_nothing_of_what_comes_behind(sequence, rated_log):
    network = made(sequence).fit(rated_log).network_
    items = torch.randint(0, 60, (5, 8), generator=torch.Generator().manual_seed(0))
    other = items.clone()
    other[:, 5:] = (other[:, 5:] + 7) % 60
    with torch.no_grad():
        first, second = network.states(items), network.states(other)
    assert_allclose(first[:, :5], second[:, :5], rtol=1e-5, atol=1e-6)
    assert (first[:, 5:] != second[:, 5:]).any()


@pytest.mark.parametrize("length", [0, 1, 5, 8])
def test_a_history_is_read_oldest_first(sequence, rated_log, asked, length):
    ranker = made(sequence).fit(rated_log)
    history = np.full((1, 20), -1, np.int32)
    history[0, :length] = [7, 3, 9, 1, 30, 2, 8, 4][:length]
    one = asked.take(slice(0, 1))
    inputs = ranker.tensors(replace(one, history=history, counts=np.ones(one.items.shape, np.float32)))
    with torch.no_grad():
        state = ranker.network_.last_state(inputs)[0]
        read = torch.from_numpy(history[:, :length][:, ::-1].astype(np.int64).copy())
        expected = ranker.network_.states(read)[0, -1] if length else ranker.network_.no_history.detach()
    assert_allclose(state, expected, rtol=1e-4, atol=1e-6)


def test_attention_is_its_definition(rated_log):
    """One block of SASRec beside loops over places and heads."""
    torch.manual_seed(0)
    network = made(SASRec, blocks=1).fit(rated_log).network_
    block = network.blocks[0]
    read = torch.randn(1, 6, 16)
    with torch.no_grad():
        found = block(read)[0]
        parts = block.project(block.attention_norm(read[0])).view(6, 3, 2, 8)
        for place in range(6):
            heads = []
            for head in range(2):
                query = parts[place, 0, head]
                weight = torch.softmax(torch.stack([query @ parts[k, 1, head] for k in range(place + 1)]) / 8**0.5, 0)
                heads.append(sum(weight[k] * parts[k, 2, head] for k in range(place + 1)))
            middle = read[0, place] + block.out(torch.cat(heads))
            expected = middle + block.layer(block.layer_norm(middle))
            assert_allclose(found[place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("held_out", [0, 3])
def test_each_item_is_foretold_once_from_what_came_before(sequence, rated_log, held_out):
    size = np.diff(rated_log.user_starts)[rated_log.user]
    rows = rated_log.place < size - held_out
    ranker = made(sequence)
    samples = Samples(LogHistory(rated_log, 8), rows, ranker.config.samples, 0)
    cuts = []
    for number in range(2):
        foretold, begins = [], []
        for _, stretches in ranker.batches(samples, number):
            items, weights = stretches.items.numpy(), stretches.weights.numpy()
            for first, line, weight in zip(stretches.rows[:, 0], items, weights, strict=True):
                places = np.flatnonzero(weight)
                begins.append(first)
                foretold.extend(first + places)
                until = first + places.max() + 1
                assert_array_equal(line[: until - first], rated_log.item[first:until])
                assert len(set(rated_log.user[first:until])) == 1
                # an item without one before it in its stretch is its user's first
                assert places.min() > 0 or rated_log.place[first] == 0
        assert_array_equal(np.sort(foretold), np.flatnonzero(rows))
        cuts.append(sorted(begins))
    assert cuts[0] != cuts[1]


def test_an_item_is_foretold_from_what_was_known_by_then(sequence, rated_log):
    delay = 7_200
    config = sequence.config_class(samples=SampleConfig(label="consumed", history_size=8, event_delay=delay))
    history = LogHistory(rated_log, 8, delay=delay)
    samples = Samples(history, np.ones(len(rated_log), bool), config.samples, 0)
    ranker, foretold, less = sequence(config), [], 0
    for _, stretches in ranker.batches(samples, 0):
        weights, numbers = stretches.weights.numpy(), stretches.known.numpy()
        for first, line, known in zip(stretches.rows[:, 0], weights, numbers, strict=True):
            for place in np.flatnonzero(line):
                row = first + place
                own = np.arange(rated_log.user_starts[rated_log.user[row]], row)
                by_then = own[rated_log.timestamp[own] <= rated_log.timestamp[row] - delay]
                assert known[place] == (by_then >= first).sum()
                assert known[place] or not len(by_then)
                less += len(by_then) < len(own)
                foretold.append(row)
    assert less and len(foretold) == len(set(foretold))
    # only what is known of users in part, and not by the stretch, is left out
    known_before = history.histories(np.arange(len(rated_log)))[0][:, 0] >= 0
    assert known_before[np.setdiff1d(np.arange(len(rated_log)), foretold)].all()


@pytest.mark.parametrize("has_repeats", [False, True])
def test_the_softmax_is_over_what_was_not_consumed_before(sequence, rated_log, has_repeats):
    """And each row weighs by one over its propensity, where debiasing is asked for."""
    propensity = np.random.default_rng(0).uniform(0.02, 1, len(rated_log)).astype(np.float32)
    log = replace(rated_log, has_repeats=has_repeats, propensity=propensity)
    config = sequence.config_class().samples
    ranker = made(sequence, samples=replace(config, debias=True)).fit(log)
    samples = Samples(LogHistory(log, 8), np.ones(len(log), bool), ranker.config.samples, 0)
    network = ranker.network_
    batch = next(ranker.batches(samples, 0))
    _, stretches = batch
    losses, weights = [], []
    with torch.no_grad():
        vectors, bias = network.vectors(torch.arange(len(log.catalogue)))
        states = network.states(stretches.items)
        for row, place in np.argwhere(stretches.weights.numpy() > 0):
            state = states[row, place - 1] if place else network.no_history
            at = stretches.rows[row, place]
            before = log.item[(log.user == log.user[at]) & (np.arange(len(log)) < at)]
            left = ranker.known_items_.copy()
            if not has_repeats:
                left[before] = False
            logits = (vectors @ state + bias)[torch.from_numpy(left)]
            losses.append(torch.logsumexp(logits, 0) - vectors[log.item[at]] @ state - bias[log.item[at]])
            weights.append(min(1 / propensity[at], config.most_weight))
        found = ranker.loss(network, batch)
    assert_allclose(found, np.average(losses, weights=weights), rtol=1e-4)
    assert abs(found - np.mean(losses)) > 1e-3 * abs(found), "the weights matter"


def test_the_softmax_can_be_over_the_slate_alone(sequence, shown_log):
    ranker = made(sequence, within_slates=True).fit(shown_log)
    samples = Samples(LogHistory(shown_log, 8), np.ones(len(shown_log), bool), ranker.config.samples, 0)
    network, losses = ranker.network_, []
    batch = next(ranker.batches(samples, 0))
    _, stretches = batch
    with torch.no_grad():
        vectors, bias = network.vectors(torch.arange(len(shown_log.catalogue)))
        states = network.states(stretches.items)
        for row, place in np.argwhere(stretches.weights.numpy() > 0):
            state = states[row, place - 1] if place else network.no_history
            at = stretches.rows[row, place]
            assert shown_log.item[at] == stretches.items[row, place] and shown_log.clicked[at]
            of_request = (shown_log.request == shown_log.request[at]) & (shown_log.user == shown_log.user[at])
            slate = shown_log.item[of_request]
            assert len(slate) > 1
            logits = vectors @ state + bias
            losses.append(torch.logsumexp(logits[torch.from_numpy(slate)], 0) - logits[shown_log.item[at]])
        found = ranker.loss(network, batch)
    assert_allclose(found, np.mean(losses), rtol=1e-4)
    assert found < np.log(10), "ten are easier to tell apart than all"


def test_where_nothing_was_shown_the_softmax_stays_over_all(sequence, rated_log, asked):
    plain, within = (made(sequence, within_slates=within).fit(rated_log) for within in (False, True))
    assert_array_equal(plain.score(asked), within.score(asked))


def test_a_large_softmax_is_over_drawn_items_and_the_steps_own(sequence, rated_log):
    ranker = made(sequence, softmax_items=10).fit(rated_log)
    targets = torch.tensor([3, 9, 3])
    foretold = ranker._foretold(targets)
    assert 10 <= len(foretold) <= 12 and len(set(foretold.tolist())) == len(foretold)
    assert set(targets.tolist()) <= set(foretold.tolist())
    assert ranker.known_items_[foretold].all()


# ---------------------------------------------------------------------- bad settings
@pytest.mark.parametrize(
    ("kind", "wrong", "named"),
    [
        (SequenceRankerConfig, {"samples": SampleConfig(label="click")}, "label is 'click'"),
        (SequenceRankerConfig, {"width": 0}, "width is 0"),
        (SequenceRankerConfig, {"windows": 0}, "windows is 0"),
        (SequenceRankerConfig, {"softmax_items": 0}, "softmax_items is 0"),
        (SASRecConfig, {"heads": 3}, "heads is 3"),
    ],
)
def test_wrong_settings_are_refused(kind, wrong, named):
    with pytest.raises(ConfigurationError, match=named):
        kind(**wrong)
