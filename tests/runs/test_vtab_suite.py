"""The line that the project exists for, ``data=vtab1k``, on a small tree of all 19 tasks."""

import json
import shutil
from fractions import Fraction
from types import SimpleNamespace

import hydra
import pytest
import trees

from peftbench.runs import cli
from peftbench.tasks import vtab_tables

from .conftest import ROOT

GROUPS = {
    "natural": ["cifar100", "caltech101", "dtd", "flowers102", "pets", "svhn", "sun397"],
    "specialized": ["patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"],
    "structured": [
        "clevr_count",
        "clevr_dist",
        "dmlab",
        "kitti",
        "dsprites_loc",
        "dsprites_ori",
        "smallnorb_azi",
        "smallnorb_ele",
    ],
}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Do in this process what ``train.py`` does, with the project's own configurations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    decorate = hydra.main(
        version_base="1.3", config_path=str(ROOT / "configs"), config_name="config"
    )

    def run(*arguments):
        common = ["backbone=vit_tiny_random", "method=lora", "trainer.max_steps=1"]
        code = cli.guard(decorate(cli.job), [*common, *arguments])
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


def exact(values):
    """Return the mean in rational arithmetic, rounded once."""
    return float(sum(map(Fraction, values)) / len(values))


def only(paths):
    (path,) = paths
    return json.loads(path.read_text())


def test_all_tasks_run_one_failure_stops_no_other_and_the_means_are_exact(command, tmp_path):
    root = trees.vtab(tmp_path / "data" / "vtab-1k", train=12, val=6, test=9)
    broken = root / "dtd" / "images" / "train800" / "000004.jpg"
    shutil.move(broken, tmp_path / "kept.jpg")
    broken.write_bytes(b"no picture")
    line = ("data=vtab1k", "data.strict=false", "study=v")

    first = command(*line)
    assert first.code == 2 and "Traceback" not in first.err
    assert f"error: the image {broken.relative_to(tmp_path)} cannot be decoded" in first.err
    summary = only((tmp_path / "outputs" / "v").glob("*/suite.json"))
    assert summary["status"] == "incomplete" and summary["missing"] == ["dtd"]
    assert "dtd/images/train800/000004.jpg" in summary["tasks"]["dtd"]["error"]
    assert summary["mean_of_tasks"] is None and summary["mean_of_groups"] is None
    assert summary["groups"]["natural"]["mean"] is None
    assert summary["groups"]["structured"]["mean"] is not None
    assert sum("value" in task for task in summary["tasks"].values()) == 18

    shutil.move(tmp_path / "kept.jpg", broken)
    second = command(*line)
    assert second.code == 0 and second.out.count("already done") == 18
    warned = "task 'vtab1k/dtd' is not the published one: test.txt: 9 images, the published task"
    assert warned in second.err
    summary = only((tmp_path / "outputs" / "v").glob("*/suite.json"))
    assert summary["status"] == "finished" and summary["choice"] is None
    assert list(summary["tasks"]) == list(vtab_tables.TABLE)

    values = {}
    for name, task in summary["tasks"].items():
        result = json.loads((tmp_path / "outputs/v" / task["run_id"] / "result.json").read_text())
        assert result["task"] == result["data"] == f"vtab1k/{name}"
        assert result["data_manifest"]["deviations"] == task["deviations"] != []
        assert result["cost"]["steps"] == 2  # one on train, one on train and val
        values[name] = result["primary"]["value"]
        assert task["value"] == values[name]
    assert len(set(values.values())) > 2
    means = {group: exact([values[n] for n in names]) for group, names in GROUPS.items()}
    assert summary["groups"] == {
        g: {"tasks": GROUPS[g], "of": len(GROUPS[g]), "mean": m} for g, m in means.items()
    }
    assert summary["of"] == 19
    assert summary["mean_of_groups"] == exact(means.values())
    assert summary["mean_of_tasks"] == exact(values.values()) != summary["mean_of_groups"]

    alone = command("data=vtab1k/dtd", "data.strict=false", "study=v")
    assert alone.code == 0 and f"already done: outputs/v/{summary['tasks']['dtd']['run_id']}" in (
        alone.out
    )


def test_wrong_counts_and_a_missing_task_are_named_with_their_place(command, tmp_path):
    root = trees.vtab(tmp_path / "tree", ["kitti"], train=12, val=6, test=9)
    done = command("data=vtab1k", f"data.root={root}", "data.tasks=[kitti,dtd]", "study=w")
    assert done.code == 2 and "Traceback" not in done.err
    assert f"{root}/kitti/train800.txt: 12 images, the published task has 800" in done.err
    assert f"check vtab1k root={root} tasks=[kitti]" in done.err
    assert f"there is no folder {root}/dtd, nor {root}/vtab-1k/dtd" in done.err
    summary = only((tmp_path / "outputs" / "w").glob("*/suite.json"))
    assert summary["missing"] == ["dtd", "kitti"] and summary["choice"] == ["dtd", "kitti"]


def test_a_suite_without_any_data_says_so_once_and_leaves_nothing(command, tmp_path):
    found = command("data=vtab1k", "study=v")
    assert found.code == 2 and found.err.count("error:") == 1
    assert "none of the 19 tasks of vtab1k can run" in found.err
    assert "scripts/prepare_data.py build vtab1k" in found.err
    assert not (tmp_path / "outputs").exists()


def test_what_ails_all_tasks_alike_is_said_in_full_once(command, tmp_path):
    trees.vtab(tmp_path / "data" / "vtab-1k", ["dtd", "svhn", "kitti"], train=12, val=6, test=9)
    missing = "backbone.weights=no_such_file.safetensors"
    found = command(
        *("data=vtab1k", "data.strict=false", "data.tasks=[dtd,svhn,kitti]", "study=v"),
        *("backbone=vit_s16", missing),
    )
    assert found.code == 2 and found.err.count("there is no file no_such_file.safetensors") == 1
    assert found.err.count("fails as 'dtd' did") == 2
    summary = only((tmp_path / "outputs" / "v").glob("*/suite.json"))
    assert summary["missing"] == ["dtd", "kitti", "svhn"]
