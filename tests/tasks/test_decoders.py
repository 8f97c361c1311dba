"""Decoders on small files in the real formats, and the archives that hold them."""

import gzip
import json

import numpy as np
import pytest
import real_formats as real

from peftbench import pictures
from peftbench.archives import extract
from peftbench.errors import CorruptAssetError
from peftbench.tasks import decoders
from peftbench.tasks.pocket import SOURCES

RNG = np.random.default_rng(0)


def unpack(tmp_path, task, name, data):
    """Write an archive and take out what the task's package names."""
    archive = tmp_path / name
    archive.write_bytes(data)
    folder = tmp_path / "kept"
    folder.mkdir()
    extract(archive, SOURCES[task].package.members, folder, task)
    return folder


def test_digits_are_scaled_to_bytes():
    from sklearn.datasets import load_digits

    data = decoders.digits(None)
    assert data.images.shape == (1797, 3, 8, 8) and data.images.dtype == np.uint8
    assert (data.images[:, 0] == data.images[:, 1]).all()
    assert (data.images[:, 0] == data.images[:, 2]).all()
    exact = load_digits().images * 255 / 16
    assert np.abs(data.images[:, 0] - exact).max() <= 0.5
    assert data.images.min() == 0 and data.images.max() == 255
    assert (data.labels == load_digits().target).all() and data.labels.dtype == np.int64


def test_mnist5k(tmp_path):
    grey = RNG.integers(0, 256, (3, 784))
    table = np.column_stack([grey, (7, 0, 9)])
    rows = "".join(",".join(map(str, row)) + "\n" for row in table)
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(rows.encode()))
    data = decoders.mnist5k(tmp_path)
    assert data.labels.tolist() == [7, 0, 9]
    assert (data.images == grey.reshape(3, 1, 28, 28).repeat(3, axis=1)).all()
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(b"1,2\n3,4\n"))
    with pytest.raises(CorruptAssetError, match="784 grey values"):
        decoders.mnist5k(tmp_path)


def test_fashion_mnist_out_of_a_debian_package(tmp_path):
    train, test = (
        RNG.integers(0, 256, (5, 4, 6), np.uint8),
        RNG.integers(0, 256, (2, 4, 6), np.uint8),
    )
    labels = np.array([0, 9, 3, 3, 1], np.uint8)
    deb = real.fashion_deb(train, labels, test, np.array([8, 2], np.uint8))
    folder = unpack(tmp_path, "fashion_mnist", "fixture_1_all.deb", deb)
    assert len(list(folder.iterdir())) == 4  # the copyright file stays out
    data = decoders.fashion_mnist(folder)
    assert data.images.shape == (7, 3, 4, 6)
    assert (data.images[:5, 1] == train).all() and (data.images[5:, 2] == test).all()
    assert data.labels.tolist() == [0, 9, 3, 3, 1, 8, 2]
    assert data.official_test.tolist() == [False] * 5 + [True] * 2
    assert data.names[9] == "ankle boot" and len(data.names) == 10


