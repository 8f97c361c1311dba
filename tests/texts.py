"""A toy language for text tasks: a word-level tokenizer per layout, and a learnable task."""

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftbench.backbones.codec import Codec
from peftbench.backbones.load_hf import TinyBert, TinyLlama, TinyT5
from peftbench.tasks.text import Passages, TextTask

SPECIAL = ("<pad>", "</s>", "<unk>", "<s>", "[CLS]", "[SEP]")
WORDS = (
    *SPECIAL,
    *[
        "good",
        "bad",
        "film",
        "the",
        "is",
        "yes",
        "no",
        ":",
        "Answer",
        "text",
        "a",
        "b",
        "c",
        "0",
        "1",
        "2",
        ".",
    ],
)
LAYOUTS = ("encoder", "seq2seq", "decoder")
AROUND = {
    "encoder": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "seq2seq": ("$A </s>", "$A </s> $B </s>"),
    "decoder": ("<s> $A", "<s> $A $B"),
}


def tokenizer(layout):
    """Return a tokenizer of 64 ids or fewer that puts around a text what the layout wants."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    single, pair = AROUND[layout]
    special = [(w, WORDS.index(w)) for w in ("</s>", "<s>", "[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


@cache
def codec(layout):
    """Return the codec of a layout."""
    return Codec(tokenizer(layout), layout, 60)


def backbone(layout):
    """Return a new tiny network with the toy language's codec."""
    made = {"encoder": TinyBert, "seq2seq": TinyT5, "decoder": TinyLlama}[layout]().load()
    made.codec = codec(layout)
    return made


def part(count, first_id, seed, pairs=False):
    """Return samples whose class is whether ``good`` or ``bad`` stands among other words."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=g)
    texts = []
    for label in labels.tolist():
        size = int(torch.randint(0, 11, (1,), generator=g))
        fill = [WORDS[int(i)] for i in torch.randint(8, 11, (size,), generator=g)]
        texts.append(" ".join([*fill[: size // 2], "good" if label else "bad", *fill[size // 2 :]]))
    return Passages(
        torch.arange(first_id, first_id + count),
        [(t, "a b") if pairs else (t,) for t in texts],
        [f"text : {t}" for t in texts],
        ["yes" if label else "no" for label in labels.tolist()],
        labels,
    )


def task(**changes):
    """Return the task; ``changes`` go to its fields."""
    splits = {"train": part(96, 0, 0), "val": part(30, 1000, 1), "test": part(40, 2000, 2)}
    given = {
        "name": "toy",
        "kind": "classification",
        "splits": splits,
        "labels": ("negative", "positive"),
        "words": ("no", "yes"),
        "metrics": ("accuracy",),
        "description": "text is good",
        "longest_source": 32,
        "longest_target": 4,
    } | changes
    counts = {name: {"count": len(p)} for name, p in given["splits"].items()}
    return TextTask(**given, manifest={"task": given["name"], "splits": counts})
