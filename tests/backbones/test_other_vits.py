"""Vision transformers of timm whose blocks are not plain pre-norm blocks are refused by name."""

import pytest
import timm

from peftbench.backbones import find_anatomy
from peftbench.errors import IncompatibleError

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 4, "num_classes": 0}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("vit_base_patch16_rpn_224", {}, "ResPostBlock norms behind"),
        ("vit_dwee_patch16_reg1_gap_256", {}, "DiffAttention has other heads"),
        ("vit_tiny_patch16_224", {"mlp_layer": timm.layers.SwiGLU}, "SwiGLU has no 'fc1'"),
        ("vit_small_patch16_18x2_224", {}, "ParallelThingsBlock has no 'attn'"),
    ],
)
def test_other_blocks_are_refused(name, options, said):
    network = timm.create_model(name, **SMALL, **options)
    with pytest.raises(IncompatibleError, match=said):
        find_anatomy(network)
