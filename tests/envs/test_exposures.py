from dataclasses import replace

import numpy as np
import pytest
import torch
from fitted_logs import make_catalogue, make_users
from numpy.testing import assert_allclose, assert_array_equal

from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.exposure_fit import start_information
from envs.users.exposures import has_slates, replayed_preferences, request_likelihood, requests_of, slate_losses
from envs.users.interest import context_rows
from envs.users.likelihood import Part
from envs.users.miss_fit import missed_requests
from envs.users.protocol import ChoiceParams, age_effect, position_logits
from envs.users.slates import RequestBatch, SlateLoss, interests
from envs.users.training import Scalars

DAY = 86_400


@pytest.fixture(scope="module")
def generated():
    config = SyntheticConfig(num_users=40, events_per_user=25, num_items=120, embedding_size=6, slate_size=5)
    log, truth = generate_log(config, seed=3)
    return log, replace(truth, choice=ChoiceParams(outside=truth.fit_report["outside"]))


def slates_log(rows):
    """A log of one user from (second, item, clicked, request, position)."""
    second, item, clicked, request, position = (np.array(column) for column in zip(*rows, strict=True))
    return InteractionLog.from_rows(
        name="slates",
        users=make_users(1),
        catalogue=make_catalogue(np.eye(3, dtype=np.float32)[np.arange(9) % 3]),
        user=np.zeros(len(rows), np.int32),
        item=item.astype(np.int32),
        timestamp=second.astype(np.int64),
        clicked=clicked.astype(bool),
        request=request.astype(np.int64),
        position=position.astype(np.int16),
    )


# --- what the log says


def test_requests_are_those_of_a_plain_loop(generated):
    log, _ = generated
    requests = requests_of(log, max_events=15)
    number = 0
    for user in range(len(log.users)):
        rows = np.flatnonzero(log.user == user)
        had, in_visit, idle, since_item = 0, 0, 0.0, 0.0
        pauses = []
        for request in dict.fromkeys(log.request[rows].tolist()):
            slate = rows[log.request[rows] == request]
            first = slate[0]
            if first != rows[0] and log.timestamp[first] - log.timestamp[first - 1] > 3_600:
                idle += (log.timestamp[first] - log.timestamp[first - 1]) / DAY
                in_visit = 0
            if had >= 15:
                break
            assert requests.user[number] == user
            assert requests.timestamp[number] == log.timestamp[first]
            assert_array_equal(np.sort(requests.slate[number][requests.slate[number] >= 0]), np.sort(log.item[slate]))
            assert_array_equal(requests.slate[number, log.position[slate]], log.item[slate])
            assert (requests.consumed[number], requests.consumed_in_visit[number]) == (had, in_visit)
            assert requests.idle_days[number] == pytest.approx(idle - since_item, abs=1e-3)
            hit = slate[log.clicked[slate]]
            if len(hit):
                assert requests.slate[number, requests.chosen[number]] == log.item[hit[0]]
                pauses.append(idle - since_item)
                had, in_visit, since_item = had + 1, in_visit + 1, idle
            else:
                assert requests.chosen[number] == requests.slate_size
            number += 1
        events = slice(requests.item_starts[user], requests.item_starts[user + 1])
        assert_array_equal(requests.item[events], log.item[rows][log.clicked[rows]][:15])
        assert_allclose(requests.pause_days[events], pauses, atol=1e-3)
    assert number == len(requests)


def test_a_slate_with_two_clicks_is_two_choices_the_second_without_the_first():
    log = slates_log([(0, 3, 0, 0, 0), (0, 4, 1, 0, 1), (0, 5, 1, 0, 2), (60, 6, 0, 1, 0), (60, 7, 0, 1, 1)])
    requests = requests_of(log)
    assert_array_equal(requests.slate, [[3, 4, 5], [3, -1, 5], [6, 7, -1]])
    assert_array_equal(requests.chosen, [1, 2, 3])
    assert_array_equal(requests.consumed, [0, 1, 2])


