"""Where things are in a network, in one vocabulary for every model family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..edits.sites import AttentionSite, ChannelSite, LinearSite, OpSite, SequenceSite
from ..errors import ConfigError, IncompatibleError, unknown
from ..files import sha256_tensors

ROLE_GROUPS: dict[str, tuple[str, ...]] = {
    "attn": ("q", "k", "v", "o"),
    "qkv": ("q", "k", "v"),
    "mlp": ("up", "gate", "down"),
    "all": ("q", "k", "v", "o", "up", "gate", "down"),
}


def expand_roles(roles: Sequence[str], key: str = "method.roles") -> set[str]:
    """Return the single roles behind roles and groups.

    Raises:
        ConfigError: a name is neither; ``key`` is the setting to mend.
    """
    known = set(ROLE_GROUPS["all"])
    wanted: set[str] = set()
    for role in roles:
        if role not in known and role not in ROLE_GROUPS:
            raise unknown("linear role", role, known | set(ROLE_GROUPS), key)
        wanted.update(ROLE_GROUPS.get(role, (role,)))
    if not wanted:
        raise ConfigError(f"{key}: at least one role is needed")
    return wanted


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Attributes:
        stack: name of its stack.
        index: place in the stack, from 0.
        module: the block.
        linears: linear layers by role.
        ops: operations by kind (attn, cross_attn, mlp, block).
        attentions: attention modules by kind (attn, cross_attn).
        norms: frozen norms by what they feed: ``attn`` and ``mlp`` (absent where an operation
            reads the residual stream as it is, as in post-norm networks), ``q`` and ``k`` (over the
            numbers of a head) and ``o`` (in front of the output projection) where there are any.
        drop_paths: modules on the residual branches whose ``drop_prob`` is stochastic depth.
        activation: between the maps of the MLP; past the hooks that stand on it.

    """

    stack: str
    index: int
    module: nn.Module
    linears: Mapping[str, LinearSite]
    ops: Mapping[str, OpSite]
    attentions: Mapping[str, AttentionSite]
    norms: Mapping[str, nn.Module] = field(default_factory=dict)
    drop_paths: tuple[nn.Module, ...] = ()
    activation: Callable[[Tensor], Tensor] = F.gelu


@dataclass(frozen=True)
class Stack:
    """Blocks that one token sequence passes in order."""

    name: str
    blocks: tuple[Block, ...]
    sequence: SequenceSite

    @property
    def width(self) -> int:
        """D, the width of the token sequence."""
        return self.sequence.width


