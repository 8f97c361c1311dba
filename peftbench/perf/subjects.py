"""The networks that the step benchmark runs on, with random weights, and their inputs.

Shape legend: B batch, T tokens, V vocabulary, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..backbones.load_timm import TimmViT
from ..errors import unknown

VIT_LINEARS = r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
LLAMA_LINEARS = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Pair:
    """A peer's method and ours with the same targets and rank, on one network.

    Attributes:
        name: for example ``lora_all``.
        kind: ``lora`` or ``ia3``.
        targets: regular expression over dotted names of layers, for the peer.
        feedforward: of those, the layers whose input is scaled (IA3).
        method: our settings.

    """

    name: str
    kind: str
    targets: str
    method: Mapping[str, Any]
    feedforward: str | None = None


@dataclass(frozen=True)
class Contrast:
    """Two of our methods on one network, of which one should cost hardly more than the other.

    Attributes:
        name: of the row.
        method: its settings.
        other: name of the row it is compared with.
        reference: settings of that.
        bound: largest allowed ratio of the steps.

    """

    name: str
    method: Mapping[str, Any]
    other: str
    reference: Mapping[str, Any]
    bound: float


@dataclass(frozen=True)
class Subject:
    """One network with a fixed batch.

    Attributes:
        name: key of the subject.
        title: what it is, in words.
        build: returns the network, in fp32, on the CPU.
        batch: B.
        image_size: side in pixels; None for text.
        tokens: T of a text batch.
        vocabulary: V of a text batch.
        classes: C of a classifier head; None trains the language-model loss.
        pairs: what is compared with a peer.
        peer_bound: largest allowed ratio of our step to the peer's.
        contexts: (context, tokens) of each part of a sequence, for methods that tell them apart.
        contrasts: what is compared with another method of ours.

    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    batch: int
    image_size: int | None = None
    tokens: int = 0
    vocabulary: int = 0
    classes: int | None = None
    pairs: tuple[Pair, ...] = field(default=())
    peer_bound: float = 1.0
    contexts: tuple[tuple[int, int], ...] = ()
    contrasts: tuple[Contrast, ...] = ()

    def context(self, device: torch.device) -> dict[str, Tensor] | None:
        """Return the context number of every token, (B, T); None where all are alike."""
        if not self.contexts:
            return None
        ids = [number for number, count in self.contexts for _ in range(count)]
        return {"context": torch.tensor(ids, device=device).expand(self.batch, -1).contiguous()}

    def inputs(self, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
        """Return a random batch and its labels: (B,) classes, or (B, T) next tokens."""
        g = torch.Generator().manual_seed(0)
        if self.image_size is not None:
            shape = (self.batch, 3, self.image_size, self.image_size)
            image = torch.randn(shape, generator=g).to(device, dtype)
            labels = torch.randint(0, self.classes or 1, (self.batch,), generator=g)
            return {"image": image}, labels.to(device)
        ids = torch.randint(0, self.vocabulary, (self.batch, self.tokens + 1), generator=g)
        ids = ids.to(device)
        mask = torch.ones_like(ids[:, :-1])
        labels = ids[:, 1:] if self.classes is None else ids[:, -1] % self.classes
        return {"input_ids": ids[:, :-1], "attention_mask": mask}, labels


def vit(name: str, size: int, **arch: Any) -> Callable[[], nn.Module]:
    """Return a builder of a timm vision transformer with random weights."""

    def build() -> nn.Module:
        return TimmViT(name, size, init="random", arch=arch or None).load().model

    return build


def llama(
    width: int, depth: int, heads: int, kv_heads: int, mlp: int, vocabulary: int
) -> Callable[[], nn.Module]:
    """Return a builder of a LLaMA with language-model head and random weights."""

    def build() -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=4096,
        )
        devices: list[int] = []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            return LlamaForCausalLM(config)

    return build


def bert(width: int, depth: int, heads: int, vocabulary: int) -> Callable[[], nn.Module]:
    """Return a builder of a BERT encoder with random weights."""

    def build() -> nn.Module:
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        devices: list[int] = []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            return BertModel(config, add_pooling_layer=False)

    return build


def _lora(*roles: str) -> dict[str, Any]:
    target = "peftbench.methods.lora.Lora"
    return {"_target_": target, "roles": list(roles), "rank": 8, "alpha": 16.0}


def _ia3(*outputs: str) -> dict[str, Any]:
    target = "peftbench.methods.ia3.IA3"
    return {"_target_": target, "outputs": list(outputs), "inputs": ["down"]}


