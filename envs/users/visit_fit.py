"""How visits end and begin, fitted to the times of a log's events, with random effects of the users.

Leaving: logit P(leave after an item) = h_0 + h_1 log(1 + items consumed before in the visit) + user's deviation; the first visit
of a user has an intercept and a slope of its own. A user's last event of the log ends its visit if more than an hour of log
follows it, else it is left out.

Returning: a mixture-cure model. A share rho of visits is followed by another one, logit rho = r_0 + user's deviation, after a
gap whose log(days) is g_0 + user's deviation + noise: normal, or one of two normals where the log tells (BIC). A gap that the log
shows counts log(rho f(gap)); the end of a user's last visit counts log(1 - rho + rho S(days until the log's end)).
Source: Boag (1949); Maller and Zhou (1996), Survival analysis with long-term survivors.

Ageing: both the logit of leaving and the mean of log(days) move by a slope times log(visits had before), in a first visit log(1).
A fit holds one value for each user, that as of the log's end: the ageing up to then, against the mean of the users, is part of
the user's traits LEAVE and GAP, and h_0 and g_0 are those of the mean user then. Users do not age on in a run.

The deviations are normal over users. Their likelihood is an integral over a grid of deviations, their spread a parameter
among the others (empirical Bayes). A user's trait is one draw from its posterior, so that simulated users differ from each other
as much as real ones do; posterior means would differ less.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from envs.catalogue import SECONDS_PER_DAY
from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog
from envs.randomness import Purpose, draw_uniform
from envs.users.protocol import Trait, VisitParams

_MAX_USERS = 4_000
"""Users that the parameters are estimated from; every user's traits come from its own events."""
_BLOCK = 4_096
"""Users whose posteriors are held at once."""
_BUCKETS_PER_OCTAVE = 4
"""Places in a visit, and visits, are grouped in steps of a quarter of a doubling; slopes are taken at the group's mean."""
_LEAVE_GRID = torch.linspace(-3.6, 3.6, 25, dtype=torch.float64)
_RETURN_GRID = torch.linspace(-3.2, 3.2, 9, dtype=torch.float64)
_GAP_GRID = torch.linspace(-3.6, 3.6, 25, dtype=torch.float64)
"""Deviations of a user, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class VisitFit:
    """Fitted visit process."""

    params: VisitParams
    spread: dict[str, float]
    """Standard deviation over users of the deviations, by name: leave_spread, return_spread, gap_spread."""
    intervals: dict[str, tuple[float, float]]
    """95 % interval of each fitted field of `params` and of each spread."""
    traits: NDArray[np.float32]
    """[U, len(Trait)] the users' deviations LEAVE, GAP and RETURN, ageing included; 0 in the other columns."""
    num_visits: int
    """Visits that the estimates rest on."""


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    """One number that is estimated."""

    name: str
    start: float
    """Mean of its normal prior too, in free units."""
    prior_sd: float = 3.0
    """It decides only where a log says next to nothing."""
    to_unit: Callable[[float], float] = lambda free: free
    """From free units to the parameter's own; rising."""


def _sigmoid(free: float) -> float:
    return float(1 / (1 + np.exp(-free)))


_DEFAULT = VisitParams()
_LEAVE = (
    _Parameter(name="leave_intercept", start=_DEFAULT.leave_intercept),
    _Parameter(name="leave_log_place", start=_DEFAULT.leave_log_place),
    _Parameter(name="first_leave_intercept", start=0.0, prior_sd=1.0),
    _Parameter(name="first_leave_log_place", start=0.0, prior_sd=1.0),
    _Parameter(name="leave_spread", start=-1.0, prior_sd=1.0, to_unit=np.exp),
    _Parameter(name="leave_ageing", start=0.0, prior_sd=1.0),
)
_RETURN = (
    _Parameter(name="return_intercept", start=_DEFAULT.return_intercept),
    _Parameter(name="return_spread", start=-1.0, prior_sd=1.0, to_unit=np.exp),
    _Parameter(name="gap_log_mean", start=_DEFAULT.gap_log_mean),
    _Parameter(name="gap_log_sd", start=np.log(_DEFAULT.gap_log_sd), to_unit=np.exp),
    _Parameter(name="gap_spread", start=-1.0, prior_sd=1.0, to_unit=np.exp),
    _Parameter(name="gap_ageing", start=0.0, prior_sd=1.0),
)
_WIDE = (
    _Parameter(name="wide_gap_share", start=0.0, prior_sd=1.5, to_unit=_sigmoid),
    _Parameter(name="wide_gap_shift", start=-1.0, prior_sd=1.5),
    _Parameter(name="wide_gap_log_sd", start=0.7, prior_sd=1.0, to_unit=np.exp),
)

