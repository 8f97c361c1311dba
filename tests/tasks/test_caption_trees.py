"""COCO, Flickr and NoCaps on a disk: layouts, splits, identity, and what can be wrong."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import caption_layouts as layouts
import pytest

from peftbench import spec
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import Coco, Flickr, NoCaps, caption_metrics
from peftbench.tasks.caption_trees import COUNTS, Limit
from peftbench.tasks.check import reports

ROOT = Path(__file__).parents[2]
PARTS = (
    dict.fromkeys(range(1, 21), "train")
    | dict.fromkeys(range(101, 105), "restval")
    | dict.fromkeys(range(105, 108), "val")
    | dict.fromkeys(range(108, 112), "test")
)


def ids(task):
    return {name: part.image_ids for name, part in task.splits.items()}


@pytest.fixture
def tree(tmp_path):
    """Karpathy's file over the folders of 2014."""
    root = layouts.coco(tmp_path / "coco", 2014, range(1, 21), range(101, 112))
    layouts.karpathy(root / "dataset_coco.json", PARTS)
    return root


def test_restval_is_trained_on(tree):
    task = Coco(root=str(tree)).load()
    assert task.name == "coco/karpathy"
    assert ids(task) == {
        "train": (*range(1, 21), *range(101, 105)),
        "val": (105, 106, 107),
        "test": (108, 109, 110, 111),
    }
    train = task.splits["train"]
    assert train.references[0] == ("Picture 1 shows thing 0.", "Picture 1 shows thing 1.")
    paths = train.images.paths
    assert paths[0] == tree / "train2014" / "COCO_train2014_000000000001.jpg"
    assert paths[-1] == tree / "val2014" / "COCO_val2014_000000000104.jpg"
    assert train.images.image(0).size == (8, 8)
    every = [i for part in task.splits.values() for i in part.ids.tolist()]
    assert every == list(range(31))
    assert task.manifest["splits"]["test"]["captions"] == 8
    assert "restval belongs to train" in task.manifest["cut"]


def test_karpathys_splits_over_the_folders_of_2017(tree, tmp_path):
    """Their val and test images lie in both folders of 2017."""
    old = Coco(root=str(tree))
    root = layouts.coco(tmp_path / "new", 2017, [*range(1, 21), 101, 105, 108], range(102, 112))
    (root / "val2017" / "000000000105.jpg").unlink()
    (root / "val2017" / "000000000108.jpg").unlink()
    shutil.copy(tree / "dataset_coco.json", root / "annotations" / "dataset_coco.json")
    spec = Coco(root=str(root))
    assert spec.manifest_sha256 == old.manifest_sha256
    test = spec.load().splits["test"]
    assert [path.parent.name for path in test.images.paths] == ["train2017", *["val2017"] * 3]


@pytest.mark.parametrize("year", [2014, 2017])
def test_the_authors_parts(tmp_path, year):
    root = layouts.coco(tmp_path, year)
    spec = Coco(root=str(root), source=f"coco{year}")
    task = spec.load()
    found = ids(task)
    assert found["test"] == tuple(range(101, 111))
    assert len(found["val"]) == 2 and len(found["train"]) == 38
    assert sorted(found["train"] + found["val"]) == list(range(1, 41))
    assert ids(Coco(root=str(root), source=f"coco{year}").load()) == found
    assert f"val{year} is test" in task.manifest["cut"] and "seed 42" in task.manifest["cut"]
    assert task.manifest["deviations"] == [
        f"train{year}: 40 images, the published part has {COUNTS[f'coco{year}'][f'train{year}']:,}",
        f"val{year}: 10 images, the published part has {COUNTS[f'coco{year}'][f'val{year}']:,}",
    ]
    assert len(ids(Coco(root=str(root), source=f"coco{year}", val=0.25).load())["val"]) == 10


def test_published_counts_are_no_deviation(tree, monkeypatch):
    monkeypatch.setitem(COUNTS, "karpathy", {"train": 24, "val": 3, "test": 4})
    assert Coco(root=str(tree)).manifest["deviations"] == []


def test_a_limit_chooses_by_ids_and_is_told(tree):
    whole = Coco(root=str(tree))
    few = Coco(root=str(tree), limit=Limit(train=5, test=2))
    found = ids(few.load())
    assert (len(found["train"]), len(found["val"]), len(found["test"])) == (5, 3, 2)
    assert set(found["train"]) < set(ids(whole.load())["train"])
    assert ids(Coco(root=str(tree), limit=Limit(train=5, test=2)).load()) == found
    more = ids(Coco(root=str(tree), limit=Limit(train=6)).load())["train"]
    assert set(found["train"]) < set(more)
    assert "train: 5 of 24 images (data.limit)" in few.manifest["deviations"]
    assert few.manifest_sha256 != whole.manifest_sha256
    built = spec.build(spec.to_spec(few))
    assert built == few and built.manifest_sha256 == few.manifest_sha256


