"""The first stage of fitting the DIEN-like user model: network and parametric part together by AdamW on the fit part, the
network from random weights, the parametric part from the parametric fit.

The pass with the best early-stopping likelihood comes out as the numpy model that is simulated.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from torch import Tensor

from envs.catalogue import SECONDS_PER_DAY
from envs.logs.schema import InteractionLog
from envs.users.calibration import FREE_START
from envs.users.dien import DienModel
from envs.users.dien_network import Network
from envs.users.fit import FitConfig
from envs.users.interest import InterestModel, context_rows
from envs.users.likelihood import EventSplit, Part
from envs.users.protocol import age_effect
from envs.users.taste_traits import TASTES
from envs.users.training import Scalars, catalogue_loss, make_batch, preferences, user_batches

_AGE_ANCHORS = 12
_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class DienConfig:
    """How the DIEN-like user model is fitted."""

    parametric: FitConfig = field(default_factory=FitConfig)
    """How the parametric model is fitted from which it begins; events, weight decays and seed are taken from it."""
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
    epochs: int = 4
    """Passes over the fit part at most."""
    patience: int = 1
    """Passes without a better early-stopping likelihood after which the fit ends."""
    batch_events: int = 2048
    """Events whose likelihood makes one step, at most; of a small log so many that a pass has about 32 steps."""
    learning_rate: float = 0.005
    """Step size of AdamW for embeddings, users, biases and context in the first pass: small, for they begin fitted."""
    scalar_learning_rate: float = 0.006
    """Step size for lambda, alpha and the other scalars, likewise."""
    network_learning_rate: float = 0.01
    """Step size for the network."""
    learning_rate_decay: float = 0.65
    """Factor on every step size after each pass."""
    network_weight_decay: float = 0.1
    """Decoupled weight decay of the network."""
    max_gradient: float = 1.0
    """Norm to which the network's gradient is clipped."""


@dataclass(frozen=True, kw_only=True)
class Learner:
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


def train(
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


def _learner(log: InteractionLog, split: EventSplit, parametric: InterestModel, config: DienConfig) -> Learner:
    width = parametric.item_embedding.shape[1]
    categories = torch.from_numpy(log.catalogue.categories)
    params = parametric.params
    start = {
        "embedding": parametric.item_embedding,
        "start": parametric.user_embedding,
        "bias": parametric.item_bias,
        "omega": parametric.context_weights,
        "short_decay": logit(params.short_decay),
        "short_weight": params.short_weight if config.average else 0.0,
        "long_weight": params.long_weight,
        "long_rate": logit(params.long_rate),
        "satiation_decay": logit(params.satiation_decay),
        "satiation_gain": params.satiation_gain,
        "short_half_life_days": np.log(params.short_half_life_days),
        "satiation_half_life_days": np.log(params.satiation_half_life_days),
    }
    arrays = {name: torch.tensor(np.asarray(value, np.float32)) for name, value in start.items()}
    for name, tensor in arrays.items():
        tensor.requires_grad_(config.average or not name.startswith("short_"))
    first, last = split.timestamp.min(), split.timestamp.max()
    moments = np.linspace(first, max(last, first + 1), _AGE_ANCHORS)
    place = (split.timestamp - first) / (moments[1] - moments[0])
    near = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(_AGE_ANCHORS))).astype(np.float32)
    ages = ((moments - log.catalogue.birth[:, None]) / SECONDS_PER_DAY).astype(np.float32)
    return Learner(
        split=split,
        categories=categories,
        contexts=torch.from_numpy(context_rows(split.hour, split.weekday, split.place_in_visit)),
        age_event=torch.from_numpy(near),
        age_item=torch.from_numpy(age_effect(parametric.age_values, ages)),
        arrays=arrays,
        network=Network(width, categories.shape[1], config.size, config.facets, config.attentive, config.dropout),
        auxiliary_weight=config.auxiliary_weight,
    )


def _assembled(parametric: InterestModel, learner: Learner) -> DienModel:
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
    traits = parametric.user_traits.copy()
    traits[:, TASTES] = 0
    base = replace(
        parametric,
        params=params,
        # fitted to the slates of a log with exposures, for utilities that are no longer these
        choice=replace(parametric.choice, outside=None),
        user_traits=traits,
        item_embedding=(arrays["embedding"] / scale).numpy(),
        item_bias=(arrays["bias"] - arrays["bias"].mean()).numpy(),
        user_embedding=(arrays["start"] / scale).numpy(),
        context_weights=arrays["omega"].numpy(),
    )
    return DienModel(base=base, network=learner.network.exported(scale))
