"""From a text task in words to ids for one network.

An encoder classifies segments with a head of its own. An encoder-decoder or a decoder reads the
source and writes the target with its language-model head; ``data.form=classification`` gives it a
classifier head in place of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, IncompatibleError
from .base import Task
from .batch import Split
from .encoded import Continued, Encoded, Ragged, Segments, Transduced
from .labelled import TextClasses, TextValues
from .text import Passages, Style, TextTask
from .written import Written

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..backbones.codec import Codec

ANSWER = "\nAnswer:"
"""What stands between a source and what a decoder writes, where the source is no prompt itself."""


LEAST_SOURCE = 6
"""Tokens that hold what every prompt has: special tokens, ``ANSWER``, and some of the text."""


class Asked(Protocol):
    """What has to be known of a task to turn its passages into ids."""

    @property
    def style(self) -> Style:
        """How a source is written."""

    @property
    def longest_source(self) -> int:
        """Limit in tokens of what is read."""

    @property
    def longest_target(self) -> int:
        """Limit in tokens of what is written."""


def bind(task: TextTask, backbone: Backbone) -> Task:
    """Return the task as the network reads it.

    Raises:
        IncompatibleError: the network has no tokenizer, or cannot do what the task asks for.
        ConfigError: a limit leaves no room for a text, or nothing to score.

    """
    codec = backbone.codec
    if codec is None:
        raise IncompatibleError(
            f"backbone '{backbone.name}' has no tokenizer, and a text needs one"
        )
    _check_limits(task)
    form = form_of(task, codec)
    splits = _splits(task.splits, encoder(task, form, backbone))
    if form == "text_to_text":
        return Written(task, codec, splits)
    make: Any = TextClasses if task.kind == "classification" else TextValues
    made: Task = make(task.name, task.labels, splits, task.manifest, task.metrics)
    return made


def _check_limits(task: TextTask) -> None:
    limits = {
        "longest_source": (LEAST_SOURCE, task.longest_source),
        "longest_target": (1, task.longest_target),
        "written": (1, task.written),
    }
    for name, (least, value) in limits.items():
        if value is not None and value < least:
            raise ConfigError(
                f"data.{name}: {value} must be at least {least}, or null for the usual one"
            )


def form_of(task: TextTask, codec: Codec) -> str:
    """Return whether the network classifies or writes.

    Raises:
        IncompatibleError: it cannot do what ``data.form`` says.

    """
    writes = codec.layout != "encoder"
    form = task.form if task.form != "auto" else "text_to_text" if writes else "classification"
    if form == "text_to_text" and not writes:
        raise IncompatibleError(
            "data.form: text_to_text needs a network that writes (T5, LLaMA), and this one reads"
        )
    if form == "classification" and task.kind == "answers":
        raise IncompatibleError(
            f"task '{task.name}' wants answers in words: it needs a network that writes (T5, LLaMA)"
        )
    return form


def encoder(task: Asked, form: str, backbone: Backbone) -> Callable[[Passages], Encoded]:
    """Return what turns passages into ids for a network.

    Args:
        task: says limits and style.
        form: ``classification`` or ``text_to_text``.
        backbone: with a codec.

    """
    codec = backbone.codec
    assert codec is not None
    if form == "text_to_text":
        return _transducing(task, backbone, codec)

    def text(part: Passages) -> Encoded:
        reads_pairs = codec.layout == "encoder" and len(part.segments) > 0
        texts = part.segments if reads_pairs else [(source,) for source in part.sources]
        ids, types = codec.segments(texts, task.longest_source)
        kinds = Ragged.of(types) if types is not None else None
        return Segments(Ragged.of(ids), kinds, codec.pad)

    return text


def _transducing(task: Asked, backbone: Backbone, codec: Codec) -> Callable[[Passages], Encoded]:
    if codec.layout == "seq2seq":
        start = int(backbone.model.config.decoder_start_token_id)  # type: ignore[union-attr, arg-type]

        def text(part: Passages) -> Encoded:
            sources = codec.ids(part.sources, special=True)
            targets = codec.ids(part.targets, special=True)
            return Transduced(
                Ragged.of([_cut(ids, task.longest_source) for ids in sources]),
                Ragged.of([_cut(ids, task.longest_target) for ids in targets]),
                codec.pad,
                start,
            )
    else:

        def text(part: Passages) -> Encoded:
            return continued(task, codec, part)

    return text


def continued(task: Asked, codec: Codec, part: Passages) -> Continued:
    """Return prompts and responses for a decoder.

    A source that is too long loses its last tokens, never what stands behind it; a prompt that is
    a template or a chat loses what stands in the middle.
    """
    prompts, targets = rendered(task, codec, part)
    special = task.style != "chat"  # a chat template brings its own
    before = codec.ids(prompts, special)
    whole = codec.ids([p + t for p, t in zip(prompts, targets, strict=True)], special)
    responses = []
    for row, (ids, full) in enumerate(zip(before, whole, strict=True)):
        own = full[len(ids) :] if full[: len(ids)] == ids else codec.ids([targets[row]])[0]
        responses.append([*own[: task.longest_target - 1], codec.end])
    limit = task.longest_source
    tail = len(codec.ids([ANSWER])[0]) if task.style == "plain" else limit // 2
    cut = [_shortened(ids, limit, tail) for ids in before]
    return Continued(Ragged.of(cut), Ragged.of(responses), codec.pad)


def rendered(task: Asked, codec: Codec, part: Passages) -> tuple[list[str], list[str]]:
    """Return prompts and what shall follow them, in words.

    Raises:
        IncompatibleError: a chat, and the tokenizer has no template for one.

    """
    if task.style == "chat":
        try:
            return [codec.chat(turns) for turns in part.messages], list(part.targets)
        except ValueError as error:
            raise IncompatibleError(
                f"data.template: this network's tokenizer has no chat template ({error}); "
                "data.template=alpaca needs none"
            ) from error
    if task.style == "alpaca":
        return list(part.sources), list(part.targets)
    return [source + ANSWER for source in part.sources], [f" {t}" for t in part.targets]


def _splits(parts: Mapping[str, Passages], text: Any) -> dict[str, Split]:
    return {
        name: Split(name, {"text": text(part)}, part.labels, part.ids)
        for name, part in parts.items()
    }


def _cut(ids: Sequence[int], longest: int) -> list[int]:
    """Cut a text that ends with an end token."""
    return list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def _shortened(ids: Sequence[int], longest: int, tail: int) -> list[int]:
    """Cut a prompt in front of its last ``tail`` tokens."""
    if len(ids) <= longest:
        return list(ids)
    return [*ids[: longest - tail], *ids[len(ids) - tail :]]
