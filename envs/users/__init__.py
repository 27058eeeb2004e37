"""User models: how simulated users choose, move, leave and come back, and how all that is fitted to a log.

`fit_or_load` gives the fitted parametric model of a log, `fit_user_model` any by name, `likelihood_reports` their figures beside
those of the baselines. `UserModel` is the protocol that the engine asks of any user model; docs/user-model.md has the
mathematics. Names that need torch are imported when first asked for, since simulating needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from envs.users.dien import DienModel
from envs.users.interest import InterestModel, InterestParams
from envs.users.protocol import UserModel, UserModelState, VisitParams, replay

if TYPE_CHECKING:
    from envs.users.fit import FitConfig, fit_interest_model, fit_or_load
    from envs.users.measure import likelihood_reports
    from envs.users.models import fit_user_model

__all__ = [
    "DienModel",
    "FitConfig",
    "InterestModel",
    "InterestParams",
    "UserModel",
    "UserModelState",
    "VisitParams",
    "fit_interest_model",
    "fit_or_load",
    "fit_user_model",
    "likelihood_reports",
    "replay",
]

_NEED_TORCH = {
    "FitConfig": "envs.users.fit",
    "fit_interest_model": "envs.users.fit",
    "fit_or_load": "envs.users.fit",
    "fit_user_model": "envs.users.models",
    "likelihood_reports": "envs.users.measure",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEED_TORCH[name]), name)
