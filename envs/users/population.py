"""A population: a distribution over users, fitted to those of a log, from which any number of other users is drawn.

A user is a row of parameters of the user model (`UserModel.user_parameters`) and the length of its history. Traits, lengths and
parameters of longer tails than a normal's enter as normal scores: a drawn one is read off the log users' own quantiles. The
joint distribution is a mixture of normals in whitened coordinates, one of two kinds, whichever tells held-out users better:

- a smoothed bootstrap: a normal around each log user, all of one width h, drawn together towards the mean by
  1 / sqrt(1 + h^2) so that covariances stay what they are (Silverman and Young 1987, eq. 3.2);
- a Gaussian mixture of a few components (expectation maximisation), moved and scaled so that its mean and covariance are
  the sample's.

Users age with the visits that they have had (`VisitParams.ageing`). The distribution is that of users as they begin: what their
visits in the log have added to traits is taken off, and `aged` adds what the visits of a drawn user's own history add.

Public attributes and the second of the day at which a user begins are those of a log user: the one around which it was drawn,
or one of its component.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from envs.artefacts import content_hash
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import LogError
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_normal, draw_uniform
from envs.users.protocol import Trait, UserModel, VisitParams

BANDWIDTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Widths h of the smoothed bootstrap that are tried, in standard deviations."""
COMPONENTS = (1, 2, 4, 8)
"""Sizes of the Gaussian mixture that are tried, with full covariances and with independent coordinates."""
FOLDS = 5
"""Parts of the users for held-out likelihoods."""
SPACING_QUANTILES = 101
MOST_QUANTILES = 1_001
"""Quantiles of a parameter, at most."""
MOST_HELD_OUT = 2_000
"""Log users whose held-out likelihood is looked at, at most."""
KEPT_LIKELIHOODS = 64
"""Users and seeds whose held-out likelihoods a process keeps: worlds of one log and seed are made again and again."""
_EVEN_RANK = 1e-5
_LIKELIHOODS: dict[str, dict[str, float]] = {}


