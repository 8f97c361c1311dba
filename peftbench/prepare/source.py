"""What every reader of an original data set gives: labelled records, and their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .members import Members
from .order import Record

Picture = bytes | np.ndarray
"""An encoded file as the archive holds it, or pixels: (H, W) or (H, W, 3) uint8."""
Reader = Callable[[str, Sequence[Record]], Iterator[tuple[Record, Picture]]]


@dataclass(frozen=True)
class Source:
    """One original data set.

    Attributes:
        splits: split -> records in the archive's order.
        read: yields record and picture of the given records of a split, in any order.
        names: class names, or none where the archive has none.

    """

    splits: Mapping[str, Sequence[Record]]
    read: Reader
    names: Sequence[str] = ()


def from_members(members: Members, prefix: str = "") -> Reader:
    """Return a reader of records whose ``ref`` is a member's name behind ``prefix``."""

    def read(_split: str, records: Sequence[Record]) -> Iterator[tuple[Record, Picture]]:
        wanted = {f"{prefix}{record.ref}": record for record in records}
        for name, content in members.read(wanted):
            yield wanted[name], content

    return read


def from_rows(pixels: Mapping[str, np.ndarray]) -> Reader:
    """Return a reader of records whose ``ref`` is a row of the split's array.

    Args:
        pixels: split -> (N, H, W) or (N, H, W, 3) uint8.

    """

    def read(split: str, records: Sequence[Record]) -> Iterator[tuple[Record, Picture]]:
        for record in records:
            yield record, pixels[split][int(record.ref)]

    return read


def classes_of(values: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """Return the distinct names in order of their characters, and name -> class."""
    names = sorted(set(values))
    return names, {name: i for i, name in enumerate(names)}
