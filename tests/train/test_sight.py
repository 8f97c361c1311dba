"""What a frozen encoder sees is computed once, kept, and the same as when it is computed anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from peftbench.errors import ConfigError, MissingAssetError
from peftbench.methods.lora import Lora
from peftbench.tasks.batch import Split
from peftbench.tasks.captioned import bind
from peftbench.tasks.captions import Captions, CaptionTask
from peftbench.tasks.images import ImageFiles
from peftbench.train import Adapted, Fitter, Trainer
from peftbench.train import sight as module
from peftbench.train.augment import Augment
from peftbench.train.engine import make_accelerator

CFG = Trainer(epochs=1, batch_size=4, eval_batch_size=3, lr=1e-2, warmup_epochs=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of several sizes, and a cache of their own."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    g = np.random.default_rng(0)
    for i in range(9):
        pixels = g.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def task(folder: Path) -> CaptionTask:
    splits = {}
    for at, name in enumerate(("train", "val", "test")):
        ids = torch.arange(3 * at, 3 * at + 3)
        paths = tuple(folder / f"{i}.png" for i in ids.tolist())
        texts = tuple((f"picture {i}", "a thing") for i in ids.tolist())
        splits[name] = Captions(ImageFiles(paths), ids, texts, tuple(ids.tolist()))
    return CaptionTask("small", splits, {"splits": {}})


def fitter(folder: Path, cfg: Trainer = CFG, joined: bool = False) -> Fitter:
    backbone = tiny.fresh("captioner_tiny_random")
    made = bind(task(folder), backbone)
    split = made.split("train")
    if joined:
        split = Split.concat("train+val", [split, made.split("val")])
    model = Adapted(backbone, Lora(), None)
    return Fitter(model, made, split, backbone.preprocess, cfg, 0, make_accelerator(cfg))


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "seen").glob("*.npy"))


def test_a_picture_is_seen_once_whatever_its_captions(folder: Path) -> None:
    fit = fitter(folder)
    seen = fit.split.inputs["seen"]
    assert len(seen) == 6 and seen.rows.tolist() == [0, 0, 1, 1, 2, 2]
    (path,) = stored(folder)
    table = np.load(path)
    assert table.shape == (3, 16, 32) and table.dtype == np.float16
    assert "image" not in fit.split.inputs
    batch = fit.split.take(torch.tensor([3, 0]))
    assert torch.equal(batch.inputs["seen"], torch.from_numpy(table)[[1, 0]])


def test_a_second_run_reads_what_the_first_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitter(folder).split.inputs["seen"].take(torch.arange(6))
    monkeypatch.setattr(module.Sight, "_compute", None)  # would raise
    assert torch.equal(fitter(folder).split.inputs["seen"].take(torch.arange(6)), first)


def test_joined_splits_need_no_new_file(folder: Path) -> None:
    apart = fitter(folder)
    apart.evaluate(apart.task.split("val"))
    assert len(stored(folder)) == 2
    joined = fitter(folder, joined=True)
    assert len(stored(folder)) == 2
    seen = joined.split.inputs["seen"]
    val = torch.from_numpy(np.load(stored(folder)[0])), torch.from_numpy(np.load(stored(folder)[1]))
    last = seen.take(torch.tensor([11]))[0]
    assert any(torch.equal(last, table[2]) for table in val)


def test_training_and_scores_are_those_of_an_encoder_that_runs_in_every_step(folder: Path) -> None:
    found = {}
    for kept in (True, False):
        fit = fitter(folder, Trainer(**{**vars(CFG), "cache_features": kept}))
        assert ("seen" in fit.split.inputs) == kept
        fit.run()
        scored = fit.evaluate(fit.task.split("val"))
        found[kept] = (scored.scores_NC, fit.model.tensors())
    assert torch.allclose(found[True][0], found[False][0], atol=1e-4)
    for name, tensor in found[True][1].items():
        assert torch.allclose(tensor, found[False][1][name], atol=1e-4), name


def test_with_augmentation_the_encoder_sees_every_change(folder: Path) -> None:
    cfg = Trainer(**{**vars(CFG), "augment": Augment(flip=0.5, crop="random_resized")})
    fit = fitter(folder, cfg)
    assert "seen" not in fit.split.inputs
    first = fit.feed.batch(0, 0, torch.arange(6), None).inputs
    other = fit.feed.batch(1, 1, torch.arange(6), None).inputs
    assert first["image"].dtype == torch.uint8 and not torch.equal(first["image"], other["image"])
    assert {"input_ids", "keep"} <= set(first)
    fit.run()
    fit.evaluate(fit.task.split("val"))  # not augmented: seen and kept
    assert len(stored(folder)) == 1


def test_mixed_pictures_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="mixed pictures have no caption"):
        fitter(folder, Trainer(**{**vars(CFG), "augment": Augment(mixup=0.2)}))


def test_the_file_depends_on_weights_preprocessing_precision_and_pictures(folder: Path) -> None:
    fitter(folder)
    fitter(folder, Trainer(**{**vars(CFG), "precision": "bf16"}))
    assert len(stored(folder)) == 2
    backbone = tiny.fresh("captioner_tiny_random")
    with torch.no_grad():
        next(backbone.model.vision.parameters()).add_(1.0)
    made = bind(task(folder), backbone)
    cfg = make_accelerator(CFG)
    model = Adapted(backbone, Lora(), None)
    Fitter(model, made, made.split("train"), backbone.preprocess, CFG, 0, cfg)
    assert len(stored(folder)) == 3
    Image.new("RGB", (50, 50)).save(folder / "0.png")
    fitter(folder)
    assert len(stored(folder)) == 4


def test_a_missing_picture_is_named(folder: Path) -> None:
    (folder / "1.png").unlink()
    with pytest.raises(MissingAssetError, match=r"1\.png"):
        fitter(folder)


def test_a_full_disk_is_told_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"trainer\.cache_features: .* GB are free"):
        fitter(folder)
    assert stored(folder) == []
