"""Loading vision transformers: local files strictly, unreachable hubs plainly."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from peftbench.backbones.load_timm import TimmViT
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError

NAME = "vit_tiny_patch16_224.augreg_in21k"
ARCH = {"embed_dim": 32, "depth": 2, "num_heads": 4}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as the hub has it: with a classifier of 21,843 classes."""
    torch.manual_seed(5)
    model = timm.create_model(NAME, pretrained=False, **ARCH)
    assert model.head.out_features == 21843
    save_file(model.state_dict(), str(tmp_path / "model.safetensors"))
    return tmp_path / "model.safetensors"


def test_a_local_file_is_loaded_and_its_classifier_left_out(file: Path) -> None:
    backbone = TimmViT(NAME, weights=str(file), arch=ARCH).load()
    torch.manual_seed(5)
    same = timm.create_model(NAME, pretrained=False, **ARCH)
    assert torch.equal(backbone.model.blocks[1].mlp.fc1.weight, same.blocks[1].mlp.fc1.weight)
    assert backbone.source == str(file)
    assert backbone.preprocess.mean == (0.5, 0.5, 0.5)
    assert backbone.preprocess.interpolation == "bicubic"
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_positions_are_resampled_to_another_size(file: Path) -> None:
    backbone = TimmViT(NAME, 96, weights=str(file), arch=ARCH).load()
    assert backbone.model.pos_embed.shape == (1, 37, 32)
    assert backbone.preprocess.size == 96


def test_a_file_that_does_not_fit_is_named(file: Path, tmp_path: Path) -> None:
    other = {**ARCH, "depth": 3}
    with pytest.raises(CorruptAssetError, match=r"backbone\.weights.*blocks\.2"):
        TimmViT(NAME, weights=str(file), arch=other).load()
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CorruptAssetError, match=r"torn\.safetensors"):
        TimmViT(NAME, weights=str(torn), arch=ARCH).load()
    with pytest.raises(MissingAssetError, match="there is no file"):
        TimmViT(NAME, weights=str(tmp_path / "none.safetensors")).load()


def test_unreachable_weights_say_what_from_where_and_how_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MissingAssetError) as error:
        TimmViT("vit_base_patch16_224.augreg_in21k").load()
    for part in ("model.safetensors", "timm/vit_base_patch16_224.augreg_in21k", "127.0.0.1:9"):
        assert part in str(error.value)
    assert "backbone.weights=PATH" in str(error.value)
    assert not list(tmp_path.rglob("*"))


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'vit_base_patch16_224"):
        TimmViT("vit_base_patch16_225").load()


def test_random_weights_repeat_and_leave_the_random_stream_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    a = TimmViT(NAME, init="random", arch=ARCH).load()
    assert torch.equal(torch.rand(3), expected)
    b = TimmViT(NAME, init="random", arch=ARCH).load()
    c = TimmViT(NAME, init="random", arch=ARCH, seed=1).load()
    assert a.sha256 == b.sha256 != c.sha256


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "backbone.image_size: 0"),
        ({"image_size": 7}, "smaller than a patch of 16"),
        ({"arch": {"embed_dim": 33, "num_heads": 4}}, "timm cannot build"),
        ({"arch": {"colour": 1}}, "timm cannot build"),
    ],
)
def test_what_cannot_be_built_is_a_mistake_in_the_settings(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TimmViT(NAME, **{"init": "random", "arch": ARCH, **options}).load()


def test_a_file_that_random_weights_would_leave_unread_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="would leave it unread"):
        TimmViT(NAME, weights=str(file), init="random", arch=ARCH)


def test_another_kind_of_network_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'swin_tiny_patch4_window7_224' is no plain vision"):
        TimmViT("swin_tiny_patch4_window7_224", init="random").load()