def test_what_was_consumed_outside_of_slates_moves_interests_but_is_no_choice():
    log = slates_log([(0, 3, 1, -1, -1), (60, 6, 1, 7, 0), (60, 7, 0, 7, 1), (120, 2, 1, -1, -1)])
    requests = requests_of(log)
    assert_array_equal(requests.item, [3, 6, 2])
    assert_array_equal(requests.slate, [[6, 7]])
    assert_array_equal(requests.consumed, [1])


def test_a_log_of_clicks_has_no_slates(generated):
    log, _ = generated
    assert has_slates(log)
    assert not has_slates(log.consumed())
    assert not has_slates(replace(log, request=np.full(len(log), -1)))


# --- torch against the simulator


def batch_of(requests, users):
    return RequestBatch.of(requests, np.array(users), np.diff(requests.starts))


def scalars_of(model):
    p = model.params

    def logit(share):
        return torch.tensor(share, dtype=torch.float64).logit().float()

    free = {name: logit(getattr(p, name)) for name in ("short_decay", "long_rate", "satiation_decay")}
    free |= {name: torch.tensor(getattr(p, name)) for name in ("short_weight", "long_weight", "satiation_gain")}
    free |= {
        name: torch.tensor(getattr(p, name)).log() for name in ("short_half_life_days", "satiation_half_life_days")
    }
    return Scalars.from_free(free)


def test_interests_before_requests_are_those_of_the_simulator(generated):
    log, truth = generated
    requests = requests_of(log)
    batch = batch_of(requests, [5, 2, 17, 30])
    start = torch.from_numpy(truth.user_embedding)[batch.users]
    scalars = scalars_of(truth)
    interest, satiation = interests(
        batch, scalars, torch.from_numpy(truth.item_embedding), torch.from_numpy(truth.categories), start
    )
    rows = context_rows(requests.hour, requests.weekday, requests.consumed_in_visit)[batch.request]
    taste = truth.context_weights[rows].sum(axis=1) - truth.params.satiation_gain * satiation.numpy()
    ours = np.concatenate([interest.numpy(), taste], axis=1)
    expected = replayed_preferences(truth, requests)[batch.request]
    assert_allclose(ours, expected[:, : ours.shape[1]], atol=3e-5)
    assert_array_equal(expected[:, ours.shape[1] :], 0)  # users without tastes of their own


