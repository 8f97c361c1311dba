"""Linear probing: only the classifier head trains."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Method


@dataclass(frozen=True)
class Linear(Method):
    """No edit at all. Without augmentation the features are computed once."""
