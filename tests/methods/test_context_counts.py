"""Counts of the paper: its decoder with a fused first feed-forward layer, and other decoders.

Counts depend on shapes only, so the networks live on the meta device.
"""

from functools import cache

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from peftbench.backbones import Anatomy, Stack
from peftbench.backbones.anatomy import Block
from peftbench.backbones.backbone import find_anatomy
from peftbench.backbones.parts import linear_site, module_paths
from peftbench.edits import SequenceSite, TensorRef
from peftbench.methods.bitfit import BitFit
from peftbench.methods.context import Context
from peftbench.methods.ia3 import IA3
from peftbench.methods.lora import Lora


class Layer(nn.Module):
    """One block: biases everywhere, gate and value in one layer."""

    def __init__(self, d, f):
        super().__init__()
        for name, (i, o) in {
            "q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "up": (d, 2 * f), "down": (f, d)
        }.items():  # fmt: skip
            setattr(self, name, nn.Linear(i, o))
        self.norms = nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)])


class PaperDecoder(nn.Module):
    """The paper's language model: vocabulary 50,272, 12 layers x 768, feed-forward 3072."""

    def __init__(self, words=50_272, d=768, f=3072, layers=12):
        super().__init__()
        self.embed = nn.Embedding(words, d)  # tied with the output
        self.blocks = nn.ModuleList(Layer(d, f) for _ in range(layers))
        self.norms = nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)])
        self.enter, self.leave = nn.Linear(d, d), nn.Linear(d, d)


@cache
def paper():
    with torch.device("meta"):
        model = PaperDecoder()
    paths = module_paths(model)
    blocks = tuple(
        Block(
            "decoder",
            i,
            layer,
            {r: linear_site(f"decoder/{i}", r, getattr(layer, r), paths)
             for r in ("q", "k", "v", "o", "up", "down")},
            {},
            {},
        )
        for i, layer in enumerate(model.blocks)
    )  # fmt: skip
    inputs = tuple(TensorRef(b.module, "input", 0) for b in blocks)
    sequence = SequenceSite(
        "decoder", 768, 0, inputs[0], TensorRef(model.norms[1], "output"), inputs
    )
    nothing = lambda *_: None  # noqa: E731
    return Anatomy("paper", model, (Stack("decoder", blocks, sequence),), (), nothing, nothing)


@cache
def llama(d, f, layers, heads, kv_width):
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=d,
        intermediate_size=f,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_width // (d // heads),
    )
    with torch.device("meta"):
        return find_anatomy(LlamaForCausalLM(config))


def count(anatomy, inner, **settings):
    plan = Context(inner, **settings).plan(anatomy, torch.Generator().manual_seed(0))
    return plan.parameter_count()


def rank(r):
    return Lora(rank=r)


def test_the_papers_decoder():
    assert sum(p.numel() for p in paper().model.parameters()) == 153_196_032


@pytest.mark.parametrize(
    ("inner", "attention", "feed", "both"),
    [
        (IA3(), 18_432, 36_864, 55_296),
        (BitFit(), 36_864, 82_944, 119_808),
        (rank(1), 73_728, 129_024, 202_752),
        (rank(8), 8 * 73_728, 8 * 129_024, 1_622_016),
        (rank(64), 64 * 73_728, 64 * 129_024, 12_976_128),
    ],
    ids=["ia3", "bitfit", "lora-1", "lora-8", "lora-64"],
)
def test_table_3_of_the_paper(inner, attention, feed, both):
    for targets, wanted in (("A", attention), ("F", feed), ("AF", both)):
        assert count(paper(), inner, contexts="shared", targets=targets) == wanted
    assert count(paper(), inner) == 2 * both
    assert count(paper(), inner, contexts="image_only") == both
    if inner != rank(64):
        assert count(paper(), inner, names=("text", "image", "sound")) == 3 * both


@pytest.mark.parametrize(
    ("inner", "dead"), [(IA3(), 3072), (BitFit(), 8448), (rank(1), 13_824), (rank(8), 8 * 13_824)]
)
def test_what_skip_dead_leaves_out(inner, dead):
    assert count(paper(), inner, skip_dead=True) == count(paper(), inner) - dead


DECODERS = {
    "paper, gate apart": ((768, 3072, 12, 12, 768), 211_968, 119_808, 55_296),
    "Qwen2.5-0.5B": ((896, 4864, 24, 14, 128), 549_888, 304_128, 122_880),
    "TinyLlama-1.1B": ((2048, 5632, 22, 32, 256), 788_480, 394_240, 135_168),
    "small": ((64, 128, 2, 4, 64), 2_176, 1_152, 512),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_with_a_gate_of_their_own(name):
    shape, lora, biases, scales = DECODERS[name]
    assert count(llama(*shape), rank(1), contexts="shared") == lora
    assert count(llama(*shape), rank(8)) == 2 * 8 * lora
    assert count(llama(*shape), BitFit(), contexts="shared") == biases
    assert count(llama(*shape), IA3(), contexts="shared") == scales
