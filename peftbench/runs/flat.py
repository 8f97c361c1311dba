"""Nested mappings as one level of names, as trackers want settings and results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PARTS = ("metrics", "intervals", "primary", "params", "cost")
"""The parts of ``result.json`` that hold figures."""


def flat(value: Mapping[str, Any], between: str, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their joined names; a list is a leaf."""
    out: dict[str, Any] = {}
    for name, inner in value.items():
        key = f"{prefix}{name}"
        out |= (
            flat(inner, between, f"{key}{between}") if isinstance(inner, Mapping) else {key: inner}
        )
    return out


def scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """Return every figure of a ``result.json`` by name.

    An interval ``[low, high]`` becomes two: ``.../low`` and ``.../high``.
    """
    kept = {part: result[part] for part in PARTS if part in result}
    kept["artefact_bytes"] = result.get("artefact_bytes")
    out: dict[str, float] = {}
    for name, value in flat(kept, "/").items():
        ends = {name: value}
        if isinstance(value, list | tuple) and len(value) == 2:
            ends = {f"{name}/low": value[0], f"{name}/high": value[1]}
        out |= {key: end for key, end in ends.items() if _is_number(end)}
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
