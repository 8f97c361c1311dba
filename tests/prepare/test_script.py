"""``scripts/prepare_data.py``: the three commands, what they print and how they end."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from peftbench.prepare.catalogue import ORIGINS
from peftbench.tasks.vtab_tables import TABLE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def main():
    path = ROOT / "scripts" / "prepare_data.py"
    spec = importlib.util.spec_from_file_location("prepare_data", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_data"] = module  # its settings are dataclasses
    spec.loader.exec_module(module)
    return module.main


def test_list_names_every_archive_and_what_needs_a_hand(main, capsys) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for task in TABLE:
        assert f"\n{task}: " in f"\n{text}"
    for origin in ORIGINS.values():
        assert origin.page in text and origin.access in text
        for archive in origin.archives:
            assert archive.name in text
            assert not archive.bytes or f"{archive.bytes:,} bytes" in text
    by_hand = {name for name, origin in ORIGINS.items() if origin.by_hand}
    assert by_hand == {"sun397", "resisc45", "diabetic_retinopathy"}


def test_list_says_what_is_missing_in_a_folder(main, capsys, archives: Path, tmp_path) -> None:
    shutil.copy(archives / "102flowers.tgz", tmp_path)
    assert main(["list", f"archives={tmp_path}", "tasks=[flowers102,dmlab]"]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if "missing" in line]
    assert found == ["  missing  imagelabels.mat, setid.mat", "  missing  dmlab.tar.gz"]


def test_build_goes_on_behind_a_task_that_fails(main, capsys, archives, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("dtd-r1.0.1.tar.gz", "train_32x32.mat", "test_32x32.mat"):
        shutil.copy(archives / name, few)
    where = [f"root={tmp_path / 'out'}", f"archives={few}", "tasks=[svhn,pets,dtd]"]
    assert main(["build", "vtab1k", *where, "strict=false"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "dtd",
        "svhn",
        "1 of 3 tasks not built",
    ]
    assert "pets: not built" in err and "holds no images.tar.gz" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dtd", "svhn"]
    assert main(["build", "vtab1k", *where[:2], "tasks=[dtd]", "strict=false"]) == 0
    assert "dtd: is there" in capsys.readouterr().out


def test_published_sizes_are_asked_for_unless_said_otherwise(main, capsys, archives, tmp_path):
    where = [f"root={tmp_path}", f"archives={archives}", "tasks=[svhn]"]
    assert main(["build", "vtab1k", *where]) == 1
    assert "the published one has 182040794" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_check_names_what_is_wrong_and_ends_with_one(main, capsys, archives, tmp_path) -> None:
    root = tmp_path / "out"
    where = [f"root={root}", f"archives={archives}", "tasks=[kitti,dtd]", "strict=false"]
    assert main(["build", "vtab1k", *where]) == 0
    image = root / "kitti" / "images" / "test" / "000002.png"
    image.write_bytes(image.read_bytes()[:100])
    (root / "dtd" / "images" / "val200" / "000001.jpg").unlink()
    capsys.readouterr()
    assert main(["check", "vtab1k", f"root={root}", "tasks=[dtd,kitti,svhn]"]) == 1
    text = capsys.readouterr().out
    assert f"{image}: it cannot be decoded" in text
    assert "the image images/val200/000001.jpg is not there" in text
    assert "svhn: WRONG" in text and "there is no folder" in text
    assert text.splitlines()[-1] == "0 of 3 tasks are whole; not: dtd, svhn, kitti"


def test_check_of_fgvc_goes_through_the_same_command(main, capsys, tmp_path) -> None:
    assert main(["check", "fgvc", f"root={tmp_path}"]) == 1
    assert "0 of 5 tasks are whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["build"], "unknown suite '(none named)'"),
        (["build", "vtab1", "root=a", "archives=b"], "Did you mean 'vtab1k'?"),
        (["build", "fgvc", "root=a", "archives=b"], "choices: vtab1k"),
        (["build", "vtab1k", "archives=b"], "root: a value is needed here"),
        (["build", "vtab1k", "root=a", "archives=/nowhere"], "(key: archives)"),
        (["build", "vtab1k", "root=a", "archives=.", "tasks=[dttd]"], "Did you mean 'dtd'?"),
        (["build", "vtab1k", "root=a", "archives=.", "format=jpg"], "choices: jpeg, original, png"),
        (["build", "vtab1k", "root=a", "archives=.", "order=hash"], "choices: source, tfds"),
        (["build", "vtab1k", "root=a", "archives=.", "strict=no"], "strict: expected bool"),
        (["build", "vtab1k", "root=a", "archives=.", "splits=/no.json"], "(key: splits)"),
        (["check", "vtab1k", "root=/nowhere"], "there is no folder /nowhere (key: root)"),
        (["list", "vtab1k", "root=a"], "unknown setting 'root'"),
    ],
)
def test_a_slip_is_told_in_words(main, capsys, arguments: list[str], text: str) -> None:
    assert main(arguments) == 2
    assert text in capsys.readouterr().err
    assert not Path("a").exists()
