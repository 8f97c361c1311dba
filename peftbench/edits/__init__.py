"""The six edit primitives. Edits know tensors and sites, and nothing of models or methods."""

from .bank import Bank
from .base import Delta, Edit
from .kv import Prefix
from .linear import (
    AddedBias,
    Dora,
    InputScale,
    LinearEdit,
    LowRank,
    OutputScale,
    ScaleShift,
)
from .op import Bottleneck, OpEdit
from .sites import (
    AttentionSite,
    ChannelSite,
    Embed,
    Handles,
    LinearSite,
    OpSite,
    SequenceSite,
    TensorRef,
)
from .token import Tokens
from .weight import Entries, Weight

__all__ = [
    "AddedBias",
    "AttentionSite",
    "Bank",
    "Bottleneck",
    "ChannelSite",
    "Delta",
    "Dora",
    "Edit",
    "Embed",
    "Entries",
    "Handles",
    "InputScale",
    "LinearEdit",
    "LinearSite",
    "LowRank",
    "OpEdit",
    "OpSite",
    "OutputScale",
    "Prefix",
    "ScaleShift",
    "SequenceSite",
    "TensorRef",
    "Tokens",
    "Weight",
]
