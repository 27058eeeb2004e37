"""Action spaces: gymnasium wrappers over `SlateVectorEnv` that turn an action into a slate, and an observation into one row.

`action_wrapper(env, action=...)` takes one by its name; `engine` steps for all of them, then one space a file. docs/rl.md tells
which agent suits which. Importing this package loads no torch: `blend`, which needs fitted rankers, is imported when asked for.
"""

from agents.actions.engine import SlateActionWrapper
from agents.actions.loading import action_names, action_wrapper, resolve_action
from agents.actions.presets import PRESETS, PresetAction, weights_of_presets
from agents.actions.single_user import SingleUser
from agents.actions.slate import SlateAction
from agents.actions.slots import SlotsAction
from agents.actions.weights import WEIGHT_CENTRE, WEIGHT_HIGH, WEIGHT_LOW, WeightsAction, weights_of_actions

__all__ = [
    "PRESETS",
    "WEIGHT_CENTRE",
    "WEIGHT_HIGH",
    "WEIGHT_LOW",
    "PresetAction",
    "SingleUser",
    "SlateAction",
    "SlateActionWrapper",
    "SlotsAction",
    "WeightsAction",
    "action_names",
    "action_wrapper",
    "resolve_action",
    "weights_of_actions",
    "weights_of_presets",
]
