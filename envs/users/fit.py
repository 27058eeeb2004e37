"""Fits the parametric user model to a log by maximum likelihood, under the protocol of `envs.users.likelihood`.

Two stages: embeddings, biases, context and age effect, users' starts and scalars by AdamW on the fit part, stopped early
(`train`); then scalars and age effect on the early-stopping part, embeddings held (`calibrate`). Clicks count as choices from
the whole catalogue. Where the log tells what was shown, they are choices from slates instead (`exposure_model`).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.artefacts import cache_folder, content_hash
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.users.assembly import choice_model, with_heads, with_own_tastes
from envs.users.calibration import (
    FREE_START,
    MAX_CELLS,
    TERMS,
    Arrays,
    Calibration,
    age_basis,
    age_precision,
    calibrate,
)
from envs.users.exposure_fit import ExposureFitConfig
from envs.users.exposure_model import exposure_choice_model
from envs.users.exposures import has_slates
from envs.users.interest import NUM_CONTEXTS, InterestModel, context_rows
from envs.users.likelihood import (
    MAX_EVENTS,
    EventSplit,
    Part,
    log_popularity,
    split_events,
    user_model_likelihood,
)
from envs.users.miss_fit import with_misses
from envs.users.progress import fit_progress
from envs.users.protocol import AGE_KNOTS
from envs.users.threads import single_torch_thread
from envs.users.training import Scalars, catalogue_loss, make_batch, preferences, user_batches

FIT_VERSION = 8
"""Part of the name of cached fits; raised when the same configuration gives another model."""
SLATE_FIT_VERSION = 2
"""The same for logs with exposures alone."""
_ARRAYS_OF_TERMS = {"start": "own_start", "omega": "context", "phi": "age"}
"""Arrays that stay at zero without a term."""
_AGE_ANCHORS = 12
_STEPS = 32
_MIN_CALIBRATION_EVENTS = 200


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How the parametric user model is fitted."""

    embedding_size: int = 32
    """d: width of the embeddings."""
    max_events: int = MAX_EVENTS
    """Events of a user that count, the first ones."""
    epochs: int = 8
    """Passes over the fit part at most."""
    patience: int = 1
    """Passes without a better early-stopping likelihood after which the first stage ends."""
    batch_events: int = 2048
    """Events whose likelihood makes one step, at most; of a small log so many that a pass has about 32 steps."""
    learning_rate: float = 0.02
    """Step size of AdamW for the arrays in the first pass."""
    learning_rate_decay: float = 0.75
    """Factor on every step size after each pass."""
    scalar_learning_rate: float = 0.03
    """Step size for lambda, alpha, the other scalars and the age effect."""
    item_weight_decay: float = 0.4
    """Decoupled weight decay of the item embeddings, for passes of 32 steps; less per step where a pass has more."""
    user_weight_decay: float = 1.5
    """Decoupled weight decay of the users' long-term interests, likewise."""
    context_weight_decay: float = 0.1
    """Decoupled weight decay of the context weights, likewise."""
    bias_weight_decay: float = 0.0
    """Decoupled weight decay of what the items' biases differ by from log popularity, likewise."""
    start_scale: float = 0.1
    """Standard deviation of the coordinates of the embeddings before the first step."""
    age_slope_sd: float = 0.1
    """Prior standard deviation of the age effect's slope per knot: it hides in the biases, so it is held near zero."""
    age_bend_sd: float = 1.0
    """Prior standard deviation of the age effect's second differences."""
    without: tuple[str, ...] = ()
    """Terms that are left out, names of `envs.users.calibration.TERMS`: to see what each buys."""
    exposures: ExposureFitConfig | None = field(default_factory=ExposureFitConfig)
    """How a log with exposures is fitted; None takes its clicks as choices from the whole catalogue, like those of other logs."""
    seed: int = 0
    """Seed of the start values and of the order of the batches."""

    def __post_init__(self) -> None:
        for term in self.without:
            if term not in TERMS:
                raise ConfigurationError(f"there is no term '{term}' to leave out; known are {', '.join(TERMS)}.")


def fit_or_load(
    log: InteractionLog,
    config: FitConfig = FitConfig(),
    progress: bool = True,
    shuffle_seed: int | None = None,
) -> InterestModel:
    """What `fit_interest_model` gives, from the cache if log, configuration and order of events have been fitted before.

    A cache file that is damaged is made anew.

    Raises:
        LogError: if the log has no consumed event.
        ConfigurationError: if the cache folder cannot be written.
    """
    order = "" if shuffle_seed is None else f".shuffled-{shuffle_seed}"
    path = cache_folder() / "fits" / f"{fit_key(log, config)}{order}.npz"
    if path.exists():
        try:
            return InterestModel.load(path)
        except (ArtefactError, TypeError, KeyError):
            path.unlink()
    model = fit_interest_model(log, config, progress, shuffle_seed)
    model.save(path)
    return model


