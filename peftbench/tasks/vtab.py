"""VTAB-1K from the list files that NOAH, SSF, FacT, RepAdapter and GIST read.

Layout: see :mod:`peftbench.tasks.vtab_tables`. The published protocol: fit on train800, choose on
val200, fit again on both, report top-1 on test (arXiv:1910.04867).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..errors import MissingAssetError, unknown
from .base import SPLITS, DataSpec, Task, manifest_digest
from .listed import (
    LENIENT,
    Listed,
    Slip,
    absent,
    check_command,
    class_names,
    in_two,
    manifest_of,
    read_list,
    refuse,
    repeated,
    source_of,
    task_of,
)
from .suite import Suite, SuiteSpec
from .vtab_tables import GROUPS, LISTS, TABLE, Row, group

NESTED = "vtab-1k"


@dataclass(frozen=True)
class VtabTask(DataSpec):
    """Data spec of one VTAB-1K task.

    Attributes:
        task: one of ``vtab_tables.TABLE``.
        root: the folder that holds the tasks' folders, or that holds ``vtab-1k/`` which does.
        strict: refuse lists whose lengths are not the published ones. Otherwise they are let
            through, and the manifest says that the task is not the published one.

    """

    takes: ClassVar[str] = "image"

    task: str
    root: str
    strict: bool = True

    def __post_init__(self) -> None:
        if self.task not in TABLE:
            raise unknown("VTAB-1K task", self.task, TABLE, "data.task")

    @property
    def name(self) -> str:
        """The task's name, ``vtab1k/<task>``; CIFAR-100 with all its images is another task."""
        return f"vtab1k/{self.task}"

    @property
    def row(self) -> Row:
        """What the task's folder must hold."""
        return TABLE[self.task]

    @cached_property
    def folder(self) -> Path:
        """The task's folder.

        Raises:
            MissingAssetError: there is none; names both places that were looked at.

        """
        return find_folder(self.root, self.row)

    @cached_property
    def lists(self) -> tuple[dict[str, Listed], list[Slip]]:
        """The three splits as listed, and what differs from the published counts.

        Raises:
            MissingAssetError, CorruptAssetError: name file and line.

        """
        parts, slips = read_lists(self.folder, self.row)
        counts = [slip for slip in slips if slip.kind == "count"]
        grave = [slip for slip in slips if slip.kind != "count"] + in_two(parts)
        grave += [slip for part in parts.values() for slip in repeated(part)]
        refuse(self.name, grave, self.remedy)
        refuse(self.name, counts if self.strict else [], f"{LENIENT}\n  {self.remedy}")
        return parts, counts

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data are: class names, count and checksum of every list; no image is read."""
        parts, counts = self.lists
        return manifest_of(
            self.name,
            "list files",
            class_names(self.folder, map(str, range(self.row.classes))),
            parts,
            [f"{slip.path.name}: {slip.text}" for slip in counts],
            source=source_of(self.folder),
        )

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the same wherever the tree lies."""
        return manifest_digest(self.manifest)

    def load(self) -> Task:
        """Return the task; its images are decoded when asked for.

        Raises:
            MissingAssetError: a list or a listed image is missing.
            CorruptAssetError: a list is not what the published task has.

        """
        parts, _ = self.lists
        refuse(self.name, [s for name in SPLITS for s in absent(parts[name])], self.remedy)
        return task_of(self.manifest, parts)

    @property
    def remedy(self) -> str:
        """The line that says how to see all that is wrong."""
        return f"to check the whole tree: {check_command('vtab1k', self.root, self.task)}"


def find_folder(root: str | Path, row: Row) -> Path:
    """Return the folder of a task below ``root`` or below ``root/vtab-1k``.

    Raises:
        MissingAssetError: there is none.

    """
    base = Path(root).expanduser()
    places = (base / row.folder, base / NESTED / row.folder)
    for place in places:
        if place.is_dir():
            return place
    raise MissingAssetError(
        f"task 'vtab1k/{row.name}': there is no folder {places[0]}, nor {places[1]}\n"
        f"  the folder of all tasks is given by data.root=PATH (or {NESTED} in $PEFTBENCH_DATA)\n"
        f"  to build it: python scripts/prepare_data.py build vtab1k "
        f"root={shlex.quote(str(root))} archives=DIR tasks=[{row.name}]"
    )


def read_lists(folder: Path, row: Row) -> tuple[dict[str, Listed], list[Slip]]:
    """Read the lists of a task; return its three splits and all that is wrong with the lists.

    Raises:
        MissingAssetError: there is no list of a split.

    """
    parts: dict[str, Listed] = {}
    slips: list[Slip] = []
    for name in SPLITS:
        parts[name], found = read_list(folder / LISTS[name], row.classes)
        slips += found
    counts = {name: len(part) for name, part in parts.items()}
    both = folder / LISTS["trainval"]
    if both.is_file():
        listed, found = read_list(both, row.classes)
        counts["trainval"] = len(listed)
        slips += found
    else:
        slips.append(Slip("count", both, "the list is not there"))
    for name, expected in row.counts().items():
        if name not in counts or counts[name] == expected or not _whole(slips, LISTS[name]):
            continue
        text = f"{counts[name]} images, the published task has {expected}"
        slips.append(Slip("count", folder / LISTS[name], text))
    return parts, slips


def _whole(slips: list[Slip], file: str) -> bool:
    """Tell whether every line of a list could be read; else its count says nothing new."""
    return not any(s.path.name == file and s.kind in ("line", "label") for s in slips)


@dataclass(frozen=True)
class Vtab1k(SuiteSpec):
    """Data spec of VTAB-1K: 19 tasks in three groups.

    Attributes:
        root: as in :class:`VtabTask`, for all tasks.
        strict: as in :class:`VtabTask`, for all tasks.
        tasks: the tasks to run, or None for all.

    """

    root: str
    strict: bool = True
    tasks: tuple[str, ...] | None = None

    @cached_property
    def whole(self) -> Suite:
        """The suite with its 19 members."""
        members: Mapping[str, DataSpec] = {
            name: VtabTask(name, self.root, self.strict) for name in TABLE
        }
        return Suite("vtab1k", members, {name: group(name) for name in GROUPS}, self.tasks)
