"""Edits that put learned tokens into the sequence and take them out again.

Tokens enter right after the embedding and leave after the last norm, so pooling, heads and losses
see the sequence they know. Attention masks grow with the sequence.
Shape legend: B batch, T tokens, M inserted tokens, L blocks, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError, IncompatibleError
from . import noise
from .base import Delta, Edit
from .sites import Handles, SequenceSite, cast, seeded


class Tokens(Edit):
    """M learned tokens behind the class and register tokens (or at the end), without position.

    Shallow (``deep=False``): inserted once. Deep: the slots are overwritten with their own tokens
    at the input of every block (VPT-deep). Several edits may insert into one sequence: the one
    attached last stands nearest to the class token, and no edit touches another's slots.

    Where a stack goes on with a key-value cache, the cache holds the tokens: masks and positions
    count them, and nothing is inserted, overwritten or taken out any more.

    Args:
        name: unique name.
        site: the sequence.
        count: M.
        start: tokens start uniform in [-start, start], or at these numbers, (1 or blocks, M, D).
        deep: one set of tokens per block.
        dropout: element-wise dropout on the tokens as they are inserted, per sample.
        place: ``front`` (behind the prefix tokens) or ``end``.
        readout: name under which the mean of the M outputs is handed out (``delta.taps``).
        readout_in_eval: hand it out in eval mode too.
        stay: where other stacks read the sequence, leave the tokens in it for them to see.

    """

    identity = False

    def __init__(
        self,
        name: str,
        site: SequenceSite,
        count: int,
        start: float | Tensor,
        deep: bool = False,
        dropout: float = 0.0,
        place: Literal["front", "end"] = "front",
        readout: str | None = None,
        readout_in_eval: bool = False,
        stay: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(name)
        self.site, self.count, self.deep, self.dropout = site, count, deep, dropout
        self.place, self.readout, self.readout_in_eval = place, readout, readout_in_eval
        self.caches = place == "front"
        self.stay = stay and bool(site.readers)
        shape = (len(site.block_inputs) if deep else 1, count, site.width)
        if not isinstance(start, Tensor):
            start = (2 * torch.rand(shape, generator=seeded(generator)) - 1) * start
        elif start.shape != shape:
            raise ConfigError(f"'{name}' starts at {tuple(start.shape)} numbers, not {shape}")
        self.tokens = nn.Parameter(start)
        self.offset, self.behind, self.kept = site.prefix_tokens, 0, site.prefix_tokens
        self.held, self.new, self.last = 0, 0, True

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the sequence where it enters and leaves, its masks, and each block if deep."""
        later = self._later(delta)
        front = [e for e in later if e.place == "front"]
        self.offset = self.site.prefix_tokens + sum(e.count for e in front)
        self.kept = self.site.prefix_tokens + sum(e.count for e in front if e.stay)
        self.behind = sum(e.count for e in later if e.place == "end")
        self.last = not later
        if self.site.embed is not None:
            handles.add(self.site.embed.watch_cache(self._note))
            handles.add(self.site.embed.install())
        for mask in self.site.masks:
            handles.add(mask.edit(self._widen))
        if self.stay:
            for mask in self.site.readers:
                handles.add(mask.edit(self.grow))
        if self.site.positions is not None:
            handles.add(self.site.positions.edit(self._shift))
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

    def made(self, layer: int, like_BTD: Tensor) -> Tensor:
        """Return the tokens of a block as they are inserted, (B, M, D), dropout aside.

        Args:
            layer: the block, from 0.
            like_BTD: the sequence that they go into (block 0: without them).

        """
        return cast(self.tokens[layer], like_BTD).expand(like_BTD.shape[0], -1, -1)

    def slot(self, length: int) -> int:
        """Return the first slot of these tokens while those of later edits are in the sequence."""
        return self.offset if self.place == "front" else length - self.count - self.behind

    def _later(self, delta: Delta) -> list[Tokens]:
        """Return the edits that insert into this sequence after this one, and leave after it."""
        edits = list(delta)
        later = edits[edits.index(self) + 1 :]
        return [e for e in later if isinstance(e, Tokens) and e.site.name == self.site.name]

    def _note(self, held: int, new: int) -> None:
        """Remember whether a key-value cache holds the tokens already."""
        if held and self.place == "end":
            raise IncompatibleError(
                f"'{self.name}' puts tokens at the end of a sequence that goes on with a key-value "
                "cache, which holds no place for them: generate with use_cache=False"
            )
        self.held, self.new = held, new

    def _inserted(self, layer: int, like_BTD: Tensor) -> Tensor:
        tokens_BMD = self.made(layer, like_BTD)
        return noise.dropout(tokens_BMD, self.dropout, self.training, f"{self.name}/{layer}")

    def _at(self, length: int) -> int:
        return self.site.prefix_tokens if self.place == "front" else length

    def _insert(self, x_BTD: Tensor) -> Tensor:
        if self.held:
            return x_BTD
        at = self._at(x_BTD.shape[1])
        return torch.cat([x_BTD[:, :at], self._inserted(0, x_BTD), x_BTD[:, at:]], dim=1)

    def grow(self, mask: Tensor) -> Tensor:
        """Return a mask over the sequence, widened by these tokens."""
        if mask.dim() != 2:
            raise IncompatibleError(
                f"tokens are inserted into '{self.site.name}', which needs an attention mask of "
                f"shape (batch, tokens); got {tuple(mask.shape)} (texts packed into rows have one "
                "per pair of tokens: trainer.packing=null)"
            )
        at = self._at(mask.shape[1])
        return torch.cat([mask[:, :at], mask.new_ones(mask.shape[0], self.count), mask[:, at:]], 1)

    def _widen(self, mask: Tensor) -> Tensor:
        mask = self.grow(mask)
        if self.held and self.last and mask.shape[1] != self.held + self.new:
            raise IncompatibleError(
                f"the key-value cache of '{self.site.name}' holds {self.held} tokens where the "
                f"attention mask and learned tokens make {mask.shape[1] - self.new}: it was filled "
                "without them, or cut; start from an empty cache"
            )
        return mask

    def _shift(self, position_ids: Tensor) -> Tensor:
        if self.held:
            return position_ids + self.count
        new = torch.arange(self.count, device=position_ids.device).to(position_ids.dtype)
        if self.place == "front":
            shifted = position_ids + self.count
            return torch.cat([new.expand(position_ids.shape[0], -1), shifted], 1)
        return torch.cat([position_ids, position_ids[:, -1:] + 1 + new], 1)

    def _overwriter(self, layer: int):  # type: ignore[no-untyped-def]
        def overwrite(x_BTD: Tensor) -> Tensor:
            if self.held:
                return x_BTD
            start = self.slot(x_BTD.shape[1])
            new_BMD = self._inserted(layer, x_BTD)
            rest_BTD = x_BTD[:, start + self.count :]
            return torch.cat([x_BTD[:, :start], new_BMD, rest_BTD], dim=1)

        return overwrite

    def _remove(self, x_BTD: Tensor, delta: Delta) -> Tensor:
        if self.held:
            return x_BTD
        at = self.slot(x_BTD.shape[1])
        if self.readout is not None and (self.training or self.readout_in_eval):
            delta.taps[self.readout] = x_BTD[:, at : at + self.count].mean(1)
        if self.stay:
            return x_BTD
        return torch.cat([x_BTD[:, :at], x_BTD[:, at + self.count :]], dim=1)
