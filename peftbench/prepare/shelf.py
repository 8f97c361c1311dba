"""The folder of archives that a build reads from."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..archives import UNREADABLE
from ..errors import CorruptAssetError, MissingAssetError
from ..files import sha256_file
from .catalogue import Archive, Origin
from .members import Members


@dataclass
class Shelf:
    """Finds the archives of one data set, checks them, and notes which were used.

    Attributes:
        folder: where the archives lie.
        origin: the data set.
        scratch: an empty folder for what has to be unpacked first.
        strict: refuse an archive whose size or digest is not the published one.
        digests: digests already computed, by path; shared by tasks of one data set.
        used: what was taken: name, bytes, SHA-256, and whether that is the published one where it
            is known; of a folder the name only.

    """

    folder: Path
    origin: Origin
    scratch: Path
    strict: bool = True
    digests: dict[Path, str] = field(default_factory=dict)
    used: list[dict[str, Any]] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Return the archive of that published name, or what is taken in its place.

        Raises:
            MissingAssetError: it is not there; says where its authors publish it.
            CorruptAssetError: its size or SHA-256 is not the published one (``strict``).

        """
        archive = next(a for a in self.origin.archives if a.name == name)
        for other in (archive.name, *archive.also):
            path = self.folder / other
            if path.exists():
                self._note(path, archive)
                return path
        names = " or ".join((archive.name, *archive.also))
        hand = f"\n  by hand: {self.origin.by_hand}" if self.origin.by_hand else ""
        raise MissingAssetError(
            f"{self.folder} holds no {names} (key: archives)\n"
            f"  {self.origin.title} is published at {self.origin.page} ({self.origin.access}){hand}"
        )

    def members(self, name: str) -> Members:
        """Return the files of the archive of that published name."""
        return Members(self.path(name))

    def unpacked(self, name: str) -> Path:
        """Return the archive itself, or where it ends in ``.gz`` its content as a scratch file."""
        path = self.path(name)
        if path.suffix != ".gz":
            return path
        target = self.scratch / path.stem
        try:
            with gzip.open(path) as file, open(target, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
        except UNREADABLE as error:
            raise CorruptAssetError(f"the archive {path} cannot be read: {error}") from error
        return target

    def _note(self, path: Path, archive: Archive) -> None:
        if any(one["name"] == path.name for one in self.used):
            return
        if path.is_dir():
            self.used.append({"name": f"{path.name}/"})
            return
        size, published = path.stat().st_size, path.name == archive.name
        if self.strict and published and archive.bytes and size != archive.bytes:
            raise CorruptAssetError(
                f"the archive {path} has {size} bytes, the published one has {archive.bytes}\n"
                "  fetch it again; strict=false takes it as it is"
            )
        if path not in self.digests:
            self.digests[path] = sha256_file(path)
        if self.strict and published and archive.sha256 not in ("", self.digests[path]):
            raise CorruptAssetError(
                f"the archive {path} has the SHA-256 {self.digests[path]}, the published one has "
                f"{archive.sha256}\n  fetch it again; strict=false takes it as it is"
            )
        entry = {"name": path.name, "bytes": size, "sha256": self.digests[path]}
        if archive.sha256:
            entry["as_published"] = archive.sha256 == self.digests[path]
        self.used.append(entry)
