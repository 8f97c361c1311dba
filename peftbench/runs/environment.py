"""What a result was obtained with: versions, machine, code."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__


def environment(device: str, dtype: str) -> dict[str, Any]:
    """Return versions, device, precision, threads and the state of the code.

    Args:
        device: in words.
        dtype: precision of the run, for example ``"fp32"``.

    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": metadata.version("timm"),
        "transformers": metadata.version("transformers"),
        "accelerate": metadata.version("accelerate"),
        "device": device,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "code": code_version(),
    }


@functools.cache
def code_version() -> str:
    """Return the package version, with commit and ``-dirty`` where the code is a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = "-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{commit}{dirty}"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