def fit_key(log: InteractionLog, config: FitConfig) -> str:
    """Content hash of all that decides a fit."""
    columns = ("user", "item", "timestamp", "clicked", "rating", "request", "position")
    arrays = {name: getattr(log, name) for name in columns}
    arrays |= {"categories": log.catalogue.categories, "birth": log.catalogue.birth}
    arrays |= {"watch": log.watch_seconds, "duration": log.catalogue.duration_seconds, "random": log.random_exposure}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    of_slates = {"slate_fit_version": SLATE_FIT_VERSION} if config.exposures is not None and has_slates(log) else {}
    told = {"fit_version": FIT_VERSION, "users": len(log.users), "repeats": log.has_repeats}
    return content_hash(arrays, told | of_slates | asdict(config))


def fit_interest_model(
    log: InteractionLog,
    config: FitConfig = FitConfig(),
    progress: bool = True,
    shuffle_seed: int | None = None,
) -> InterestModel:
    """Fits every parameter that the log can tell; `table` and `fit_report` of the model say what came out.

    Args:
        log: the whole log; the protocol takes its share of it.
        config: how to fit.
        progress: whether to show a bar, if the terminal is one.
        shuffle_seed: fit and measure with the events shuffled inside visits, to see what list order gives.

    Raises:
        LogError: if the log has no consumed event.
    """
    begin = time.perf_counter()
    split = split_events(log, config.max_events, shuffle_seed)
    slates = config.exposures if shuffle_seed is None and has_slates(log) else None
    steps = config.epochs + 5 if slates is None else 2 * slates.epochs + 2
    with single_torch_thread(), fit_progress("Fitting users", steps, progress) as tick:
        if slates is None:
            choice = catalogue_choice_model(log, split, config, tick)
        else:
            choice = exposure_choice_model(log, slates, config.max_events, tick)
        tick()
        model = with_heads(choice, log, split, config.seed)
        if slates is not None:
            model = with_misses(model, log)
        test = user_model_likelihood(model, log.catalogue.birth, split)
    model.fit_report.update(
        **test.report(),
        shuffled=shuffle_seed is not None,
        fit_seconds=time.perf_counter() - begin,
    )
    return model


def catalogue_choice_model(
    log: InteractionLog, split: EventSplit, config: FitConfig, tick: Callable[[], None]
) -> InterestModel:
    """The model of clicks as choices from the whole catalogue, heads still missing."""
    model = choice_model(log, split, *fit_choice(log, split, config, tick))
    return model if "own_tastes" in config.without else with_own_tastes(model, log, split)


def fit_choice(
    log: InteractionLog, split: EventSplit, config: FitConfig, tick: Callable[[], None]
) -> tuple[Arrays, Calibration, bool]:
    """Both stages of the fit: (arrays, scalars and age effect, whether these rest on events the arrays have not seen)."""
    first = train(log, split, config, tick)
    low, high, held_out = _calibration_events(split, config.seed)
    prior = age_precision(config.age_slope_sd, config.age_bend_sd)
    birth = log.catalogue.birth
    calibration = calibrate(
        split, first.arrays, birth, first.free, first.age_values, prior, low, high, tick, config.without
    )
    return first.arrays, calibration, held_out


class _Ages:
    """The age effect as a few more columns of preference and item vectors.

    In the first stage the effect is interpolated in time between a dozen moments of the log (ages are exact at these), so
    that one matrix product gives all utilities; the second stage and every figure use exact ages.
    """

    def __init__(self, split: EventSplit, birth: NDArray[np.int64]) -> None:
        first, last = split.timestamp.min(), split.timestamp.max()
        anchors = np.linspace(first, max(last, first + 1), _AGE_ANCHORS)
        scaled = (split.timestamp - first) / (anchors[1] - anchors[0])
        hats = np.maximum(0, 1 - np.abs(scaled[:, None] - np.arange(_AGE_ANCHORS)))
        self.event = torch.from_numpy(hats.astype(np.float32))
        self._basis = torch.from_numpy(age_basis((anchors - birth[:, None]) / SECONDS_PER_DAY))

    def item(self, age_values: Tensor) -> Tensor:
        """[I, anchors]."""
        return self._basis @ age_values


@dataclass(frozen=True, kw_only=True)
class FirstStage:
    """What `train` found, in the pass with the best early-stopping likelihood."""

    arrays: Arrays
    """Embeddings and the like."""
    free: dict[str, float]
    """Scalars, in the units of `FREE_START`."""
    age_values: NDArray[np.float64]
    """[knots] φ."""
    stop_nll: float
    """Mean negative log-likelihood of the early-stopping part, masked, nats per event; infinite where it is empty."""


