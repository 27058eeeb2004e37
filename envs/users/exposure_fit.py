"""Fits the parametric user model to a log with exposures: what was taken from each slate, or that nothing was.

Embeddings and users' starts are not numbers to be found but unknowns with a distribution: each item's embedding is its categories'
centre plus a normal deviation, each user's start a linear function of its features plus a normal deviation, and the spreads of
the deviations are estimated too. Weights such as alpha are then those that make the log most likely with these unknowns
integrated out; at their best guesses the weights would come out wrong, since guesses have errors (errors in variables).

The posterior of the items is approximated by a normal for each, of its embedding and bias together, its mean moved by Newton steps
on samples (Khan et al. 2018, Fast and scalable Bayesian deep learning by weight-perturbation in Adam: variational online Newton),
its precision the information of the multinomial logit plus the prior's. With biases taken as known, a large mean interest
would seem to tell a lot about embeddings, and weights would be pulled to where that mean is small. The posterior of the users
is a normal for each given the items drawn, so that a user's start makes up for what an item's draw is off (Hoffman and Blei
2015, Structured stochastic variational inference). Biases, phi and the outside option move by Newton steps together, weights and
omega by Adam, on the same samples (Fisher's identity); spreads by EM.

Two things keep the fit from local optima: biases move faster than embeddings, which would else take on the items' popularity along
one direction, and for the first part of the passes items and users are taken as certain, which moves weights fast.
No part of the log is needed for early stopping. Items are taken as independent of each other
(docs/user-model-exposures.md has figures).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.users.calibration import FREE_START, age_basis, age_precision
from envs.users.exposure_start import beginning
from envs.users.exposures import Requests
from envs.users.interest import NUM_CONTEXTS, context_rows
from envs.users.protocol import AGE_KNOTS, position_logits
from envs.users.slates import RequestBatch, SlateLoss, interests
from envs.users.training import Scalars, user_batches

STATIC = {"short_weight": 0.0, "satiation_gain": 0.0, "long_rate": -20.0}
"""Scalars of a model whose users do not move."""


@dataclass(frozen=True, kw_only=True)
class ExposureFitConfig:
    """How the user model is fitted to a log with exposures."""

    embedding_size: int = 16
    """d: width of the embeddings."""
    epochs: int = 30
    """Passes over the requests."""
    batches: int = 32
    """Steps in a pass."""
    batch_requests: int = 500
    """Requests in a step, at least."""
    learning_rate: float = 0.04
    """First step size of Adam; it falls to 0 by a cosine."""
    centre_learning_rate: float = 0.04
    """The same for the categories' centres."""
    item_step: float = 0.03
    """First share of a Newton step that the means of embeddings move; it falls as well."""
    level_step: float = 0.15
    """The same for biases, phi and the outside option: larger, or embeddings would take in what biases are there for."""
    certain_share: float = 0.4
    """First share of the passes in which items and users are taken as certain, until there is something to be uncertain about."""
    held_share: float = 0.3
    """First share of the passes in which the spreads of items and users are held."""
    start_sd: float = 1.0
    """First spread of a user's start, in logits, in each coordinate."""
    own_share: float = 0.5
    """First variance of an item's deviation, all coordinates together, on the scale of a mean norm of 1."""
    seed: int = 0
    """Seed of start values, samples and the order of batches."""


@dataclass(frozen=True, kw_only=True)
class ExposurePosterior:
    """What the fit found, on the scale of a root mean square norm of v near 1 (a mean norm, errors included)."""

    values: dict[str, Tensor]
    """Point estimates: the scalars of `FREE_START`, 'outside', 'position', 'phi' [knots], 'omega' [contexts, G], 'bias' [I]."""
    embedding: Tensor
    """[I, d] means of v."""
    embedding_cov: Tensor
    """[I, d, d]."""
    start: Tensor
    """[U, d] means of p before the first event."""
    item_precision: Tensor
    """[I, d, d] prior precision of an item's deviation."""
    start_precision: Tensor
    """[d, d] prior precision of a user's deviation."""
    bias_precision: Tensor
    """[] prior precision of b."""
    omega_precision: Tensor
    """[] prior precision of omega."""

    @property
    def norm(self) -> Tensor:
        """[] mean norm of v, its error included: means alone are shorter than what they estimate."""
        spread = self.embedding_cov.diagonal(dim1=1, dim2=2).sum(dim=1)
        return (self.embedding.square().sum(dim=1) + spread).sqrt().mean()


