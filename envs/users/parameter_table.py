"""The table of parameters: each *fitted*, with an interval of 95 %, or *assumed*, with the reason for its value."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.users.calibration import Calibration
from envs.users.engagement_fit import EngagementFit
from envs.users.interest import InterestModel, InterestParams
from envs.users.protocol import AGE_KNOTS, VisitParams, position_logits
from envs.users.taste_traits import TASTES, TasteTraits
from envs.users.visit_fit import VisitFit

Row = dict[str, Any]
"""name, symbol, value, low, high, source, note; low and high are None where there is no interval."""


def row(
    name: str, symbol: str, value: float, interval: tuple[float, float] | None, note: str, source: str = "fitted"
) -> Row:
    """One row of the table; an interval that is not finite is none."""
    low, high = interval if interval is not None and np.isfinite(interval).all() else (None, None)
    return {
        "name": name,
        "symbol": symbol,
        "value": float(value) if np.isfinite(value) else None,
        "low": low,
        "high": high,
        "source": source,
        "note": note,
    }


def scaled_params(calibration: Calibration, scale: float) -> tuple[InterestParams, dict[str, tuple[float, float]]]:
    """(parameters, intervals) in the units of `InterestParams` once embeddings and interests are divided by `scale`.

    A utility k p.v is unchanged by v -> v / scale, p -> p / scale, k -> k scale^2; and s, being a mean of v, scales with it.
    """
    values, intervals = {}, {}
    for name in ("short_decay", "long_rate", "satiation_decay"):
        values[name], intervals[name] = _transformed(calibration, name, lambda x: 1 / (1 + np.exp(-x)))
    for name in ("short_half_life_days", "satiation_half_life_days"):
        values[name], intervals[name] = _transformed(calibration, name, np.exp)
    for name in ("short_weight", "long_weight"):
        values[name], intervals[name] = _transformed(calibration, name, lambda x: x * scale**2)
    values["satiation_gain"], intervals["satiation_gain"] = _transformed(calibration, "satiation_gain", lambda x: x)
    return InterestParams(**values), intervals


def _transformed(calibration: Calibration, name: str, rising: Any) -> tuple[float, tuple[float, float]]:
    value, half = calibration.free[name], 1.96 * calibration.sd[name]
    return float(rising(value)), (float(rising(value - half)), float(rising(value + half)))


def interest_rows(
    params: InterestParams, intervals: dict[str, tuple[float, float]], calibration: Calibration, held_out: bool
) -> list[Row]:
    """Rows of the scalars."""
    where = "early-stopping part" if held_out else "fit part (the early-stopping part is too small)"
    method = f"given embeddings, on {calibration.num_events} events of the {where}; sandwich clustered by user, weak normal prior"
    named = (
        ("long_weight", "κ", "logits per unit of long-term interest"),
        ("long_rate", "η", "share of the way to a consumed item"),
        ("short_weight", "α", "logits per unit of short-term interest"),
        ("short_decay", "λ", "share kept per item; held-out estimates of a list-ordered log hold the list's order too"),
        ("short_half_life_days", "h_s", "days between visits"),
        ("satiation_gain", "β", "logits lost per unit of satiation; below 0, categories persist rather than sate"),
        ("satiation_decay", "γ", "share kept per item"),
        ("satiation_half_life_days", "h_f", "days between visits"),
    )
    rows = [
        row(name, symbol, getattr(params, name), None, f"{unit}; left out of this fit", "assumed")
        if name in calibration.held
        else row(name, symbol, getattr(params, name), intervals[name], f"{unit}; {method}")
        for name, symbol, unit in named
    ]
    walk = "the log has too few visits per user to tell a walk from noise"
    rows.append(row("walk_sd", "σ_p", params.walk_sd, None, walk, "assumed"))
    return rows


def popularity_rows(gain: float, needed: int) -> list[Row]:
    """Rows of a model that is left with popularity."""
    note = (
        f"left at 0: on the early-stopping part all of it gains {gain:.1f} nats over popularity, not more than the {needed} "
        "parameters fitted there; choices follow popularity"
    )
    held = InterestParams()
    symbols = {
        "long_weight": "κ",
        "long_rate": "η",
        "short_weight": "α",
        "short_decay": "λ",
        "short_half_life_days": "h_s",
        "satiation_gain": "β",
        "satiation_decay": "γ",
        "satiation_half_life_days": "h_f",
        "walk_sd": "σ_p",
    }
    weights = ("long_weight", "short_weight", "satiation_gain")
    rows = [
        row(name, symbol, 0.0 if name in weights else getattr(held, name), None, note, "assumed")
        for name, symbol in symbols.items()
    ]
    return rows


def array_rows(model: InterestModel, calibration: Calibration) -> list[Row]:
    """Rows that sum up the arrays."""
    users, left_out = "users resampled; weight decay towards 0", "left out of this fit"
    scale = "mean norm, fixed to 1: the scale of v, p and s is free"
    rows = [row("item_embedding", "v", _mean_norm(model.item_embedding), None, scale, "assumed")]
    named: tuple[tuple[str, str, NDArray[np.floating], Statistic, str], ...] = (
        ("user_embedding", "p", model.user_embedding, _mean_norm, f"mean norm before the first event; {users}"),
        ("user_embedding_mean", "p", model.user_embedding, _norm_of_mean, f"norm of the users' mean; {users}"),
        ("user_embedding_spread", "p", model.user_embedding, _spread, f"root of the covariance's trace; {users}"),
        (
            "user_embedding_directions",
            "p",
            model.user_embedding,
            _directions,
            f"directions in which users differ, (trace of the covariance)² / trace of its square; {users}",
        ),
        (
            "item_bias",
            "b",
            model.item_bias[:, None],
            _spread,
            "standard deviation over items, in logits, centred; items resampled; holds the slope of the age effect too",
        ),
    )
    rows += [row(name, symbol, of(array), bootstrap(array, of), note) for name, symbol, array, of, note in named]
    taste = model.context_weights
    note = "root mean square over contexts and categories, in logits; categories resampled; weight decay towards 0"
    if taste.any():
        rows.append(
            row("context_weights", "ω", _root_mean_square(taste.T), bootstrap(taste.T, _root_mean_square), note)
        )
    else:
        rows.append(row("context_weights", "ω", 0.0, None, left_out, "assumed"))
    for knot, value, sd in zip(AGE_KNOTS, calibration.age_values, calibration.age_sd, strict=True):
        note = "logits against the mean of the knots; its slope is held near 0 by a ridge (it hides in b), its bends are fitted"
        interval = (value - 1.96 * sd, value + 1.96 * sd)
        name, held = f"age_effect_{np.expm1(knot):.0f}_days", "age_values" in calibration.held
        rows.append(row(name, "φ", value, None, left_out, "assumed") if held else row(name, "φ", value, interval, note))
    return rows


Statistic = Callable[[NDArray[np.floating]], float]
"""Takes rows [N, D], gives one number."""


def bootstrap(rows: NDArray[np.floating], statistic: Statistic, resamples: int = 100) -> tuple[float, float]:
    """95 % percentile interval of `statistic` of `rows` [N, D], rows resampled."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    # resampled copies make rows seem fewer, so the interval can miss the value itself
    value = statistic(rows)
    return min(float(low), value), max(float(high), value)


