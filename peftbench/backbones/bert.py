"""Hugging Face BERT and RoBERTa encoders. Devlin et al., arXiv 1810.04805; Liu et al., 1907.11692.

Blocks are post-norm: ``x = LN(x + dropout(dense(op(x))))``, so an operation's output is taken from
the dropout in front of the norm, and the stream is what the operation reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..edits.sites import AttentionSite, ChannelSite, OpSite, SequenceSite, TensorRef
from .anatomy import Anatomy, Block, Stack
from .parts import linear_channels, linear_site, module_paths, norm_channel

STACK = "encoder"


def _base(model: nn.Module) -> Any:
    return getattr(model, getattr(model, "base_model_prefix", ""), model)


def matches(model: nn.Module) -> bool:
    """Whether ``model`` is (or holds, as its base) a BERT or RoBERTa encoder."""
    from transformers import BertModel, RobertaModel

    return isinstance(_base(model), BertModel | RobertaModel)


def anatomy(model: Any) -> Anatomy:
    """Write down where things are in a BERT or RoBERTa encoder."""
    base, paths = _base(model), module_paths(model)
    width = base.config.hidden_size
    blocks = tuple(_block(i, layer, width, paths) for i, layer in enumerate(base.encoder.layer))
    sequence = SequenceSite(
        name=STACK,
        width=width,
        prefix_tokens=1,
        enter=TensorRef(base.embeddings, "output"),
        leave=TensorRef(base.encoder, "output", key="last_hidden_state"),
        block_inputs=tuple(TensorRef(b.module, "input", 0, "hidden_states") for b in blocks),
        masks=(TensorRef(base, "input", 1, "attention_mask"),),
        table=base.embeddings.word_embeddings,
    )
    return Anatomy(
        family="bert",
        model=model,
        stacks=(Stack(STACK, blocks, sequence),),
        channels=tuple(_channels(base, blocks, width, paths)),
        features=features,
        read_token=read_token,
        class_token=True,
    )


def features(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the output of the first token ([CLS]), (B, D)."""
    return _base(model)(**inputs).last_hidden_state[:, 0]


def read_token(model: Any, token_BD: Tensor) -> Tensor:
    """The head reads a token's output as it is."""
    return token_BD


def _block(index: int, layer: Any, width: int, paths: dict[int, str]) -> Block:
    prefix = f"{STACK}/{index}"
    attention, self_attention = layer.attention, layer.attention.self
    linears = {
        "q": linear_site(prefix, "q", self_attention.query, paths),
        "k": linear_site(prefix, "k", self_attention.key, paths),
        "v": linear_site(prefix, "v", self_attention.value, paths),
        "o": linear_site(prefix, "o", attention.output.dense, paths),
        "up": linear_site(prefix, "up", layer.intermediate.dense, paths),
        "down": linear_site(prefix, "down", layer.output.dense, paths),
    }
    attn_in = TensorRef(attention, "input", 0, "hidden_states")
    mlp_in = TensorRef(layer.intermediate, "input", 0)
    block_in = TensorRef(layer, "input", 0, "hidden_states")
    ops = {
        "attn": OpSite(
            f"{prefix}/attn",
            "attn",
            stream=attn_in,
            input=TensorRef(self_attention, "input", 0, "hidden_states"),
            output=TensorRef(attention.output.dropout, "output"),
            width=width,
        ),
        "mlp": OpSite(
            f"{prefix}/mlp",
            "mlp",
            stream=mlp_in,
            input=mlp_in,
            output=TensorRef(layer.output.dropout, "output"),
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
    site = AttentionSite(
        f"{prefix}/attn",
        self_attention,
        self_attention.num_attention_heads,
        self_attention.attention_head_size,
    )
    activation = layer.intermediate.intermediate_act_fn.forward
    return Block(STACK, index, layer, linears, ops, {"attn": site}, activation=activation)


def _channels(
    base: Any, blocks: tuple[Block, ...], width: int, paths: dict[int, str]
) -> list[ChannelSite]:
    channels = [norm_channel(f"{STACK}/embed_norm", base.embeddings.LayerNorm, paths, width)]
    for block in blocks:
        prefix, sites, layer = f"{STACK}/{block.index}", block.linears, block.module
        norm1, norm2 = layer.attention.output.LayerNorm, layer.output.LayerNorm  # type: ignore[union-attr]
        channels.extend(linear_channels(prefix, [sites[r] for r in ("q", "k", "v", "o")]))
        channels.append(norm_channel(f"{prefix}/norm1", norm1, paths, width))  # type: ignore[arg-type]
        channels.extend(linear_channels(prefix, [sites["up"], sites["down"]]))
        channels.append(norm_channel(f"{prefix}/norm2", norm2, paths, width))  # type: ignore[arg-type]
    return channels
