"""The figures of a user model beside those of its baselines, as logged and shuffled inside visits; kept in the cache."""

import time
from collections.abc import Callable
from typing import Any

from envs.artefacts import cache_folder, load_json, save_json
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.users.baselines import popularity_likelihood, static_likelihood
from envs.users.fit import FitConfig, fit_interest_model, fit_key, fit_or_load
from envs.users.likelihood import EventLikelihood, split_events
from envs.users.progress import fit_progress
from envs.users.threads import single_torch_thread

DEFAULT_CONFIG = FitConfig()
SHUFFLE_SEED = 1
"""Seed of the order of events inside visits, wherever they are shuffled."""
_FIGURES = (
    "masked",
    "masked_half_width",
    "unmasked",
    "unmasked_half_width",
    "test_events",
    "fit_seconds",
    "shuffled",
)
SHUFFLED = ", shuffled"
"""Ends the names of models fitted to and measured on shuffled events."""


def likelihood_reports(
    log: InteractionLog, config: FitConfig = DEFAULT_CONFIG, shuffled: bool = False, progress: bool = True
) -> dict[str, dict[str, Any]]:
    """Test negative log-likelihoods of the evolving user model, static matrix factorisation and popularity.

    Args:
        log: the log, as given to the fit.
        config: how the evolving model is fitted.
        shuffled: whether to add the three with events shuffled inside visits (another fit).
        progress: whether to show a bar, if the terminal is one.

    Returns:
        name -> masked, masked_half_width, unmasked, unmasked_half_width (nats per event; halves of 95 % intervals,
        events clustered by user), test_events, fit_seconds, shuffled.

    Raises:
        LogError: if the log has no consumed event.
    """
    reports: dict[str, dict[str, Any]] = {"evolving": _figures(fit_or_load(log, config, progress).fit_report)}
    reports |= _kept(log, config, "baselines", lambda: _baselines(log, config, None, progress))
    if shuffled:

        def fit_shuffled() -> dict[str, dict[str, Any]]:
            model = fit_interest_model(log, config, progress, shuffle_seed=SHUFFLE_SEED)
            return {"evolving": _figures(model.fit_report)} | _baselines(log, config, SHUFFLE_SEED, progress)

        of_shuffled = _kept(log, config, "shuffled", fit_shuffled)
        reports |= {f"{name}{SHUFFLED}": report for name, report in of_shuffled.items()}
    return reports


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in _FIGURES}


def _baselines(
    log: InteractionLog, config: FitConfig, shuffle_seed: int | None, progress: bool
) -> dict[str, dict[str, Any]]:
    split = split_events(log, config.max_events, shuffle_seed)
    reports = {}
    with fit_progress("Fitting baselines", 2, progress) as tick:
        for name, measure in (("static", static_likelihood), ("popularity", popularity_likelihood)):
            begin = time.perf_counter()
            with single_torch_thread():
                likelihood: EventLikelihood = measure(split)
            seconds = time.perf_counter() - begin
            reports[name] = likelihood.report() | {"fit_seconds": seconds, "shuffled": shuffle_seed is not None}
            tick()
    return reports


def _kept(
    log: InteractionLog, config: FitConfig, what: str, make: Callable[[], dict[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """What `make` gives, from the cache if it has been made before; a damaged file is made anew."""
    path = cache_folder() / "fits" / f"{fit_key(log, config)}.{what}.json"
    if path.exists():
        try:
            kept: dict[str, dict[str, Any]] = load_json(path)
            return {name: {key: report[key] for key in _FIGURES} for name, report in kept.items()}
        except (ArtefactError, AttributeError, KeyError, TypeError):
            path.unlink()
    made = make()
    save_json(path, made)
    return made
