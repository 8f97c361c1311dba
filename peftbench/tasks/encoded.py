"""Texts as token ids that are padded when a batch is taken; N samples in a split, B in a batch.

Targets are aligned with logits: position t of ``labels`` is the token that the logits at t shall
predict, and -100 where nothing is to be learned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Ragged:
    """N sequences of different lengths, one behind the other.

    Attributes:
        flat: all ids, int32.
        ends: (N + 1,) int64, where each sequence ends; ``ends[0]`` is 0.

    """

    flat: Tensor
    ends: Tensor

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> Ragged:
        """Pack lists of ids."""
        lengths = torch.tensor([0, *(len(row) for row in rows)], dtype=torch.long)
        flat = torch.tensor([i for row in rows for i in row], dtype=torch.int32)
        return Ragged(flat, lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.ends) - 1

    @cached_property
    def lengths(self) -> Tensor:
        """(N,) int64."""
        return self.ends.diff()

    def row(self, index: int) -> Tensor:
        """Return one sequence, int64."""
        return self.flat[self.ends[index] : self.ends[index + 1]].long()

    def padded(
        self, rows: Tensor, fill: int, side: Literal["left", "right"] = "right"
    ) -> tuple[Tensor, Tensor]:
        """Return (B, T) ids and (B, T) mask (int64, 1 = token) of some rows, filled up with fill.

        Args:
            rows: (B,) positions.
            fill: id of what is not there.
            side: where it stands.

        """
        lengths_B1 = self.lengths[rows][:, None]
        longest = max(1, int(lengths_B1.max())) if len(rows) else 1
        place_BT = torch.arange(longest)[None].expand(len(rows), -1)
        if side == "left":
            place_BT = place_BT - (longest - lengths_B1)
        mask_BT = (place_BT >= 0) & (place_BT < lengths_B1)
        at_BT = (self.ends[rows][:, None] + place_BT).clamp(0, max(len(self.flat) - 1, 0))
        ids_BT = self.flat[at_BT].long() if len(self.flat) else torch.zeros_like(place_BT)
        return torch.where(mask_BT, ids_BT, fill), mask_BT.long()


def join(first: Ragged, second: Ragged) -> Ragged:
    """Return the sequences of one collection behind those of another."""
    ends = torch.cat([first.ends, second.ends[1:] + first.ends[-1]])
    return Ragged(torch.cat([first.flat, second.flat]), ends)


@dataclass(frozen=True, eq=False)
class Encoded(ABC):
    """N samples as ids; small enough to lie in memory."""

    @abstractmethod
    def __len__(self) -> int:
        """Return N."""

    @property
    @abstractmethod
    def lengths(self) -> Tensor:
        """(N,) int64: what a sample costs, in tokens."""

    @property
    def weights(self) -> Tensor | None:
        """(N,) int64: what a sample counts in the mean loss; None: all alike."""
        return None

    @abstractmethod
    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what the network takes of some rows, and token targets where there are any."""

    @abstractmethod
    def joined(self, other: Encoded) -> Encoded:
        """Return these samples with another collection's behind them."""

    def prompts(self, rows: Tensor) -> dict[str, Tensor]:
        """Return what the network goes on from when it writes."""
        raise TypeError(f"{type(self).__name__} is not written")


