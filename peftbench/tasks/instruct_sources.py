"""Instructions with answers out of registry packages, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..assets import Package
from ..errors import CorruptAssetError
from .cut import Sizes
from .packed import Source
from .pocket_sources import BIGBENCH, CANARY
from .text_decoders import Rows

FIELDS = ("instruction", "input", "answers")
"""Texts of a row: instruction, input (may be empty), and one answer or more."""
TALKS = ("conversations", "health")
PAIRS = ("trivia",)
CHATTERBOT = Package(
    "wheel",
    "chatterbot-corpus",
    "1.3.3",
    ("chatterbot_corpus/data/english/*.yml",),
    "6f227ff2bceb225c01cd000d5d2abfdecc35fc132dc913532f710b0c1019931f",
    1,
    "BSD package",
    "pocket_instruct",
)


def chatterbot(folder: Path | None) -> Rows:
    """Decode short talks: questions with their answers, one row per different question.

    In most files the first line is said and every other line is an answer to it; in talks a line
    answers the one before it; in trivia questions and answers alternate. The label is the file.
    """
    if folder is None:
        raise CorruptAssetError("pocket_instruct: there is no folder of the package")
    import yaml

    files = sorted(folder.glob("*.yml"))
    answers: dict[str, list[str]] = {}
    said: dict[str, tuple[str, int]] = {}
    for number, path in enumerate(files):
        for talk in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            lines = [str(line).strip() for line in talk]
            for question, answer in _turns(path.stem, lines):
                if not question or not answer:
                    continue
                key = " ".join(question.casefold().split())
                said.setdefault(key, (question, number))
                found = answers.setdefault(key, [])
                if answer not in found:
                    found.append(answer)
    texts: list[tuple[str, ...]] = [(said[key][0], "", *answers[key]) for key in said]
    labels = np.array([number for _, number in said.values()], np.int64)
    return Rows(FIELDS, texts, labels, tuple(path.stem for path in files))


def _turns(topic: str, lines: list[str]) -> list[tuple[str, str]]:
    if topic in TALKS:
        return list(pairwise(lines))
    if topic in PAIRS:
        return list(zip(lines[::2], lines[1::2], strict=False))
    return [(lines[0], answer) for answer in lines[1:]]


def natural_instructions(folder: Path | None) -> Rows:
    """Decode Natural Instructions: 61 tasks, each an instruction and inputs with answers."""
    if folder is None:
        raise CorruptAssetError("pocket_instruct_ni: there is no folder of the package")
    files = sorted(folder.glob("subtask*.task.json"))
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    for number, path in enumerate(files):
        task = json.loads(path.read_text(encoding="utf-8"))
        for example in task["examples"]:
            found = [str(answer).strip() for answer in example["target"]]
            answers = [answer for answer in dict.fromkeys(found) if answer]
            if answers:
                texts.append((task["task_prefix"].strip(), example["input"].strip(), *answers))
                labels.append(number)
    names = tuple(path.name.partition(".")[0] for path in files)
    return Rows(FIELDS, texts, np.array(labels, np.int64), names)


@dataclass(frozen=True)
class Dialogues:
    """A set of instructions.

    Attributes:
        source: where its texts come from; the labels of its rows are topics.
        sizes: limits of its splits.
        longest: limits in tokens of what is read and of what is written.

    """

    source: Source[Rows]
    sizes: Sizes
    longest: tuple[int, int]

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says beside the source."""
        return {"labels_are": "topics"}


DIALOGUES: Mapping[str, Dialogues] = {
    "pocket_instruct": Dialogues(
        Source(
            "short talks and questions with answers (chatterbot-corpus)",
            chatterbot,
            CHATTERBOT,
            True,
            "its 2,393 pairs of neighbouring lines hold about 850 different questions; a question"
            " is in one split only, with all its answers",
        ),
        Sizes(10_000, 500, 2000, val_share=0.1, test_share=0.2),
        (128, 128),
    ),
    "pocket_instruct_ni": Dialogues(
        Source(
            "Natural Instructions, 61 tasks (bigbench)",
            natural_instructions,
            BIGBENCH,
            False,
            f"a passage can be in two splits, in different tasks; {CANARY}",
        ),
        Sizes(10_000, 500, 2000, val_share=0.1, test_share=0.2),
        (1024, 128),
    ),
}
