"""Readers of the structured data sets; a source per task, since the labels differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..errors import CorruptAssetError
from . import labels
from .matrices import norb_matrix, npz_array, npz_rows
from .members import Members
from .order import Record
from .shelf import Shelf
from .source import Picture, Source, from_members, from_rows
from .tfrecords import example, records

KITTI_SEED, KITTI_PERCENT = 123, 10
NORB_TRAIN = "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat.gz"
NORB_TEST = "smallnorb-5x01235x9x18x6x2x96x96-testing-{}.mat.gz"
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
ANGLE, POSITION_X = 3, 4


def clevr_count(shelf: Shelf) -> Source:
    """Read CLEVR with the number of objects as label; key: file name."""
    return _clevr(shelf, lambda objects: labels.clevr_count(len(objects)))


def clevr_dist(shelf: Shelf) -> Source:
    """Read CLEVR with the distance of the nearest object as label; key: file name."""
    return _clevr(shelf, lambda objects: labels.clevr_dist([o["pixel_coords"][2] for o in objects]))


def _clevr(shelf: Shelf, label: Callable[[list[dict[str, Any]]], int]) -> Source:
    members = shelf.members("CLEVR_v1.0.zip")
    prefix = "" if members.path.is_dir() else "CLEVR_v1.0/"
    splits = {}
    for split, part in (("train", "train"), ("validation", "val")):
        scenes = json.loads(members.one(f"{prefix}scenes/CLEVR_{part}_scenes.json"))["scenes"]
        splits[split] = [
            Record(s["image_filename"], label(s["objects"]), f"{part}/{s['image_filename']}")
            for s in scenes
        ]
    return Source(splits, from_members(members, f"{prefix}images/"))


def dmlab(shelf: Shelf) -> Source:
    """Read DMLab's TFRecord files; key: the stored file name."""
    members = shelf.members("dmlab.tar.gz")
    files: dict[str, str] = {}
    for name in sorted(members.names()):
        for split in shelf.origin.splits:
            if PurePosixPath(name).name.startswith(f"dmlab-{split}.tfrecord"):
                files[name] = split
    splits: dict[str, list[Record]] = {split: [] for split in shelf.origin.splits}
    for file, _, key, label in _dmlab(members, list(files)):
        splits[files[file]].append(Record(key, label, key.decode()))

    def read(split: str, wanted: Sequence[Record]) -> Iterator[tuple[Record, Picture]]:
        by_name = {record.key: record for record in wanted}
        for _, image, key, _ in _dmlab(members, [f for f in files if files[f] == split]):
            if key in by_name:
                yield by_name[key], image

    return Source(splits, read)


def _dmlab(members: Members, files: Sequence[str]) -> Iterator[tuple[str, bytes, bytes, int]]:
    """Yield file, image, name and label of every example in ``files``."""
    for file, content in members.read(files):
        try:
            for record in records(content):
                fields = example(record)
                image, name, label = (fields[k][0] for k in ("image", "filename", "label"))
                if not (isinstance(image, bytes) and isinstance(name, bytes)):
                    raise ValueError("image and filename are no bytes")
                yield file, image, name, int(label)
        except (KeyError, IndexError, ValueError) as error:
            raise CorruptAssetError(f"{members.path}: {file} cannot be read: {error}") from error


def kitti(shelf: Shelf) -> Source:
    """Read KITTI with the distance of the nearest vehicle as label; key: file name.

    Images of one drive lie in one split; a tenth of the drives each, drawn with NumPy's old
    generator, are for the test and for validation.
    """
    images = shelf.members("data_object_image_2.zip")
    notes = shelf.members("data_object_label_2.zip")
    wanted = [n for n in notes.names() if n.startswith("training/") and n.endswith(".txt")]
    label = {PurePosixPath(n).stem: _kitti_label(c.decode()) for n, c in notes.read(wanted)}
    splits: dict[str, list[Record]] = {}
    for split, numbers in kitti_splits(shelf.members("devkit_object.zip")).items():
        names = [f"{number:06d}" for number in sorted(numbers)]
        missing = [name for name in names if name not in label]
        if missing:
            raise CorruptAssetError(f"{notes.path} has no label of the image {missing[0]}")
        splits[split] = [Record(f"{n}.png", label[n], f"training/image_2/{n}.png") for n in names]
    return Source(splits, from_members(images))


