"""Text networks in transformers' form: of the hub, of a local folder, packaged, or random."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ..errors import ConfigError, CorruptAssetError
from ..spec import to_spec
from .backbone import Backbone
from .codec import Codec, Layout
from .text_place import Place

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IN_BLOCK = re.compile(r"\.(layer|layers|block)\.\d+\.")
# In blocks of old checkpoints, and not needed: tables that are computed anew; T5's bias of the
# decoder's cross-attention, which was never used.
NOT_NEEDED = re.compile(r"rotary_emb\.inv_freq|EncDecAttention\.relative_attention_bias")


@dataclass(frozen=True)
class HubText:
    """A checkpoint in transformers' form, without heads that no text task uses.

    Attributes:
        model: ``owner/name`` on the hub, a local folder in the same form, or ``packaged:NAME``.
        revision: branch, tag or commit on the hub.
        dtype: of the weights; ``auto`` is the checkpoint's own.
        attention: ``sdpa``, or ``eager`` (which prefixes in keys and values refuse).
        init: ``pretrained``; ``random`` has the checkpoint's shape; ``meta`` has shapes alone, no
            numbers and no tokenizer, for counting.
        dropout: probability of every dropout in the frozen network; None: as the checkpoint has it
            (0.1 in BERT, RoBERTa and T5, 0 in LLaMA).
        quantise: frozen linear weights of 4 (``nf4``, with quantised scales, Dettmers et al.,
            arXiv 2305.14314) or 8 bits through bitsandbytes, on a GPU.
        shape: numbers of config.json with its ``model_type``. The checkpoint is held to them, and
            ``meta`` is built from them without asking the hub. None: config.json is asked.
        seed: of random weights.

    """

    family: ClassVar[str]
    takes: ClassVar[str] = "text"
    local: ClassVar[tuple[str, ...]] = ("model",)  # settings that may name a local folder
    layout: ClassVar[Layout]
    networks: ClassVar[Mapping[str, str]]  # model_type of config.json -> class in transformers
    dropouts: ClassVar[tuple[str, ...]]  # settings of config.json that are probabilities of dropout

    model: str
    revision: str | None = None
    dtype: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    init: Literal["pretrained", "random", "meta"] = "pretrained"
    dropout: float | None = None
    quantise: Literal["nf4", "int8"] | None = None
    shape: dict[str, Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"backbone.dropout: {self.dropout} is not in [0, 1)")
        if self.quantise and self.init != "pretrained":
            raise ConfigError(f"backbone.quantise: {self.quantise} needs backbone.init=pretrained")
        if self.shape is not None and self.shape.get("model_type") not in self.networks:
            raise ConfigError(
                "backbone.shape.model_type: one is needed; choices: " + ", ".join(self.networks)
            )

    def load(self) -> Backbone:
        """Load the network.

        Raises:
            MissingAssetError: a file cannot be had; says which, from where, and how else.
            CorruptAssetError: a file is damaged, or weights lack a tensor.
            ConfigError: the checkpoint is of another family, or a setting cannot be met.

        """
        _can_quantise(self.quantise)
        if self.init == "meta" and self.shape is not None:
            name = self.model.rpartition(":")[2]
            return Backbone(name, self._shaped(self._config_of_shape()), "shapes alone")
        place = Place.of(self.model, self.revision)
        place.obtainable(weights=self.init == "pretrained")
        with place.reading():
            config = self._config(place)
            if self.init == "pretrained":
                model, source = self._pretrained(place, config), place.described()
            else:
                model = self._shaped(config)
                source = "random" if self.init == "random" else "shapes alone"
            codec = None if self.init == "meta" else self._codec(place, config)
        if place.remote:
            place.check_stored()
        return Backbone(place.name, model.eval(), source, codec=codec, spec=to_spec(self))

    def _config_of_shape(self) -> Any:
        from transformers import AutoConfig

        given = dict(self.shape or {})
        return self._set(AutoConfig.for_model(given.pop("model_type"), **given))

    def _config(self, place: Place) -> Any:
        """Read config.json, hold it to family and shape, and set what the settings ask for."""
        from transformers import AutoConfig

        config: Any = AutoConfig.from_pretrained(place.path, revision=place.revision)
        if config.model_type not in self.networks:
            raise _other_family(self, place, config.model_type)
        wanted = self.shape or {}
        stored = {"model_type": config.model_type, **config.to_dict()}
        wrong = [f"{k}: {stored.get(k)}" for k in _differing(self._config_of_shape, wanted, stored)]
        if wrong:
            raise ConfigError(
                f"backbone.shape: {place.name} has other numbers: {', '.join(wrong)}; "
                "backbone.shape=null takes the checkpoint's"
            )
        return self._set(config)

    def _set(self, config: Any) -> Any:
        if self.dropout is not None:
            for name in self.dropouts:
                setattr(config, name, self.dropout)
        config._attn_implementation = self.attention
        return config

    def _network(self, config: Any) -> Any:
        import transformers

        return getattr(transformers, self.networks[config.model_type])

    def _options(self) -> dict[str, Any]:
        """Return what the network's class takes besides its configuration."""
        return {}

    def _pretrained(self, place: Place, config: Any) -> Any:
        options = {**self._options(), **_quantisation(self.quantise, self.dtype)}
        model, found = self._network(config).from_pretrained(
            place.path,
            revision=place.revision,
            config=config,
            dtype=DTYPES.get(self.dtype, "auto"),
            attn_implementation=self.attention,
            output_loading_info=True,
            **options,
        )
        lacking = sorted(found["missing_keys"])
        if lacking:
            raise CorruptAssetError(f"backbone.model: {place.name} lacks {_some(lacking)}")
        loose = [k for k in found["unexpected_keys"] if IN_BLOCK.search(f".{k}")]
        loose = sorted(k for k in loose if not NOT_NEEDED.search(k))
        if loose:
            raise CorruptAssetError(
                f"backbone.model: {place.name} holds what its config.json has no place for: "
                + _some(loose)
            )
        return model

    def _shaped(self, config: Any) -> Any:
        """Build the network with random weights, or on the meta device."""
        where = torch.device("meta" if self.init == "meta" else "cpu")
        devices: list[int] = []
        with torch.random.fork_rng(devices=devices), where:
            torch.manual_seed(self.seed)
            model = self._network(config)(config, **self._options())
            self._finish_shaped(model, config)
        dtype = DTYPES.get(self.dtype) or config.dtype or torch.float32
        return model.to(dtype).eval()

    def _finish_shaped(self, model: Any, config: Any) -> None:
        """Correct what the class makes otherwise than published checkpoints have it."""

    def _codec(self, place: Place, config: Any) -> Codec:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(place.path, revision=place.revision)
        tokenizer.padding_side = "left" if self.layout == "decoder" else "right"
        return Codec(tokenizer, self.layout, self._positions(config))

    def _positions(self, config: Any) -> int | None:
        return int(config.max_position_embeddings)


