"""Turn the files of packages into arrays of images and labels.

Images leave as uint8 RGB, (N, 3, H, W), grey repeated to three channels. Optional libraries are
imported where they are used, so that a decoded task loads without them.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import pictures
from ..errors import CorruptAssetError
from .cut import Decoded
from .packed import member

Bytes = NDArray[np.uint8]
FASHION_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TEN_DIGITS = tuple(str(digit) for digit in range(10))


def digits(_: Path | None) -> Decoded:
    """Decode scikit-learn's handwritten digits: 8x8, values 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    sixteenths = bunch.images.astype(np.int64)
    grey = ((sixteenths * 255 + 8) // 16).astype(np.uint8)
    return Decoded(grey_to_rgb(grey), bunch.target.astype(np.int64), TEN_DIGITS)


def mnist5k(folder: Path | None) -> Decoded:
    """Decode ``mnist_5k.csv.gz``: per row 784 grey values and the label."""
    with gzip.open(member(folder, "mnist_5k.csv.gz"), "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    if rows.ndim != 2 or rows.shape[1] != 785 or rows.min() < 0 or rows[:, :-1].max() > 255:
        raise CorruptAssetError(f"mnist5k: rows of 784 grey values and a label, got {rows.shape}")
    grey = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    return Decoded(grey_to_rgb(grey), rows[:, -1].copy(), TEN_DIGITS)


def fashion_mnist(folder: Path | None) -> Decoded:
    """Decode the four idx files; the publisher's test part (``t10k``) is marked."""
    parts = ("train", "t10k")
    images = [read_idx(member(folder, f"{part}-images-idx3-ubyte.gz")) for part in parts]
    labels = [read_idx(member(folder, f"{part}-labels-idx1-ubyte.gz")) for part in parts]
    if any(len(image) != len(label) for image, label in zip(images, labels, strict=True)):
        raise CorruptAssetError("fashion_mnist: images and labels differ in number")
    official_test = np.repeat([False, True], [len(label) for label in labels])
    every = np.concatenate(labels).astype(np.int64)
    return Decoded(grey_to_rgb(np.concatenate(images)), every, FASHION_NAMES, official_test)


def cifar10_photos(folder: Path | None) -> Decoded:
    """Decode ``task.json``: base64 PNG images with a score per class name."""
    content = json.loads(member(folder, "task.json").read_text(encoding="utf-8"))
    examples = content["examples"]
    names = tuple(examples[0]["target_scores"])
    images: list[Bytes] = []
    labels: list[int] = []
    for example in examples:
        scores = example["target_scores"]
        right = [name for name, score in scores.items() if score == 1]
        if tuple(scores) != names or len(right) != 1:
            raise CorruptAssetError(f"cifar10_photos: sample {len(labels)} has labels {scores}")
        labels.append(names.index(right[0]))
        images.append(pictures.decode(base64.b64decode(example["input"])))
    return Decoded(np.stack(images), np.array(labels, np.int64), names)


def emoji(folder: Path | None) -> Decoded:
    """Decode emoji.json and its 64-pixel pictures, on white; the label is the category.

    Skin tones are variants of a picture and stay out, as do the parts for building them
    (category "Component").
    """
    entries: list[dict[str, Any]] = json.loads(
        member(folder, "emoji.json").read_text(encoding="utf-8")
    )
    used = [e for e in entries if e["category"] != "Component" and e["has_img_google"]]
    used.sort(key=lambda e: str(e["unified"]))
    names = tuple(sorted({e["category"] for e in used}))
    images = np.stack([pictures.decode(member(folder, e["image"]).read_bytes()) for e in used])
    return Decoded(images, np.array([names.index(e["category"]) for e in used], np.int64), names)


def grey_to_rgb(grey: Bytes) -> Bytes:
    """Repeat grey images (N, H, W) to three channels, (N, 3, H, W)."""
    return np.repeat(grey[:, None], 3, axis=1)


def read_idx(path: Path) -> Bytes:
    """Read a gzipped idx file of unsigned bytes: magic 0 0 8 rank, sizes (big endian), data.

    Raises:
        CorruptAssetError: another type, or not as many bytes as the sizes say.

    """
    data = gzip.decompress(path.read_bytes())
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise CorruptAssetError(f"{path.name} is no idx file of unsigned bytes")
    rank = data[3]
    sizes = [int(n) for n in np.frombuffer(data, ">u4", rank, offset=4)]
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if len(values) != int(np.prod(sizes)):
        raise CorruptAssetError(f"{path.name} should hold {sizes}, it holds {len(values)} bytes")
    return values.reshape(sizes)
