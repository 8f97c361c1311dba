"""Hugging Face LLaMA decoders (SmolLM2 too). Touvron et al., arXiv 2302.13971.

Blocks are pre-norm with RMSNorm; the layer calls ``self_attn`` with ``hidden_states`` by keyword,
and gets a pair back. Linear layers and norms have no bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..edits.sites import AttentionSite, ChannelSite, Embed, OpSite, SequenceSite, TensorRef
from .anatomy import Anatomy, Block, Stack
from .parts import linear_channels, linear_site, module_paths, norm_channel

STACK = "decoder"


def _base(model: nn.Module) -> Any:
    return getattr(model, getattr(model, "base_model_prefix", ""), model)


def matches(model: nn.Module) -> bool:
    """Whether ``model`` is (or holds, as its base) a LLaMA decoder."""
    from transformers import LlamaModel

    return isinstance(_base(model), LlamaModel)


def anatomy(model: Any) -> Anatomy:
    """Write down where things are in a LLaMA decoder."""
    base, paths = _base(model), module_paths(model)
    width = base.config.hidden_size
    blocks = tuple(_block(i, layer, width, paths) for i, layer in enumerate(base.layers))
    sequence = SequenceSite(
        name=STACK,
        width=width,
        prefix_tokens=0,
        enter=TensorRef(base, "input", key="inputs_embeds"),
        leave=TensorRef(base.norm, "output"),
        block_inputs=tuple(TensorRef(b.module, "input", 0, "hidden_states") for b in blocks),
        masks=(TensorRef(base, "input", 1, "attention_mask"),),
        positions=TensorRef(base, "input", 2, "position_ids"),
        embed=Embed(base, base.embed_tokens),
        table=base.embed_tokens,
    )
    return Anatomy(
        family="llama",
        model=model,
        stacks=(Stack(STACK, blocks, sequence),),
        channels=tuple(_channels(base, blocks, width, paths)),
        features=features,
        read_token=read_token,
        logits=logits if hasattr(model, "lm_head") else None,
        write=write if hasattr(model, "lm_head") else None,
        generating=(model.lm_head,) if hasattr(model, "lm_head") else (),
    )


def features(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the output of the last real token, (B, D), whichever side is padded."""
    hidden_BTD = _base(model)(**inputs, use_cache=False).last_hidden_state
    mask_BT = inputs.get("attention_mask")
    if mask_BT is None:
        return hidden_BTD[:, -1]
    places = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = (places * mask_BT).argmax(dim=1)
    return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=last_B.device), last_B]


def read_token(model: Any, token_BD: Tensor) -> Tensor:
    """The head reads a token's output as it is."""
    return token_BD


def logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return next-token logits (B, T, V).

    Args:
        model: the network.
        inputs: ids and mask; with ``keep`` (B, R), the same places in every row, logits are those
            of these places alone, (B, R, V).

    """
    rest = {name: tensor for name, tensor in inputs.items() if name != "keep"}
    keep = inputs["keep"][0] if "keep" in inputs else 0
    return model(**rest, use_cache=False, logits_to_keep=keep).logits


def write(model: Any, inputs: Mapping[str, Tensor], config: Any) -> Tensor:
    """Return the ids (B, G) that the decoder writes after its inputs, which end together."""
    ids_BT = inputs["input_ids"]
    written: Tensor = model.generate(
        input_ids=ids_BT, attention_mask=inputs["attention_mask"], generation_config=config
    )
    return written[:, ids_BT.shape[1] :]


def _block(index: int, layer: Any, width: int, paths: dict[int, str]) -> Block:
    prefix = f"{STACK}/{index}"
    attn, mlp = layer.self_attn, layer.mlp
    linears = {
        "q": linear_site(prefix, "q", attn.q_proj, paths),
        "k": linear_site(prefix, "k", attn.k_proj, paths),
        "v": linear_site(prefix, "v", attn.v_proj, paths),
        "o": linear_site(prefix, "o", attn.o_proj, paths),
        "gate": linear_site(prefix, "gate", mlp.gate_proj, paths),
        "up": linear_site(prefix, "up", mlp.up_proj, paths),
        "down": linear_site(prefix, "down", mlp.down_proj, paths),
    }
    block_in = TensorRef(layer, "input", 0, "hidden_states")
    ops = {
        "attn": OpSite(
            f"{prefix}/attn",
            "attn",
            stream=TensorRef(layer.input_layernorm, "input", 0),
            input=TensorRef(attn, "input", 0, "hidden_states"),
            output=TensorRef(attn, "output", 0),
            width=width,
        ),
        "mlp": OpSite(
            f"{prefix}/mlp",
            "mlp",
            stream=TensorRef(layer.post_attention_layernorm, "input", 0),
            input=TensorRef(mlp, "input", 0, "x"),
            output=TensorRef(mlp, "output"),
            width=width,
        ),
        "block": OpSite(
            f"{prefix}/block",
            "block",
            stream=block_in,
            input=block_in,
            output=TensorRef(layer, "output", 0),
            width=width,
        ),
    }
    site = AttentionSite(f"{prefix}/attn", attn, attn.config.num_key_value_heads, attn.head_dim)
    norms = {"attn": layer.input_layernorm, "mlp": layer.post_attention_layernorm}
    activation = mlp.act_fn.forward
    return Block(STACK, index, layer, linears, ops, {"attn": site}, norms, activation=activation)


def _channels(
    base: Any, blocks: tuple[Block, ...], width: int, paths: dict[int, str]
) -> list[ChannelSite]:
    channels: list[ChannelSite] = []
    for block in blocks:
        prefix, sites, layer = f"{STACK}/{block.index}", block.linears, block.module
        norm1, norm2 = layer.input_layernorm, layer.post_attention_layernorm
        channels.append(norm_channel(f"{prefix}/norm1", norm1, paths, width))  # type: ignore[arg-type]
        channels.extend(linear_channels(prefix, [sites[r] for r in ("q", "k", "v", "o")]))
        channels.append(norm_channel(f"{prefix}/norm2", norm2, paths, width))  # type: ignore[arg-type]
        channels.extend(linear_channels(prefix, [sites[r] for r in ("gate", "up", "down")]))
    channels.append(norm_channel(f"{STACK}/norm", base.norm, paths, width))
    return channels
