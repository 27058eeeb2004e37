"""What each term of the user model buys: the model is fitted again without it, and both predict the same held-out events.

Clicks count as choices from the whole catalogue, for every variant and for the full model, also where a log has exposures.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from envs.artefacts import cache_folder, load_arrays, save_arrays
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.users.baselines import popularity_likelihood
from envs.users.calibration import TERMS
from envs.users.exposures import has_slates
from envs.users.fit import FitConfig, catalogue_choice_model, fit_key, fit_or_load
from envs.users.likelihood import EventLikelihood, split_events, user_model_likelihood
from envs.users.measure import DEFAULT_CONFIG, SHUFFLE_SEED
from envs.users.progress import fit_progress
from envs.users.threads import single_torch_thread

SHUFFLED_TERMS = ("short_term", "drift", "satiation")
"""Terms of evolution, measured on events shuffled inside visits as well."""
ALL_BUT_POPULARITY = "all_but_popularity"
"""Stands for the whole model but its biases, which are then log popularity."""


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One term, in nats per test event, masked; intervals of 95 %, events clustered by user."""

    term: str
    """One of `TERMS`, or `ALL_BUT_POPULARITY`."""
    shuffled: bool
    """Whether events were shuffled inside visits, in fit and measure."""
    nll: float
    """Negative log-likelihood without the term."""
    nll_half_width: float
    """Half of its interval."""
    gain: float
    """What the term buys: the mean of the paired differences, without it minus with it."""
    gain_low: float
    """Low end of its interval."""
    gain_high: float
    """High end of its interval."""
    verdict: str
    """The same in words."""


def ablation(
    log: InteractionLog,
    config: FitConfig = DEFAULT_CONFIG,
    progress: bool = True,
    terms: Sequence[str] = tuple(TERMS),
    shuffled_terms: Sequence[str] = SHUFFLED_TERMS,
) -> list[AblationRow]:
    """Fits the model without each of `terms` and measures it on the test part beside the full one.

    Each variant is kept in the cache, so an interrupted study goes on where it stopped.

    Args:
        log: the log.
        config: how the full model is fitted.
        progress: whether to show a bar, if the terminal is one.
        terms: what to leave out with the events as logged.
        shuffled_terms: what to leave out with the events shuffled inside visits too.

    Raises:
        LogError: if the log has no consumed event.
    """
    rows = []
    orders = [(None, tuple(terms)), (SHUFFLE_SEED, tuple(shuffled_terms))]
    steps = sum(len(names) + 1 for _, names in orders if names)
    with fit_progress("Fitting without each term", steps, progress) as tick:
        for shuffle_seed, names in orders:
            if not names:
                continue
            full = _full(log, config, shuffle_seed)
            tick()
            split = split_events(log, config.max_events, shuffle_seed)
            rows.append(_row(ALL_BUT_POPULARITY, shuffle_seed, popularity_likelihood(split), full))
            for term in names:
                rows.append(_row(term, shuffle_seed, _variant(log, config, term, shuffle_seed), full))
                tick()
    return rows


def ablation_figures(rows: Sequence[AblationRow]) -> dict[str, float]:
    """Flat figures: ablation_<term>, the nats that the term buys; with `_shuffled` behind it where events were shuffled."""
    return {f"ablation_{row.term}{'_shuffled' if row.shuffled else ''}": row.gain for row in rows}


def verdict(gain: float, low: float, high: float) -> str:
    """What a paired difference and its interval say of a term."""
    if not np.isfinite([gain, low, high]).all():
        return "cannot be told: no test events"
    if low > 0:
        return f"buys {gain:.3f} nats"
    if high < 0:
        return f"costs {-gain:.3f} nats: the model predicts better without it"
    return "buys nothing that this log can tell"


def _row(term: str, shuffle_seed: int | None, without: EventLikelihood, full: EventLikelihood) -> AblationRow:
    gain, half = replace(full, masked=without.masked - full.masked).mean()
    nll, nll_half = without.mean()
    return AblationRow(
        term=term,
        shuffled=shuffle_seed is not None,
        nll=nll,
        nll_half_width=nll_half,
        gain=gain,
        gain_low=gain - half,
        gain_high=gain + half,
        verdict=verdict(gain, gain - half, gain + half),
    )


def _full(log: InteractionLog, config: FitConfig, shuffle_seed: int | None) -> EventLikelihood:
    """The whole model's; as logged and without exposures, that of the fit which everything else uses."""
    if shuffle_seed is not None or has_slates(log):
        return _variant(log, config, None, shuffle_seed)
    split = split_events(log, config.max_events)
    model = fit_or_load(log, config, progress=False)
    return _kept(f"{fit_key(log, config)}.events", lambda: user_model_likelihood(model, log.catalogue.birth, split))


def _variant(log: InteractionLog, config: FitConfig, term: str | None, shuffle_seed: int | None) -> EventLikelihood:
    config = replace(config, without=(*config.without, *([term] if term else [])))

    def make() -> EventLikelihood:
        split = split_events(log, config.max_events, shuffle_seed)
        with single_torch_thread():
            model = catalogue_choice_model(log, split, config, lambda: None)
            return user_model_likelihood(model, log.catalogue.birth, split)

    order = "events" if shuffle_seed is None else f"shuffled-{shuffle_seed}.events"
    return _kept(f"{fit_key(log, config)}.{order}", make)


def _kept(name: str, make: Callable[[], EventLikelihood]) -> EventLikelihood:
    """What `make` gives, from the cache if it has been made before; a damaged file is made anew."""
    path = cache_folder() / "fits" / f"{name}.npz"
    if path.exists():
        try:
            return EventLikelihood(**load_arrays(path, "EventLikelihood")[0])
        except (ArtefactError, TypeError):
            path.unlink()
    made = make()
    save_arrays(path, "EventLikelihood", asdict(made), {})
    return made
