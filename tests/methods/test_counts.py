"""Numbers of the papers on real shapes: ViT-B/16, ViT-S/16, ViT-L/16 at 224 pixels, head aside.

Counts depend on shapes only, so the networks and the edits live on the meta device.
"""

from functools import cache

import pytest
import timm
import tiny
import torch
from transformers import T5Config, T5ForConditionalGeneration

from peftbench.backbones.backbone import find_anatomy
from peftbench.methods.adapter import Adapter
from peftbench.methods.adapter_plus import AdapterPlus
from peftbench.methods.adaptformer import AdaptFormer
from peftbench.methods.bitfit import BitFit
from peftbench.methods.compacter import Compacter
from peftbench.methods.convpass import Convpass
from peftbench.methods.fact import Fact
from peftbench.methods.full import Full
from peftbench.methods.gist import Gist
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora
from peftbench.methods.lst import Lst
from peftbench.methods.repadapter import RepAdapter
from peftbench.methods.ssf import Ssf
from peftbench.methods.vpt import Vpt

B, S, L = "vit_base_patch16_224", "vit_small_patch16_224", "vit_large_patch16_224"
SHARED = Adapter("shared_parallel", hidden=4, scale=0.1, init="small")


@cache
def anatomy(name):
    with torch.device("meta"):
        return find_anatomy(timm.create_model(name, pretrained=False, num_classes=0))


def count(method, name=B):
    return method.plan(anatomy(name), torch.Generator()).parameter_count()


COUNTS = {
    "adapter, pfeiffer, h=8": (Adapter("pfeiffer", hidden=8), 156_768),
    "adapter, pfeiffer, h=4": (Adapter("pfeiffer", hidden=4), 82_992),
    "adapter, houlsby, h=8": (Adapter("houlsby", hidden=8), 2 * 156_768),
    "adapter, shared, h=4": (SHARED, 82_992),
    "AdaptFormer, h=8": (AdaptFormer(hidden=8), 156_768),
    "SSF": (Ssf(), 205_824),
    "LoRA q,v r=8": (Lora(("q", "v"), rank=8), 294_912),
    "LoRA q,v r=1": (Lora(("q", "v"), rank=1), 36_864),
    "BitFit": (BitFit(), 102_912),
    "VPT-shallow, 10": (Vpt(10), 7_680),
    "VPT-shallow, 1": (Vpt(1), 768),
    "VPT-deep, 50": (Vpt(50, deep=True), 460_800),
    "VPT-deep, 1": (Vpt(1, deep=True), 9_216),
    "FacT-TT, r=16": (Fact("tt", rank=16), 61_440),
    "FacT-TT, r=8": (Fact("tt", rank=8), 21_504),
    "FacT-TT, r=4": (Fact("tt", rank=4), 8_448),
    "FacT-TK, r=32": (Fact("tk", rank=32), 86_528),
    "FacT-TK, r=16": (Fact("tk", rank=16), 30_976),
    "RepAdapter, h=8": (RepAdapter(hidden=8), 239_808),
    "Convpass, h=8": (Convpass(hidden=8), 327_552),
    "Convpass, attention, h=8": (Convpass("attn", hidden=8), 163_776),
    "Compacter": (Compacter(), 57_088),
    "Compacter++": (Compacter("pfeiffer"), 28_576),
    "Adapter+, h=1": (AdapterPlus(1), 36_876),
    "Adapter+, h=8": (AdapterPlus(8), 165_984),
    "Adapter+, h=16": (AdapterPlus(16), 313_536),
    "MAM": (tiny.method("mam"), 10_005_504),
    "NOAH's parts of 8": (tiny.method("noah_all"), 525_408),
    "LoRA and adapter": (tiny.method("combo"), 451_680),
    "LST, r=8": (Lst(), 2_376_492),
    "full": (Full(), 85_798_656),
    "linear": (Linear(), 0),
    "GIST": (Gist(), 83_760),
    "GIST over adapter, h=8": (Gist(inner=Adapter("pfeiffer", hidden=8)), 157_536),
}


@pytest.mark.parametrize("row", COUNTS)
def test_vit_b16(row):
    method, wanted = COUNTS[row]
    assert count(method) == wanted


# a side network keeps gradients out of the network, so nothing can be wrapped around it
HOSTS = [r for r in COUNTS if not r.startswith(("GIST", "LST"))]


@pytest.mark.parametrize("row", HOSTS)
@pytest.mark.parametrize(("name", "width"), [(B, 768), (S, 384), (L, 1024)])
def test_gist_adds_its_width_to_every_host(row, name, width):
    host = COUNTS[row][0]
    assert count(Gist(inner=host), name) - count(host, name) == width
    assert count(Gist(inner=host, tokens=3), name) - count(host, name) == 3 * width


def test_lst_is_what_is_published():
    """2.38 M on ViT-B/16 (V-PETL Bench), 3.8 M on T5-base where 3 of 4 blocks have a side block."""
    assert round(count(Lst()) / 1e6, 2) == 2.38
    with torch.device("meta"):
        network = T5ForConditionalGeneration(
            T5Config(num_layers=12, d_model=768, d_ff=3072, d_kv=64, num_heads=12)
        )
    numbers = Lst(every=4, keep=3).plan(find_anatomy(network), torch.Generator()).parameter_count()
    assert numbers == 3_877_938


def test_the_frozen_backbone():
    assert sum(p.numel() for p in anatomy(B).model.parameters()) == 85_798_656


# ranks that the authors chose for the 19 tasks of VTAB-1K, and the mean that the paper prints
TUCKER_RANKS = {32: 13, 16: 6}


def test_tucker_mean_over_tasks_is_the_papers():
    total = sum(n * count(Fact("tk", rank=r)) for r, n in TUCKER_RANKS.items())
    assert total / sum(TUCKER_RANKS.values()) == pytest.approx(69_000, abs=500)


def test_repadapter_without_biases_is_the_papers_figure():
    delta = RepAdapter(hidden=8).plan(anatomy(B), torch.Generator())
    matrices = [p.numel() for n, p in delta.named_parameters() if n.endswith("weight")]
    assert sum(matrices) == 221_184


@pytest.mark.parametrize(("placement", "share"), [("houlsby", 0.073), ("pfeiffer", 0.047)])
def test_compacter_on_t5_base_trains_the_papers_share(placement, share):
    config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
        made = Compacter(placement, norms=True).plan(find_anatomy(model), torch.Generator())
    total = sum(p.numel() for p in model.parameters())
    assert 100 * made.parameter_count() / total == pytest.approx(share, abs=0.0005)
