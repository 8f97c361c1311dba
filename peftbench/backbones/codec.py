"""Text to token ids and back, for one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..errors import IncompatibleError

Layout = Literal["encoder", "seq2seq", "decoder"]


@dataclass(frozen=True, eq=False)
class Codec:
    """A tokenizer and how its network takes text.

    Attributes:
        tokenizer: of transformers.
        layout: ``encoder`` reads one or two segments, ``seq2seq`` reads a source and writes a
            target, ``decoder`` goes on with a text.
        positions: longest sequence that the network takes; None: no limit.

    """

    tokenizer: Any
    layout: Layout
    positions: int | None = None

    @cached_property
    def pad(self) -> int:
        """Id that fills up; where the tokenizer has none, its end token (masked in any case)."""
        own = self.tokenizer.pad_token_id
        return int(own if own is not None else self.end)

    @cached_property
    def end(self) -> int:
        """Id that ends a text.

        Raises:
            IncompatibleError: the tokenizer has none.

        """
        tokenizer = self.tokenizer
        own = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        if own is None:
            raise IncompatibleError(
                "backbone.model: the tokenizer names no token that ends a text; give it one: "
                "eos_token in tokenizer_config.json or special_tokens_map.json"
            )
        return int(own)

    @property
    def begin(self) -> int:
        """Id that a sequence begins with; where the tokenizer has none, its end token."""
        own = self.tokenizer.bos_token_id
        return int(own if own is not None else self.end)

    def segments(
        self, texts: Sequence[Sequence[str]], longest: int
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        """Return ids and segment ids (None where the network has none) of one or two texts each.

        Args:
            texts: one or two texts per sample, as many in every sample.
            longest: limit with special tokens; the longer text of a pair is cut first.

        """
        first = [t[0] for t in texts]
        second = [t[1] for t in texts] if texts and len(texts[0]) > 1 else None
        made = self.tokenizer(first, second, truncation=True, max_length=self._limit(longest))
        return made["input_ids"], made.get("token_type_ids")

    def ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Return the ids of every text, uncut.

        Args:
            texts: N texts.
            special: with what the tokenizer puts around a text (T5: the end token; LLaMA: the
                begin token).

        """
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=special, truncation=False, verbose=False
        )["input_ids"]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some ids without special tokens."""
        kept: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return kept

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """Return the text of some ids in parts, each with the number of ids that it stands for.

        A part is one id, or several where one alone is no whole character. Joined, the parts are
        :meth:`text`; ids at the end that add nothing to it are left out.
        """
        whole, parts = self.text(ids), list[tuple[str, int]]()
        done, first = 0, 0
        for last in range(1, len(ids) + 1):
            text = self.text(ids[:last])
            if len(text) > done and whole.startswith(text):
                parts.append((text[done:], last - first))
                done, first = len(text), last
        return parts

    def answer(self, ids: Sequence[int]) -> str:
        """Return what was written up to the end token, without space at the ends."""
        kept = list(ids)
        return self.text(kept[: kept.index(self.end)] if self.end in kept else kept).strip()

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return messages (``role``, ``content``) in the tokenizer's chat template, to be answered.

        Raises:
            ValueError: the tokenizer has no template.

        """
        made: str = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
        )
        return made

    def _limit(self, longest: int) -> int:
        return longest if self.positions is None else min(longest, self.positions)
