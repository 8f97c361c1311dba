"""Readers of the natural and specialized data sets, from the archives of their authors.

Keys are those of the builders of TensorFlow Datasets that the catalogue names.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from ..archives import extract
from ..errors import CorruptAssetError
from ..tasks.cifar import unpickle
from .matrices import h5_dataset, matlab
from .members import Members
from .order import Record
from .pixels import at_most
from .shelf import Shelf
from .source import Picture, Source, classes_of, from_members, from_rows

CALTECH_TRAIN, CALTECH_SEED = 30, 1234
SUN_PIXELS, SUN_QUALITY = 120_000, 95
H5_BLOCK = 1024


def cifar100(shelf: Shelf) -> Source:
    """Read CIFAR-100, in Python's or the binary form; key: the row, from 0 in each split."""
    members = shelf.members("cifar-100-python.tar.gz")
    files = {PurePosixPath(name).name: name for name in members.names()}
    if "train.bin" in files:
        pixels, labels, names = _cifar_binary(members, files)
    else:
        pixels, labels, names = _cifar_python(members, files)
    splits = {
        split: [
            Record(i, int(label), i, f"{split}_{i:05d}") for i, label in enumerate(labels[split])
        ]
        for split in labels
    }
    shaped = {s: p.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for s, p in pixels.items()}
    return Source(splits, from_rows(shaped), names)


_Cifar = tuple[dict[str, np.ndarray], dict[str, Sequence[int]], list[str]]


def _cifar_python(members: Members, files: dict[str, str]) -> _Cifar:
    for name in ("train", "test", "meta"):
        if name not in files:
            raise CorruptAssetError(f"{members.path} has no file {name}")
    wanted = {files[name]: name for name in ("train", "test", "meta")}
    read = {wanted[n]: unpickle(c, members.path, wanted[n]) for n, c in members.read(wanted)}
    try:
        pixels = {s: np.asarray(read[s]["data"], np.uint8) for s in ("train", "test")}
        labels = {s: read[s]["fine_labels"] for s in ("train", "test")}
        return pixels, labels, list(read["meta"]["fine_label_names"])
    except KeyError as error:
        raise CorruptAssetError(f"{members.path} has no entry {error}") from error


def _cifar_binary(members: Members, files: dict[str, str]) -> _Cifar:
    wanted = {files[f"{split}.bin"]: split for split in ("train", "test")}
    pixels, labels = {}, {}
    for name, content in members.read(wanted):
        if len(content) % 3074:
            raise CorruptAssetError(f"{members.path}: {name} is not made of rows of 3,074 bytes")
        rows = np.frombuffer(content, np.uint8).reshape(-1, 3074)
        pixels[wanted[name]], labels[wanted[name]] = rows[:, 2:], rows[:, 1].tolist()
    names = members.one(files["fine_label_names.txt"]).decode().split()
    return pixels, labels, names


def caltech101(shelf: Shelf) -> Source:
    """Read Caltech-101; key: class folder and file name.

    Of every class 30 images are for training and the rest for the test. The draw goes through
    classes and files in the order of their names (see the catalogue's note on the order).
    """
    path = shelf.path("caltech-101.zip")
    if path.suffix == ".zip":
        extract(path, ["*101_ObjectCategories.tar.gz"], shelf.scratch, shelf.origin.title)
        path = shelf.scratch / "101_ObjectCategories.tar.gz"
    members = Members(path)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in members.names():
        parts = PurePosixPath(name).parts
        if name.endswith(".jpg") and len(parts) > 1:
            folders[parts[-2]].append(name)
    names, classes = classes_of(folder.lower() for folder in folders)
    draw = np.random.RandomState(CALTECH_SEED)
    splits: dict[str, list[Record]] = {"train": [], "test": []}
    for folder in sorted(folders):
        files = sorted(folders[folder])
        if len(files) < CALTECH_TRAIN:
            raise CorruptAssetError(
                f"{path}: the class {folder} has {len(files)} images, {CALTECH_TRAIN} are needed"
            )
        chosen = set(draw.choice(files, CALTECH_TRAIN, replace=False).tolist())
        for file in files:
            split = "train" if file in chosen else "test"
            key = "/".join(PurePosixPath(file).parts[-2:])
            splits[split].append(Record(key, classes[folder.lower()], file))
    return Source(splits, from_members(members), names)


