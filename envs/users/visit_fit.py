"""How visits end and begin, fitted to the times of a log's events.

Leaving: logit P(leave after an item) = a + c log(1 + items consumed before in the visit), maximum likelihood over all consumed
events. A user's last event of the log ends its visit if more than an hour of log follows it, else it is left out.

Returning: a mixture-cure model. A share rho ever comes back after a visit, and of those log(days away) is normal. A gap that
the log shows counts log(rho f(gap)); the end of a user's last visit counts log(1 - rho + rho S(days until the log's end)).
Source: Boag (1949); Maller and Zhou (1996), Survival analysis with long-term survivors.
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
from envs.users.protocol import VisitParams

_PRIOR_SD = 3.0
"""Standard deviation of the normal prior about the default values: it decides only where a log says next to nothing."""


@dataclass(frozen=True, kw_only=True)
class VisitFit:
    """Fitted visit process."""

    params: VisitParams
    intervals: dict[str, tuple[float, float]]
    """95 % interval of each fitted field of `params`."""
    num_visits: int
    """Visits that the estimates rest on."""


def fit_visits(log: InteractionLog) -> VisitFit:
    """Fits leaving and returning to all consumed rows of the log; fields that times cannot tell keep their defaults."""
    events = log.consumed()
    default = VisitParams()
    last_of_user = np.diff(events.user, append=-1) != 0
    next_visit = np.append(events.visit[1:], -1)
    left = last_of_user | (next_visit != events.visit)
    until_end = events.timestamp.max(initial=0) - events.timestamp
    known = ~last_of_user | (until_end > VISIT_GAP_SECONDS)

    log_place = torch.from_numpy(np.log1p(events.place_in_visit[known]))
    outcome = torch.from_numpy(left[known].astype(np.float64))

    def leaving(theta: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(theta[0] + theta[1] * log_place, outcome, reduction="none")

    start = np.array([default.leave_intercept, default.leave_log_place])
    leave, leave_sd = _maximum_likelihood(leaving, start, events.user[known])

    visit_ends = np.flatnonzero(left & known)
    censored = last_of_user[visit_ends]
    following = np.append(events.timestamp[1:], 0)[visit_ends]
    away = np.where(censored, until_end[visit_ends], following - events.timestamp[visit_ends]) / SECONDS_PER_DAY
    log_away = torch.from_numpy(np.log(np.maximum(away, 1 / SECONDS_PER_DAY)))
    is_censored = torch.from_numpy(censored)

    def returning(theta: Tensor) -> Tensor:
        back, stays = functional.logsigmoid(theta[0]), functional.logsigmoid(-theta[0])
        score = (log_away - theta[1]) * torch.exp(-theta[2])
        density = -0.5 * score**2 - theta[2] - log_away - 0.5 * np.log(2 * np.pi)
        survival = torch.special.log_ndtr(-score)
        return -torch.where(is_censored, torch.logaddexp(stays, back + survival), back + density)

    start = np.array([default.return_intercept, default.gap_log_mean, np.log(default.gap_log_sd)])
    back, back_sd = _maximum_likelihood(returning, start, events.user[visit_ends])

    names = ("leave_intercept", "leave_log_place", "return_intercept", "gap_log_mean", "gap_log_sd")
    values, spread = np.concatenate([leave, back]), 1.96 * np.concatenate([leave_sd, back_sd])
    low, high = values - spread, values + spread
    for array in (values, low, high):
        array[-1] = np.exp(array[-1])
    return VisitFit(
        params=replace(default, **dict(zip(names, values.tolist(), strict=True))),
        intervals={name: (float(low[k]), float(high[k])) for k, name in enumerate(names)},
        num_visits=len(visit_ends),
    )


def _maximum_likelihood(
    loss: Callable[[Tensor], Tensor], start: NDArray[np.float64], user: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate and standard errors of the theta that minimises the sum of `loss(theta)` [E]; events of a `user` [E] belong
    together (sandwich of the Hessian and the users' scores)."""
    centre = torch.from_numpy(start)

    def penalised(theta: Tensor) -> Tensor:
        return loss(theta).sum() + 0.5 * ((theta - centre) ** 2).sum() / _PRIOR_SD**2

    def value_and_gradient(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        leaf = torch.tensor(theta, requires_grad=True)
        value = penalised(leaf)
        value.backward()
        assert leaf.grad is not None
        return value.item(), leaf.grad.numpy()

    best = torch.from_numpy(minimize(value_and_gradient, start, jac=True, method="BFGS").x)
    hessian = torch.autograd.functional.hessian(penalised, best).numpy()
    step = 1e-5 * torch.eye(len(start), dtype=torch.float64)
    score = np.stack([((loss(best + along) - loss(best - along)) / 2e-5).numpy() for along in step], axis=1)
    of_user = np.zeros((int(user.max(initial=0)) + 1, len(start)))
    np.add.at(of_user, user, score)
    bread = np.linalg.inv(hessian)
    prior = np.eye(len(start)) / _PRIOR_SD**2
    return best.numpy(), np.sqrt(np.diag(bread @ (of_user.T @ of_user + prior) @ bread))
