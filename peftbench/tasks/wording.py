"""How one raw sample is put before a network, as in training; stored with an adapter.

A :class:`Wording` makes texts out of named fields. A :class:`TextUse` is all that an adapter has to
know of its task to be asked again: the wording, the limits, classes and words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError, nearest, unknown
from ..spec import check_fields
from .alpaca import instructions
from .text import Kind, Passages, Style, TextTask
from .text_forms import ABSENT, FORMS, Made
from .text_parts import filled

if TYPE_CHECKING:
    from ..backbones.codec import Codec


@dataclass(frozen=True)
class Wording:
    """How named fields become what is read.

    Attributes:
        fields: what a sample must have.
        optional: what it may have.
        form: one of ``text_forms.FORMS``, which makes columns of the fields.
        source: name in the text and column, for a network that writes.
        prefix: what stands in front of the source.
        segments: columns that a network reads which classifies pairs.

    """

    fields: tuple[str, ...]
    optional: tuple[str, ...] = ()
    form: str = "plain"
    source: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    segments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form of a sample", self.form, FORMS, "form")

    def read(self, made: Mapping[str, Any]) -> str:
        """Return the source of a sample's columns."""
        return filled([(name, made[column]) for name, column in self.source], self.prefix)

    def parts(self, made: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the segments of a sample's columns."""
        return tuple(made[column] for column in self.segments)

    def checked(self, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Return a sample that has every field; what it has beside them is left out.

        Args:
            given: fields and values.
            where: the sample, in words, for errors.

        Raises:
            ConfigError: a field is missing or no text, with the nearest of those given.

        """
        known = (*self.fields, *self.optional)
        for name in self.fields:
            if name not in given:
                close = nearest(name, [g for g in given if g not in known])
                hint = f" Is it '{close}'?" if close else ""
                raise ConfigError(
                    f"{where}there is no field '{name}'.{hint}\n  fields: {self.listed()}"
                )
        found = {name: given[name] for name in known if given.get(name) is not None}
        for name in self.fields:
            value = found.get(name)
            if isinstance(value, list) and all(isinstance(v, str) for v in value):
                found[name] = value = ", ".join(value)
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise ConfigError(f"{where}field '{name}': expected a text, got {value!r}")
            found[name] = str(value)
        return found

    def listed(self) -> str:
        """Return the fields in words."""
        return ", ".join([*self.fields, *(f"{name} (may be left out)" for name in self.optional)])

    def made(self, given: Mapping[str, Any], where: str = "") -> Made:
        """Return the columns of one sample out of its fields.

        Raises:
            ConfigError: a field is missing, or has a value that the form does not know.

        """
        sample = self.checked(given, where)
        try:
            (row,) = FORMS[self.form][0]({**ABSENT, **sample})
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{where}the fields are no sample of this task: {type(error).__name__}: {error}"
            ) from error
        return row


INSTRUCTION = Wording(("instruction",), ("input",))
"""Fields of an instruction; its style says how it is written."""


@dataclass(frozen=True)
class TextUse:
    """What an adapter knows of the text task that it was trained on.

    Attributes:
        name: of the task.
        kind: as in :class:`peftbench.tasks.text.TextTask`; so are all but these two.
        form: ``classification`` (a head) or ``text_to_text``: what the network was used for.
        style: how a source is written.
        labels: class names.
        words: what stands for each class when it is written.
        description: one sentence that says what is asked.
        longest_source: limit in tokens of what is read.
        longest_target: limit in tokens of what is written.
        wording: how a raw sample becomes texts.

    """

    name: str
    kind: Kind
    form: str
    style: Style
    labels: tuple[str, ...]
    words: tuple[str, ...]
    description: str
    longest_source: int
    longest_target: int
    wording: Wording

    @staticmethod
    def of(task: Any, codec: Codec | None) -> TextUse | None:
        """Return what to store of a task; None where it is no text or does not say its wording."""
        from .bind import form_of

        if not isinstance(task, TextTask) or task.wording is None or codec is None:
            return None
        names = ("name", "kind", "style", "labels", "words", "description")
        same = {name: getattr(task, name) for name in (*names, "longest_source", "longest_target")}
        return TextUse(form=form_of(task, codec), wording=task.wording, **same)

    @staticmethod
    def read(stored: Mapping[str, Any]) -> TextUse:
        """Return what :meth:`stored` wrote.

        Raises:
            ConfigError: it is something else.

        """
        return TextUse(**check_fields(TextUse, stored, "text"))

    def stored(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def passages(self, samples: Sequence[Mapping[str, Any]]) -> Passages:
        """Return some raw samples in words, as training saw them; targets are empty.

        Raises:
            ConfigError: a sample lacks a field; names the sample where there are several.

        """
        wheres = [f"sample {i + 1}: " if len(samples) > 1 else "" for i in range(len(samples))]
        each = list(zip(samples, wheres, strict=True))
        if self.style != "plain":
            found = [self.wording.checked(*one) for one in each]
            asked = [(s["instruction"], str(s.get("input", ""))) for s in found]
            return instructions(range(len(found)), asked, [[""]] * len(found), self.style)
        made = [self.wording.made(*one) for one in each]
        pieces = [self.wording.parts(row) for row in made] if self.wording.segments else []
        return Passages(
            torch.arange(len(made)),
            pieces,
            [self.wording.read(row) for row in made],
            [""] * len(made),
            torch.full((len(made),), -1),
        )