def test_damaged_idx_files(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0"))
    with pytest.raises(CorruptAssetError, match="no idx file of unsigned bytes"):
        decoders.read_idx(path)
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"))
    with pytest.raises(CorruptAssetError, match=r"should hold \[5\], it holds 3 bytes"):
        decoders.read_idx(path)


def test_cifar10_out_of_a_source_package(tmp_path):
    names = ("airplane", "bird", "cat")
    images = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
    where = "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification"
    archive = real.tar_bytes(
        {
            f"{where}/README.md": b"x",
            f"{where}/base64/task.json": real.cifar_json(images, [2, 0, 1, 2], names),
            "bigbench-1.0.0/bigbench/benchmark_tasks/other/task.json": b"{}",
        }
    )
    folder = unpack(tmp_path, "cifar10_photos", "bigbench-1.0.0.tar.gz", archive)
    data = decoders.cifar10_photos(folder)
    assert (data.images == images.transpose(0, 3, 1, 2)).all()
    assert data.labels.tolist() == [2, 0, 1, 2] and data.names == names
    broken = json.loads((folder / "task.json").read_text())
    broken["examples"][1]["target_scores"]["cat"] = 1
    (folder / "task.json").write_text(json.dumps(broken))
    with pytest.raises(CorruptAssetError, match="sample 1 has labels"):
        decoders.cifar10_photos(folder)


def test_emoji_out_of_an_npm_package(tmp_path):
    rgba = RNG.integers(0, 256, (3, 64, 64, 4), np.uint8)
    rgba[0, :, :, 3], rgba[1, :, :, 3] = 0, 255
    entries = [
        real.emoji_entry("1F9A0", "Nature", skin_variations={"1F3FB": {"image": "tone.png"}}),
        real.emoji_entry("1F3FB", "Component"),
        real.emoji_entry("1F600", "Smileys"),
        real.emoji_entry("1F601", "Smileys", has_img_google=False),
        real.emoji_entry("1F355", "Food"),
    ]
    pictures = {"1f9a0": rgba[0], "1f600": rgba[1], "1f355": rgba[2], "tone": rgba[2]}
    files = {f"package/img/google/64/{k}.png": real.png(v) for k, v in pictures.items()}
    files |= {"package/emoji.json": json.dumps(entries).encode(), "package/LICENSE": b"x"}
    folder = unpack(tmp_path, "emoji", "emoji.tgz", real.tar_bytes(files))
    data = decoders.emoji(folder)
    assert data.names == ("Food", "Nature", "Smileys")
    assert data.labels.tolist() == [0, 2, 1]  # in the order of the code points
    assert (data.images[2] == 255).all()  # fully transparent: white
    assert (data.images[1] == rgba[1, :, :, :3].transpose(2, 0, 1)).all()  # opaque: as it is
    alpha = rgba[2, :, :, 3:] / 255.0
    expected = (rgba[2, :, :, :3] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)
    assert np.abs(data.images[0] - expected).max() <= 0.5 + 1e-9


def test_palette_and_grey_pictures_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    assert (pictures.decode(real.png(grey)) == grey).all()
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[:2] = (255, 0, 0)
    assert (pictures.decode(real.png(colours, "P")) == colours.transpose(2, 0, 1)).all()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptAssetError, match=r"emoji\.json is missing"):
        decoders.emoji(tmp_path)


def refused(tmp_path, data, patterns, words):
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    folder = tmp_path / "kept"
    folder.mkdir(exist_ok=True)
    with pytest.raises(CorruptAssetError, match=words):
        extract(archive, patterns, folder, "fixture")


def test_damaged_archives(tmp_path):
    good = real.tar_bytes({"a/x": RNG.bytes(5000), "b/x": b"2"})
    refused(tmp_path, good[: len(good) // 2], ["a/x"], "cannot be read")
    refused(tmp_path, b"", ["a/x"], "cannot be read")
    refused(tmp_path, RNG.bytes(500), ["a/x"], "cannot be read")
    refused(tmp_path, good, ["a/y"], "no member matches a/y")
    (tmp_path / "kept" / "x").unlink(missing_ok=True)
    refused(tmp_path, good, ["*/x*"], "two members are named x")
    deb = real.deb_bytes({"./x": RNG.bytes(3000)})
    refused(tmp_path, deb[:-2000], ["./x"], "cut short")
    refused(tmp_path, deb[:100], ["./x"], r"holds no data\.tar|cut short")


def test_members_never_leave_the_folder(tmp_path):
    archive = tmp_path / "archive"
    archive.write_bytes(real.tar_bytes({"../../evil/x": b"1"}))
    folder = tmp_path / "kept"
    folder.mkdir()
    extract(archive, ["*/x"], folder, "fixture")
    assert [path.name for path in tmp_path.iterdir() if path.name != "archive"] == ["kept"]
    assert (folder / "x").read_bytes() == b"1"
