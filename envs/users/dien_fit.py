"""Fits the DIEN-like user model to a log by maximum likelihood, under the protocol of `envs.users.likelihood`.

It begins from the parametric fit, whose visits, choice, age effect and spread of engagement stay. Network and parametric part go on
together on the fit part (`train`), stopped early; then each part of the utility gets one factor on the early-stopping part
(`envs.users.block_weights`). Whether the facets stay is decided there too.
"""

import time
from dataclasses import asdict, replace

import numpy as np

from envs.artefacts import cache_folder, content_hash
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.users.block_weights import UtilityPart, fit_block_weights
from envs.users.dien import DienModel
from envs.users.dien_table import dien_rows
from envs.users.dien_training import DienConfig, train
from envs.users.engagement_fit import fit_engagement
from envs.users.fit import fit_key, fit_or_load
from envs.users.interest import InterestModel
from envs.users.likelihood import (
    EventSplit,
    Part,
    replay_preferences,
    split_events,
    user_model_likelihood,
)
from envs.users.parameter_table import engagement_rows, row, taste_rows
from envs.users.progress import fit_progress
from envs.users.protocol import Trait, age_effect
from envs.users.taste_traits import TASTES, fit_taste_traits, item_novelty, rare_item_offsets
from envs.users.threads import single_torch_thread

DEFAULT_CONFIG = DienConfig()
DIEN_VERSION = 2
"""Part of the name of cached fits; raised when the same configuration gives another model."""
_MIN_EVENTS = 200
NUM_FACTORS = 7
"""Factors estimated on the early-stopping part: nats by which the facets must be better there to stay (Akaike 1974)."""


def fit_or_load_dien(log: InteractionLog, config: DienConfig = DEFAULT_CONFIG, progress: bool = True) -> DienModel:
    """The model fitted to `log`, from the cache if log and configuration have been fitted before.

    A cache file that is damaged is made anew.

    Raises:
        LogError: if the log has no consumed event.
        ConfigurationError: if the cache folder cannot be written.
    """
    path = cache_folder() / "fits" / f"{dien_key(log, config)}.npz"
    if path.exists():
        try:
            return DienModel.load(path)
        except (ArtefactError, TypeError, KeyError):
            path.unlink()
    model = fit_dien_model(log, config, progress)
    model.save(path)
    return model


def dien_key(log: InteractionLog, config: DienConfig) -> str:
    """Name of the cached fit: the parametric fit's key, and the network's own."""
    return f"{fit_key(log, config.parametric)}.{network_key(config)}"


def network_key(config: DienConfig) -> str:
    """What is the network's own in the name of anything cached."""
    own = {name: value for name, value in asdict(config).items() if name != "parametric"}
    return f"dien-{content_hash({}, own | {'dien_version': DIEN_VERSION})[:16]}"


def fit_dien_model(
    log: InteractionLog,
    config: DienConfig = DEFAULT_CONFIG,
    progress: bool = True,
    shuffle_seed: int | None = None,
) -> DienModel:
    """Fits every parameter that the log can tell; `table` and `fit_report` of the model say what came out.

    Args:
        log: the whole log; the protocol takes its share of it.
        config: how to fit.
        progress: whether to show a bar, if the terminal is one.
        shuffle_seed: fit and measure with the events shuffled inside visits, to see what list order gives.

    Raises:
        LogError: if the log has no consumed event.
    """
    parametric = fit_or_load(log, config.parametric, progress, shuffle_seed)
    begin = time.perf_counter()
    split = split_events(log, config.parametric.max_events, shuffle_seed)
    with single_torch_thread(), fit_progress("Fitting facets", config.epochs + 2, progress) as tick:
        model = _with_block_weights(train(log, split, parametric, config, tick), log, split, config)
        tick()
        model = _with_own_tastes(model, log, split)
        ours, theirs = (
            user_model_likelihood(either, log.catalogue.birth, split, Part.STOP) for either in (model, parametric)
        )
        keeps = float((theirs.masked - ours.masked).sum()) > NUM_FACTORS
        model = _with_ratings(model if keeps else _without_facets(model, parametric), log, split)
        test = user_model_likelihood(model, log.catalogue.birth, split)
        tick()
    model.fit_report.update(
        **test.report(),
        facets_kept=keeps,
        early_stopping_masked=ours.report()["masked"],
        early_stopping_masked_parametric=theirs.report()["masked"],
        shuffled=shuffle_seed is not None,
        fit_seconds=time.perf_counter() - begin,
    )
    return model