Likelihood = Callable[[Tensor], Tensor]
"""Takes the free parameters, gives the log-likelihood [U, nodes] of each user at each node of its grid of deviations, prior of the
node included."""


@dataclass(frozen=True, kw_only=True)
class _Visits:
    """What the times of a log say, cut into users."""

    user: NDArray[np.int64]
    """[R] user of each event."""
    place: NDArray[np.int64]
    """[R] items before it in the visit."""
    visit: NDArray[np.int64]
    """[R] visits of the user before this one."""
    left: NDArray[np.bool_]
    """[R] whether the visit ended there."""
    last: NDArray[np.bool_]
    """[R] whether it is the user's last event."""
    known: NDArray[np.bool_]
    """[R] whether the log tells if the visit ended."""
    log_away: NDArray[np.float64]
    """[R] log of the days until the user's next event, or until the log's end after its last."""
    age: NDArray[np.float64]
    """[U] log of the visits that each user has had by the end, less the users' mean; 0 for users without events."""
    mean_age: float
    """That mean."""

    @classmethod
    def of(cls, log: InteractionLog, until: int | None) -> "_Visits":
        events = log.consumed()
        last = np.diff(events.user, append=-1) != 0
        until_end = (events.timestamp.max(initial=0) if until is None else until) - events.timestamp
        log_visits = np.log1p(events.visit[last])
        mean_age, age = float(log_visits.mean()) if len(log_visits) else 0.0, np.zeros(len(log.users))
        age[events.user[last]] = log_visits - mean_age
        away = np.where(last, until_end, np.diff(events.timestamp, append=0)) / SECONDS_PER_DAY
        return cls(
            user=events.user.astype(np.int64),
            place=events.place_in_visit,
            visit=events.visit.astype(np.int64),
            left=last | (np.append(events.visit[1:], -1) != events.visit),
            last=last,
            known=~last | (until_end > VISIT_GAP_SECONDS),
            log_away=np.log(np.maximum(away, 1 / SECONDS_PER_DAY)),
            age=age,
            mean_age=mean_age,
        )

    def leaving(self, users: NDArray[np.int64]) -> Likelihood:
        """Of `users`, ascending."""
        rows = np.flatnonzero(np.isin(self.user, users) & self.known)
        visit, place = self.visit[rows], self.place[rows]
        who = np.searchsorted(users, self.user[rows])
        group, of = np.unique((who * 256 + _bucket(visit)) * 256 + _bucket(place), return_inverse=True)
        events = np.bincount(of, minlength=len(group)).astype(np.float64)
        count = torch.from_numpy(events)[:, None]
        log_place = torch.from_numpy(np.bincount(of, np.log1p(place), minlength=len(group)) / events)
        left = torch.from_numpy(np.bincount(of, self.left[rows], minlength=len(group)))[:, None]
        first = torch.from_numpy((group // 256 % 256 == 0).astype(np.float64))
        log_visit = np.bincount(of, np.log(np.maximum(visit, 1)), minlength=len(group)) / events
        age, who_of_group = torch.from_numpy(log_visit - self.mean_age), torch.from_numpy(group // 65_536)

        def likelihood(theta: Tensor) -> Tensor:
            logit = theta[0] + theta[2] * first + (theta[1] + theta[3] * first) * log_place + theta[5] * age
            logit = logit[:, None] + theta[4].exp() * _LEAVE_GRID
            each = left * logit - count * functional.softplus(logit)
            return _sum_of_users(each, who_of_group, len(users)) + _prior(_LEAVE_GRID)

        return likelihood

    def returning(self, users: NDArray[np.int64], two_kinds: bool) -> Likelihood:
        """Of `users`, ascending; nodes are pairs of a deviation in coming back and one in the gap, the latter running faster."""
        ends = np.isin(self.user, users) & self.left & self.known
        gaps, finals = np.flatnonzero(ends & ~self.last), np.flatnonzero(ends & self.last)
        who_gap = torch.from_numpy(np.searchsorted(users, self.user[gaps]))
        who_final = torch.from_numpy(np.searchsorted(users, self.user[finals]))
        gap, final = torch.from_numpy(self.log_away[gaps]), torch.from_numpy(self.log_away[finals])
        returns = torch.bincount(who_gap, minlength=len(users)).double()
        log_visits = np.log1p(self.visit) - self.mean_age
        gap_age, final_age = torch.from_numpy(log_visits[gaps]), torch.from_numpy(log_visits[finals])

        def scores(log_days: Tensor, age: Tensor, theta: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
            """(log share, standard score, log sd) of each kind of gap."""
            off = (log_days - theta[2] - theta[5] * age)[:, None] - theta[4].exp() * _GAP_GRID
            if not two_kinds:
                return [(theta.new_zeros(()), off * (-theta[3]).exp(), theta[3])]
            return [
                (functional.logsigmoid(-theta[6]), off * (-theta[3]).exp(), theta[3]),
                (functional.logsigmoid(theta[6]), (off - theta[7]) * (-theta[8]).exp(), theta[8]),
            ]

        def likelihood(theta: Tensor) -> Tensor:
            logit = theta[0] + theta[1].exp() * _RETURN_GRID
            back, stays = functional.logsigmoid(logit), functional.logsigmoid(-logit)
            density = torch.stack([share - 0.5 * z**2 - sd for share, z, sd in scores(gap, gap_age, theta)]).logsumexp(
                0
            )
            final_scores = scores(final, final_age, theta)
            survival = torch.stack([share + torch.special.log_ndtr(-z) for share, z, _ in final_scores]).logsumexp(0)
            away = torch.logaddexp(stays[:, None], back[:, None] + survival[:, None])
            of_gap = _sum_of_users(density - 0.5 * np.log(2 * np.pi) - gap[:, None], who_gap, len(users))
            both = (returns[:, None] * back)[:, :, None] + of_gap[:, None]
            both = both + _prior(_RETURN_GRID)[:, None] + _prior(_GAP_GRID)
            return (both.index_add(0, who_final, away)).flatten(1)

        return likelihood


def fit_visits(log: InteractionLog, seed: int = 0, until: int | None = None) -> VisitFit:
    """Fits leaving and returning to all consumed rows of the log; fields that times cannot tell keep their defaults.

    Args:
        log: the log.
        seed: of the draws from the users' posteriors, and of the users that very large logs are fitted to.
        until: seconds since 1970 until which the log was kept; None for its last event.
    """
    visits = _Visits.of(log, until)
    present = np.unique(visits.user)
    users = np.sort(np.random.default_rng(seed).permutation(present)[:_MAX_USERS])

    leave = _maximum_likelihood(visits.leaving(users), _LEAVE)
    back = _maximum_likelihood(visits.returning(users, False), _RETURN)
    back_parameters: tuple[_Parameter, ...] = _RETURN
    two_kinds = _maximum_likelihood(visits.returning(users, True), _RETURN + _WIDE)
    num_visits = int((np.isin(visits.user, users) & visits.left & visits.known).sum())
    gain = two_kinds.log_likelihood - back.log_likelihood
    if gain > 0.5 * len(_WIDE) * np.log(max(num_visits, 2)):
        back, back_parameters = two_kinds, _RETURN + _WIDE

    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for estimate, parameters in ((leave, _LEAVE), (back, back_parameters)):
        for number, parameter in enumerate(parameters):
            free, half = estimate.free[number], 1.96 * estimate.sd[number]
            values[parameter.name] = float(parameter.to_unit(free))
            intervals[parameter.name] = (float(parameter.to_unit(free - half)), float(parameter.to_unit(free + half)))
    spread = {name: values.pop(name) for name in ("leave_spread", "return_spread", "gap_spread")}

    traits = np.zeros((len(log.users), len(Trait)), np.float32)
    pairs = torch.cartesian_prod(_RETURN_GRID, _GAP_GRID)
    for begin in range(0, len(log.users), _BLOCK):
        block = np.arange(begin, min(begin + _BLOCK, len(log.users)))
        with torch.no_grad():
            leaving = visits.leaving(block)(torch.from_numpy(leave.free))
            returning = visits.returning(block, back is two_kinds)(torch.from_numpy(back.free))
        traits[block, Trait.LEAVE] = (
            spread["leave_spread"] * _posterior_draws(leaving, _LEAVE_GRID[:, None], block, seed, 0)[:, 0]
        )
        both = _posterior_draws(returning, pairs, block, seed, 1)
        traits[block, Trait.RETURN] = spread["return_spread"] * both[:, 0]
        traits[block, Trait.GAP] = spread["gap_spread"] * both[:, 1]
    traits[:, Trait.LEAVE] += values["leave_ageing"] * visits.age
    traits[:, Trait.GAP] += values["gap_ageing"] * visits.age
    return VisitFit(
        params=replace(_DEFAULT, **values),
        spread=spread,
        intervals=intervals,
        traits=traits,
        num_visits=num_visits,
    )


def _bucket(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for 0, and from 1 on groups of like size; below 256."""
    return np.floor(_BUCKETS_PER_OCTAVE * np.log2(1 + numbers)).astype(np.int64)


def _sum_of_users(each: Tensor, user: Tensor, num_users: int) -> Tensor:
    return each.new_zeros(num_users, each.shape[1]).index_add(0, user, each)


def _prior(grid: Tensor) -> Tensor:
    """Log probability of each node under a standard normal."""
    density = -0.5 * grid**2
    return density - density.logsumexp(0)


def _posterior_draws(
    likelihood: Tensor, nodes: Tensor, users: NDArray[np.int64], seed: int, stream: int
) -> NDArray[np.float64]:
    """[U, D] one draw for each user: a node [nodes, D] by its posterior, moved about inside its cell."""
    share = torch.softmax(likelihood, dim=1).numpy()
    chance = draw_uniform(seed, Purpose.TRAIT, users, stream, 0).astype(np.float64)
    node = np.minimum((share.cumsum(axis=1) < chance[:, None]).sum(axis=1), len(nodes) - 1)
    axis = np.arange(nodes.shape[1])
    step = np.array([np.diff(np.unique(nodes[:, which].numpy())).max() for which in axis])
    inside = draw_uniform(seed, Purpose.TRAIT, users[:, None], stream, 1 + axis).astype(np.float64) - 0.5
    drawn: NDArray[np.float64] = nodes.numpy()[node] + step * inside
    return drawn


@dataclass(frozen=True, kw_only=True)
class _Estimate:
    free: NDArray[np.float64]
    sd: NDArray[np.float64]
    log_likelihood: float


def _maximum_likelihood(likelihood: Likelihood, parameters: tuple[_Parameter, ...]) -> _Estimate:
    """Estimate by BFGS, standard errors from a sandwich of the Hessian and the users' scores."""
    start = np.array([parameter.start for parameter in parameters])
    precision = np.array([parameter.prior_sd for parameter in parameters]) ** -2.0

    def of_users(theta: Tensor) -> Tensor:
        return likelihood(theta).logsumexp(1)

    def loss(free: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = torch.tensor(free, requires_grad=True)
        value = -of_users(theta).sum()
        value.backward()
        assert theta.grad is not None
        off = free - start
        return value.item() + 0.5 * float(precision @ off**2), theta.grad.numpy() + precision * off

    free = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-2}).x
    step = 1e-4 * np.eye(len(free))
    hessian = np.stack([(loss(free + along)[1] - loss(free - along)[1]) / 2e-4 for along in step])
    with torch.no_grad():
        above = [of_users(torch.from_numpy(free + along)) for along in step]
        below = [of_users(torch.from_numpy(free - along)) for along in step]
        score = torch.stack([(up - down) / 2e-4 for up, down in zip(above, below, strict=True)], dim=1).numpy()
        log_likelihood = float(of_users(torch.from_numpy(free)).sum())
    bread = np.linalg.inv((hessian + hessian.T) / 2)
    sd = np.sqrt(np.diag(bread @ (score.T @ score + np.diag(precision)) @ bread))
    return _Estimate(free=free, sd=sd, log_likelihood=log_likelihood)
