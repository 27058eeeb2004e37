"""Fits the DIEN-like user model to a log by maximum likelihood, under the protocol of `envs.users.likelihood`.

Visits, choice, the age effect and the rating head's noise are the parametric fit's. Everything else is learnt anew, network and
parametric part together, on the fit part (`train`), stopped early; then each part of the utility gets one factor on the
early-stopping part (`envs.users.block_weights`). Whether the facets stay is decided there too.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.artefacts import cache_folder, content_hash
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.users.block_weights import UtilityPart, fit_block_weights
from envs.users.calibration import FREE_START
from envs.users.dien import DienModel
from envs.users.dien_network import Network
from envs.users.dien_table import dien_rows
from envs.users.fit import FitConfig, fit_interest_model, fit_key, fit_or_load
from envs.users.interest import NUM_CONTEXTS, InterestModel, context_rows
from envs.users.likelihood import (
    EventSplit,
    Part,
    log_popularity,
    replay_preferences,
    split_events,
    user_model_likelihood,
)
from envs.users.parameter_table import rating_rows, row
from envs.users.progress import fit_progress
from envs.users.protocol import Trait, age_effect
from envs.users.rating_fit import fit_ratings
from envs.users.threads import single_torch_thread
from envs.users.training import Scalars, catalogue_loss, make_batch, preferences, user_batches

DIEN_VERSION = 1
"""Part of the name of cached fits; raised when the same configuration gives another model."""
_AGE_ANCHORS = 12
_STEPS = 32
_MIN_EVENTS = 200
NUM_FACTORS = 7
"""Factors estimated on the early-stopping part: nats by which the facets must be better there to stay (Akaike 1974)."""


@dataclass(frozen=True, kw_only=True)
class DienConfig:
    """How the DIEN-like user model is fitted."""

    parametric: FitConfig = field(default_factory=FitConfig)
    """How the parametric model beside it is fitted; events, embedding size, weight decays and seed are taken from it."""
    size: int = 48
    """h: width of the extractor and of each facet."""
    facets: int = 2
    """K: prototypes, each with a facet of its own."""
    attentive: bool = True
    """Whether attention scales the facets' update gates; without it they are plain GRUs."""
    average: bool = True
    """Whether the exponential average s of the parametric model stays beside the facets."""
    auxiliary_weight: float = 0.3
    """Weight of the auxiliary loss against the negative log-likelihood."""
    dropout: float = 0.2
    """Share of embeddings read, extractor's states and facets that is dropped in training."""
    epochs: int = 6
    """Passes over the fit part at most."""
    patience: int = 1
    """Passes without a better early-stopping likelihood after which the fit ends."""
    batch_events: int = 2048
    """Events whose likelihood makes one step, at most; of a small log so many that a pass has about 32 steps."""
    learning_rate: float = 0.03
    """Step size of AdamW for embeddings, users, biases and context in the first pass."""
    scalar_learning_rate: float = 0.03
    """Step size for lambda, alpha and the other scalars."""
    network_learning_rate: float = 0.01
    """Step size for the network."""
    learning_rate_decay: float = 0.65
    """Factor on every step size after each pass."""
    network_weight_decay: float = 0.1
    """Decoupled weight decay of the network."""
    max_gradient: float = 1.0
    """Norm to which the network's gradient is clipped."""


def fit_or_load_dien(log: InteractionLog, config: DienConfig = DienConfig(), progress: bool = True) -> DienModel:
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
    config: DienConfig = DienConfig(),
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
    if shuffle_seed is None:
        parametric = fit_or_load(log, config.parametric, progress)
    else:
        parametric = fit_interest_model(log, config.parametric, progress, shuffle_seed)
    begin = time.perf_counter()
    split = split_events(log, config.parametric.max_events, shuffle_seed)
    with single_torch_thread(), fit_progress("Fitting facets", config.epochs + 2, progress) as tick:
        model = _with_block_weights(_train(log, split, parametric, config, tick), log, split, config)
        tick()
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


