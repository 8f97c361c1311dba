"""Small trees in exactly the layouts that the readers read: VTAB-1K lists, VPT's json, CIFAR-100.

Every picture is a real file; pictures that may be equal are hard links of a few.
"""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.tasks import cifar, fgvc, vtab_tables

KINDS = 16  # different pictures of a tree


def picture(path: Path, seed: int, size=(8, 8)) -> Path:
    """Write one picture of random pixels; the ending says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def vtab(root: Path, tasks=None, train=800, val=200, test=10, ending="jpg") -> Path:
    """Write the folders of ``tasks`` (all 19); ``test=None`` gives the published number.

    Labels go through the classes in turn. Pictures are hard links of ``KINDS`` files.
    """
    models = [picture(root / "models" / f"{i}.{ending}", i) for i in range(KINDS)]
    for name in tasks or vtab_tables.TABLE:
        row = vtab_tables.TABLE[name]
        folder = root / row.folder
        counts = {"train": train, "val": val, "test": row.test if test is None else test}
        lines = {key: [] for key in vtab_tables.LISTS}
        for split, count in counts.items():
            for number in range(count):
                entry = link(folder, split, number, models, row.classes)
                lines[split].append(entry)
                if split != "test":
                    at = len(lines["trainval"])
                    model = models[number % KINDS]
                    lines["trainval"].append(
                        link(folder, "trainval", at, [model], row.classes, number)
                    )
        for split, listed in lines.items():
            (folder / vtab_tables.LISTS[split]).write_text("".join(f"{x}\n" for x in listed))
    return root


def link(folder, split, number, models, classes, label=None):
    """Link one picture into its place and return its line."""
    part = vtab_tables.LISTS[split].removesuffix(".txt")
    model = models[number % len(models)]
    name = f"images/{part}/{number:06d}{model.suffix}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    os.link(model, folder / name)
    return f"{name} {(number if label is None else label) % classes}"


def different(root: Path, folder: str) -> None:
    """Replace the pictures of one VTAB folder by ones that are all different."""
    for number, path in enumerate(sorted((root / folder / "images").rglob("*.*"))):
        path.unlink()
        picture(path, 1000 + number)


def fgvc_set(root: Path, name: str, per_class=(2, 1, 1), first_id=1, step=1) -> Path:
    """Write one FGVC set with all its classes and a few pictures per class and split.

    Ids start at ``first_id`` and go up by ``step``; the json files are not in the order of ids.
    """
    row = fgvc.TABLE[name]
    folder = root / row.folders[0]
    model = picture(root / "models" / "0.jpg", 0)
    ids = [first_id + step * label for label in range(row.classes)][::-1]
    for split, count in zip(("train", "val", "test"), per_class, strict=True):
        entries = {}
        for value in ids:
            for number in range(count):
                path = f"class {value}/{split}_{number}.jpg"
                target = folder / row.images / path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(model, target)
                entries[path] = value
        (folder / f"{split}.json").write_text(json.dumps(entries))
    return root


def cifar100(root: Path, train=300, test=100, archive=False) -> Path:
    """Write CIFAR-100's three pickles in protocol 2, as a folder or as the archive."""
    rng = np.random.default_rng(0)
    names = [f"class {i}" for i in range(100)]
    contents = {"meta": {"fine_label_names": names, "coarse_label_names": ["x"] * 20}}
    for part, count in (("train", train), ("test", test)):
        contents[part] = {
            "filenames": [f"{part}_{i}.png" for i in range(count)],
            "batch_label": f"{part}ing batch 1 of 1",
            "fine_labels": [int(x) for x in rng.integers(0, 100, count)],
            "coarse_labels": [0] * count,
            "data": rng.integers(0, 256, (count, 3072)).astype(np.uint8),
        }
    files = {name: pickle.dumps(value, protocol=2) for name, value in contents.items()}
    root.mkdir(parents=True, exist_ok=True)
    if archive:
        with tarfile.open(root / cifar.ARCHIVE, "w:gz") as packed:
            for name, data in files.items():
                info = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
        return root
    (root / cifar.FOLDER).mkdir()
    for name, data in files.items():
        (root / cifar.FOLDER / name).write_bytes(data)
    return root