def test_the_manifest_needs_no_picture_and_names_no_folder(tree, tmp_path):
    first = Coco(root=str(tree)).manifest_sha256
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tree / "dataset_coco.json", tmp_path / "elsewhere")
    other = Coco(root=str(tmp_path / "elsewhere"))
    assert other.manifest_sha256 == first
    assert str(tmp_path) not in json.dumps(other.manifest)
    layouts.edit(tree / "dataset_coco.json", lambda v: v["images"][0]["sentences"].pop())
    assert Coco(root=str(tree)).manifest_sha256 != first


def test_a_missing_picture_is_named(tree):
    (tree / "val2014" / "COCO_val2014_000000000108.jpg").unlink()
    with pytest.raises(MissingAssetError) as error:
        Coco(root=str(tree)).load()
    text = str(error.value)
    assert "dataset_coco.json: the picture of image 108 is not there" in text
    assert "val2014/COCO_val2014_000000000108.jpg or train2017/000000000108.jpg" in text
    assert f"prepare_data.py check coco root={tree} tasks=[karpathy]" in text


@pytest.mark.parametrize("source", ["karpathy", "coco2014"])
def test_a_picture_without_captions_is_named(tree, source):
    def silent(value):
        if source == "karpathy":
            value["images"][3]["sentences"] = [{"raw": " \n"}]
        else:
            value["annotations"] = [a for a in value["annotations"] if a["image_id"] != 4]

    name = "dataset_coco.json" if source == "karpathy" else "annotations/captions_train2014.json"
    layouts.edit(tree / name, silent)
    with pytest.raises(CorruptAssetError, match=rf"{Path(name).name}: image 4 \(.*\) has no capt"):
        Coco(root=str(tree), source=source).load()


def test_an_image_that_is_there_twice_is_named(tree):
    def twice(value):
        value["images"].append({**value["images"][0], "split": "test"})

    layouts.edit(tree / "dataset_coco.json", twice)
    with pytest.raises(CorruptAssetError, match=r"image 1 \(.*\) is listed twice, in train and in"):
        Coco(root=str(tree)).load()
    path = tree / "annotations" / "captions_train2014.json"
    layouts.edit(path, lambda v: v["images"].append(v["images"][0]))
    with pytest.raises(
        CorruptAssetError, match=r"captions_train2014.json: image 1 \(.*\) is listed"
    ):
        Coco(root=str(tree), source="coco2014").load()


def test_an_image_in_two_parts_is_named(tmp_path):
    root = layouts.coco(tmp_path, 2017, range(1, 21), range(20, 31))
    with pytest.raises(CorruptAssetError) as error:
        Coco(root=str(root), source="coco2017").load()
    text = "captions_val2017.json: image 20 is in 'train2017' (captions_train2017.json) and in"
    assert text in str(error.value)


def test_captions_of_an_image_that_is_not_listed_are_named(tree):
    path = tree / "annotations" / "captions_val2014.json"
    layouts.edit(path, lambda v: v["annotations"].extend(layouts.said([999])))
    with pytest.raises(CorruptAssetError, match="captions of image 999, which is not listed"):
        Coco(root=str(tree), source="coco2014").load()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v["images"][2].pop("split"), "entry 2 of 'images' is not as it should be"),
        (lambda v: v["images"][2].update(split="dev"), "entry 2 of 'images' .*dev"),
        (lambda v: v["images"][2].update(cocoid=1.5), "1.5 is no id"),
        (lambda v: v["images"][2].update(filename="../x.jpg"), "no file below the folder"),
        (lambda v: v["images"][2].update(sentences=["a"]), "entry 2 of 'images'"),
        (lambda v: v.pop("images"), "a list 'images' is needed, there is dataset"),
    ],
)
def test_a_malformed_file_is_named(tree, change, reason):
    layouts.edit(tree / "dataset_coco.json", change)
    with pytest.raises(CorruptAssetError, match=reason) as error:
        Coco(root=str(tree)).load()
    assert "dataset_coco.json" in str(error.value)


def test_a_split_without_images_is_named(tree):
    layouts.karpathy(tree / "dataset_coco.json", {i: p for i, p in PARTS.items() if p != "test"})
    with pytest.raises(MissingAssetError, match="no image is in 'test'"):
        Coco(root=str(tree)).load()


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(MissingAssetError, match=r"there is no folder .*nowhere \(key: data.root\)"):
        Coco(root=str(tmp_path / "nowhere")).load()
    with pytest.raises(MissingAssetError, match=r"no dataset_coco.json nor annotations/dataset_c"):
        Coco(root=str(tmp_path)).load()
    with pytest.raises(MissingAssetError, match=r"captions_train2017.json"):
        Coco(root=str(tmp_path), source="coco2017").load()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"val": 1.0}, "data.val"),
        ({"limit": {"train": 0}}, "data.limit.train"),
        ({"limit": {"trian": 5}}, "Did you mean 'train'"),
        ({"source": "coco2018"}, "coco2017"),
        ({"written": 0}, "data.written"),
        ({"beams": 3}, "data.written says"),
        ({"longest_target": 0}, "data.longest_target"),
    ],
)
def test_wrong_settings_are_refused(settings, reason):
    target = {"_target_": "peftbench.tasks.caption_trees.Coco", "root": "x"}
    with pytest.raises(ConfigError, match=reason):
        spec.build(target | settings, "data")


