"""Derived labels at the edges of their bins."""

import numpy as np
import pytest

from peftbench.errors import CorruptAssetError
from peftbench.prepare import labels


@pytest.mark.parametrize(
    "nearest, label",
    [
        (0.001, 0),
        (7.999, 0),
        (8.0, 0),
        (8.001, 1),
        (8.5, 1),
        (8.501, 2),
        (9.0, 2),
        (9.001, 3),
        (9.5, 3),
        (9.501, 4),
        (10.0, 4),
        (10.001, 5),
        (100.0, 5),
    ],
)
def test_distances_in_clevr_hold_their_upper_edge(nearest: float, label: int) -> None:
    assert labels.clevr_dist([nearest + 1, nearest]) == label
    assert labels.clevr_dist([nearest]) == label


def test_distances_are_compared_as_they_are_stored() -> None:
    above = 8.0 + 1e-9  # in float32 that is 8
    assert above > 8.0
    assert labels.clevr_dist([above]) == 0
    assert labels.clevr_dist([float(np.nextafter(np.float32(8), np.float32(9)))]) == 1


def test_a_distance_below_all_bins_is_refused() -> None:
    with pytest.raises(CorruptAssetError, match="below the first bin's edge 0"):
        labels.clevr_dist([0.0])


@pytest.mark.parametrize("objects, label", [(3, 0), (4, 1), (10, 7)])
def test_objects_are_counted_from_three(objects: int, label: int) -> None:
    assert labels.clevr_count(objects) == label


@pytest.mark.parametrize(
    "types, depths, label",
    [
        (["Car"], [8.0], 0),
        (["Car"], [8.01], 1),
        (["Van"], [20.0], 1),
        (["Truck"], [20.01], 2),
        (["Car", "Truck"], [30.0, 5.0], 0),
        (["Car"], [-3.0], 0),
        (["Pedestrian", "Cyclist", "Tram", "Misc", "Person_sitting"], [1.0] * 5, 3),
        (["Pedestrian", "Van"], [1.0, 25.0], 2),
        ([], [], 3),
    ],
)
def test_the_nearest_vehicle_decides(types: list[str], depths: list[float], label: int) -> None:
    assert labels.kitti_dist(types, depths) == label


def test_positions_of_dsprites_go_in_pairs() -> None:
    assert [labels.dsprites_loc(x) for x in range(32)] == sorted([*range(16), *range(16)])


def test_orientations_of_dsprites_go_by_two_and_a_half() -> None:
    wanted = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]  # 0..9; the bins begin at 0, 2.5, 5, 7.5
    found = [labels.dsprites_ori(v) for v in range(40)]
    assert found[:10] == wanted
    assert found == [w + 4 * k for k in range(4) for w in wanted]


def test_azimuths_are_stored_in_steps_of_two() -> None:
    assert [labels.smallnorb_azi(v) for v in range(0, 36, 2)] == list(range(18))
    assert [labels.smallnorb_ele(v) for v in range(9)] == list(range(9))
