"""What an evolving user model has to beat: popularity, and static matrix factorisation, under the same protocol."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from envs.users.likelihood import EventLikelihood, EventSplit, Part, Utilities, next_item_likelihood


@dataclass(frozen=True, kw_only=True)
class StaticConfig:
    """How static matrix factorisation is fitted: softmax over the catalogue, utility p_u.v + b."""

    embedding_size: int = 32
    """Width of the embeddings."""
    steps: int = 240
    """Steps of Adam, at most, each over all users."""
    patience: int = 3
    """Looks at the early-stopping part without a better likelihood after which the fit ends; one every ten steps."""
    learning_rate: float = 0.03
    """Step size."""
    user_penalty: float = 10.0
    """Precision of the normal prior of the users' vectors."""
    item_penalty: float = 1.0
    """Precision of the normal prior of the items' vectors."""
    seed: int = 0
    """Seed of the start values."""


def popularity_likelihood(split: EventSplit, part: Part = Part.TEST) -> EventLikelihood:
    """Every user prefers items by how often the fit part has them, one added to each count."""
    utility = np.log(split.counts(Part.FIT) + 1.0).astype(np.float32)

    def utilities(events: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.tile(utility, (len(events), 1))

    return next_item_likelihood(utilities, split, part)


def static_likelihood(
    split: EventSplit, config: StaticConfig = StaticConfig(), part: Part = Part.TEST
) -> EventLikelihood:
    """Static matrix factorisation, fitted here to the fit part and stopped early on the early-stopping part.

    A user's utilities never move, so in the fit all its events share one softmax over the whole catalogue (nothing masked).
    """
    users, items, bias = fit_static(split, config)
    return next_item_likelihood(_static_utilities(split, users, items, bias), split, part)


def _static_utilities(
    split: EventSplit, users: NDArray[np.float32], items: NDArray[np.float32], bias: NDArray[np.float32]
) -> Utilities:
    def utilities(events: NDArray[np.int64]) -> NDArray[np.float32]:
        return users[split.user[events]] @ items.T + bias

    return utilities


def fit_static(
    split: EventSplit, config: StaticConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """([U, d] users, [I, d] items, [I] bias) of static matrix factorisation; see `static_likelihood`."""
    torch.manual_seed(config.seed)
    counts = torch.zeros(split.num_users, split.num_items)
    fit = split.part == Part.FIT
    counts.index_put_(
        (torch.from_numpy(split.user[fit]), torch.from_numpy(split.item[fit])), torch.ones(fit.sum()), accumulate=True
    )
    popularity = torch.log(counts.sum(dim=0) + 1)
    users = torch.zeros(split.num_users, config.embedding_size).requires_grad_()
    items = (0.3 * torch.randn(split.num_items, config.embedding_size)).requires_grad_()
    bias = (popularity - popularity.mean()).requires_grad_()
    optimiser = torch.optim.Adam([users, items, bias], lr=config.learning_rate)
    events = counts.sum(dim=1)
    best, kept, waited = np.inf, (users.detach().numpy(), items.detach().numpy(), bias.detach().numpy()), 0
    for step in range(config.steps):
        optimiser.zero_grad()
        utility = users @ items.T + bias
        loss = (events * utility.logsumexp(dim=1)).sum() - (counts * utility).sum()
        prior = config.user_penalty * users.square().sum() + config.item_penalty * items.square().sum()
        ((loss + 0.5 * prior) / max(float(events.sum()), 1.0)).backward()
        optimiser.step()
        if step % 10 == 9:
            now = (users.detach().numpy().copy(), items.detach().numpy().copy(), bias.detach().numpy().copy())
            stop = next_item_likelihood(_static_utilities(split, *now), split, Part.STOP).mean()[0]
            waited = 0 if stop < best else waited + 1
            if stop < best:
                best, kept = stop, now
            if waited >= config.patience:
                break
    return kept
