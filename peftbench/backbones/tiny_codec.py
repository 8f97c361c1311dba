"""A tokenizer of single characters for random tiny networks: no file, the same ids every time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .codec import Codec, Layout

# In the order in which they get ids; what a small vocabulary has no room for is unknown.
CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"()-/#<>|=+&%_*"
CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# family -> special tokens by role, in the order of the ids that its configurations expect
SPECIAL: dict[str, dict[str, str]] = {
    "bert": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"},
    "roberta": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>"},
    "t5": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
    "llama": {"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
}
# family -> one text, and a pair, with their special tokens; ``:1`` is the second segment
FRAMES: dict[str, tuple[str, str]] = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "llama": ("<s> $A", "<s> $A $B"),
}


def tiny_codec(family: str, layout: Layout, vocabulary: int, positions: int | None) -> Codec:
    """Return a codec of lower-case characters.

    Args:
        family: bert, roberta, t5 or llama, whose special tokens it has.
        layout: of the codec.
        vocabulary: largest number of ids.
        positions: longest sequence of the network.

    """
    from tokenizers import Tokenizer, decoders, models, normalizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL[family]
    tokens = [*special.values(), *CHARACTERS][:vocabulary]
    ids = {token: index for index, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(ids, [], unk_token=special["unk"]))
    made.normalizer = normalizers.Lowercase()
    made.decoder = decoders.Fuse()
    single, pair = FRAMES[family]
    framing = [(t, ids[t]) for t in special.values()]
    made.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=framing)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=_inputs(family),
        padding_side="left" if layout == "decoder" else "right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT if layout == "decoder" else None,
        **{f"{role}_token": token for role, token in special.items()},
    )
    return Codec(tokenizer, layout, positions)


def _inputs(family: str) -> list[str]:
    segments: Mapping[str, list[str]] = {"bert": ["token_type_ids"]}
    return ["input_ids", *segments.get(family, []), "attention_mask"]
