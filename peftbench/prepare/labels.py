"""Labels of the structured tasks, which are derived from other annotations.

Source: the data classes ``clevr``, ``kitti``, ``dsprites`` and ``smallnorb`` of VTAB's code. They
look for the last edge that is strictly below a value, so a bin holds its upper edge and not its
lower one: (lower, upper]. Distances are compared in float32, as they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import CorruptAssetError

CLEVR_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_EDGES = (-100.0, 8.0, 20.0, 999.0)
KITTI_VEHICLES = frozenset({"Car", "Van", "Truck"})
NO_VEHICLE = 1000.0
DSPRITES_X, DSPRITES_ANGLES, DSPRITES_CLASSES = 32, 40, 16


def last_edge_below(value: float, edges: Sequence[float]) -> int:
    """Return the index of the last of the rising ``edges`` that is strictly below ``value``.

    Raises:
        CorruptAssetError: no edge is below it.

    """
    below = np.flatnonzero(np.asarray(edges, np.float32) < np.float32(value))
    if not len(below):
        raise CorruptAssetError(f"a distance of {value} lies below the first bin's edge {edges[0]}")
    return int(below[-1])


def clevr_count(objects: int) -> int:
    """Return the class of a scene with 3 to 10 objects: 0 to 7."""
    return objects - 3


def clevr_dist(depths: Sequence[float]) -> int:
    """Return the class of the nearest object's distance, 0 to 5.

    Args:
        depths: third pixel coordinate of every object.

    """
    return last_edge_below(min(depths), CLEVR_EDGES)


def kitti_dist(types: Sequence[str], depths: Sequence[float]) -> int:
    """Return the class of the nearest vehicle's distance, 0 to 2, or 3 where there is none.

    Args:
        types: type of every object; cars, vans and trucks count.
        depths: its z location in metres.

    """
    vehicles = [z for kind, z in zip(types, depths, strict=True) if kind in KITTI_VEHICLES]
    return last_edge_below(min([*vehicles, NO_VEHICLE]), KITTI_EDGES)


def dsprites_loc(x: int) -> int:
    """Return the class of an x position 0..31: pairs, 0 to 15."""
    return int(x // (DSPRITES_X / DSPRITES_CLASSES))


def dsprites_ori(angle: int) -> int:
    """Return the class of an orientation 0..39: floor(angle / 2.5), 0 to 15."""
    return int(angle // (DSPRITES_ANGLES / DSPRITES_CLASSES))


def smallnorb_azi(azimuth: int) -> int:
    """Return the class of an azimuth, stored as 0, 2, .., 34 (tens of degrees): 0 to 17."""
    return int(azimuth) // 2


def smallnorb_ele(elevation: int) -> int:
    """Return the class of an elevation, stored as 0..8: itself."""
    return int(elevation)
