"""The published figures as they are read, and the names under which they meet ours."""

import csv

import pytest
import tiny
import yaml

from peftbench.errors import ConfigError, CorruptAssetError
from peftbench.reports import published
from peftbench.reports.collect import suite_of


def row(suite, method, key, paper):
    found = [r for k, r in published.find(suite, method) if k == key and r.paper.startswith(paper)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind, count", [("vision", 1154), ("nlp", 760), ("multimodal", 136)])
def test_every_line_is_a_row_with_its_source(kind, count):
    rows = published.rows(kind)
    assert len(rows) == count
    assert all(r.source and r.paper and r.method and r.dataset and r.metric for r in rows)


def test_figures_are_those_of_the_tables():
    lora = row("vtab1k", "LoRA", "mean_19_tasks", "V-PETL")
    assert (lora.value, lora.metric, lora.trainable_params_m) == (72.25, "top1_mean_of_19", 0.29)
    assert lora.source.startswith("README of github.com/synbol/")
    assert row("vtab1k", "LoRA", "dtd", "NOAH").value == 69.4
    assert row("fgvc", "Full fine-tuning", "mean_5", "U-Tuning").value == 88.54
    assert row("cifar100", "SSF, last epoch (109)", "cifar100_full", "SSF").dataset == (
        "cifar100_full"
    )


def test_a_published_mean_is_the_mean_of_its_row():
    """The derived means say that they were averaged from the row: so they must be."""
    suite = published.suite("vtab1k")
    rows = {k: r.value for k, r in published.find("vtab1k", "LoRA") if r.paper == "V-PETL Bench"}
    groups = {g: [rows[t] for t in suite.groups[g]] for g in suite.groups}
    for name, values in groups.items():
        assert rows[f"mean_{name}"] == pytest.approx(sum(values) / len(values), abs=0.0051)
    every = [v for values in groups.values() for v in values]
    assert len(every) == 19
    assert rows["mean_19_tasks"] == pytest.approx(sum(every) / 19, abs=0.0051)


def test_differences_between_methods_are_no_scores():
    gain = [r for r in published.rows() if r.is_difference]
    assert {r.value for r in gain} >= {2.25}
    assert not any(r.is_difference for _, r in published.find("vtab1k"))


def test_every_vtab_and_fgvc_row_has_a_place():
    places = {"vtab1k": published.find("vtab1k"), "fgvc": published.find("fgvc")}
    for suite, found in places.items():
        rows = [r for r in published.rows() if r.dataset.startswith(f"{suite}/")]
        assert len(found) == sum(not r.is_difference for r in rows) > 100


def test_suites_hold_what_their_papers_hold():
    vtab = published.suite("vtab1k")
    assert [len(g) for g in vtab.groups.values()] == [7, 4, 8]
    assert vtab.ours["kitti"] == "kitti_dist"
    assert len(published.suite("fgvc").tasks) == 5
    assert published.find("pocket_vision") == []


def test_names_are_those_of_configurations_and_tables():
    tables = {r.method for r in published.rows()}
    for method in published.methods():
        assert set(published.names_of(method)) <= tables, method
    known = {m for m in published.methods() if m in tiny.METHODS}
    assert known >= {"lora", "adapter", "ssf", "vpt_deep", "u_tuning", "linear", "full"}
    for name in ("vit_b16", "vit_b16_orig"):
        config = tiny.config("backbone", name)
        wanted = published.network_of(name).settings
        assert {k: config[k] for k in wanted} == wanted
    texts = {r.pretrain for r in published.rows()}
    for name in ("vit_b16", "vit_b16_orig"):
        network = published.network_of(name)
        assert {*network.same, *network.unsaid} <= texts
    assert published.network_of("dinov2_small") is None


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'vtab1k'"):
        published.suite("vtab1")
    with pytest.raises(ConfigError, match="vision"):
        published.rows("visions")


def test_a_spoilt_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    head = ["paper", "table", "method", "backbone", "dataset", "metric", "value"]
    with open(tmp_path / "nlp.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([[*head, "trainable_params_m", "source"], ["a"] * 6 + ["x", "", "s"]])
    with pytest.raises(CorruptAssetError, match=r"nlp\.csv, line 2"):
        published.rows.__wrapped__("nlp")


@pytest.mark.parametrize("name", ["vtab1k", "fgvc", "cifar100", "pocket_vision"])
def test_every_task_of_the_configurations_has_a_place(name):
    """A suite's tasks (or its only one) as they are configured are those of the tables."""
    folder = tiny.ROOT / "configs" / "data"
    singles = sorted((folder / name).glob("*.yaml"))
    if singles:
        configs = {path.stem: yaml.safe_load(path.read_text()) for path in singles}
    else:
        one = yaml.safe_load((folder / f"{name}.yaml").read_text())
        configs = one.get("members", {name: one})
    suite = published.suite(name)
    for task, config in configs.items():
        assert suite_of(config["_target_"]) == name
        assert task in suite.ours
    assert {suite.ours[task] for task in configs} == set(suite.tasks)
