"""How users differ in taste beyond their interests: in their weight on popularity, on novelty, and in how focused they are.

With the fitted model's utility x, user u's is x + F_u (p'.v' + b) + P_u b + N_u z, where z is the item's birth in standard
deviations and p'.v' all of x but b and the effect of age. The three traits are normal over users about a mean that is linear in
the log of the length of a user's history; each user's are estimated by their posterior mode given the user's own events.

Everything is one Newton step from zero on the multinomial likelihood (traits are small), with the scores and the information
of events: of the early-stopping part, and at a smaller weight of the last half of the fit part, whose common effect, which is
what embeddings predict their own events too well by, is taken out. The covariance over users comes from products of
the scores of held-out events with those of the user's events at least `_LAG` earlier, so that short-lived effects are no trait
(a moment estimator).

Items that the fit part has hardly seen get their bias here too: as shares, the early-stopping part tells what they are worth.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.users.likelihood import EventSplit, Part, replay_preferences
from envs.users.protocol import Trait, UserModel, age_effect

TASTES = (Trait.POPULARITY, Trait.NOVELTY, Trait.FOCUS)
RARE = (0, 1, 2, 3, 4, 5)
"""Numbers of events of the fit part up to which an item counts as rare."""
_LAG = 4
_FIT_WEIGHT = 0.3
"""Weight of the fit part's events: they are predicted by embeddings that have seen them."""
_RARE_PRIOR = 5.0
"""Events of each kind of rare items that are added to what is seen and what is expected."""
_CHUNK_CELLS = 2**21
_MAX_CELLS = 50_000_000
"""Events times items that are looked at; beyond that, users are drawn and the others keep the mean."""
_LEAST_VARIANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class TasteTraits:
    """Fitted traits, and how they spread."""

    users: NDArray[np.float32]
    """[U, 3] posterior modes, in the order of `TASTES`."""
    spread: NDArray[np.float64]
    """[3] standard deviations over users, about the mean."""
    by_length: NDArray[np.float64]
    """[3] change of the mean per unit of log(length of the history)."""
    gain: float
    """Nats of the early-stopping part by which traits estimated before it predict it better; traits are kept if it is positive."""


