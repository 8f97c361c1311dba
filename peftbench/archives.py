"""Take named members out of package archives: wheels, tar archives and Debian packages."""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from .errors import CorruptAssetError

AR_MAGIC = b"!<arch>\n"
UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OSError,
)


def extract(
    archive: Path, patterns: Sequence[str], folder: Path, source: str, parts: int = 1
) -> None:
    """Write the members that match ``patterns`` into ``folder``, flat, by their last names.

    Args:
        archive: a ``.whl``/``.zip``, ``.tar.*``/``.tgz`` or ``.deb``, told by its content.
        patterns: shell patterns over the whole member name (``*`` crosses slashes).
        folder: an existing folder.
        source: what the archive is, for error messages.
        parts: how many last parts of a member's name make the file's name, joined by a dot.

    Raises:
        CorruptAssetError: unreadable, a pattern matches nothing, or two members share a name.

    """
    unmatched = set(patterns)
    try:
        for name, file in members(archive, lambda n: any(fnmatchcase(n, p) for p in patterns)):
            target = folder / ".".join(name.split("/")[-parts:])
            if target.exists():
                raise CorruptAssetError(f"{source}: two members are named {target.name}")
            with file, open(target, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            unmatched -= {p for p in patterns if fnmatchcase(name, p)}
            if not unmatched and not any("*" in p.removeprefix("*/") for p in patterns):
                return
    except UNREADABLE as error:
        raise CorruptAssetError(
            f"{source}: the archive {archive.name} cannot be read ({error})"
        ) from error
    if unmatched:
        raise CorruptAssetError(f"{source}: no member matches {', '.join(sorted(unmatched))}")


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of every wanted regular file, in archive order, in one pass.

    Args:
        archive: a ``.whl``/``.zip``, ``.tar.*``/``.tgz`` or ``.deb``, told by its content.
        wanted: whether to open the member of that name.

    Raises:
        Exception: one of :data:`UNREADABLE` where the archive is cut short or is none.

    """
    with open(archive, "rb") as file:
        if file.read(len(AR_MAGIC)) == AR_MAGIC:
            yield from _tar_members(_debian_data(file), wanted)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for name in packed.namelist():
                    if not name.endswith("/") and wanted(name):
                        yield name, packed.open(name)
        else:
            file.seek(0)
            yield from _tar_members(file, wanted)


def _tar_members(file: Any, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=file, mode="r|*") as packed:
        for member in packed:
            if member.isfile() and wanted(member.name):
                content = packed.extractfile(member)
                assert content is not None  # only for members that are no files
                yield member.name, content


def _debian_data(file: IO[bytes]) -> io.BytesIO:
    """Return the ``data.tar.*`` of a Debian package, an ``ar`` archive read after its magic.

    Each entry has a header of 60 bytes: name (16), three numbers, mode, size at 48..58 as decimal
    digits, and the end mark; the content is padded to an even length.
    """
    while len(header := file.read(60)) == 60:
        size = int(header[48:58])
        if header[:16].startswith(b"data.tar"):
            data = file.read(size)
            if len(data) != size:
                raise EOFError("the package is cut short")
            return io.BytesIO(data)
        file.seek(size + size % 2, io.SEEK_CUR)
    raise EOFError("the package holds no data.tar")