@dataclass(frozen=True, kw_only=True)
class DrawnUsers:
    """N users of a population."""

    number: NDArray[np.int64]
    """[N] which draws they are."""
    parameters: NDArray[np.float32]
    """[N, P] of the user model, before their first visit (`Population.draw`) or after their history (`burn_in`); hidden."""
    parent: NDArray[np.int64]
    """[N] the log user whose public attributes they have."""
    length: NDArray[np.int64]
    """[N] items in their histories."""
    start_second: NDArray[np.float64]
    """[N] second of the day at which they begin."""

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: NDArray[np.int64]) -> "DrawnUsers":
        """A copy of the users at `rows`."""
        return DrawnUsers(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Population:
    """A fitted distribution over users; see the module. Made by `fit_population`."""

    kind: str
    """'bootstrap' or 'mixture'."""
    bandwidth: float
    """h of the smoothed bootstrap; NaN for a mixture."""
    held_out: dict[str, float]
    """Mean log-likelihood in nats of a held-out user's whitened coordinates under each distribution that was tried."""
    log_users: NDArray[np.int64]
    """[A] the log users it was fitted to: those who consumed anything."""
    mean: NDArray[np.float64]
    """[P + 1] of the log users' parameters as they began and log(1 + items consumed), or of their normal scores."""
    spread: NDArray[np.float64]
    """[R, P + 1]; whitened coordinates @ spread + mean are users; R is the rank of their covariance."""
    cumulative_weight: NDArray[np.float64]
    """[K] sums of the components' weights."""
    centres: NDArray[np.float64]
    """[K, R] of the components."""
    factors: NDArray[np.float64]
    """[K or 1, R, R] a component's draws are centre + factor @ normal draws; 1 where all have the same."""
    cumulative_parent: NDArray[np.float64] | None
    """[K, A] sums over log users of their shares in a component; None where component k is log user k."""
    quantiles: NDArray[np.float64]
    """[P + 1, Q] of the log users' parameters as they began and log(1 + items consumed), at the normal scores `scores`."""
    scores: NDArray[np.float64]
    """[Q] ascending."""
    is_scored: NDArray[np.bool_]
    """[P + 1] which of them are drawn as normal scores."""
    start_seconds: NDArray[np.float64]
    """[A] second of the day of each log user's last item."""
    spacings: NDArray[np.float64]
    """[SPACING_QUANTILES] quantiles of the seconds between two items of a visit."""

    def draw(self, numbers: NDArray[np.int64], seed: int) -> DrawnUsers:
        """Draws users who have had no visit yet, by their numbers [N] (any integers): user n is the same to the bit in whatever
        batch it is drawn."""
        numbers = np.asarray(numbers, np.int64)
        choice = draw_uniform(seed, Purpose.POPULATION, numbers, 0)
        component = _pick(self.cumulative_weight, choice)
        if self.cumulative_parent is None:
            parent = component
        else:
            shares = self.cumulative_parent[component]
            level = draw_uniform(seed, Purpose.POPULATION, numbers, 1)[:, None] * shares[:, -1:]
            parent = np.minimum((shares <= level).sum(axis=1), shares.shape[1] - 1)
        rank = len(self.spread)
        normal = draw_normal(seed, Purpose.POPULATION, numbers[:, None], 2 + np.arange(rank)).astype(np.float64)
        # sums are taken coordinate by coordinate: the bits of a matrix product would depend on the number of users
        white = self.centres[component].copy()
        shared = len(self.factors) == 1
        for column in range(rank):
            factor = self.factors[0, :, column] if shared else self.factors[component, :, column]
            white += normal[:, column, None] * factor
        values = np.broadcast_to(self.mean, (len(numbers), len(self.mean))).copy()
        for column in range(rank):
            values += white[:, column, None] * self.spread[column]
        for column in np.flatnonzero(self.is_scored).tolist():
            values[:, column] = np.interp(values[:, column], self.scores, self.quantiles[column])
        return DrawnUsers(
            number=numbers,
            parameters=values[:, :-1].astype(np.float32),
            parent=self.log_users[parent],
            length=np.rint(np.expm1(values[:, -1])).astype(np.int64),
            start_second=self.start_seconds[parent],
        )


def aged(parameters: NDArray[np.floating], visits: NDArray[np.integer], params: VisitParams) -> NDArray[np.float32]:
    """[N, P] parameters of drawn users once they have had `visits` [N], from those that they began with."""
    later = parameters.astype(np.float64)
    later[:, -len(Trait) :] += params.ageing(visits)
    return later.astype(np.float32)


def fit_population(model: UserModel, log: InteractionLog, seed: int = 0) -> Population:
    """Fits the distribution of the log's users, those without any item left out.

    Args:
        model: a user model fitted to `log` (or to the log that `log` is a part of).
        log: where histories' lengths, start times and the pace inside visits are taken from.
        seed: of the folds and of the mixture's starts.

    Raises:
        LogError: if fewer than two users consumed anything.
    """
    from scipy.stats import kurtosis, rankdata  # cost a second, which a bare environment need not pay

    events = log.consumed()
    lengths = np.diff(events.user_starts)
    active = np.flatnonzero(lengths)
    if len(active) < 2:
        raise LogError(f"log '{log.name}' has {len(active)} users with consumed items; a population needs at least 2.")
    last = events.user_starts[1:][active] - 1
    parameters = model.user_parameters[active].astype(np.float64)
    parameters[:, -len(Trait) :] -= model.visits.ageing(events.visit[last] + 1)
    users = np.column_stack([parameters, np.log1p(lengths[active])])
    probabilities = (np.arange(min(len(users), MOST_QUANTILES)) + 0.5) / min(len(users), MOST_QUANTILES)
    # a trait that nobody has (all alike) has no tails
    alike = users.max(axis=0) == users.min(axis=0)
    is_scored = np.zeros(users.shape[1], bool)
    is_scored[~alike] = kurtosis(users[:, ~alike], axis=0) > 0
    is_scored[-len(Trait) - 1 :] = True
    coordinates = np.where(is_scored, ndtri((rankdata(users, axis=0) - 0.5) / len(users)), users)
    mean = coordinates.mean(axis=0)
    white, spread = _whitened(coordinates - mean)
    tried = _held_out_likelihoods(white, seed)
    best = max(tried, key=lambda name: tried[name])
    kind, _, size = best.partition(" ")
    share: NDArray[np.float64] | None = None
    if kind == "bootstrap":
        bandwidth = float(size)
        shrink = 1 / np.sqrt(1 + bandwidth**2)
        weights, centres = np.full(len(white), 1 / len(white)), shrink * white
        factors = shrink * bandwidth * np.eye(white.shape[1])[None]
    else:
        bandwidth = float("nan")
        mixture = _mixture(white, kind, int(size), seed)
        weights, centres, factors = _standardised(mixture)
        share = np.cumsum(mixture.predict_proba(white).T, axis=1)
    inside = np.diff(events.timestamp)[(events.place_in_visit > 0)[1:]]
    return Population(
        kind="bootstrap" if share is None else "mixture",
        bandwidth=bandwidth,
        held_out=tried,
        log_users=active,
        mean=mean,
        spread=spread,
        cumulative_weight=np.cumsum(weights),
        centres=centres,
        factors=factors,
        cumulative_parent=share,
        quantiles=np.ascontiguousarray(np.quantile(users, probabilities, axis=0).T),
        scores=ndtri(probabilities),
        is_scored=is_scored,
        start_seconds=(events.timestamp[last] % SECONDS_PER_DAY).astype(np.float64),
        spacings=np.quantile(inside if len(inside) else [60.0], np.linspace(0, 1, SPACING_QUANTILES)),
    )


def _whitened(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(whitened coordinates [A, R], spread [R, P]) with whitened @ spread = `centred` [A, P]; coordinates in which users do
    not differ, and sums of others, are left out of the R."""
    sd = centred.std(axis=0)
    scaled = centred / np.where(sd > 0, sd, 1)
    left, sizes, right = np.linalg.svd(scaled, full_matrices=False)
    rank = max(int((sizes > _EVEN_RANK * sizes[0]).sum()), 1)
    root = np.sqrt(len(centred))
    return left[:, :rank] * root, sizes[:rank, None] / root * right[:rank] * sd


def _held_out_likelihoods(white: NDArray[np.float64], seed: int) -> dict[str, float]:
    """Mean log-likelihood of held-out users under each distribution: 'bootstrap <width>', 'full <components>', 'diag ...'. Of
    users and a seed that this process has met it is looked up."""
    key = content_hash({"users": white}, {"seed": seed})
    if key not in _LIKELIHOODS:
        if len(_LIKELIHOODS) >= KEPT_LIKELIHOODS:
            _LIKELIHOODS.pop(next(iter(_LIKELIHOODS)))
        _LIKELIHOODS[key] = _tried_on_held_out(white, seed)
    return dict(_LIKELIHOODS[key])


def _tried_on_held_out(white: NDArray[np.float64], seed: int) -> dict[str, float]:
    from sklearn.neighbors import KernelDensity

    random = np.random.default_rng(seed)
    white = random.permutation(white)[:MOST_HELD_OUT]
    fold = np.arange(len(white)) % min(FOLDS, len(white))
    total: dict[str, float] = {}
    for number in np.unique(fold):
        train, test = white[fold != number], white[fold == number]
        for width in BANDWIDTHS:
            shrink = 1 / np.sqrt(1 + width**2)
            density = KernelDensity(bandwidth=shrink * width).fit(shrink * train)
            total[f"bootstrap {width:g}"] = total.get(f"bootstrap {width:g}", 0.0) + density.score(test)
        for kind in ("full", "diag"):
            for size in COMPONENTS:
                if len(train) >= 10 * size:
                    score = _mixture(train, kind, size, seed).score(test) * len(test)
                    total[f"{kind} {size}"] = total.get(f"{kind} {size}", 0.0) + score
    return {name: value / len(white) for name, value in total.items()}


def _mixture(white: NDArray[np.float64], kind: str, size: int, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture

    # the ridge keeps a component of few users from collapsing onto them
    return GaussianMixture(size, covariance_type=kind, reg_covar=0.05, random_state=seed).fit(white)


def _standardised(mixture: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(weights [K], centres [K, R], factors [K, R, R]) of the mixture, moved and scaled to mean 0 and covariance 1."""
    weights, centres, covariances = mixture.weights_, mixture.means_, mixture.covariances_
    if covariances.ndim == 2:
        covariances = covariances[:, :, None] * np.eye(centres.shape[1])
    centres = centres - weights @ centres
    whole = np.tensordot(weights, covariances, 1) + (weights[:, None] * centres).T @ centres
    inverse = np.linalg.inv(np.linalg.cholesky(whole))
    return weights, centres @ inverse.T, inverse @ np.linalg.cholesky(covariances)


def _pick(cumulative: NDArray[np.float64], uniform: NDArray[np.float32]) -> NDArray[np.int64]:
    """[N] place of each uniform draw among cumulative weights [K]."""
    return np.minimum(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(cumulative) - 1)
