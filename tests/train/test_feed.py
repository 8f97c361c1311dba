"""Loading: files, tensors, workers and parts of a batch give the same samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.backbones.load_timm import TimmViT
from peftbench.backbones.preprocess import Preprocess
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.methods.lora import Lora
from peftbench.tasks.base import Classification
from peftbench.tasks.batch import Split
from peftbench.tasks.images import ImageFiles
from peftbench.train import Adapted, Fitter, Trainer
from peftbench.train import feed as feeds
from peftbench.train.augment import Augment
from peftbench.train.engine import make_accelerator
from peftbench.train.feed import Feed, batches, kept

ARCH = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
PREPROCESS = Preprocess(16, (0.5,) * 3, (0.5,) * 3)
CPU = torch.device("cpu")
EVERYTHING = Augment(crop="random_resized", flip=0.5, erasing=0.5, mixup=0.8, cutmix=1.0)
CFG = Trainer(epochs=2, batch_size=7, lr=1e-2, save_every_s=1e9, cache_features=False, workers=0)


def files(folder: Path, count: int = 12) -> Split:
    """Pictures of different sizes in files."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        pixels = rng.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return Split(
        "train",
        {"image": ImageFiles(tuple(paths))},
        torch.arange(count) % 3,
        torch.arange(count) + 50,
    )


def fitted(split: Split, cfg: Trainer) -> dict[str, torch.Tensor]:
    backbone = TimmViT("vit_tiny_patch16_224", 16, init="random", arch=ARCH).load()
    blank = {n: Split(n, {"image": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)},
                      torch.zeros(1, dtype=torch.long), torch.tensor([i]))
             for i, n in enumerate(("val", "test"))}  # fmt: skip
    task = Classification("files", ("a", "b", "c"), {"train": split, **blank}, {"task": "files"})
    model = Adapted(backbone, Lora(), 3)
    fitter = Fitter(model, task, split, backbone.preprocess, cfg, 0, make_accelerator(cfg))
    fitter.run()
    return {name: tensor.clone() for name, tensor in model.tensors().items()}


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_files_are_decoded_once_where_they_fit(tmp_path: Path, monkeypatch) -> None:
    split = files(tmp_path)
    whole = kept(split, PREPROCESS, 0)
    assert whole.decoded and whole.inputs["image"].shape == (12, 3, 16, 16)
    assert kept(whole, PREPROCESS, 0) is whole
    monkeypatch.setattr(feeds, "KEPT_BYTES", 12 * 3 * 16 * 16 - 1)
    assert kept(split, PREPROCESS, 0) is split
    chunks = [torch.tensor([3, 1]), torch.tensor([11])]
    for lazy, eager in zip(
        batches(split, chunks, PREPROCESS, 0), batches(whole, chunks, PREPROCESS, 0), strict=True
    ):
        assert torch.equal(lazy.inputs["image"], eager.inputs["image"])
        assert torch.equal(lazy.labels, eager.labels) and torch.equal(lazy.ids, eager.ids)


def test_tensors_of_another_size_are_resized_once_and_as_single_pictures_are() -> None:
    pixels = torch.randint(0, 256, (70, 3, 9, 13)).to(torch.uint8)
    split = Split("train", {"image": pixels}, torch.zeros(70), torch.arange(70))
    whole = kept(split, PREPROCESS, 0).inputs["image"]
    alone = torch.cat([PREPROCESS.resized(pixels[i : i + 1]) for i in range(70)])
    assert torch.equal(whole, alone)


@pytest.mark.parametrize("augment", [Augment(), Augment(flip=0.5), EVERYTHING])
def test_training_does_not_depend_on_where_the_pixels_come_from(
    augment: Augment, tmp_path: Path, monkeypatch
) -> None:
    split = files(tmp_path)
    cfg = dataclasses.replace(CFG, augment=augment)
    reference = fitted(split, cfg)
    assert furthest(fitted(split, cfg), reference) == 0
    assert furthest(fitted(split, dataclasses.replace(cfg, workers=2)), reference) == 0
    if not augment.per_image:
        monkeypatch.setattr(feeds, "KEPT_BYTES", 0)
        assert furthest(fitted(split, cfg), reference) == 0


