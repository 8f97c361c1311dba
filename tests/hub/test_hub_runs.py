"""``python train.py`` with network and data from a hub on loopback, then without the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment, table
from server import Hub

from peftbench.runs.launch import run_dir_of
from peftbench.runs.settings import Settings

WORDS = ["backbone=hub_vit", "backbone.model=hf-hub:me/small", "method=lora", "data=hub_images"]
SHORT = ["trainer.epochs=1", "trainer.batch_size=8", "protocol.final_fit=false"]


def train(hub: Hub, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *WORDS, *SHORT, *words],
        capture_output=True,
        text=True,
        env={**environment(hub, home, **more), "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=300,
    )


def result_of(folder: Path, seed: int) -> dict:
    found = [json.loads(p.read_text()) for p in folder.rglob("result.json")]
    return next(result for result in found if result["seed"] == seed)


def test_a_run_on_the_hubs_network_and_data_and_the_next_one_without_it(
    hub: Hub, tmp_path: Path
) -> None:
    words = ["data.path=me/pets", f"output={tmp_path / 'out'}"]
    first = train(hub, tmp_path / "home", *words)
    assert first.returncode == 0, first.stderr
    asked = len(hub.requests)
    second = train(hub, tmp_path / "home", *words, "seed=1", HF_HUB_OFFLINE="1")
    assert second.returncode == 0, second.stderr
    assert len(hub.requests) == asked
    online, offline = result_of(tmp_path / "out", 0), result_of(tmp_path / "out", 1)
    assert online["data_manifest"] == offline["data_manifest"]
    assert online["backbone_sha256"] == offline["backbone_sha256"]
    source = hub.repositories["models", "me/small"].refs["main"]
    assert offline["backbone_source"] == f"hub me/small, commit {source[:12]}"
    data = hub.repositories["datasets", "me/pets"].refs["main"]
    assert offline["data_manifest"]["source"] == {"hub": "me/pets", "commit": data}
    assert online["metrics"]["test"]["loss"] > 0 and online["task"] == "pets"


def test_a_local_table_is_the_same_run_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run_id(file: Path) -> str:
        hub_images = {"_target_": "peftbench.tasks.hub.HubImages", "path": str(file)}
        groups = {
            "method": {"_target_": "peftbench.methods.linear.Linear"},
            "backbone": {"_target_": "peftbench.backbones.load_timm.TimmViT", "model": "vit"},
            "data": {**hub_images, "train": "train[:20]", "test": "train[20:]"},
            "trainer": {"_target_": "peftbench.train.config.Trainer"},
            "protocol": {"_target_": "peftbench.runs.settings.Protocol"},
            "tracker": {"_target_": "peftbench.runs.settings.Files"},
        }
        settings = Settings.of({**groups, "seed": 0, "study": "s", "output": str(tmp_path)})
        return run_dir_of(settings).run_id

    one, other, changed = (tmp_path / name for name in ("a.parquet", "b.parquet", "c.parquet"))
    one.write_bytes(table(30))
    other.write_bytes(table(30))
    changed.write_bytes(table(30, 1))
    assert run_id(one) == run_id(other) != run_id(changed)
