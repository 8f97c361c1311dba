"""Text networks through transformers: random tiny configurations of each family, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..spec import to_spec
from .backbone import Backbone
from .tiny_codec import tiny_codec


def _seeded(spec: Any, make: Any) -> Any:
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(spec.seed)
        model = make().eval()
        for parameter in model.parameters():  # zeros and ones would hide mistakes in tests
            parameter.data.add_(0.02 * torch.randn_like(parameter))
        return model


@dataclass(frozen=True)
class TinyBert:
    """A random BERT or RoBERTa encoder. Dropout is off unless ``dropout`` says otherwise."""

    family: ClassVar[str] = "bert"
    takes: ClassVar[str] = "text"

    width: int = 32
    depth: int = 2
    heads: int = 4
    vocabulary: int = 64
    positions: int = 64
    roberta: bool = False
    dropout: float = 0.0
    seed: int = 0

    def load(self) -> Backbone:
        """Build the network."""
        from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

        config_class: Any = RobertaConfig if self.roberta else BertConfig
        model_class: Any = RobertaModel if self.roberta else BertModel
        config = config_class(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            intermediate_size=2 * self.width,
            max_position_embeddings=self.positions,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
        )
        model = _seeded(self, lambda: model_class(config, add_pooling_layer=False))
        kind = "roberta" if self.roberta else "bert"
        first = config.pad_token_id + 1 if self.roberta else 0  # RoBERTa counts from behind it
        codec = tiny_codec(kind, "encoder", self.vocabulary, self.positions - first)
        return Backbone(f"{kind}_tiny_random", model, "random", codec=codec, spec=to_spec(self))


@dataclass(frozen=True)
class TinyT5:
    """A random gated T5 with encoder, decoder and language-model head. Dropout is off."""

    family: ClassVar[str] = "t5"
    takes: ClassVar[str] = "text"

    width: int = 32
    depth: int = 2
    heads: int = 4
    vocabulary: int = 64
    dropout: float = 0.0
    seed: int = 0

    def load(self) -> Backbone:
        """Build the network."""
        from transformers import T5Config, T5ForConditionalGeneration

        make_config: Any = T5Config
        config = make_config(
            vocab_size=self.vocabulary,
            d_model=self.width,
            d_kv=self.width // self.heads,
            d_ff=2 * self.width,
            num_layers=self.depth,
            num_heads=self.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=self.dropout,
            decoder_start_token_id=0,
        )
        model = _seeded(self, lambda: T5ForConditionalGeneration(config))
        codec = tiny_codec("t5", "seq2seq", self.vocabulary, None)
        return Backbone("t5_tiny_random", model, "random", codec=codec, spec=to_spec(self))


@dataclass(frozen=True)
class TinyLlama:
    """A random LLaMA with language-model head and grouped keys and values."""

    family: ClassVar[str] = "llama"
    takes: ClassVar[str] = "text"

    width: int = 32
    depth: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 64
    seed: int = 0

    def load(self) -> Backbone:
        """Build the network."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=2 * self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=128,
        )
        model = _seeded(self, lambda: LlamaForCausalLM(config))
        codec = tiny_codec("llama", "decoder", self.vocabulary, config.max_position_embeddings)
        return Backbone("llama_tiny_random", model, "random", codec=codec, spec=to_spec(self))