@pytest.mark.parametrize("augment", [Augment(mixup=0.8, cutmix=1.0), EVERYTHING])
def test_mixing_does_not_depend_on_how_a_batch_is_cut(augment: Augment, tmp_path: Path) -> None:
    split = files(tmp_path)
    whole = fitted(split, dataclasses.replace(CFG, augment=augment))
    parts = fitted(split, dataclasses.replace(CFG, augment=augment, accumulate=3))
    assert furthest(whole, parts) < 1e-6
    plain = fitted(split, CFG)
    assert furthest(whole, plain) > 1e-4  # and it does change what is learned


def test_partners_are_the_opposite_rows(tmp_path: Path) -> None:
    split = kept(files(tmp_path), PREPROCESS, 0)
    feed = Feed(split, PREPROCESS, Augment(mixup=1.0), 3, 0, CPU, 0)
    rows = torch.tensor([4, 2, 9, 7])
    whole = feed.batch(0, 5, rows, rows.flip(0))
    half = feed.batch(0, 5, rows[2:], rows.flip(0)[2:])
    assert torch.equal(whole.inputs["image"][2:], half.inputs["image"])
    assert torch.equal(whole.labels[2:], half.labels) and torch.equal(whole.ids, split.ids[rows])
    first, last = (PREPROCESS(split.inputs["image"][r : r + 1])[0] for r in (4, 7))
    share = float(whole.labels[0, 1])  # row 4 is of class 1, and so is row 7
    assert share == pytest.approx(1.0)
    mixed = whole.inputs["image"][0]
    weight = ((mixed - last) / (first - last))[(first - last).abs() > 0.1]
    assert float(weight.std()) < 1e-4 and 0 < float(weight.mean()) < 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [Augment(), Augment(flip=0.5)])
def test_a_bad_image_is_named(workers: int, augment: Augment, tmp_path: Path) -> None:
    split = files(tmp_path)
    cfg = dataclasses.replace(CFG, augment=augment, workers=workers)
    bad = tmp_path / "5.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(CorruptAssetError, match=r"the image .*5\.png cannot be decoded"):
        fitted(split, cfg)
    bad.unlink()
    with pytest.raises(MissingAssetError, match=r"there is no image .*5\.png"):
        fitted(split, cfg)


def test_text_cannot_be_augmented() -> None:
    split = Split("train", {"input_ids": torch.zeros(4, 3)}, torch.zeros(4), torch.arange(4))
    with pytest.raises(ConfigError, match=r"trainer\.augment"):
        Feed(split, None, Augment(flip=0.5), 2, 0, CPU, 0)
    assert len(Feed(split, None, Augment(), 2, 0, CPU, 0).batch(0, 0, torch.tensor([1]), None)) == 1


def test_a_resumed_run_sees_what_an_unbroken_one_sees(tmp_path: Path) -> None:
    """Random changes are tied to epoch and sample, so they need no state of their own."""
    split = files(tmp_path)
    feed = Feed(split, PREPROCESS, EVERYTHING, 3, 0, CPU, 0)
    rows = [torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])]
    plan = [(0, feeds.needed(r, r.flip(0))) for r in rows]
    feed.plan(iter(plan))
    unbroken = [feed.batch(0, step, r, r.flip(0)) for step, r in enumerate(rows)]
    later = Feed(split, PREPROCESS, EVERYTHING, 3, 0, CPU, 0)
    later.plan(iter(plan[1:]))
    again = later.batch(0, 1, rows[1], rows[1].flip(0))
    assert torch.equal(again.inputs["image"], unbroken[1].inputs["image"])
    assert torch.equal(again.labels, unbroken[1].labels)
