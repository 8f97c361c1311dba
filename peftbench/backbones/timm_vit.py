"""timm's plain vision transformers (``VisionTransformer``), DINOv2 among them.

Dosovitskiy et al., arXiv 2010.11929. Blocks are pre-norm:
``x = x + drop_path1(ls1(attn(norm1(x)))); x = x + drop_path2(ls2(mlp(norm2(x))))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..edits.sites import AttentionSite, ChannelSite, LinearSite, OpSite, SequenceSite, TensorRef
from ..errors import IncompatibleError
from .anatomy import Anatomy, Block, Stack
from .parts import linear_channels, linear_site, module_paths, norm_channel

STACK = "encoder"
DROP_PATHS = ("drop_path1", "drop_path2")


def matches(model: nn.Module) -> bool:
    """Whether ``model`` is a timm vision transformer."""
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer)


def admit_drop_path(model: Any) -> None:
    """Put a drop path of rate 0 where timm puts nothing, so that a rate can be set later."""
    from timm.layers.drop import DropPath

    for block in model.blocks:
        for name in DROP_PATHS:
            if isinstance(getattr(block, name, None), nn.Identity):
                setattr(block, name, DropPath(0.0))


def anatomy(model: Any) -> Anatomy:
    """Write down where things are in a timm vision transformer."""
    paths = module_paths(model)
    blocks = tuple(_block(i, block, model.embed_dim, paths) for i, block in enumerate(model.blocks))
    sequence = SequenceSite(
        name=STACK,
        width=model.embed_dim,
        prefix_tokens=model.num_prefix_tokens,
        enter=TensorRef(model.norm_pre, "output"),
        leave=TensorRef(model.norm, "output"),
        block_inputs=tuple(TensorRef(b.module, "input", 0, "x") for b in blocks),
    )
    patch = model.patch_embed
    return Anatomy(
        family="vit",
        model=model,
        stacks=(Stack(STACK, blocks, sequence),),
        channels=tuple(_channels(model, blocks, paths)),
        features=features,
        read_token=read_token,
        class_token=model.cls_token is not None,
        patch_numbers=3 * math.prod(patch.patch_size),
        patch_grid=tuple(patch.grid_size) if patch.grid_size else None,
    )


def features(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return pooled features (B, D) of normalised images ``inputs["image"]`` (B, 3, H, W)."""
    tokens = model.forward_features(inputs["image"])
    return model.forward_head(tokens, pre_logits=True)


def read_token(model: Any, token_BD: Tensor) -> Tensor:
    """Treat one output token as the class token is treated between last norm and head."""
    return model.head_drop(model.fc_norm(token_BD))


def _block(index: int, block: Any, width: int, paths: dict[int, str]) -> Block:
    prefix = f"{STACK}/{index}"
    _require_plain(block)
    attn, mlp = block.attn, block.mlp
    third = attn.qkv.out_features // 3
    linears = {
        "qkv": linear_site(prefix, "qkv", attn.qkv, paths),
        "q": linear_site(prefix, "q", attn.qkv, paths, (0, third)),
        "k": linear_site(prefix, "k", attn.qkv, paths, (third, 2 * third)),
        "v": linear_site(prefix, "v", attn.qkv, paths, (2 * third, 3 * third)),
        "o": linear_site(prefix, "o", attn.proj, paths),
        "up": linear_site(prefix, "up", mlp.fc1, paths),
        "down": linear_site(prefix, "down", mlp.fc2, paths),
    }
    ops = {
        "attn": OpSite(
            f"{prefix}/attn",
            "attn",
            stream=TensorRef(block.norm1, "input", 0),
            input=TensorRef(attn, "input", 0, "x"),
            output=TensorRef(block.drop_path1, "output"),
            width=width,
        ),
        "mlp": OpSite(
            f"{prefix}/mlp",
            "mlp",
            stream=TensorRef(block.norm2, "input", 0),
            input=TensorRef(mlp, "input", 0, "x"),
            output=TensorRef(block.drop_path2, "output"),
            width=width,
        ),
        "block": OpSite(
            f"{prefix}/block",
            "block",
            stream=TensorRef(block, "input", 0, "x"),
            input=TensorRef(block, "input", 0, "x"),
            output=TensorRef(block, "output"),
            width=width,
        ),
    }
    attention = AttentionSite(f"{prefix}/attn", attn, attn.num_heads, attn.head_dim)
    norms = {"attn": block.norm1, "mlp": block.norm2, **_inner_norms(attn)}
    drops = tuple(getattr(block, name) for name in DROP_PATHS)
    attentions, activation = {"attn": attention}, mlp.act.forward
    return Block(STACK, index, block, linears, ops, attentions, norms, drops, activation)


def _require_plain(block: Any) -> None:
    """Refuse blocks whose parts are others, or stand in another order."""
    from timm.models.vision_transformer import ResPostBlock

    for part in ("attn", "mlp", "norm1", "norm2", *DROP_PATHS):
        if not hasattr(block, part):
            raise IncompatibleError(
                f"{type(block).__name__} has no '{part}': only plain pre-norm ViT blocks are known"
            )
    if isinstance(block, ResPostBlock):
        raise IncompatibleError(
            f"{type(block).__name__} norms behind its operations: only plain pre-norm ViT blocks "
            "are known"
        )
    attn = block.attn
    if attn.num_heads * attn.head_dim * 3 != attn.qkv.out_features:
        raise IncompatibleError(
            f"{type(attn).__name__} has other heads than one query, key and value each: only plain "
            "attention is known"
        )
    for part in ("fc1", "act", "fc2"):
        if not hasattr(block.mlp, part):
            raise IncompatibleError(
                f"{type(block.mlp).__name__} has no '{part}': only an MLP of two maps is known"
            )


def _inner_norms(attn: Any) -> dict[str, nn.Module]:
    found = {"q": attn.q_norm, "k": attn.k_norm, "o": getattr(attn, "norm", nn.Identity())}
    return {name: norm for name, norm in found.items() if not isinstance(norm, nn.Identity)}


def _channels(model: Any, blocks: tuple[Block, ...], paths: dict[int, str]) -> list[ChannelSite]:
    width = model.embed_dim
    embed = model.patch_embed
    output = TensorRef(embed, "output")
    path = paths[id(embed.proj)]
    channels = [ChannelSite(f"{STACK}/patch", "embed", embed.proj, path, output, width)]
    if not isinstance(model.norm_pre, nn.Identity):
        channels.append(norm_channel(f"{STACK}/norm_pre", model.norm_pre, paths, width))
    for block in blocks:
        prefix = f"{STACK}/{block.index}"
        sites: dict[str, LinearSite] = dict(block.linears)
        module: Any = block.module
        norm1, norm2 = module.norm1, module.norm2
        channels.append(norm_channel(f"{prefix}/norm1", norm1, paths, width))
        channels.extend(linear_channels(prefix, [sites["qkv"], sites["o"]]))
        channels.append(norm_channel(f"{prefix}/norm2", norm2, paths, width))
        channels.extend(linear_channels(prefix, [sites["up"], sites["down"]]))
    for name in ("norm", "fc_norm"):
        module = getattr(model, name)
        if not isinstance(module, nn.Identity):
            channels.append(norm_channel(f"{STACK}/{name}", module, paths, width))
    return channels