@dataclass(frozen=True, kw_only=True)
class _Learner:
    """All that learns, and the likelihood of a batch of events under it."""

    split: EventSplit
    categories: Tensor
    """[I, G]."""
    contexts: Tensor
    """[E, 3] rows of omega."""
    age_event: Tensor
    """[E, A] weights of the moments between which the age effect is interpolated."""
    age_item: Tensor
    """[I, A] age effect at each of these moments."""
    arrays: dict[str, Tensor]
    """Embeddings, users, biases, omega, and the scalars of `FREE_START`."""
    network: Network
    auxiliary_weight: float

    def loss(self, users: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[Tensor, int]:
        """(Summed loss, number of events) of the events at places `low[user]` to `high[user]` - 1 (low, high [U])."""
        batch = make_batch(self.split, users, low, high)
        embedding = self.arrays["embedding"]
        parametric = preferences(
            batch,
            Scalars.from_free(self.arrays),
            embedding,
            self.categories,
            self.arrays["start"][batch.users],
            self.arrays["omega"][self.contexts[batch.event]].sum(dim=1),
        )
        item = batch.item.T
        place = np.arange(len(item))[:, None]
        events = np.where(place < high[users], self.split.starts[users] + place, 0)
        days = np.where(place < high[users], self.split.pause_days[events], 0)
        facets, extracted = self.network(embedding[item], self.categories[item], torch.from_numpy(days))
        row, at = batch.row, batch.looked[batch.row, batch.column]
        preference = torch.cat([parametric, facets[at, row].flatten(1), self.age_event[batch.event]], dim=1)
        vectors = torch.cat([embedding, self.categories, self.network.facet_vectors(embedding), self.age_item], dim=1)
        total = catalogue_loss(preference, vectors, self.arrays["bias"], batch.target, batch.earlier)
        if self.auxiliary_weight and self.network.training:
            later = at > 0
            other = torch.randint(self.split.num_items, (int(later.sum()),))
            total = total + self.auxiliary_weight * self.network.auxiliary_loss(
                extracted[at[later] - 1, row[later]], embedding[batch.target[later]], embedding[other]
            )
        return total, len(batch.target)


def _train(
    log: InteractionLog, split: EventSplit, parametric: InterestModel, config: DienConfig, tick: Callable[[], None]
) -> DienModel:
    """The model of the pass with the best early-stopping likelihood."""
    torch.manual_seed(config.parametric.seed)
    rng = np.random.default_rng(config.parametric.seed)
    learner = _learner(log, split, parametric, config)
    arrays, network = learner.arrays, learner.network
    groups: list[dict[str, Any]] = [
        {"params": [arrays["embedding"]], "weight_decay": config.parametric.item_weight_decay},
        {"params": [arrays["start"]], "weight_decay": config.parametric.user_weight_decay},
        {"params": [arrays["omega"]], "weight_decay": config.parametric.context_weight_decay},
        {"params": [arrays["bias"]]},
        {
            "params": [arrays[name] for name in FREE_START if arrays[name].requires_grad],
            "lr": config.scalar_learning_rate,
        },
        {
            "params": [weight for weight in network.parameters() if weight.requires_grad],
            "lr": config.network_learning_rate,
            "weight_decay": config.network_weight_decay,
        },
    ]
    none, fit_end, stop_end = (np.bincount(split.user[split.part < part], minlength=split.num_users) for part in Part)
    batch_events = min(config.batch_events, max(int(fit_end.sum()) // _STEPS, 64))
    # A pass over a long log has more steps; decay is meant by the pass.
    per_step = min(_STEPS * batch_events / max(int(fit_end.sum()), 1), 1.0)
    for group in groups:
        group["weight_decay"] = per_step * group.get("weight_decay", 0.0)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, config.learning_rate_decay)
    best, waited, kept = np.inf, 0, _assembled(parametric, learner)
    for _ in range(config.epochs):
        network.train()
        for users in user_batches(fit_end, batch_events, rng):
            optimiser.zero_grad()
            total, events = learner.loss(users, none, fit_end)
            (total / events).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient)
            optimiser.step()
        if fit_end.any():
            schedule.step()
        network.eval()
        with torch.no_grad():
            stops = [
                learner.loss(users, fit_end, stop_end)[0].item() for users in user_batches(stop_end - fit_end, 4096)
            ]
        tick()
        # Without an early-stopping part (a tiny log) every pass counts as better.
        if not stops or sum(stops) < best:
            best, waited, kept = sum(stops), 0, _assembled(parametric, learner)
        else:
            waited += 1
            if waited >= config.patience:
                break
    return kept


def _learner(log: InteractionLog, split: EventSplit, parametric: InterestModel, config: DienConfig) -> _Learner:
    width = parametric.item_embedding.shape[1]
    categories = torch.from_numpy(log.catalogue.categories)
    arrays = {
        "embedding": config.parametric.start_scale * torch.randn(split.num_items, width),
        "start": 0.01 * torch.randn(split.num_users, width),
        "bias": torch.from_numpy(log_popularity(split)),
        "omega": torch.zeros(NUM_CONTEXTS, categories.shape[1]),
    } | {name: torch.tensor(value) for name, value in FREE_START.items()}
    if not config.average:
        arrays["short_weight"] = torch.tensor(0.0)
    for name, tensor in arrays.items():
        tensor.requires_grad_(config.average or not name.startswith("short_"))
    first, last = split.timestamp.min(), split.timestamp.max()
    moments = np.linspace(first, max(last, first + 1), _AGE_ANCHORS)
    place = (split.timestamp - first) / (moments[1] - moments[0])
    near = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(_AGE_ANCHORS))).astype(np.float32)
    ages = ((moments - log.catalogue.birth[:, None]) / SECONDS_PER_DAY).astype(np.float32)
    return _Learner(
        split=split,
        categories=categories,
        contexts=torch.from_numpy(context_rows(split.hour, split.weekday, split.place_in_visit)),
        age_event=torch.from_numpy(near),
        age_item=torch.from_numpy(age_effect(parametric.age_values, ages)),
        arrays=arrays,
        network=Network(width, categories.shape[1], config.size, config.facets, config.attentive, config.dropout),
        auxiliary_weight=config.auxiliary_weight,
    )


