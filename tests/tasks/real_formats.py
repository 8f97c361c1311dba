"""Small packages in the formats in which the registries hold the real ones."""

import base64
import gzip
import io
import json
import tarfile

import numpy as np
from PIL import Image


def tar_bytes(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def idx_gz(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.tobytes())


def deb_bytes(files):
    """A Debian package: ar with debian-binary, control and data, each padded to even length."""
    entries = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_bytes({"./control": b"Package: fixture\n"}, "w:xz"),
        "data.tar.xz": tar_bytes(files, "w:xz"),
    }
    out = b"!<arch>\n"
    for name, data in entries.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def fashion_deb(train_images, train_labels, test_images, test_labels):
    where = "./usr/share/datasets/fashion-mnist"
    return deb_bytes(
        {
            f"{where}/train-images-idx3-ubyte.gz": idx_gz(train_images),
            f"{where}/train-labels-idx1-ubyte.gz": idx_gz(train_labels),
            f"{where}/t10k-images-idx3-ubyte.gz": idx_gz(test_images),
            f"{where}/t10k-labels-idx1-ubyte.gz": idx_gz(test_labels),
            "./usr/share/doc/dataset-fashion-mnist/copyright": b"Expat",
        }
    )


def png(array, mode=None):
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, "PNG")
    return buffer.getvalue()


def cifar_json(images, labels, names):
    examples = [
        {
            "input": base64.b64encode(png(image)).decode(),
            "target_scores": {name: int(name == names[label]) for name in names},
        }
        for image, label in zip(images, labels, strict=True)
    ]
    return json.dumps({"canary": "...", "name": "cifar10", "examples": examples}).encode()


def emoji_entry(code, category, **more):
    image = f"{code.lower()}.png"
    entry = {"unified": code, "image": image, "category": category, "has_img_google": True}
    return {**entry, **more}
