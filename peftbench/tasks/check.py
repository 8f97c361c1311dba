"""The check of a whole tree of data: everything that is missing, wrong or corrupt, per task.

Loading stops at the first mistake and decodes nothing; this reads every list, decodes every image
and names all mistakes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from ..errors import MissingAssetError, PeftbenchError, unknown
from . import caption_trees, fgvc, vtab, vtab_tables
from .base import SPLITS
from .caption_files import locate
from .images import decode
from .listed import Listed, Slip, absent, class_names, in_two, read_list, repeated, source_of


@dataclass(frozen=True)
class TaskReport:
    """What the check of one task found.

    Attributes:
        task: its name in its suite.
        folder: where it lies, or None where no folder was found.
        images: number of different image files that were decoded.
        wrong: all that must be mended.
        notes: what a person should judge: equal pictures in two splits (some published sets have
            them), and counts that differ where the expected figure is not certain.

    """

    task: str
    folder: Path | None
    images: int = 0
    wrong: tuple[Slip, ...] = ()
    notes: tuple[Slip, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not self.wrong

    def lines(self, most: int = 5) -> list[str]:
        """Return the findings as text, at most ``most`` of each kind, and how many more."""
        out = []
        for title, slips in (("wrong", self.wrong), ("note", self.notes)):
            for kind, group in groupby(sorted(slips, key=lambda s: s.kind), key=lambda s: s.kind):
                found = list(group)
                out += [f"{title}: {kind}: {slip}" for slip in found[:most]]
                if len(found) > most:
                    out.append(f"{title}: {kind}: and {len(found) - most} more")
        return out


@dataclass
class _Findings:
    """What is found while a task is checked."""

    wrong: list[Slip] = field(default_factory=list)
    notes: list[Slip] = field(default_factory=list)


def check_vtab(root: str | Path, tasks: Sequence[str] | None = None) -> list[TaskReport]:
    """Check the tree of VTAB-1K below ``root``, all tasks or those named, in the table's order.

    Raises:
        ConfigError: a task has no such name.

    """
    return list(reports("vtab1k", root, tasks))


def check_fgvc(root: str | Path, tasks: Sequence[str] | None = None) -> list[TaskReport]:
    """Check the FGVC sets below ``root``; see :func:`check_vtab`."""
    return list(reports("fgvc", root, tasks))


SUITES: Mapping[str, tuple[str, ...]] = {
    "vtab1k": tuple(vtab_tables.TABLE),
    "fgvc": tuple(fgvc.TABLE),
    "coco": caption_trees.SOURCES,
}
"""What can be checked, with the names of its tasks."""


def reports(
    suite: str, root: str | Path, tasks: Sequence[str] | None = None
) -> Iterator[TaskReport]:
    """Yield the report of one task after the other; names are checked before the first.

    Raises:
        ConfigError: a suite or a task has no such name.

    """
    if suite not in SUITES:
        raise unknown("suite to check", suite, SUITES)
    for task in tasks or ():
        if task not in SUITES[suite]:
            raise unknown(f"task of {suite}", task, SUITES[suite], "tasks")
    check = {"vtab1k": _vtab, "fgvc": _fgvc, "coco": _coco}[suite]
    return (check(root, task) for task in SUITES[suite] if not tasks or task in tasks)


def _vtab(root: str | Path, task: str) -> TaskReport:
    row = vtab_tables.TABLE[task]
    try:
        folder = vtab.find_folder(root, row)
    except MissingAssetError as error:
        return TaskReport(task, None, 0, (_slip(error, Path(root) / row.folder),))
    found = _Findings()
    parts: dict[str, Listed] = {}
    for name, expected in row.counts().items():
        path = folder / vtab_tables.LISTS[name]
        if not path.is_file():
            found.wrong.append(Slip("missing", path, "the list is not there"))
            continue
        try:
            parts[name], slips = read_list(path, row.classes)
        except PeftbenchError as error:
            found.wrong.append(_slip(error, path))
            continue
        lines = len(parts[name]) + len(slips)
        if lines != expected:
            text = f"{lines} lines, the published task has {expected}"
            found.wrong.append(Slip("count", path, text))
        found.wrong += slips
    both = parts.pop("trainval", None)
    if both is not None:
        found.wrong += absent(both) + repeated(both)
        _compare_union(both, parts, found)
    _extras(folder, row.classes, found)
    return _finish(task, folder, parts, found, () if both is None else (both,))


def _fgvc(root: str | Path, task: str) -> TaskReport:
    row = fgvc.TABLE[task]
    try:
        folder = fgvc.find_folder(root, row)
    except MissingAssetError as error:
        return TaskReport(task, None, 0, (_slip(error, Path(root) / row.folders[0]),))
    found = _Findings()
    try:
        parts, ids, slips = fgvc.read_splits(folder, row)
    except PeftbenchError as error:
        return TaskReport(task, folder, 0, (_slip(error, folder),))
    for slip in slips:
        count = slip.kind in fgvc.COUNTS and not fgvc.certain(slip, row)
        (found.notes if count else found.wrong).append(slip)
    _extras(folder, len(ids), found)
    return _finish(task, folder, parts, found)


def _coco(root: str | Path, task: str) -> TaskReport:
    folder = Path(root)
    spec = caption_trees.Coco(root=str(root), source=task)  # type: ignore[arg-type]
    try:
        parts = spec.parts()
    except PeftbenchError as error:
        return TaskReport(task, folder, 0, (_slip(error, folder),))
    wrong = list(parts.slips)
    files: list[Path] = []
    source = folder
    for pictures in parts.splits.values():
        found, missing = locate(folder, pictures, spec.places)
        files, wrong, source = [*files, *found], [*wrong, *missing], pictures.source
    notes = [Slip("count", source, text) for text in caption_trees.differing(task, parts.counts)]
    contents = _contents(files)
    wrong += [value for value in contents.values() if isinstance(value, Slip)]
    return TaskReport(task, folder, len(contents), tuple(wrong), tuple(notes))


def _compare_union(both: Listed, parts: Mapping[str, Listed], found: _Findings) -> None:
    """Note a list of train and val whose labels are not theirs, one behind the other."""
    if "train" not in parts or "val" not in parts:
        return
    if both.labels != parts["train"].labels + parts["val"].labels:
        text = "its labels are not those of train800.txt and val200.txt, one behind the other"
        found.notes.append(Slip("union", both.source, text))


def _extras(folder: Path, classes: int, found: _Findings) -> None:
    """Check the optional files."""
    for read in (lambda: class_names(folder, map(str, range(classes))), lambda: source_of(folder)):
        try:
            read()
        except PeftbenchError as error:
            found.wrong.append(_slip(error, folder))


def _finish(
    task: str,
    folder: Path,
    parts: Mapping[str, Listed],
    found: _Findings,
    others: Sequence[Listed] = (),
) -> TaskReport:
    """Check what all layouts share, decode every image once, and build the report."""
    for listed in parts.values():
        found.wrong += absent(listed) + repeated(listed)
    found.wrong += in_two(parts)
    listed_files = [
        listed.folder / p for listed in (*parts.values(), *others) for p in listed.paths
    ]
    files = [file for file in dict.fromkeys(listed_files) if os.path.isfile(file)]
    contents = _contents(files)
    found.wrong += [value for value in contents.values() if isinstance(value, Slip)]
    found.notes += _equal(parts, contents)
    return TaskReport(task, folder, len(files), tuple(found.wrong), tuple(found.notes))


def _contents(files: Sequence[Path]) -> dict[Path, bytes | Slip]:
    """Decode files, several at a time; see :func:`content`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(files, pool.map(content, files), strict=True))


