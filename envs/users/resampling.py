"""User models that could as well have been fitted: how far the fitted parameters are from certain.

Each is fitted to a random half of the users (half-samples, McCarthy 1969): what is estimated from half of the users varies about
the estimate from all of them as that varies about the truth, so the spread over halves is the uncertainty that a bootstrap of
users gives, without users that count twice. Refitted are the second stage of the fit (scalars, scales of biases and starts,
the age effect) and the visit process; embeddings, interests and traits of the users are held, so that the log's users stay the ones
they are.
"""

from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.users.calibration import FREE_START, Arrays, age_precision, calibrate
from envs.users.interest import InterestModel, InterestParams, context_rows
from envs.users.likelihood import EventSplit, Part, split_events
from envs.users.parameter_table import scaled_params
from envs.users.protocol import UserModel
from envs.users.threads import single_torch_thread
from envs.users.visit_fit import fit_visits

_AGE_SDS = (0.1, 1.0)
"""Prior standard deviations of the age effect's slope and bends, as in the fit."""


def half_of_users(num_users: int, seed: int) -> NDArray[np.bool_]:
    """[U] a random half."""
    chosen = np.zeros(num_users, bool)
    chosen[np.random.default_rng(seed).permutation(num_users)[: num_users // 2]] = True
    return chosen


def resampled_model(model: UserModel, log: InteractionLog, seed: int, max_events: int) -> UserModel:
    """The model with scalars, age effect and visits as the half of the users that `seed` picks would have them.

    Args:
        model: fitted to `log`: parametric, or built on a parametric one.
        log: the whole log.
        seed: picks the half.
        max_events: events of a user that count, as in the fit.

    Raises:
        ConfigurationError: if the model has no parametric part, so that nobody knows how to fit it again.
    """
    if isinstance(model, InterestModel):
        return _resampled(model, log, seed, max_events)
    if is_dataclass(model) and "base" in {field.name for field in fields(model)}:
        base: Any = model.base  # type: ignore[attr-defined]
        return replace(model, base=resampled_model(base, log, seed, max_events))  # type: ignore[type-var,return-value]
    raise ConfigurationError(
        f"--user-model-seeds refits the parametric part of a user model, and {type(model).__name__} has none; leave it at 1."
    )


def _resampled(model: InterestModel, log: InteractionLog, seed: int, max_events: int) -> InterestModel:
    half = half_of_users(len(log.users), seed)
    visits = fit_visits(log.where(half[log.user]), seed).params
    split = split_events(log, max_events)
    if not model.params.short_weight or not (split.part == Part.STOP).any():
        return replace(model, visits=visits)  # choices follow popularity: there are no scalars to fit
    with single_torch_thread():
        start, age_values = _free(model.params), model.age_values.astype(np.float64)
        everyone = _second_stage(model, log, split, np.ones_like(half), start, age_values)
        halved = _second_stage(model, log, split, half, start, age_values)
    # what changes between all and half of the users is added to what the fit had found
    free = {name: start[name] + halved.free[name] - everyone.free[name] for name in start}
    params, _ = scaled_params(replace(halved, free=halved.free | free), 1.0)
    kept = {name: value for name, value in asdict(model.params).items() if name not in FREE_START}
    scale = {name: halved.free[name] / everyone.free[name] for name in ("bias_scale", "start_scale")}
    return replace(
        model,
        params=InterestParams(**(asdict(params) | kept)),
        visits=visits,
        item_bias=model.item_bias * np.float32(scale["bias_scale"]),
        user_embedding=model.user_embedding * np.float32(scale["start_scale"]),
        age_values=(age_values + halved.age_values - everyone.age_values).astype(np.float32),
    )


def _free(params: InterestParams) -> dict[str, float]:
    """The scalars as the second stage takes them: logits of shares, logs of half-lives, weights as they are."""

    def unbounded(name: str) -> float:
        value = float(getattr(params, name))
        if name in ("short_decay", "long_rate", "satiation_decay"):
            share = min(max(value, 1e-6), 1 - 1e-6)
            return float(np.log(share / (1 - share)))
        return float(np.log(value)) if name.endswith("half_life_days") else value

    return {name: unbounded(name) for name in FREE_START}


def _second_stage(
    model: InterestModel,
    log: InteractionLog,
    split: EventSplit,
    users: NDArray[np.bool_],
    free: dict[str, float],
    age_values: NDArray[np.float64],
) -> Any:
    """Calibration on the early-stopping events of `users` [U]."""
    arrays = Arrays(
        embedding=torch.from_numpy(model.item_embedding),
        categories=torch.from_numpy(model.categories),
        bias=torch.from_numpy(model.item_bias),
        start=torch.from_numpy(model.user_embedding),
        omega=torch.from_numpy(model.context_weights),
        contexts=torch.from_numpy(context_rows(split.hour, split.weekday, split.place_in_visit)),
    )
    low = np.bincount(split.user[split.part == Part.FIT], minlength=split.num_users)
    high = low + np.bincount(split.user[split.part == Part.STOP], minlength=split.num_users) * users
    prior = age_precision(*_AGE_SDS)
    return calibrate(split, arrays, log.catalogue.birth, free, age_values, prior, low, high, lambda: None)