def _kitti_label(text: str) -> int:
    objects = [line.split() for line in text.splitlines() if line.strip()]
    known = [o for o in objects if o[0] != "DontCare"]
    return labels.kitti_dist([o[0] for o in known], [float(o[13]) for o in known])


def kitti_splits(devkit: Members) -> dict[str, list[int]]:
    """Return split -> numbers of images, from the development kit's list of drives.

    ``mapping/train_rand.txt`` holds, for every image, a line number (from 1) of
    ``mapping/train_mapping.txt``, whose lines are: day, drive, frame.
    """
    texts = {n: devkit.one(f"mapping/train_{n}.txt").decode() for n in ("rand", "mapping")}
    drives = [line.split(" ")[1] for line in texts["mapping"].splitlines()]
    lines = [int(number) for number in texts["rand"].split(",")]
    names = sorted({drives[line - 1] for line in lines})
    count = max(1, KITTI_PERCENT * len(names) // 100)
    draw = np.random.RandomState(KITTI_SEED)
    test = set(draw.choice(names, count, replace=False).tolist())
    rest = [name for name in names if name not in test]
    validation = set(draw.choice(rest, count, replace=False).tolist())
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for image, line in enumerate(lines):
        drive = drives[line - 1]
        split = "test" if drive in test else "validation" if drive in validation else "train"
        splits[split].append(image)
    return splits


def dsprites_loc(shelf: Shelf) -> Source:
    """Read dSprites with the x position as label; key: the row."""
    return _dsprites(shelf, POSITION_X, labels.dsprites_loc)


def dsprites_ori(shelf: Shelf) -> Source:
    """Read dSprites with the orientation as label; key: the row."""
    return _dsprites(shelf, ANGLE, labels.dsprites_ori)


def _dsprites(shelf: Shelf, column: int, label: Callable[[int], int]) -> Source:
    path = shelf.path(DSPRITES)
    values = npz_array(path, "latents_classes")[:, column].tolist()

    def read(_split: str, wanted: Sequence[Record]) -> Iterator[tuple[Record, Picture]]:
        by_row = {int(record.ref): record for record in wanted}
        for row, image in npz_rows(path, "imgs", list(by_row)):
            yield by_row[row], image * np.uint8(255)  # stored as 0 and 1

    return Source({"train": [Record(i, label(v), i) for i, v in enumerate(values)]}, read)


def smallnorb_azi(shelf: Shelf) -> Source:
    """Read smallNORB's left pictures with the azimuth as label; key: the row."""
    return _smallnorb(shelf, 2, labels.smallnorb_azi)


def smallnorb_ele(shelf: Shelf) -> Source:
    """Read smallNORB's left pictures with the elevation as label; key: the row."""
    return _smallnorb(shelf, 1, labels.smallnorb_ele)


def _smallnorb(shelf: Shelf, column: int, label: Callable[[int], int]) -> Source:
    pixels, splits = {}, {}
    for split, name in (("train", NORB_TRAIN), ("test", NORB_TEST)):
        pairs = norb_matrix(shelf.path(name.format("dat")))
        facts = norb_matrix(shelf.path(name.format("info")))
        if pairs.ndim != 4 or facts.ndim != 2 or len(pairs) != len(facts):
            raise CorruptAssetError(
                f"{shelf.folder}: dat and info of smallNORB's {split} set do not fit each other"
            )
        pixels[split] = pairs[:, 0]
        splits[split] = [Record(i, label(v), i) for i, v in enumerate(facts[:, column].tolist())]
    return Source(splits, from_rows(pixels))
