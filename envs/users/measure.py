"""The figures of a user model beside those of its baselines, as logged and shuffled inside visits; kept in the cache."""

import time
from collections.abc import Callable
from typing import Any

from envs.artefacts import cache_folder, load_json, save_json
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.users.baselines import popularity_likelihood, static_likelihood
from envs.users.dien import DienModel
from envs.users.dien_fit import fit_dien_model, network_key
from envs.users.fit import FitConfig, fit_key, fit_or_load
from envs.users.likelihood import EventLikelihood, split_events, user_model_likelihood
from envs.users.models import dien_config, fit_user_model
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
    log: InteractionLog,
    config: FitConfig = DEFAULT_CONFIG,
    shuffled: bool = False,
    progress: bool = True,
    user_model: str = "parametric",
) -> dict[str, dict[str, Any]]:
    """Test negative log-likelihoods of the evolving user model, static matrix factorisation and popularity.

    Args:
        log: the log, as given to the fit.
        config: how the evolving model is fitted.
        shuffled: whether to add the three with events shuffled inside visits (another fit).
        progress: whether to show a bar, if the terminal is one.
        user_model: another user model to report behind these, by name or as 'file.py:Class' (`envs.users.models`); shuffled
            figures are those of 'dien' only, since a class in a file is fitted to the log as it is.

    Returns:
        name -> masked, masked_half_width, unmasked, unmasked_half_width (nats per event; halves of 95 % intervals,
        events clustered by user), test_events, fit_seconds, shuffled.

    Raises:
        LogError: if the log has no consumed event.
    """
    reports: dict[str, dict[str, Any]] = {"evolving": _figures(fit_or_load(log, config, progress).fit_report)}
    reports |= _kept(log, config, "baselines", lambda: _baselines(log, config, None, progress))
    if user_model != "parametric":
        name = user_model.rpartition(":")[2]
        reports[name] = _other_model(user_model, log, config, progress)
    if shuffled:

        def fit_shuffled() -> dict[str, dict[str, Any]]:
            model = fit_or_load(log, config, progress, SHUFFLE_SEED)
            return {"evolving": _figures(model.fit_report)} | _baselines(log, config, SHUFFLE_SEED, progress)

        of_shuffled = _kept(log, config, "shuffled", fit_shuffled)
        if user_model == "dien":

            def fit_shuffled_dien() -> dict[str, dict[str, Any]]:
                model = fit_dien_model(log, dien_config(config), progress, shuffle_seed=SHUFFLE_SEED)
                return {"dien": _figures(model.fit_report)}

            of_shuffled |= _kept(log, config, f"shuffled.{network_key(dien_config(config))}", fit_shuffled_dien)
        reports |= {f"{name}{SHUFFLED}": report for name, report in of_shuffled.items()}
    return reports


def _other_model(user_model: str, log: InteractionLog, config: FitConfig, progress: bool) -> dict[str, Any]:
    """Figures of a user model of any kind, fitted to the log as it is."""
    begin = time.perf_counter()
    model = fit_user_model(user_model, log, config, progress)
    if isinstance(model, DienModel):
        return _figures(model.fit_report)
    seconds = time.perf_counter() - begin
    likelihood = user_model_likelihood(model, log.catalogue.birth, split_events(log, config.max_events))
    return likelihood.report() | {"fit_seconds": seconds, "shuffled": False}


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
