"""Data sets in the hub's forms on disk: columns, splits, labels, checksums, and what goes wrong."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

import peftbench.tasks.hub as hub_task
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError, PeftbenchError
from peftbench.tasks.batch import Split
from peftbench.tasks.hub import HubImages, HubRows

HALVES = {"train": "train[:30]", "test": "train[30:]"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png(seed: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    channels = len(Pictures.new(mode, (1, 1)).getbands())
    shape = (9, 8, channels) if channels > 1 else (9, 8)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Pictures.fromarray(pixels, mode).save(out, "PNG")
    return out.getvalue()


def parquet(path: Path, labels: list, kind: Any = None, shift: int = 0, **more: Any) -> str:
    """Write a parquet file with the columns picture and kind; return its path."""
    import datasets

    cells = [{"bytes": png(shift + i), "path": None} for i in range(len(labels))]
    features = {"picture": datasets.Image(), "kind": kind or datasets.Value("string")}
    rows = {"picture": more.pop("cells", cells), "kind": labels}
    for name, (feature, values) in more.items():
        features[name], rows[name] = feature, values
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    table.to_parquet(str(path))
    return str(path)


def classes(names: str = "abc") -> Any:
    import datasets

    return datasets.ClassLabel(names=list(names))


@pytest.fixture
def file(tmp_path: Path) -> str:
    return parquet(tmp_path / "pets.parquet", [i % 3 for i in range(40)], classes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in folders: 12 of two classes to train on, 4 to test."""
    for split, count in (("train", 6), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{i}.png").write_bytes(png(100 * number + i + (50 * (split == "test"))))
    return tmp_path / "pets"


def labels_of(spec: HubImages, split: str) -> list[int]:
    task = spec.load()
    task.open_test()
    return task.split(split).labels.tolist()


def test_a_parquet_file_is_cut_by_split_expressions(file: str) -> None:
    spec = HubImages(file, **HALVES)
    task = spec.load()
    task.open_test()
    assert task.labels == ("a", "b", "c") and task.name == "pets.parquet"
    assert task.split("test").ids.tolist() == list(range(30, 40))
    assert task.split("test").labels.tolist() == [i % 3 for i in range(30, 40)]
    val, train = task.split("val"), task.split("train")
    assert val.labels.tolist() in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    assert sorted([*val.ids.tolist(), *train.ids.tolist()]) == list(range(30))
    assert task.manifest_sha256 == spec.manifest_sha256 == HubImages(file, **HALVES).manifest_sha256


def test_images_are_those_of_the_rows(file: str) -> None:
    train = HubImages(file, **HALVES).load().split("train")
    images = train.inputs["image"]
    assert isinstance(images, HubRows)
    for position, row in enumerate(train.ids.tolist()):
        wanted = Pictures.open(io.BytesIO(png(row)))
        assert images.image(position).tobytes() == wanted.tobytes()
    some = images.take([4, 0])
    assert some.image(0).tobytes() == images.image(4).tobytes() and len(some) == 2
    sent = pickle.loads(pickle.dumps(images))
    assert sent.image(3).tobytes() == images.image(3).tobytes()


def test_splits_join_with_their_images(file: str) -> None:
    task = HubImages(file, **HALVES).load()
    joined = Split.concat("train+val", [task.split("train"), task.split("val")])
    last = Pictures.open(io.BytesIO(png(int(joined.ids[-1]))))
    assert len(joined) == 30 and joined.inputs["image"].image(29).tobytes() == last.tobytes()


def test_val_is_the_same_for_every_run_and_moves_with_its_own_seed(file: str) -> None:
    one = HubImages(file, val_share=0.2, **HALVES).positions["val"]
    assert len(one) == 6
    assert np.array_equal(one, HubImages(file, val_share=0.2, **HALVES).positions["val"])
    other = HubImages(file, val_share=0.2, cut_seed=1, **HALVES).positions["val"]
    assert not np.array_equal(one, other)
    named = HubImages(file, train="train[:20]", val="train[20:25]", test="train[-5:]")
    assert named.positions["val"].tolist() == list(range(20, 25))
    joined = HubImages(file, train="train[:25%]+train[50%:75%]", test="train[90%:]")
    assert len(joined.positions["train"]) + len(joined.positions["val"]) == 20


def test_folders_of_pictures_name_their_classes(folder: Path) -> None:
    spec = HubImages(str(folder), val_share=0.25)
    task = spec.load()
    task.open_test()
    assert task.labels == ("cat", "dog")
    assert labels_of(spec, "test") == [0, 0, 1, 1] and len(task.split("val")) == 3
    first = task.split("test").inputs["image"].image(0)
    assert first.tobytes() == Pictures.open(io.BytesIO(png(50))).tobytes()


def test_the_manifest_follows_pictures_and_labels_not_the_place(folder: Path) -> None:
    def manifest(path: Path) -> str:
        return HubImages(str(path)).manifest_sha256

    before = manifest(folder)
    folder = folder.rename(folder.with_name("elsewhere"))
    assert manifest(folder) == before
    changed = folder / "train" / "dog" / "3.png"
    content = changed.read_bytes()
    changed.write_bytes(png(999))
    other = manifest(folder)
    assert other != before
    changed.write_bytes(content)
    (folder / "train" / "dog" / "3.png").rename(folder / "train" / "cat" / "7.png")
    assert manifest(folder) not in (before, other)


@pytest.mark.parametrize(
    ("values", "dtype", "names"),
    [
        (["red", "blue", "red", "green"], "string", ("blue", "green", "red")),
        ([10, 2, 10, -1], "int32", ("-1", "2", "10")),
        ([True, False, True, True], "bool", ("False", "True")),
    ],
)
def test_labels_without_names_are_sorted(
    tmp_path: Path, values: list, dtype: str, names: tuple
) -> None:
    import datasets

    path = parquet(tmp_path / "p.parquet", values * 10, datasets.Value(dtype))
    spec = HubImages(path, label="kind", **HALVES)
    assert spec.load().labels == names
    assert [names[i] for i in labels_of(spec, "test")] == [str(v) for v in (values * 10)[30:]]


def test_pictures_of_every_kind_come_in_rgb(tmp_path: Path) -> None:
    modes = ["L", "LA", "RGBA", "RGB"] * 10
    cells = [{"bytes": png(i, mode), "path": None} for i, mode in enumerate(modes)]
    path = parquet(tmp_path / "p.parquet", [0, 1] * 20, classes("ab"), cells=cells)
    images = HubImages(path, **HALVES).load().split("train").inputs["image"]
    assert {images.image(i).mode for i in range(len(images))} == {"RGB"}


def test_a_large_set_of_the_hub_is_pinned_by_its_commit(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digests(path: str, limit: int, commit: str | None) -> list[str]:
        monkeypatch.setattr(hub_task, "PINNED_BYTES", limit)
        spec = HubImages(path, **HALVES)
        vars(spec)["table"] = dataclasses.replace(spec.table, commit=commit)
        return [part["sha256"] for part in spec.manifest["splits"].values()]

    labels = [i % 3 for i in range(40)]
    other = parquet(tmp_path / "other.parquet", labels, classes(), shift=500)
    assert digests(file, 0, "a" * 40) == digests(other, 0, "a" * 40)
    assert digests(file, 1 << 30, "a" * 40) != digests(other, 1 << 30, "a" * 40)
    assert digests(file, 0, None) == digests(file, 1 << 30, "a" * 40)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test": "tran"}, r"'tran' \(key: data.test\). Did you mean 'train'"),
        ({"train": "train[:x]"}, r"data.train: 'train\[:x\]': "),
        ({"train": "train[:5]+train[3:8]"}, "names samples twice"),
        ({"test": "train[20:]"}, "data.train and data.test share 10 samples.*row"),
        ({"train": "train[:0]", "val": "train[:5]"}, "data.train: .* holds no sample"),
        ({"train": "train[:5]"}, r"data.val_share: 0.1 of 5 samples leaves none for val"),
        ({"val_share": 1.0}, "data.val_share: 1.0 not between"),
        ({"cut_seed": -1}, "data.cut_seed: expected 0 or more"),
        ({"image": "pictur"}, r"'pictur' \(key: data.image\). Did you mean 'picture'"),
        ({"label": "knd"}, r"'knd' \(key: data.label\). Did you mean 'kind'"),
        ({"label": "score"}, r"unknown column of classes 'score'"),
        ({"revision": "main"}, "is local and has no revisions"),
    ],
)
def test_a_setting_that_means_nothing_is_named(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    import datasets

    labels = [i % 3 for i in range(40)]
    score = (datasets.Value("float32"), [0.5] * 40)
    path = parquet(tmp_path / "p.parquet", labels, classes(), score=score)
    with pytest.raises(ConfigError, match=words):
        HubImages(path, **{**HALVES, **settings}).manifest_sha256


def test_a_choice_among_several_columns_is_asked_for(tmp_path: Path) -> None:
    labels = [i % 3 for i in range(40)]
    two = parquet(tmp_path / "p.parquet", labels, classes(), coarse=(classes("xyz"), labels))
    with pytest.raises(ConfigError, match=r"data.label: .*\['kind', 'coarse'\]"):
        HubImages(two, **HALVES).manifest_sha256
    assert HubImages(two, label="coarse", **HALVES).load().labels == ("x", "y", "z")


def test_rows_without_a_label_are_told(tmp_path: Path) -> None:
    labels = [i % 3 for i in range(35)] + [-1] * 5
    path = parquet(tmp_path / "p.parquet", labels, classes())
    with pytest.raises(ConfigError, match=r"data.test: 5 of 10 samples have no label.*row 35"):
        HubImages(path, **HALVES).manifest_sha256
    assert len(HubImages(path, train="train[:30]", test="train[30:35]").positions["test"]) == 5


def test_a_picture_that_is_absent_or_broken_is_named(tmp_path: Path, folder: Path) -> None:
    cells = [{"bytes": png(i), "path": None} for i in range(40)]
    cells[33] = {"bytes": png(33)[:60], "path": None}
    path = parquet(tmp_path / "p.parquet", [0, 1] * 20, classes("ab"), cells=cells)
    task = HubImages(path, **HALVES).load()
    task.open_test()
    with pytest.raises(CorruptAssetError, match=r"row 33 of 'train' of .*p\.parquet cannot be dec"):
        task.split("test").inputs["image"].image(3)
    none = parquet(tmp_path / "n.parquet", [0, 1] * 20, classes("ab"), cells=[*cells[:39], None])
    with pytest.raises(CorruptAssetError, match=r"row 39 of 'train' of .* has no image"):
        HubImages(none, **HALVES).manifest_sha256
    spec = HubImages(str(folder))
    task = spec.load()
    task.open_test()
    (folder / "test" / "cat" / "1.png").unlink()
    with pytest.raises(MissingAssetError, match=r"row 1 of 'test'.*cat/1\.png"):
        task.split("test").inputs["image"].image(1)


def test_a_path_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingAssetError, match="no folder or file /nowhere/at/all, and it is no"):
        HubImages("/nowhere/at/all").manifest_sha256
    with pytest.raises(MissingAssetError, match="no folder or file imagefolder"):
        HubImages("imagefolder").manifest_sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(PeftbenchError, match="empty"):
        HubImages(str(tmp_path / "empty")).manifest_sha256
    (tmp_path / "x.txt").write_text("no table")
    with pytest.raises(ConfigError, match=r"x\.txt is no parquet file"):
        HubImages(str(tmp_path / "x.txt")).manifest_sha256
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(CorruptAssetError, match=r"datasets cannot read .*x\.parquet"):
        HubImages(str(tmp_path / "x.parquet")).manifest_sha256


def test_an_unreachable_hub_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        MissingAssetError, match=r"me/pets cannot be loaded \(key: data.path\)"
    ) as e:
        HubImages("me/pets").manifest_sha256
    assert "http://127.0.0.1:9 cannot be reached" in str(e.value)
    assert "data.path=FOLDER" in str(e.value)


def test_without_the_package_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'peftbench\[data\]'"):
        HubImages(file).manifest_sha256


def test_labels_and_ids_are_tensors_of_int64(file: str) -> None:
    train = HubImages(file, **HALVES).load().split("train")
    assert train.labels.dtype == train.ids.dtype == torch.int64
