"""VPT's json layout: ids ranked once, counts expected as far as they are known."""

import json
import shutil

import pytest
import trees

from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import fgvc
from peftbench.tasks.fgvc import Fgvc, FgvcTask


def edit(root, name, split, change):
    path = root / fgvc.TABLE[name].folders[0] / f"{split}.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize("name", fgvc.TABLE)
def test_every_set_is_found_in_its_folder(tmp_path, name):
    root = trees.fgvc_set(tmp_path, name, per_class=(1, 1, 1))
    task = FgvcTask(name, str(root), strict=False).load()
    row = fgvc.TABLE[name]
    assert task.name == f"fgvc/{name}" and len(task.labels) == row.classes
    paths = task.split("train").inputs["image"].paths
    assert len(paths) == row.classes and all(path.is_file() for path in paths)
    assert paths[0].parents[1] == root / row.folders[0] / row.images


def test_ids_are_ranked_by_train_once(tmp_path):
    """As NABirds: ids with gaps; val lacks a class, and its labels stay those of train."""
    root = trees.fgvc_set(tmp_path, "nabirds", per_class=(2, 1, 1), first_id=7, step=3)
    edit(root, "nabirds", "val", lambda e: e.pop("class 7/val_0.jpg"))
    spec = FgvcTask("nabirds", str(root))  # its counts are not certain: no error
    task = spec.load()
    assert task.labels[:3] == ("7", "10", "13") and len(task.labels) == 555
    train, val = task.split("train"), task.split("val")
    for split in (train, val):
        for path, label in zip(split.inputs["image"].paths, split.labels.tolist(), strict=True):
            assert path.parent.name == f"class {7 + 3 * label}"
    assert len(train) == 1110 and len(val) == 554
    assert val.ids[0] == 1110
    assert spec.manifest["deviations"] == [
        "train.json: 1110 images, expected 21536, a figure that is not certain",
        "val.json: 554 images, expected 2393, a figure that is not certain",
        "test.json: 555 images, expected 24633, a figure that is not certain",
    ]


def test_text_ids_and_names_of_classes(tmp_path):
    root = trees.fgvc_set(tmp_path, "cub")
    for split in ("train", "val", "test"):
        edit(root, "cub", split, lambda e: e.update({k: f"id{v:03}" for k, v in e.items()}))
    assert FgvcTask("cub", str(root)).load().labels[:2] == ("id001", "id002")
    names = [f"bird {i}" for i in range(200)]
    (root / "CUB_200_2011" / "names.txt").write_text("\n".join(names) + "\n")
    assert FgvcTask("cub", str(root)).load().labels == tuple(names)


def test_certain_counts_and_classes_are_errors(tmp_path):
    root = trees.fgvc_set(tmp_path, "flowers", per_class=(10, 10, 1))
    with pytest.raises(CorruptAssetError, match=r"test\.json: 102 images, expected 6149") as caught:
        FgvcTask("flowers", str(root)).load()
    assert "data.strict=false" in str(caught.value)
    assert f"check fgvc root={root} tasks=[flowers]" in str(caught.value)
    assert len(FgvcTask("flowers", str(root), strict=False).load().split("val")) == 1020
    trees.fgvc_set(root, "cub")
    for split in ("train", "val", "test"):
        edit(root, "cub", split, lambda e: [e.pop(k) for k in list(e) if e[k] == 5])
    with pytest.raises(CorruptAssetError, match="199 classes, the published set has 200"):
        FgvcTask("cub", str(root)).load()
    assert len(FgvcTask("cub", str(root), strict=False).load().labels) == 199


@pytest.mark.parametrize(
    ("split", "change", "words"),
    [
        ("val", {"class 1/val_0.jpg": 999}, "class id 999, which train.json does not have"),
        ("train", {"class 1/train_0.jpg": 1.5}, "has 1.5 instead of a class id"),
        ("train", {"class 1/train_0.jpg": True}, "has True instead of a class id"),
        ("test", {"../x.jpg": 1}, "is no path below the set's folder"),
        ("test", {"class 1/val_0.jpg": 1}, "is in 'val' and in 'test'"),
    ],
)
def test_an_entry_that_is_wrong_is_named(tmp_path, split, change, words):
    root = trees.fgvc_set(tmp_path, "dogs")
    edit(root, "dogs", split, lambda e: e.update(change))
    with pytest.raises(CorruptAssetError, match=words) as caught:
        FgvcTask("dogs", str(root)).load()
    assert f"{root}/Stanford-dogs/{split}.json: " in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(MissingAssetError, match=r"Stanford-cars, nor .*StanfordCars"):
        FgvcTask("cars", str(tmp_path)).load()
    root = trees.fgvc_set(tmp_path, "cars")
    spec = FgvcTask("cars", str(root))
    before = spec.manifest_sha256
    shutil.move(root / "Stanford-cars", root / "StanfordCars")  # the other name of the folder
    assert FgvcTask("cars", str(root)).manifest_sha256 == before
    (root / "StanfordCars" / "class 3" / "val_0.jpg").unlink()
    with pytest.raises(MissingAssetError, match=r"the image class 3/val_0\.jpg is not there"):
        FgvcTask("cars", str(root)).load()
    (root / "StanfordCars" / "val.json").write_text("{")
    with pytest.raises(CorruptAssetError, match=r"val\.json is not JSON"):
        FgvcTask("cars", str(root)).load()
    (root / "StanfordCars" / "val.json").write_text("{}")
    with pytest.raises(CorruptAssetError, match=r"val\.json: it names no image"):
        FgvcTask("cars", str(root)).load()
    (root / "StanfordCars" / "val.json").unlink()
    with pytest.raises(MissingAssetError, match=r"there is no file .*val\.json"):
        FgvcTask("cars", str(root)).load()


def test_a_corrupt_image_is_named_when_it_is_asked_for(tmp_path):
    root = trees.fgvc_set(tmp_path, "cub")
    path = root / "CUB_200_2011" / "images" / "class 200" / "train_1.jpg"
    path.unlink()
    path.write_bytes(b"no picture")
    train = FgvcTask("cub", str(root)).load().split("train")
    train.inputs["image"].image(0)
    with pytest.raises(CorruptAssetError, match=r"class 200/train_1\.jpg cannot be decoded"):
        train.inputs["image"].image(1)


def test_the_suite_of_five():
    suite = Fgvc("here", tasks=("dogs", "cub"))
    assert list(suite.members) == ["cub", "nabirds", "flowers", "dogs", "cars"]
    assert list(suite.selected()) == ["dogs", "cub"] and suite.groups == {}
    assert sum(row.classes for row in fgvc.TABLE.values()) * 769 / 5 == pytest.approx(
        180_407, abs=1
    )
    with pytest.raises(ConfigError, match=r"key: data\.task\)\. Did you mean 'cub'"):
        FgvcTask("cup", "here")
