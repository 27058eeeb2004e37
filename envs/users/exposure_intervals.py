"""Standard errors of a fit with exposures, the errors of items and users included.

Users' starts, items' embeddings and biases, and the categories' centres are unknowns with a distribution, so the information of
the multinomial logit about the weights is what is left when these are integrated out:

    I = T - C' H^-1 C,    T = sum_q sum_k p_qk (e_qk - e_q)(e_qk - e_q)',

with e [P] the effects of the weights on a slot's logit, e_q their mean over the request's choices (0 for the outside option), and
C, H the same moments with the effects of the unknowns, their priors on H's diagonal. H couples users with items, so H^-1 C is found
by conjugate gradients; that approaches C' H^-1 C from below, so I stays positive. Items as part of what a user has consumed
are taken as known. Two things that the fit settles by convention are no news: steps that change v's mean norm are
projected out, and the scale of all starts is one more unknown without a prior, since the fit estimates their spread.
Source: Louis (1982), Finding the observed information matrix when using the EM algorithm; Hestenes and Stiefel (1952).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack, vstack
from torch import Tensor

from envs.users.calibration import FREE_START
from envs.users.exposure_fit import AGE_PRECISION, ExposurePosterior, SlateFeatures
from envs.users.exposures import Requests
from envs.users.interest import NUM_CONTEXTS
from envs.users.protocol import AGE_KNOTS
from envs.users.slates import RequestBatch, SlateLoss, interests
from envs.users.training import Scalars, user_batches

_BATCH_REQUESTS = 4_096
_MAX_REQUESTS = 20_000
"""Requests that the information is summed over; of a larger log those of users drawn at random, and it is scaled up."""
_PRIOR_PRECISION = 0.25
"""Of scalars in free units, as in the fit without exposures: it decides only where a log says next to nothing."""
_LITTLE = 1e-3
"""Prior precision of what has none."""
_ROUNDS = 60
"""Rounds of conjugate gradients at most."""
_TOLERANCE = 1e-3
"""Columns are done when a round changes their information by less than this share of it."""

SHARE_OFF = {"short_weight": 0.13, "satiation_gain": 0.16, "long_weight": 0.46}
"""Standard deviation of the fit's error beyond the information, as a share of the estimate. Measured, no theory: of fits to
logs of `benchmarks/recovery.py` with seeds 3, 4 and 5, times the ratio of Student's 97.5 % quantile with 3 degrees of freedom to
the normal one, since three logs are few."""
OFF = {"long_rate": 0.026}
"""The same in free units."""


@dataclass(frozen=True, kw_only=True)
class ExposureErrors:
    """Standard errors, in free units."""

    scalars: dict[str, float]
    """Of each of `FREE_START`, 'outside' and 'position', the fit's own error included (`SHARE_OFF`, `OFF`)."""
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
    order = np.random.default_rng(0).permutation(len(high))
    used = high.copy()
    used[order[np.cumsum(high[order]) - high[order] >= _MAX_REQUESTS]] = 0
    effects = _Effects(requests, torch.from_numpy(categories), birth, posterior)
    for batch in user_batches(used, _BATCH_REQUESTS):
        effects.add(RequestBatch.of(requests, batch, used))
    information = effects.information(scale=float(high.sum() / max(used.sum(), 1)))
    covariance = np.asarray(np.linalg.inv(information), np.float64)
    names = (*FREE_START, "outside", "position")
    knots = slice(len(names), len(names) + len(AGE_KNOTS))
    sd = dict(zip(names, np.sqrt(np.diag(covariance)).tolist(), strict=False))
    off = OFF | {name: share * abs(float(posterior.values[name])) for name, share in SHARE_OFF.items()}
    return ExposureErrors(
        scalars=sd | {name: float(np.hypot(sd[name], error)) for name, error in off.items()},
        age=covariance[knots, knots],
        omega=covariance[knots.stop :, knots.stop :],
    )


