"""Finds a user model by name, 'parametric' or 'dien', or in a user's file as 'file.py:Class', and fits it to a log."""

from dataclasses import replace
from typing import Any

from envs.errors import ConfigurationError
from envs.loading import Kind
from envs.logs.schema import InteractionLog
from envs.users.dien_fit import DienConfig, fit_or_load_dien
from envs.users.fit import FitConfig, fit_or_load
from envs.users.protocol import UserModel

USER_MODEL = Kind(
    name="user model",
    wanted="a class that fulfils envs.users.UserModel and has fit(log, seed)",
    error=ConfigurationError,
    known={"parametric": "envs.users.interest:InterestModel", "dien": "envs.users.dien:DienModel"},
)
DEFAULT_CONFIG = FitConfig()
_METHODS = ("fit", "start", "preference", "consume", "pause", "expected_rating", "rate")
_PROPERTIES = ("item_vectors", "item_bias", "visits", "choice", "age_values", "user_parameters", "walk_width")


def user_model_names() -> tuple[str, ...]:
    """Names of the user models that come with driftrec."""
    return tuple(USER_MODEL.known)


def check_user_model(spec: str) -> None:
    """Refuses a name or class that `fit_user_model` could not fit, before anything is computed.

    Raises:
        ConfigurationError: if there is no such name, file or class, or the class lacks a method of the protocol.
    """
    found = USER_MODEL.find(spec)
    if spec in USER_MODEL.known:
        return
    missing = [name for name in _METHODS if not callable(getattr(found, name, None))]
    if missing:
        raise ConfigurationError(
            f"user model '{spec}' lacks {', '.join(missing)}; see docs/user-model-dien.md for what a user model needs."
        )


def fit_user_model(
    spec: str, log: InteractionLog, config: FitConfig = DEFAULT_CONFIG, progress: bool = True
) -> UserModel:
    """The user model that `spec` names, fitted to `log`; those that come with driftrec are taken from the cache if they are there.

    Args:
        spec: one of `user_model_names()`, or 'path/to/file.py:Class': a class that is made without arguments, whose
            `fit(log, seed)` returns the fitted model.
        log: the whole log.
        config: how the parametric model is fitted; its seed, and its events and embedding size where these apply, hold for
            the others too.
        progress: whether to show a bar, if the terminal is one.

    Raises:
        ConfigurationError: if `spec` names no user model, or one that lacks a part of the protocol.
        LogError: if the log has no consumed event.
    """
    check_user_model(spec)
    if spec == "parametric":
        return fit_or_load(log, config, progress)
    if spec == "dien":
        return fit_or_load_dien(log, dien_config(config), progress)
    model: Any = USER_MODEL.find(spec)().fit(log, config.seed)
    missing = [name for name in (*_METHODS[1:], *_PROPERTIES) if not hasattr(model, name)]
    if missing:
        raise ConfigurationError(
            f"what the fit of user model '{spec}' returns lacks {', '.join(missing)}; "
            "see docs/user-model-dien.md for what a user model needs."
        )
    return model


def dien_config(config: FitConfig) -> DienConfig:
    """How the DIEN-like model is fitted beside a parametric fit by `config`: no more passes than that has."""
    default = DienConfig()
    return replace(default, parametric=config, epochs=min(default.epochs, config.epochs))
