"""The check of a tree names everything that is missing, wrong or corrupt."""

import json
import shutil

import pytest
import trees

from peftbench.errors import ConfigError
from peftbench.tasks.check import check_fgvc, check_vtab, reports


def kinds(slips):
    return sorted({slip.kind for slip in slips})


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = trees.vtab(tmp_path_factory.mktemp("sound"), ["kitti"], test=None)
    trees.different(root, "kitti")
    return root


@pytest.fixture
def own(sound, tmp_path):
    shutil.copytree(sound / "kitti", tmp_path / "kitti")
    return tmp_path


def test_a_sound_task_passes_and_absent_ones_are_told(sound):
    (report,) = check_vtab(sound, ["kitti"])
    assert report.ok and report.wrong == () == report.notes and report.lines() == []
    assert report.images == 2711 and report.folder == sound / "kitti"
    found = check_vtab(sound, ["dtd", "kitti", "cifar100"])
    assert [r.task for r in found] == ["cifar100", "dtd", "kitti"]  # in the table's order
    assert [r.ok for r in found] == [False, False, True]
    assert f"there is no folder {sound}/cifar" in found[0].lines()[0]


def test_every_mistake_is_named(own):
    folder = own / "kitti"
    lines = (folder / "train800.txt").read_text().splitlines()
    lines[1] = lines[1].rpartition(" ")[0] + " 4"
    lines[3] = lines[2]
    lines[5] = "nonsense"
    lines[7] = "images/train800/nowhere.jpg 1"
    (folder / "train800.txt").write_text("\n".join(lines[:-1]))
    test = (folder / "test.txt").read_text().splitlines()
    (folder / "test.txt").write_text("\n".join([lines[8], *test[1:]]))
    shutil.copy(folder / "images/train800/000010.jpg", folder / "images/test/000020.jpg")
    data = (folder / "images/test/000030.jpg").read_bytes()
    (folder / "images/test/000030.jpg").write_bytes(data[: len(data) // 2])
    (folder / "images/val200/000003.jpg").write_bytes(b"no picture")
    (folder / "train800val200.txt").unlink()
    (folder / "names.txt").write_text("one\n")
    (report,) = check_vtab(own, ["kitti"])
    assert not report.ok and report.images == 1705  # 795 of train, 200, 710 of test
    found = [str(slip).removeprefix(f"{folder}/") for slip in report.wrong]
    expected = [
        "train800.txt: 799 lines, the published task has 800",
        "train800.txt, line 2: label 4 is out of range: there are 4 classes, 0 to 3",
        "train800.txt, line 6: 'nonsense' is not 'relative/path label' with a label from 0",
        "train800val200.txt: the list is not there",
        "train800.txt, line 8: the image images/train800/nowhere.jpg is not there",
        "train800.txt, line 4: the image images/train800/000002.jpg is already listed on line 3",
        "test.txt, line 1: the image images/train800/000008.jpg is in 'train' and in 'test'",
    ]
    for text in expected:
        assert text in found
    corrupt = [
        slip.path.relative_to(folder).as_posix() for slip in report.wrong if slip.line is None
    ]
    assert {"images/test/000030.jpg", "images/val200/000003.jpg"} <= set(corrupt)
    assert any("expected 4 different class names" in text for text in found)
    assert len(found) == len(expected) + 3
    (note,) = report.notes
    assert str(note) == (
        f"{folder}/test.txt, line 21: images/test/000020.jpg of 'test' has the same pixels as "
        "000010.jpg of 'train'"
    )


def test_equal_pixels_are_seen_in_any_format_and_only_between_splits(tmp_path):
    from PIL import Image

    root = trees.vtab(tmp_path, ["svhn"], train=4, val=3, test=2, ending="png")
    trees.different(root, "svhn")
    images = root / "svhn" / "images"
    shutil.copy(images / "train800/000000.png", images / "train800/000001.png")  # within one: fine
    with Image.open(images / "val200/000002.png") as picture:
        picture.save(images / "test/000001.png", compress_level=0)
    (report,) = check_vtab(root, ["svhn"])
    assert [str(n).rpartition("/test.txt, ")[2] for n in report.notes] == [
        "line 2: images/test/000001.png of 'test' has the same pixels as 000002.png of 'val'"
    ]
    assert kinds(report.wrong) == ["count"] and len(report.wrong) == 4


def test_a_union_with_other_labels_is_noted(own):
    path = own / "kitti" / "train800val200.txt"
    lines = path.read_text().splitlines()
    lines[0] = lines[0].rpartition(" ")[0] + " 3"
    path.write_text("\n".join(lines) + "\n")
    (report,) = check_vtab(own, ["kitti"])
    assert report.ok and kinds(report.notes) == ["union"]


def test_long_findings_are_cut_with_their_number(tmp_path):
    root = trees.vtab(tmp_path, ["dtd"], train=20, val=2, test=2)
    shutil.rmtree(root / "dtd" / "images" / "train800")
    (report,) = check_vtab(root, ["dtd"])
    lines = [line for line in report.lines(most=3) if ": missing: " in line]
    assert len(lines) == 4 and lines[3] == "wrong: missing: and 17 more"
    assert len([slip for slip in report.wrong if slip.kind == "missing"]) == 20


def test_fgvc_is_checked_alike(tmp_path):
    root = trees.fgvc_set(tmp_path, "cub")
    report = check_fgvc(root)[0]
    assert report.task == "cub" and report.ok and kinds(report.notes) == ["count", "overlap"]
    assert report.images == 800
    folder = root / "CUB_200_2011"
    (folder / "images" / "class 5" / "test_0.jpg").unlink()
    (folder / "images" / "class 6" / "test_0.jpg").unlink()
    (folder / "images" / "class 6" / "test_0.jpg").write_bytes(b"")
    entries = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps(entries | {"class 9/val_0.jpg": 9999}))
    report = check_fgvc(root, ["cub"])[0]
    assert kinds(report.wrong) == ["corrupt", "label", "missing"] and len(report.wrong) == 3
    assert [r.task for r in check_fgvc(root)] == ["cub", "nabirds", "flowers", "dogs", "cars"]
    (folder / "test.json").write_text("[]")
    (slip,) = check_fgvc(root, ["cub"])[0].wrong
    assert "test.json holds no JSON object" in slip.text


def test_names_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"\(key: tasks\)\. Did you mean 'kitti'"):
        reports("vtab1k", tmp_path, ["kiti"])
    with pytest.raises(ConfigError, match="unknown suite to check 'vtab'"):
        reports("vtab", tmp_path)


def test_links_to_nothing_and_impossible_names_are_told(own):
    folder = own / "kitti"
    gone = folder / "images/test/000003.jpg"
    gone.unlink()
    gone.symlink_to(own / "nowhere.jpg")
    inner = folder / "images/test/000004.jpg"
    inner.unlink()
    inner.mkdir()
    lines = (folder / "train800.txt").read_text().splitlines()
    lines[0] = "x" * 300 + "/a.jpg 0"
    (folder / "train800.txt").write_text("\n".join(lines))
    (report,) = check_vtab(own, ["kitti"])
    assert kinds(report.wrong) == ["missing"]
    assert [slip.line for slip in report.wrong if slip.path.name == "test.txt"] == [4, 5]
    assert [slip.line for slip in report.wrong if slip.path.name == "train800.txt"] == [1]