def _with_block_weights(model: DienModel, log: InteractionLog, split: EventSplit, config: DienConfig) -> DienModel:
    """The model with one factor on each part of its utility, estimated on the early-stopping part, or on the fit part where that
    has next to no events; and with its table."""
    base, width = model.base, model.base.item_embedding.shape[1]
    full = replay_preferences(model, split)
    still = replace(base, params=replace(base.params, short_weight=0.0, satiation_gain=0.0))
    calm = replay_preferences(still, split)
    drift = replay_preferences(replace(still, user_embedding=np.zeros_like(base.user_embedding)), split)[:, :width]
    interest, taste = slice(0, width), slice(width, base.item_vectors.shape[1])
    parts = {
        "start": UtilityPart(calm[:, interest] - drift, base.item_embedding),
        "drift": UtilityPart(drift, base.item_embedding),
        "average": UtilityPart(full[:, interest] - calm[:, interest], base.item_embedding),
        "context": UtilityPart(calm[:, taste], base.item_vectors[:, taste]),
        "satiation": UtilityPart(full[:, taste] - calm[:, taste], base.item_vectors[:, taste]),
        "facets": UtilityPart(full[:, taste.stop :], model.item_vectors[:, taste.stop :]),
        "bias": UtilityPart(np.ones((len(split), 1), np.float32), base.item_bias[:, None]),
    }
    held_out = np.flatnonzero(split.part == Part.STOP)
    events = held_out if len(held_out) >= _MIN_EVENTS else np.flatnonzero(split.part == Part.FIT)
    found = fit_block_weights(
        list(parts.values()), base.age_values, log.catalogue.birth, split, events, config.parametric.seed
    )
    weight = dict(zip(parts, found.weight.tolist(), strict=True))
    params = replace(
        base.params,
        long_weight=base.params.long_weight * weight["drift"],
        short_weight=base.params.short_weight * weight["average"],
        satiation_gain=base.params.satiation_gain * weight["satiation"],
    )
    weighted = replace(
        model,
        base=replace(
            base,
            params=params,
            user_embedding=base.user_embedding * np.float32(weight["start"] / weight["drift"]),
            context_weights=base.context_weights * np.float32(weight["context"]),
            item_bias=base.item_bias * np.float32(weight["bias"]),
        ),
        network=replace(model.network, output=model.network.output * np.float32(weight["facets"])),
    )
    half_width = dict(zip(parts, found.half_width.tolist(), strict=True))
    return replace(weighted, table=dien_rows(weighted, weight, half_width, found.num_events))


def _with_own_tastes(model: DienModel, log: InteractionLog, split: EventSplit) -> DienModel:
    """The model with biases of rare items and the users' taste traits, as the parametric fit estimates them."""
    birth = log.catalogue.birth
    bias = model.item_bias + rare_item_offsets(model, birth, split)
    novelty = item_novelty(birth, split.counts(Part.FIT))
    model = replace(model, base=replace(model.base, item_bias=bias - bias.mean(), item_novelty=novelty))
    tastes = fit_taste_traits(model, novelty, birth, split)
    traits = model.base.user_traits.copy()
    traits[:, TASTES] = tastes.users
    rows = taste_rows(tastes)
    names = {of["name"] for of in rows}
    table = [of for of in model.table if of["name"] not in names] + rows
    return replace(model, base=replace(model.base, user_traits=traits), table=table)


def _without_facets(model: DienModel, parametric: InterestModel) -> DienModel:
    """The parametric model beside facets that count for nothing."""
    note = (
        "facets gain too little on the early-stopping part: they count for nothing, the parametric model stands alone"
    )
    network = replace(model.network, output=np.zeros_like(model.network.output))
    return DienModel(
        base=parametric, network=network, table=[*parametric.table, row("facet_weight", "", 0.0, None, note)]
    )


def _with_ratings(model: DienModel, log: InteractionLog, split: EventSplit) -> DienModel:
    """The model with a rating head fitted to its own utilities."""
    age = (split.timestamp - log.catalogue.birth[split.item]) / SECONDS_PER_DAY
    utility = (replay_preferences(model, split) * model.item_vectors[split.item]).sum(axis=1)
    utility += model.item_bias[split.item] + age_effect(model.age_values, age.astype(np.float32))
    engagement = fit_engagement(log, split, utility)
    traits = model.base.user_traits.copy()
    traits[:, Trait.RATING] = engagement.user
    base = replace(
        model.base,
        params=replace(model.base.params, rating_slope=engagement.slope, rating_sd=engagement.sd),
        user_traits=traits,
        rating_item=engagement.item,
        rating_grid=engagement.grid,
        rating_cuts=engagement.cuts,
    )
    heads = {row["name"]: row for row in engagement_rows(engagement)}
    table = [heads.get(of["name"], of) for of in model.table]
    return replace(model, base=base, table=table, fit_report=engagement.figures())
