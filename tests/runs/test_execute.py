"""Real runs in one process: one that fails leaves nothing to the next, and says what failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file

from peftbench.errors import ConfigError, NonFiniteError
from peftbench.files import write_tensors
from peftbench.runs.execute import execute
from peftbench.runs.settings import Settings
from peftbench.runs.store import RunDir

VIT = {
    "_target_": "peftbench.backbones.load_timm.TimmViT",
    "model": "vit_tiny_patch16_224",
    "image_size": 32,
    "init": "random",
    "arch": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
}


def run(folder: Path, method: dict[str, Any], **trainer: Any) -> tuple[dict[str, Any], RunDir]:
    """Execute a short run on digits."""
    protocol = {"_target_": "peftbench.runs.settings.Protocol", **trainer.pop("protocol", {})}
    settings = Settings.of(
        {
            "method": method,
            "backbone": VIT,
            "data": {"_target_": "peftbench.tasks.pocket.PocketVision", "task": "digits"},
            "trainer": {"_target_": "peftbench.train.config.Trainer", "epochs": 1} | trainer,
            "protocol": protocol,
            "tracker": {"_target_": "peftbench.runs.settings.Files"},
            "seed": 0,
            "study": "s",
            "output": str(folder),
        }
    )
    run_dir = RunDir(folder / "s" / "r")
    run_dir.begin(settings.plain)
    return execute(settings, run_dir), run_dir


LINEAR = {"_target_": "peftbench.methods.linear.Linear"}
FULL = {"_target_": "peftbench.methods.full.Full"}


def test_a_failed_run_leaves_no_edit_to_the_next_one(tmp_path: Path) -> None:
    _, before = run(tmp_path / "before", LINEAR, max_steps=3)
    with pytest.raises(NonFiniteError):
        run(tmp_path / "failed", FULL, max_steps=20, lr=1e10)
    _, after = run(tmp_path / "after", LINEAR, max_steps=3)
    names = [p.adapter / "adapter.safetensors" for p in (before, after)]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert load_file(str(names[0]))


def test_a_network_that_ends_non_finite_is_refused_by_name(tmp_path: Path) -> None:
    """The last update may be the one that breaks it; no loss is computed after that."""
    with pytest.raises(NonFiniteError, match="on 'val' is nan after step 1"):
        run(tmp_path, FULL, max_steps=1, lr=1e30, warmup_epochs=0, schedule="constant")
    assert not (tmp_path / "s/r/adapter").exists()


def test_the_second_fit_does_not_keep_the_first_ones_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    prepare = Accelerator.prepare

    def counted(self: Accelerator, *parts: Any) -> Any:
        made = prepare(self, *parts)
        held.append(len(self._optimizers))
        return made

    monkeypatch.setattr(Accelerator, "prepare", counted)
    run(tmp_path, FULL, max_steps=1)
    assert held == [1, 1]


def test_a_run_does_not_continue_on_other_weights(tmp_path: Path) -> None:
    words = {"max_steps": 4, "save_every_s": 0.0}
    _, run_dir = run(tmp_path, LINEAR, **words)
    assert run_dir.can_resume()
    run(tmp_path, LINEAR, **words)
    last = run_dir.state / "last.safetensors"
    with safe_open(str(last), "pt") as file:
        text = file.metadata()["state"]
    tensors = load_file(str(last))
    found = json.loads(text)["info"]["extra"]["base_sha256"]
    write_tensors(last, tensors, {"state": text.replace(found, "0" * 64)})
    with pytest.raises(ConfigError, match="weights have changed"):
        run(tmp_path, LINEAR, **words)


def test_val_is_scored_every_so_many_epochs_and_after_the_last(tmp_path: Path) -> None:
    _, run_dir = run(tmp_path, LINEAR, epochs=5, eval_every=2, batch_size=400)
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    scored = [(n["step"], n["epoch"]) for n in lines if n["split"] == "val" and n["name"] == "loss"]
    assert scored == [(4, 1), (8, 3), (10, 4)]
