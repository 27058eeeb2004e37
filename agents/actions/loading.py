"""Finds an action space by its name."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agents.actions.engine import SlateActionWrapper
from envs.errors import ConfigurationError
from envs.loading import Kind
from envs.slate_env import SlateVectorEnv

if TYPE_CHECKING:
    from agents.rankers.base import Ranker

ACTION = Kind(
    name="action space",
    wanted="a subclass of agents.actions.SlateActionWrapper",
    error=ConfigurationError,
    known={
        "weights": "agents.actions.weights:WeightsAction",
        "presets": "agents.actions.presets:PresetAction",
        "slate": "agents.actions.slate:SlateAction",
        "slots": "agents.actions.slots:SlotsAction",
        "blend": "agents.actions.blend:BlendAction",
    },
)
"""Where each action space lives; it is imported when it is asked for."""
_WITHOUT_RANKERS = ("weights", "presets")


def action_names() -> tuple[str, ...]:
    """Names of the action spaces."""
    return tuple(ACTION.known)


def resolve_action(spec: str) -> type[SlateActionWrapper]:
    """The wrapper of an action space.

    Args:
        spec: one of `action_names()`, or "path/to/file.py:Class".

    Raises:
        ConfigurationError: if there is no such name, file or class, or the class is not an action space.
    """
    return ACTION.find_derived(spec, SlateActionWrapper)


def action_wrapper(
    env: SlateVectorEnv, action: str = "weights", *, rankers: Iterable["Ranker"] = ()
) -> SlateActionWrapper:
    """The environment with the actions of that name.

    Args:
        env: the slate environment, of any autoreset mode.
        action: one of `action_names()`, or "path/to/file.py:Class".
        rankers: fitted rankers: two or more for `blend`; for `slate` and `slots` their scores are columns of the candidates.

    Raises:
        ConfigurationError: if there is no such action space, or it takes no rankers but is given some, or too few.
    """
    kind: Any = resolve_action(action)
    rankers = tuple(rankers)
    if action in _WITHOUT_RANKERS:
        if rankers:
            raise ConfigurationError(f"action space '{action}' takes no rankers; 'blend', 'slate' and 'slots' do.")
        return kind(env)
    if not rankers:
        return kind(env)
    from agents.actions.ranker_scores import RankerScores  # needs torch

    return kind(env, RankerScores(rankers))
