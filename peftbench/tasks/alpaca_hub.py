"""Any data set in Alpaca's format: instruction, input and output, from hub or disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import ConfigError, CorruptAssetError, MissingAssetError
from .alpaca import InstructTemplate, instructions
from .base import SPLITS, manifest_digest
from .cut import Ints, sample_key
from .hub_parts import TABLES, commit_of, load, load_files, load_table, local, needed
from .pocket_instruct import ANSWERS
from .text import Passages, TextSpec, TextTask
from .text_parts import Fewer, digest
from .wording import INSTRUCTION

COLUMNS = ("instruction", "input", "output")
PUBLISHED = {"tatsu-lab/alpaca": 52_002}


@dataclass(frozen=True)
class Alpaca(TextSpec):
    """Data spec of instructions with answers.

    The published set has no parts: val and test are held out of it, in an order made by SHA-256. Of
    rows with the same instruction and input (case and white space aside) the first is kept.

    Attributes:
        path: hub id, a table (``.parquet``, ``.json``, ``.jsonl``, ``.csv``), or a folder of them.
        revision: branch, tag or commit on the hub.
        template: ``alpaca``, or ``chat`` for the template of the network's tokenizer.
        val: number of rows that are held out for val.
        test: number of rows that are held out for test.
        n_obs: the first so many training samples (they are in random order); None: all.
        shots: so many training samples in all, drawn; None: no such limit.
        shots_seed: of the choice of shots.
        longest_source: limit in tokens of what is read.
        longest_target: limit in tokens of what is written.
        written: so many samples of a split are answered, for ROUGE-L; None: all of them.

    """

    path: str = "tatsu-lab/alpaca"
    revision: str | None = None
    template: InstructTemplate = "alpaca"
    val: int = 500
    test: int = 1000
    n_obs: int | None = None
    shots: int | None = None
    shots_seed: int = 0
    longest_source: int = 384
    longest_target: int = 128
    written: int | None = 64

    def __post_init__(self) -> None:
        for name in ("val", "test"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: expected 1 or more, got {getattr(self, name)}")
        _ = self.fewer  # checks the numbers

    @property
    def fewer(self) -> Fewer:
        """How many of the training samples are used."""
        return Fewer(self.n_obs, self.shots, self.shots_seed)

    @property
    def name(self) -> str:
        """The task's name."""
        return "alpaca"

    @cached_property
    def table(self) -> tuple[Mapping[str, list[str]], str | None]:
        """The three columns, and the commit (None for local data).

        Raises:
            ConfigError: a setting is wrong; the package ``datasets`` is not installed.
            MissingAssetError: the data cannot be had; says why, and what to do.
            CorruptAssetError: a file is damaged, or a column is missing.

        """
        needed("data=alpaca")
        place = local(self.path)
        if place is None:
            parts = load(self.path, None, self.revision)
        elif place.is_dir():
            parts = load_files(place)
        elif place.suffix in TABLES:
            parts = load_table(place)
        else:
            raise MissingAssetError(f"data.path: {place} is no table ({', '.join(TABLES)})")
        if "train" not in parts:
            raise CorruptAssetError(f"data.path: {self.path} has no split 'train': {list(parts)}")
        data = parts["train"]
        for column in COLUMNS:
            if column not in data.column_names:
                raise CorruptAssetError(
                    f"data.path: {self.path} has no column '{column}'; it has "
                    f"{', '.join(data.column_names)}"
                )
        commit = None if place is not None else commit_of(self.path, self.revision, dict(parts))
        return {name: [cell or "" for cell in data[name][:]] for name in COLUMNS}, commit

    @cached_property
    def positions(self) -> dict[str, Ints]:
        """Rows of the table that make up each split."""
        columns, _ = self.table
        seen: dict[str, int] = {}
        for i, pair in enumerate(zip(columns["instruction"], columns["input"], strict=True)):
            if columns["output"][i].strip():
                seen.setdefault(" ".join("\x1f".join(pair).casefold().split()), i)
        order = sorted(seen.values(), key=lambda i: sample_key(self.name, 0, i))
        held = self.val + self.test
        if len(order) <= held:
            raise ConfigError(
                f"data.val, data.test: {held} of {len(order)} different instructions leave none "
                "for train"
            )
        rows = np.array(order, np.int64)
        train = rows[held:]
        kept = self.fewer.rows(np.zeros(len(train), np.int64), "answers", self.name)
        return {"train": train[kept], "val": rows[: self.val], "test": rows[self.val : held]}

    @cached_property
    def passages(self) -> dict[str, Passages]:
        """Train, val and test in words."""
        columns, _ = self.table
        asked, said = list(zip(columns["instruction"], columns["input"], strict=True)), columns
        return {
            name: instructions(
                self.positions[name].tolist(),
                [asked[i] for i in self.positions[name]],
                [(said["output"][i],) for i in self.positions[name]],
                self.template,
            )
            for name in SPLITS
        }

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data is: where from, template, count and checksum of every split."""
        columns, commit = self.table
        count, published = len(columns["output"]), PUBLISHED.get(self.path)
        changed = published not in (None, count)
        return {
            "schema_version": 1,
            "task": self.name,
            "source": {"hub": self.path if commit else None, "commit": commit},
            "template": self.template,
            "train": self.fewer.stated(),
            "deviations": [f"{count} rows, the published set has {published}"] if changed else [],
            "splits": {
                name: {"count": len(part), "sha256": digest(part)}
                for name, part in self.passages.items()
            },
        }

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the table is read for it once."""
        return manifest_digest(self.manifest)

    def load(self) -> TextTask:  # type: ignore[override]
        """Return the task with its texts."""
        return TextTask(
            self.name,
            "answers",
            self.passages,
            (),
            (),
            ANSWERS,
            "Do what the instruction asks.",
            self.longest_source,
            self.longest_target,
            self.manifest,
            style=self.template,
            written=self.written,
            wording=INSTRUCTION,
        )
