"""Augmentation: drawn by sample and epoch, the same however the work is shared out."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from peftbench.backbones.preprocess import IMAGENET, Pixels, Preprocess
from peftbench.errors import ConfigError
from peftbench.tasks.images import PixelImages
from peftbench.train.augment import Augment, drawing, erase, mix
from peftbench.train.feed import Pictures

GREY = ((0.5,) * 3, (0.5,) * 3)
WHOLE = Preprocess(24, *GREY)
CROPPED = Preprocess(24, *GREY, crop_pct=0.75)
CHANGES = {
    "crop": (Augment(crop="random"), CROPPED),
    "resized": (Augment(crop="random_resized"), WHOLE),
    "flip": (Augment(flip=0.5), WHOLE),
    "jitter": (Augment(color_jitter=0.4), WHOLE),
    "rand": (Augment(auto_augment="rand-m9-mstd0.5-inc1"), WHOLE),
    "auto": (Augment(auto_augment="original"), WHOLE),
}


def noise(count: int = 6, side: int = 40) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=g).to(torch.uint8)


def pictures(augment: Augment | None, preprocess: Preprocess, seed: int = 0) -> Pictures:
    return Pictures(PixelImages(noise()), torch.arange(6) + 100, preprocess, augment, seed)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_depends_on_seed_epoch_and_sample_and_on_nothing_else(name: str) -> None:
    augment, preprocess = CHANGES[name]
    own = pictures(augment, preprocess)
    random.seed(5)
    state = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    first = [torch.stack([own[e, i] for i in range(6)]) for e in range(3)]
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    assert (np.random.get_state()[1] == state[2]).all()
    random.seed(6)
    again = pictures(augment, preprocess)
    for e in (2, 0, 1):  # in another order
        for i in (3, 0, 5, 1, 4, 2):
            assert torch.equal(again[e, i], first[e][i])
    assert first[0].shape == (6, 3, 24, 24) and first[0].dtype == torch.uint8
    assert not torch.equal(first[0], first[1])
    other = pictures(augment, preprocess, seed=1)
    assert any(not torch.equal(other[0, i], first[0][i]) for i in range(6))


def test_flips_are_flips_and_come_in_halves() -> None:
    own, plain = pictures(Augment(flip=0.5), WHOLE), pictures(None, WHOLE)
    flipped = 0
    for epoch in range(40):
        for i in range(6):
            seen, straight = own[epoch, i], plain[0, i]
            near = [(seen.int() - x.int()).abs().max() <= 1 for x in (straight, straight.flip(-1))]
            assert any(near)
            flipped += int(near[1])
    assert 90 <= flipped <= 150


def test_a_random_crop_is_a_place_of_the_resized_image() -> None:
    whole = Preprocess(32, *GREY).resized(noise())
    own = pictures(Augment(crop="random"), CROPPED)
    offsets = set()
    for epoch in range(20):
        seen = own[epoch, 0].int()
        places = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if (whole[0, :, y : y + 24, x : x + 24].int() - seen).abs().max() <= 1
        ]
        assert len(places) == 1
        offsets.add(places[0])
    assert len(offsets) > 10


def test_a_random_crop_needs_room() -> None:
    with pytest.raises(ConfigError, match="crop_pct"):
        pictures(Augment(crop="random"), WHOLE)[0, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"flip": 1.5}, "augment.flip"),
        ({"mixup": -1.0}, "augment.mixup"),
        ({"scale": (0.5, 0.2)}, "augment.scale"),
        ({"scale": (0.5, 2.0)}, "exceeds the whole image"),
        ({"ratio": (1.0,)}, "augment.ratio"),
    ],
)
def test_settings_without_a_meaning(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Augment(**settings)


@pytest.mark.parametrize("words", ["rand-m9-oops1", "nonsense", "randm9"])
def test_an_unknown_auto_augment_names_the_key(words: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.augment\.auto_augment"):
        pictures(Augment(auto_augment=words), WHOLE)[0, 0]


def test_erasing_leaves_a_rectangle_of_noise() -> None:
    image = torch.zeros(40, 3, 24, 24)
    erased = erase(image, list(range(40)), Augment(erasing=0.5))
    assert torch.equal(image, torch.zeros_like(image))
    touched = [i for i in range(40) if erased[i].any()]
    assert 10 <= len(touched) <= 30
    alone = erase(image[:1], [touched[0]], Augment(erasing=0.5))[0]
    assert torch.equal(alone, erased[touched[0]])  # whatever else is in the batch
    rows, columns = erased[touched[0]].any(0).nonzero().T
    assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)


def test_mixup_is_the_formula() -> None:
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 3
    mixed, soft = mix(images, labels, 3, Augment(mixup=0.8), seed=4)
    share = (mixed[0, 0, 0, 0] - images[7, 0, 0, 0]) / (images[0, 0, 0, 0] - images[7, 0, 0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    hard = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(soft, share * hard + (1 - share) * hard.flip(0))
    again, _ = mix(images, labels, 3, Augment(mixup=0.8), seed=4)
    assert torch.equal(mixed, again)


def test_cutmix_pastes_and_weighs_by_area() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
    pasted = 0
    for seed in range(10):
        mixed, soft = mix(images, torch.arange(6), 6, Augment(cutmix=1.0), seed)
        own = (mixed == images).float().mean((1, 2, 3))
        for i in range(6):
            assert set(mixed[i].unique().tolist()) <= {float(i), float(5 - i)}
            assert soft[i, i] == pytest.approx(float(own[i]))
            assert soft[i, 5 - i] == pytest.approx(1 - float(own[i]))
        pasted += 0 < float(own[0]) < 1
    assert pasted >= 5


def test_drawing_leaves_the_generators_as_they_were_even_after_an_error() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError), drawing(1):
        torch.rand(3), random.random()
        raise ValueError
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_pixels_take_what_is_not_said_from_the_checkpoint() -> None:
    cfg = {"mean": (0.5,) * 3, "std": (0.4,) * 3, "interpolation": "bilinear"}
    made = Pixels().of(cfg, 32)
    assert made == Preprocess(32, (0.5,) * 3, (0.4,) * 3, "bilinear")
    assert Pixels("imagenet").of(cfg, 32).mean == IMAGENET[0]
    plain = Pixels("none", interpolation="bicubic").of(cfg, 8)
    x = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert plain.interpolation == "bicubic" and torch.equal(plain(x), torch.ones(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="crop_pct"):
        Pixels(crop_pct=1.5)


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (33, 33), (20, 21)])
@pytest.mark.parametrize("crop", [None, 0.875])
def test_the_evaluation_resize_is_the_usual_one(shape: tuple, crop: float | None) -> None:
    """torchvision's Resize and CenterCrop on Pillow pictures, within two grey levels."""
    from PIL import Image
    from torchvision import transforms as T

    g = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, *shape), generator=g).to(torch.uint8)
    bicubic = T.InterpolationMode.BICUBIC
    to = (32, 32) if crop is None else int(32 / crop + 0.5)
    usual = T.Compose([T.Resize(to, bicubic), T.CenterCrop(32)])
    reference = np.array(usual(Image.fromarray(image.permute(1, 2, 0).numpy())))
    ours = Preprocess(32, *GREY, crop_pct=crop).resized(image[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - reference.astype(int)).max() <= 2