def test_slate_loss_is_cross_entropy_with_its_gradient(generated):
    log, _ = generated
    requests = requests_of(log)
    batch = batch_of(requests, [1, 4])
    generator = torch.Generator().manual_seed(0)
    shapes = ((len(batch), 3), (requests.num_items, 3), (requests.num_items,), batch.slate.shape, ())
    ours = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    plain = [tensor.detach().clone().requires_grad_() for tensor in ours]
    loss, shares = SlateLoss.apply(*ours, batch)
    (2 * loss).backward()
    preference, vectors, bias, extra, outside = plain
    slate = torch.from_numpy(batch.slate)
    utility = (vectors[slate] @ preference[:, :, None])[:, :, 0] + bias[slate] + extra
    utility = utility.masked_fill(torch.from_numpy(batch.empty), -torch.inf)
    logit = torch.cat([utility, outside.expand(len(batch), 1)], dim=1)
    expected = torch.nn.functional.cross_entropy(logit, torch.from_numpy(batch.chosen), reduction="sum")
    (2 * expected).backward()
    assert_allclose(loss.item(), expected.item(), rtol=1e-5)
    assert_allclose(shares, logit.softmax(dim=1)[:, :-1].detach(), atol=1e-6)
    for one, other in zip(ours, plain, strict=True):
        assert_allclose(one.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_information_about_a_start_is_the_curvature_of_the_loss(generated):
    log, truth = generated
    requests = requests_of(log)
    batch = batch_of(requests, [8])
    scalars, embedding = scalars_of(truth), torch.from_numpy(truth.item_embedding).double()
    slate = torch.from_numpy(batch.slate)

    def loss(start):
        interest, _ = interests(batch, scalars, embedding, torch.from_numpy(truth.categories).double(), start[None])
        utility = (embedding[slate] @ interest[:, :, None])[:, :, 0]
        utility = utility.masked_fill(torch.from_numpy(batch.empty), -torch.inf)
        logit = torch.cat([utility, torch.ones(len(batch), 1)], dim=1)
        shares.append(logit.softmax(dim=1)[:, :-1].detach())
        return torch.nn.functional.cross_entropy(logit, torch.from_numpy(batch.chosen), reduction="sum")

    shares = []
    start = torch.from_numpy(truth.user_embedding[8]).double()
    curvature = torch.autograd.functional.hessian(loss, start)
    assert_allclose(start_information(batch, embedding, shares[0], scalars)[0], curvature, rtol=1e-4, atol=1e-4)


# --- what is measured


def test_request_likelihood_is_that_of_the_formula(generated):
    log, truth = generated
    model = replace(truth, choice=ChoiceParams(outside=1.3, position_slope=0.6))
    requests = requests_of(log)
    likelihood = request_likelihood(model, log.catalogue.birth, requests)
    preference = replayed_preferences(model, requests)
    rows = np.flatnonzero(requests.part == Part.TEST)
    assert_array_equal(likelihood.user, requests.user[rows])
    for row, loss in list(zip(rows, likelihood.loss, strict=True))[:50]:
        shown = requests.slate[row] >= 0
        items = requests.slate[row, shown]
        age = ((requests.timestamp[row] - log.catalogue.birth[items]) / DAY).astype(np.float32)
        utility = model.item_vectors[items] @ preference[row] + model.item_bias[items]
        utility += age_effect(model.age_values, age) + 0.6 * position_logits(requests.slate_size)[shown]
        weight = np.append(np.exp(utility), np.exp(1.3))
        chosen = -1 if requests.chosen[row] == requests.slate_size else np.cumsum(shown)[requests.chosen[row]] - 1
        assert loss == pytest.approx(-np.log(weight[chosen] / weight.sum()), rel=1e-4)


def test_the_model_that_made_a_log_predicts_its_clicks(generated):
    log, truth = generated
    requests = requests_of(log)
    chances = []
    for part in Part:
        clicked = replace(requests, chosen=np.full(len(requests), requests.slate_size))
        chances.append(1 - np.exp(-request_likelihood(truth, log.catalogue.birth, clicked, part).loss))
    expected, seen = np.concatenate(chances).sum(), (requests.chosen < requests.slate_size).sum()
    assert abs(expected - seen) < 3 * np.sqrt(len(requests) / 4)


def test_empty_slots_are_never_chosen_instead():
    log = slates_log([(0, 3, 1, 0, 0), (60, 4, 0, 1, 1)])
    requests = requests_of(log)
    losses = slate_losses(np.zeros((2, 2)), requests, np.arange(2), outside=0.0, position_slope=0.0)
    assert_allclose(losses, np.log([2, 2]))


def test_a_model_without_an_outside_option_is_refused(generated):
    log, truth = generated
    with pytest.raises(ValueError, match="does not know its outside option"):
        request_likelihood(replace(truth, choice=ChoiceParams()), log.catalogue.birth, requests_of(log))


def test_misses_are_counted_in_a_row_and_within_a_visit():
    hour = 3_600
    log = slates_log(
        [
            (0, 0, 0, 0, 0),
            (60, 1, 0, 1, 0),
            (120, 2, 1, 2, 0),
            (180, 3, 0, 3, 0),
            (3 * hour, 4, 0, 4, 0),
            (3 * hour + 60, 5, 0, 5, 0),
            (6 * hour, 6, 0, 6, 0),
        ]
    )
    user, misses, left = missed_requests(log)
    assert_array_equal(user, [0] * 5)
    assert_array_equal(misses, [1, 2, 1, 1, 2])
    assert_array_equal(left, [False, False, True, False, True])
