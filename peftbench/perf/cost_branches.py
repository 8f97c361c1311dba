"""What a branch of attention beside a frozen operation must cost (U-Tuning, arXiv 2303.00690).

Shape legend: N rows (all leading axes flattened), L learned rows, D width, F = heads times width of
a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backbones import Anatomy
from ..edits import Edit, OpEdit, OpSite
from ..edits.tuners import Branch, PromptRows, QueryTuner

ORDER = {"attn": 0, "cross_attn": 1, "mlp": 2, "block": 3}


def branch_flops(branch: Branch, rows: int, own_queries: bool, trained_below: bool) -> int:
    """Return FLOPs of a branch, forward and backward.

    Scores and mixture are two products forward and four backward (one less where no gradient goes
    to the queries); W_o and, if the branch makes its own queries, W_q pass gradients through. A
    prompt sends its L rows through W_k and W_v as well.

    Args:
        branch: the branch.
        rows: N.
        own_queries: whether the branch computes its queries itself.
        trained_below: whether gradients go on into the stream that enters the operation.
    """
    out, query = branch.frozen.linears["o"].module, branch.frozen.linears["q"]
    width = out.in_features
    length = _length(branch)
    products = (12 if trained_below else 10) * rows * length * width
    total = products + 4 * rows * width * out.out_features
    if own_queries:
        total += (4 if trained_below else 2) * rows * query.in_features * query.out_features
    if isinstance(branch.rows, PromptRows):
        for role in ("k", "v"):
            site = branch.frozen.linears[role]
            total += 4 * length * site.in_features * site.out_features
    return total


def _length(branch: Branch) -> int:
    rows = branch.rows
    return len(rows.prompt if isinstance(rows, PromptRows) else rows.key)


def below(site: OpSite, anatomy: Anatomy, edits: Sequence[Edit]) -> bool:
    """Whether another edit adds to the stream before it enters the operation of ``site``."""
    enters = _place(site, anatomy, reading=True)
    for edit in edits:
        sites = edit.sites if isinstance(edit, OpEdit) else ()
        if isinstance(edit, QueryTuner):
            sites = (edit.site,)
        if any(_place(s, anatomy, reading=False) < enters for s in sites):
            return True
    return False


def _place(site: OpSite, anatomy: Anatomy, reading: bool) -> tuple[int, int, int]:
    """Return (stack, block, operation) in the order of the forward pass."""
    for number, stack in enumerate(anatomy.stacks):
        for block in stack.blocks:
            if any(own.name == site.name for own in block.ops.values()):
                order = 0 if reading and site.kind == "block" else ORDER[site.kind]
                return number, block.index, order
    raise KeyError(site.name)
