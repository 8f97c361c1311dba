"""``key=value`` arguments of small commands, checked against a dataclass. No Hydra needed."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .errors import ConfigError, PeftbenchError
from .spec import check_fields

T = TypeVar("T")


def read(cls: type[T], arguments: Sequence[str]) -> T:
    """Build the dataclass ``cls`` from ``key=value`` arguments.

    Numbers are read as numbers, ``true`` and ``false`` as truth values and ``[a,b]`` as a list,
    where the field asks for that. A field that is a mapping takes ``field.name=value``.

    Raises:
        ConfigError: not ``key=value``, a key given twice, unknown or missing, or a wrong value.

    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"'{argument}' is not KEY=VALUE\n  keys: {', '.join(hints)}\n  --help says more"
            )
        place, name = values, key
        outer, _, inner = key.partition(".")
        if inner and typing.get_origin(hints.get(outer)) is Mapping:
            place, name = values.setdefault(outer, {}), inner
        if not isinstance(place, dict) or name in place:
            raise ConfigError(f"{key}: given twice")
        place[name] = _value(text, hints.get(key))
    return cls(**check_fields(cls, values))


def command(
    cls: type[T], do: Callable[[T], None], text: str | None, given: Sequence[str] | None
) -> int:
    """Run a small command and return its exit status: 0, or 2 after a mistake that can be mended.

    Args:
        cls: its settings.
        do: what it does with them.
        text: what ``--help`` prints.
        given: the arguments; None: those of this process.

    """
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(text)
        return 0 if words else 2
    try:
        do(read(cls, words))
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _value(text: str, hint: Any) -> Any:
    """Return ``text`` as what ``hint`` asks for (list, truth value or number), or as it is."""
    kinds = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) in (tuple, list, Sequence):
        inner = text.strip().removeprefix("[").removesuffix("]")
        return [_value(part.strip(), kinds[0]) for part in inner.split(",") if part.strip()]
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text
