"""What mixtures of experts and prompts of other tasks must cost, forward and backward.

Shape legend: B batch, N rows (B times tokens), K experts or prompts, R rank, I and O widths of a
layer, M tokens of a prompt, D width.
"""

from __future__ import annotations

from ..edits import CorrelatedTokens, Gate, Mixture, Tokens
from ..methods.attempt import AttendedTokens
from .cost_tuners import tuner_flops


def mixture_flops(edit: Mixture, rows: int, batch: int) -> int:
    """Return FLOPs of a mixture.

    Frozen maps cost two products forward and two to their inputs. The loss term adds <U^T z, h> and
    |U h| for every expert.

    Args:
        edit: the mixture.
        rows: N.
        batch: B.

    """
    experts = edit.experts
    total = 4 * rows * (experts.down.numel() + experts.up.numel())
    if edit.share:
        total += 4 * rows * (experts.up.numel() + experts.gram.numel())
    if isinstance(edit.gate, Gate):
        total += 6 * batch * edit.gate.weight.numel()
    return total + (0 if edit.tuner is None else tuner_flops(edit.tuner, rows, batch))


def made_flops(edit: Tokens, batch: int) -> int:
    """Return FLOPs of making a prompt out of others.

    Args:
        edit: the prompt.
        batch: B.

    """
    if isinstance(edit, CorrelatedTokens):  # P P_i^T and its softmax times P_i; P alone trains
        others = (getattr(edit, f"other{i}").numel() for i in range(edit.number))
        return 8 * edit.count * sum(others)
    if isinstance(edit, AttendedTokens):
        net, prompts = edit.attention, len(edit.others) + 1
        maps = 4 * net.down.numel() + 6 * net.up.numel()  # the text itself takes no gradient
        return batch * (maps + 6 * prompts * edit.site.width * (1 + edit.count))
    return 0
