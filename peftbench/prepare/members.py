"""The files of an archive or of the folder that it was extracted to, read in one way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ..archives import UNREADABLE, members
from ..errors import CorruptAssetError


class Members:
    """The regular files of a folder, ``.zip`` or tar archive, by name with ``/``.

    Attributes:
        path: the folder or archive.

    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Return all names, in the archive's order; a folder's are sorted.

        Raises:
            CorruptAssetError: the archive cannot be read to its end.

        """
        if self.path.is_dir():
            found = (p for p in self.path.rglob("*") if p.is_file())
            return sorted(p.relative_to(self.path).as_posix() for p in found)
        names: list[str] = []

        def note(name: str) -> bool:
            names.append(name.removeprefix("./"))
            return False

        try:
            for _ in members(self.path, note):
                pass
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        return names

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of each of ``names``, in the archive's order, in one pass.

        Raises:
            CorruptAssetError: the archive cannot be read, or lacks one of them.

        """
        missing = set(names)
        if self.path.is_dir():
            for name in names:
                if (self.path / name).is_file():
                    yield name, (self.path / name).read_bytes()
                    missing.discard(name)
        else:
            yield from self._from_archive(missing)
        if missing:
            some = ", ".join(sorted(missing)[:3])
            raise CorruptAssetError(f"{self.path} lacks {len(missing)} of its files: {some}")

    def _from_archive(self, missing: set[str]) -> Iterator[tuple[str, bytes]]:
        found = members(self.path, lambda name: name.removeprefix("./") in missing)
        while missing:
            try:
                member = next(found, None)
                if member is None:
                    return
                with member[1] as file:
                    content = file.read()
            except UNREADABLE as error:
                raise self._unreadable(error) from error
            name = member[0].removeprefix("./")
            missing.discard(name)
            yield name, content

    def one(self, name: str) -> bytes:
        """Return the content of one file."""
        return next(self.read([name]))[1]

    def _unreadable(self, error: BaseException) -> CorruptAssetError:
        return CorruptAssetError(f"the archive {self.path} cannot be read: {error}")
