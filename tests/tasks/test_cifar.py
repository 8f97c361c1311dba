"""CIFAR-100 out of the published pickles, and nothing else out of a pickle."""

import pickle
import shutil

import numpy as np
import pytest
import torch
import trees

from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import cifar
from peftbench.tasks.cifar import Cifar100


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.cifar100(tmp_path_factory.mktemp("cifar"))


@pytest.fixture
def own(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def small(root, holdout=50):
    return Cifar100(str(root), holdout, strict=False)


def test_the_splits_are_the_files_rows(whole):
    task = small(whole).load()
    raw = pickle.loads((whole / cifar.FOLDER / "train").read_bytes())
    train, val = task.split("train"), task.split("val")
    assert (len(train), len(val)) == (250, 50) and task.name == "cifar100"
    assert task.labels == tuple(f"class {i}" for i in range(100))
    image = torch.cat([train.inputs["image"], val.inputs["image"]])
    assert image.dtype == torch.uint8 and image.shape == (300, 3, 32, 32)
    assert np.array_equal(image.reshape(300, -1).numpy(), raw["data"])
    assert train.labels.tolist() + val.labels.tolist() == raw["fine_labels"]
    # a row is 1,024 red values, then green, then blue, row by row
    assert image[7, 1, 2, 3] == raw["data"][7, 1024 + 2 * 32 + 3]
    task.open_test()
    test = task.split("test")
    assert len(test) == 100 and test.ids.tolist() == list(range(300, 400)) and test.decoded


def test_archive_and_folder_are_the_same_data(whole, tmp_path):
    trees.cifar100(tmp_path / "a", archive=True)
    archive = small(tmp_path / "a")
    assert archive.manifest_sha256 == small(whole).manifest_sha256
    assert torch.equal(
        archive.load().split("val").inputs["image"],
        small(whole).load().split("val").inputs["image"],
    )
    for root in (tmp_path / "a" / cifar.ARCHIVE, whole / cifar.FOLDER):
        assert small(root).manifest_sha256 == archive.manifest_sha256
    assert small(whole, 60).manifest_sha256 != archive.manifest_sha256


def test_other_counts_are_refused_and_other_files_recorded(whole, own, monkeypatch):
    with pytest.raises(CorruptAssetError, match="train: 300 images, the published set has 50000"):
        Cifar100(str(whole), 50).load()
    assert small(whole).manifest["deviations"] == [
        "train: 300 images, the published set has 50000",
        "test: 100 images, the published set has 10000",
    ]
    monkeypatch.setattr(cifar, "TRAIN", 300)
    monkeypatch.setattr(cifar, "TEST", 100)
    changed = Cifar100(str(own), 50).manifest["deviations"]
    assert changed == ["not the published files: train, test, meta"]


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        (
            "train",
            "data",
            np.zeros((300, 9), np.uint8),
            r"'data' of the file train .* \(N, 3072",
        ),
        ("train", "data", np.zeros((300, 3072), np.int64), r"'data' of the file train"),
        ("train", "data", [1, 2], r"'data' of the file train"),
        ("test", "fine_labels", [0] * 99, r"'fine_labels' of the file test .* are not 100 numbers"),
        ("test", "fine_labels", [0] * 99 + [100], r"'fine_labels' of the file test"),
        ("test", "fine_labels", [0] * 99 + ["1"], r"'fine_labels' of the file test"),
        ("meta", "fine_label_names", ["a"] * 100, "does not name 100 classes"),
    ],
)
def test_content_that_is_wrong_is_named(own, name, key, value, words):
    path = own / cifar.FOLDER / name
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {key: value}, protocol=2))
    with pytest.raises(CorruptAssetError, match=words):
        small(own).load()


def test_missing_and_damaged_files_are_named(own, tmp_path):
    with pytest.raises(MissingAssetError, match=r"neither cifar-100-python/ nor .*\.tar\.gz is in"):
        small(tmp_path / "nothing").load()
    path = own / cifar.FOLDER / "test"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptAssetError, match=r"the file test in .* cannot be read"):
        small(own).load()
    path.unlink()
    with pytest.raises(MissingAssetError, match="the file test is missing"):
        small(own).load()
    archive = trees.cifar100(tmp_path / "a", archive=True) / cifar.ARCHIVE
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(CorruptAssetError, match=r"cifar-100-python\.tar\.gz cannot be read"):
        small(archive).load()


class Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "value",
    [Hostile(), {"data": Hostile()}, {"x": torch.zeros(1)}, {"x": {1, 2}, "y": Hostile}],
)
def test_a_pickle_that_asks_for_more_than_arrays_is_refused(own, value, capsys):
    path = own / cifar.FOLDER / "meta"
    path.write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(CorruptAssetError, match=r"the file meta in .*it asks for"):
        small(own).load()
    assert capsys.readouterr().out == ""


def test_a_pickle_of_python_2_is_read():
    """As published: protocol 2, text as bytes strings, an array under numpy's old module name."""
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    raw = array.tobytes()
    old = (
        b"\x80\x02}(U\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02K\x03tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tb"
        b"U\x0bfine_labels](K\x01K\x02eu."
    )
    found = cifar.unpickle(old, "here", "train")
    assert np.array_equal(found["data"], array) and found["data"].dtype == np.uint8
    assert found["fine_labels"] == [1, 2]


def test_the_holdout_must_leave_something(whole):
    with pytest.raises(ConfigError, match=r"data\.holdout: expected 1 or more, got 0"):
        Cifar100(str(whole), 0)
    with pytest.raises(ConfigError, match=r"data\.holdout: 300 of 300 training images"):
        small(whole, 300).load()
