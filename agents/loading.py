"""Finds an agent's class by a known name, or in a user's file as "file.py:Class"."""

import importlib
import inspect
import sys
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from agents.base import Agent
from envs.errors import AgentError

_KNOWN = {
    "random": "agents.heuristics:Random",
    "popular": "agents.heuristics:Popular",
    "freshest": "agents.heuristics:Freshest",
    "mf": "agents.heuristics:MatrixFactorisation",
    "mmr": "agents.heuristics:MMR",
    "constant": "agents.constant:Constant",
    "oracle_myopic": "agents.oracles:OracleMyopic",
    "oracle_lookahead": "agents.oracles:OracleLookahead",
    "ppo": "agents.rl.ppo:PPOAgent",
    "dqn": "agents.rl.dqn:DQNAgent",
    "sb3_ppo": "agents.rl.sb3:SB3PPOAgent",
}
"""Where each agent lives; it is imported when it is asked for, so that a run without RL loads neither torch nor ray."""


def agent_names() -> tuple[str, ...]:
    """Names of the agents that come with driftrec."""
    return tuple(_KNOWN)


def resolve_agent(spec: str) -> type[Agent]:
    """The class of an agent.

    Args:
        spec: one of `agent_names()`, or "path/to/file.py:Class".

    Raises:
        AgentError: if there is no such name, file or class, the file fails when it is imported, or the class is not an agent.
    """
    if spec in _KNOWN:
        module, _, class_name = _KNOWN[spec].partition(":")
        return getattr(importlib.import_module(module), class_name)
    if ":" not in spec and not spec.endswith(".py"):
        close = get_close_matches(spec, _KNOWN, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise AgentError(
            f"there is no agent '{spec}': {hint}known are {', '.join(_KNOWN)}, and 'file.py:Class' for one of your own."
        )
    file_name, _, class_name = spec.rpartition(":")
    if not file_name or not class_name:
        raise AgentError(f"agent '{spec}' names no class; write it as '{spec.strip(':')}:Class'.")
    path = Path(file_name)
    return _agent_in(_imported(path), class_name, path)


def _imported(path: Path) -> ModuleType:
    """The module of a file, imported anew under a name of its own.

    It is entered into `sys.modules`, because dataclasses and the like look their module up there.
    """
    if not path.is_file():
        raise AgentError(f"agent file '{path}' does not exist; check the path, it is relative to '{Path.cwd()}'.")
    name = f"driftrec_agent_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AgentError(f"agent file '{path}' is not a Python file; its name must end in '.py'.")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise AgentError(
            f"agent file '{path}' fails when it is imported{_line_of(error, path)}: {_told(error)}"
        ) from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    """Where in the user's file the error arose, as ", line 3"; empty where it is not known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path or trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f", line {line}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _agent_in(module: ModuleType, class_name: str, path: Path) -> type[Agent]:
    found: Any = getattr(module, class_name, None)
    if found is None:
        classes = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise AgentError(
            f"'{path}' has no class '{class_name}'; "
            + (f"it has {', '.join(classes)}." if classes else "it has no class at all.")
        )
    if not inspect.isclass(found):
        raise AgentError(
            f"'{class_name}' in '{path}' is a {type(found).__name__}, not a class; name a subclass of agents.Agent."
        )
    act: Any = getattr(found, "act", None)
    if not callable(act) or getattr(act, "__isabstractmethod__", False):
        raise AgentError(
            f"class '{class_name}' in '{path}' lacks the method act(self, observation), which returns slates [N, K]; add it."
        )
    if not issubclass(found, Agent):
        raise AgentError(
            f"class '{class_name}' in '{path}' is not a subclass of agents.Agent; write 'class {class_name}(Agent):' "
            "and import Agent by 'from agents import Agent'."
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise AgentError(f"class '{class_name}' in '{path}' lacks {', '.join(missing)}; add what is missing.")
    return found
