"""Networks that are read from this machine's disk: they count by what they are, not where they lie.

A network says by ``local``, a class variable of its settings, which of them may name a file or a
folder; of others it is ``weights``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import sha256_file

READ = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
"""How files end that a network or its tokenizer is read from."""


def by_content(spec: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's plain settings with a checksum in place of every local file and folder.

    Args:
        spec: the network's settings.
        plain: the same as plain data.

    """
    out = dict(plain)
    names = getattr(spec, "local", ("weights",))
    for name, value in plain.items():
        inner = getattr(spec, name, None)
        if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
            out[name] = by_content(inner, value)
        elif name in names and value and (digest := _digest(Path(str(value)).expanduser())):
            out[name] = f"sha256:{digest}"
    return out


def has_local(spec: Any, plain: Mapping[str, Any]) -> bool:
    """Tell whether a part of a network is, or would be, read from this machine's disk."""
    if by_content(spec, plain) != dict(plain):
        return True
    parts = (getattr(spec, name, None) for name in plain)
    missing = bool(plain.get("weights"))
    return missing or any(getattr(part, "weights", None) for part in parts)


def _digest(path: Path) -> str | None:
    """Return the checksum of a file, or of the files of a folder; None if there is neither."""
    if path.is_file():
        return _hash_file(path)
    if not path.is_dir():
        return None
    files = sorted(p for p in path.iterdir() if p.suffix in READ and p.is_file())
    lines = [f"{file.name} {_hash_file(file)}\n" for file in files if file.name[0] != "."]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    about = path.stat()
    return _hash_of(str(path.resolve()), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash_of(path: str, size: int, mtime_ns: int) -> str:
    """Return the checksum of a file's content, computed once while the file stays as it is."""
    return sha256_file(Path(path))
