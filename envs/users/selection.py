"""Choice of the embeddings' width and of the strength of regularisation, on the early-stopping part.

First the strength: one factor on all weight decays, biases held near popularity where it is strong; then d at the best strength.
Each candidate is fitted (first stage only) to the same users, drawn so that a candidate costs no more than a budget. On ml-100k
the defaults of `FitConfig` are what this finds, so there it is only done when asked for.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from envs.artefacts import cache_folder, load_json, save_json
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.users.exposures import has_slates
from envs.users.fit import FitConfig, fit_key, train
from envs.users.likelihood import split_events
from envs.users.progress import fit_progress
from envs.users.threads import single_torch_thread

KNOWN = ("ml-100k",)
"""Logs for which the defaults are what the search finds."""
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Factors on the weight decays."""
WIDTHS = (8, 16, 32, 64)
"""Candidates for d."""
_STRONG_BIAS_DECAY = 1.0
"""Weight decay of the biases' distance from log popularity at strength 1 and more, times the strength."""
_CELLS = 150_000_000
"""Utilities (events times items) in one pass over the sample of users."""
_MIN_EVENTS = 5_000
"""Events of the sample, however many items there are."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration that was tried."""

    embedding_size: int
    """d."""
    strength: float
    """Factor on the weight decays."""
    stop_nll: float
    """Mean negative log-likelihood of the sample's early-stopping part, masked, nats per event."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and from what."""

    config: FitConfig
    """The configuration to fit with."""
    tried: tuple[Candidate, ...]
    """Candidates in the order in which they were tried; none where nothing was searched."""
    users: int
    """Users that they were fitted to."""

    def sentence(self) -> str:
        """What was chosen, in words."""
        if not self.tried:
            return "d and regularisation: the defaults."
        best = min(self.tried, key=lambda candidate: candidate.stop_nll)
        worst = max(candidate.stop_nll for candidate in self.tried)
        return (
            f"Chosen on the early-stopping part of {self.users:,} users, out of {len(self.tried)} candidates: "
            f"d {best.embedding_size}, weight decays times {best.strength:g} ({best.stop_nll:.3f} nats per event, the worst "
            f"{worst:.3f})."
        )


def choose_config(log: InteractionLog, base: FitConfig, search: bool | None = None, progress: bool = True) -> Choice:
    """Strength of regularisation and d for `log`; from the cache if they were chosen before.

    Args:
        log: the log that is to be fitted.
        base: everything else about the fit, and the middle of the search.
        search: whether to search; None searches where the defaults were not chosen for this log.
        progress: whether to show a bar, if the terminal is one.

    Raises:
        LogError: if the log has no consumed event.
    """
    if search is None:
        # slates are fitted in another way, by strengths of their own
        search = log.name not in KNOWN and not (has_slates(log) and base.exposures is not None)
    if not search:
        return Choice(config=base, tried=(), users=0)
    path = cache_folder() / "fits" / f"{fit_key(log, base)}.choice.json"
    if path.exists():
        try:
            kept = load_json(path)
            tried = tuple(Candidate(**candidate) for candidate in kept["tried"])
            return _chosen(base, tried, int(kept["users"]))
        except (ArtefactError, AttributeError, KeyError, TypeError):
            path.unlink()
    sample, users = _sample(log, base)
    with (
        single_torch_thread(),
        fit_progress("Choosing d and regularisation", len(STRENGTHS) + len(WIDTHS) - 1, progress) as tick,
    ):
        tried = _search(sample, base, tick)
    save_json(path, {"tried": [asdict(candidate) for candidate in tried], "users": users})
    return _chosen(base, tried, users)


def strengthened(base: FitConfig, embedding_size: int, strength: float) -> FitConfig:
    """`base` with another d and all weight decays times `strength`."""
    if strength == 1.0:
        return replace(base, embedding_size=embedding_size)
    return replace(
        base,
        embedding_size=embedding_size,
        item_weight_decay=strength * base.item_weight_decay,
        user_weight_decay=strength * base.user_weight_decay,
        context_weight_decay=strength * base.context_weight_decay,
        bias_weight_decay=strength * (base.bias_weight_decay + (_STRONG_BIAS_DECAY if strength > 1 else 0)),
    )


def _search(log: InteractionLog, base: FitConfig, tick: Callable[[], None]) -> tuple[Candidate, ...]:
    split = split_events(log, base.max_events)
    tried = []

    def attempt(embedding_size: int, strength: float) -> None:
        config = strengthened(base, embedding_size, strength)
        nll = train(log, split, config, lambda: None).stop_nll
        tried.append(Candidate(embedding_size=embedding_size, strength=strength, stop_nll=float(nll)))
        tick()

    for strength in STRENGTHS:
        attempt(base.embedding_size, strength)
    best = min(tried, key=lambda candidate: candidate.stop_nll).strength
    for width in WIDTHS:
        if width != base.embedding_size:
            attempt(width, best)
    return tuple(tried)


def _chosen(base: FitConfig, tried: tuple[Candidate, ...], users: int) -> Choice:
    best = min(tried, key=lambda candidate: candidate.stop_nll)
    config = base if not np.isfinite(best.stop_nll) else strengthened(base, best.embedding_size, best.strength)
    return Choice(config=config, tried=tried, users=users)


def _sample(log: InteractionLog, base: FitConfig) -> tuple[InteractionLog, int]:
    """(the rows of users drawn at random within the budget, how many users these are)."""
    events = np.bincount(log.user[log.clicked], minlength=len(log.users)).clip(max=base.max_events)
    order = np.random.default_rng(base.seed).permutation(np.flatnonzero(events))
    budget = max(_CELLS // max(len(log.catalogue), 1), _MIN_EVENTS)
    count = max(int(np.searchsorted(events[order].cumsum(), budget, side="right")), 1)
    drawn = np.zeros(len(log.users), bool)
    drawn[order[:count]] = True
    return log.where(drawn[log.user]), int(drawn.sum())
