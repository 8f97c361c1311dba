"""Published architectures by their numbers: networks without data, to count and to weigh.

Built on the meta device, so that nothing is downloaded and no memory is taken. The numbers are
those of the configurations that the checkpoints are published with.
Shape legend: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..errors import ConfigError, unknown


@dataclass(frozen=True)
class Shape:
    """One architecture.

    Attributes:
        name: as in ``configs/backbone``.
        title: in words.
        family: name of the family file that knows it.
        build: (kind of attention, ``sdpa`` or ``eager``) -> the network, on the default device.
        longest: most tokens that a text network takes, or is used with.
        image: side in pixels of what a vision network reads; None for text.
        writes: whether it has a language-model head, which is used then.
        encodes: whether it reads in an encoder and writes in a decoder.

    """

    name: str
    title: str
    family: str
    build: Callable[[str], nn.Module]
    longest: int = 0
    image: int | None = None
    writes: bool = False
    encodes: bool = False

    def load(
        self, device: str = "meta", dtype: torch.dtype = torch.bfloat16, attention: str = "sdpa"
    ) -> Backbone:
        """Build the network; random weights where the device holds any."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model = self.build(attention)
        finally:
            torch.set_default_dtype(before)
        return Backbone(self.name, model.train(), "random")

    def tokens(self, seq: int | None) -> int:
        """Return T: ``seq``, or what the network takes at most, 2048 if that is more.

        Raises:
            ConfigError: more than the network takes.

        """
        if seq is not None and self.longest and seq > self.longest:
            raise ConfigError(
                f"seq: {seq} is more than {self.title} takes; allowed: up to {self.longest}"
            )
        return seq or min(self.longest or 2048, 2048)

    def inputs(self, batch: int, seq: int, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return a batch as the network takes it, (B, T) ids with a full mask, or images."""
        if self.image is not None:
            return {"image": torch.zeros(batch, 3, self.image, self.image, dtype=dtype).to(device)}
        ids = torch.full((batch, seq), 5).to(device)
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return found | {"decoder_input_ids": ids} if self.encodes else found


def _bert(roberta: bool, depth: int, width: int, heads: int, **more: Any) -> Any:
    def build(attention: str) -> nn.Module:
        from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

        made: Any = RobertaConfig if roberta else BertConfig
        config = made(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            attn_implementation=attention,
            **more,
        )
        network: Any = RobertaModel if roberta else BertModel
        return network(config, add_pooling_layer=False)  # type: ignore[no-any-return]

    return build


def _roberta(depth: int, width: int, heads: int) -> Any:
    return _bert(
        True,
        *(depth, width, heads),
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )


def _t5(width: int, depth: int, heads: int, inner: int) -> Any:
    def build(attention: str) -> nn.Module:
        from transformers import T5Config, T5ForConditionalGeneration

        make: Any = T5Config
        config = make(
            vocab_size=32128,
            d_model=width,
            d_kv=64,
            d_ff=inner,
            num_layers=depth,
            num_heads=heads,
            decoder_start_token_id=0,
            attn_implementation=attention,
        )
        return T5ForConditionalGeneration(config)

    return build


def _llama(
    width: int, inner: int, depth: int, heads: int, vocabulary: int = 32000, **more: Any
) -> Any:
    def build(attention: str) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        make_config: Any = LlamaConfig
        config = make_config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            attn_implementation=attention,
            **more,
        )
        return LlamaForCausalLM(config)

    return build


def _vit(model: str, size: int) -> Any:
    def build(attention: str) -> nn.Module:
        import timm

        made: nn.Module = timm.create_model(model, img_size=size, num_classes=0)
        return made

    return build


def _shapes() -> Iterator[Shape]:
    bert, llama = (partial(Shape, family=f) for f in ("bert", "llama"))
    t5 = partial(Shape, family="t5", longest=512, writes=True, encodes=True)
    yield bert("bert_base", "BERT-base", build=_bert(False, 12, 768, 12), longest=512)
    yield bert("minilm", "MiniLM-L6", build=_bert(False, 6, 384, 12), longest=512)
    yield bert("roberta_base", "RoBERTa-base", build=_roberta(12, 768, 12), longest=512)
    yield bert("roberta_large", "RoBERTa-large", build=_roberta(24, 1024, 16), longest=512)
    yield t5("t5_small", "T5-small", build=_t5(512, 6, 8, 2048))
    yield t5("t5_base", "T5-base", build=_t5(768, 12, 12, 3072))
    for name, title, numbers in (
        ("llama_7b", "LLaMA-7B", (4096, 11008, 32, 32)),
        ("llama_13b", "LLaMA-13B", (5120, 13824, 40, 40)),
        ("llama_33b", "LLaMA-33B", (6656, 17920, 60, 52)),
    ):
        yield llama(name, title, build=_llama(*numbers), longest=2048, writes=True)
    build = _llama(4096, 14336, 32, 32, 128256, num_key_value_heads=8)
    yield llama("llama3_8b", "Llama-3-8B", build=build, longest=8192, writes=True)
    build = _llama(576, 1536, 30, 9, 49152, num_key_value_heads=3, tie_word_embeddings=True)
    yield llama("smollm2_135m", "SmolLM2-135M", build=build, longest=8192, writes=True)
    for name, title, model in (
        ("dinov2_small", "ViT-S/14", "vit_small_patch14_dinov2"),
        ("vit_s16", "ViT-S/16", "vit_small_patch16_224"),
        ("vit_b16", "ViT-B/16", "vit_base_patch16_224"),
        ("vit_l16", "ViT-L/16", "vit_large_patch16_224"),
    ):
        yield Shape(name, title, "vit", _vit(model, 224), image=224)


SHAPES = {shape.name: shape for shape in _shapes()}


def find_shape(name: str) -> Shape:
    """Return an architecture by name.

    Raises:
        ConfigError: there is no such architecture.

    """
    if name not in SHAPES:
        raise unknown("architecture", name, SHAPES, "backbone")
    return SHAPES[name]
