"""What tuners and shared factors must cost, forward and backward, from their shapes.

A product costs as much again for each of its two gradients. Shape legend: N rows (all leading axes
flattened), I and O widths of a layer, D width, R rank or bottleneck width, P patches.
"""

from __future__ import annotations

from torch import nn

from ..edits import Bottleneck, ConvBypass, Factored
from ..errors import IncompatibleError
from ..methods.compacter import PhmBottleneck, PhmLinear
from ..methods.repadapter import GroupedBottleneck


def tuner_flops(tuner: nn.Module, rows: int, batch: int) -> int:
    """Return FLOPs of a tuner at one operation.

    Args:
        tuner: beside, behind or in front of the operation.
        rows: N.
        batch: sequences among which the rows are divided.

    Raises:
        IncompatibleError: no cost is written down for such a tuner.

    """
    if isinstance(tuner, Bottleneck | GroupedBottleneck):
        return 6 * rows * (tuner.down_weight.numel() + tuner.up_weight.numel())
    if isinstance(tuner, ConvBypass):  # nine taps for a patch, one for any other token
        patches = batch * tuner.grid[0] * tuner.grid[1]
        maps = 6 * rows * (tuner.down_weight.numel() + tuner.up_weight.numel())
        return maps + 6 * len(tuner.kernel) ** 2 * (9 * patches + rows - patches)
    if isinstance(tuner, PhmBottleneck):
        return _phm_flops(tuner.down, rows) + _phm_flops(tuner.up, rows)
    raise IncompatibleError(f"no cost is written down for {type(tuner).__name__}")


def _phm_flops(layer: PhmLinear, rows: int) -> int:
    """Return the cost of making W (each of its I O numbers sums n products) and of using it."""
    n = layer.rule.division
    numbers = layer.left.numel() * layer.right.numel()
    return 6 * rows * numbers + 6 * n * numbers


def factored_flops(edit: Factored, rows: int) -> int:
    """Return FLOPs of U, the cores and V, and of mixing the slices of the cube."""
    rank, total = edit.factors.rank, 0
    for site in edit.sites:
        out_tiles, in_tiles = edit.factors.tiles(site)
        cores = out_tiles * in_tiles * rank * rank
        total += 6 * rows * (rank * (site.in_features + site.out_features) + cores)
        if edit.factors.cube is not None:
            total += 6 * cores * rank
    return total