def _mean_norm(rows: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(rows, axis=1).mean())


def _norm_of_mean(rows: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(rows.mean(axis=0)))


def _spread(rows: NDArray[np.floating]) -> float:
    return float(np.sqrt(rows.var(axis=0).sum()))


def _directions(rows: NDArray[np.floating]) -> float:
    covariance = np.cov(rows.T, ddof=0)
    return float(np.trace(covariance) ** 2 / max(float((covariance**2).sum()), 1e-12))


def _root_mean_square(rows: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(rows**2)))


def visit_rows(fit: VisitFit) -> list[Row]:
    """Rows of leaving and returning, and of what a log without exposures cannot tell."""
    leave = (
        "logit with a random intercept per user, maximum marginal likelihood over consumed events; sandwich over users"
    )
    back = f"mixture cure with random effects of users, censored at the log's end, {fit.num_visits} visits; sandwich over users"
    spread = "standard deviation over users, normal; a user's trait is a draw from its posterior"
    none = "one normal describes the gaps as well (BIC)"
    notes = {
        "leave_intercept": ("h_0", leave),
        "leave_log_place": ("h_1", f"per log(1 + items consumed before in the visit); {leave}"),
        "first_leave_intercept": ("h_5", f"added to h_0 in a user's first visit, before any run; {leave}"),
        "first_leave_log_place": ("h_6", f"added to h_1 there; {leave}"),
        "leave_ageing": ("h_7", f"per log(visits had), in a user's trait as of the log's end; {leave}"),
        "leave_spread": ("τ_h", f"logits of leaving; {spread}"),
        "return_intercept": ("r_0", f"logit of ever coming back; {back}"),
        "return_spread": ("τ_r", f"logits of coming back; {spread}"),
        "gap_log_mean": ("g_0", f"mean of log(days away); {back}"),
        "gap_log_sd": ("g_1", f"standard deviation of log(days away) within a user; {back}"),
        "wide_gap_share": ("g_3", f"share of gaps of the second kind; {back}"),
        "wide_gap_shift": ("g_4", f"mean of log(days away) of the second kind against the first; {back}"),
        "wide_gap_log_sd": ("g_5", f"standard deviation of log(days away) of the second kind; {back}"),
        "gap_ageing": ("g_6", f"log days per log(visits had), in a user's trait as of the log's end; {back}"),
        "gap_spread": ("τ_g", f"log days; {spread}"),
    }
    values = asdict(fit.params) | fit.spread
    rows = [
        row(name, symbol, values[name], fit.intervals[name], note)
        if name in fit.intervals
        else row(name, symbol, values[name], None, none, "assumed")
        for name, (symbol, note) in notes.items()
    ]
    assumed = {
        "leave_miss": ("h_2", "logit of leaving after one request without a click: unseen where a log has clicks only"),
        "impatience": ("h_3", "rise of that logit per further miss: unseen where a log has clicks only"),
        "leave_satisfaction": ("h_4", "logits per nat: satisfaction is not seen without exposures; sign by reason"),
        "return_satisfaction": ("r_1", "logits per nat: satisfaction is not seen without exposures; sign by reason"),
        "gap_satisfaction": ("g_2", "log days per nat: satisfaction is not seen without exposures; sign by reason"),
        "satisfaction_decay": ("δ", "share kept per request: a memory of about five requests"),
    }
    defaults = VisitParams()
    rows += [
        row(name, symbol, getattr(defaults, name), None, note, "assumed") for name, (symbol, note) in assumed.items()
    ]
    outside = "logit of clicking nothing: set for each run so that the popularity policy gets a stated click rate"
    position = "logits of the second slot against the first, the discount of DCG: clicks without exposures say nothing of position"
    rows.append(row("outside_option", "x_0", float("nan"), None, outside, "assumed"))
    rows.append(row("position_logits", "π", float(position_logits(2)[1]), None, position, "assumed"))
    return rows


