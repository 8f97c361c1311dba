"""Objects from plain settings: ``{"_target_": "peftbench.methods.lora.Lora", "rank": 8}``.

Every configurable object is a dataclass. Names and types are checked before anything is built, so
a wrong setting fails before a weight is read. Only targets inside this package (and folders named
in ``PEFTBENCH_PATH``, which extend ``peftbench.methods``) may be built.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from .errors import ConfigError, unknown

TARGET = "_target_"


def build(spec: Mapping[str, Any], key: str = "") -> Any:
    """Build the dataclass that ``spec`` names, with nested specs built first.

    Args:
        spec: plain mapping with ``_target_`` and field values.
        key: configuration key of ``spec``, used in error messages.

    Raises:
        ConfigError: unknown target, unknown field, missing field, wrong type or value.

    """
    cls = locate(spec.get(TARGET), key)
    values = check_fields(cls, {k: v for k, v in spec.items() if k != TARGET}, key)
    return cls(**values)


def to_spec(value: Any) -> Any:
    """Turn a built dataclass back into the plain settings that :func:`build` accepts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {TARGET: f"{type(value).__module__}.{type(value).__qualname__}"}
        for field in dataclasses.fields(value):
            if field.init:
                out[field.name] = to_spec(getattr(value, field.name))
        return out
    if isinstance(value, tuple | list):
        return [to_spec(v) for v in value]
    if isinstance(value, Mapping):
        return {k: to_spec(v) for k, v in value.items()}
    return value


def locate(target: Any, key: str = "") -> type:
    """Import the dataclass named by a dotted path inside ``peftbench``."""
    where = f"{key}.{TARGET}" if key else TARGET
    if not isinstance(target, str) or not target.startswith("peftbench."):
        raise ConfigError(f"{where}: {target!r} is not a class of peftbench")
    module_name, _, class_name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not target.startswith(error.name):
            raise
        raise ConfigError(f"{where}: there is no module '{module_name}'") from error
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        own = [n for n, v in vars(module).items() if dataclasses.is_dataclass(v)]
        raise unknown(f"class in {module_name}", class_name, own, where)
    return cls


def check_fields(cls: type, values: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Check names and types of ``values`` against the fields of ``cls``; return what to pass."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in fields:
            what = f"setting of {cls.__name__}" if key else "setting"
            raise unknown(what, name, fields, join(key, name))
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ConfigError(f"{join(key, name)}: a value is needed here")
    return {name: convert(v, hints[name], join(key, name)) for name, v in values.items()}


def join(key: str, name: str) -> str:
    """Join two parts of a configuration key with a dot."""
    return f"{key}.{name}" if key else name


def convert(value: Any, hint: Any, key: str) -> Any:
    """Return ``value`` as type ``hint`` or raise :class:`ConfigError` naming ``key``."""
    if hint is Any:  # whatever it is, if it says so itself
        return build(value, key) if isinstance(value, Mapping) and TARGET in value else value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(hint), key)
    if origin is Literal:
        allowed = get_args(hint)
        if value not in allowed or isinstance(value, bool) != any(a is value for a in allowed):
            if value in allowed and not isinstance(value, bool):
                return value
            raise unknown("value", str(value), [str(a) for a in allowed], key)
        return value
    if origin in (tuple, list, Sequence, typing.get_origin(typing.Sequence[int])):
        return _convert_sequence(value, origin, get_args(hint), key)
    if origin in (dict, Mapping, typing.get_origin(typing.Mapping[str, int])):
        return _convert_mapping(value, get_args(hint), key)
    if isinstance(hint, type):
        return _convert_plain(value, hint, key)
    return value


def _convert_union(value: Any, options: tuple[Any, ...], key: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(value, option, key)
        except ConfigError as error:
            problems.append(error)
    raise problems[0]


def _convert_sequence(value: Any, origin: Any, args: tuple[Any, ...], key: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{key}: expected a list, got {value!r}")
    inner = args[0] if args else Any
    items = [convert(v, inner, f"{key}[{i}]") for i, v in enumerate(value)]
    return items if origin is list else tuple(items)


def _convert_mapping(value: Any, args: tuple[Any, ...], key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: expected a mapping, got {value!r}")
    inner = args[1] if len(args) > 1 else Any
    return {str(k): convert(v, inner, join(key, str(k))) for k, v in value.items()}


def _convert_plain(value: Any, hint: type, key: str) -> Any:
    if isinstance(value, Mapping) and TARGET in value:
        value = build(value, key)
    elif isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        value = hint(**check_fields(hint, value, key))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and hint in (int, float):
        raise ConfigError(f"{key}: expected {hint.__name__}, got {value!r}")
    if not isinstance(value, hint):
        raise ConfigError(f"{key}: expected {hint.__name__}, got {value!r}")
    return value