AGE_PRECISION = torch.from_numpy(age_precision(slope_sd=1.0, bend_sd=1.0).astype(np.float32))
"""Prior of phi: wide, since b is independent of an item's birth a priori; only the mean of the knots is held."""


_GENTLE: dict[str, Any] = {
    "learning_rate": 0.02,
    "centre_learning_rate": 0.02,
    "level_step": 0.03,
    "certain_share": 0.15,
}
"""Smaller steps of a static model: with those above its covariances are lost to rounding, and there is no short-term interest
that popularity in the embeddings could hold back."""
_LEAST_WEIGHT = 1e-3
"""Of long-term interest, when it is told apart from a user's start."""
_OUTSIDE_PRECISION = 0.01
"""Prior precision of the outside option's logit: next to nothing."""


@dataclass(frozen=True)
class SlateFeatures:
    """What the requests of a log show besides items: ages, slots and contexts."""

    age: NDArray[np.float32]
    """[Q, K] place on the scale of the knots."""
    contexts: Tensor
    """[Q, 3] rows of omega."""
    discount: Tensor
    """[K] logits by slot at a slope of 1."""

    @classmethod
    def of(cls, requests: Requests, birth: NDArray[np.int64]) -> "SlateFeatures":
        days = np.maximum(requests.ages(birth), 0)
        return cls(
            age=days,
            contexts=torch.from_numpy(context_rows(requests.hour, requests.weekday, requests.consumed_in_visit)),
            discount=torch.from_numpy(position_logits(requests.slate_size)),
        )

    def basis(self, batch: RequestBatch) -> Tensor:
        """[R, K, knots] weights of the knots of phi."""
        return torch.from_numpy(age_basis(self.age[batch.request]))


