"""Configurations made of tables, as TOML and JSON hold them: parts within parts, and every value of the type that its field has."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from envs.errors import ConfigurationError

Config = TypeVar("Config")

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "nothing"}


def with_settings(config: Config, settings: Mapping[str, Any], whose: str) -> Config:
    """A copy of a configuration with some fields changed.

    Args:
        config: a dataclass, whose fields may be dataclasses.
        settings: field -> value. A field that is a dataclass takes one of its class, or a table of those of its fields that change;
            a tuple takes a list.
        whose: what the configuration is of, for sentences: "ranker 'din'".

    Raises:
        ConfigurationError: if there is no such field, or a value is not of its field's type.
    """
    hints, changed = _hints(type(config)), {}
    for name, value in settings.items():
        if name not in hints:
            raise ConfigurationError(f"{whose} has no setting '{name}'; it has {', '.join(hints) or 'none'}.")
        default = getattr(config, name)
        if is_dataclass(default) and isinstance(value, Mapping):
            changed[name] = with_settings(default, value, f"{name} of {whose}")
            continue
        if isinstance(value, list) and isinstance(default, tuple):
            value = tuple(value)
        _check(value, hints[name], name, whose)
        changed[name] = value
    return replace(config, **changed)  # type: ignore[type-var]


def check_types(config: Any, whose: str) -> None:
    """Refuses a configuration, a dataclass, with a value that is not of its field's type; see `with_settings`.

    Raises:
        ConfigurationError: if there is one.
    """
    for name, hint in _hints(type(config)).items():
        _check(getattr(config, name), hint, name, whose)


def _check(value: Any, hint: Any, name: str, whose: str) -> None:
    if not _fits(value, hint):
        raise ConfigurationError(f"{name} of {whose} is {value!r}; it must be {_told(hint)}.")


def _hints(kind: type) -> dict[str, Any]:
    """Field -> type; of a class whose types cannot be found, as they may in a user's file, any type will do."""
    try:
        hints = get_type_hints(kind)
    except NameError:
        hints = {}
    return {each.name: hints.get(each.name, Any) for each in fields(kind)}  # type: ignore[arg-type]


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        inner = parts[:1] * len(value) if isinstance(value, tuple) and parts[-1:] == (...,) else parts
        return isinstance(value, tuple) and len(inner) == len(value) and all(map(_fits, value, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, parts[0]) and _fits(each, parts[1]) for key, each in value.items()
        )
    kind = origin or hint
    if kind is Any:
        return True
    if kind in (int, float):
        return not isinstance(value, bool) and isinstance(value, Integral if kind is int else Real)
    return not isinstance(kind, type) or isinstance(value, kind)


def _told(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_told, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"a list of {_told(parts[0])} each"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table" if parts[1] is Any else f"a table with {_told(parts[1])} for each name"
    if is_dataclass(hint):
        return f"a table of {', '.join(_hints(hint))}"  # type: ignore[arg-type]
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
