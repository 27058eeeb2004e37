"""Weights of a utility's parts, estimated on events that the parts have not seen.

Parts fitted to events predict these too well, so their sum is too sure of itself on others. Here each part gets one factor, by
Newton steps on the likelihood of the early-stopping part; the factors' intervals come from a sandwich of the information of the
multinomial logit and the users' scores, with a weak normal prior (White 1982; Train 2009, section 3.7).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.users.likelihood import EventSplit
from envs.users.protocol import age_effect
from envs.users.threads import in_two_threads

_PRIOR_SD = 2.0
"""Of each factor, about 1: it decides only where there are next to no events."""
_MAX_STEPS = 4
_SMALL = 0.1
"""Gain in nats, twice, below which a step is not worth taking."""
_CELLS = 2**19
"""Utilities of one part that are held at once."""
_MAX_CELLS = 20_000_000
"""Events times items that are looked at; beyond that, events of users drawn at random."""


@dataclass(frozen=True)
class UtilityPart:
    """One part of the utility: `preference[event] . item_vectors[item]`."""

    preference: NDArray[np.float32]
    """[E, D] of every event of the split."""
    item_vectors: NDArray[np.float32]
    """[I, D]."""


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """Estimates of the factors, in the order of the parts."""

    weight: NDArray[np.float64]
    """[k]."""
    half_width: NDArray[np.float64]
    """[k] halves of 95 % intervals."""
    num_events: int
    """Events that they rest on."""


def fit_block_weights(
    parts: Sequence[UtilityPart],
    age_values: NDArray[np.float32],
    birth: NDArray[np.int64],
    split: EventSplit,
    events: NDArray[np.int64],
    seed: int,
) -> BlockWeights:
    """Factors of `parts` that make `events` likeliest.

    Args:
        parts: k parts of the utility.
        age_values: the age effect at `AGE_KNOTS`, whose factor is 1.
        birth: [I] births of the items, seconds since 1970.
        split: the events of all users.
        events: numbers of the events to look at.
        seed: of the users drawn where there are too many events.
    """
    if len(events) * split.num_items > _MAX_CELLS:
        rank = np.random.default_rng(seed).permutation(split.num_users)[split.user[events]]
        events = np.sort(events[np.argsort(rank, kind="stable")][: max(_MAX_CELLS // split.num_items, 1)])
    count = len(parts)
    theta, prior = np.ones(count), np.eye(count) / _PRIOR_SD**2
    best_loss: float = np.inf
    best = theta
    step, scores, information = np.zeros(count), np.zeros((split.num_users, count)), prior
    for _ in range(_MAX_STEPS + 1):
        loss, at_scores, at_information = _moments(parts, age_values, birth, split, events, theta)
        loss += float(0.5 * (theta - 1) @ prior @ (theta - 1))
        if loss >= best_loss:
            step /= 2
            theta = best + step
            continue
        best_loss, best, scores, information = loss, theta, at_scores, at_information + prior
        step = -np.linalg.solve(information, scores.sum(axis=0) + prior @ (theta - 1))
        if step @ information @ step < _SMALL:
            break
        theta = best + step
    bread = np.linalg.inv(information)
    covariance = bread @ (scores.T @ scores + prior) @ bread
    return BlockWeights(
        weight=best,
        half_width=1.96 * np.sqrt(np.diag(covariance)),
        num_events=len(events),
    )


def _moments(
    parts: Sequence[UtilityPart],
    age_values: NDArray[np.float32],
    birth: NDArray[np.int64],
    split: EventSplit,
    events: NDArray[np.int64],
    theta: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Negative log-likelihood, its gradient for each user [U, k], and the information [k, k]."""
    count = len(parts)
    weight = torch.tensor(theta, dtype=torch.float32)

    def of_chunk(chunk: NDArray[np.int64]) -> tuple[float, NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        effects = torch.stack([torch.from_numpy(part.preference[chunk] @ part.item_vectors.T) for part in parts], dim=1)
        utility = (weight @ effects.transpose(0, 1).reshape(count, -1)).view(len(chunk), -1)
        days = ((split.timestamp[chunk, None] - birth) / SECONDS_PER_DAY).astype(np.float32)
        utility += torch.from_numpy(age_effect(age_values, days))
        if split.mask_earlier:
            for row, event in enumerate(chunk):
                utility[row, split.item[event - split.place[event] : event]] = -torch.inf
        target = torch.from_numpy(split.item[chunk])
        log_share = torch.log_softmax(utility, dim=1)
        loss = -float(log_share.gather(1, target[:, None]).double().sum())
        share = log_share.exp_()
        mean = torch.bmm(effects, share[:, :, None])
        score = mean[:, :, 0] - effects[torch.arange(len(target)), :, target]
        effects = (effects - mean) * share.sqrt()[:, None]
        return loss, split.user[chunk], score.double().numpy(), torch.bmm(effects, effects.mT).sum(0).double().numpy()

    chunk_events = max(_CELLS // split.num_items, 1)
    results = in_two_threads(
        of_chunk, [events[begin : begin + chunk_events] for begin in range(0, len(events), chunk_events)]
    )
    scores = np.zeros((split.num_users, count))
    for _, users, score, _ in results:
        np.add.at(scores, users, score)
    return sum(loss for loss, *_ in results), scores, np.sum([information for *_, information in results], axis=0)
