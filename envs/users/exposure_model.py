"""From a log with exposures to the numpy model of choices that is simulated, its rows of the table, and what it predicts."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from envs.logs.schema import InteractionLog
from envs.users.calibration import FREE_START, Calibration
from envs.users.exposure_fit import ExposureFitConfig, ExposurePosterior, fit_exposures
from envs.users.exposure_intervals import OFF, SHARE_OFF, ExposureErrors, exposure_errors
from envs.users.exposures import RequestLikelihood, Requests, request_likelihood, requests_of, slate_losses
from envs.users.interest import InterestModel
from envs.users.likelihood import Part
from envs.users.parameter_table import Row, array_rows, interest_rows, row, scaled_params
from envs.users.protocol import ChoiceParams, Trait, VisitParams, position_logits

METHOD = "from what slates showed; items and users integrated out, their errors in the interval"


def exposure_choice_model(
    log: InteractionLog, config: ExposureFitConfig, max_events: int, tick: Callable[[], None]
) -> InterestModel:
    """The model of choices and interests; default visits, no ratings. `fit_report` has its figures on test requests.

    All requests before the test part are used: spreads that are estimated need no early stopping.

    Args:
        log: a log with exposures.
        config: how to fit.
        max_events: consumed items of a user that count, the first ones.
        tick: called after each pass.
    """
    requests = requests_of(log, max_events)
    high = np.bincount(requests.user[requests.part != Part.TEST], minlength=requests.num_users)
    catalogue = log.catalogue
    posterior = fit_exposures(
        requests, high, catalogue.categories, catalogue.birth, log.users.features, config, tick=tick
    )
    errors = exposure_errors(requests, high, catalogue.categories, catalogue.birth, posterior)
    tick()
    model = interest_model(log, posterior, errors, int(high.sum()))
    still = fit_exposures(
        requests, high, catalogue.categories, catalogue.birth, log.users.features, config, moving=False, tick=tick
    )
    rivals = {
        "exposures_constant": constant_likelihood(requests),
        "exposures_popularity": popularity_request_likelihood(requests),
        "exposures_static": request_likelihood(
            interest_model(log, still, None, int(high.sum())), catalogue.birth, requests
        ),
    }
    ours = request_likelihood(model, catalogue.birth, requests)
    model.fit_report.update(_figures({"exposures": ours} | rivals), follows_popularity=False)
    return model


def _figures(likelihoods: dict[str, RequestLikelihood]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, likelihood in likelihoods.items():
        mean, half = likelihood.mean()
        figures |= {name: mean, f"{name}_half_width": half} if len(likelihood.loss) else {name: None}
    return figures


def interest_model(
    log: InteractionLog, posterior: ExposurePosterior, errors: ExposureErrors | None, num_requests: int
) -> InterestModel:
    """The numpy model: posterior means, on the scale where the mean norm of v, its error included, is 1.

    Args:
        log: the log.
        posterior: what was fitted.
        errors: standard errors; without them the model has no table.
        num_requests: requests that the estimates rest on.
    """
    values = {name: value.numpy() for name, value in posterior.values.items()}
    scale = float(posterior.norm)
    nothing = np.zeros(len(values["phi"]))
    calibration = Calibration(
        free={name: float(values[name]) for name in FREE_START},
        age_values=values["phi"].astype(np.float64),
        sd=dict.fromkeys(FREE_START, np.nan) if errors is None else errors.scalars,
        age_sd=nothing if errors is None else centred_sd(errors.age),
        held=(),
        num_parameters=len(FREE_START) + len(nothing),
        num_events=num_requests,
    )
    params, intervals = scaled_params(calibration, scale)
    level = float(values["bias"].mean())
    # the mean of b and that of the outside option are one number
    choice = ChoiceParams(outside=float(values["outside"]) - level, position_slope=float(values["position"]))
    model = InterestModel(
        params=params,
        visits=VisitParams(),
        item_embedding=(posterior.embedding.numpy() / scale).astype(np.float32),
        categories=log.catalogue.categories,
        item_bias=(values["bias"] - level).astype(np.float32),
        user_embedding=(posterior.start.numpy() / scale).astype(np.float32),
        context_weights=values["omega"].astype(np.float32),
        age_values=values["phi"].astype(np.float32),
        user_traits=np.zeros((len(log.users), len(Trait)), np.float32),
        rating_item=np.zeros(len(log.catalogue), np.float32),
        rating_grid=np.zeros(0, np.float32),
        choice=choice,
    )
    if errors is not None:
        rows = interest_rows(params, intervals, calibration, held_out=True) + array_rows(model, calibration)
        model.table.extend([_with_note(entry) for entry in rows] + choice_rows(choice, errors))
    return model


def _with_note(entry: Row) -> Row:
    """The row with what a fit with exposures has to say of it."""
    if entry["source"] != "fitted":
        return entry
    notes = {
        "item_embedding": "mean norm of the posterior means; with its error the mean norm of v is 1",
        "user_embedding": "mean norm of the posterior means before the first event; prior linear in the user's features",
        "item_bias": "standard deviation over items, in logits, centred; normal prior of fitted spread, independent of births",
        "context_weights": "root mean square over contexts and categories, in logits; normal prior of fitted spread",
    }
    unit = "logits against the mean of the knots" if entry["symbol"] == "φ" else entry["note"].partition("; ")[0]
    return {**entry, "note": notes.get(entry["name"], f"{unit}; {METHOD}") + _allowance(entry["name"])}


def _allowance(name: str) -> str:
    """What is added to the note of a parameter whose interval is wider than the information says."""
    return "; interval with an allowance measured on generated logs" if name in SHARE_OFF or name in OFF else ""


def choice_rows(choice: ChoiceParams, errors: ExposureErrors) -> list[Row]:
    """Rows of the outside option and of positions."""
    outside, slope = choice.outside or 0.0, choice.position_slope
    half, slope_half = (1.96 * errors.scalars[name] for name in ("outside", "position"))
    second = float(position_logits(2)[1])
    # the discount falls, so the steeper slope is the lower end
    ends = ((slope + slope_half) * second, (slope - slope_half) * second)
    return [
        row("outside_option", "x_0", outside, (outside - half, outside + half), f"logit of clicking nothing; {METHOD}"),
        row(
            "position_logits",
            "π",
            slope * second,
            ends,
            f"logits of the second slot against the first, a multiple of DCG's discount; {METHOD}",
        ),
    ]


def centred_sd(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] standard errors of n numbers with `covariance` [n, n], each against the mean of all."""
    centred = np.eye(len(covariance)) - 1 / len(covariance)
    sd: NDArray[np.float64] = np.sqrt(np.diag(centred @ covariance @ centred.T))
    return sd


