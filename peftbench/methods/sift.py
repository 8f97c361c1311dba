"""SIFT: a few entries of existing weights train. Song et al., "Sparse is Enough", arXiv 2312.11875.

Of every tensor the k = min(floor(rate n) + 1, n) entries with the largest absolute gradient of the
first batch are trained; the indices stay as they are.
Shape legend: n entries of a tensor, k chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits import Delta, Edit, Entries, LinearSite, Weight
from ..errors import ConfigError, NoGradientError, NonFiniteError, unknown
from .base import Method, ParamGroup, Passes
from .checks import at_least, layer_name

DENSE = ("embeddings", "norms", "head")
MOMENTS = 3
"""Numbers that training keeps for an entry beside its value: the gradient and AdamW's two."""

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Sift(Method):
    """Train a fixed share of the entries of every chosen tensor.

    Attributes:
        roles: linear layers by role, or ``attn`` (the paper's choice on GLUE), ``mlp``, ``all``
            (on LLaMA); each tensor is chosen from by itself, a fused layer as one tensor.
        rate: share of the entries; at least one of each tensor trains.
        biases: choose from the biases of these layers too.
        selection: by the gradient of the first batches, the size of the weight, or by chance.
        batches: how many batches the gradient is taken from.
        score: of several batches: |sum of gradients|, sum of |gradients|, or of their squares.
        dense: what else trains, whole: ``embeddings``, ``norms``, ``head`` (the network's own
            language-model head; a classifier head always trains).
        decay: weight decay of the entries: none, towards zero (AdamW's own), or towards the
            pretrained values. Entries of biases are not decayed where biases are not.
        value_dtype: ``fp32`` keeps full values over a base in a 16-bit format; ``base`` its format.

    """

    roles: tuple[str, ...] = ("attn",)
    rate: float = 0.008
    biases: bool = True
    selection: Literal["gradient", "magnitude", "random"] = "gradient"
    batches: int = 1
    score: Literal["abs_sum", "sum_abs", "fisher"] = "abs_sum"
    dense: tuple[str, ...] = ()
    decay: Literal["none", "to_zero", "to_pretrained"] = "none"
    value_dtype: Literal["fp32", "base"] = "fp32"

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(
                f"method.rate: {self.rate} is out of range; allowed: above 0, up to 1"
            )
        at_least("method.batches", self.batches, 1)
        for name in self.dense:
            if name not in DENSE:
                raise unknown("group of tensors", name, DENSE, "method.dense")

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per tensor; those chosen by gradient get their entries in :meth:`prepare`."""
        found: list[Edit] = []
        seen: set[int] = set()
        for sites in anatomy.linears(self.roles):
            layer = sites[0].module
            for attribute in ("weight", "bias") if self.biases else ("weight",):
                tensor = getattr(layer, attribute)
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found.append(self._edit(sites, attribute, generator))
        return [*found, *(Weight(name, places) for name, places in self._whole(anatomy))]

    def _edit(
        self, sites: Sequence[LinearSite], attribute: str, generator: torch.Generator
    ) -> Entries:
        layer = sites[0].module
        tensor: Tensor = getattr(layer, attribute).detach()
        width = tensor.numel() // tensor.shape[0]
        rows = sorted({site.rows for site in sites})
        spans = [(first * width, last * width) for first, last in rows]
        k = entries_of(self.rate, sum(last - first for first, last in spans))
        index: Tensor | int = k
        if self.selection == "magnitude":
            index = largest(tensor.reshape(-1).abs(), k, spans)
        elif self.selection == "random":
            count = sum(last - first for first, last in spans)
            index = _placed(torch.randperm(count, generator=generator)[:k], spans)
        return Entries(
            f"{layer_name(sites)}/{attribute}",
            (layer, attribute),
            index,
            spans,
            increment=self.decay == "to_pretrained",
            wide=self.value_dtype == "fp32",
        )

    def _whole(self, anatomy: Anatomy) -> Iterator[tuple[str, list[tuple[nn.Module, str]]]]:
        """Yield the tensors that train whole, each with every place that holds it."""
        norms = {id(c.module) for c in anatomy.channels if c.kind == "norm"}
        embeds = {id(c.module) for c in anatomy.channels if c.kind == "embed"}
        heads = {id(m) for m in anatomy.generating if isinstance(m, nn.Linear)}
        inside = {id(m) for b in anatomy.blocks for m in b.module.modules()}

        def kind(module: nn.Module) -> str:
            if id(module) in norms:
                return "norms"
            if id(module) in heads:
                return "head"
            around = any(True for _ in module.children())  # a class token, positions
            table = isinstance(module, nn.Embedding) or id(module) in embeds or around
            return "embeddings" if table and id(module) not in inside else ""

        for name, places in anatomy.owners().items():
            if any(kind(module) in self.dense for module, _ in places):
                yield f"dense/{name.replace('.', '/')}", places

    def prepare(self, delta: Delta, passes: Passes) -> None:
        """Choose the entries by gradient.

        One pass serves all tensors where one pass is a whole batch: each dense gradient is ranked
        and dropped as soon as it is there. Otherwise gradients have to be summed over passes, which
        are then repeated for one group of tensors after the other, so that the sums take no more
        room than gradients and moments of the entries do in training.
        """
        if self.selection != "gradient":
            return
        waiting = [e for e in delta if isinstance(e, Entries) and not e.chosen]
        single = self.batches * passes.parts == 1
        for group in [waiting] if single and waiting else groups(waiting):
            for edit in waiting:
                edit.tensor.requires_grad_(edit in group)
            try:
                found = self._ranked(group, passes)
            finally:
                for edit in waiting:
                    edit.tensor.requires_grad_(True)
            for edit in group:
                edit.choose(passes.agree(found[edit.name]))

    def _ranked(self, group: Sequence[Entries], passes: Passes) -> dict[str, Tensor]:
        """Return the entries with the largest score, (k,) each, by name."""
        rankings = {edit.name: Ranking(edit, self.score) for edit in group}
        try:
            for batch, part in itertools.product(range(self.batches), range(passes.parts)):
                whole = part + 1 == passes.parts
                last = whole and batch + 1 == self.batches
                for edit in group:
                    edit.watcher = partial(rankings[edit.name].take, whole=whole, last=last)
                passes.run(batch, part)
        finally:
            for edit in group:
                edit.watcher = None
        without = [name for name, ranking in rankings.items() if ranking.index is None]
        if without:
            raise NoGradientError(
                "no gradient reached these tensors, so none of their entries can be chosen: "
                f"{', '.join(without)}; leave them out by method.roles"
            )
        return {n: r.index for n, r in rankings.items() if r.index is not None}

    def param_groups(self, delta: Delta, heads: nn.Module) -> list[ParamGroup]:
        """Entries apart: not decayed, or decayed as the tensors are that they come from."""
        (rest,) = super().param_groups(delta, heads)
        entries: dict[str, nn.Parameter] = {}
        for name, edit in delta.edits.items():
            if isinstance(edit, Entries) and (self.decay == "none" or edit.tensor.dim() > 1):
                full = f"delta.edits.{name}.values"
                entries[full] = rest.params.pop(full)
        own = ParamGroup(entries, weight_decay=float(self.decay != "none"), matrices=True)
        return [group for group in (own, rest) if group.params]


class Ranking:
    """The score of one tensor's entries over the passes of a selection.

    Attributes:
        index: the chosen entries (k,), after the last pass.

    """

    def __init__(self, edit: Entries, score: str) -> None:
        self.edit, self.score = edit, score
        self.index: Tensor | None = None
        self._batch: Tensor | None = None
        self._total: Tensor | None = None

    def take(self, gradient: Tensor, whole: bool, last: bool) -> None:
        """Take in a gradient.

        Args:
            gradient: of one part of a batch.
            whole: with it the batch is complete.
            last: and so are all batches.

        """
        score, wide = gradient.reshape(-1), torch.promote_types(gradient.dtype, torch.float32)
        if self._batch is not None:
            score, self._batch = self._batch.add_(score), None
        if not whole:
            self._batch = score.to(wide)
            return
        if self.score != "abs_sum":
            score = score.abs() if self.score == "sum_abs" else score.to(wide).square()
        if self._total is not None:
            score, self._total = self._total.add_(score), None
        if not last:
            self._total = score.to(wide)
            return
        if not bool(torch.isfinite(score).all()):
            raise NonFiniteError(
                f"the gradient of '{self.edit.name}' is not finite, so its entries cannot be "
                "chosen; trainer.precision=fp32 may help"
            )
        self.index = largest(score.abs(), len(self.edit.index), self.edit.spans)


def entries_of(rate: float, n: int) -> int:
    """Return k = min(floor(rate n) + 1, n)."""
    return min(int(rate * n) + 1, n)


def largest(score: Tensor, k: int, spans: Spans) -> Tensor:
    """Return the flat positions (k,) of the largest scores inside spans, in their order."""
    part = torch.cat([score[first:last] for first, last in spans]) if len(spans) > 1 else None
    first, last = spans[0]
    chosen = (part if part is not None else score[first:last]).topk(k, sorted=False).indices
    return _placed(chosen, spans)


def _placed(places: Tensor, spans: Spans) -> Tensor:
    """Return flat positions, sorted, of places counted over all spans."""
    at, shifted = 0, places.clone()
    for first, last in spans:
        here = (places >= at) & (places < at + last - first)
        shifted += here * (first - at)
        at += last - first
    return shifted.sort().values


def groups(edits: Sequence[Entries]) -> Iterator[list[Entries]]:
    """Yield edits in groups whose tensors hold no more numbers than the moments of all entries."""
    room = MOMENTS * sum(len(e.index) for e in edits)
    group: list[Entries] = []
    for edit in edits:
        if group and sum(e.tensor.numel() for e in group) + edit.tensor.numel() > room:
            yield group
            group = []
        group.append(edit)
    if group:
        yield group
