"""Pocket text tasks: classes of real texts out of registry packages, in the kinds of GLUE."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..errors import unknown
from .base import manifest_digest
from .pocket_rows import load, read_manifest
from .pocket_sources import TASKS
from .text import Form, TextSpec, TextTask
from .text_parts import Fewer, Template, classified, written
from .text_tables import same
from .wording import Wording


@dataclass(frozen=True)
class PocketText(TextSpec):
    """Data spec of one pocket text task.

    Attributes:
        task: one of ``pocket_sources.TASKS``.
        template: how a source is written: ``pemt`` (names of fields, words for classes),
            ``attempt`` (numbers for classes), ``t5`` (the task's name in front).
        n_obs: the first so many training samples (they are in random order); None: all, 10,000 at
            most.
        shots: so many training samples per class; None: no such limit.
        shots_seed: of the choice of shots.
        longest_source: limit in tokens of what is read; None: the task's own.
        form: how a network is used that can both classify and write.

    """

    committed: ClassVar[bool] = True

    task: str
    template: Template = "pemt"
    n_obs: int | None = 2000
    shots: int | None = None
    shots_seed: int = 0
    longest_source: int | None = None
    form: Form = "auto"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown("pocket text task", self.task, TASKS, "data.task")
        _ = self.fewer  # checks the numbers

    @property
    def fewer(self) -> Fewer:
        """How many of the training samples are used."""
        return Fewer(self.n_obs, self.shots, self.shots_seed)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The committed manifest, with the template and how many training samples are used."""
        manifest = read_manifest(self.task)
        train = manifest["splits"]["train"]
        used = self.fewer.count(train["count"], "classification", len(manifest["labels"]))
        manifest["splits"]["train"] = {**train, "count": used, "of": train["count"]}
        return {**manifest, "template": self.template, "train": self.fewer.stated()}

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; known without reading any text."""
        return manifest_digest(self.manifest)

    @property
    def wording(self) -> Wording:
        """How a raw sample becomes what is read."""
        fields = tuple(self.manifest["fields"])
        prefix = self.task if self.template == "t5" else ""
        return Wording(fields, (), "plain", same(*fields), prefix, fields)

    def load(self) -> TextTask:  # type: ignore[override]
        """Return the task, decoding (and fetching) its texts on first use.

        Raises:
            MissingAssetError: the data is not here; the text names the command that gets it.
            CorruptAssetError: a split is not what the manifest says.
            ConfigError: a class has fewer training samples than ``shots``.

        """
        rows = load(self.task, read_manifest(self.task))
        labels = np.array([label for _, label, _ in rows["train"]], np.int64)
        kept = self.fewer.rows(labels, "classification", self.task)
        rows["train"] = [rows["train"][i] for i in kept]
        task, fields = TASKS[self.task], self.manifest["fields"]
        words = written(task.words, self.template)
        wording = self.wording
        splits = {
            name: classified(
                [number for number, _, _ in part],
                [texts for _, _, texts in part],
                [wording.read(dict(zip(fields, texts, strict=True))) for _, _, texts in part],
                [label for _, label, _ in part],
                words,
            )
            for name, part in rows.items()
        }
        return TextTask(
            self.task,
            "classification",
            splits,
            tuple(self.manifest["labels"]),
            words,
            task.metrics,
            task.description,
            task.longest if self.longest_source is None else self.longest_source,
            8,
            self.manifest,
            self.form,
            wording=wording,
        )