@dataclass(frozen=True)
class Anatomy:
    """The sites of one network.

    Attributes:
        family: vit, bert, t5 or llama.
        model: the network.
        stacks: encoder, decoder or both.
        channels: every output with a channel axis, in the order of the forward pass.
        class_token: whether a class token stands in front of the (first) stack's sequence.
        patch_numbers: numbers in one image patch (3 x height x width), None for text.
        patch_grid: patches of an image, down and across, in the order of the sequence; None for
            text.
        features: (model, inputs) -> pooled features (B, D) that a classifier head reads.
        read_token: (model, (B, D) output of one token after the last norm) -> what the head reads.
        logits: (model, inputs) -> language-model logits (B, T, V); None if it has no such head.
        write: (model, inputs, config) -> ids (B, G) that the network writes after its inputs; None
            if it has no such head.
        encode: (model, inputs) -> inputs with what the encoder gives in place of its ids, which
            ``logits`` and ``write`` take as well; None if nothing is read before writing begins.
        connector: (generator) -> a part without pretrained weights that every method trains, kept
            beside the heads; None if there is none.
        connect: (model, connector, inputs) -> inputs that ``logits`` and ``write`` take, and the
            context number (B, T) of every token; None if they take the inputs as they are.
        sight: () -> hash of what sees pictures before all that is trained; None if nothing does.
        generating: modules that language-model logits use and pooled features do not.
        unused: identities of modules that this view of the network leaves out.
        fingerprint: () -> hash of the weights, where whoever loaded them keeps it.

    """

    family: str
    model: nn.Module
    stacks: tuple[Stack, ...]
    channels: tuple[ChannelSite, ...]
    features: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    read_token: Callable[[nn.Module, Tensor], Tensor]
    class_token: bool = False
    patch_numbers: int | None = None
    patch_grid: tuple[int, int] | None = None
    logits: Callable[[nn.Module, Mapping[str, Tensor]], Tensor] | None = None
    write: Callable[[nn.Module, Mapping[str, Tensor], Any], Tensor] | None = None
    encode: Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    connector: Callable[[torch.Generator], nn.Module] | None = None
    connect: (
        Callable[[nn.Module, nn.Module, Mapping[str, Tensor]], tuple[dict[str, Tensor], Tensor]]
        | None
    ) = None
    sight: Callable[[], str] | None = None
    generating: tuple[nn.Module, ...] = ()
    unused: frozenset[int] = frozenset()
    fingerprint: Callable[[], str] | None = None

    def sha256(self) -> str:
        """Return the hash over names and bytes of all weights; asked while nothing is attached."""
        if self.fingerprint is not None:
            return self.fingerprint()
        return sha256_tensors(self.model.state_dict())

    def for_features(self) -> Anatomy:
        """Return the part of the network that pooled features pass: what a classifier trains.

        A language-model head (and T5's decoder) is left out, with its sites and its parameters.
        """
        tops = {id(m) for m in self.generating}
        used: set[int] = set()
        queue = [self.model]
        while queue:
            module = queue.pop()
            if id(module) not in tops and id(module) not in used:
                used.add(id(module))
                queue.extend(module.children())
        unused = frozenset(id(m) for top in self.generating for m in top.modules()) - used
        return replace(
            self,
            stacks=tuple(
                _read_by_none_of(s, unused)
                for s in self.stacks
                if id(s.blocks[0].module) not in unused
            ),
            channels=tuple(c for c in self.channels if id(c.module) not in unused),
            logits=None,
            write=None,
            encode=None,
            unused=unused,
        )

    def only(self, indices: Collection[int]) -> Anatomy:
        """Return the view that consists of some blocks, for methods to work in.

        What stands outside the blocks (embedding, last norms) is no part of it. Its sequences run
        from the first of the blocks to behind the last, without their masks.

        Args:
            indices: places of blocks in their stack, from 0; the same in every stack.

        Raises:
            IncompatibleError: a stack has no such block.

        """
        for stack in self.stacks:
            if wrong := sorted(i for i in indices if not 0 <= i < len(stack.blocks)):
                raise IncompatibleError(
                    f"{stack.name} of {self.family} has no block {wrong[0]}; "
                    f"allowed: 0 to {len(stack.blocks) - 1}"
                )
        stacks = tuple(_part(s, [b for b in s.blocks if b.index in indices]) for s in self.stacks)
        inside = {id(m) for s in stacks for b in s.blocks for m in b.module.modules()}
        unused = frozenset(id(m) for m in self.model.modules()) - inside
        return replace(
            self,
            stacks=stacks,
            channels=tuple(c for c in self.channels if id(c.module) in inside),
            unused=self.unused | unused,
        )

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks of all stacks."""
        return (block for stack in self.stacks for block in stack.blocks)

    @property
    def width(self) -> int:
        """D of the first stack, which is what a head reads."""
        return self.stacks[0].width

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth: 0 at the first block, rising linearly to ``rate`` at the last.

        Huang et al., arXiv 1603.09382. It touches the frozen branches; what an edit adds to a
        branch stands behind it.

        Raises:
            IncompatibleError: a rate above 0, and the network has no place for it.

        """
        for stack in self.stacks:
            for index, block in enumerate(stack.blocks):
                own = rate * index / max(len(stack.blocks) - 1, 1)
                able = [m for m in block.drop_paths if hasattr(m, "drop_prob")]
                if own > 0 and not able:
                    raise IncompatibleError(
                        f"trainer.drop_path: this {self.family} network has no drop path on its"
                        " branches; allowed here: 0"
                    )
                for module in able:
                    vars(module)["drop_prob"] = own

    def linears(self, roles: Sequence[str]) -> list[list[LinearSite]]:
        """Return linear sites of the roles, grouped by the layer they live in.

        Args:
            roles: roles (q, k, v, o, up, gate, down), groups (attn, qkv, mlp, all). Roles of
                cross-attention are included with their self-attention name. Where q, k and v are
                one fused layer and all three are asked for as ``qkv``, ``attn`` or ``all``, that
                layer is one site.

        Raises:
            ConfigError: a name is neither a role nor a group.
            IncompatibleError: no layer of this network plays any of the roles.

        """
        wanted = expand_roles(roles)
        fused = any(r in ("qkv", "attn", "all") for r in roles)
        groups: list[list[LinearSite]] = []
        for block in self.blocks:
            by_layer: dict[int, list[LinearSite]] = {}
            for role, site in block.linears.items():
                if role == "qkv":
                    keep = fused
                elif role in ("q", "k", "v") and "qkv" in block.linears:
                    keep = role in wanted and not fused
                else:
                    keep = role.removeprefix("cross_") in wanted
                if keep:
                    by_layer.setdefault(id(site.module), []).append(site)
            groups.extend(by_layer.values())
        if not groups:
            raise IncompatibleError(f"{self.family} has no linear layer in the roles {list(roles)}")
        return groups

    def owners(self) -> dict[str, list[tuple[nn.Module, str]]]:
        """Return, for every parameter by its first name, each (module, attribute) that holds it."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        found: dict[str, list[tuple[nn.Module, str]]] = {n: [] for n in names.values()}
        for module in self.model.modules():
            if id(module) in self.unused:
                continue
            for attribute, parameter in module.named_parameters(recurse=False):
                found[names[id(parameter)]].append((module, attribute))
        return {name: places for name, places in found.items() if places}


def _read_by_none_of(stack: Stack, unused: frozenset[int]) -> Stack:
    """Return a stack without those among the readers of its output that are left out."""
    readers = tuple(r for r in stack.sequence.readers if id(r.module) not in unused)
    return replace(stack, sequence=replace(stack.sequence, readers=readers))


def _part(stack: Stack, blocks: Sequence[Block]) -> Stack:
    """Return some blocks of a stack with the sequence as it passes them."""
    sequence = replace(
        stack.sequence,
        name=f"{stack.name}/{'+'.join(str(b.index) for b in blocks)}",
        enter=stack.sequence.block_inputs[blocks[0].index],
        leave=blocks[-1].ops["block"].output,
        block_inputs=tuple(stack.sequence.block_inputs[b.index] for b in blocks),
        masks=(),
        positions=None,
        embed=None,
        readers=(),
        memory=None,
    )
    return Stack(stack.name, tuple(blocks), sequence)
