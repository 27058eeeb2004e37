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

EVOLUTION = "evolution"
"""The term that stands for all that moves."""
SHUFFLED_TERMS = (EVOLUTION, "short_term", "drift", "satiation")
"""Evolution and its terms, measured on events shuffled inside visits as well."""
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


@dataclass(frozen=True, kw_only=True)
class EvolutionGain:
    """What all evolution together buys: nats per test event by which the whole model predicts better than the same model
    fitted with nothing that moves. Gains are (value, low, high): paired, 95 %, events clustered by user."""

    nll: float
    """Masked negative log-likelihood without evolution, events as logged."""
    nll_shuffled: float
    """The same with events shuffled inside visits, in fit and measure."""
    as_logged: tuple[float, float, float]
    """Gain with events as logged."""
    shuffled: tuple[float, float, float]
    """Gain with events shuffled inside visits: what survives."""
    lost: tuple[float, float, float]
    """The first less the second: what does not."""

    def figures(self) -> dict[str, float]:
        """nll_no_evolution, evolution_gain and evolution_gain_lost as flat figures, with _shuffled, _low and _high behind them."""
        found = {"nll_no_evolution": self.nll, "nll_no_evolution_shuffled": self.nll_shuffled}
        gains = {"": self.as_logged, "_shuffled": self.shuffled, "_lost": self.lost}
        for name, gain in gains.items():
            for end, value in zip(("", "_low", "_high"), gain, strict=True):
                found[f"evolution_gain{name}{end}"] = value
        return found


def evolution_gain(log: InteractionLog, config: FitConfig = DEFAULT_CONFIG, progress: bool = True) -> EvolutionGain:
    """Fits the model without evolution, as logged and shuffled inside visits, and measures it beside the full one; each fit is
    kept in the cache.

    Raises:
        LogError: if the log has no consumed event.
    """
    without, gains = [], []
    with fit_progress("Fitting without evolution", 4, progress) as tick:
        for shuffle_seed in (None, SHUFFLE_SEED):
            full = _full(log, config, shuffle_seed)
            tick()
            still = _variant(log, config, EVOLUTION, shuffle_seed)
            tick()
            without.append(still.mean()[0])
            gains.append(replace(full, masked=still.masked - full.masked))
    # shuffling leaves each part as long as it was, so events of both orders are paired by user
    lost = replace(gains[0], masked=gains[0].masked - gains[1].masked)
    as_logged, shuffled, both = ((mean, mean - half, mean + half) for mean, half in (g.mean() for g in (*gains, lost)))
    return EvolutionGain(nll=without[0], nll_shuffled=without[1], as_logged=as_logged, shuffled=shuffled, lost=both)


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
    """The whole model's: that of the fit which everything else uses, unless that is of slates."""
    if shuffle_seed is None and has_slates(log):
        return _variant(log, config, None, None)
    split = split_events(log, config.max_events, shuffle_seed)
    model = fit_or_load(log, config, False, shuffle_seed)
    return _kept(_name(log, config, shuffle_seed), lambda: user_model_likelihood(model, log.catalogue.birth, split))


def _variant(log: InteractionLog, config: FitConfig, term: str | None, shuffle_seed: int | None) -> EventLikelihood:
    config = replace(config, without=(*config.without, *([term] if term else [])))

    def make() -> EventLikelihood:
        split = split_events(log, config.max_events, shuffle_seed)
        with single_torch_thread():
            model = catalogue_choice_model(log, split, config, lambda: None)
            return user_model_likelihood(model, log.catalogue.birth, split)

    return _kept(_name(log, config, shuffle_seed), make)


def _name(log: InteractionLog, config: FitConfig, shuffle_seed: int | None) -> str:
    order = "events" if shuffle_seed is None else f"shuffled-{shuffle_seed}.events"
    return f"{fit_key(log, config)}.{order}"


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
