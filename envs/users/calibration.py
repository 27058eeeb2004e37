"""The second stage of the fit: scalars and age effect re-estimated on events that the embeddings have not seen.

Embeddings fitted to events predict these too well, so weights estimated on the same events are too large. Here the embeddings are
held, and the scalars, the scale of b and of the users' start, and the age effect are fitted to the early-stopping part by
Gauss-Newton steps on its likelihood, which gives their intervals too: a sandwich of the multinomial logit's information
and the users' scores (White 1982; users are the clusters), with a weak normal prior.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.catalogue import SECONDS_PER_DAY
from envs.users.likelihood import EventSplit
from envs.users.protocol import AGE_KNOTS
from envs.users.threads import in_two_threads
from envs.users.training import Batch, Scalars, decay_weights, make_batch, user_batches

FREE_START = {
    "short_decay": 0.7,
    "short_weight": 1.0,
    "long_weight": 1.0,
    "long_rate": -4.0,
    "satiation_decay": 1.4,
    "satiation_gain": 0.0,
    "short_half_life_days": 0.0,
    "satiation_half_life_days": 0.0,
}
"""Scalars before the first step, as `Scalars.from_free` takes them: logits of shares, logs of half-lives, weights."""
_EVOLUTION: dict[str, dict[str, float]] = {
    "short_term": {"short_weight": 0.0, "short_decay": 0.7, "short_half_life_days": 0.0},
    "drift": {"long_rate": -20.0},
    "satiation": {"satiation_gain": 0.0, "satiation_decay": 1.4, "satiation_half_life_days": 0.0},
}
TERMS: dict[str, dict[str, float]] = {
    "evolution": {name: value for term in _EVOLUTION.values() for name, value in term.items()},
    **_EVOLUTION,
    "pauses": {"short_half_life_days": 14.0, "satiation_half_life_days": 14.0},
    "own_start": {"start_scale": 1.0},
    "context": {},
    "age": {},
    "recalibration": {},
    "own_tastes": {},
}
"""Terms that a fit can be made without, and the values at which this holds scalars and scales. Without `evolution` nothing moves:
neither short-term interest, drift and satiation nor their decay in pauses. Without `own_start` every user
begins at p = 0, without `context` ω is 0, without `age` φ is 0, without `recalibration` the second stage is left out, without
`own_tastes` users weigh popularity, novelty and focus alike and rare items have the first stage's biases."""
SCALES = ("start_scale", "bias_scale")
"""Factors of the users' start and of the item biases, folded into these arrays after the fit."""
_PRIOR_SD = 2.0
_HELD = 1e12
"""Precision of a prior that lets nothing move."""
_MAX_STEPS = 3
_SMALL = 0.1
"""Gain in nats, twice, below which a step is not worth taking: a small part of one standard error."""
_CELLS = 2**18
"""Utilities whose derivatives are held at once."""
MAX_CELLS = 20_000_000
"""Events times items that the second stage looks at; beyond that, users are drawn."""


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Arrays of the model as tensors."""

    embedding: Tensor
    """[I, d] v."""
    categories: Tensor
    """[I, G] m."""
    bias: Tensor
    """[I] b."""
    start: Tensor
    """[U, d] p before the first event."""
    omega: Tensor
    """[NUM_CONTEXTS, G]."""
    contexts: Tensor
    """[E_all, 3] rows of omega of each event of the split."""

    def context_taste(self, batch: Batch) -> Tensor:
        """[E, G] of the wanted events."""
        return self.omega[self.contexts[batch.event]].sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Estimates, in the free units of `FREE_START`, and their standard errors."""

    free: dict[str, float]
    """Scalars and scales."""
    age_values: NDArray[np.float64]
    """[knots] phi."""
    sd: dict[str, float]
    """Standard error of each of `free`."""
    age_sd: NDArray[np.float64]
    """[knots] standard errors of phi, each against the mean of all knots."""
    held: tuple[str, ...]
    """Those of `free` that were held at their values; 'age_values' too, if they were."""
    num_parameters: int
    """Numbers that were estimated."""
    num_events: int
    """Events that the estimates rest on; 0 where the second stage was left out."""


def age_basis(age_days: NDArray[np.floating]) -> NDArray[np.float32]:
    """[..., knots] weights of the knots, so that `basis @ age_values` is `envs.users.protocol.age_effect`."""
    days = np.maximum(age_days, 0).astype(np.float32)
    scaled = np.minimum(np.log1p(days) * np.float32(1 / AGE_KNOTS[1]), np.float32(len(AGE_KNOTS) - 1))
    basis = np.zeros((*scaled.shape, len(AGE_KNOTS)), np.float32)
    left = np.minimum(scaled.astype(np.int64), len(AGE_KNOTS) - 2)[..., None]
    part = scaled[..., None] - left.astype(np.float32)
    np.put_along_axis(basis, left, 1 - part, axis=-1)
    np.put_along_axis(basis, left + 1, part, axis=-1)
    return basis


