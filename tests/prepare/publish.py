"""Small archives in exactly the formats in which the data sets of VTAB-1K are published."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

Files = Mapping[str, bytes]
CALTECH = {"accordion": 34, "BACKGROUND_Google": 33, "Faces_easy": 41}
TEXTURES = {"banded": 9, "blotchy": 9, "zigzagged": 9}
BREEDS = ("Abyssinian", "american_bulldog", "Bengal")
LANDS = {"AnnualCrop": 17, "Forest": 16, "SeaLake": 18}
SCENES = {"airplane": 20, "sea_ice": 21, "wetland": 19}
ROOMS = ("/a/abbey", "/c/car_interior/backseat", "/w/wet_bar")


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(name: str, form: str = "JPEG", size: tuple[int, int] = (9, 7)) -> bytes:
    """A picture of noise that the name decides."""
    out = io.BytesIO()
    Image.fromarray(pixels(zlib.crc32(name.encode()), *size, 3)).save(out, form)
    return out.getvalue()


def frame(name: str) -> bytes:
    """A picture of DMLab's size."""
    out = io.BytesIO()
    Image.fromarray(pixels(zlib.crc32(name.encode()), 3, 4, 3)).resize((480, 360)).save(out, "JPEG")
    return out.getvalue()


def tarred(path: Path, files: Files, mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def zipped(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def cifar100(folder: Path, train: int = 40, test: int = 12) -> None:
    files = {}
    for split, count in (("train", train), ("test", test)):
        rows = pixels(count, count, 3072)
        fine = [i * 7 % 100 for i in range(count)]
        content = {"data": rows, "fine_labels": fine, "coarse_labels": [0] * count}
        files[f"cifar-100-python/{split}"] = pickle.dumps(content, protocol=2)
    names = [f"fine {i:02d}" for i in range(100)]
    files["cifar-100-python/meta"] = pickle.dumps({"fine_label_names": names}, protocol=2)
    tarred(folder / "cifar-100-python.tar.gz", files)


def cifar100_binary(folder: Path, train: int = 40, test: int = 12) -> None:
    files = {}
    for split, count in (("train", train), ("test", test)):
        rows, labels = pixels(count, count, 3072), [i * 7 % 100 for i in range(count)]
        files[f"cifar-100-binary/{split}.bin"] = b"".join(
            bytes([0, label]) + row.tobytes() for label, row in zip(labels, rows, strict=True)
        )
    fine = "\n".join(f"fine_{i:02d}" for i in range(100)) + "\n"
    coarse = "\n".join(f"coarse_{i:02d}" for i in range(20)) + "\n"
    files["cifar-100-binary/fine_label_names.txt"] = fine.encode()
    files["cifar-100-binary/coarse_label_names.txt"] = coarse.encode()
    tarred(folder / "cifar-100-binary.tar.gz", files)


def caltech101(folder: Path) -> None:
    files = {
        f"101_ObjectCategories/{name}/image_{i:04d}.jpg": encoded(f"{name} {i}")
        for name, count in CALTECH.items()
        for i in range(1, count + 1)
    }
    files["101_ObjectCategories/BACKGROUND_Google/tmp"] = b"no picture"
    inner = folder / "inner.tar.gz"
    tarred(inner, files)
    outer = {
        "caltech-101/101_ObjectCategories.tar.gz": inner.read_bytes(),
        "caltech-101/Annotations.tar": b"",
    }
    zipped(folder / "caltech-101.zip", outer)
    inner.unlink()


def dtd(folder: Path, classes: Mapping[str, int] = TEXTURES) -> None:
    """Three lists of a third of every class each; the archive is a tar that is not packed."""
    files, lists = {}, {"train1": [], "val1": [], "test1": []}
    for name, count in classes.items():
        for i in range(count):
            file = f"{name}/{name}_{i:04d}.jpg"
            files[f"dtd/images/{file}"] = encoded(file)
            lists[tuple(lists)[i % 3]].append(file)
    for part, names in lists.items():
        files[f"dtd/labels/{part}.txt"] = "".join(f"{n}\n" for n in names).encode()
        files[f"dtd/labels/{part.replace('1', '2')}.txt"] = b"other/other_0001.jpg\n"
    tarred(folder / "dtd-r1.0.1.tar.gz", files, "w")


def flowers102(folder: Path) -> None:
    count = 40
    tarred(
        folder / "102flowers.tgz",
        {f"jpg/image_{i:05d}.jpg": encoded(f"flower {i}") for i in range(1, count + 1)},
    )
    labels = np.array([[i % 102 + 1 for i in range(count)]], np.uint8)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    order = np.random.default_rng(0).permutation(count) + 1
    parts = {"trnid": order[:12], "valid": order[12:22], "tstid": order[22:]}
    savemat(folder / "setid.mat", {k: v[None].astype(np.uint16) for k, v in parts.items()})


_trimap = io.BytesIO()
Image.fromarray(np.ones((9, 7), np.uint8)).save(_trimap, "PNG")
TRIMAP = _trimap.getvalue()


def pets(folder: Path) -> None:
    files, lists = {}, {"trainval": [], "test": []}
    for label, breed in enumerate(BREEDS, start=1):
        for i in range(1, 16):
            form = "PNG" if i == 3 else "JPEG"  # some published files are no JPEG
            files[f"images/{breed}_{i}.jpg"] = encoded(f"{breed}_{i}", form)
            lists["test" if i % 3 == 0 else "trainval"].append(f"{breed}_{i} {label} 1 1")
    files["images/Abyssinian_100.mat"] = b"some annotation"
    tarred(folder / "images.tar.gz", files)
    notes = {f"annotations/{k}.txt": ("\n".join(v) + "\n").encode() for k, v in lists.items()}
    for name in files:
        stem = Path(name).stem
        notes[f"annotations/trimaps/{stem}.png"] = TRIMAP
    tarred(folder / "annotations.tar.gz", notes)


def svhn(folder: Path) -> None:
    for split, count in (("train", 40), ("test", 12), ("extra", 2)):
        labels = np.array([[i % 10 + 1] for i in range(count)], np.uint8)
        savemat(folder / f"{split}_32x32.mat", {"X": pixels(count, 32, 32, 3, count), "y": labels})


def sun397(folder: Path) -> None:
    files, lists = {}, {"tr": [], "va": [], "te": []}
    for room in ROOMS:
        for i in range(12):
            name = f"{room}/sun_{'abcdefghijkl'[i] * 16}.jpg"
            size = (500, 400) if i == 0 else (40, 30)
            files[f"SUN397{name}"] = encoded(name, ("JPEG", "PNG", "BMP")[i % 3], size)
            lists[("tr", "tr", "va", "te")[i % 4]].append(name)
    tarred(folder / "SUN397.tar.gz", files)
    for part, names in lists.items():
        (folder / f"sun397_tfds_{part}.txt").write_text("".join(f"{n}\n" for n in names))


def patch_camelyon(folder: Path) -> None:
    for part, count in (("train", 40), ("valid", 10), ("test", 12)):
        arrays = {
            "x": pixels(count, count, 96, 96, 3),
            "y": (np.arange(count, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1),
        }
        for name, array in arrays.items():
            out = io.BytesIO()
            with h5py.File(out, "w") as file:
                file.create_dataset(name, data=array, compression="gzip")
            path = folder / f"camelyonpatch_level_2_split_{part}_{name}.h5.gz"
            path.write_bytes(gzip.compress(out.getvalue()))


def eurosat(folder: Path) -> None:
    files = {
        f"2750/{name}/{name}_{i}.jpg": encoded(f"{name}_{i}", size=(64, 64))
        for name, count in LANDS.items()
        for i in range(1, count + 1)
    }
    zipped(folder / "EuroSAT.zip", files)


def resisc45(folder: Path) -> None:
    for name, count in SCENES.items():
        place = folder / "NWPU-RESISC45" / name
        place.mkdir(parents=True)
        for i in range(1, count + 1):
            (place / f"{name}_{i:03d}.jpg").write_bytes(encoded(f"{name}_{i}", size=(256, 256)))


def diabetic_retinopathy(folder: Path) -> None:
    place = folder / "diabetic_retinopathy"
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for part in rows:
        (place / part).mkdir(parents=True)
        for i in range(24):
            name = f"{i}_{('left', 'right')[i % 2]}"
            (place / part / f"{name}.jpeg").write_bytes(encoded(f"{part} {name}"))
            rows[part].append(f"{name},{i % 5}")
    (place / "trainLabels.csv").write_text("image,level\n" + "\n".join(rows["train"]) + "\n")
    solved = [
        f"{row},{'Public' if i % 3 == 0 else 'Private'}" for i, row in enumerate(rows["test"])
    ]
    text = "image,level,Usage\n" + "\n".join(solved) + "\n"
    (place / "retinopathy_solution.csv").write_text(text)


def scene(part: str, i: int) -> dict[str, object]:
    """One scene of CLEVR with 3 to 10 objects, the nearest at 7 to 11.5."""
    objects = [
        {
            "color": "gray",
            "material": "rubber",
            "shape": "cube",
            "size": "small",
            "rotation": 1.5,
            "3d_coords": [0.5, 0.5, 0.35],
            "pixel_coords": [10, 20, 7 + i % 10 * 0.5 + k],
        }
        for k in range(3 + i % 8)
    ]
    return {"image_filename": f"CLEVR_{part}_{i:06d}.png", "image_index": i, "objects": objects}


def clevr(folder: Path) -> None:
    files = {}
    for part, count in (("train", 40), ("val", 12), ("test", 2)):
        scenes = [scene(part, i) for i in range(count)]
        questions = [{"image_filename": s["image_filename"], "question": "?"} for s in scenes]
        top = "CLEVR_v1.0"
        files[f"{top}/questions/CLEVR_{part}_questions.json"] = {"questions": questions}
        if part != "test":
            files[f"{top}/scenes/CLEVR_{part}_scenes.json"] = {"scenes": scenes}
        for s in scenes:
            files[f"{top}/images/{part}/{s['image_filename']}"] = encoded(
                str(s["image_filename"]), "PNG"
            )
    zipped(
        folder / "CLEVR_v1.0.zip",
        {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in files.items()},
    )


def tag(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def tf_example(image: bytes, name: bytes, label: int) -> bytes:
    values = {
        b"image": tag(1, tag(1, image)),
        b"filename": tag(1, tag(1, name)),
        b"label": tag(3, tag(1, varint(label))),
    }
    return tag(1, b"".join(tag(1, tag(1, k) + tag(2, v)) for k, v in values.items()))


def crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 & -(value & 1))
        table.append(value)
    return table


CRC = crc_table()


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum, masked as TFRecord files hold it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tf_record(content: bytes) -> bytes:
    head = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", crc32c(part)) for part in (head, content)]
    return head + sums[0] + content + sums[1]


def dmlab(folder: Path) -> None:
    files = {}
    for split, count in (("train", 24), ("validation", 8), ("test", 10)):
        for shard in range(2):
            made = [
                tf_record(tf_example(frame(f"{split}-{i}"), f"{split}-{i}".encode(), i % 6))
                for i in range(shard, count, 2)
            ]
            files[f"dmlab-{split}.tfrecord-0000{shard}-of-00002"] = b"".join(made)
    tarred(folder / "dmlab.tar.gz", files)


def kitti(folder: Path, images: int = 60, drives: int = 20) -> None:
    """Drives of three images; object lines have 15 columns, the depth is the 14th."""
    pictures = {
        f"training/image_2/{i:06d}.png": encoded(f"kitti {i}", "PNG", (12, 37))
        for i in range(images)
    }
    pictures["testing/image_2/000000.png"] = encoded("other", "PNG")
    zipped(folder / "data_object_image_2.zip", pictures)
    notes = {}
    for i in range(images):
        kinds = ("Pedestrian", "Car", "Van", "Truck", "Cyclist")
        lines = [
            f"{kinds[(i + k) % 5]} 0.00 0 -1.57 3.24 1.78 17.31 9.77 1.57 1.73 4.15 "
            f"1.00 1.75 {3 + (i * 5 + k * 11) % 37}.00 -1.59"
            for k in range(i % 3)
        ]
        lines.append("DontCare -1 -1 -10 5.0 6.0 7.0 8.0 -1 -1 -1 -1000 -1000 -1000 -10")
        notes[f"training/label_2/{i:06d}.txt"] = ("\n".join(lines) + "\n").encode()
    zipped(folder / "data_object_label_2.zip", notes)
    order = np.random.default_rng(1).permutation(images) + 1
    mapping = [f"2011_09_26 2011_09_26_drive_{i % drives:04d}_sync {i:010d}" for i in range(images)]
    kit = {
        "mapping/train_rand.txt": (",".join(map(str, order)) + "\n").encode(),
        "mapping/train_mapping.txt": ("\n".join(mapping) + "\n").encode(),
    }
    zipped(folder / "devkit_object.zip", kit)


def dsprites_arrays(count: int = 120) -> dict[str, np.ndarray]:
    steps = np.arange(count)
    columns = [0 * steps, steps % 3, steps % 6, steps % 40, steps % 32, steps * 5 % 32]
    return {
        "imgs": pixels(count, count, 64, 64) // 128,
        "latents_classes": np.stack(columns, 1).astype(np.int64),
        "latents_values": np.stack(columns, 1).astype(np.float64),
    }


def dsprites(folder: Path) -> None:
    """The archive's metadata are a pickled dictionary, which a reader must not touch."""
    arrays = dsprites_arrays()
    path = folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    meta = np.array({"title": "dSprites dataset"}, dtype=object)
    np.savez_compressed(path, metadata=meta, **arrays)


def norb(array: np.ndarray) -> bytes:
    magic = 0x1E3D4C55 if array.dtype == np.uint8 else 0x1E3D4C54
    sizes = [*array.shape, *([1] * (3 - array.ndim))]
    head = struct.pack(f"<Ii{len(sizes)}i", magic, array.ndim, *sizes)
    return head + array.astype(array.dtype.newbyteorder("<")).tobytes()


def smallnorb(folder: Path) -> None:
    for part, seed in (("46789x9x18x6x2x96x96-training", 1), ("01235x9x18x6x2x96x96-testing", 2)):
        count = 40
        i = np.arange(count, dtype=np.int32) * seed
        facts = np.stack([i % 10, i % 9, i % 18 * 2, i % 6], 1).astype(np.int32)
        arrays = {
            "dat": pixels(seed, count, 2, 96, 96),
            "cat": (i % 5).astype(np.int32),
            "info": facts,
        }
        for kind, array in arrays.items():
            path = folder / f"smallnorb-5x{part}-{kind}.mat.gz"
            path.write_bytes(gzip.compress(norb(array)))


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "cifar100": cifar100,
    "caltech101": caltech101,
    "dtd": dtd,
    "flowers102": flowers102,
    "pets": pets,
    "svhn": svhn,
    "sun397": sun397,
    "patch_camelyon": patch_camelyon,
    "eurosat": eurosat,
    "resisc45": resisc45,
    "diabetic_retinopathy": diabetic_retinopathy,
    "clevr": clevr,
    "dmlab": dmlab,
    "kitti": kitti,
    "dsprites": dsprites,
    "smallnorb": smallnorb,
}
