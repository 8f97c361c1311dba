"""Plans that were made before: what a command asks for, known without composing it again.

A plan is kept in the cache folder under a hash of everything that it follows from: the command, the
folder it was given in, the files of the package and of the configurations (name, size, time of last
change), and the environment and times that words and configurations refer to. It is kept only if
identities follow from these alone: no local weights, and no data whose manifest is made from files
elsewhere. So a study that is done is found to be done without Hydra, torch or any data.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

KEPT = 200  # plans; the oldest go first
PREFIX = "PEFTBENCH_"
"""Environment variables of the project begin like this; words may refer to others as well."""
REFERENCE = re.compile(r"\b(oc\.env|now)\s*:\s*([^,}]*)")
"""What a word or a configuration takes from outside: ``${oc.env:NAME}``, ``${now:%Y-%m-%d}``."""
FOLDER = "plans"


def key(words: Sequence[str], configs: Path) -> str:
    """Return what a plan is kept under."""
    package = Path(__file__).resolve().parents[1]
    plugins = [Path(p) for p in os.environ.get("PEFTBENCH_PATH", "").split(os.pathsep) if p]
    files = [list(_files(folder)) for folder in (package, configs, *plugins)]
    texts = [*words, *_configurations(path for found in files[1:] for path, _, _ in found)]
    subject = {
        "words": list(words),
        "folder": os.getcwd(),
        "files": files,
        "environment": sorted((k, v) for k, v in os.environ.items() if k.startswith(PREFIX)),
        "outside": sorted(_outside(texts)),
    }
    return hashlib.sha256(json.dumps(subject).encode()).hexdigest()[:24]


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of the last change of all files below ``folder``.

    Links to folders are followed; of one that leads to no file, or back, the name alone counts.
    """
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(name)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__pycache__")))
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        for file in sorted(files):
            path = os.path.join(name, file)
            try:
                about = os.stat(path)
            except OSError:  # a dangling link, as editors leave, or a file that has just gone
                yield path, -1, -1
                continue
            yield path, about.st_size, about.st_mtime_ns


def _configurations(paths: Iterable[str]) -> Iterator[str]:
    """Yield the text of configuration files."""
    for path in paths:
        if path.endswith(".yaml"):
            try:
                yield Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue


def _outside(texts: Iterable[str]) -> set[tuple[str, str, str]]:
    """Return what texts take from the environment and the clock, with its present value."""
    found = {(kind, name.strip()) for text in texts for kind, name in REFERENCE.findall(text)}
    return {
        (kind, name, time.strftime(name) if kind == "now" else os.environ.get(name, ""))
        for kind, name in found
    }


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