VIT_PAIRS = (
    Pair("lora_all", "lora", VIT_LINEARS, _lora("all")),
    Pair("lora_qkv", "lora", r"blocks\.\d+\.attn\.qkv", _lora("qkv")),
    Pair(
        "ia3_qkv_down",
        "ia3",
        r"blocks\.\d+\.(attn\.qkv|mlp\.fc2)",
        _ia3("qkv"),
        r"blocks\.\d+\.mlp\.fc2",
    ),
)
LLAMA_PAIRS = (
    Pair("lora_all", "lora", LLAMA_LINEARS, _lora("all")),
    Pair("lora_q_v", "lora", r"model\.layers\.\d+\.self_attn\.[qv]_proj", _lora("q", "v")),
    Pair(
        "ia3_k_v_down",
        "ia3",
        r"model\.layers\.\d+\.(self_attn\.[kv]_proj|mlp\.down_proj)",
        _ia3("k", "v"),
        r"model\.layers\.\d+\.mlp\.down_proj",
    ),
)

PAPER_LAYOUT = ((0, 1), (1, 64), (0, 63))  # start, image, text: arXiv 2312.08900
CONTEXT_LORA = {
    "_target_": "peftbench.methods.context.Context",
    "inner": {"_target_": "peftbench.methods.lora.Lora", "rank": 8},
}
CONTEXTS = (
    Contrast(
        "lora of two contexts", CONTEXT_LORA, "lora of one", {**_lora("all"), "alpha": 8.0}, 1.05
    ),
)

SUBJECTS: dict[str, Subject] = {
    s.name: s
    for s in (
        Subject(
            "vit_s",
            "ViT-S/16 at 112 pixels, batch 8, 10 classes",
            vit("vit_small_patch16_224", 112),
            batch=8,
            image_size=112,
            classes=10,
            pairs=VIT_PAIRS,
            peer_bound=0.95,
        ),
        Subject(
            "llama",
            "LLaMA of 10 layers x 576 (9 heads, 3 key/value heads, MLP 1536, vocabulary 4096), "
            "batch 4 x 64 tokens, language-model loss",
            llama(576, 10, 9, 3, 1536, 4096),
            batch=4,
            tokens=64,
            vocabulary=4096,
            pairs=LLAMA_PAIRS,
        ),
        Subject(
            "smollm2",
            "LLaMA of 30 layers x 576 (SmolLM2-135M's shape, vocabulary 49152), batch 2 x 128 "
            "tokens (1 of text, 64 of image, 63 of text), language-model loss",
            llama(576, 30, 9, 3, 1536, 49152),
            batch=2,
            tokens=128,
            vocabulary=49152,
            contexts=PAPER_LAYOUT,
            contrasts=CONTEXTS,
        ),
        Subject(
            "minilm",
            "BERT of 6 layers x 384 (MiniLM's shape, vocabulary 30522), batch 16 x 64 tokens, 2 "
            "classes",
            bert(384, 6, 12, 30522),
            batch=16,
            tokens=64,
            vocabulary=30522,
            classes=2,
        ),
        Subject(
            "vit_b",
            "ViT-B/16 at 224 pixels, batch 64, 100 classes",
            vit("vit_base_patch16_224", 224),
            batch=64,
            image_size=224,
            classes=100,
            pairs=VIT_PAIRS,
        ),
        Subject(
            "llama_1b",
            "LLaMA of 16 layers x 2048 (32 heads, 8 key/value heads, MLP 8192, vocabulary "
            "128256), batch 2 x 512 tokens, language-model loss",
            llama(2048, 16, 32, 8, 8192, 128256),
            batch=2,
            tokens=512,
            vocabulary=128256,
            pairs=LLAMA_PAIRS,
        ),
        Subject(
            "vit_tiny",
            "random ViT of 2 blocks x 64 at 32 pixels, for tests",
            vit("vit_tiny_patch16_224", 32, embed_dim=64, depth=2, num_heads=4, patch_size=8),
            batch=4,
            image_size=32,
            classes=3,
            pairs=VIT_PAIRS,
        ),
        Subject(
            "bert_tiny",
            "random BERT of 2 layers x 64, for tests",
            bert(64, 2, 4, 64),
            batch=4,
            tokens=16,
            vocabulary=64,
            classes=3,
        ),
        Subject(
            "llama_tiny",
            "random LLaMA of 2 layers x 64, for tests",
            llama(64, 2, 4, 2, 128, 64),
            batch=4,
            tokens=16,
            vocabulary=64,
            pairs=LLAMA_PAIRS,
        ),
        Subject(
            "contexts_tiny",
            "random LLaMA of 2 layers x 64 with two contexts, for tests",
            llama(64, 2, 4, 2, 128, 64),
            batch=2,
            tokens=128,
            vocabulary=64,
            contexts=PAPER_LAYOUT,
            contrasts=CONTEXTS,
        ),
    )
}


def find_subject(name: str) -> Subject:
    """Return a subject by name.

    Raises:
        ConfigError: there is no such subject.

    """
    if name not in SUBJECTS:
        raise unknown("model", name, SUBJECTS, "--models")
    return SUBJECTS[name]


def twin(model: nn.Module) -> nn.Module:
    """Return a copy of a frozen network that shares its parameters.

    All rows of a table so read the same weights at the same addresses.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def load(subject: Subject, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Build a subject's network, frozen, on a device."""
    model = subject.build().to(device, dtype).train()
    return Backbone(subject.name, model, "random")