def _assembled(parametric: InterestModel, learner: _Learner) -> DienModel:
    """The numpy model, on the scale of embeddings of mean norm 1."""
    arrays = {name: tensor.detach().clone() for name, tensor in learner.arrays.items()}
    scale = float(arrays["embedding"].norm(dim=1).mean())
    scalars = Scalars.from_free(arrays)
    params = replace(
        parametric.params,
        short_decay=float(scalars.log_short_keep.exp()),
        short_weight=float(scalars.short_weight) * scale**2,
        long_weight=float(scalars.long_weight) * scale**2,
        long_rate=float(-torch.expm1(scalars.log_long_keep)),
        satiation_decay=float(scalars.log_satiation_keep.exp()),
        satiation_gain=float(scalars.satiation_gain),
        short_half_life_days=float(scalars.short_half_life),
        satiation_half_life_days=float(scalars.satiation_half_life),
    )
    base = replace(
        parametric,
        params=params,
        item_embedding=(arrays["embedding"] / scale).numpy(),
        item_bias=(arrays["bias"] - arrays["bias"].mean()).numpy(),
        user_embedding=(arrays["start"] / scale).numpy(),
        context_weights=arrays["omega"].numpy(),
    )
    return DienModel(base=base, network=learner.network.exported(scale))


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
    ratings = fit_ratings(
        log.consumed().rating[split.row], split.user, split.item, utility, split.part, split.num_users, split.num_items
    )
    traits = model.base.user_traits.copy()
    traits[:, Trait.RATING] = ratings.user
    base = replace(
        model.base,
        params=replace(model.base.params, rating_slope=ratings.slope, rating_sd=ratings.sd),
        user_traits=traits,
        rating_item=ratings.item,
        rating_grid=ratings.grid,
    )
    heads = {row["name"]: row for row in rating_rows(ratings)}
    report = {"rating_rmse": ratings.test_rmse, "rating_calibration_error": ratings.test_calibration_error}
    table = [heads.get(of["name"], of) for of in model.table]
    return replace(model, base=base, table=table, fit_report=report)