def dtd(shelf: Shelf) -> Source:
    """Read the Describable Textures, fold 1; key: class folder and file name."""
    members = shelf.members("dtd-r1.0.1.tar.gz")
    files = {split: f"labels/{part}1.txt" for split, part in _DTD_PARTS.items()}
    found = {n for n in members.names() if n.endswith(tuple(files.values()))}
    if len(found) != len(files):
        raise CorruptAssetError(f"{members.path} lacks one of {', '.join(files.values())}")
    texts = {n[n.rindex("labels/") :]: c.decode() for n, c in members.read(found)}
    prefix = next(iter(found))
    prefix = prefix[: prefix.rindex("labels/")]
    lists = {split: texts[file].split() for split, file in files.items()}
    names, classes = classes_of(f.split("/")[0] for part in lists.values() for f in part)
    splits = {
        split: [Record(f, classes[f.split("/")[0]], f) for f in part]
        for split, part in lists.items()
    }
    return Source(splits, from_members(members, f"{prefix}images/"), names)


_DTD_PARTS = {"train": "train", "validation": "val", "test": "test"}


def flowers102(shelf: Shelf) -> Source:
    """Read the Oxford flowers; key: file name. Identifiers and labels in the files begin at 1."""
    labels = matlab(shelf.path("imagelabels.mat"), ["labels"])["labels"].ravel()
    parts = {"train": "trnid", "validation": "valid", "test": "tstid"}
    ids = matlab(shelf.path("setid.mat"), list(parts.values()))
    members = shelf.members("102flowers.tgz")
    places = {PurePosixPath(name).name: name for name in members.names()}
    splits: dict[str, list[Record]] = {}
    for split, part in parts.items():
        splits[split] = []
        for number in ids[part].ravel().tolist():
            file = f"image_{number:05d}.jpg"
            if not 1 <= number <= len(labels) or file not in places:
                raise CorruptAssetError(f"{members.path} has no {file}, which setid.mat names")
            splits[split].append(Record(file, int(labels[number - 1]) - 1, places[file]))
    return Source(splits, from_members(members))