class _Effects:
    """Effects on the logits of slots, of P weights and of L unknowns: starts [U, d], deviations and biases [I, d + 1], centres
    [G, d], and the scale of all starts."""

    def __init__(
        self, requests: Requests, categories: Tensor, birth: NDArray[np.int64], posterior: ExposurePosterior
    ) -> None:
        self.posterior, self.categories = posterior, categories
        self.groups_of = csr_array(categories.numpy())
        self.features = SlateFeatures.of(requests, birth)
        self.vectors = torch.cat([posterior.embedding, categories], dim=1)
        items, size = posterior.embedding.shape
        self.begins = np.cumsum([0, requests.num_users * size, items * (size + 1), categories.shape[1] * size, 1])
        """First unknown of each kind, and L last."""
        knots = slice(len(FREE_START) + 2, len(FREE_START) + 2 + len(AGE_KNOTS))
        self.taste = knots.stop
        """Column of the first of omega's effects."""
        self.count = self.taste + NUM_CONTEXTS * categories.shape[1]
        prior = np.full(self.count, _PRIOR_PRECISION)
        prior[self.taste :] = float(posterior.omega_precision)
        self.prior = np.diag(prior)
        self.prior[knots, knots] = AGE_PRECISION.double().numpy()
        self.weights: list[NDArray[np.float32]] = []
        self.unknowns: list[csr_array] = []
        self.shares: list[NDArray[np.float32]] = []

    @torch.no_grad()
    def add(self, batch: RequestBatch) -> None:
        """Adds the requests of a batch."""
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
        of_omega = effects[:, :, self.taste :].view(*slate.shape, NUM_CONTEXTS, self.categories.shape[1])
        for context in self.features.contexts[batch.request].unbind(1):
            of_omega[torch.arange(len(batch)), :, context] += self.categories[slate]
        self.weights.append(effects.flatten(0, 1).numpy())
        self.shares.append(shares.numpy())
        self.unknowns.append(self._of_unknowns(batch, scalars, start, preference[:, : start.shape[1]]))

    def _of_unknowns(self, batch: RequestBatch, scalars: Scalars, start: Tensor, interest: Tensor) -> csr_array:
        """[R K, L] effects of the unknowns."""
        slots, size = batch.slate.shape[1], start.shape[1]
        rows = len(batch) * slots
        user = np.repeat(batch.users.numpy()[batch.row.numpy()], slots)
        moved = self.posterior.embedding[torch.from_numpy(batch.slate)]
        moved = moved * (scalars.long_weight * batch.fade(scalars))[:, None, None]
        scale = (moved @ start[batch.row][:, :, None])[:, :, 0]
        along = torch.cat([interest, torch.ones(len(batch), 1)], dim=1).numpy()
        pieces = [
            _blocks(moved.flatten(0, 1).numpy(), user, self.begins[1] // size),
            _blocks(np.repeat(along, slots, axis=0), batch.slate.ravel(), len(self.categories)),
            self._of_centres(np.repeat(along[:, :-1], slots, axis=0), batch.slate.ravel()),
            csr_array(scale.reshape(rows, 1).numpy()),
        ]
        return hstack(pieces, format="csr")

    def _of_centres(self, interest: NDArray[np.float32], item: NDArray[np.int64]) -> csr_array:
        """[R K, G d]: m outer interest."""
        shares, (rows, size) = self.groups_of[item], interest.shape
        row = np.repeat(np.arange(rows), np.diff(shares.indptr))
        column = shares.indices[:, None].astype(np.int64) * size + np.arange(size)
        data = shares.data[:, None] * interest[row]
        ends = shares.indptr.astype(np.int64) * size
        return csr_array((data.ravel(), column.ravel(), ends), shape=(rows, shares.shape[1] * size))

    def information(self, scale: float) -> NDArray[np.float64]:
        """[P, P], if there are `scale` times as many users like those that were added."""
        if not self.shares:
            return self.prior
        share = np.concatenate(self.shares)
        weights = _Centred(np.concatenate(self.weights), share)
        unknowns = _Centred(vstack(self.unknowns, format="csr"), share)
        joint = _Joint(unknowns, self._prior_of_unknowns(scale), self._norm_step())
        spent = joint.spent(unknowns.times(weights.effects))
        total = weights.times(weights.effects).astype(np.float64)
        return self.prior + scale * (total - spent)

    def _prior_of_unknowns(self, scale: float) -> csr_array:
        """[L, L] prior precisions; those of what all users share count once, not once for each of `scale`."""
        posterior, (items, size) = self.posterior, self.posterior.embedding.shape
        own = np.zeros((items, size + 1, size + 1), np.float32)
        own[:, :size, :size] = posterior.item_precision.numpy() / scale
        own[:, size, size] = float(posterior.bias_precision) / scale
        starts = np.broadcast_to(posterior.start_precision.numpy(), (self.begins[1] // size, size, size))
        few = np.full((self.begins[-1] - self.begins[2], 1, 1), _LITTLE / scale, np.float32)
        return _block_diagonal([starts, own, few])

    def _norm_step(self) -> NDArray[np.float32]:
        """[L] of length 1: the step that changes v's mean square norm most."""
        items, size = self.posterior.embedding.shape
        step = np.zeros(self.begins[-1], np.float32)
        own = step[self.begins[1] : self.begins[2]].reshape(items, size + 1)
        own[:, :size] = self.posterior.embedding.numpy()
        step[self.begins[2] : self.begins[3]] = (self.categories.T @ self.posterior.embedding).numpy().ravel()
        return step / np.linalg.norm(step)


def _blocks(data: NDArray[np.float32], block: NDArray[np.int64], num_blocks: int) -> csr_array:
    """[R, num_blocks width]: row r holds data[r] [width] at block[r]."""
    rows, width = data.shape
    column = block[:, None] * width + np.arange(width)
    return csr_array(
        (data.ravel(), column.ravel(), np.arange(0, rows * width + 1, width)), shape=(rows, num_blocks * width)
    )


def _block_diagonal(stacks: list[NDArray[np.float32]]) -> csr_array:
    """Of blocks [B, width, width], stack after stack."""
    pieces, total = [], sum(len(stack) * stack.shape[1] for stack in stacks)
    begin = 0
    for stack in stacks:
        count, width = stack.shape[:2]
        rows = count * width
        column = begin + np.repeat(np.arange(count) * width, width)[:, None] + np.arange(width)
        ends = np.arange(0, rows * width + 1, width)
        pieces.append(csr_array((stack.reshape(-1), column.ravel(), ends), shape=(rows, total)))
        begin += rows
    return vstack(pieces, format="csr")


@dataclass(frozen=True)
class _Centred:
    """Effects [R K, n] on the slots of R requests, against their mean over the request's choices."""

    effects: NDArray[np.float32] | csr_array
    share: NDArray[np.float32]
    """[R, K] chance of each slot."""

    def weighted(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[R K, m] what changes `logits` [R K, m] of the slots do to their chances."""
        change = logits.reshape(*self.share.shape, -1)
        change = change - (self.share[:, None] @ change)
        change *= self.share[:, :, None]
        return change.reshape(logits.shape)

    def times(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, m] information that these effects share with effects `logits` [R K, m]."""
        product: NDArray[np.float32] = self.effects.T @ self.weighted(logits)
        return product


class _Joint:
    """H of the unknowns, whose effects are sparse, without the step `fixed`."""

    def __init__(self, unknowns: _Centred, prior: csr_array, fixed: NDArray[np.float32]) -> None:
        self.unknowns, self.prior, self.fixed = unknowns, prior, fixed[:, None]
        share = unknowns.share.reshape(-1)
        squares = csr_array(unknowns.effects).power(2).T @ (share * (1 - share))
        self.inverse_diagonal = (1 / (squares + prior.diagonal()))[:, None]

    def _free(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        return columns - self.fixed * (self.fixed.T @ columns)

    def _product(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._free(self.unknowns.times(self.unknowns.effects @ columns) + self.prior @ columns)

    def spent(self, cross: NDArray[np.float32]) -> NDArray[np.float64]:
        """[m, m] C' H^-1 C for `cross` C [L, m], by preconditioned conjugate gradients of all columns side by side."""
        residual = self._free(cross)
        solution = np.zeros_like(residual)
        scaled = self._free(self.inverse_diagonal * residual)
        direction, energy = scaled.copy(), (residual * scaled).sum(axis=0)
        gained = np.zeros(residual.shape[1])
        active = np.flatnonzero(energy > 0)
        for _ in range(_ROUNDS):
            along = direction[:, active]
            product = self._product(along)
            length = energy[active] / (along * product).sum(axis=0)
            solution[:, active] += length * along
            residual[:, active] -= length * product
            scaled = self._free(self.inverse_diagonal * residual[:, active])
            after = (residual[:, active] * scaled).sum(axis=0)
            direction[:, active] = scaled + after / energy[active] * along
            gain = length * energy[active]
            gained[active] += gain
            energy[active] = after
            active = active[(gain > _TOLERANCE * gained[active]) & (after > 0)]
            if not len(active):
                break
        # of a solution that is not exact, the information that it surely takes: 2 C'x - x'Hx
        image = self._product(solution)
        taken = cross.T.astype(np.float64) @ solution
        return taken + taken.T - solution.T.astype(np.float64) @ image
