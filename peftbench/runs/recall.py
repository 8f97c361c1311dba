"""Plans that were made before: what a command asks for, known without composing it again.

A plan is kept in the cache folder under a hash of everything that it follows from: the command, the
folder it was given in, the files of the package and of the configurations (name, size, time of last
change), and the environment that configurations may read. It is kept only if identities follow from
these alone: no local weights, and no data whose manifest is made from files elsewhere. So a study
that is done is found to be done without Hydra, torch or any data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

KEPT = 200  # plans; the oldest go first
PREFIX = "PEFTBENCH_"
"""Environment variables that a configuration may read begin like this."""
FOLDER = "plans"


def key(words: Sequence[str], configs: Path) -> str:
    """Return what a plan is kept under."""
    package = Path(__file__).resolve().parents[1]
    plugins = [Path(p) for p in os.environ.get("PEFTBENCH_PATH", "").split(os.pathsep) if p]
    subject = {
        "words": list(words),
        "folder": os.getcwd(),
        "files": [list(_files(folder)) for folder in (package, configs, *plugins)],
        "environment": sorted((k, v) for k, v in os.environ.items() if k.startswith(PREFIX)),
    }
    return hashlib.sha256(json.dumps(subject).encode()).hexdigest()[:24]


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of the last change of all files below ``folder``."""
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__pycache__")))
        for file in sorted(files):
            path = os.path.join(name, file)
            about = os.stat(path)
            yield path, about.st_size, about.st_mtime_ns


def find(name: str) -> dict[str, Any] | None:
    """Return the plan that was kept under a key; None if there is none."""
    try:
        plan = json.loads((_folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) and plan.get("key") == name else None


def keep(name: str, plan: dict[str, Any]) -> None:
    """Keep a plan; nothing is kept where the cache folder cannot be written."""
    from ..files import write_json

    folder = _folder()
    try:
        write_json(folder / f"{name}.json", {**plan, "key": name})
        plans = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime)
    except OSError:
        return
    for path in plans[:-KEPT]:
        path.unlink(missing_ok=True)


def _folder() -> Path:
    from ..assets import cache_root

    return cache_root() / FOLDER
