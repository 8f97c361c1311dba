"""What a side network beside the frozen one must cost (LST, arXiv 2206.06522).

Nothing goes back into the frozen network, so a map that reads it makes two products (forward, and
the gradient of its weight), every other map three, and an attention two and four.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..edits.side import Ladder, Rung, SideAttention, SideStack


def side_flops(edit: Ladder, sequences: Mapping[str, tuple[int, int]]) -> int:
    """Return FLOPs of a side network, forward and backward.

    Args:
        edit: the side network.
        sequences: stack -> (batch, tokens).

    """
    total, memory, tokens = 0, 0, 0
    for name, stack in edit.sides.items():
        assert isinstance(stack, SideStack)
        batch, tokens = sequences[name]
        total += 4 * batch * tokens * stack.first.weight.numel()
        for rung in stack.rungs.values():
            assert isinstance(rung, Rung)
            block = rung.block
            maps = [m for m in (block.up, block.gate, block.down) if m is not None]
            total += 4 * batch * tokens * rung.down.weight.numel()
            total += sum(6 * batch * tokens * m.weight.numel() for m in maps)
            total += _attention(block.attn, batch, tokens, tokens)
            if block.attn.shape.cross:
                total += _attention(block.cross, batch, tokens, memory)
        memory = tokens
    return total + 6 * batch * tokens * edit.up.weight.numel()


def _attention(side: SideAttention, batch: int, tokens: int, keys: int) -> int:
    near = side.q.weight.numel() + side.o.weight.numel()
    maps = 6 * batch * (tokens * near + keys * side.kv.weight.numel())
    return maps + 12 * batch * tokens * keys * side.shape.heads * side.shape.head
