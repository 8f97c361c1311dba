"""Hugging Face T5 (v1.0, v1.1 and FLAN). Raffel et al., arXiv 1910.10683.

Blocks are pre-norm with RMSNorm and return tuples that carry the position bias; linear layers and
norms have no bias. The encoder and the decoder are two stacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..edits.sites import AttentionSite, ChannelSite, Embed, OpSite, SequenceSite, TensorRef
from .anatomy import Anatomy, Block, Stack
from .parts import linear_channels, linear_site, module_paths, norm_channel


def matches(model: nn.Module) -> bool:
    """Whether ``model`` is a T5 encoder-decoder or encoder."""
    from transformers import T5EncoderModel, T5ForConditionalGeneration, T5Model

    return isinstance(model, T5Model | T5ForConditionalGeneration | T5EncoderModel)


def anatomy(model: Any) -> Anatomy:
    """Write down where things are in a T5 network."""
    paths = module_paths(model)
    names = [n for n in ("encoder", "decoder") if hasattr(model, n)]
    stacks = tuple(_stack(model, name, paths) for name in names)
    channels = [c for stack in stacks for c in _channels(stack, getattr(model, stack.name), paths)]
    return Anatomy(
        family="t5",
        model=model,
        stacks=stacks,
        channels=tuple(channels),
        features=features,
        read_token=read_token,
        logits=logits if hasattr(model, "lm_head") else None,
        write=write if hasattr(model, "lm_head") else None,
        encode=encode if hasattr(model, "lm_head") else None,
        generating=tuple(getattr(model, n) for n in ("decoder", "lm_head") if hasattr(model, n)),
    )


def features(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of the encoder's outputs over real tokens, (B, D)."""
    mask_BT = inputs.get("attention_mask")
    encoded = model.encoder(input_ids=inputs["input_ids"], attention_mask=mask_BT)
    hidden_BTD = encoded.last_hidden_state
    if mask_BT is None:
        return hidden_BTD.mean(1)
    weight_BT1 = mask_BT.to(hidden_BTD.dtype)[..., None]
    return (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)


def read_token(model: Any, token_BD: Tensor) -> Tensor:
    """The head reads a token's output as it is."""
    return token_BD


def encode(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs with the encoder's output, ``encoded`` (B, T', D), in place of its ids."""
    mask_BT = inputs.get("attention_mask")
    given = model.encoder(input_ids=inputs["input_ids"], attention_mask=mask_BT)
    rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    return {**rest, "encoded": given.last_hidden_state}


def logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return decoder logits (B, T, V) for ``decoder_input_ids``."""
    return model(**_given(inputs), use_cache=False).logits


def write(model: Any, inputs: Mapping[str, Tensor], config: Any) -> Tensor:
    """Return the ids (B, G) that the decoder writes, without the one that it starts from."""
    written: Tensor = model.generate(**_given(inputs), generation_config=config)
    return written[:, 1:]


