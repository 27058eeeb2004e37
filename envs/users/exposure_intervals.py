"""Standard errors of a fit with exposures, the errors of items and users included.

The information of the multinomial logit about weights, outside option, slope over positions, phi and omega, less what is spent on
finding each user's start and each item's embedding and bias (Schur complements over these, user by user and item by item;
what items and users have in common beyond that is left out).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.users.calibration import FREE_START
from envs.users.exposure_fit import AGE_PRECISION, ExposurePosterior, SlateFeatures, start_information
from envs.users.exposures import Requests
from envs.users.interest import NUM_CONTEXTS
from envs.users.protocol import AGE_KNOTS
from envs.users.slates import RequestBatch, SlateLoss, interests
from envs.users.training import Scalars, user_batches

_BATCH_REQUESTS = 4_096
_MAX_REQUESTS = 50_000
"""Requests that the information is summed over; of a larger log those of users drawn at random, and it is scaled up."""
_PRIOR_PRECISION = 0.25
"""Of scalars in free units, as in the fit without exposures: it decides only where a log says next to nothing."""


@dataclass(frozen=True, kw_only=True)
class ExposureErrors:
    """Standard errors, in free units."""

    scalars: dict[str, float]
    """Of each of `FREE_START`, 'outside' and 'position'."""
    age: NDArray[np.float64]
    """[knots, knots] covariance of phi."""
    omega: NDArray[np.float64]
    """[NUM_CONTEXTS * G, NUM_CONTEXTS * G] covariance of omega, row by row."""


def exposure_errors(
    requests: Requests,
    high: NDArray[np.int64],
    categories: NDArray[np.float32],
    birth: NDArray[np.int64],
    posterior: ExposurePosterior,
) -> ExposureErrors:
    """Errors of a fit to the first `high[user]` requests of each user; arguments as those of `fit_exposures`."""
    groups = torch.from_numpy(categories)
    information = _Information(requests, groups, birth, posterior)
    users = np.random.default_rng(0).permutation(len(high))
    used = high.copy()
    used[users[np.cumsum(high[users]) - high[users] >= _MAX_REQUESTS]] = 0
    for batch in user_batches(used, _BATCH_REQUESTS):
        information.add(RequestBatch.of(requests, batch, used))
    covariance = information.covariance(scale=high.sum() / max(used.sum(), 1))
    names = (*FREE_START, "outside", "position")
    knots = slice(len(names), len(names) + len(AGE_KNOTS))
    return ExposureErrors(
        scalars=dict(zip(names, np.sqrt(np.diag(covariance)).tolist(), strict=False)),
        age=covariance[knots, knots],
        omega=covariance[knots.stop :, knots.stop :],
    )


class _Information:
    """Sums over batches of users."""

    def __init__(
        self, requests: Requests, categories: Tensor, birth: NDArray[np.int64], posterior: ExposurePosterior
    ) -> None:
        self.posterior, self.categories = posterior, categories
        self.features = SlateFeatures.of(requests, birth)
        self.vectors = torch.cat([posterior.embedding, categories], dim=1)
        self.taste = len(FREE_START) + 2 + len(AGE_KNOTS)
        """Column of the first of omega's effects."""
        self.count = self.taste + NUM_CONTEXTS * categories.shape[1]
        items, size = posterior.embedding.shape
        prior = torch.zeros(self.count, dtype=torch.float64)
        prior[: len(FREE_START) + 2] = _PRIOR_PRECISION
        prior[self.taste :] = float(posterior.omega_precision)
        self.prior = torch.diag(prior).numpy()
        knots = slice(self.taste - len(AGE_KNOTS), self.taste)
        self.prior[knots, knots] = AGE_PRECISION.double()
        self.total = torch.zeros(self.count, self.count, dtype=torch.float64)
        self.item_effects = np.zeros((items, size + 1, self.count), np.float32)
        self.item_information = np.zeros((items, (size + 1) ** 2))

    @torch.no_grad()
    def add(self, batch: RequestBatch) -> None:
        """Adds what the batch's requests tell."""
        values, posterior = self.posterior.values, self.posterior
        scalars = Scalars.from_free(values)
        start = posterior.start[batch.users]
        omega = values["omega"][self.features.contexts[batch.request]].sum(dim=1)

        def preferences(free: Tensor) -> Tensor:
            moved = Scalars.from_free(dict(zip(FREE_START, free.unbind(), strict=True)))
            interest, satiation = interests(batch, moved, posterior.embedding, self.categories, start)
            return torch.cat([interest, omega - moved.satiation_gain * satiation], dim=1)

        free = torch.stack([values[name] for name in FREE_START])
        preference = preferences(free)
        slopes = torch.func.jacfwd(preferences)(free)
        basis = self.features.basis(batch)
        extra = basis @ values["phi"] + values["position"] * self.features.discount
        _, shares = SlateLoss.apply(preference, self.vectors, values["bias"], extra, values["outside"], batch)

        slate = torch.from_numpy(batch.slate)
        effects = torch.zeros(*slate.shape, self.count)
        scalar = len(FREE_START)
        effects[:, :, :scalar] = self.vectors[slate] @ slopes
        effects[:, :, scalar] = -1.0  # of the outside option against the items
        effects[:, :, scalar + 1] = self.features.discount
        effects[:, :, scalar + 2 : self.taste] = basis
        groups = self.categories.shape[1]
        of_omega = effects[:, :, self.taste :].view(*slate.shape, NUM_CONTEXTS, groups)
        for context in self.features.contexts[batch.request].unbind(1):
            of_omega[torch.arange(len(batch)), :, context] += self.categories[slate]
        mean = (shares[:, None] @ effects)[:, 0]
        weighted = effects * shares.sqrt()[:, :, None]
        flat = weighted.reshape(-1, self.count)
        self.total += (flat.T @ flat - mean.T @ mean).double()
        self._spend_on_users(batch, weighted, mean, shares, scalars)
        effects -= mean[:, None]
        self._note_items(batch, preference[:, : start.shape[1]], effects, shares)

    def _spend_on_users(
        self, batch: RequestBatch, weighted: Tensor, mean: Tensor, shares: Tensor, scalars: Scalars
    ) -> None:
        posterior = self.posterior
        own = start_information(batch, posterior.embedding, shares, scalars) + posterior.start_precision
        shown = posterior.embedding[torch.from_numpy(batch.slate)]
        shown = shown * (scalars.long_weight * batch.fade(scalars))[:, None, None]
        shown_mean = (shares[:, None] @ shown)[:, 0]
        shown = shown * shares.sqrt()[:, :, None]
        for user, cov in enumerate(torch.linalg.inv(own)):
            rows = torch.nonzero(batch.row == user)[:, 0]
            cross = weighted[rows].reshape(-1, self.count).T @ shown[rows].reshape(-1, shown.shape[2])
            cross -= mean[rows].T @ shown_mean[rows]
            self.total -= (cross @ cov @ cross.T).double()

    def _note_items(self, batch: RequestBatch, interest: Tensor, effects: Tensor, shares: Tensor) -> None:
        items = len(self.item_effects)
        rows = effects.reshape(-1, self.count).numpy()
        shown = csr_array(
            (np.ones(len(rows), np.float32), batch.slate.ravel(), np.arange(len(rows) + 1)), shape=(len(rows), items)
        )
        along = torch.cat([interest, torch.ones(len(batch), 1)], dim=1)
        for column, weight in enumerate(along.unbind(1)):
            self.item_effects[:, column] += shown.T @ (rows * (shares * weight[:, None]).reshape(-1, 1).numpy())
        spread = batch.of_items((shares * (1 - shares)).numpy(), items)
        self.item_information += spread.T @ (along[:, :, None] * along[:, None, :]).reshape(len(batch), -1).numpy()

    def covariance(self, scale: float) -> NDArray[np.float64]:
        """[count, count], if there are `scale` times as many requests as were added."""
        size = self.posterior.embedding.shape[1]
        own = scale * self.item_information.reshape(-1, size + 1, size + 1)
        own[:, :size, :size] += self.posterior.item_precision.numpy()
        own[:, size, size] += float(self.posterior.bias_precision)
        cross = scale * self.item_effects.astype(np.float64)
        spent = np.einsum("ijk,ijl->kl", cross, np.linalg.solve(own, cross), optimize=True)
        value, vector = np.linalg.eigh(self.prior + scale * self.total.numpy() - spent)
        # what items and users have in common is taken off twice; no direction is known less than its prior says
        floor = min(_PRIOR_PRECISION, 1 / 25)
        covariance: NDArray[np.float64] = (vector / np.maximum(value, floor)) @ vector.T
        return covariance
