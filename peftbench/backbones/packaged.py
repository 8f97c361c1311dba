"""Real pretrained weights that ship inside registry packages, converted once and cached.

A converted network is a folder of plain files: ``model.safetensors``, what the library that builds
it wants beside it (configuration, tokenizer), and ``source.json``, which says what it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import assets
from ..assets import Package
from ..errors import CorruptAssetError
from ..files import sha256_file, sha256_tensors, write_json, write_tensors

TENSORS = "model.safetensors"
SOURCE = "source.json"


@dataclass(frozen=True)
class Weights:
    """Weights in a package and how they are converted.

    Attributes:
        package: where they come from.
        tensors_sha256: of the converted tensors (:func:`peftbench.files.sha256_tensors`): the
            conversion is pinned like its input.
        what: what the weights are, in a few words; a derivative is called one.
        note: in what they differ from a published checkpoint.
        architecture: the network that takes them.
        convert: (folder of the package's members, folder to fill) -> tensors by the network's
            names; it writes the files that belong beside them.

    """

    package: Package
    tensors_sha256: str
    what: str
    note: str
    architecture: str
    convert: Callable[[Path, Path], dict[str, Tensor]]

    @property
    def name(self) -> str:
        """What configurations and ``scripts/fetch_data.py`` call them."""
        return self.package.asset

    @property
    def folder(self) -> Path:
        """Where the converted files lie, or would lie."""
        return assets.cache_root() / "weights" / f"{self.name}-{self.tensors_sha256[:12]}"

    def get(self, archive: Path | None = None) -> Path:
        """Return the folder with the converted files, made on first use and checked on every one.

        Args:
            archive: a local copy of the package to use instead of the registry.

        Raises:
            MissingAssetError: the package cannot be fetched; the text names the command.
            CorruptAssetError: the package, the conversion or a cached file is not the pinned one.

        """
        if not self.folder.is_dir():
            with assets.locked(self.folder.name):
                if not self.folder.is_dir():
                    self._make(archive)
        self._check()
        return self.folder

    def forget(self) -> None:
        """Remove the converted files; the next use fetches and converts them again."""
        with assets.locked(self.folder.name):
            shutil.rmtree(self.folder, ignore_errors=True)
        assets.drop(self.package)

    def _make(self, archive: Path | None) -> None:
        """Fetch and convert; the folder appears whole, and the package's members are not kept."""
        members = assets.fetch(self.package, archive)
        with assets.new_folder(self.folder) as made:
            state = self.convert(members, made)
            found = sha256_tensors(state)
            if found != self.tensors_sha256:
                raise CorruptAssetError(
                    f"{self.name}: the converted tensors are not the pinned ones\n"
                    f"  expected SHA-256 {self.tensors_sha256}\n  found    SHA-256 {found}"
                )
            files = {path.name: sha256_file(path) for path in sorted(made.iterdir())}
            write_tensors(made / TENSORS, state, {"format": "pt"})
            source = {
                "what": self.what,
                "note": self.note,
                "architecture": self.architecture,
                "package": self.package.package,
                "version": self.package.version,
                "file": ", ".join(self.package.members),
                "sha256": self.package.sha256,
                "licence": self.package.licence,
                "tensors_sha256": self.tensors_sha256,
                "model_sha256": sha256_file(made / TENSORS),
                "files_sha256": files,
            }
            write_json(made / SOURCE, source)
        assets.drop(self.package)

    def _check(self) -> None:
        """Hold every file to the checksum that was written down when it was made."""
        stated = json.loads((self.folder / SOURCE).read_text(encoding="utf-8"))
        wanted = {TENSORS: stated["model_sha256"], **stated.get("files_sha256", {})}
        for name, expected in wanted.items():
            path = self.folder / name
            found = sha256_file(path) if path.is_file() else "none: the file is gone"
            if found != expected:
                raise CorruptAssetError(
                    f"{self.name}: {path} has changed since it was converted\n"
                    f"  expected SHA-256 {expected}\n  found    SHA-256 {found}\n"
                    f"  to make it again: {self.package.command} --again"
                )