def _given(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return inputs as the network takes them, whether the encoder has run already or not."""
    from transformers.modeling_outputs import BaseModelOutput

    rest: dict[str, Any] = dict(inputs)
    if "encoded" in rest:
        rest["encoder_outputs"] = BaseModelOutput(last_hidden_state=rest.pop("encoded"))
    return rest


def _stack(model: Any, name: str, paths: dict[int, str]) -> Stack:
    stack, decoder = getattr(model, name), getattr(model, "decoder", None)
    width = stack.config.d_model
    reads = stack is decoder  # what the encoder gives, under a mask of its own
    blocks = tuple(_block(name, i, block, width, paths) for i, block in enumerate(stack.block))
    sequence = SequenceSite(
        name=name,
        width=width,
        prefix_tokens=0,
        enter=TensorRef(stack, "input", key="inputs_embeds"),
        leave=TensorRef(stack.final_layer_norm, "output"),
        block_inputs=tuple(TensorRef(b.module, "input", 0, "hidden_states") for b in blocks),
        masks=(TensorRef(stack, "input", 1, "attention_mask"),),
        embed=Embed(stack, stack.embed_tokens),
        table=stack.embed_tokens,
        readers=()
        if reads or decoder is None
        else (TensorRef(decoder, "input", 3, "encoder_attention_mask"),),
        memory=TensorRef(stack, "input", 2, "encoder_hidden_states") if reads else None,
    )
    return Stack(name, blocks, sequence)


def _feed_forward(prefix: str, dense: Any, paths: dict[int, str]) -> dict[str, Any]:
    if hasattr(dense, "wi_0"):
        return {
            "gate": linear_site(prefix, "gate", dense.wi_0, paths),
            "up": linear_site(prefix, "up", dense.wi_1, paths),
            "down": linear_site(prefix, "down", dense.wo, paths),
        }
    return {
        "up": linear_site(prefix, "up", dense.wi, paths),
        "down": linear_site(prefix, "down", dense.wo, paths),
    }


def _attention(
    prefix: str, kind: str, layer: Any, attn: Any, width: int, paths: dict[int, str]
) -> tuple[dict[str, Any], OpSite, AttentionSite]:
    lead = "cross_" if kind == "cross_attn" else ""
    linears = {
        f"{lead}{r}": linear_site(prefix, f"{lead}{r}", getattr(attn, r), paths) for r in "qkvo"
    }
    op = OpSite(
        f"{prefix}/{kind}",
        kind,  # type: ignore[arg-type]
        stream=TensorRef(layer.layer_norm, "input", 0),
        input=TensorRef(attn, "input", 0, "hidden_states"),
        output=TensorRef(layer.dropout, "output"),
        width=width,
    )
    site = AttentionSite(f"{prefix}/{kind}", attn, attn.n_heads, attn.key_value_proj_dim, 1.0)
    return linears, op, site


def _block(stack: str, index: int, block: Any, width: int, paths: dict[int, str]) -> Block:
    prefix = f"{stack}/{index}"
    linears, op, site = _attention(
        prefix, "attn", block.layer[0], block.layer[0].SelfAttention, width, paths
    )
    ops, attentions = {"attn": op}, {"attn": site}
    if block.is_decoder:
        more, op, site = _attention(
            prefix, "cross_attn", block.layer[1], block.layer[1].EncDecAttention, width, paths
        )
        linears.update(more)
        ops["cross_attn"], attentions["cross_attn"] = op, site
    feed = block.layer[-1]
    linears.update(_feed_forward(prefix, feed.DenseReluDense, paths))
    ops["mlp"] = OpSite(
        f"{prefix}/mlp",
        "mlp",
        stream=TensorRef(feed.layer_norm, "input", 0),
        input=TensorRef(feed.DenseReluDense, "input", 0),
        output=TensorRef(feed.dropout, "output"),
        width=width,
    )
    block_in = TensorRef(block, "input", 0, "hidden_states")
    ops["block"] = OpSite(
        f"{prefix}/block",
        "block",
        stream=block_in,
        input=block_in,
        output=TensorRef(block, "output", 0),
        width=width,
    )
    norms = {"attn": block.layer[0].layer_norm, "mlp": feed.layer_norm}
    activation = feed.DenseReluDense.act.forward
    return Block(stack, index, block, linears, ops, attentions, norms, activation=activation)


def _channels(stack: Stack, module: Any, paths: dict[int, str]) -> list[ChannelSite]:
    channels: list[ChannelSite] = []
    for block in stack.blocks:
        prefix, sites = f"{stack.name}/{block.index}", block.linears
        layers: Any = block.module.layer
        for i, layer in enumerate(layers):
            channels.append(
                norm_channel(f"{prefix}/norm{i + 1}", layer.layer_norm, paths, stack.width)
            )
            if layer is layers[-1]:
                roles = [r for r in ("gate", "up", "down") if r in sites]
            else:
                roles = [f"{'cross_' if i else ''}{r}" for r in "qkvo"]
            channels.extend(linear_channels(prefix, [sites[r] for r in roles]))
    final = norm_channel(f"{stack.name}/norm", module.final_layer_norm, paths, stack.width)
    return [*channels, final]
