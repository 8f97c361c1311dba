"""Checks and names that several methods share."""

from __future__ import annotations

from collections.abc import Sequence

from ..edits import LinearSite
from ..errors import ConfigError


def at_least(key: str, value: float, low: float) -> None:
    """Raise :class:`ConfigError` unless ``value >= low``."""
    if value < low:
        raise ConfigError(f"{key}: {value} is too small; allowed: {low} and above")


def fraction(key: str, value: float) -> None:
    """Raise :class:`ConfigError` unless ``0 <= value < 1``."""
    if not 0 <= value < 1:
        raise ConfigError(f"{key}: {value} is out of range; allowed: 0 up to, but not, 1")


def layer_name(sites: Sequence[LinearSite]) -> str:
    """Return a name for an edit of several roles of one layer: ``encoder/0/q+v``."""
    prefix = sites[0].name.rpartition("/")[0]
    return f"{prefix}/{'+'.join(s.role for s in sites)}"
