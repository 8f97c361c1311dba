"""The original data sets of VTAB-1K: archives, sizes, digests, access, and how each is cut.

The figures lie in ``origins.json``.

Sources: names, sizes and SHA-256 digests are those that tensorflow_datasets 4.4.0 and 4.9.10 check
their downloads against (CIFAR-100 in Python's form: Keras). Cuts and sizes of splits: the data
classes and unit tests of VTAB's code. Licences: the data sets' own pages; where a page states none,
that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..spec import TARGET, build
from .order import Cut


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        name: file name as its authors publish it.
        bytes: its size; 0: not known here, so not checked.
        sha256: its digest; empty: not known here, so not checked.
        also: other names that are taken in its place, such as the folder it is extracted to.

    """

    name: str
    bytes: int = 0
    sha256: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """One data set as its authors publish it.

    Attributes:
        title: what it is.
        page: where its authors publish it.
        access: licence, and what a download asks for.
        builder: the builder of TensorFlow Datasets, with the version that VPT used.
        splits: split -> number of examples.
        cut: which parts of them are the task's.
        archives: all of them are needed.
        by_hand: what no command does; empty: nothing.
        order_note: what is known about the order besides the hash; empty: nothing.

    """

    title: str
    page: str
    access: str
    builder: str
    splits: Mapping[str, int]
    cut: Cut
    archives: tuple[Archive, ...]
    by_hand: str = ""
    order_note: str = ""


def _read() -> dict[str, Origin]:
    text = (resources.files(__package__) / "origins.json").read_text(encoding="utf-8")
    return {
        name: build({TARGET: _name(Origin), **spec, **_parts(spec)})
        for name, spec in json.loads(text).items()
    }


def _parts(spec: Mapping[str, Any]) -> dict[str, Any]:
    archives = [{TARGET: _name(Archive), **one} for one in spec["archives"]]
    return {"cut": {TARGET: _name(Cut), **spec["cut"]}, "archives": archives}


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


ORIGINS: Mapping[str, Origin] = _read()
"""The data sets in the order of the published tables; three of them make two tasks each."""
