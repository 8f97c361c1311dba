"""An adapter goes to a hub on loopback and comes back, through the hub's unmodified client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from conftest import ROOT, Child, Refused, environment
from safetensors.torch import save_file
from server import TOKEN, Hub

import peftbench
from peftbench.train.artefact import save_adapter

NAME = "me/digits-lora"


def write_run(folder: Path, method: str = "lora", use: str = "vit") -> None:
    """Write a finished run of a tiny network, with inputs and what it says to them."""
    base = tiny.fresh(tiny.USES[use][0])
    digest = base.sha256
    made = tiny.staged(tiny.method(method), use)
    model = peftbench.attach(made, base, classes=tiny.USES[use][1], seed=3)
    tiny.perturb(model, 0.05)
    labels = ["a", "b", "c"] if tiny.USES[use][1] else None
    save_adapter(folder / "adapter", model, digest, labels, "digits")
    keys = ("schema_version", "artefact_bytes", "intervals", "environment", "cost")
    result: dict = {key: {} for key in keys} | {
        "run_id": folder.name,
        "status": "finished",
        "seed": 0,
    }
    result |= {"method": method, "backbone": "tiny", "data": "digits", "task": "digits"}
    result |= {"protocol": "honest", "metrics": {"test": {"accuracy": 0.5}}, "artefact_bytes": 1}
    primary = {
        "name": "accuracy",
        "value": 0.5,
        "split": "test",
        "ci95": [0.4, 0.6],
        "selection": "last epoch",
    }
    counts = {"trainable": 1, "head": 1, "total": 2}
    manifest = {"splits": {"test": {"count": 10}}}
    result |= {"primary": primary, "params": counts, "data_manifest": manifest}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text("seed: 0\nmethod: {}\n")
    inputs = tiny.inputs(use)
    with torch.no_grad():
        wanted = model.eval()(inputs).logits
    save_file(dict(inputs), folder / "inputs.safetensors")
    save_file({"logits": wanted.contiguous()}, folder / "wanted.safetensors")


def publish(hub: Hub, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "publish.py"), *words],
        capture_output=True,
        text=True,
        env={**environment(hub, home, **more), "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def run(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that is published as ``NAME``."""
    folder = tmp_path_factory.mktemp("out") / "0123456789ab"
    write_run(folder)
    home = tmp_path_factory.mktemp("owner")
    done = publish(hub, home, f"run={folder}", f"to=hub:{NAME}", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert f'peftbench.load("{NAME}")' in done.stdout
    return folder


def test_an_adapter_comes_back_from_the_hub_bit_for_bit(
    hub: Hub, run: Path, online: Child, offline: Child
) -> None:
    commit = hub.repositories["models", NAME].refs["main"]
    files = hub.repositories["models", NAME].commits[commit]
    assert {"README.md", "adapter.json", "adapter.safetensors"} <= files.keys()
    assert b"library_name: peftbench" in files["README.md"]
    for name in (NAME, f"hub:{NAME}", f"{NAME}@main", f"{NAME}@{commit}"):
        assert online("adapter", name=name, run=str(run)) == {"same": True}, name
    asked = [r for r in hub.requests if NAME in r and r.startswith("GET")]
    assert not [r for r in asked if "README" in r]  # only what is loaded is fetched
    before = len(hub.requests)
    assert offline("adapter", name=NAME, run=str(run)) == {"same": True}
    assert len(hub.requests) == before


def test_sources_come_back_too(
    hub: Hub, online: Child, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "ba9876543210"
    write_run(folder, "pemt", "t5")
    done = publish(hub, tmp_path / "home", f"run={folder}", "to=hub:me/pemt", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert online("adapter", name="me/pemt", run=str(folder)) == {"same": True}


def test_refusals_are_told(hub: Hub, run: Path, online: Child, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"MissingAssetError: .*no such repository, or it is private"):
        online("adapter", name="me/nothing", run=str(run))
    with pytest.raises(Refused, match=r"MissingAssetError: .*no such revision"):
        online("adapter", name=f"{NAME}@v9", run=str(run))
    with pytest.raises(Refused, match=r"MissingAssetError: .*lacks the file"):
        online("adapter", name="me/small", run=str(run))
    refused = publish(hub, tmp_path, f"run={run}", "to=hub:me/other", HF_TOKEN="hf_wrong")
    assert refused.returncode == 2 and "status 401" in refused.stderr
    nobody = publish(hub, tmp_path, f"run={run}", "to=hub:me/other")
    assert nobody.returncode == 2 and "hf auth login" in nobody.stderr


def test_a_source_outside_the_repository_is_refused(hub: Hub, run: Path, online: Child) -> None:
    commit = hub.repositories["models", NAME].refs["main"]
    files = dict(hub.repositories["models", NAME].commits[commit])
    description = json.loads(files["adapter.json"])
    for place in ("/etc", "../../x"):
        description["method"]["library"] = {"one": {"folder": place, "sha256": "0" * 64}}
        changed = {**files, "adapter.json": json.dumps(description).encode()}
        hub.push("models", "me/evil", changed)
        with pytest.raises(Refused, match="outside the repository"):
            online("adapter", name="me/evil", run=str(run))


def test_a_folder_of_that_name_comes_first(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "adapter", tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    before = len(hub.requests)
    assert peftbench.load(NAME) and len(hub.requests) == before
