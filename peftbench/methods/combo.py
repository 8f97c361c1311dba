"""Several methods at once, over the whole network or each in some of its blocks.

MAM (He et al., arXiv 2110.04366) is prefix tuning with a scaled parallel adapter at the MLP; a NOAH
subnet (Zhang et al., arXiv 2206.04673) is adapter, LoRA and deep prompts of own sizes per block.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import spec
from ..backbones.anatomy import Anatomy
from ..edits import Delta, Edit, Entries, Tokens, Weight
from ..errors import ConfigError, IncompatibleError, unknown
from .base import Criterion, Method, Output, ParamGroup, Passes, Stage

TASK = "task"


def _default_parts() -> dict[str, Method]:
    from .adapter import Adapter
    from .lora import Lora

    return {"lora": Lora(), "adapter": Adapter()}


@dataclass(frozen=True)
class Combo(Method):
    """The edits of all parts, in the order of the parts' names, each behind the part's own name.

    The order in which parts are written says nothing. The task's loss counts once; parts add the
    other terms they have. Heads belong to no part and take the trainer's own rates. A combination
    of one part is that method exactly, names included.

    Attributes:
        parts: name -> method.
        blocks: part -> the blocks it works in, from 0, the same in every stack. Others work in all.
        sizes: part -> setting -> its value in each block, as NOAH writes its subnets; 0 leaves the
            part out of the block.

    """

    parts: Mapping[str, Method] = field(default_factory=_default_parts)
    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, tuple[int | float, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("method.parts: at least one method is needed (parts=[lora,bitfit])")
        object.__setattr__(self, "parts", dict(sorted(self.parts.items())))
        owners: dict[str, str] = {}
        for name, part in self.parts.items():
            if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise ConfigError(
                    f"method.parts: '{name}' is no name for a part; letters, digits, underscores"
                )
            if isinstance(part, Combo):
                raise ConfigError(f"method.parts.{name}: a combo; write its parts beside this one")
            for readout in part.readouts():
                if readout in owners:
                    raise ConfigError(
                        f"method.parts.{name}: '{owners[readout]}' hands out '{readout}' too, and "
                        "two readings of one name cannot be told apart"
                    )
                owners[readout] = name
        self._check_places()
        if len(own := self._scoring()) > 1:
            raise ConfigError(f"method.parts: {' and '.join(own)} each say what predicts; keep one")

    def _check_places(self) -> None:
        for key, chosen in (("blocks", self.blocks), ("sizes", self.sizes)):
            for name in chosen:
                if name not in self.parts:
                    raise unknown("part", name, self.parts, f"method.{key}.{name}")
                if self.parts[name].readouts():
                    raise ConfigError(
                        f"method.{key}.{name}: what this part adds is read behind the last norm, "
                        "so it stands in all blocks"
                    )
        for name, indices in self.blocks.items():
            if name in self.sizes:
                raise ConfigError(f"method.blocks.{name}: method.sizes names its blocks already")
            if not indices or len(set(indices)) != len(indices):
                raise ConfigError(
                    f"method.blocks.{name}: {list(indices)} must name blocks, each once"
                )
        for name, settings in self.sizes.items():
            lengths = {len(values) for values in settings.values()}
            if len(lengths) != 1 or lengths == {0}:
                raise ConfigError(
                    f"method.sizes.{name}: one number for each block is needed, and as many for "
                    "every setting"
                )
            if not any(min(row) > 0 for row in zip(*settings.values(), strict=True)):
                raise ConfigError(f"method.sizes.{name}: no block has a size above 0")
            for index in range(lengths.pop()):
                self._sized(name, index)

    def _sized(self, name: str, index: int) -> Method | None:
        """Return a part with its settings of one block; None where a size is 0."""
        values = {key: row[index] for key, row in self.sizes[name].items()}
        if 0 in values.values():
            return None
        plain = {k: v for k, v in spec.to_spec(self.parts[name]).items() if k not in values}
        made: Method = spec.build({**plain, **values}, f"method.sizes.{name}")
        return made

    def _scoring(self) -> list[str]:
        return [n for n, p in self.parts.items() if type(p).scores is not Method.scores]

    def _named(self, part: str, stage: str) -> str:
        """Return a name for a part's stage; the part's own name leads where two parts have any."""
        several = sum(bool(p.stages()) for p in self.parts.values()) > 1
        return f"{part}.{stage}" if several else stage

    def stages(self) -> tuple[Stage, ...]:
        """Return those of all parts."""
        return tuple(
            replace(stage, name=self._named(name, stage.name))
            for name, part in self.parts.items()
            for stage in part.stages()
        )

    def staged(self, adapters: Mapping[str, Path]) -> Combo:
        """Return the method with the sources of all parts."""
        parts: dict[str, Method] = {}
        for name, part in self.parts.items():
            mine = {s.name: self._named(name, s.name) for s in part.stages()}
            parts[name] = part.staged({s: adapters[n] for s, n in mine.items() if n in adapters})
        return replace(self, parts=parts)

    def on_task(self, description: tuple[int, ...]) -> Combo:
        """Return the method with all parts on a task."""
        return replace(self, parts={n: p.on_task(description) for n, p in self.parts.items()})

    def check(self, family: str) -> None:
        """Refuse what any part refuses."""
        for part in self.parts.values():
            part.check(family)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """Return the edits of all parts.

        Raises:
            IncompatibleError: two parts train the same tensor, blocks do not fit the network, or
                tokens are asked for where they cannot stand.

        """
        found: dict[str, list[Edit]] = {}
        for name, part in self.parts.items():
            if name in self.sizes:
                found[name] = self._of_sizes(name, anatomy, generator)
            elif name in self.blocks:
                key = f"method.blocks.{name}"
                found[name] = _inside(key, part, anatomy, self.blocks[name], generator)
            else:
                found[name] = part.edits(anatomy, generator)
        _check_tensors(found)
        _check_tokens(found)
        if len(self.parts) > 1:
            for name, edits in found.items():
                for edit in edits:
                    edit.name = f"{name}/{edit.name}"
        return [edit for edits in found.values() for edit in edits]

    def _of_sizes(self, name: str, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        length = len(next(iter(self.sizes[name].values())))
        for stack in anatomy.stacks:
            if len(stack.blocks) != length:
                raise IncompatibleError(
                    f"method.sizes.{name}: {length} numbers, and {stack.name} of {anatomy.family} "
                    f"has {len(stack.blocks)} blocks"
                )
        edits: list[Edit] = []
        for index in range(length):
            part = self._sized(name, index)
            if part is not None:
                edits += _inside(f"method.sizes.{name}", part, anatomy, [index], generator)
        return edits

    def readouts(self) -> Mapping[str, str]:
        """Return the readouts of all parts."""
        return {n: kind for part in self.parts.values() for n, kind in part.readouts().items()}

    def losses(self, output: Output, criterion: Criterion) -> dict[str, Tensor]:
        """Return the task's loss once, and the other terms of every part."""
        known: dict[int, tuple[Tensor, Tensor]] = {}

        def once(logits: Tensor) -> Tensor:
            if id(logits) not in known:
                known[id(logits)] = (logits, criterion(logits))
            return known[id(logits)][1]

        terms: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            for term, value in part.losses(output, once).items():
                if term not in terms:
                    terms[term] = value
                elif term != TASK:
                    terms[f"{name}/{term}"] = value
        return terms

    def scores(self, output: Output) -> Tensor:
        """Return the scores of the part that says what predicts, if one does."""
        own = self._scoring()
        return self.parts[own[0]].scores(output) if own else output.logits

    def prepare(self, delta: Delta, passes: Passes) -> None:
        """Let each part look at data, over its own edits."""
        for name, part in self.parts.items():
            part.prepare(delta if len(self.parts) == 1 else _own(delta, name), passes)

    def param_groups(self, delta: Delta, heads: nn.Module) -> list[ParamGroup]:
        """Return the groups of every part over its own edits, and one of all else."""
        if len(self.parts) == 1:
            return next(iter(self.parts.values())).param_groups(delta, heads)
        groups: list[ParamGroup] = []
        rest = dict(delta.edits.items())
        for name, part in self.parts.items():
            lead, own = f"{name}/", _own(delta, name)
            rest = {n: e for n, e in rest.items() if not n.startswith(lead)}
            for group in part.param_groups(own, nn.ModuleDict()):
                named = {_renamed(n, lead): p for n, p in group.params.items()}
                groups.append(replace(group, params=named))
        others = {
            f"delta.edits.{n}.{k}": p for n, e in rest.items() for k, p in e.named_parameters()
        }
        others |= {f"heads.{n}": p for n, p in heads.named_parameters()}
        return [g for g in [*groups, ParamGroup(others)] if g.params]