def test_captions_are_not_written_where_nobody_can_score_them(tree, monkeypatch):
    task = Coco(root=str(tree), written=20, beams=3, longest_target=30).load()
    assert (task.written, task.beams, task.longest_target) == (20, 3, 30)
    monkeypatch.setattr(caption_metrics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingAssetError, match=r"peftbench\[captions\]"):
        Coco(root=str(tree), written=20).load()
    assert Coco(root=str(tree)).load().written is None


@pytest.mark.parametrize(
    ("task", "folder"),
    [("flickr30k", "flickr30k-images"), ("flickr30k", "images"), ("flickr8k", "Flicker8k_Dataset")],
)
def test_flickr(tmp_path, task, folder):
    parts = dict.fromkeys(range(1, 7), "train") | {7: "val", 8: "test"}
    layouts.karpathy(tmp_path / f"dataset_{task}.json", parts, task)
    for i in parts:
        layouts.picture(tmp_path / folder / f"{i}.jpg", i)
    loaded = Flickr(root=str(tmp_path), task=task).load()
    assert loaded.name == task and {n: len(p) for n, p in loaded.splits.items()} == {
        "train": 6,
        "val": 1,
        "test": 1,
    }
    assert loaded.splits["test"].image_ids == (7,)  # imgid
    assert loaded.splits["test"].images.paths == (tmp_path / folder / "8.jpg",)
    assert len(loaded.manifest["deviations"]) == 3


@pytest.fixture
def nocaps(tree, tmp_path):
    domains = {0: "in-domain", 1: "near-domain", 2: "out-domain", 3: "out-domain"}
    root = layouts.nocaps(tmp_path / "nocaps", domains)
    return lambda **more: NoCaps(root=str(root), train=Coco(root=str(tree)), **more)


def test_nocaps_is_the_test_split_of_a_task_trained_elsewhere(nocaps, tree):
    task = nocaps().load()
    coco = Coco(root=str(tree)).load()
    assert ids(task) == {**ids(coco), "test": (0, 1, 2, 3)}
    assert len(task.splits["test"].references[0]) == 10
    every = [i for part in task.splits.values() for i in part.ids.tolist()]
    assert len(set(every)) == len(every) == 31
    assert task.manifest["splits"]["train"] == coco.manifest["splits"]["train"]
    assert "val: 4 images, the published part has 4,500" in task.manifest["deviations"]
    assert task.manifest_sha256 == nocaps().manifest_sha256
    out = nocaps(domain="out-domain")
    assert ids(out.load())["test"] == (2, 3) and out.name == "nocaps/out-domain"
    assert len(ids(nocaps(limit=3).load())["test"]) == 3


def test_nocaps_has_nothing_to_train_on(nocaps, tmp_path):
    target = {"_target_": "peftbench.tasks.nocaps.NoCaps", "root": "x"}
    with pytest.raises(ConfigError, match=r"data\.train: a value is needed here"):
        spec.build(target, "data")
    with pytest.raises(ConfigError, match="NoCaps has no part to train on"):
        NoCaps(root="x", train=nocaps())
    with pytest.raises(ConfigError, match="Did you mean 'out-domain'"):
        nocaps(domain="outdomain")
    layouts.edit(
        tmp_path / "nocaps" / "nocaps_val_4500_captions.json",
        lambda v: [image.pop("domain") for image in v["images"]],
    )
    assert len(ids(nocaps().load())["test"]) == 4
    with pytest.raises(MissingAssetError, match="no image has the domain 'in-domain'"):
        nocaps(domain="in-domain").load()


def test_the_check_of_a_tree_names_everything(tree, capsys, monkeypatch):
    path = ROOT / "scripts" / "prepare_data.py"
    module_spec = importlib.util.spec_from_file_location("prepare_data", path)
    script = importlib.util.module_from_spec(module_spec)
    monkeypatch.setitem(sys.modules, "prepare_data", script)  # dataclasses look it up
    module_spec.loader.exec_module(script)
    assert script.main(["check", "coco", f"root={tree}", "tasks=[karpathy]"]) == 0
    out = capsys.readouterr().out
    assert "karpathy: ok, 31 images decoded" in out and "published part has 113,287" in out
    (tree / "train2014" / "COCO_train2014_000000000002.jpg").unlink()
    (tree / "train2014" / "COCO_train2014_000000000003.jpg").write_bytes(b"no picture")
    layouts.edit(tree / "dataset_coco.json", lambda v: v["images"][0].update(sentences=[]))
    (report,) = reports("coco", tree, ["karpathy"])
    assert sorted(slip.kind for slip in report.wrong) == ["caption", "corrupt", "missing"]
    assert script.main(["check", "coco", f"root={tree}"]) == 1
    assert "coco2017: WRONG" in capsys.readouterr().out  # there are no files of 2017
