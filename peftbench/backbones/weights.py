"""All packaged weights by name."""

from __future__ import annotations

from .packaged import Weights
from .packaged_dinov2 import DINOV2_SMALL
from .packaged_minilm import MINILM
from .packaged_smollm2 import SMOLLM2_135M
from .packaged_t5 import FLAN_T5_SMALL

WEIGHTS: dict[str, Weights] = {
    w.name: w for w in (DINOV2_SMALL, MINILM, FLAN_T5_SMALL, SMOLLM2_135M)
}