def age_precision(slope_sd: float, bend_sd: float) -> NDArray[np.float64]:
    """[knots, knots] precision of the prior of phi: mean and slope over the knots held near zero, bends kept small."""
    knots = len(AGE_KNOTS)
    ramp = np.arange(knots) - (knots - 1) / 2
    slope = ramp / (ramp @ ramp)
    bends = np.diff(np.eye(knots), n=2, axis=0)
    mean = np.full(knots, 1 / knots)
    return np.outer(slope, slope) / slope_sd**2 + bends.T @ bends / bend_sd**2 + np.outer(mean, mean) / 0.01**2


def calibrate(
    split: EventSplit,
    arrays: Arrays,
    birth: NDArray[np.int64],
    free: Mapping[str, float],
    age_values: NDArray[np.float64],
    age_prior: NDArray[np.float64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    tick: Callable[[], None],
    without: Sequence[str] = (),
) -> Calibration:
    """Gauss-Newton on the events at places `low[user]` to `high[user]` - 1, from `free` and `age_values` on.

    Args:
        split: the events.
        arrays: the model's arrays, which are held.
        birth: [I] birth of the items, seconds since 1970.
        free: scalars to begin from, in the units of `FREE_START`.
        age_values: [knots] φ to begin from.
        age_prior: [knots, knots] precision of the prior of φ.
        low: [U] place of each user's first event to use.
        high: [U] place after its last.
        tick: called after each look at the events.
        without: names of `TERMS` that are left out.
    """
    names = list(free) + list(SCALES)
    count = len(names)
    prior_mean = np.array([FREE_START.get(name, 1.0) for name in names] + [0.0] * len(age_values))
    precision = np.zeros((count + len(age_values),) * 2)
    precision[:count, :count] = np.eye(count) / _PRIOR_SD**2
    precision[count:, count:] = age_prior
    theta = np.concatenate([list(free.values()), np.ones(len(SCALES)), age_values])
    held = held_names(without)
    still = np.array([name in held for name in names + ["age_values"] * len(age_values)])
    prior_mean[still] = theta[still]
    precision[np.ix_(still, still)] = _HELD * np.eye(still.sum())
    if "recalibration" in without:
        unknown = np.full(len(theta), np.nan)
        return _estimates(names, theta, unknown, unknown[count:], held, 0)

    best_loss, best, step, scores, information = np.inf, theta, np.zeros_like(theta), None, precision
    num_events = int((high - low).sum())
    for _ in range(_MAX_STEPS + 1):
        loss, at_scores, at_information = _moments(split, arrays, birth, names, theta, low, high)
        tick()
        loss += 0.5 * (theta - prior_mean) @ precision @ (theta - prior_mean)
        if loss >= best_loss:
            step /= 2
            theta = best + step
            continue
        best_loss, best, scores, information = loss, theta, at_scores, at_information + precision
        step = -np.linalg.solve(information, scores.sum(axis=0) + precision @ (theta - prior_mean))
        if step @ information @ step < _SMALL:
            break
        theta = best + step
    assert scores is not None
    bread = np.linalg.inv(information)
    covariance = bread @ (scores.T @ scores + precision) @ bread
    centred = np.eye(len(age_values)) - 1 / len(age_values)
    age_sd = np.sqrt(np.diag(centred @ covariance[count:, count:] @ centred.T))
    return _estimates(names, best, np.sqrt(np.diag(covariance)), age_sd, held, num_events)


def held_names(without: Sequence[str]) -> tuple[str, ...]:
    """Scalars and scales that are held where terms are left out; 'age_values' too, without `age`."""
    names = [name for term in without for name in TERMS[term]] + (["age_values"] if "age" in without else [])
    return tuple(dict.fromkeys(names))


def _estimates(
    names: list[str],
    theta: NDArray[np.float64],
    sd: NDArray[np.float64],
    age_sd: NDArray[np.float64],
    held: tuple[str, ...],
    num_events: int,
) -> Calibration:
    return Calibration(
        free=dict(zip(names, theta.tolist(), strict=False)),
        age_values=theta[len(names) :],
        sd=dict(zip(names, sd.tolist(), strict=False)),
        age_sd=age_sd,
        held=held,
        num_parameters=0 if not num_events else sum(name not in held for name in names + ["age_values"] * len(age_sd)),
        num_events=num_events,
    )


def preference_slopes(batch: Batch, free: Mapping[str, Tensor], arrays: Arrays) -> tuple[Tensor, Tensor]:
    """([E, d + G] preference, [E, k, d + G] its derivatives by `start_scale` and the scalars in the order of `free`)."""
    scalars = Scalars.from_free(free)
    consumed, categories = arrays.embedding[batch.item], arrays.categories[batch.item]
    start = free["start_scale"] * arrays.start[batch.users][:, None]
    keep, rate = scalars.log_short_keep.exp(), -torch.expm1(scalars.log_long_keep)
    satiation_keep = scalars.log_satiation_keep.exp()

    weights = decay_weights(batch, scalars.log_short_keep, scalars.short_half_life)
    short = (1 - keep) * torch.bmm(weights, consumed)
    short_by_decay = (1 - keep) ** 2 * torch.bmm(weights * batch.lag, consumed) - keep * short
    pauses = batch.days * (np.log(2.0) / scalars.short_half_life)
    short_by_half_life = (1 - keep) * torch.bmm(weights * pauses, consumed)

    weights = decay_weights(batch, scalars.log_long_keep)
    fade = torch.exp(batch.looked[:, :, None] * scalars.log_long_keep)
    drift = rate * torch.bmm(weights, consumed)
    long = start * fade + drift
    long_by_rate = (1 - rate) * drift - rate**2 * torch.bmm(weights * batch.lag, consumed)
    long_by_rate -= rate * batch.looked[:, :, None] * fade * start

    weights = decay_weights(batch, scalars.log_satiation_keep, scalars.satiation_half_life)
    satiation = torch.bmm(weights, categories)
    satiation_by_decay = (1 - satiation_keep) * torch.bmm(weights * batch.lag, categories)
    pauses = batch.days * (np.log(2.0) / scalars.satiation_half_life)
    satiation_by_half_life = torch.bmm(weights * pauses, categories)

    alpha, kappa, beta = scalars.short_weight, scalars.long_weight, scalars.satiation_gain
    by_interest = {
        "short_decay": alpha * short_by_decay,
        "short_half_life_days": alpha * short_by_half_life,
        "short_weight": short,
        "long_rate": kappa * long_by_rate,
        "long_weight": long,
        "start_scale": kappa * arrays.start[batch.users][:, None] * fade,
    }
    by_taste = {
        "satiation_decay": -beta * satiation_by_decay,
        "satiation_half_life_days": -beta * satiation_by_half_life,
        "satiation_gain": -satiation,
    }
    size = consumed.shape[-1]
    slopes = consumed.new_zeros(len(batch.event), len(free), size + categories.shape[-1])
    for number, name in enumerate(free):
        if name in by_interest:
            slopes[:, number, :size] = by_interest[name][batch.row, batch.column]
        else:
            slopes[:, number, size:] = by_taste[name][batch.row, batch.column]
    interest = (kappa * long + alpha * short)[batch.row, batch.column]
    taste = arrays.context_taste(batch) - beta * satiation[batch.row, batch.column]
    return torch.cat([interest, taste], dim=1), slopes


def _moments(
    split: EventSplit,
    arrays: Arrays,
    birth: NDArray[np.int64],
    names: list[str],
    theta: NDArray[np.float64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Negative log-likelihood, its gradient for each user [U, k], and the information of the multinomial logit [k, k]."""
    count, knots = len(names), len(AGE_KNOTS)
    values = dict(zip(names, torch.tensor(theta[:count], dtype=torch.float32).unbind(), strict=True))
    bias_scale = values.pop("bias_scale")  # linear in the utilities, so it needs no tangent
    phi = torch.tensor(theta[count:], dtype=torch.float32)
    vectors = torch.cat([arrays.embedding, arrays.categories], dim=1)

    def of_users(users: NDArray[np.int64]) -> tuple[float, NDArray[np.float64], Tensor]:
        total, information = 0.0, torch.zeros(count + knots, count + knots, dtype=torch.float64)
        scores = np.zeros((split.num_users, count + knots))
        batch = make_batch(split, users, low, high)
        preference, slope = preference_slopes(batch, values, arrays)
        event_user = split.user[batch.event.numpy()]
        chunk = max(_CELLS // split.num_items, 1)
        for begin in range(0, len(batch.target), chunk):
            part = slice(begin, begin + chunk)
            target = batch.target[part]
            age = (split.timestamp[batch.event[part].numpy(), None] - birth) / SECONDS_PER_DAY
            basis = torch.from_numpy(age_basis(age))
            utility = preference[part] @ vectors.T + bias_scale * arrays.bias + basis @ phi
            if batch.earlier is not None:
                rows = (batch.earlier[0] >= begin) & (batch.earlier[0] < begin + chunk)
                utility[batch.earlier[0][rows] - begin, batch.earlier[1][rows]] = -torch.inf
            log_share = torch.log_softmax(utility, dim=1)
            total -= float(log_share.gather(1, target[:, None]).double().sum())
            effects = torch.empty(len(target), count + knots, len(vectors))
            effects[:, : count - 1] = slope[part] @ vectors.T
            effects[:, count - 1] = arrays.bias
            effects[:, count:] = basis.transpose(1, 2)
            share = log_share.exp_()
            mean = (effects @ share[:, :, None])[:, :, 0]
            chosen = effects[torch.arange(len(target)), :, target]
            np.add.at(scores, event_user[part], (mean - chosen).double().numpy())
            effects -= mean[:, :, None]
            effects *= share.sqrt_()[:, None]
            information += torch.bmm(effects, effects.transpose(1, 2)).sum(dim=0).double()
        return total, scores, information

    parts = in_two_threads(of_users, user_batches(high - low, 1024))
    nothing = (0.0, np.zeros((split.num_users, count + knots)), torch.zeros(count + knots, count + knots))
    totals, scores, informations = zip(nothing, *parts, strict=True)
    return sum(totals), np.sum(scores, axis=0), sum(informations).numpy()