def fit_exposures(
    requests: Requests,
    high: NDArray[np.int64],
    categories: NDArray[np.float32],
    birth: NDArray[np.int64],
    features: NDArray[np.float32],
    config: ExposureFitConfig = ExposureFitConfig(),
    moving: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> ExposurePosterior:
    """Fits to the first `high[user]` requests of each user.

    Args:
        requests: the requests of the log.
        high: [U] how many of each user's requests are used.
        categories: [I, G] m.
        birth: [I] seconds since 1970.
        features: [U, Fu] public attributes of the users.
        config: how to fit.
        moving: whether interests move; else the model is static, for comparison.
        tick: called after each pass.
    """
    config = config if moving else replace(config, **_GENTLE)
    fit = _Fit(requests, high, torch.from_numpy(categories), birth, torch.from_numpy(features), config, moving)
    for epoch in range(config.epochs):
        fit.epoch(epoch / config.epochs)
        tick()
    return fit.posterior()


class _Fit:
    """State of the optimisation."""

    def __init__(
        self,
        requests: Requests,
        high: NDArray[np.int64],
        categories: Tensor,
        birth: NDArray[np.int64],
        features: Tensor,
        config: ExposureFitConfig,
        moving: bool,
    ) -> None:
        self.requests, self.high, self.categories, self.config = requests, high, categories, config
        self.features = SlateFeatures.of(requests, birth)
        self.rng = np.random.default_rng(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        users, items, groups, size = requests.num_users, requests.num_items, categories.shape[1], config.embedding_size
        none = max(float((requests.chosen == requests.slate_size).mean()), 1e-3) if len(requests) else 0.5
        first = beginning(requests, categories.numpy(), size, self.rng)
        self.learnt = {name: torch.tensor(value) for name, value in FREE_START.items()} | {
            "short_weight": torch.tensor(first.short_weight),
            "satiation_gain": torch.tensor(first.satiation_gain),
            "centres": torch.from_numpy(first.centres),
            "bias": torch.zeros(items),
            "omega": torch.zeros(NUM_CONTEXTS, groups),
            "phi": torch.zeros(len(AGE_KNOTS)),
            "outside": torch.tensor(float(np.log(none / max(1 - none, 1e-3) * requests.slate_size))),
            "position": torch.tensor(0.5),
        }
        held = () if moving else tuple(STATIC)
        if not moving:
            self.learnt |= {name: torch.tensor(value) for name, value in STATIC.items()}
        self.own = (0.1 / np.sqrt(size) * self._normal(items, size)).requires_grad_()
        scalars = [name for name in (*FREE_START, "position") if name not in held]
        for name in ("centres", "bias", "omega", "phi", "outside", *scalars):
            self.learnt[name].requires_grad_()
        self.rates = (config.learning_rate, config.centre_learning_rate, config.learning_rate)
        groups_of = (("omega",), ("centres",), tuple(scalars))
        self.optimiser = torch.optim.Adam(
            [{"params": [self.learnt[name] for name in names]} for names in groups_of], betas=(0.9, 0.99)
        )
        self.design = torch.cat([torch.ones(users, 1), features - features.mean(dim=0)], dim=1)
        # kappa p in logits, not p: what choices tell of kappa p would else hold kappa back
        self.start, self.start_mean = torch.zeros(users, size), torch.zeros(users, size)
        self.start_precision = torch.eye(size) / config.start_sd**2
        self.item_precision = torch.eye(size) * (size / config.own_share)
        self.start_cov = torch.linalg.inv(self.start_precision).expand(users, -1, -1).clone()
        self.item_information = torch.zeros(items, size + 1, size + 1)
        """[I, d + 1, d + 1] what the log tells of v and b together."""
        self.item_momentum = torch.zeros(items, size)
        self.levels = _Levels(items, self.learnt)
        self.bias_precision, self.omega_precision = torch.tensor(1.0), torch.tensor(10.0)
        self.steps = 0
        self.total = int(high.sum())
        self._update_item_cov()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    @property
    def embedding(self) -> Tensor:
        return self.categories @ self.learnt["centres"] + self.own

    @property
    def _embedding_cov(self) -> Tensor:
        """[I, d, d]."""
        size = self.own.shape[1]
        return self.item_cov[:, :size, :size]

    @property
    def _memory(self) -> float:
        """Weight of a batch's information against that of earlier ones: a pass is remembered."""
        return max(1 / self.config.batches, 1 / self.steps)

    def _update_item_cov(self) -> None:
        prior = torch.block_diag(self.item_precision, self.bias_precision[None, None])
        self.item_cov = torch.linalg.inv(self.item_information + prior)
        self.item_root = torch.linalg.cholesky(self.item_cov)

    def epoch(self, done: float) -> None:
        """One pass, begun when the share `done` of all passes is behind."""
        size = max(self.total // self.config.batches, self.config.batch_requests)
        batches = list(user_batches(self.high, size, self.rng))
        for number, users in enumerate(batches):
            left = 0.5 * (1 + np.cos(np.pi * (done + number / len(batches) / self.config.epochs)))
            for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
                group["lr"] = rate * left
            if done < self.config.certain_share:
                self.optimiser.param_groups[-1]["lr"] = 0.0
            self._step(RequestBatch.of(self.requests, users, self.high), left, certain=done < self.config.certain_share)
            if self.steps % 8 == 0:
                self._update_spreads(held=done < self.config.held_share)

    def _step(self, batch: RequestBatch, left: float, certain: bool) -> None:
        """Moves everything by what one batch of users tells; `left` is the share of the step sizes that is left."""
        self.steps += 1
        users, share = batch.users, len(batch) / self.total
        items, size = self.own.shape
        item_noise = (self.item_root @ self._normal(items, size + 1, 1))[:, :, 0] * float(not certain)
        embedding, bias = self.embedding + item_noise[:, :size], self.learnt["bias"] + item_noise[:, size]
        scalars = Scalars.from_free(self.learnt)
        drift, satiation = interests(batch, scalars, embedding, self.categories, torch.zeros(len(users), size))
        taste = self.learnt["omega"][self.features.contexts[batch.request]].sum(dim=1)
        of_categories = taste - scalars.satiation_gain * satiation
        vectors = torch.cat([embedding, self.categories], dim=1)
        basis = self.features.basis(batch)
        extra = basis @ self.learnt["phi"] + self.learnt["position"] * self.features.discount
        levels = (bias, extra, self.learnt["outside"])
        start = self._draw_users(batch, drift, of_categories, vectors, levels, scalars, max(left, 0.1), certain)
        interest = drift + start[batch.row] * batch.fade(scalars)[:, None]
        preference = torch.cat([interest, of_categories], dim=1)
        loss, shares = SlateLoss.apply(preference, vectors, *levels, batch)
        prior = self.omega_precision * self.learnt["omega"].square().sum()
        self.optimiser.zero_grad()
        for tensor in (self.own, *self.levels.tensors):
            tensor.grad = None
        (loss + 0.5 * share * prior).backward()
        with torch.no_grad():
            self._move_items(batch, item_noise, interest, shares, share, left)
            self.levels.move(
                batch, basis, shares, share, self.bias_precision, self._memory, self.config.level_step * left
            )
            self.optimiser.step()

    @torch.no_grad()
    def _draw_users(
        self,
        batch: RequestBatch,
        drift: Tensor,
        of_categories: Tensor,
        vectors: Tensor,
        levels: tuple[Tensor, Tensor, Tensor],
        scalars: Scalars,
        step: float,
        certain: bool,
    ) -> Tensor:
        """[B, d] a draw of the starts of the batch's users given the items drawn: a Newton step from their means, and noise.

        Means move by the share `step` of it; covariances are those given items plus what the step adds (law of total variance).
        """
        users = batch.users
        start = self.start[users].requires_grad_()
        with torch.enable_grad():
            interest = drift.detach() + start[batch.row] * batch.fade(scalars).detach()[:, None]
            preference = torch.cat([interest, of_categories.detach()], dim=1)
            fixed = (vectors.detach(), *(level.detach() for level in levels))
            loss, shares = SlateLoss.apply(preference, *fixed, batch)
            (gradient,) = torch.autograd.grad(loss, start)
        embedding = vectors[:, : start.shape[1]]
        cov = torch.linalg.inv(start_information(batch, embedding, shares, scalars) + self.start_precision)
        gradient = gradient + (start - self.start_mean[users]) @ self.start_precision
        change = -(cov @ gradient[:, :, None])[:, :, 0]
        self.start[users] += step * change
        self.start_cov[users] = cov + change[:, :, None] * change[:, None, :]
        noise = (torch.linalg.cholesky(cov) @ self._normal(*start.shape, 1))[:, :, 0]
        drawn: Tensor = start.detach() + change + noise * float(not certain)
        return drawn

    def _move_items(
        self, batch: RequestBatch, noise: Tensor, interest: Tensor, shares: Tensor, share: float, left: float
    ) -> None:
        """The same for all embeddings, with momentum, since a batch tells of each only a little."""
        items, size = self.own.shape
        weights = batch.of_items((shares * (1 - shares)).numpy(), items)
        effects = torch.cat([interest, torch.ones(len(batch), 1)], dim=1)
        of_batch = (weights.T @ (effects[:, :, None] * effects[:, None, :]).reshape(len(batch), -1).numpy()) / share
        information = torch.from_numpy(of_batch.astype(np.float32)).reshape(items, size + 1, size + 1)
        self.item_information += self._memory * (information - self.item_information)
        assert self.own.grad is not None
        # biases' gradients keep what the noise made: of all biases and the outside option together it is 0 only as it is
        made = (information[:, :size] @ noise[:, :, None])[:, :, 0]
        gradient = self.own.grad / share - made + self.own @ self.item_precision
        precision = self.item_information[:, :size, :size] + self.item_precision
        newton = torch.linalg.solve(precision, gradient[:, :, None])[:, :, 0]
        self.item_momentum = 0.9 * self.item_momentum + 0.1 * newton
        self.own -= self.config.item_step * left * self.item_momentum

    @torch.no_grad()
    def _update_spreads(self, held: bool) -> None:
        """EM for the priors, then the scale: v's mean norm, errors included, is 1."""
        design = self.design
        weights = torch.linalg.solve(design.T @ design + torch.eye(design.shape[1]), design.T @ self.start)
        self.start_mean = design @ weights
        size = self.own.shape[1]
        if not held:
            deviation = self.start - self.start_mean
            second = (deviation.T @ deviation + self.start_cov.sum(dim=0)) / len(deviation)
            self.start_precision = torch.linalg.inv(second + 1e-5 * torch.eye(size))
            own = self.own.square().sum(dim=1) + self._embedding_cov.diagonal(dim1=1, dim2=2).sum(dim=1)
            self.item_precision = torch.eye(size) * (size / own.mean())
        self.bias_precision = 1 / (self.learnt["bias"].square() + self.item_cov[:, size, size]).mean()
        self.omega_precision = 1 / (self.learnt["omega"].square().mean() + 1e-3)
        norm = self.posterior().norm
        for tensor in (self.learnt["centres"], self.own, self.item_momentum):
            tensor /= norm
        for tensor in (self.start, self.start_mean):
            tensor *= norm
        for tensor in (self.learnt["short_weight"], self.learnt["long_weight"]):
            tensor *= norm**2
        for tensor in (self.item_precision, self.start_cov):
            tensor *= norm**2
        scale = torch.cat([norm.expand(size), torch.ones(1)])
        self.item_information *= scale[:, None] * scale
        self.start_precision /= norm**2
        self._update_item_cov()

    def posterior(self) -> ExposurePosterior:
        """What has been found so far."""
        weight = float(self.learnt["long_weight"].detach())
        weight = max(abs(weight), _LEAST_WEIGHT) * (1.0 if weight >= 0 else -1.0)
        return ExposurePosterior(
            values={name: value.detach() for name, value in self.learnt.items()},
            embedding=self.embedding.detach(),
            embedding_cov=self._embedding_cov,
            start=self.start / weight,
            item_precision=self.item_precision,
            start_precision=self.start_precision * weight**2,
            bias_precision=self.bias_precision,
            omega_precision=self.omega_precision,
        )


class _Levels:
    """Items' biases, phi and the outside option, which move together.

    A bias can take the place of an age effect, and only its prior tells the two apart, so that steps along one after the other
    would hardly get anywhere. These are Newton steps of phi and the outside option with the biases profiled out.
    """

    def __init__(self, items: int, learnt: dict[str, Tensor]) -> None:
        self.tensors = (learnt["bias"], learnt["phi"], learnt["outside"])
        few = len(AGE_KNOTS) + 1
        self.prior = torch.zeros(few, few)
        self.prior[:-1, :-1] = AGE_PRECISION
        self.prior[-1, -1] = _OUTSIDE_PRECISION
        self.own = torch.zeros(items)
        """[I] information about a bias alone."""
        self.cross, self.few = torch.zeros(items, few), torch.zeros(few, few)
        self.momentum, self.few_momentum = torch.zeros(items), torch.zeros(few)

    def move(
        self,
        batch: RequestBatch,
        basis: Tensor,
        shares: Tensor,
        share: float,
        bias_precision: Tensor,
        memory: float,
        step: float,
    ) -> None:
        """A step of size `step`, with momentum, by what a batch with the `share` of all requests tells."""
        bias, phi, outside = self.tensors
        assert bias.grad is not None and phi.grad is not None and outside.grad is not None
        effects = torch.cat([basis, basis.new_full((*basis.shape[:2], 1), -1.0)], dim=2)
        mean = (shares[:, None] @ effects)[:, 0]
        flat = (effects * shares.sqrt()[:, :, None]).flatten(0, 1)
        pulls = (shares[:, :, None] * (effects - mean[:, None])).flatten(0, 1).numpy()
        slots = np.arange(len(pulls) + 1)
        shown = csr_array((np.ones(len(pulls), np.float32), batch.slate.ravel(), slots), shape=(len(pulls), len(bias)))
        cross = torch.from_numpy(shown.T @ pulls)
        own = torch.from_numpy(shown.T @ (shares * (1 - shares)).numpy().ravel())
        for total, part in ((self.few, flat.T @ flat - mean.T @ mean), (self.cross, cross), (self.own, own)):
            total += memory * (part / share - total)
        precision = self.own + bias_precision
        pull = bias.grad / share + bias_precision * bias
        few = torch.cat([phi, outside[None]])
        few_pull = torch.cat([phi.grad, outside.grad[None]]) / share + self.prior @ few
        left = self.few + self.prior - self.cross.T @ (self.cross / precision[:, None])
        few_step = torch.linalg.solve(left, few_pull - self.cross.T @ (pull / precision))
        own_step = (pull - self.cross @ few_step) / precision
        self.momentum = 0.9 * self.momentum + 0.1 * own_step
        self.few_momentum = 0.9 * self.few_momentum + 0.1 * few_step
        bias -= step * self.momentum
        phi -= step * self.few_momentum[:-1]
        outside -= step * self.few_momentum[-1]


def start_information(batch: RequestBatch, embedding: Tensor, shares: Tensor, scalars: Scalars) -> Tensor:
    """[B, d, d] information of the batch's requests about kappa p of their users' starts."""
    shown = embedding[torch.from_numpy(batch.slate)] * batch.fade(scalars)[:, None, None]
    mean = (shares[:, None] @ shown)[:, 0]
    spread = shown * shares.sqrt()[:, :, None]
    ends = np.searchsorted(batch.row.numpy(), np.arange(len(batch.users) + 1))
    information = embedding.new_empty(len(batch.users), embedding.shape[1], embedding.shape[1])
    for user, (begin, end) in enumerate(pairwise(ends)):
        rows = spread[begin:end].reshape(-1, embedding.shape[1])
        information[user] = rows.T @ rows - mean[begin:end].T @ mean[begin:end]
    return information
