"""Edits that put learned tokens into the sequence and take them out again.

Tokens enter right after the embedding and leave after the last norm, so pooling, heads and losses
see the sequence they know. Attention masks grow with the sequence.
Shape legend: B batch, T tokens, M inserted tokens, L blocks, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import IncompatibleError
from . import noise
from .base import Delta, Edit
from .sites import Handles, SequenceSite, cast, seeded


class Tokens(Edit):
    """M learned tokens behind the class and register tokens (or at the end), without position.

    Shallow (``deep=False``): inserted once. Deep: the slots are overwritten with their own tokens
    at the input of every block (VPT-deep). Several edits may insert into one sequence: the one
    attached last stands nearest to the class token, and no edit touches another's slots.

    Args:
        name: unique name.
        site: the sequence.
        count: M.
        bound: tokens start uniform in [-bound, bound].
        deep: one set of tokens per block.
        dropout: element-wise dropout on the tokens as they are inserted, per sample.
        place: ``front`` (behind the prefix tokens) or ``end``.
        readout: name under which the mean of the M outputs is handed out (``delta.taps``).
        readout_in_eval: hand it out in eval mode too.

    """

    identity = False

    def __init__(
        self,
        name: str,
        site: SequenceSite,
        count: int,
        bound: float,
        deep: bool = False,
        dropout: float = 0.0,
        place: Literal["front", "end"] = "front",
        readout: str | None = None,
        readout_in_eval: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(name)
        self.site, self.count, self.deep, self.dropout = site, count, deep, dropout
        self.place, self.readout, self.readout_in_eval = place, readout, readout_in_eval
        shape = (len(site.block_inputs) if deep else 1, count, site.width)
        start = (2 * torch.rand(shape, generator=seeded(generator)) - 1) * bound
        self.tokens = nn.Parameter(start)
        self.offset, self.behind = site.prefix_tokens, 0

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the sequence where it enters and leaves, its masks, and each block if deep."""
        later = self._later(delta)
        nearer = sum(e.count for e in later if e.place == "front")
        self.offset = self.site.prefix_tokens + nearer
        self.behind = sum(e.count for e in later if e.place == "end")
        for mask in self.site.masks:
            handles.add(mask.edit(self._widen))
        if self.site.positions is not None:
            handles.add(self.site.positions.edit(self._shift))
        if self.site.embed is not None:
            handles.add(self.site.embed.install())
        handles.add(self.site.enter.edit(self._insert))
        if self.deep:
            for i, ref in enumerate(self.site.block_inputs[1:], start=1):
                handles.add(ref.edit(self._overwriter(i)))

        def leave(x_BTD: Tensor) -> Tensor:
            return self._remove(x_BTD, delta)

        handles.add(self.site.leave.edit(leave))

    def passes(self, block: nn.Module) -> bool:
        """Whether the tokens are in the sequence that passes a block."""
        return any(ref.module is block for ref in self.site.block_inputs)

    def _later(self, delta: Delta) -> list[Tokens]:
        """Return the edits that insert into this sequence after this one, and leave after it."""
        edits = list(delta)
        later = edits[edits.index(self) + 1 :]
        return [e for e in later if isinstance(e, Tokens) and e.site.name == self.site.name]

    def _expand(self, layer: int, like_BTD: Tensor) -> Tensor:
        tokens_BMD = cast(self.tokens[layer], like_BTD).expand(like_BTD.shape[0], -1, -1)
        return noise.dropout(tokens_BMD, self.dropout, self.training, f"{self.name}/{layer}")

    def _at(self, length: int) -> int:
        return self.site.prefix_tokens if self.place == "front" else length

    def slot(self, length: int) -> int:
        """Return the first slot of these tokens while those of later edits are in the sequence."""
        return self.offset if self.place == "front" else length - self.count - self.behind

    def _insert(self, x_BTD: Tensor) -> Tensor:
        at = self._at(x_BTD.shape[1])
        return torch.cat([x_BTD[:, :at], self._expand(0, x_BTD), x_BTD[:, at:]], dim=1)

    def _widen(self, mask: Tensor) -> Tensor:
        if mask.dim() != 2:
            raise IncompatibleError(
                f"tokens are inserted into '{self.site.name}', which needs an attention mask of "
                f"shape (batch, tokens); got {tuple(mask.shape)}"
            )
        at = self._at(mask.shape[1])
        return torch.cat([mask[:, :at], mask.new_ones(mask.shape[0], self.count), mask[:, at:]], 1)

    def _shift(self, position_ids: Tensor) -> Tensor:
        new = torch.arange(self.count, device=position_ids.device).to(position_ids.dtype)
        if self.place == "front":
            shifted = position_ids + self.count
            return torch.cat([new.expand(position_ids.shape[0], -1), shifted], 1)
        return torch.cat([position_ids, position_ids[:, -1:] + 1 + new], 1)

    def _overwriter(self, layer: int):  # type: ignore[no-untyped-def]
        def overwrite(x_BTD: Tensor) -> Tensor:
            start = self.slot(x_BTD.shape[1])
            new_BMD = self._expand(layer, x_BTD)
            rest_BTD = x_BTD[:, start + self.count :]
            return torch.cat([x_BTD[:, :start], new_BMD, rest_BTD], dim=1)

        return overwrite

    def _remove(self, x_BTD: Tensor, delta: Delta) -> Tensor:
        at = self.slot(x_BTD.shape[1])
        if self.readout is not None and (self.training or self.readout_in_eval):
            delta.taps[self.readout] = x_BTD[:, at : at + self.count].mean(1)
        return torch.cat([x_BTD[:, :at], x_BTD[:, at + self.count :]], dim=1)
