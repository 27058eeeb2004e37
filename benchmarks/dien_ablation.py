"""What each part of the DIEN-like user model buys on MovieLens 100K: fitted without it, measured on the same held-out events.

Run: python -m benchmarks.dien_ablation          (about a quarter of an hour on two cores; fits are kept in the cache)

Prints negative log-likelihoods of the test part (nats per event, masked), and what each variant loses against the full model:
paired on events, intervals of 95 %, events clustered by user. Writes them to results/dien_ablation.json too.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.artefacts import save_json
from envs.logs import load_log
from envs.logs.schema import InteractionLog
from envs.users.dien_fit import DienConfig, fit_or_load_dien
from envs.users.fit import fit_or_load
from envs.users.likelihood import EventLikelihood, split_events, user_model_likelihood
from envs.users.protocol import UserModel
from evaluation.report import print_figures

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "without_auxiliary_loss": {"auxiliary_weight": 0.0},
    "without_attention": {"attentive": False},
    "one_facet": {"facets": 1},
    "without_average": {"average": False},
}
"""Name -> what differs from the full model. Without attention the facets are plain GRUs over the extractor's states; with one
facet, one prototype's attention scales one AUGRU; without average, the facets carry all short-term interest."""


def measured(model: UserModel, log: InteractionLog, config: DienConfig) -> EventLikelihood:
    """Likelihood of the test part."""
    return user_model_likelihood(model, log.catalogue.birth, split_events(log, config.parametric.max_events))


def figures_of(likelihoods: Mapping[str, EventLikelihood]) -> dict[str, float]:
    """Mean and half-width of each, and of each one's loss against 'dien'."""
    full = likelihoods["dien"]
    figures: dict[str, float] = {}
    for name, likelihood in likelihoods.items():
        figures[f"nll_{name}"], figures[f"nll_{name}_half_width"] = likelihood.mean()
        if name != "dien":
            loss = likelihood.masked - full.masked
            difference = EventLikelihood(user=full.user, masked=loss, unmasked=np.zeros_like(loss))
            figures[f"loss_{name}"], figures[f"loss_{name}_half_width"] = difference.mean()
    return figures


def main() -> None:
    """Fits, measures and prints."""
    log, config = load_log("ml-100k"), DienConfig()
    likelihoods: dict[str, EventLikelihood] = {}
    models: dict[str, UserModel] = {"parametric": fit_or_load(log, config.parametric)}
    kept: dict[str, int] = {}
    for name, change in {"dien": {}, **VARIANTS}.items():
        print(f"fitting {name}", file=sys.stderr)
        model = fit_or_load_dien(log, replace(config, **change))
        models[name], kept[f"facets_kept_{name}"] = model, int(model.fit_report["facets_kept"])
    for name, fitted in models.items():
        likelihoods[name] = measured(fitted, log, config)
    figures = figures_of(likelihoods) | kept
    save_json(Path("results/dien_ablation.json"), figures)
    print_figures(figures)


if __name__ == "__main__":
    main()
