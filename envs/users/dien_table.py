"""The table of parameters of the DIEN-like user model: the parametric model's rows, and what the network adds or replaces."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from envs.users.parameter_table import Row, row

if TYPE_CHECKING:
    from envs.users.dien import DienModel

_SYMBOLS = {
    "long_weight": "κ",
    "short_weight": "α",
    "satiation_gain": "β",
    "long_rate": "η",
    "short_decay": "λ",
    "short_half_life_days": "h_s",
    "satiation_decay": "γ",
    "satiation_half_life_days": "h_f",
    "item_embedding": "v",
    "user_embedding": "p",
    "item_bias": "b",
    "context_weights": "ω",
}
_JOINTLY = "learnt together with the facets, stopped early"
_WEIGHTS = f"{_JOINTLY}; no interval: a network's weights are not identified one by one"


def dien_rows(
    model: "DienModel", weight: Mapping[str, float], half_width: Mapping[str, float], num_events: int
) -> list[Row]:
    """Rows of every parameter of `model`, whose table is still empty.

    Args:
        model: the model with its factors folded in.
        weight: factor of each part of the utility: start, drift, average, context, satiation, facets, bias.
        half_width: halves of the factors' 95 % intervals.
        num_events: events that the factors rest on.
    """
    base, network = model.base, model.network
    factor = f"factor on {num_events} held-out events, all else held; sandwich clustered by user, weak normal prior"

    def scaled(name: str, part: str, note: str) -> Row:
        value, relative = getattr(base.params, name), half_width[part] / abs(weight[part])
        half = abs(value) * relative
        return row(name, _SYMBOLS[name], value, (value - half, value + half), f"{note}; {factor}; {_JOINTLY}")

    def mean_square(array: np.ndarray) -> float:
        return float(np.sqrt(np.mean(array**2)))

    new = {
        "long_weight": scaled("long_weight", "drift", "logits per unit of long-term interest"),
        "short_weight": scaled("short_weight", "average", "logits per unit of the exponential average"),
        "satiation_gain": scaled("satiation_gain", "satiation", "logits lost per unit of satiation"),
    }
    for name, unit in (
        ("long_rate", "share of the way to a consumed item"),
        ("short_decay", "share kept per item"),
        ("short_half_life_days", "days between visits"),
        ("satiation_decay", "share kept per item"),
        ("satiation_half_life_days", "days between visits"),
    ):
        new[name] = row(name, _SYMBOLS[name], getattr(base.params, name), None, f"{unit}; {_JOINTLY}; no interval")
    for name, value, meaning in (
        ("item_embedding", np.linalg.norm(base.item_embedding, axis=1).mean(), "mean norm, fixed to 1"),
        ("user_embedding", np.linalg.norm(base.user_embedding, axis=1).mean(), "mean norm before the first event"),
        ("item_bias", base.item_bias.std(), "standard deviation over items, in logits"),
        ("context_weights", mean_square(base.context_weights), "root mean square, in logits"),
    ):
        new[name] = row(name, _SYMBOLS[name], float(value), None, f"{meaning}; {_JOINTLY}")

    outside = (
        "logit of clicking nothing: set for each run, since facets are fitted to clicks as choices from the catalogue"
    )
    new["outside_option"] = row("outside_option", "x_0", float("nan"), None, outside, "assumed")

    interval = (weight["facets"] - half_width["facets"], weight["facets"] + half_width["facets"])
    rows = [*new.values(), *(of for of in base.table if of["name"] not in new)]
    rows.append(row("facet_weight", "", weight["facets"], interval, f"folded into the output; {factor}"))
    for name, symbol, value, meaning in (
        ("prototypes", "q", float(network.num_facets), "number of facets; directions of norm 1"),
        ("extractor", "h", mean_square(network.extractor_recurrent), "root mean square of the recurrent weights"),
        ("attention", "W", mean_square(network.attention), "root mean square"),
        ("evolution", "u", mean_square(network.evolution_recurrent), "root mean square of the recurrent weights"),
        ("output", "O", mean_square(network.output), "root mean square, in logits"),
        ("extractor_half_life_days", "", _half_life(network.extractor_fading), "median over units"),
        ("facet_half_life_days", "", _half_life(network.evolution_fading), "median over units"),
    ):
        rows.append(row(name, symbol, value, None, f"{meaning}; {_WEIGHTS}"))
    return rows


def _half_life(fading: np.ndarray) -> float:
    return float(np.median(np.log(2) / fading))
