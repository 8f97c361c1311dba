"""A person's own pictures: folders of splits, or a cut that keeps the shares of the classes."""

import json
import os
import shutil

import pytest
import trees

from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks.folder import ImageFolder


def fill(folder, counts, ending="jpg"):
    """Write ``counts[class]`` pictures, all different in size on disk or pixels."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            trees.picture(folder / name / f"p{i}.{ending}", 100 * number + i)


@pytest.fixture
def plain(tmp_path):
    fill(tmp_path / "pets", {"dog": 40, "cat": 20, "owl": 10})
    return tmp_path / "pets"


def names(split):
    return [f"{p.parent.name}/{p.name}" for p in split.inputs["image"].paths]


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    for split, counts in (
        ("train", {"b": 3, "a": 2}),
        ("val", {"a": 1}),
        ("test", {"a": 1, "b": 2}),
    ):
        fill(tmp_path / split, counts, "png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("not a picture")
    trees.picture(tmp_path / "train" / "a" / "more" / "Q.JPEG", 5)
    task = ImageFolder(str(tmp_path)).load()
    assert task.labels == ("a", "b") and task.name == "image_folder"
    assert names(task.split("train")) == ["more/Q.JPEG", "a/p0.png", "a/p1.png"] + [
        f"b/p{i}.png" for i in range(3)
    ]
    assert task.split("train").labels.tolist() == [0, 0, 0, 1, 1, 1]
    task.open_test()
    assert len(task.split("val")) == 1 and len(task.split("test")) == 3
    assert task.split("train").inputs["image"].image(0).size == (8, 8)


def test_a_cut_keeps_shares_and_is_made_by_the_seed(plain):
    spec = ImageFolder(str(plain), val=0.1, test=0.2)
    task = spec.load()
    task.open_test()
    splits = {name: task.split(name) for name in ("train", "val", "test")}
    assert {n: len(s) for n, s in splits.items()} == {"train": 49, "val": 7, "test": 14}
    assert task.labels == ("cat", "dog", "owl")
    assert splits["test"].labels.bincount().tolist() == [4, 8, 2]
    assert splits["val"].labels.bincount().tolist() == [2, 4, 1]
    everything = [n for s in splits.values() for n in names(s)]
    assert len(everything) == len(set(everything)) == 70
    again = ImageFolder(str(plain), val=0.1, test=0.2)
    assert again.manifest_sha256 == spec.manifest_sha256
    other = ImageFolder(str(plain), val=0.1, test=0.2, seed=1)
    assert names(other.load().split("val")) != names(splits["val"])


def test_val_is_cut_from_train_where_it_is_missing(plain, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(plain, root / "train")
    fill(root / "test", {"dog": 2})
    spec = ImageFolder(str(root), val=0.2)
    task = spec.load()
    assert len(task.split("train")) == 56 and len(task.split("val")) == 14
    assert task.split("val").labels.bincount().tolist() == [4, 8, 2]
    assert spec.manifest["cut"] == "folders, val cut from train"


def test_the_manifest_is_of_the_pictures_and_of_no_place(plain, tmp_path):
    spec = ImageFolder(str(plain))
    assert str(tmp_path) not in json.dumps(spec.manifest)
    shutil.copytree(plain, tmp_path / "copy")
    assert ImageFolder(str(tmp_path / "copy")).manifest_sha256 == spec.manifest_sha256
    trees.picture(tmp_path / "copy" / "dog" / "p3.jpg", 9, size=(16, 16))  # another picture
    assert ImageFolder(str(tmp_path / "copy")).manifest_sha256 != spec.manifest_sha256
    assert ImageFolder(str(plain), task="mine").load().name == "mine"


def test_what_is_missing_or_wrong_is_named(plain, tmp_path):
    with pytest.raises(MissingAssetError, match=r"there is no folder .*none \(key: data\.root\)"):
        ImageFolder(str(tmp_path / "none")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingAssetError, match="has no folders of classes"):
        ImageFolder(str(tmp_path / "empty")).load()
    (plain / "bat").mkdir()
    with pytest.raises(MissingAssetError, match="pets/bat holds no picture"):
        ImageFolder(str(plain)).load()
    fill(tmp_path / "half" / "train", {"a": 3})
    with pytest.raises(CorruptAssetError, match="there is only train; train and test are needed"):
        ImageFolder(str(tmp_path / "half")).load()
    fill(tmp_path / "half" / "test", {"b": 3})
    with pytest.raises(CorruptAssetError, match="test/b: train has no class of this name"):
        ImageFolder(str(tmp_path / "half")).load()
    fill(tmp_path / "few", {"a": 3})
    with pytest.raises(CorruptAssetError, match=r"2 pictures are too few .*key: data\.val"):
        ImageFolder(str(tmp_path / "few"), test=0.4).load()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"val": 0.0}, r"data\.val: a share between 0 and 1"),
        ({"test": 1.0}, r"data\.test: a share between 0 and 1"),
        ({"val": 0.5, "test": 0.5}, r"data\.val and data\.test: .* leave no train"),
        ({"task": ""}, r"data\.task: the task needs a name"),
    ],
)
def test_wrong_settings(values, words):
    with pytest.raises(ConfigError, match=words):
        ImageFolder("x", **values)


def test_a_corrupt_picture_is_named_when_it_is_asked_for(plain):
    (plain / "owl" / "p0.jpg").write_bytes(b"\xff\xd8\xff")
    task = ImageFolder(str(plain)).load()
    task.open_test()
    failed = []
    for name in ("train", "val", "test"):
        images = task.split(name).inputs["image"]
        for i in range(len(images)):
            try:
                images.image(i)
            except CorruptAssetError as error:
                failed.append(str(error))
    assert len(failed) == 1 and f"{plain}/owl/p0.jpg cannot be decoded" in failed[0]


def test_a_link_that_leads_back_is_not_followed_for_ever(plain):
    expected = ImageFolder(str(plain)).load().manifest["splits"]
    (plain / "dog" / "again").symlink_to(plain / "dog")
    assert ImageFolder(str(plain)).load().manifest["splits"] == expected


def test_a_picture_that_is_a_link_to_nothing_is_named(plain):
    (plain / "dog" / "gone.jpg").symlink_to(plain / "nowhere.jpg")
    with pytest.raises(MissingAssetError, match=r"dog/gone.jpg"):
        _ = ImageFolder(str(plain)).manifest_sha256


def test_names_that_are_no_utf8_are_read(plain):
    for old, new in (("dog/p0.jpg", b"dog/\xe9.jpg"), ("cat", b"\xe9")):
        os.rename(plain / old, os.fsencode(plain) + b"/" + new)
    task = ImageFolder(str(plain)).load()
    split = task.split("train")
    assert len(task.labels) == 3 and all(split.inputs["image"].image(i) for i in range(len(split)))


def test_own_pictures_stand_upright_and_published_ones_as_they_are_stored(tmp_path):
    from PIL import Image

    from peftbench.tasks.images import ImageFiles

    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=turned)
    assert ImageFiles((tmp_path / "a.jpg",)).image(0).size == (4, 8)
    assert ImageFiles((tmp_path / "a.jpg",), upright=False).take([0]).image(0).size == (8, 4)


def test_the_readers_keep_to_that(plain, tmp_path):
    import trees

    from peftbench.tasks.folder import ImageFolder
    from peftbench.tasks.vtab import VtabTask

    own = ImageFolder(root=str(plain)).load()
    assert own.split("train").inputs["image"].upright
    root = trees.vtab(tmp_path / "v", ["dtd"], train=4, val=2, test=3)
    published = VtabTask("dtd", str(root), strict=False).load()
    assert not published.split("train").inputs["image"].upright
