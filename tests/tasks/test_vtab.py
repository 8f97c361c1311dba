"""VTAB-1K's list files: read as they lie, and every mistake named with its place."""

import json
import shutil

import numpy as np
import pytest
import trees
from PIL import Image

from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import ImageFiles, vtab_tables
from peftbench.tasks.vtab import Vtab1k, VtabTask

KITTI = vtab_tables.TABLE["kitti"]  # the smallest test list: 711


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The tree of one task with the published counts."""
    return trees.vtab(tmp_path_factory.mktemp("full"), ["kitti"], test=None)


@pytest.fixture
def tree(tmp_path):
    """A small tree of one task that a test may damage."""
    return trees.vtab(tmp_path / "data", ["dtd"], train=8, val=4, test=6)


def small(tree, task="dtd"):
    return VtabTask(task, str(tree), strict=False)


def lines_of(tree, name):
    return (tree / "dtd" / name).read_text().splitlines()


def rewrite(tree, name, change):
    lines = lines_of(tree, name)
    change(lines)
    (tree / "dtd" / name).write_text("".join(f"{x}\n" for x in lines))


def test_a_whole_task_is_read_as_its_lists_say(full):
    task = VtabTask("kitti", str(full)).load()
    assert task.name == "vtab1k/kitti" and task.labels == ("0", "1", "2", "3")
    task.open_test()
    splits = {name: task.split(name) for name in ("train", "val", "test")}
    assert {n: len(s) for n, s in splits.items()} == {"train": 800, "val": 200, "test": 711}
    train = splits["train"]
    assert isinstance(train.inputs["image"], ImageFiles) and not train.decoded
    assert train.labels[:6].tolist() == [0, 1, 2, 3, 0, 1]
    ids = [i for s in splits.values() for i in s.ids.tolist()]
    assert ids == list(range(1711))
    picture = full / "kitti" / "images" / "train800" / "000005.jpg"
    expected = np.asarray(Image.open(picture).convert("RGB"))
    assert np.array_equal(np.asarray(train.inputs["image"].image(5)), expected)


def test_the_manifest_is_of_the_lists_and_of_no_place(full, tmp_path):
    spec = VtabTask("kitti", str(full))
    manifest = spec.manifest
    assert manifest["splits"]["test"]["count"] == 711 and manifest["classes"] == 4
    assert manifest["deviations"] == [] and manifest["task"] == "vtab1k/kitti"
    assert str(full) not in json.dumps(manifest)
    elsewhere = tmp_path / "moved" / "vtab-1k"
    elsewhere.mkdir(parents=True)
    for path in (full / "kitti").glob("*.txt"):  # the lists are enough, no image is read
        (elsewhere / "kitti").mkdir(exist_ok=True)
        shutil.copy(path, elsewhere / "kitti" / path.name)
    moved = VtabTask("kitti", str(elsewhere.parent))
    assert moved.folder == elsewhere / "kitti"  # found below vtab-1k as well
    assert moved.manifest_sha256 == spec.manifest_sha256
    lines = (elsewhere / "kitti" / "test.txt").read_text().splitlines()
    (elsewhere / "kitti" / "test.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    swapped = VtabTask("kitti", str(elsewhere.parent))
    assert swapped.manifest_sha256 != spec.manifest_sha256


def test_a_digest_by_hand(tree):
    import hashlib

    text = "".join(f"{line}\n" for line in lines_of(tree, "val200.txt"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert small(tree).manifest["splits"]["val"] == {"count": 4, "sha256": digest}


def test_wrong_counts_are_refused_and_let_through_on_request(tree):
    strict = VtabTask("dtd", str(tree))
    with pytest.raises(CorruptAssetError) as caught:
        strict.manifest
    text = str(caught.value)
    assert f"{tree}/dtd/train800.txt: 8 images, the published task has 800" in text
    assert "and 3 more" in text and "data.strict=false" in text
    assert f"prepare_data.py check vtab1k root={tree} tasks=[dtd]" in text
    manifest = small(tree).load().manifest
    assert manifest["deviations"] == [
        "train800.txt: 8 images, the published task has 800",
        "val200.txt: 4 images, the published task has 200",
        "train800val200.txt: 12 images, the published task has 1000",
        "test.txt: 6 images, the published task has 1880",
    ]


def test_a_list_of_both_that_is_missing_is_a_deviation(full, tmp_path):
    shutil.copytree(full / "kitti", tmp_path / "kitti", copy_function=shutil.copy)
    (tmp_path / "kitti" / "train800val200.txt").unlink()
    with pytest.raises(CorruptAssetError, match=r"train800val200\.txt: the list is not there"):
        VtabTask("kitti", str(tmp_path)).load()
    task = VtabTask("kitti", str(tmp_path), strict=False).load()
    assert task.manifest["deviations"] == ["train800val200.txt: the list is not there"]


def damage(line):
    def change(lines):
        lines[2] = line

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage("images/train800/000002.jpg 47"), "label 47 is out of range: there are 47 classes"),
        (damage("images/train800/000002.jpg -1"), "is not 'relative/path label'"),
        (damage("images/train800/000002.jpg"), "is not 'relative/path label'"),
        (damage("images/train800/000002.jpg one"), "is not 'relative/path label'"),
        (damage("/images/train800/000002.jpg 1"), "is not 'relative/path label'"),
        (damage("../x/000002.jpg 1"), "is not 'relative/path label'"),
        (damage(""), "an empty line"),
    ],
)
def test_a_line_that_is_wrong_is_named(tree, change, words):
    rewrite(tree, "train800.txt", change)
    with pytest.raises(CorruptAssetError, match=words) as caught:
        small(tree).load()
    assert f"{tree}/dtd/train800.txt, line 3: " in str(caught.value)
    assert "check vtab1k" in str(caught.value)


def test_a_list_or_image_that_is_missing_is_named(tree):
    (tree / "dtd" / "images" / "test" / "000003.jpg").unlink()
    spec = small(tree)
    assert spec.manifest["splits"]["test"]["count"] == 6  # no image is looked at
    with pytest.raises(MissingAssetError) as caught:
        spec.load()
    assert f"{tree}/dtd/test.txt, line 4: the image images/test/000003.jpg is not there" in str(
        caught.value
    )
    (tree / "dtd" / "val200.txt").unlink()
    with pytest.raises(MissingAssetError, match=r"there is no file .*dtd/val200\.txt"):
        small(tree).load()


def test_an_image_in_two_splits_is_refused(tree):
    rewrite(tree, "test.txt", damage("images/train800/000001.jpg 1"))
    with pytest.raises(CorruptAssetError, match=r"test\.txt, line 3: .* is in 'train' and in 'te"):
        small(tree).load()


def test_a_corrupt_image_is_named_when_it_is_asked_for(tree):
    path = tree / "dtd" / "images" / "val200" / "000001.jpg"
    data = path.read_bytes()
    path.unlink()  # it is a link of others
    path.write_bytes(data[: len(data) // 2])
    val = small(tree).load().split("val")
    val.inputs["image"].image(0)
    with pytest.raises(CorruptAssetError, match=r"images/val200/000001\.jpg cannot be decoded"):
        val.inputs["image"].image(1)


def test_a_folder_that_is_not_there_is_told_with_what_makes_it(tmp_path):
    with pytest.raises(MissingAssetError) as caught:
        VtabTask("cifar100", str(tmp_path)).load()
    text = str(caught.value)
    assert f"no folder {tmp_path}/cifar, nor {tmp_path}/vtab-1k/cifar" in text
    assert f"build vtab1k root={tmp_path} archives=DIR tasks=[cifar100]" in text
    assert "data.root=PATH" in text and "$PEFTBENCH_DATA" in text


def test_class_names_and_source_are_read_where_they_are(tree):
    before = small(tree).manifest
    assert before["labels"][:2] == ["0", "1"] and before["source"] == {}
    names = [f"texture {i}" for i in range(47)]
    (tree / "dtd" / "names.txt").write_text("\n".join(names))
    (tree / "dtd" / "source.json").write_text('{"order": "tfds", "format": "png"}')
    after = small(tree)
    assert after.load().labels == tuple(names)
    assert after.manifest["source"] == {"order": "tfds", "format": "png"}
    (tree / "dtd" / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(CorruptAssetError, match="expected 47 different class names"):
        small(tree).load()
    (tree / "dtd" / "names.txt").unlink()
    (tree / "dtd" / "source.json").write_text("[1]")
    with pytest.raises(CorruptAssetError, match=r"source\.json holds no JSON object"):
        small(tree).load()


def test_png_lists_are_read_alike(tmp_path):
    tree = trees.vtab(tmp_path, ["svhn"], train=3, val=2, test=2, ending="png")
    image = small(tree, "svhn").load().split("train").inputs["image"].image(2)
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(tree / "models" / "2.png")))


def test_the_suite_hands_its_settings_to_every_member():
    suite = Vtab1k("here", strict=False)
    assert list(suite.members) == list(vtab_tables.TABLE) and len(suite.selected()) == 19
    assert all(m == VtabTask(n, "here", False) for n, m in suite.members.items())
    assert {g: len(t) for g, t in suite.groups.items()} == {
        "natural": 7,
        "specialized": 4,
        "structured": 8,
    }
    assert list(Vtab1k("here", tasks=("svhn", "dtd")).selected()) == ["svhn", "dtd"]
    with pytest.raises(ConfigError, match=r"data\.tasks\)\. Did you mean 'svhn'"):
        Vtab1k("here", tasks=("svhm",))
    with pytest.raises(ConfigError, match=r"key: data\.task\)\. Did you mean 'dtd'"):
        VtabTask("dtdd", "here")


def test_one_image_spelled_in_two_ways_is_one_image(tree):
    rewrite(tree, "val200.txt", lambda x: x.__setitem__(1, "./images//train800/000000.jpg 0"))
    with pytest.raises(CorruptAssetError, match=r"line 2: .*train800/000000.jpg is in"):
        small(tree).load()


def test_an_image_that_a_list_names_twice_is_refused(tree):
    rewrite(tree, "test.txt", lambda x: x.__setitem__(2, x[1]))
    with pytest.raises(CorruptAssetError, match=r"test.txt, line 3: .* already listed on line 2"):
        small(tree).load()


@pytest.mark.parametrize("kind", ["dangling", "loop", "folder"])
def test_what_has_an_images_name_and_is_no_file_is_missing(tree, kind):
    path = tree / "dtd" / "images" / "test" / "000003.jpg"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else tree / "nowhere.jpg")
    with pytest.raises(MissingAssetError, match=r"test.txt, line 4: .*000003.jpg is not there"):
        small(tree).load()


@pytest.mark.parametrize(
    "line", ["images/a.jpg " + "9" * 5000, "ima\0ges/a.jpg 1", "x" * 300 + "/a 1"]
)
def test_no_line_is_too_strange_to_be_named(tree, line):
    rewrite(tree, "train800.txt", lambda x: x.__setitem__(4, line))
    with pytest.raises((CorruptAssetError, MissingAssetError), match=r"train800.txt, line 5"):
        small(tree).load()


def test_a_byte_order_mark_is_no_part_of_the_first_path(tree):
    expected = small(tree).manifest_sha256
    path = tree / "dtd" / "train800.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert small(tree).manifest_sha256 == expected
    small(tree).load()


def test_the_command_in_a_message_can_be_pasted(tmp_path):
    spec = VtabTask("dtd", str(tmp_path / "my data"))
    assert f"root='{tmp_path}/my data' tasks=[dtd]" in spec.remedy
    with pytest.raises(MissingAssetError, match=f"root='{tmp_path}/my data' archives=DIR"):
        spec.load()
