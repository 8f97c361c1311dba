"""Frozen networks and their anatomy. Nothing here knows a method."""

from .anatomy import Anatomy, Block, Stack
from .backbone import Backbone, find_anatomy
from .preprocess import Preprocess

__all__ = ["Anatomy", "Backbone", "Block", "Preprocess", "Stack", "find_anatomy"]