def content(path: Path) -> bytes | Slip:
    """Return the SHA-256 of a picture's size and RGB pixels, or what is wrong with the file."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.verify()  # checksums, where the format has them
        rgb = decode(path)
    except PeftbenchError as error:
        return Slip("corrupt", path, str(error).removeprefix(f"the image {path} "))
    except Exception as error:  # a damaged file may raise anything
        return Slip("corrupt", path, f"it cannot be decoded: {error}")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).digest()


def _equal(parts: Mapping[str, Listed], contents: Mapping[Path, bytes | Slip]) -> list[Slip]:
    """Return a slip for every file whose pixels a file of an earlier split has as well."""
    owner: dict[bytes, tuple[str, Path]] = {}
    slips = []
    for name in (n for n in SPLITS if n in parts):
        listed, mine = parts[name], {}
        for index, path in enumerate(listed.paths):
            file = listed.folder / path
            key = contents.get(file)
            if not isinstance(key, bytes):
                continue
            split, other = owner.get(key, (name, file))
            if other != file:
                text = f"{path} of '{name}' has the same pixels as {other.name} of '{split}'"
                slips.append(Slip("overlap", listed.source, text, listed.line(index)))
            mine[key] = (name, file)
        owner = mine | owner
    return slips


def _slip(error: PeftbenchError, path: Path) -> Slip:
    """Turn the first line of an error into a finding."""
    kind = "missing" if isinstance(error, MissingAssetError) else "corrupt"
    return Slip(kind, path, str(error).splitlines()[0])