def _own(delta: Delta, name: str) -> Delta:
    """Return a view of the edits of one part, under the names that the part gave them."""
    own, lead = Delta(), f"{name}/"
    for full, edit in delta.edits.items():
        if full.startswith(lead):
            own.edits[full.removeprefix(lead)] = edit
    return own


def _renamed(name: str, lead: str) -> str:
    start = "delta.edits."
    return start + lead + name.removeprefix(start) if name.startswith(start) else name


def _inside(
    key: str, part: Method, anatomy: Anatomy, indices: Sequence[int], generator: torch.Generator
) -> list[Edit]:
    """Return the edits of a part that works in some blocks only."""
    try:
        edits = part.edits(anatomy.only(indices), generator)
    except IncompatibleError as error:
        raise IncompatibleError(f"{key}: {error}") from error
    if any(e.alone for e in edits):
        raise IncompatibleError(
            f"{key}: this part stands beside the whole network; its own settings choose its blocks"
        )
    if not any(isinstance(e, Tokens) for e in edits):
        return edits
    if anatomy.stacks[0].sequence.masks:
        raise IncompatibleError(
            f"{key}: on {anatomy.family} the attention mask is made once for all blocks, so tokens "
            "stand in all of them; leave this key out"
        )
    if max(indices) - min(indices) + 1 != len(indices):
        raise IncompatibleError(
            f"{key}: {sorted(indices)} has gaps, and tokens stand in blocks that follow each "
            "other; method.sizes gives each block tokens of its own"
        )
    return edits


