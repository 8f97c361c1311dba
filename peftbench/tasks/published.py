"""Published text tasks: GLUE, SuperGLUE, question answering and others, from hub or disk.

Two protocols of splits: ``dev`` trains on the published training split and reports on the published
validation split (Wang et al., arXiv:1804.07461, as papers on classifiers use it); ``attempt`` is
that of Asai et al. (arXiv:2205.11961), which PEMT, DePT and MPT share. Shapes: N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from ..errors import ConfigError, unknown
from .base import SPLITS, manifest_digest
from .cut import Ints
from .hub_parts import commit_of, load, load_files, local, needed
from .published_rows import Part, Sample, parts_of, render, wording_of
from .suite import Suite, SuiteSpec
from .text import Form, Kind, Passages, TextSpec, TextTask
from .text_parts import Fewer, Template, digest, written
from .text_tables import GLUE_8, PEMT_17, SUPERGLUE_8, TABLE, TextRow

Splits = Literal["dev", "attempt"]
SEED = 42
HELD, HELD_SHARE = 1000, 0.05
NOTES = {
    "dev": "test is the published split whose results are reported, val is held out of train; "
    "published results of this protocol were read off, and often chosen on, that same split",
    "attempt": "the splits of ATTEMPT, PEMT, DePT and MPT (seed 42)",
}


@dataclass(frozen=True)
class PublishedText(TextSpec):
    """Data spec of one published text task.

    Attributes:
        task: one of ``text_tables.TABLE``.
        splits: ``dev`` or ``attempt``.
        template: ``pemt``, ``attempt`` or ``t5``.
        path: hub id, or a folder with the tables ``<split>.parquet|jsonl|csv`` or with a folder of
            the task's or configuration's name that holds them; None: the published id.
        subset: configuration on the hub; None: the published one.
        revision: branch, tag or commit on the hub.
        n_obs: the first so many training samples of the permuted split; None: as published (Yelp:
            100,000, else all).
        shots: so many training samples per class (in all, without classes); None: no such limit.
        shots_seed: of the choice of shots.
        longest_source: limit in tokens of what is read; None: the task's own.
        longest_target: limit in tokens of what is written; None: the task's own.
        form: how a network is used that can both classify and write.

    """

    task: str
    splits: Splits = "dev"
    template: Template = "pemt"
    path: str | None = None
    subset: str | None = None
    revision: str | None = None
    n_obs: int | None = None
    shots: int | None = None
    shots_seed: int = 0
    longest_source: int | None = None
    longest_target: int | None = None
    form: Form = "auto"

    def __post_init__(self) -> None:
        if self.task not in TABLE:
            raise unknown("published text task", self.task, TABLE, "data.task")
        if self.template == "t5" and self.row.t5 == ():
            raise ConfigError(
                f"data.template: T5 has no template of task '{self.task}'; pemt or attempt"
            )
        _ = self.fewer  # checks the numbers

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @property
    def row(self) -> TextRow:
        """What the task is."""
        return TABLE[self.task]

    @property
    def kind(self) -> Kind:
        """What is asked for; WinoGrande is a choice of two numbers in ATTEMPT's template."""
        row = self.row
        numbered = self.template == "attempt" and bool(row.values)
        return "classification" if numbered else row.kind

    @property
    def words(self) -> tuple[str, ...]:
        """What stands for each class when it is written."""
        row = self.row
        return written(row.words, self.template) if self.kind == "classification" else ()

    @property
    def fewer(self) -> Fewer:
        """How many of the training samples are used."""
        n_obs = self.row.cap if self.n_obs is None else self.n_obs
        return Fewer(n_obs, self.shots, self.shots_seed)

    @cached_property
    def tables(self) -> tuple[dict[str, Any], str | None]:
        """The published splits and the commit that they are of (None for local data).

        Raises:
            ConfigError: a setting is wrong; the package ``datasets`` is not installed.
            MissingAssetError: the data cannot be had; says why, and what to do.
            CorruptAssetError: a file is damaged.

        """
        needed(f"data={self.task}")
        path, subset = self.path or self.row.path, self.subset or self.row.subset
        place = local(path)
        if place is not None and place.is_dir():
            inner = (place / name for name in (self.task, subset) if name)
            folder = next((f for f in inner if f.is_dir()), place)
            return {str(k): part for k, part in load_files(folder).items()}, None
        parts = {str(k): part for k, part in load(path, subset, self.revision).items()}
        return parts, None if place is not None else commit_of(path, self.revision, parts)

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """The samples of train, val and test.

        Raises:
            ConfigError: there are too few rows for the protocol.
            CorruptAssetError: a column is missing, or a label is none of the task's.

        """
        tables, _ = self.tables
        parts = parts_of(self.row, self.kind, tables)
        split = _dev if self.splits == "dev" else _attempt
        found = split(self.row, parts)
        chosen = {name: [(part, rows) for part, rows in found[name]] for name in SPLITS}
        part, rows = chosen["train"][0]
        kept = self.fewer.rows(part.labels_of(rows), self.kind, self.task)
        chosen["train"] = [(part, rows[kept])]
        return {
            name: [s for part, rows in chosen[name] for s in part.take(rows)] for name in SPLITS
        }

    @cached_property
    def passages(self) -> dict[str, Passages]:
        """Train, val and test in words."""
        return {
            name: render(self.row, self.kind, self.words, self.template, part)
            for name, part in self.samples.items()
        }

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data is: where from, protocol, template, count and checksum of every split.

        Local data is known by its content, not by where it lies.
        """
        tables, commit = self.tables
        path = self.path or self.row.path
        return {
            "schema_version": 1,
            "task": self.task,
            "source": {
                "hub": path if commit else None,
                "subset": (self.subset or self.row.subset) if commit else None,
                "commit": commit,
            },
            "protocol": {"splits": self.splits, "seed": SEED, "note": NOTES[self.splits]},
            "template": self.template,
            "labels": list(self.row.words if self.kind == "classification" else ()),
            "train": self.fewer.stated(),
            "deviations": _deviations(self.row, tables),
            "splits": {
                name: {"count": len(part), "sha256": digest(part)}
                for name, part in self.passages.items()
            },
        }

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the tables are read for it once."""
        return manifest_digest(self.manifest)

    def load(self) -> TextTask:  # type: ignore[override]
        """Return the task with its texts."""
        row = self.row
        source, target = row.longest
        return TextTask(
            self.task,
            self.kind,
            self.passages,
            row.words if self.kind == "classification" else (),
            self.words,
            ("accuracy",) if self.kind != row.kind else row.metrics,
            row.description,
            source if self.longest_source is None else self.longest_source,
            target if self.longest_target is None else self.longest_target,
            self.manifest,
            self.form,
            wording=wording_of(row, self.kind, self.template),
        )


