"""Texts that a trained adapter classifies or answers: what is asked, and the answer to each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, unknown
from ..tasks.wording import TextUse
from ..train.reader import Reader, Writing
from .pictures import best, shares

FILES = (".txt", ".jsonl")
Sample = dict[str, Any]


@dataclass(frozen=True)
class TextAnswer:
    """What is said to one sample.

    Attributes:
        number: of the sample, from 1.
        sample: fields and values.
        labels: the most probable classes, best first, where a head chooses.
        value: of a regression.
        answer: what was written.
        label: the class that the answer stands for; None where it stands for none.

    """

    number: int
    sample: Sample
    labels: tuple[tuple[str, float], ...] = ()
    value: float | None = None
    answer: str | None = None
    label: str | None = None
    error: None = None

    def line(self, single: bool) -> str:
        """Return the answer for a person; numbered, where it is one of several."""
        if self.answer is not None:
            found = self.answer
        else:
            found = shares(self.labels) if self.value is None else f"{self.value:.4g}"
        return found if single else f"{self.number}: {found}"

    def plain(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        if self.answer is not None:
            return {"sample": self.sample, "answer": self.answer, "label": self.label}
        if self.value is not None:
            return {"sample": self.sample, "value": self.value}
        found = [{"label": label, "probability": p} for label, p in self.labels]
        return {"sample": self.sample, "predictions": found}


def named(use: TextUse, given: Mapping[str, str]) -> Sample:
    """Return one sample out of settings of the command.

    Args:
        use: of the adapter.
        given: ``text`` (the only field that a sample needs) or values by field.

    Raises:
        ConfigError: a name is no field of the task, or ``text`` says too little.

    """
    wording = use.wording
    known = (*wording.fields, *wording.optional)
    if "text" in given and "text" not in known:
        if len(wording.fields) != 1:
            shown = " ".join(f'fields.{name}="..."' for name in wording.fields)
            raise ConfigError(f"text: task '{use.name}' needs several fields: {shown}")
        given = {
            wording.fields[0]: given["text"],
            **{k: v for k, v in given.items() if k != "text"},
        }
    for name in given:
        if name not in known:
            raise unknown(f"field of task '{use.name}'", name, known, f"fields.{name}")
    return dict(given)


def from_file(use: TextUse, path: Path) -> list[Sample]:
    """Return the samples of a file: a text per line, or a JSON object per line.

    Raises:
        ConfigError: the file is of another kind, cannot be read or holds something else.

    """
    if not path.is_file():
        raise ConfigError(f"input: there is no file {path}")
    if path.suffix not in FILES:
        raise ConfigError(
            f"input: this adapter reads text, and {path} is neither {' nor '.join(FILES)}; "
            'text="..." asks it one'
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"input: {path} cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_sample(use, path, number, line))
    if not found:
        raise ConfigError(f"input: {path} holds no text")
    return found


def _sample(use: TextUse, path: Path, number: int, line: str) -> Sample:
    if path.suffix == ".txt":
        return named(use, {"text": line})
    where = f"input: {path}, line {number}: "
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}this is not JSON ({error})") from error
    if not isinstance(sample, dict):
        raise ConfigError(f"{where}expected an object with the fields {use.wording.listed()}")
    return use.wording.checked(sample, where)


def answers(reader: Reader, samples: list[Sample], top: int, how: Writing) -> list[TextAnswer]:
    """Return the answer to every sample, in order.

    Args:
        reader: the adapter.
        samples: fields and values.
        top: labels of a head that are named.
        how: answers are written.

    """
    use = reader.use
    numbered = list(enumerate(samples, 1))
    if reader.writes:
        order = dict(zip(use.words, use.labels, strict=True))
        found = zip(numbered, reader.write(samples, how), strict=True)
        return [TextAnswer(n, s, answer=a, label=order.get(a)) for (n, s), a in found]
    if how != Writing():
        name = next(n for n, v in vars(how).items() if v != getattr(Writing(), n))
        raise ConfigError(f"{name}: this adapter chooses by a head and writes nothing")
    scored = zip(numbered, reader.scores(samples), strict=True)
    if use.kind == "regression":
        return [TextAnswer(n, s, value=row[0].item()) for (n, s), row in scored]
    return [TextAnswer(n, s, best(use.labels, row, top)) for (n, s), row in scored]
