"""U-Tuning: small tuners beside frozen operations. Jiang et al., arXiv 2303.00690.

``x' = OP(x) + s * tuner(x)``, where OP is attention, the MLP or the whole block, and a tuner is an
adapter, a prefix or a prompt in its parallel form. The paper calls them P-Adapter, P-Prefix and
P-Prompt; U-Adapter, U-Prefix and U-Prompt are the same.

No family is refused for a tuner. Post-norm encoders (BERT, RoBERTa) have no norm in front of an
operation, so queries, keys and values are made of the stream as it is. Where queries are rotated
(LLaMA), learned rows stand at position 0, and tuners on MLP and block make their queries there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from ..backbones.anatomy import Anatomy, Block
from ..edits import Bottleneck, Edit, OpEdit
from ..edits.tuners import (
    Branch,
    Gate,
    Gated,
    LambdaTuner,
    PrefixRows,
    Projections,
    PromptRows,
    QueryTuner,
    RowScale,
)
from ..errors import ConfigError, IncompatibleError, unknown
from .base import Method
from .checks import at_least

SITES = {"attn": "attn", "mlp": "mlp", "block": "block", "mha": "attn", "ffn": "mlp"}


@dataclass(frozen=True)
class Tuner:
    """What all tuners have.

    Attributes:
        gate: s is ``direct`` (fixed), ``scalar``, ``channel`` (learned), ``input`` (one per image,
            from the tuner's output), or ``lambda`` (prefix and prompt on attention only:
            the share of the softmax, with the frozen attention times 1 - lambda).
        scale: s if fixed, its first value if learned; ``input`` and ``lambda`` have none.
        init: ``zero`` (no effect at the start where the kind can: zero up-projection, zero values)
            or ``xavier`` (the authors' released style).

    """

    kind: ClassVar[str] = ""
    gate: Literal["direct", "scalar", "channel", "input", "lambda"] = "channel"
    scale: float = 1.0
    init: Literal["zero", "xavier"] = "zero"

    def __post_init__(self) -> None:
        if self.gate in ("input", "lambda") and self.scale != 1.0:
            raise ConfigError(
                f"method.tuners.*.scale: gate '{self.gate}' computes its scale, so "
                f"{self.scale} has no effect; leave 1.0, or choose direct, scalar or channel"
            )

    def check_site(self, site: str) -> None:
        """Refuse ``gate=lambda`` where it has no meaning.

        Raises:
            ConfigError: of site or kind.

        """
        if self.gate == "lambda" and (site != "attn" or self.kind == "adapter"):
            raise ConfigError(
                f"method.tuners.{site}.gate: lambda is the share of learned keys in a softmax over "
                "the frozen keys, which only prefix and prompt on attn have; allowed here: "
                "direct, scalar, channel, input"
            )

    @property
    def silent(self) -> bool:
        """Whether the tuner's output is zero at the start."""
        return self.gate != "lambda" and (self.scale == 0.0 or self.init == "zero")

    def build(self, block: Block, site: str, generator: torch.Generator) -> Edit:
        """Return the edit of this tuner on one operation of a block."""
        raise TypeError(f"{type(self).__name__} is not a kind of tuner")

    def new_gate(self, width: int, generator: torch.Generator) -> Gate:
        """Return s as a module."""
        if self.gate == "lambda":
            raise ConfigError("gate lambda is part of the attention and stands in no gate")
        return Gate(self.gate, width, self.scale, generator)


@dataclass(frozen=True)
class AdapterTuner(Tuner):
    """s (phi(u W_down + b_down) W_up + b_up), section 4.1.

    Attributes:
        hidden: width between the two maps.
        activation: phi.
        reads: the residual stream before the norm (``pre_norm``, as drawn) or behind it.

    """

    kind: ClassVar[str] = "adapter"
    hidden: int = 10
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    reads: Literal["pre_norm", "post_norm"] = "pre_norm"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("method.tuners.*.hidden", self.hidden, 1)

    def build(self, block: Block, site: str, generator: torch.Generator) -> Edit:
        """Return an adapter beside the operation."""
        op = block.ops[site]
        init: Literal["xavier", "xavier_down"] = "xavier_down" if self.init == "zero" else "xavier"
        core = Bottleneck(op.width, self.hidden, 1.0, self.activation, init, generator)
        norm = None
        if self.reads == "post_norm":
            norm = block.norms.get("mlp" if site == "mlp" else "attn")
        tuner = Gated(core, self.new_gate(op.width, generator), norm)
        return OpEdit(f"{op.name}/adapter", [op], tuner, "stream", identity=self.silent)


@dataclass(frozen=True)
class _RowTuner(Tuner):
    """What prefix and prompt share: attention over learned rows.

    Attributes:
        length: number of rows.
        scale_on: ``output``: s as above; ``kv``: a scale of the keys and one of the values instead,
            a number each (``gate=scalar``) or one per channel (``gate=channel``).

    """

    length: int = 10
    scale_on: Literal["output", "kv"] = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("method.tuners.*.length", self.length, 1)
        if self.scale_on == "kv" and self.gate not in ("scalar", "channel"):
            raise ConfigError(
                f"method.tuners.*.scale_on: kv learns scales, which gate '{self.gate}' does not "
                "have; allowed with it: scalar, channel"
            )

    def rows(self, frozen: Projections, generator: torch.Generator) -> PrefixRows | PromptRows:
        """Return where keys and values come from."""
        raise TypeError(f"{type(self).__name__} is not a kind of tuner")

    def build(self, block: Block, site: str, generator: torch.Generator) -> Edit:
        """Return a branch of attention beside the operation."""
        op = block.ops[site]
        frozen = Projections(block.attentions["attn"], block.linears, block.norms)
        on_rows = self.scale_on == "kv"
        per_channel = self.gate == "channel"
        scale = RowScale(frozen.attention, per_channel, self.scale) if on_rows else None
        branch = Branch(self.rows(frozen, generator), frozen, site, scale)
        name = f"{op.name}/{self.kind}"
        if self.gate == "lambda":
            return LambdaTuner(name, branch)
        plain = Gate("direct", op.width, 1.0, generator)
        gate = plain if on_rows else self.new_gate(op.width, generator)
        if site == "attn":
            return QueryTuner(name, op, branch, gate, identity=self.silent)
        return OpEdit(name, [op], Gated(branch, gate), "stream", identity=self.silent)


@dataclass(frozen=True)
class PrefixTuner(_RowTuner):
    """s merge(Attn(Q(u), K_pre, V_pre)) W_o, section 4.1."""

    kind: ClassVar[str] = "prefix"

    def rows(self, frozen: Projections, generator: torch.Generator) -> PrefixRows:
        """Return learned keys and values."""
        return PrefixRows(frozen, self.length, self.init == "zero", generator)


@dataclass(frozen=True)
class PromptTuner(_RowTuner):
    """s merge(Attn(Q(u), K(x_pro), V(x_pro))) W_o, section 4.1.

    A prompt has an effect at the start whatever it is; a scale of 0 takes it away.
    """

    kind: ClassVar[str] = "prompt"
    init: Literal["zero", "xavier"] = "xavier"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "zero":
            raise ConfigError(
                "method.tuners.*.init: no prompt is without effect (the frozen projections make "
                "keys and values of it), so there is no zero start; allowed: xavier, with "
                "scale=0.0 for a start without effect"
            )

    def rows(self, frozen: Projections, generator: torch.Generator) -> PromptRows:
        """Return learned tokens."""
        return PromptRows(frozen, self.length, generator)


KINDS: dict[str, type[Tuner]] = {t.kind: t for t in (AdapterTuner, PrefixTuner, PromptTuner)}


def named(kind: str, key: str = "method.tuners") -> Tuner:
    """Return the tuner of a name with its defaults: adapter, P-Adapter, U-Adapter, u_adapter.

    Raises:
        ConfigError: no tuner is called that.

    """
    plain = kind.lower().replace("_", "-")
    for lead in ("p-", "u-"):
        plain = plain.removeprefix(lead)
    if plain not in KINDS:
        raise unknown("tuner", kind, [*KINDS, *(f"P-{k.title()}" for k in KINDS)], key)
    return KINDS[plain]()


@dataclass(frozen=True)
class UTuning(Method):
    """x1 = x + MHA(x) + T_attn(x); x2 = x1 + MLP(x1) + T_mlp(x1); out = x2 + T_block(x).

    Attributes:
        tuners: operation (attn, mlp, block; mha and ffn mean the first two) -> tuner, or its name.
        blocks: tuners in ``every`` block, or in the ``first`` of the first stack only.

    """

    tuners: Mapping[str, Tuner | str] = field(
        default_factory=lambda: {"attn": AdapterTuner(hidden=13), "mlp": AdapterTuner(hidden=13)}
    )
    blocks: Literal["every", "first"] = "every"

    def __post_init__(self) -> None:
        made: dict[str, Tuner] = {}
        for name, tuner in self.tuners.items():
            key = f"method.tuners.{name}"
            if name not in SITES:
                raise unknown("operation", name, SITES, "method.tuners")
            site = SITES[name]
            if site in made:
                raise ConfigError(f"{key}: '{site}' has a tuner already; one operation takes one")
            made[site] = named(tuner, key) if isinstance(tuner, str) else tuner
            made[site].check_site(site)
        if not made:
            raise ConfigError("method.tuners: at least one of attn, mlp, block needs a tuner")
        object.__setattr__(self, "tuners", {s: made[s] for s in SITES if s in made})

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per operation and block.

        Raises:
            IncompatibleError: a gate per image on text.

        """
        gates = {t.gate for t in self.tuners.values() if isinstance(t, Tuner)}
        if "input" in gates and anatomy.patch_numbers is None:
            raise IncompatibleError(
                f"method.tuners.*.gate: 'input' has no meaning on {anatomy.family}: it averages "
                "over all tokens, so padding would count and a decoder would see what comes later; "
                "allowed there: direct, scalar, channel, lambda"
            )
        blocks = list(anatomy.blocks)[: 1 if self.blocks == "first" else None]
        return [
            tuner.build(block, site, generator)
            for block in blocks
            for site, tuner in self.tuners.items()
            if isinstance(tuner, Tuner)
        ]
