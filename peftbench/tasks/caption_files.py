"""Annotation files of captioned pictures: COCO's own form, and Karpathy's splits.

COCO (Chen et al., arXiv:1504.00325): ``images`` with ``id`` and ``file_name``, ``annotations`` with
``image_id`` and ``caption``. Karpathy and Fei-Fei (arXiv:1412.2306): ``images`` with ``filename``,
``split`` and ``sentences``. What is wrong is collected as slips. Shape: N pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorruptAssetError
from .captions import plain
from .listed import Slip, inside, read_json

Id = int | str
PARTS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Karpathy's parts and the splits that they belong to: ``restval`` is trained on."""


@dataclass(frozen=True)
class Picture:
    """One captioned picture as an annotation file names it.

    Attributes:
        image_id: the data set's own id.
        path: where its file should lie, below the root; forward slashes.
        captions: all of them, without line breaks.
        part: the split that the file says; empty where it says none.
        group: what else the file says of it: the domain of NoCaps.

    """

    image_id: Id
    path: str
    captions: tuple[str, ...]
    part: str = ""
    group: str = ""


@dataclass(frozen=True)
class Pictures:
    """The pictures of an annotation file, or of one split, in their order.

    Attributes:
        source: the file.
        found: the pictures.

    """

    source: Path
    found: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.found)

    def where(self, wanted: Callable[[Picture], bool]) -> Pictures:
        """Return the pictures that are wanted."""
        return Pictures(self.source, tuple(p for p in self.found if wanted(p)))

    def cut(self, count: int, task: str, seed: int) -> tuple[Pictures, Pictures]:
        """Return ``count`` pictures that a hash of their ids chooses, and the rest, in order."""

        def key(picture: Picture) -> bytes:
            return hashlib.sha256(f"{task}|{seed}|{picture.image_id}".encode()).digest()

        chosen = {p.image_id for p in sorted(self.found, key=key)[:count]}
        return (
            self.where(lambda p: p.image_id in chosen),
            self.where(lambda p: p.image_id not in chosen),
        )

    def sha256(self) -> str:
        """Return the SHA-256 of ids and captions, in their order."""
        digest = hashlib.sha256()
        for picture in self.found:
            row = json.dumps([picture.image_id, list(picture.captions)])
            digest.update(row.encode("ascii") + b"\n")
        return digest.hexdigest()

    def described(self) -> dict[str, Any]:
        """Return what a manifest says of a split."""
        return {
            "count": len(self),
            "captions": sum(len(p.captions) for p in self.found),
            "sha256": self.sha256(),
        }


def read_coco(path: Path, folder: str) -> tuple[Pictures, list[Slip]]:
    """Read an annotation file of COCO's form; pictures without captions are slips, and left out.

    Args:
        path: the file.
        folder: where its pictures lie, below the root.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it is no such file; names the entry.

    """
    value = read_json(path)
    slips: list[Slip] = []
    said: dict[Id, list[str]] = {}
    found: dict[Id, Picture] = {}
    listed: set[Id] = set()

    def caption(entry: Any) -> None:
        said.setdefault(_id(entry["image_id"]), []).append(plain(entry["caption"]))

    def image(entry: Any) -> None:
        name, own = _name(entry["file_name"]), _id(entry["id"])
        captions = tuple(filter(None, said.get(own, ())))
        if own in listed:
            slips.append(Slip("duplicate", path, f"image {own} ({name}) is listed twice"))
        elif not captions:
            slips.append(Slip("caption", path, f"image {own} ({name}) has no caption"))
        else:
            found[own] = Picture(own, f"{folder}/{name}", captions, "", entry.get("domain", ""))
        listed.add(own)

    _each(path, value, "annotations", caption)
    _each(path, value, "images", image)
    for own in (own for own in said if own not in listed):
        slips.append(Slip("image", path, f"captions of image {own}, which is not listed"))
    return Pictures(path, tuple(found.values())), slips


def read_karpathy(path: Path, folder: str | None = None) -> tuple[Pictures, list[Slip]]:
    """Read ``dataset_*.json``; pictures without captions are slips, and left out.

    Args:
        path: the file.
        folder: where the pictures lie, below the root; None: where ``filepath`` says.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it is no such file; names the entry.

    """
    slips: list[Slip] = []
    found: dict[Id, Picture] = {}

    def image(entry: Any) -> None:
        own = _id(entry["cocoid"] if "cocoid" in entry else entry["imgid"])
        name, part = _name(entry["filename"]), PARTS[entry["split"]]
        where = f"{entry['filepath'] if folder is None else folder}/{name}"
        captions = tuple(filter(None, (plain(said["raw"]) for said in entry["sentences"])))
        if own in found:
            parts = dict.fromkeys((found[own].part, part))
            text = f"image {own} ({name}) is listed twice, in {' and in '.join(parts)}"
            slips.append(Slip("duplicate", path, text))
        elif not captions:
            slips.append(Slip("caption", path, f"image {own} ({name}) has no caption"))
        else:
            found[own] = Picture(own, where, captions, part)

    _each(path, read_json(path), "images", image)
    return Pictures(path, tuple(found.values())), slips


def in_two(parts: Mapping[str, Pictures]) -> list[Slip]:
    """Return a slip for every image that an earlier part has as well."""
    owner: dict[Id, tuple[str, Path]] = {}
    slips = []
    for name, pictures in parts.items():
        for picture in pictures.found:
            if picture.image_id in owner:
                other, source = owner[picture.image_id]
                both = f" ({source.name})" if source != pictures.source else ""
                text = f"image {picture.image_id} is in '{other}'{both} and in '{name}'"
                slips.append(Slip("duplicate", pictures.source, text))
            owner.setdefault(picture.image_id, (name, pictures.source))
    return slips


def locate(
    root: Path, pictures: Pictures, also: Callable[[Picture], Iterable[str]] | None = None
) -> tuple[list[Path], list[Slip]]:
    """Return the file of every picture, and a slip for each that is not there; reads none.

    Args:
        root: the folder of the data set.
        pictures: which.
        also: further places of a picture, below the root.

    """
    there: dict[str, frozenset[str]] = {}
    files, slips = [], []
    for picture in pictures.found:
        places = [picture.path, *(also(picture) if also else ())]
        for place in places:
            parent, _, name = place.rpartition("/")
            if parent not in there:
                there[parent] = _names(root / parent)
            if name in there[parent]:
                files.append(root / place)
                break
        else:
            text = f"the picture of image {picture.image_id} is not there: {' or '.join(places)}"
            slips.append(Slip("missing", pictures.source, text))
    return files, slips


def _each(path: Path, value: Mapping[str, Any], key: str, read: Callable[[Any], None]) -> None:
    """Read every entry of a list in a JSON object; a malformed one becomes an error."""
    listed = value.get(key)
    if not isinstance(listed, list):
        keys = ", ".join(list(value)[:6])
        raise CorruptAssetError(f"{path}: a list '{key}' is needed, there is {keys or 'nothing'}")
    for at, entry in enumerate(listed):
        try:
            read(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptAssetError(
                f"{path}: entry {at} of '{key}' is not as it should be"
                f" ({type(error).__name__}: {error})"
            ) from error


def _id(value: Any) -> Id:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no id")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not inside(value):
        raise ValueError(f"{value!r} is no file below the folder")
    return value


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()
