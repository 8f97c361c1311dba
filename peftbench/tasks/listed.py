"""Splits whose images and labels stand in a list: what list files, json files and folders share.

What is wrong with a list is collected as slips, so that loading can name the first one and the
check of a whole tree can name them all.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CorruptAssetError, MissingAssetError
from .base import SPLITS, Classification
from .batch import Split
from .images import ImageFiles
from .vtab_tables import NAMES, SOURCE

MOST_DIGITS = 18
LENIENT = "data.strict=false lets small or partial trees through, and the result says so"


@dataclass(frozen=True)
class Slip:
    """One thing that is wrong.

    Attributes:
        kind: ``missing``, ``count``, ``classes``, ``line``, ``label``, ``duplicate``, ``overlap``
            or ``corrupt``.
        path: the file in which it shows.
        text: what is wrong and what was expected; names no folder of this machine.
        line: line of a list file, from 1.

    """

    kind: str
    path: Path
    text: str
    line: int | None = None

    def __str__(self) -> str:
        where = f", line {self.line}" if self.line else ""
        return f"{self.path}{where}: {self.text}"


@dataclass(frozen=True)
class Listed:
    """The images of one split in their order.

    Attributes:
        source: the file that lists them, or the folder in which they were found.
        folder: what the paths are relative to.
        paths: relative paths with forward slashes.
        labels: class indices.
        lines: line of each in ``source``; empty where that has no lines.

    """

    source: Path
    folder: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def line(self, index: int) -> int | None:
        """Return the line of image ``index``."""
        return self.lines[index] if self.lines else None

    def take(self, index: Sequence[int]) -> Listed:
        """Return the images at ``index``, in its order."""
        return Listed(
            self.source,
            self.folder,
            tuple(self.paths[i] for i in index),
            tuple(self.labels[i] for i in index),
            tuple(self.lines[i] for i in index) if self.lines else (),
        )

    def sha256(self) -> str:
        """Return the SHA-256 of the lines ``relative-path label``, in their order."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels, strict=True):
            digest.update(f"{path} {label}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def split(self, name: str, first_id: int, upright: bool) -> Split:
        """Return the split; its images are decoded when asked for, ids count from ``first_id``."""
        files = tuple(self.folder / path for path in self.paths)
        return Split(
            name,
            {"image": ImageFiles(files, upright)},
            torch.tensor(self.labels, dtype=torch.int64),
            torch.arange(first_id, first_id + len(self)),
        )


def read_list(path: Path, classes: int) -> tuple[Listed, list[Slip]]:
    """Read lines ``relative/path label`` (one space; labels from 0) of a list file.

    Lines that cannot be read are left out and told as slips. ``./a//b`` is the image ``a/b``.

    Raises:
        MissingAssetError: there is no such file.

    """
    paths: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    slips: list[Slip] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            slips.append(Slip("line", path, "an empty line", number))
            continue
        name, space, label = line.rpartition(" ")
        number_like = label.isascii() and label.isdigit() and len(label) <= MOST_DIGITS
        if not space or not number_like or not inside(name):
            text = f"{line!r} is not 'relative/path label' with a label from 0"
            slips.append(Slip("line", path, text, number))
            continue
        if int(label) >= classes:
            slips.append(Slip("label", path, out_of_range(int(label), classes), number))
            continue
        paths.append(posixpath.normpath(name))
        labels.append(int(label))
        lines.append(number)
    return Listed(path, path.parent, tuple(paths), tuple(labels), tuple(lines)), slips


def out_of_range(label: int, classes: int) -> str:
    """Say that a label is not one of the classes."""
    return f"label {label} is out of range: there are {classes} classes, 0 to {classes - 1}"


def inside(path: str) -> bool:
    """Tell whether a path can be a file's, is relative and stays below its folder."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    possible = bool(path) and "\0" not in path
    return possible and not path.startswith("/") and ".." not in path.split("/")


def absent(listed: Listed) -> list[Slip]:
    """Return a slip for every listed image that is no file, nor a link to one; reads none."""
    there: dict[str, set[str]] = {}
    slips = []
    for index, path in enumerate(listed.paths):
        parent, _, name = path.rpartition("/")
        if parent not in there:
            there[parent] = _files_in(listed.folder / parent)
        if name not in there[parent]:
            text = f"the image {path} is not there"
            slips.append(Slip("missing", listed.source, text, listed.line(index)))
    return slips


def repeated(listed: Listed) -> list[Slip]:
    """Return a slip for every image that the list names again."""
    first: dict[str, int] = {}
    slips = []
    for index, path in enumerate(listed.paths):
        if path not in first:
            first[path] = index
            continue
        before = listed.line(first[path])
        seen = f" on line {before}" if before else ""
        text = f"the image {path} is already listed{seen}"
        slips.append(Slip("duplicate", listed.source, text, listed.line(index)))
    return slips


def in_two(parts: Mapping[str, Listed]) -> list[Slip]:
    """Return a slip for every image that an earlier split, of the same folder, lists as well."""
    owner: dict[str, str] = {}
    slips = []
    for name, listed in parts.items():
        mine = {path: index for index, path in enumerate(listed.paths)}
        for path in owner.keys() & mine.keys():
            text = f"the image {path} is in '{owner[path]}' and in '{name}'"
            slips.append(Slip("overlap", listed.source, text, listed.line(mine[path])))
        owner |= dict.fromkeys(mine, name)
    return sorted(slips, key=lambda slip: (str(slip.path), slip.line or 0, slip.text))


def check_command(suite: str, root: str, task: str) -> str:
    """Return the command that checks one task of a tree, as a shell takes it."""
    return f"python scripts/prepare_data.py check {suite} root={shlex.quote(root)} tasks=[{task}]"


def refuse(task: str, slips: Sequence[Slip], remedy: str) -> None:
    """Raise the error for the first slip, if there is one.

    Args:
        task: name of the task.
        slips: what is wrong.
        remedy: the line that says what to do.

    Raises:
        MissingAssetError: the first slip is something missing.
        CorruptAssetError: it is something wrong.

    """
    if not slips:
        return
    more = f"\n  and {len(slips) - 1} more of this kind or another" if len(slips) > 1 else ""
    kind = MissingAssetError if slips[0].kind == "missing" else CorruptAssetError
    raise kind(f"task '{task}': {slips[0]}{more}\n  {remedy}")


def class_names(folder: Path, fallback: Iterable[str]) -> tuple[str, ...]:
    """Return the class names of ``names.txt`` in ``folder`` (one a line), or ``fallback``.

    Raises:
        CorruptAssetError: not as many different names as there are classes.

    """
    fallback = tuple(fallback)
    path = folder / NAMES
    if not path.is_file():
        return fallback
    names = tuple(line.strip() for line in _lines(path))
    if len(names) != len(fallback) or len(set(names)) != len(names) or "" in names:
        raise CorruptAssetError(
            f"{path}: expected {len(fallback)} different class names, one a line, "
            f"got {len(names)} lines"
        )
    return names


def source_of(folder: Path) -> dict[str, Any]:
    """Return what ``source.json`` in ``folder`` says about how the folder was made, or nothing.

    Raises:
        CorruptAssetError: it is not a JSON object.

    """
    path = folder / SOURCE
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it holds something else.

    """
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:  # no JSON, or beyond what Python reads of it
        raise CorruptAssetError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptAssetError(f"{path} holds no JSON object but a {type(value).__name__}")
    return value


def manifest_of(
    name: str,
    layout: str,
    labels: Sequence[str],
    parts: Mapping[str, Listed],
    deviations: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return the manifest of a task; it says nothing of where the data lie.

    Args:
        name: the task.
        layout: how the data are laid out.
        labels: class names.
        parts: the splits.
        deviations: in what the data differ from the published task.
        more: what else belongs to the data's identity.

    """
    return {
        "schema_version": 1,
        "task": name,
        "layout": layout,
        **more,
        "classes": len(labels),
        "labels": list(labels),
        "deviations": list(deviations),
        "splits": {
            key: {"count": len(parts[key]), "sha256": parts[key].sha256()} for key in SPLITS
        },
    }


def task_of(
    manifest: Mapping[str, Any], parts: Mapping[str, Listed], upright: bool = False
) -> Classification:
    """Return the classification task of a manifest, with images decoded when asked for.

    Args:
        manifest: what the data are.
        parts: the three splits.
        upright: turn pictures as their EXIF orientation says. The published pipelines of the sets
            (TensorFlow's, Pillow's and torchvision's readers) show them as they are stored.

    """
    splits: dict[str, Split] = {}
    first = 0
    for name in SPLITS:
        splits[name] = parts[name].split(name, first, upright)
        first += len(parts[name])
    return Classification(manifest["task"], tuple(manifest["labels"]), splits, manifest)


def _lines(path: Path) -> list[str]:
    return _text(path).removesuffix("\n").split("\n")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingAssetError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptAssetError(f"{path} cannot be read: {error}") from error


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except OSError:
        return set()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False
