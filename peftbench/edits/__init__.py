"""The six edit primitives. Edits know tensors and sites, and nothing of models or methods."""

from .bank import Bank
from .base import Delta, Edit
from .context import ContextBank
from .factored import Factored, Factors
from .grid import ConvBypass, GridEdit
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
from .mixture import (
    CorrelatedTokens,
    Expert,
    Experts,
    FixedGate,
    Gate,
    LinearTuner,
    Mixture,
    PromptView,
)
from .op import Bottleneck, InputOp, OpEdit
from .router import Route, Router
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
    "ContextBank",
    "ConvBypass",
    "CorrelatedTokens",
    "Delta",
    "Dora",
    "Edit",
    "Embed",
    "Entries",
    "Expert",
    "Experts",
    "Factored",
    "Factors",
    "FixedGate",
    "Gate",
    "GridEdit",
    "Handles",
    "InputOp",
    "InputScale",
    "LinearEdit",
    "LinearSite",
    "LinearTuner",
    "LowRank",
    "Mixture",
    "OpEdit",
    "OpSite",
    "OutputScale",
    "Prefix",
    "PromptView",
    "Route",
    "Router",
    "ScaleShift",
    "SequenceSite",
    "TensorRef",
    "Tokens",
    "Weight",
]
