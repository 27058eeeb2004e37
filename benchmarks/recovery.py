"""What a fit finds again of the parameters that made a log, with exposures and without: `python -m benchmarks.recovery`.

Generated logs of 2,000 users who consume some 100 items each, of 400 items in 12 categories, d = 8, slates of 10; half of the items
are born during the log, so that it sees them age. All of the log is fitted. Prints a table with
the estimates of the first seed and flat figures, and writes both to results/recovery.json. Errors are relative and means over
seeds:

* of lambda, alpha, ...: |estimate - truth| / |truth|;
* of omega: root mean square of the difference over that of the truth, contexts of a kind (hours, weekdays, places) against their
  mean, category by category, since what they share is in b and v;
* of phi: the same over the knots that items' ages reach, against their mean;
* utility_rank_correlation: Spearman's, over all items, of a user's utilities before its first test request, mean over users;
* coverage: share of 95 % intervals that hold the truth, over scalars, knots and contrasts of omega, and of each of these.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from envs.artefacts import save_json
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.exposure_fit import ExposureFitConfig, fit_exposures
from envs.users.exposure_intervals import ExposureErrors, exposure_errors
from envs.users.exposure_model import interest_model
from envs.users.exposures import Requests, replayed_preferences, requests_of
from envs.users.fit import FitConfig, fit_interest_model
from envs.users.interest import InterestModel
from envs.users.likelihood import Part
from envs.users.protocol import AGE_KNOTS

SEEDS = 3
CONFIG = SyntheticConfig(
    num_users=2_000,
    events_per_user=175,  # that a life has room for; 100 are consumed on average over seeds, since users leave and run out of items
    num_items=400,
    embedding_size=8,
    past_years=0.5,
    born_during=0.5,
    walk_sd=0.0,
)
EPOCHS = 60
SYMBOLS = {
    "lambda": "short_decay",
    "alpha": "short_weight",
    "beta": "satiation_gain",
    "gamma": "satiation_decay",
    "kappa": "long_weight",
    "eta": "long_rate",
    "short_half_life": "short_half_life_days",
    "satiation_half_life": "satiation_half_life_days",
}
CONTEXT_KINDS = (slice(0, 6), slice(6, 8), slice(8, 12))
"""Rows of omega that are alternatives to each other: hours, weekday or weekend, places in the visit."""
Z = 1.96


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Numbers of one kind, estimated, beside the truth."""

    truth: NDArray[np.float64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Root mean square of the difference over that of the truth."""
        return float(np.sqrt(np.mean((self.value - self.truth) ** 2) / np.mean(self.truth**2)))

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Whether each interval holds the truth."""
        return (self.low <= self.truth) & (self.truth <= self.high)


def estimates(
    model: InterestModel, truth: InterestModel, reached: int, errors: ExposureErrors | None
) -> dict[str, Estimate]:
    """Estimates of the scalars (from the model's table), of phi and omega (intervals from `errors`; without them none).

    Args:
        model: the fitted one.
        truth: the one that made the log.
        reached: knots of phi that items' ages reach.
        errors: of the fit with exposures.
    """
    rows = {row["name"]: row for row in model.table}
    found = {
        symbol: _scalar(getattr(truth.params, name), rows[name]) for symbol, name in SYMBOLS.items() if name in rows
    }
    centre = np.eye(reached) - 1 / reached
    covariance = None if errors is None else errors.age[:reached, :reached]
    found["phi"] = _contrasts(centre, truth.age_values[:reached], model.age_values[:reached], covariance)
    groups = model.context_weights.shape[1]
    rows_centred = np.zeros((CONTEXT_KINDS[-1].stop,) * 2)
    for kind in CONTEXT_KINDS:
        size = kind.stop - kind.start
        rows_centred[kind, kind] = np.eye(size) - 1 / size
    found["omega"] = _contrasts(
        np.kron(rows_centred, np.eye(groups)),
        truth.context_weights.ravel(),
        model.context_weights.ravel(),
        None if errors is None else errors.omega,
    )
    if model.choice.outside is not None:
        # what phi's knots share is the outside option's
        level, true_level = (float(values[:reached].mean()) for values in (model.age_values, truth.age_values))
        found["outside"] = _scalar(truth.fit_report["outside"] - true_level, rows["outside_option"], level)
        slope = {key: rows["position_logits"][key] for key in ("value", "low", "high")}
        found["position"] = _scalar(float(-np.log(np.log2(3.0))), slope)
    return found


def _scalar(truth: float, row: Mapping[str, Any], shift: float = 0.0) -> Estimate:
    value, low, high = (np.array([np.nan if row[key] is None else row[key]]) for key in ("value", "low", "high"))
    return Estimate(truth=np.array([truth]), value=value - shift, low=low - shift, high=high - shift)


def _contrasts(
    matrix: NDArray[np.floating],
    truth: NDArray[np.floating],
    value: NDArray[np.floating],
    covariance: NDArray[np.float64] | None,
) -> Estimate:
    half = np.full(len(matrix), np.nan)
    if covariance is not None:
        half = Z * np.sqrt(np.diag(matrix @ covariance @ matrix.T))
    found = matrix @ value
    return Estimate(truth=matrix @ truth, value=found, low=found - half, high=found + half)


def utility_rank_correlation(model: InterestModel, truth: InterestModel, requests: Requests) -> float:
    """Mean over users of Spearman's correlation, over all items, of utilities before the user's first test request."""
    first = np.flatnonzero((requests.part == Part.TEST) & (np.diff(requests.part, prepend=Part.TEST) != 0))
    ours, theirs = (
        replayed_preferences(which, requests)[first] @ which.item_vectors.T + which.item_bias
        for which in (model, truth)
    )
    return float(np.mean([spearmanr(one, other).statistic for one, other in zip(ours, theirs, strict=True)]))


def without_exposures(log: InteractionLog) -> InteractionLog:
    """The same log as a site would keep it that does not write down what was passed over."""
    consumed = log.consumed()
    unknown = np.full(len(consumed), -1)
    return replace(consumed, request=unknown, position=unknown.astype(np.int16))


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What one fit found."""

    found: dict[str, Estimate]
    utility_rank_correlation: float


def recover(config: SyntheticConfig, seed: int, fit: ExposureFitConfig, exposures: bool = True) -> Recovery:
    """Generates a log and fits it."""
    log, truth = generate_log(config, seed)
    requests = requests_of(log)
    oldest = (log.timestamp.max() - log.catalogue.birth.min()) / 86_400
    reached = int(np.searchsorted(AGE_KNOTS, np.log1p(oldest)))
    if not exposures:
        model = fit_interest_model(without_exposures(log), FitConfig(embedding_size=fit.embedding_size), progress=False)
        return Recovery(
            found=estimates(model, truth, reached, None),
            utility_rank_correlation=utility_rank_correlation(model, truth, requests),
        )
    high = np.diff(requests.starts)
    catalogue, features = log.catalogue, log.users.features
    posterior = fit_exposures(requests, high, catalogue.categories, catalogue.birth, features, fit)
    errors = exposure_errors(requests, high, catalogue.categories, catalogue.birth, posterior)
    model = interest_model(log, posterior, errors, int(high.sum()))
    return Recovery(
        found=estimates(model, truth, reached, errors),
        utility_rank_correlation=utility_rank_correlation(model, truth, requests),
    )


def figures(recoveries: list[Recovery], suffix: str = "") -> dict[str, float]:
    """Flat figures, means over `recoveries`."""
    names = recoveries[0].found
    flat = {
        f"recovery_{name}_error{suffix}": float(np.mean([r.found[name].error for r in recoveries])) for name in names
    }
    flat[f"recovery_utility_rank_correlation{suffix}"] = float(
        np.mean([r.utility_rank_correlation for r in recoveries])
    )
    kinds = {"scalars": [name for name in names if name not in ("phi", "omega")], "phi": ["phi"], "omega": ["omega"]}
    covered = {
        kind: np.concatenate([r.found[name].covered for r in recoveries for name in members])
        for kind, members in kinds.items()
        if np.isfinite(recoveries[0].found[members[0]].low).all()
    }
    flat |= {f"recovery_coverage_{kind}{suffix}": float(values.mean()) for kind, values in covered.items()}
    flat[f"recovery_coverage{suffix}"] = float(np.concatenate(list(covered.values())).mean())
    return flat


def main() -> None:
    """Fits all seeds, prints table and figures, writes results/recovery.json."""
    fit = ExposureFitConfig(embedding_size=CONFIG.embedding_size, epochs=EPOCHS)
    recoveries = []
    for seed in range(SEEDS):
        recoveries.append(recover(CONFIG, seed, fit))
        print(f"seed {seed} of {SEEDS}: {json.dumps(figures(recoveries[-1:]))}", file=sys.stderr)
    without = recover(CONFIG, 0, fit, exposures=False)
    flat = figures(recoveries) | figures([without], "_without_exposures")
    Console().print(_table(recoveries, without))
    scalars = {
        name: [
            {key: float(getattr(r.found[name], key)[0]) for key in ("truth", "value", "low", "high")}
            for r in recoveries
        ]
        for name in recoveries[0].found
        if name not in ("phi", "omega")
    }
    save_json(Path("results/recovery.json"), flat | {"seeds": SEEDS, "estimates": scalars})
    for name, value in flat.items():
        print(f"{name}: {value:.4f}")


def _table(recoveries: list[Recovery], without: Recovery) -> Table:
    table = Table("parameter", "truth", "estimate (seed 0)", "95 % interval", "mean error", "without exposures")
    for name, found in recoveries[0].found.items():
        other = without.found.get(name)
        error = f"{np.mean([r.found[name].error for r in recoveries]):.3f}"
        told = "not identified" if other is None else f"error {other.error:.3f}"
        if len(found.truth) > 1:
            table.add_row(name, "", f"{len(found.truth)} numbers", "", error, told)
        else:
            interval = f"{found.low[0]:.3f} to {found.high[0]:.3f}"
            told = told if other is None else f"{other.value[0]:.3f} ({told})"
            table.add_row(name, f"{found.truth[0]:.3f}", f"{found.value[0]:.3f}", interval, error, told)
    return table


if __name__ == "__main__":
    main()