def taste_rows(tastes: TasteTraits) -> list[Row]:
    """Rows of how users differ in their weights on popularity and novelty and in their focus."""
    names = [f"{trait.name.lower()}_taste_spread" for trait in TASTES]
    if tastes.gain <= 0:
        note = "users' own do not predict held-out events: none are given"
        return [row(name, "", 0.0, None, note, "assumed") for name in names]
    note = "standard deviation over users; scores of events of a user at least four apart; users resampled"
    rows = []
    for name, spread, traits in zip(names, tastes.spread, tastes.users.T, strict=True):
        # modes are shrunk, so they differ less than traits do; their interval is stretched by as much
        stretch = spread / max(_spread(traits[:, None]), 1e-9)
        low, high = bootstrap(traits[:, None], _spread)
        rows.append(row(name, "", spread, (stretch * low, stretch * high), note))
    return rows


def engagement_rows(fit: EngagementFit) -> list[Row]:
    """Rows of the engagement head; none where the log has neither ratings nor watch times."""
    if not fit.unit:
        return []
    unit = "rating units" if fit.unit == "rating" else "log(1 + seconds watched)"
    chosen = (
        f"shrunk by {fit.user_ridge:g} events (users) and {fit.item_ridge:g} (items), a user's events count half after "
        f"{fit.half_life:g}: chosen on the early-stopping part"
    )
    line = f"levels recalibrated there: {fit.recalibration[0]:.2f} + {fit.recalibration[1]:.2f} level"
    spread = f"users or items resampled; {chosen}"
    rows = [
        row(
            "rating_slope",
            "ρ_1",
            fit.slope,
            fit.slope_interval,
            f"{unit} per logit of utility, levels held; clustered by user",
        ),
        row(
            "rating_sd",
            "ρ_2",
            fit.sd,
            fit.sd_interval,
            f"{unit} about the mean; ordered probit, clustered by user; {line}",
        ),
        row(
            "rating_user_spread",
            "τ_u",
            fit.user_spread,
            fit.user_spread_interval,
            f"{unit} between users' levels; {spread}",
        ),
        row(
            "rating_item_spread",
            "τ_i",
            fit.item_spread,
            fit.item_spread_interval,
            f"{unit} between items' levels; {spread}",
        ),
    ]
    if fit.unit == "watch_seconds":
        note = "log(1 + seconds watched) per log(1 + seconds of duration); least squares, part of the items' levels"
        rows.append(row("watch_duration_slope", "ρ_3", fit.duration_slope, None, note))
    return rows