def pets(shelf: Shelf) -> Source:
    """Read the Oxford-IIIT pets; key: file name."""
    images = shelf.members("images.tar.gz")
    places = {PurePosixPath(n).name: n for n in images.names() if n.endswith(".jpg")}
    notes = shelf.members("annotations.tar.gz")
    found = {PurePosixPath(name).name: name for name in notes.names()}
    splits: dict[str, list[Record]] = {}
    names: dict[int, str] = {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        splits[split] = []
        if file not in found:
            raise CorruptAssetError(f"{notes.path} has no {file}")
        for line in notes.one(found[file]).decode().splitlines():
            name, label = line.split()[:2]
            if f"{name}.jpg" not in places:
                raise CorruptAssetError(f"{images.path} has no {name}.jpg, which {file} names")
            splits[split].append(Record(f"{name}.jpg", int(label) - 1, places[f"{name}.jpg"]))
            names[int(label) - 1] = name.rpartition("_")[0]
    return Source(splits, from_members(images), [names[i] for i in sorted(names)])


def svhn(shelf: Shelf) -> Source:
    """Read the cropped digits of SVHN; key: the row. The digit 0 is stored as 10."""
    pixels, splits = {}, {}
    for split in ("train", "test"):
        read = matlab(shelf.path(f"{split}_32x32.mat"), ["X", "y"])
        pixels[split] = np.moveaxis(read["X"], -1, 0)
        splits[split] = [Record(i, int(y) % 10, i) for i, y in enumerate(read["y"].ravel())]
    return Source(splits, from_rows(pixels), [str(i) for i in range(10)])


def sun397(shelf: Shelf) -> Source:
    """Read SUN397 in the partition of TensorFlow Datasets; key: the path behind ``SUN397``.

    Pictures have at most 120,000 pixels and are JPEG. The builder's text says quality 72; its code
    passes none on, which means OpenCV's 95.
    """
    parts = {"train": "tr", "validation": "va", "test": "te"}
    lists = {
        split: shelf.path(f"sun397_tfds_{part}.txt").read_text(encoding="utf-8").split()
        for split, part in parts.items()
    }
    members = shelf.members("SUN397.tar.gz")
    prefix = "" if members.path.is_dir() else "SUN397/"
    names, classes = classes_of(f.rpartition("/")[0] for part in lists.values() for f in part)
    splits = {
        split: [Record(f, classes[f.rpartition("/")[0]], f.removeprefix("/")) for f in part]
        for split, part in lists.items()
    }
    whole = from_members(members, prefix)

    def read(split: str, records: Sequence[Record]) -> Iterator[tuple[Record, Picture]]:
        for record, content in whole(split, records):
            assert isinstance(content, bytes)
            yield record, at_most(content, SUN_PIXELS, SUN_QUALITY, str(record.ref))

    return Source(splits, read, names)


def patch_camelyon(shelf: Shelf) -> Source:
    """Read PatchCamelyon; key: part and row, such as ``valid_7``."""
    parts = {"train": "train", "validation": "valid", "test": "test"}
    stem = "camelyonpatch_level_2_split_{}_{}.h5.gz"
    splits = {}
    for split, part in parts.items():
        labels = np.asarray(h5_dataset(shelf.unpacked(stem.format(part, "y")), "y")).ravel()
        splits[split] = [Record(f"{part}_{i}", int(y), i) for i, y in enumerate(labels)]

    def read(split: str, records: Sequence[Record]) -> Iterator[tuple[Record, Picture]]:
        images = h5_dataset(shelf.unpacked(stem.format(parts[split], "x")), "x")
        blocks: dict[int, list[Record]] = defaultdict(list)
        for record in records:
            blocks[int(record.ref) // H5_BLOCK].append(record)
        for number, inside in sorted(blocks.items()):
            pixels = images[number * H5_BLOCK : (number + 1) * H5_BLOCK]
            for record in inside:
                yield record, pixels[int(record.ref) % H5_BLOCK]
        images.file.close()

    return Source(splits, read)


def eurosat(shelf: Shelf) -> Source:
    """Read EuroSAT's RGB pictures; key: class, ``_`` and file name."""
    return _class_folders(shelf.members("EuroSAT.zip"))


def resisc45(shelf: Shelf) -> Source:
    """Read RESISC45; key: class, ``_`` and file name."""
    return _class_folders(shelf.members("NWPU-RESISC45"))


def _class_folders(members: Members) -> Source:
    """Read pictures from a folder per class, whatever lies above the folders."""
    files = [PurePosixPath(n) for n in members.names() if n.lower().endswith((".jpg", ".jpeg"))]
    names, classes = classes_of(file.parent.name for file in files)
    records = [
        Record(f"{file.parent.name}_{file.name}", classes[file.parent.name], str(file), file.name)
        for file in files
    ]
    return Source({"train": records}, from_members(members), names)


def diabetic_retinopathy(shelf: Shelf) -> Source:
    """Read the retina pictures of a folder, as they are; key: the name, such as ``10_left``."""
    members = shelf.members("diabetic_retinopathy")
    solution = _table(members, "retinopathy_solution.csv")
    rows = {
        "train": ("train", _table(members, "trainLabels.csv")),
        "validation": ("test", [row for row in solution if row.get("Usage") == "Public"]),
        "test": ("test", [row for row in solution if row.get("Usage") == "Private"]),
    }
    splits = {
        split: [Record(r["image"], int(r["level"]), f"{part}/{r['image']}.jpeg") for r in table]
        for split, (part, table) in rows.items()
    }
    return Source(splits, from_members(members))


def _table(members: Members, name: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(members.one(name).decode("utf-8-sig"))))
    if not rows or not {"image", "level"} <= set(rows[0]):
        raise CorruptAssetError(f"{members.path}/{name} has no rows with columns image and level")
    return rows