def item_novelty(birth: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """[I] birth in standard deviations from the mean of what is consumed `counts` [I] times; 0 where births do not differ."""
    weight = counts / max(counts.sum(), 1)
    mean = weight @ birth
    sd = np.sqrt(weight @ (birth - mean) ** 2)
    return (np.clip((birth - mean) / sd, -4, 4) if sd > 0 else np.zeros(len(birth))).astype(np.float32)


def rare_item_offsets(model: UserModel, birth: NDArray[np.int64], split: EventSplit) -> NDArray[np.float32]:
    """[I] to be added to the biases: of the items that the fit part has 0, 1, ... times, so that the early-stopping part holds as
    many as the model expects; 0 for others, and where there is no early-stopping part."""
    counts = split.counts(Part.FIT)
    events = _some_events(split, np.flatnonzero(split.part == Part.STOP))
    kinds = np.minimum(counts, RARE[-1] + 1)
    seen = np.bincount(kinds[split.item[events]], minlength=RARE[-1] + 2).astype(np.float64)
    expected = np.zeros_like(seen)
    for _, _, share in _utilities_and_shares(model, birth, split, events):
        expected += np.bincount(kinds, share.sum(axis=0), minlength=len(expected))
    offset = np.log((seen + _RARE_PRIOR) / (expected + _RARE_PRIOR))
    offset[-1] = 0.0
    return offset[kinds].astype(np.float32)


def fit_taste_traits(
    model: UserModel, novelty: NDArray[np.float32], birth: NDArray[np.int64], split: EventSplit
) -> TasteTraits:
    """Traits of every user, all zero where they do not predict.

    Args:
        model: fitted, with traits of zero.
        novelty: [I] as `item_novelty` gives it.
        birth: [I] seconds since 1970.
        split: the events.
    """
    length = np.bincount(split.user[split.part != Part.TEST], minlength=split.num_users)
    late = 2 * split.place >= np.diff(split.starts)[split.user] * 0.7
    events = np.flatnonzero((split.part == Part.STOP) | ((split.part == Part.FIT) & late))
    events = _some_events(split, events)
    scores, information = _moments(model, novelty, birth, split, events)
    held_out = split.part[events] == Part.STOP
    log_length = np.log(np.maximum(length, 1))
    design = np.stack([np.ones(split.num_users), log_length - log_length.mean()], axis=1)
    user = split.user[events]
    parts = [
        _centred(scores[rows], information[rows], design[user[rows]], user[rows]) for rows in (held_out, ~held_out)
    ]
    nothing = TasteTraits(
        users=np.zeros((split.num_users, 3), np.float32), spread=np.zeros(3), by_length=np.zeros(3), gain=0.0
    )
    if min(held_out.sum(), (~held_out).sum()) < 100:
        return nothing
    (stop, common), (fit, _) = parts
    covariance = _covariance_over_users(fit, stop)
    before, _ = _posterior(covariance, split.num_users, [(fit, _FIT_WEIGHT)])
    gain = stop.gain(before)
    if gain <= 0:
        return nothing
    modes, _ = _posterior(covariance, split.num_users, [(stop, 1.0), (fit, _FIT_WEIGHT)])
    return TasteTraits(
        users=(design @ common + modes).astype(np.float32),
        spread=np.sqrt(np.diag(covariance)),
        by_length=common[1],
        gain=gain,
    )


def _some_events(split: EventSplit, events: NDArray[np.int64]) -> NDArray[np.int64]:
    """All of `events`, or those of users drawn at random where there are too many."""
    most = _MAX_CELLS // split.num_items
    if len(events) <= most:
        return events
    order = np.random.default_rng(0).permutation(split.num_users)
    total = np.cumsum(np.bincount(split.user[events], minlength=split.num_users)[order])
    chosen = np.zeros(split.num_users, bool)
    chosen[order[total <= most]] = True
    return events[chosen[split.user[events]]]


def _utilities_and_shares(
    model: UserModel, birth: NDArray[np.int64], split: EventSplit, events: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
    """Yields (rows of `events`, [B, I] utilities without the effect of age, [B, I] choice probabilities) chunk by chunk."""
    preferences = replay_preferences(model, split)
    size = max(_CHUNK_CELLS // split.num_items, 1)
    for begin in range(0, len(events), size):
        rows = np.arange(begin, min(begin + size, len(events)))
        chunk = events[rows]
        utility = preferences[chunk] @ model.item_vectors.T + model.item_bias
        age = (split.timestamp[chunk, None] - birth).astype(np.float32) / np.float32(SECONDS_PER_DAY)
        share = utility + age_effect(model.age_values, age)
        if split.mask_earlier:
            for row, event in enumerate(chunk):
                share[row, split.item[event - split.place[event] : event]] = -np.inf
        share -= share.max(axis=1, keepdims=True)
        np.exp(share, out=share)
        share /= share.sum(axis=1, keepdims=True)
        yield rows, utility, share


def _moments(
    model: UserModel,
    novelty: NDArray[np.float32],
    birth: NDArray[np.int64],
    split: EventSplit,
    events: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([E, 3] scores, [E, 3, 3] information) of the traits at zero, for each of `events` [E]."""
    scores, information = np.empty((len(events), 3)), np.empty((len(events), 3, 3))
    for rows, utility, share in _utilities_and_shares(model, birth, split, events):
        chosen = split.item[events[rows]]
        effects = [np.broadcast_to(model.item_bias, utility.shape), np.broadcast_to(novelty, utility.shape), utility]
        means = [np.einsum("bi,bi->b", share, effect) for effect in effects]
        for k, effect in enumerate(effects):
            scores[rows, k] = effect[np.arange(len(rows)), chosen] - means[k]
            for m in range(k + 1):
                product = np.einsum("bi,bi,bi->b", share, effect, effects[m]) - means[k] * means[m]
                information[rows, k, m] = information[rows, m, k] = product
    return scores, information


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Scores and information of some events, the common effect taken out of the scores."""

    user: NDArray[np.int64]
    scores: NDArray[np.float64]
    information: NDArray[np.float64]

    def gain(self, traits: NDArray[np.float64]) -> float:
        """Nats by which users' `traits` [U, 3] predict these events better, to second order."""
        of_event = traits[self.user]
        gained = np.einsum("ek,ek->", of_event, self.scores)
        return float(gained - 0.5 * np.einsum("ek,ekl,el->", of_event, self.information, of_event))


def _centred(
    scores: NDArray[np.float64],
    information: NDArray[np.float64],
    design: NDArray[np.float64],
    user: NDArray[np.int64],
) -> tuple[_Part, NDArray[np.float64]]:
    """(the part, [2, 3] common effect: mean, and slope in log length), from the design [E, 2] of the events."""
    normal = np.einsum("ea,ekl,eb->akbl", design, information, design).reshape(6, 6)
    common = np.linalg.solve(normal + np.eye(6), np.einsum("ea,ek->ak", design, scores).ravel()).reshape(2, 3)
    left = scores - np.einsum("ekl,el->ek", information, design @ common)
    return _Part(user=user, scores=left, information=information), common


def _covariance_over_users(before: _Part, held_out: _Part) -> NDArray[np.float64]:
    """[3, 3] from products of the scores of a user's held-out events with those of its events at least `_LAG` earlier, whose mean
    is H S H'."""
    left, right = np.zeros((9, 9)), np.zeros(9)
    for user in np.unique(held_out.user):
        parts = [(part, slice(*np.searchsorted(part.user, [user, user + 1]))) for part in (before, held_out)]
        score = np.concatenate([part.scores[rows] for part, rows in parts])
        information = np.concatenate([part.information[rows] for part, rows in parts])
        first = max(len(score) - (parts[1][1].stop - parts[1][1].start), _LAG)
        if first >= len(score):
            continue
        earlier_score = np.cumsum(score, axis=0)[first - _LAG : -_LAG]
        earlier_information = np.cumsum(information, axis=0)[first - _LAG : -_LAG]
        right += np.einsum("tk,tl->kl", score[first:], earlier_score).ravel()
        left += np.einsum("tkm,tln->klmn", information[first:], earlier_information).reshape(9, 9)
    found = np.linalg.solve(left + 1e-6 * max(float(np.trace(left)), 1.0) * np.eye(9), right).reshape(3, 3)
    values, vectors = np.linalg.eigh((found + found.T) / 2)
    covariance: NDArray[np.float64] = (vectors * np.maximum(values, _LEAST_VARIANCE)) @ vectors.T
    return covariance


def _posterior(
    covariance: NDArray[np.float64], num_users: int, parts: list[tuple[_Part, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([U, 3] modes, [U, 3, 3] covariances) of users' traits about the mean, from weighted parts."""
    precision = np.tile(np.linalg.inv(covariance), (num_users, 1, 1))
    score = np.zeros((num_users, 3))
    for part, weight in parts:
        np.add.at(precision, part.user, weight * part.information)
        np.add.at(score, part.user, weight * part.scores)
    spread = np.linalg.inv(precision)
    return np.einsum("nkl,nl->nk", spread, score), spread