def _trained(edit: Edit) -> list[tuple[int, str]]:
    """Return the frozen tensors that an edit trains."""
    owners: Sequence[tuple[Any, str]] = ()
    if isinstance(edit, Weight):
        owners = edit.owners
    elif isinstance(edit, Entries):
        owners = (edit.owner,)
    return [(id(module), attribute) for module, attribute in owners]


def _check_tensors(found: Mapping[str, Sequence[Edit]]) -> None:
    """Refuse two parts that train the same tensor of the network."""
    owners: dict[tuple[int, str], str] = {}
    for name, edits in found.items():
        for edit in edits:
            for key in _trained(edit):
                other = owners.setdefault(key, name)
                if other != name:
                    raise IncompatibleError(
                        f"method.parts: '{other}' and '{name}' both train the network's own tensor "
                        f"'{edit.name}', of which there is one; leave one of the two out"
                    )


def _check_tokens(found: Mapping[str, Sequence[Edit]]) -> None:
    """Refuse tokens of some blocks beside others that come, go or are written anew between."""
    tokens = [(n, e) for n, edits in found.items() for e in edits if isinstance(e, Tokens)]
    for (first, one), (second, other) in itertools.combinations(tokens, 2):
        sites = one.site, other.site
        shared = {id(r.module) for r in sites[0].block_inputs} & {
            id(r.module) for r in sites[1].block_inputs
        }
        local = [_local(one), _local(other)]
        if not shared or sites[0].name == sites[1].name:
            continue
        if all(local) or (any(local) and (one.deep or other.deep)):
            raise IncompatibleError(
                f"method.parts: the tokens of '{first}' and '{second}' stand in some of the same "
                "blocks but not in all of them, so their places would be mixed up; give both parts "
                "the same blocks, or keep one"
            )


def _local(edit: Tokens) -> bool:
    """Whether tokens stand in some of the blocks only."""
    return edit.site.enter == edit.site.block_inputs[0]