def constant_likelihood(requests: Requests, part: Part = Part.TEST) -> RequestLikelihood:
    """All items alike: outside option and slope over positions are fitted to what lies before the test part."""
    return _of_item_scores(requests, np.zeros(requests.num_items), part)


def popularity_request_likelihood(requests: Requests, part: Part = Part.TEST) -> RequestLikelihood:
    """Utility is a multiple of the log of an item's share of clicks when shown (with ten more shows at the mean share)."""
    known = np.flatnonzero(requests.part != Part.TEST)
    slate = requests.slate[known]
    shows = np.bincount(slate[slate >= 0], minlength=requests.num_items)
    taken = requests.chosen[known] < requests.slate_size
    clicks = np.bincount(slate[np.flatnonzero(taken), requests.chosen[known][taken]], minlength=requests.num_items)
    mean = (clicks.sum() + 1) / (shows.sum() + 1)
    return _of_item_scores(requests, np.log((clicks + 10 * mean) / (shows + 10)) - np.log(mean), part)


def _of_item_scores(requests: Requests, scores: NDArray[np.float64], part: Part) -> RequestLikelihood:
    known, rows = np.flatnonzero(requests.part != Part.TEST), np.flatnonzero(requests.part == part)

    def losses(theta: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.float64]:
        utility = theta[2] * scores[np.maximum(requests.slate[of], 0)]
        return slate_losses(utility, requests, of, theta[0], theta[1])

    fitted = known[:: max(len(known) // 20_000, 1)]
    start = np.array([np.log(requests.slate_size), 1.0, 1.0])
    theta = minimize(lambda theta: losses(theta, fitted).mean() + 1e-6 * theta @ theta, start, method="BFGS").x
    return RequestLikelihood(user=requests.user[rows], loss=losses(theta, rows))
