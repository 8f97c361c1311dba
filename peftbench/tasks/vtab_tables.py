"""What each VTAB-1K task is: folder, group, number of classes and of test images.

Source: Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation
Benchmark" (arXiv:1910.04867) and the sizes in its authors' unit tests. Folder names are those of
the list files that NOAH's exporter writes and SSF, FacT, RepAdapter and GIST read.

A task's folder holds::

    train800.txt  val200.txt  train800val200.txt  test.txt   "relative/path label", labels from 0
    images/<part>/<six digits>.<jpg or png>                   the images that the lists name
    names.txt                                                 optional: class names, one a line
    source.json                                               optional: how the folder was made
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GROUPS = ("natural", "specialized", "structured")
TRAIN, VAL = 800, 200
LISTS: Mapping[str, str] = {
    "train": "train800.txt",
    "val": "val200.txt",
    "trainval": "train800val200.txt",
    "test": "test.txt",
}
"""Split -> list file; ``trainval`` is train and val one behind the other."""

NAMES = "names.txt"
SOURCE = "source.json"


@dataclass(frozen=True)
class Row:
    """One task.

    Attributes:
        name: our name, ``data=vtab1k/<name>``.
        folder: its folder below the root.
        group: natural, specialized or structured.
        classes: number of classes C; labels are 0..C-1.
        test: number of test images.

    """

    name: str
    folder: str
    group: str
    classes: int
    test: int

    def counts(self) -> dict[str, int]:
        """Return the number of lines of each list file, by split."""
        return {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL, "test": self.test}


_ROWS = (
    Row("cifar100", "cifar", "natural", 100, 10_000),
    Row("caltech101", "caltech101", "natural", 102, 6_084),  # with the class "background"
    Row("dtd", "dtd", "natural", 47, 1_880),
    Row("flowers102", "oxford_flowers102", "natural", 102, 6_149),
    Row("pets", "oxford_iiit_pet", "natural", 37, 3_669),
    Row("svhn", "svhn", "natural", 10, 26_032),
    Row("sun397", "sun397", "natural", 397, 21_750),
    Row("patch_camelyon", "patch_camelyon", "specialized", 2, 32_768),
    Row("eurosat", "eurosat", "specialized", 10, 5_400),
    Row("resisc45", "resisc45", "specialized", 45, 6_300),
    Row("diabetic_retinopathy", "diabetic_retinopathy", "specialized", 5, 42_670),
    Row("clevr_count", "clevr_count", "structured", 8, 15_000),
    Row("clevr_dist", "clevr_dist", "structured", 6, 15_000),
    Row("dmlab", "dmlab", "structured", 6, 22_735),
    Row("kitti", "kitti", "structured", 4, 711),
    Row("dsprites_loc", "dsprites_loc", "structured", 16, 73_728),
    Row("dsprites_ori", "dsprites_ori", "structured", 16, 73_728),
    Row("smallnorb_azi", "smallnorb_azi", "structured", 18, 12_150),
    Row("smallnorb_ele", "smallnorb_ele", "structured", 9, 12_150),
)
TABLE: Mapping[str, Row] = {row.name: row for row in _ROWS}
"""The 19 tasks in the order of the published tables."""


def group(name: str) -> tuple[str, ...]:
    """Return the tasks of a group in the table's order."""
    return tuple(row.name for row in _ROWS if row.group == name)