@dataclass(frozen=True)
class HubBert(HubText):
    """A BERT or RoBERTa encoder without pooler and language-model head; see :class:`HubText`."""

    family: ClassVar[str] = "bert"
    layout: ClassVar[Layout] = "encoder"
    networks: ClassVar[Mapping[str, str]] = {"bert": "BertModel", "roberta": "RobertaModel"}
    dropouts: ClassVar[tuple[str, ...]] = ("hidden_dropout_prob", "attention_probs_dropout_prob")

    def _options(self) -> dict[str, Any]:
        return {"add_pooling_layer": False}

    def _positions(self, config: Any) -> int:
        """RoBERTa counts positions from behind its padding id."""
        first = config.pad_token_id + 1 if config.model_type == "roberta" else 0
        return int(config.max_position_embeddings - first)


@dataclass(frozen=True)
class HubT5(HubText):
    """A T5 of version 1.0 (head tied to the embedding), 1.1 or FLAN (head of its own).

    See :class:`HubText`.
    """

    family: ClassVar[str] = "t5"
    layout: ClassVar[Layout] = "seq2seq"
    networks: ClassVar[Mapping[str, str]] = {"t5": "T5ForConditionalGeneration"}
    dropouts: ClassVar[tuple[str, ...]] = ("dropout_rate",)

    def _pretrained(self, place: Place, config: Any) -> Any:
        model = super()._pretrained(place, config)
        if model.lm_head.weight is not model.shared.weight:
            _keep_untied(model)
        return model

    def _finish_shaped(self, model: Any, config: Any) -> None:
        """Give version 1.1 a head of its own, drawn as the embedding is."""
        if not config.scale_decoder_outputs:
            head = torch.empty_like(model.shared.weight).normal_(std=config.initializer_factor)
            model.lm_head.weight = torch.nn.Parameter(head)
            _keep_untied(model)

    def _positions(self, config: Any) -> None:
        """Positions are relative: there is no limit."""
        return


@dataclass(frozen=True)
class HubLlama(HubText):
    """A LLaMA-family decoder (SmolLM2 too) with its language-model head; see :class:`HubText`."""

    family: ClassVar[str] = "llama"
    layout: ClassVar[Layout] = "decoder"
    networks: ClassVar[Mapping[str, str]] = {"llama": "LlamaForCausalLM"}
    dropouts: ClassVar[tuple[str, ...]] = ("attention_dropout",)


def _keep_untied(model: Any) -> None:
    """Keep a T5's own head apart: transformers calls every T5's head tied.

    Without this a later ``tie_weights()`` puts the embedding in its place.
    """
    ties = {k: v for k, v in model._tied_weights_keys.items() if k != "lm_head.weight"}
    model._tied_weights_keys = ties
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=False)


def _differing(make: Any, wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return the names of numbers in ``wanted`` that a stored configuration has otherwise."""
    if not wanted:
        return []
    ours = {"model_type": wanted["model_type"], **make().to_dict()}
    return [k for k in wanted if ours.get(k) != stored.get(k)]


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _other_family(spec: HubText, place: Place, kind: str) -> ConfigError:
    fitting = [c for c in (HubBert, HubT5, HubLlama) if kind in c.networks]
    hint = f" Did you mean backbone=hub_{fitting[0].family}?" if fitting else ""
    return ConfigError(
        f"backbone.model: {place.name} is a '{kind}' network, and {type(spec).__name__} takes "
        f"{' or '.join(spec.networks)}.{hint}"
    )


def _can_quantise(quantise: str | None) -> None:
    """Refuse quantised weights where the library or a GPU is missing."""
    if quantise is None:
        return
    plain = "backbone.quantise=null runs the same network in full precision"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"backbone.quantise: {quantise} needs bitsandbytes: pip install 'peftbench[quant]'; "
            + plain
        )
    if not torch.cuda.is_available():
        raise ConfigError(f"backbone.quantise: {quantise} needs a GPU, and there is none; {plain}")


def _quantisation(quantise: str | None, dtype: str) -> dict[str, Any]:
    """Return transformers' options for weights of few bits, on this process's GPU."""
    if quantise is None:
        return {}
    from transformers import BitsAndBytesConfig

    if quantise == "int8":
        how = BitsAndBytesConfig(load_in_8bit=True)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES.get(dtype, torch.bfloat16),
        )
    return {"quantization_config": how, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
