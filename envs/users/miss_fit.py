"""Leaving out of boredom, fitted to the requests without a click of a log with exposures.

logit P(leave after the m-th request in a row without a click) = h_2 + h_3 (m - 1), maximum likelihood. A user's last request ended
its visit if more than an hour of log follows it, else it is left out. How users differ, and their satisfaction, are not in it.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog
from envs.users.interest import InterestModel
from envs.users.parameter_table import row
from envs.users.protocol import VisitParams

_PRIOR_SD = 3.0
_STEPS = 25
_NAMES = ("leave_miss", "impatience")
_NOTES = (
    ("h_2", "logit of leaving after one request without a click"),
    ("h_3", "rise of that logit per further one in a row"),
)


def with_misses(model: InterestModel, log: InteractionLog) -> InterestModel:
    """The model with `leave_miss` and `impatience` fitted to `log`, which has exposures; unchanged where all were clicked."""
    user, misses, left = missed_requests(log)
    if not len(left):
        return model
    theta, sd = _logit_fit(np.column_stack([np.ones(len(misses)), misses - 1.0]), left, user)
    method = f"maximum likelihood over {len(left)} requests without a click; sandwich clustered by user"
    rows = {
        name: row(name, symbol, value, (value - 1.96 * error, value + 1.96 * error), f"{note}; {method}")
        for name, (symbol, note), value, error in zip(_NAMES, _NOTES, theta.tolist(), sd.tolist(), strict=True)
    }
    return replace(
        model,
        visits=replace(model.visits, **dict(zip(_NAMES, theta.tolist(), strict=True))),
        table=[rows.get(entry["name"], entry) for entry in model.table],
    )


def missed_requests(log: InteractionLog) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """([M] user, [M] requests in a row without a click in this visit, this one included, [M] whether the visit ended) of the
    requests without a click of which the log tells whether the visit ended."""
    rows = np.flatnonzero(log.request >= 0)
    begins = np.diff(log.request[rows], prepend=-1) != 0
    first = rows[begins]
    number = np.cumsum(begins) - 1
    clicks = np.bincount(number, log.clicked[rows], minlength=len(first))
    user, visit, time = log.user[first].astype(np.int64), log.visit[first], log.timestamp[first]
    new_visit = (np.diff(user, prepend=-1) != 0) | (np.diff(visit, prepend=-1) != 0)
    order = np.arange(len(first))
    # the last request before this one that was clicked or lies before the visit
    broken = np.maximum.accumulate(np.where(clicks > 0, order, np.where(new_visit, order - 1, -1)))
    last = np.append(np.diff(user) != 0, True)[: len(first)]
    left = last | np.append(new_visit[1:], True)[: len(first)]
    known = ~last | (log.timestamp.max(initial=0) - time > VISIT_GAP_SECONDS)
    missed = (clicks == 0) & known
    return user[missed], (order - broken)[missed], left[missed]


def _logit_fit(
    design: NDArray[np.float64], outcome: NDArray[np.bool_], user: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(estimate, standard errors) of a logistic regression with a weak normal prior about the default values."""
    default = VisitParams()
    centre = np.array([default.leave_miss, default.impatience])
    theta, precision = centre.copy(), np.eye(len(centre)) / _PRIOR_SD**2
    for _ in range(_STEPS):
        chance = expit(design @ theta)
        score = design * (outcome - chance)[:, None]
        information = (design * (chance * (1 - chance))[:, None]).T @ design + precision
        theta = theta + np.linalg.solve(information, score.sum(axis=0) - precision @ (theta - centre))
    of_user = np.zeros((int(user.max()) + 1, len(centre)))
    np.add.at(of_user, user, score)
    bread = np.linalg.inv(information)
    return theta, np.sqrt(np.diag(bread @ (of_user.T @ of_user + precision) @ bread))
