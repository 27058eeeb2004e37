"""Finds a class by a known name, or in a user's file as "file.py:Class"; what is wrong is told in one sentence.

Agents, user models, worlds, rewards and modifiers of a user's own are all found this way.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from envs.errors import DriftrecError

_OWN: dict[str, ModuleType] = {}


def own_modules() -> list[ModuleType]:
    """Modules that were loaded from users' own files in this process; another process does not have them."""
    return list(_OWN.values())


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of class that users may write for themselves."""

    name: str
    """What one of them is called in sentences: 'agent'."""
    wanted: str
    """What a class in a file must be: 'a subclass of agents.Agent'."""
    error: type[DriftrecError]
    """Raised where something is wrong."""
    known: Mapping[str, str]
    """Name -> 'module:Class' of those that come with driftrec; imported when asked for."""

    def find(self, spec: str) -> type:
        """The class that `spec` names: one of `known`, or 'path/to/file.py:Class'. What the class can do is not looked at.

        Raises:
            DriftrecError: of the kind's own type, if there is no such name, file or class, or the file fails when it is
                imported.
        """
        if spec in self.known:
            module, _, class_name = self.known[spec].partition(":")
            return getattr(importlib.import_module(module), class_name)
        path, class_name = self._file_and_class(spec)
        return self._class_in(self._imported(path), class_name, path)

    def find_derived(self, spec: str, base: type) -> type:
        """As `find`, of a class that must be a subclass of `base`, complete, and have a `name`.

        Raises:
            DriftrecError: of the kind's own type, also where the class is none of these.
        """
        found = self.find(spec)
        if not issubclass(found, base):
            raise self.error(f"class '{found.__name__}' of '{spec}' is not {self.wanted}; derive it from that.")
        missing = sorted(getattr(found, "__abstractmethods__", ()))
        if not hasattr(found, "name"):
            missing.append("name")
        if missing:
            raise self.error(f"class '{found.__name__}' of '{spec}' lacks {', '.join(missing)}; add what is missing.")
        return found

    def absolute(self, spec: str) -> str:
        """The same spec, valid in every folder: a file's path is made absolute."""
        if spec in self.known:
            return spec
        path, class_name = self._file_and_class(spec)
        return f"{path.resolve()}:{class_name}"

    def _file_and_class(self, spec: str) -> tuple[Path, str]:
        if ":" not in spec and not spec.endswith(".py"):
            close = get_close_matches(spec, self.known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise self.error(
                f"there is no {self.name} '{spec}': {hint}known are {', '.join(self.known)}, "
                "and 'file.py:Class' for one of your own."
            )
        file_name, _, class_name = spec.rpartition(":")
        if not file_name or not class_name:
            raise self.error(f"{self.name} '{spec}' names no class; write it as '{spec.strip(':')}:Class'.")
        return Path(file_name), class_name

    def _imported(self, path: Path) -> ModuleType:
        """The module of a file, imported anew under a name of its own.

        It is entered into `sys.modules`, because dataclasses and the like look their module up there.
        """
        if not path.is_file():
            raise self.error(
                f"{self.name} file '{path}' does not exist; check the path, it is relative to '{Path.cwd()}'."
            )
        name = f"driftrec_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise self.error(f"{self.name} file '{path}' is not a Python file; its name must end in '.py'.")
        module = module_from_spec(spec)
        sys.modules[name] = module
        _OWN[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name], _OWN[name]
            raise self.error(
                f"{self.name} file '{path}' fails when it is imported{line_of(error, path)}: {told(error)}"
            ) from error
        return module

    def _class_in(self, module: ModuleType, class_name: str, path: Path) -> type:
        found: Any = getattr(module, class_name, None)
        if found is None:
            classes = [
                name
                for name, value in vars(module).items()
                if inspect.isclass(value) and value.__module__ == module.__name__
            ]
            raise self.error(
                f"'{path}' has no class '{class_name}'; "
                + (f"it has {', '.join(classes)}." if classes else "it has no class at all.")
            )
        if not inspect.isclass(found):
            raise self.error(
                f"'{class_name}' in '{path}' is a {type(found).__name__}, not a class; name {self.wanted}."
            )
        return found


class FromFile:
    """Base of classes that users may write in files and whose instances go to other processes.

    Another process finds such a class by its path, since no module of that name can be imported there.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        found = _FOUND.get(type(self))
        return super().__reduce_ex__(protocol) if found is None else (_remade, (*found, vars(self)))


_FOUND: dict[type, tuple[Kind, str]] = {}
"""Where classes that came from users' files were found."""


def _remade(kind: Kind, spec: str, values: dict[str, Any]) -> FromFile:
    found = kind.find(spec)
    instance: FromFile = object.__new__(found)
    vars(instance).update(values)
    _FOUND[found] = (kind, spec)
    return instance


def made_from(kind: Kind, spec: str, found: type) -> Any:
    """An instance of a class that `kind` found by `spec`, made without arguments; see `FromFile`.

    Raises:
        DriftrecError: of the kind's own type, if it cannot be made so.
    """
    path, _, class_name = spec.rpartition(":")
    try:
        instance = found()
    except Exception as error:
        raise kind.error(
            f"class '{class_name}' in '{path}' cannot be made without arguments{line_of(error, Path(path))}: {told(error)}"
        ) from error
    if spec not in kind.known:
        _FOUND[found] = (kind, kind.absolute(spec))
    return instance


def failing_in(what: str, instance: Any, method: str, error: Exception) -> str:
    """Sentence about an exception in a method of a user's own file: "reward 'Mine' failed in of (mine.py, line 3): ..."."""
    code = getattr(type(instance), method).__code__
    where = f"{code.co_filename}{line_of(error, Path(code.co_filename))}"
    return f"{what} '{type(instance).__name__}' failed in {method} ({where}): {told(error)}"


def line_of(error: BaseException, path: Path) -> str:
    """Where in a user's file an error arose, as ", line 3"; empty where it is not known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path or trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f", line {line}"


def told(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
