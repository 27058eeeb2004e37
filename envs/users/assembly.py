"""From what the two stages of the fit found to the numpy model that is simulated, with its heads and its table."""

from dataclasses import replace

import numpy as np

from envs.catalogue import SECONDS_PER_DAY
from envs.logs.schema import InteractionLog
from envs.users.baselines import popularity_likelihood
from envs.users.calibration import Arrays, Calibration
from envs.users.engagement_fit import fit_engagement
from envs.users.interest import InterestModel
from envs.users.likelihood import EventSplit, Part, log_popularity, replay_preferences, user_model_likelihood
from envs.users.parameter_table import (
    array_rows,
    engagement_rows,
    interest_rows,
    popularity_rows,
    scaled_params,
    taste_rows,
    visit_rows,
)
from envs.users.protocol import Trait, VisitParams, age_effect
from envs.users.taste_traits import TASTES, fit_taste_traits, item_novelty, rare_item_offsets
from envs.users.visit_fit import fit_visits


def choice_model(
    log: InteractionLog, split: EventSplit, arrays: Arrays, calibration: Calibration, held_out: bool
) -> InterestModel:
    """The numpy model of choices and interests, on the scale of a mean norm of 1; default visits, no ratings.

    Where it does not predict the early-stopping part better than popularity does by more nats than it has parameters fitted
    to that part (Akaike 1974), choices are left to popularity: on a thin log the rest is noise.

    Args:
        log: the whole log.
        split: its events.
        arrays: embeddings and the like, from the first stage.
        calibration: scalars and age effect, from the second.
        held_out: whether the second stage used events that the first has not seen.
    """
    scale = float(arrays.embedding.norm(dim=1).mean())
    params, intervals = scaled_params(calibration, scale)
    bias = calibration.free["bias_scale"] * arrays.bias.numpy()
    model = InterestModel(
        params=params,
        visits=VisitParams(),
        item_embedding=(arrays.embedding.numpy() / scale).astype(np.float32),
        categories=log.catalogue.categories,
        item_bias=(bias - bias.mean()).astype(np.float32),
        user_embedding=(arrays.start.numpy() * (calibration.free["start_scale"] / scale)).astype(np.float32),
        context_weights=arrays.omega.numpy(),
        age_values=calibration.age_values.astype(np.float32),
        user_traits=np.zeros((split.num_users, len(Trait)), np.float32),
        rating_item=np.zeros(split.num_items, np.float32),
        rating_grid=np.zeros(0, np.float32),
    )
    gain, needed = _gain_over_popularity(log, split, model), calibration.num_parameters if held_out else 0
    follows_popularity = gain <= needed
    if follows_popularity:
        model = _popularity_only(model, split)
        rows = popularity_rows(gain, needed)
    else:
        rows = interest_rows(params, intervals, calibration, held_out) + array_rows(model, calibration)
    return replace(model, table=rows, fit_report={"follows_popularity": follows_popularity})


def _gain_over_popularity(log: InteractionLog, split: EventSplit, model: InterestModel) -> float:
    """Nats of the early-stopping part by which the model is better; of the fit part where that is empty."""
    part = Part.STOP if (split.part == Part.STOP).any() else Part.FIT
    ours = user_model_likelihood(model, log.catalogue.birth, split, part)
    return float((popularity_likelihood(split, part).masked - ours.masked).sum())


def _popularity_only(model: InterestModel, split: EventSplit) -> InterestModel:
    nothing = {"short_weight": 0.0, "long_weight": 0.0, "satiation_gain": 0.0}
    return replace(
        model,
        params=replace(model.params, **nothing),
        item_bias=log_popularity(split),
        context_weights=np.zeros_like(model.context_weights),
        age_values=np.zeros_like(model.age_values),
    )


def with_own_tastes(model: InterestModel, log: InteractionLog, split: EventSplit) -> InterestModel:
    """The model with biases of rare items and the users' taste traits (`envs.users.taste_traits`), where there are any to find."""
    if model.fit_report["follows_popularity"]:
        return model
    birth = log.catalogue.birth
    bias = model.item_bias + rare_item_offsets(model, birth, split)
    novelty = item_novelty(birth, split.counts(Part.FIT))
    model = replace(model, item_bias=bias - bias.mean(), item_novelty=novelty)
    tastes = fit_taste_traits(model, novelty, birth, split)
    traits = model.user_traits.copy()
    traits[:, TASTES] = tastes.users
    return replace(model, user_traits=traits, table=model.table + taste_rows(tastes))


def with_heads(model: InterestModel, log: InteractionLog, split: EventSplit, seed: int) -> InterestModel:
    """The model of choices with fitted visits and ratings, traits of the users, and the whole table."""
    visits = fit_visits(log, seed)
    preference = replay_preferences(model, split)
    age = (split.timestamp - log.catalogue.birth[split.item]) / SECONDS_PER_DAY
    utility = (preference * model.item_vectors[split.item]).sum(axis=1)
    utility += model.item_bias[split.item] + age_effect(model.age_values, age.astype(np.float32))
    engagement = fit_engagement(log, split, utility)
    params = replace(model.params, rating_slope=engagement.slope, rating_sd=engagement.sd)
    traits = visits.traits.copy()
    traits[:, Trait.RATING] = engagement.user
    traits[:, TASTES] = model.user_traits[:, TASTES]
    known = {entry["name"] for entry in model.table}
    visit_table = [entry for entry in visit_rows(visits) if entry["name"] not in known]
    return replace(
        model,
        params=params,
        visits=visits.params,
        user_traits=traits,
        rating_item=engagement.item,
        rating_grid=engagement.grid,
        rating_cuts=engagement.cuts,
        table=model.table + visit_table + engagement_rows(engagement),
        fit_report=model.fit_report | engagement.figures(),
    )