@dataclass(frozen=True, eq=False)
class Segments(Encoded):
    """What an encoder reads.

    Attributes:
        text: ids with special tokens.
        types: segment ids of the same lengths, where the network has them.
        pad: id of padding.

    """

    text: Ragged
    types: Ragged | None
    pad: int

    def __len__(self) -> int:
        return len(self.text)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sample."""
        return self.text.lengths

    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], None]:
        """Return ids, mask and segment ids, filled up on the right."""
        ids_BT, mask_BT = self.text.padded(rows, self.pad)
        found = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if self.types is not None:
            found["token_type_ids"] = self.types.padded(rows, 0)[0]
        return found, None

    def joined(self, other: Encoded) -> Segments:
        """Return these samples with others behind them."""
        assert isinstance(other, Segments)
        types = None
        if self.types is not None and other.types is not None:
            types = join(self.types, other.types)
        return Segments(join(self.text, other.text), types, self.pad)


@dataclass(frozen=True, eq=False)
class Transduced(Encoded):
    """What an encoder-decoder reads and writes.

    Attributes:
        source: ids that are read.
        target: ids that are written, end token included.
        pad: id of padding.
        start: id that the decoder starts from.

    """

    source: Ragged
    target: Ragged
    pad: int
    start: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def lengths(self) -> Tensor:
        """Tokens of source and target."""
        return self.source.lengths + self.target.lengths

    @property
    def weights(self) -> Tensor:
        """Tokens of each target."""
        return self.target.lengths

    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return sources and shifted targets, and the targets."""
        target_BT, mask_BT = self.target.padded(rows, self.pad)
        start_B1 = torch.full((len(rows), 1), self.start)
        inputs = self.prompts(rows)
        inputs["decoder_input_ids"] = torch.cat([start_B1, target_BT[:, :-1]], dim=1)
        inputs["decoder_attention_mask"] = mask_BT
        return inputs, target_BT.masked_fill(mask_BT == 0, IGNORED)

    def prompts(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the sources, filled up on the right."""
        ids_BT, mask_BT = self.source.padded(rows, self.pad)
        return {"input_ids": ids_BT, "attention_mask": mask_BT}

    def joined(self, other: Encoded) -> Transduced:
        """Return these samples with others behind them."""
        assert isinstance(other, Transduced)
        source, target = join(self.source, other.source), join(self.target, other.target)
        return Transduced(source, target, self.pad, self.start)


@dataclass(frozen=True, eq=False)
class Continued(Encoded):
    """What a decoder goes on from and how; filled up on the left, so that all end together.

    Attributes:
        prompt: ids that are read.
        response: ids that are written, end token included.
        pad: id of padding.

    """

    prompt: Ragged
    response: Ragged
    pad: int

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def lengths(self) -> Tensor:
        """Tokens of prompt and response."""
        return self.prompt.lengths + self.response.lengths

    @property
    def weights(self) -> Tensor:
        """Tokens of each response."""
        return self.response.lengths

    @cached_property
    def _whole(self) -> Ragged:
        parts = zip(
            self.prompt.flat.split(self.prompt.lengths.tolist()),
            self.response.flat.split(self.response.lengths.tolist()),
            strict=True,
        )
        flat = [part for pair in parts for part in pair]
        ends = torch.cat([torch.zeros(1, dtype=torch.long), self.lengths.cumsum(0)])
        return Ragged(torch.cat(flat) if flat else self.prompt.flat, ends)

    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return prompts with responses but the last token, and targets of the last R places.

        ``keep`` (B, R), the same in every row, names the places whose logits are wanted.
        """
        ids_BT, mask_BT = self._whole.padded(rows, self.pad, "left")
        ids_BT, mask_BT = ids_BT[:, :-1], mask_BT[:, :-1]
        target_BR, there_BR = self.response.padded(rows, self.pad, "left")
        length, kept = ids_BT.shape[1], target_BR.shape[1]
        inputs = positioned(ids_BT, mask_BT)
        inputs["keep"] = torch.arange(length - kept, length).expand(len(rows), -1)
        return inputs, target_BR.masked_fill(there_BR == 0, IGNORED)

    def prompts(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the prompts, filled up on the left."""
        return positioned(*self.prompt.padded(rows, self.pad, "left"))

    def joined(self, other: Encoded) -> Continued:
        """Return these samples with others behind them."""
        assert isinstance(other, Continued)
        prompt, response = join(self.prompt, other.prompt), join(self.response, other.response)
        return Continued(prompt, response, self.pad)


def positioned(ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    """Return ids and mask with positions that count real tokens from 0."""
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": positions_BT}
