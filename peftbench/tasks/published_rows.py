"""Rows of published text tasks: labels checked, texts made, templates filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import CorruptAssetError
from .cut import Ints
from .text import Kind, Passages
from .text_forms import FORMS, Made, decimal, fifth, per_answer
from .text_parts import Template
from .text_tables import TextRow
from .wording import Wording

Sample = tuple[int, Any, Made]
"""Id, label (class, value, or None) and texts."""


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a table.

    Attributes:
        row: the task.
        name: of the split.
        data: ``datasets.Dataset``.
        usable: rows that have a label, (N,).
        labels: of all rows; None where the task asks for answers.
        first: id of the first row.
        expanded: rows of texts that are already made, with their ids; None: made when taken.

    """

    row: TextRow
    name: str
    data: Any
    usable: Ints
    labels: Sequence[Any] | None
    first: int
    expanded: list[tuple[int, Made]] | None = None

    def __len__(self) -> int:
        return len(self.usable) if self.expanded is None else len(self.expanded)

    def labels_of(self, rows: Ints) -> Any:
        """Return the labels of some samples; zeros where the task asks for answers."""
        if self.labels is None:
            return np.zeros(len(rows), np.int64)
        return np.array([self.labels[self.usable[i]] for i in rows])

    def take(self, rows: Ints) -> Iterator[Sample]:
        """Yield some samples with their texts.

        Raises:
            CorruptAssetError: a column is missing.

        """
        if self.expanded is not None:
            for i in rows:
                number, made = self.expanded[i]
                yield number, None, made
            return
        for raw, made in zip(self.usable[rows], self.made(self.usable[rows]), strict=True):
            label = None if self.labels is None else self.labels[raw]
            yield self.first + int(raw), label, made

    def made(self, raw: Ints) -> Iterator[Made]:
        """Yield the texts of some rows of the table."""
        for start in range(0, len(raw), 1000):
            chunk = self.data.select(raw[start : start + 1000].tolist())[:]
            for cells in zip(*chunk.values(), strict=True):
                try:
                    found = self.row.make(dict(zip(chunk, cells, strict=True)))
                except KeyError as error:
                    raise _absent(self.row, self.name, str(error.args[0]), self.data) from error
                for made in found:
                    if lacking := self.row.columns - made.keys():
                        raise _absent(self.row, self.name, min(lacking), self.data)
                    yield self._whole(made)

    def _whole(self, made: Made) -> Made:
        empty = [column for column in self.row.columns if made[column] is None]
        if empty:
            raise CorruptAssetError(
                f"task '{self.row.name}': a row of '{self.name}' has nothing in the column "
                f"'{min(empty)}'; where the whole column is absent in one split only, it is read so"
            )
        return made


def parts_of(row: TextRow, kind: Kind, tables: Mapping[str, Any]) -> dict[str, Part]:
    """Return the splits of a table that a task can use.

    Raises:
        CorruptAssetError: a split or a column is missing, or a label is none of the task's.

    """
    parts: dict[str, Part] = {}
    first = 0
    for name in dict.fromkeys((*row.counts, *row.tested)):
        if name not in tables:
            raise CorruptAssetError(
                f"task '{row.name}': the split '{name}' is missing; there are {sorted(tables)}"
            )
        data = tables[name]
        labels = None if kind == "answers" else _labels(row, kind, name, data)
        usable = np.arange(len(data))
        if labels is not None:
            usable = np.array([i for i, label in enumerate(labels) if label is not None], np.int64)
        part = Part(row, name, data, usable, labels, first)
        if row.expand and name == "train":
            rows = [made for found in part.made(usable) for made in per_answer(found)]
            part = Part(row, name, data, usable, None, first, list(enumerate(rows, first)))
        parts[name] = part
        first += max(len(data), len(part))
    return parts


def _absent(row: TextRow, split: str, column: str, data: Any) -> CorruptAssetError:
    return CorruptAssetError(
        f"task '{row.name}': the split '{split}' has no column '{column}'; it has "
        f"{', '.join(data.column_names)}"
    )


def _labels(row: TextRow, kind: Kind, split: str, data: Any) -> list[Any]:
    """Return classes or values; None where a row has none (-1, empty)."""
    if row.label not in data.column_names:
        raise _absent(row, split, row.label, data)
    column = data[row.label][:]
    if kind == "regression":
        values = [None if v is None or v < 0 else float(v) for v in column]
        return _some(row, split, values)
    names = row.values or row.words
    order = {name: i for i, name in enumerate(names)}
    found: list[Any] = []
    for i, value in enumerate(column):
        label = order.get(value, value) if isinstance(value, str) else value
        if value is None or label in (-1, "", "-"):
            found.append(None)
        elif isinstance(label, str) or not 0 <= int(label) < len(names):
            raise CorruptAssetError(
                f"task '{row.name}': row {i} of '{split}' has the label {value!r}; the classes are "
                f"0 to {len(names) - 1} ({', '.join(names)})"
            )
        else:
            found.append(int(label))
    return _some(row, split, found)


def _some(row: TextRow, split: str, labels: list[Any]) -> list[Any]:
    if all(label is None for label in labels):
        raise CorruptAssetError(f"task '{row.name}': no row of the split '{split}' has a label")
    return labels


def render(
    row: TextRow, kind: Kind, words: Sequence[str], template: Template, samples: Sequence[Sample]
) -> Passages:
    """Return a split in words.

    Args:
        row: the task.
        kind: what is asked for.
        words: what stands for each class.
        template: family of templates.
        samples: of the split.

    """
    made = [texts for _, _, texts in samples]
    wording = wording_of(row, kind, template)
    labels = [label for _, label, _ in samples]
    references: Sequence[tuple[str, ...]] = ()
    if kind == "classification":
        targets = [words[label] for label in labels]
        numbers = torch.tensor(labels, dtype=torch.int64)
    elif kind == "regression":
        number = fifth if template == "t5" else decimal
        targets = [number(label) for label in labels]
        numbers = torch.tensor(labels, dtype=torch.float32)
    else:
        targets = [texts["answers"][0] for texts in made]
        references = [tuple(texts["answers"]) for texts in made]
        numbers = torch.full((len(made),), -1, dtype=torch.int64)
    return Passages(
        torch.tensor([i for i, _, _ in samples], dtype=torch.int64),
        [wording.parts(texts) for texts in made] if wording.segments else (),
        [wording.read(texts) for texts in made],
        targets,
        numbers,
        references,
        [texts["group"] for texts in made] if made and "group" in made[0] else (),
    )


def wording_of(row: TextRow, kind: Kind, template: Template) -> Wording:
    """Return how a sample of a task is put before a network.

    Args:
        row: the task.
        kind: what is asked for.
        template: family of templates.

    """
    source = row.t5 if template == "t5" and row.t5 is not None else row.source
    if kind != row.kind:  # ATTEMPT's WinoGrande names option 1 twice, and so does this
        source = (source[0], ("option0", "option1"), ("option1", "option1"))
    segments = row.segments if kind != "answers" else ()
    with_name = {"all": True, "none": False, "t5": template == "t5"}[row.prefixed]
    form = row.make.__name__
    columns = dict.fromkeys((*(column for _, column in source), *segments))
    fields = FORMS[form][1] or tuple(columns)
    return Wording(fields, (), form, source, row.task if with_name else "", segments)
