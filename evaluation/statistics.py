"""Intervals for comparisons on the same users, from `agents.updates.intervals`, and rewards on a scale of two agents."""

from collections.abc import Mapping

from agents.updates.intervals import (
    CONFIDENCE,
    Estimate,
    Measured,
    Refitted,
    paired_difference,
    variance_between,
)

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "Measured",
    "Refitted",
    "is_untrained",
    "normalised",
    "paired_difference",
    "variance_between",
]


def normalised(
    rewards: Mapping[str, Measured], *, zero: str = "random", one: str = "oracle_lookahead"
) -> dict[str, Measured] | None:
    """Each agent's reward on the scale on which `zero` is 0 and `one` is 1.

    Returns None where the scale cannot be trusted: an end is missing, or the paired interval of the gap between them is
    not above zero. Then rewards are reported raw.
    """
    if zero not in rewards or one not in rewards:
        return None
    gap = rewards[one] - rewards[zero]
    if not gap.estimate().above_zero:
        return None
    return {name: (reward - rewards[zero]) / gap for name, reward in rewards.items()}


def is_untrained(trained: Measured, initial: Measured) -> bool:
    """Whether an agent's reward is not above that of its own policy before training (paired interval above zero)."""
    return not (trained - initial).estimate().above_zero