Chosen = dict[str, list[tuple[Part, Ints]]]


def _permuted(count: int) -> Ints:
    """Return the permutation of the ATTEMPT line; its code draws it with torch, seeded 42."""
    generator = torch.Generator().manual_seed(SEED)
    return np.asarray(torch.randperm(count, generator=generator).numpy(), np.int64)


def _all(part: Part) -> Ints:
    return np.arange(len(part))


def _dev(row: TextRow, parts: dict[str, Part]) -> Chosen:
    train = parts["train"]
    order = _permuted(len(train))
    held = min(HELD, max(1, int(HELD_SHARE * len(train))))
    if len(train) < 2:
        raise ConfigError(f"task '{row.name}': {len(train)} training rows leave none for val")
    return {
        "train": [(train, order[held:])],
        "val": [(train, order[:held])],
        "test": [(parts[name], _all(parts[name])) for name in row.tested],
    }


def _attempt(row: TextRow, parts: dict[str, Part]) -> Chosen:
    train = parts["train"]
    order = _permuted(len(train))
    if row.rule == "mnli":
        matched, mismatched = (parts[name] for name in row.tested)
        return {
            "train": [(train, order)],
            "val": [(mismatched, _all(mismatched))],
            "test": [(matched, _all(matched))],
        }
    if row.rule == "own":
        held = parts["validation"], parts["test"]
        val, test = ([(part, _all(part))] for part in held)
        return {"train": [(train, order)], "val": val, "test": test}
    if row.rule == "large":
        if len(train) <= HELD:
            raise ConfigError(
                f"data.splits: 'attempt' takes {HELD} rows of train for val, task '{row.name}' has "
                f"{len(train)}; data.splits=dev takes a share"
            )
        test = [(parts[name], _all(parts[name])) for name in row.tested]
        return {"train": [(train, order[HELD:])], "val": [(train, order[:HELD])], "test": test}
    both = parts["validation"]
    halves, half = _permuted(len(both)), len(both) // 2
    if not half:
        raise ConfigError(f"task '{row.name}': {len(both)} validation rows cannot be halved")
    return {
        "train": [(train, order)],
        "val": [(both, halves[:half])],
        "test": [(both, halves[half:])],
    }


def _deviations(row: TextRow, tables: dict[str, Any]) -> list[str]:
    found = []
    for name, expected in row.counts.items():
        count = len(tables[name]) if name in tables else 0
        if count != expected:
            found.append(f"{name}: {count} rows, the published set has {expected}")
    return found


@dataclass(frozen=True)
class PublishedSuite(SuiteSpec):
    """Data spec of several published text tasks.

    Attributes:
        suite: ``glue`` (eight tasks), ``superglue`` (eight) or ``pemt17`` (the targets of PEMT, in
            four groups).
        root: folder with a folder of tables per task (by our name or the configuration's), or None
            for the hub.
        splits: as in :class:`PublishedText`, for all tasks; so are the others.
        template: as there.
        n_obs: as there.
        shots: as there.
        shots_seed: as there.
        form: as there.
        tasks: the tasks to run, or None for all.

    """

    suite: Literal["glue", "superglue", "pemt17"]
    root: str | None = None
    splits: Splits = "dev"
    template: Template = "pemt"
    n_obs: int | None = None
    shots: int | None = None
    shots_seed: int = 0
    form: Form = "auto"
    tasks: tuple[str, ...] | None = None

    @cached_property
    def whole(self) -> Suite:
        """The suite with its members."""
        groups = PEMT_17 if self.suite == "pemt17" else {}
        named = {"glue": GLUE_8, "superglue": SUPERGLUE_8}
        names = named.get(self.suite) or tuple(n for part in groups.values() for n in part)
        members = {name: self._member(name) for name in names}
        return Suite(self.suite, members, groups, self.tasks)

    def _member(self, name: str) -> PublishedText:
        return PublishedText(
            name,
            self.splits,
            self.template,
            self.root,
            n_obs=self.n_obs,
            shots=self.shots,
            shots_seed=self.shots_seed,
            form=self.form,
        )