def train(log: InteractionLog, split: EventSplit, config: FitConfig, tick: Callable[[], None]) -> FirstStage:
    """The first stage: all parameters by AdamW on the fit part, stopped early."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    categories = torch.from_numpy(log.catalogue.categories)
    learnt = {
        "embedding": config.start_scale * torch.randn(split.num_items, config.embedding_size),
        "start": 0.01 * torch.randn(split.num_users, config.embedding_size),
        "bias": torch.zeros(split.num_items),
        "omega": torch.zeros(NUM_CONTEXTS, categories.shape[1]),
        "phi": torch.zeros(len(AGE_KNOTS)),
    } | {name: torch.tensor(value) for name, value in FREE_START.items()}
    held = {name: value for term in config.without for name, value in TERMS[term].items() if name in FREE_START}
    learnt |= {name: torch.tensor(value) for name, value in held.items()}
    if "own_start" in config.without:
        learnt["start"] = torch.zeros(split.num_users, config.embedding_size)
    still = {*held, *(name for name, term in _ARRAYS_OF_TERMS.items() if term in config.without)}
    for name, tensor in learnt.items():
        tensor.requires_grad_(name not in still)
    none, fit_end, stop_end = _ends(split)
    batch_events = min(config.batch_events, max(int(fit_end.sum()) // _STEPS, 64))
    # A pass over a long log has more steps; decay is meant by the pass.
    per_step = min(_STEPS * batch_events / max(int(fit_end.sum()), 1), 1.0)
    decays = {
        "embedding": config.item_weight_decay,
        "start": config.user_weight_decay,
        "omega": config.context_weight_decay,
        "bias": config.bias_weight_decay,
    }
    groups = [{"params": [learnt[name]], "weight_decay": per_step * decay} for name, decay in decays.items()]
    scalars = [learnt["phi"], *(learnt[name] for name in FREE_START)]
    groups.append({"params": scalars, "weight_decay": 0.0, "lr": config.scalar_learning_rate})
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, config.learning_rate_decay)

    contexts = torch.from_numpy(context_rows(split.hour, split.weekday, split.place_in_visit))
    popular = torch.from_numpy(log_popularity(split))

    def arrays_of(values: dict[str, Tensor]) -> Arrays:
        return Arrays(
            embedding=values["embedding"],
            categories=categories,
            bias=popular + values["bias"],
            start=values["start"],
            omega=values["omega"],
            contexts=contexts,
        )

    ages = _Ages(split, log.catalogue.birth)
    age_prior = torch.from_numpy(age_precision(config.age_slope_sd, config.age_bend_sd).astype(np.float32))

    def loss(users: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[Tensor, int]:
        batch, arrays = make_batch(split, users, low, high), arrays_of(learnt)
        preference = preferences(
            batch,
            Scalars.from_free(learnt),
            arrays.embedding,
            categories,
            arrays.start[batch.users],
            arrays.context_taste(batch),
        )
        preference = torch.cat([preference, ages.event[batch.event]], dim=1)
        vectors = torch.cat([arrays.embedding, categories, ages.item(learnt["phi"])], dim=1)
        return catalogue_loss(preference, vectors, arrays.bias, batch.target, batch.earlier), len(batch.target)

    best, waited, stops = np.inf, 0, []
    kept = {name: tensor.detach().clone() for name, tensor in learnt.items()}
    for _ in range(config.epochs):
        for users in user_batches(fit_end, batch_events, rng):
            optimiser.zero_grad()
            total, events = loss(users, none, fit_end)
            penalty = 0.5 * learnt["phi"] @ age_prior @ learnt["phi"]
            (total / events + penalty / fit_end.sum()).backward()
            optimiser.step()
        if fit_end.any():
            schedule.step()
        tick()
        with torch.no_grad():
            stops = [float(loss(users, fit_end, stop_end)[0]) for users in user_batches(stop_end - fit_end, 4096)]
        # Without an early-stopping part (a tiny log) every pass counts as better.
        if not stops or sum(stops) < best:
            best, waited = sum(stops), 0
            kept = {name: tensor.detach().clone() for name, tensor in learnt.items()}
        else:
            waited += 1
            if waited >= config.patience:
                break
    return FirstStage(
        arrays=arrays_of(kept),
        free={name: kept[name].item() for name in FREE_START},
        age_values=kept["phi"].double().numpy(),
        stop_nll=best / max(int((stop_end - fit_end).sum()), 1) if stops else np.inf,
    )


def _ends(split: EventSplit) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """[U] first place of the fit part (0), of the early-stopping part and of the test part."""
    fit = np.bincount(split.user[split.part == Part.FIT], minlength=split.num_users)
    stop = np.bincount(split.user[split.part == Part.STOP], minlength=split.num_users)
    return np.zeros_like(fit), fit, fit + stop


def _calibration_events(split: EventSplit, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """(low, high, held out): the early-stopping part, or the fit part where that has next to no events; of users drawn at
    random where there are too many."""
    none, fit_end, stop_end = _ends(split)
    held_out = int((stop_end - fit_end).sum()) >= _MIN_CALIBRATION_EVENTS
    low, high = (fit_end, stop_end) if held_out else (none, fit_end)
    users = np.random.default_rng(seed).permutation(split.num_users)
    beyond = np.cumsum((high - low)[users]) * split.num_items > MAX_CELLS
    high = high.copy()
    high[users[beyond]] = low[users[beyond]]
    return low, high, held_out
