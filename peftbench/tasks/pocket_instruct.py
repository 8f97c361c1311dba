"""Pocket instructions: real questions and tasks with answers out of registry packages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..errors import unknown
from .alpaca import InstructTemplate, instructions
from .base import manifest_digest
from .instruct_sources import DIALOGUES
from .pocket_rows import load, read_manifest
from .text import TextSpec, TextTask
from .text_parts import Fewer
from .wording import INSTRUCTION

ANSWERS = ("loss", "perplexity", "rouge_l")


@dataclass(frozen=True)
class PocketInstruct(TextSpec):
    """Data spec of pocket instructions.

    Attributes:
        task: one of ``instruct_sources.DIALOGUES``.
        template: ``alpaca``, or ``chat`` for the template of the network's tokenizer.
        n_obs: the first so many training samples (they are in random order); None: all.
        shots: so many training samples in all, drawn; None: no such limit.
        shots_seed: of the choice of shots.
        longest_source: limit in tokens of what is read; None: the task's own.
        longest_target: limit in tokens of what is written; None: the task's own.
        written: so many samples of a split are answered, for ROUGE-L; None: all of them.

    """

    committed: ClassVar[bool] = True

    task: str = "pocket_instruct"
    template: InstructTemplate = "alpaca"
    n_obs: int | None = None
    shots: int | None = None
    shots_seed: int = 0
    longest_source: int | None = None
    longest_target: int | None = None
    written: int | None = 64

    def __post_init__(self) -> None:
        if self.task not in DIALOGUES:
            raise unknown("set of instructions", self.task, DIALOGUES, "data.task")
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
        used = self.fewer.count(train["count"], "answers", 0)
        manifest["splits"]["train"] = {**train, "count": used, "of": train["count"]}
        return {**manifest, "template": self.template, "train": self.fewer.stated()}

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; known without reading any text."""
        return manifest_digest(self.manifest)

    def load(self) -> TextTask:  # type: ignore[override]
        """Return the task, decoding (and fetching) its texts on first use.

        Raises:
            MissingAssetError: the data is not here; the text names the command that gets it.
            CorruptAssetError: a split is not what the manifest says.
            ConfigError: there are fewer training samples than ``shots``.

        """
        rows = load(self.task, read_manifest(self.task))
        labels = np.zeros(len(rows["train"]), np.int64)
        kept = self.fewer.rows(labels, "answers", self.task)
        rows["train"] = [rows["train"][i] for i in kept]
        splits = {
            name: instructions(
                [number for number, _, _ in part],
                [(texts[0], texts[1]) for _, _, texts in part],
                [texts[2:] for _, _, texts in part],
                self.template,
            )
            for name, part in rows.items()
        }
        source, target = DIALOGUES[self.task].longest
        return TextTask(
            self.task,
            "answers",
            splits,
            (),
            (),
            ANSWERS,
            "Do what the instruction asks.",
            source if self.longest_source is None else self.longest_source,
            target if self.longest_target is None else self.longest_target,
            self.manifest,
            style=self.template,
            wording=INSTRUCTION,
            written=self.written,
        )
