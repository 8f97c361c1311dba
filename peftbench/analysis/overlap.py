"""How well SIFT's entries hold the gradient while training goes on (arXiv 2312.11875).

A fit of SIFT is made with entries chosen by gradient, and with as many chosen by chance. At every
step and tensor: the gradient's norm, the share of it that the entries hold, and the overlap of the
k largest entries with those of the first batch.
Shape legend: n entries of a tensor, k chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..edits import Entries
from ..errors import ConfigError, IncompatibleError
from ..methods.sift import Sift, largest
from ..reports.figures import COLOURS, GREY, MARKERS, new_figure, styled
from ..train.hooks import Hooks
from ..train.loop import Fitter
from .concentration import coverage
from .scene import PRETRAINED, Scene, batch_gradient, sparse_method, tensors_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SELECTIONS: tuple[Literal["gradient", "random"], ...] = ("gradient", "random")
ONE_PERCENT = 0.01


def jaccard(first: Tensor, second: Tensor) -> float:
    """Return |A and B| / |A or B| of two sets of indices without repeats."""
    both = int(torch.isin(first, second).sum())
    return both / (len(first) + len(second) - both)


def by_chance(rate: float) -> float:
    """Return the overlap of two random sets that each hold a share ``rate``."""
    return rate / (2 - rate)


@dataclass
class Watch:
    """What the gradients of a fit look like to the entries that train.

    Attributes:
        every: steps between records; the first and the last step are always there.
        last: number of the last step.
        step: of the fit now.
        first: k largest entries of the first batch's gradient, by edit.
        records: one mapping per recorded step: ``step``, and by edit (norm, share, overlap,
            C2(1%)).

    """

    every: int
    last: int
    step: int = 0
    first: dict[str, Tensor] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def see(self, edit: Entries, gradient: Tensor) -> None:
        """Record one gradient, where it is time to."""
        if self.step % self.every and self.step != self.last:
            return
        if not self.records or self.records[-1]["step"] != self.step:
            self.records.append({"step": self.step, "tensors": {}})
        flat = gradient.detach().reshape(-1).float()
        now = largest(flat.abs(), len(edit.index), edit.spans)
        first = self.first.setdefault(edit.name, now)
        norm = float(flat.norm())
        self.records[-1]["tensors"][edit.name] = {
            "norm": norm,
            "share": float(flat[edit.index].norm()) / norm if norm else None,
            "overlap": jaccard(first, now),
            "c2": float(coverage(flat, [ONE_PERCENT])[0]) if norm else None,
        }


def measure(scene: Scene, every: int = 1) -> dict[str, Any]:
    """Train SIFT twice and watch its gradients.

    Args:
        scene: with method=sift; ``trainer.max_steps`` or ``trainer.epochs`` say how long.
        every: steps between records.

    Returns:
        ``fits``: selection -> records over steps, of all tensors together and of each: ``share``
        of the norm that the entries hold, ``overlap`` (Jaccard) of the k largest entries with those
        of the first batch, the norm, and C2(1%). ``two_batches``: the same overlap for two batches
        of the untrained network, which no training can exceed by much.

    Raises:
        IncompatibleError: the method is not SIFT.
        ConfigError: accumulation, where no gradient is that of a step.

    """
    method, trainer = scene.settings.method, scene.settings.trainer
    if not isinstance(method, Sift):
        raise IncompatibleError("method: overlap looks at entries that train; use method=sift")
    if every < 1:
        raise ConfigError(f"every: {every} must be at least 1")
    if trainer.accumulate != 1:
        raise ConfigError(
            "trainer.accumulate: the gradient of a step is looked at; allowed here: 1"
        )
    fits = {s: _fit(scene, replace(method, selection=s), every) for s in SELECTIONS}
    return {
        **scene.about(),
        "rate": method.rate,
        "k_of_n": fits["gradient"]["k_of_n"],
        "two_batches": _two_batches(scene, method),
        "by_chance": by_chance(fits["gradient"]["k_of_n"]),
        "fits": {s: fit["records"] for s, fit in fits.items()},
    }


def _fit(scene: Scene, method: Sift, every: int) -> dict[str, Any]:
    model = scene.model(PRETRAINED, method)
    try:
        fitter = scene.fitter(model, plain=False)
        edits = [e for e in model.delta if isinstance(e, Entries)]
        watch = Watch(every, fitter.total_steps - 1)

        def progress(step: int, steps: int, values: Mapping[str, float]) -> None:
            watch.step = step

        fitter.hooks = Hooks(progress=progress)
        for edit in edits:
            edit.observer = partial(watch.see, edit)
        fitter.report.sample_flops = 1.0  # counting them would be one more backward pass to see
        fitter.run()
        counts = {e.name: len(e.index) for e in edits}
        chosen, n = sum(counts.values()), sum(e.tensor.numel() for e in edits)
    finally:
        model.release()
    for record in watch.records:
        record["all"] = _together(record["tensors"], counts)
    return {"records": watch.records, "k_of_n": chosen / n}


def _together(
    tensors: Mapping[str, Mapping[str, float | None]], counts: Mapping[str, int]
) -> dict[str, float]:
    """Return share and norm of all tensors as one, and overlap weighted by their entries."""
    norms = {name: own["norm"] or 0.0 for name, own in tensors.items()}
    total = sum(norm**2 for norm in norms.values())
    held = sum(((own["share"] or 0.0) * norms[name]) ** 2 for name, own in tensors.items())
    k = sum(counts[name] for name in tensors)
    overlap = sum(counts[name] * (own["overlap"] or 0.0) for name, own in tensors.items()) / k
    return {"norm": math.sqrt(total), "share": math.sqrt(held / total), "overlap": overlap}


def _two_batches(scene: Scene, method: Sift, batches: int = 4) -> float:
    """Return the overlap of the k largest entries of neighbouring batches before training."""
    model = scene.model(PRETRAINED, sparse_method(scene.settings))
    try:
        fitter: Fitter = scene.fitter(model, plain=False)
        model.train()
        edits = {id(e.tensor): e for e in model.delta if isinstance(e, Entries)}
        tensors = tensors_of(model, method)
        own = [edits[id(t)] for t in tensors.values()]
        gradients = torch.zeros(batches, sum(t.numel() for t in tensors.values()))
        for batch in range(batches):
            batch_gradient(fitter, tensors, batch, gradients[batch])
        sizes = [t.numel() for t in tensors.values()]
        sets = [_tops(g.split(sizes), own) for g in gradients]
    finally:
        model.release()
    k = sum(len(e.index) for e in own)
    found = [
        sum(len(e.index) * jaccard(a, b) for e, a, b in zip(own, one, two, strict=True)) / k
        for one, two in pairwise(sets)
    ]
    return sum(found) / len(found)


def _tops(parts: Sequence[Tensor], edits: Sequence[Entries]) -> list[Tensor]:
    return [largest(p.abs(), len(e.index), e.spans) for p, e in zip(parts, edits, strict=True)]


def table(numbers: Mapping[str, Any]) -> str:
    """Return share and overlap at the first and the last record, as text."""
    lines = [f"{'selection':<12}{'step':>8}{'share of norm':>16}{'overlap':>10}"]
    for selection, records in numbers["fits"].items():
        for record in (records[0], records[-1]):
            own = record["all"]
            lines.append(
                f"{selection:<12}{record['step']:>8}{own['share']:>16.3f}{own['overlap']:>10.3f}"
            )
    chance = math.sqrt(numbers["k_of_n"])
    lines.append(f"{'chance':<20}{chance:>16.3f}{numbers['by_chance']:>10.3f}")
    lines.append(f"{'two untrained batches':<36}{numbers['two_batches']:>10.3f}")
    return "\n".join(lines)


def draw(numbers: Mapping[str, Any], title: str) -> Figure:
    """Draw the share that the entries hold, and the overlap with the first batch, over steps."""
    fits = numbers["fits"]
    with styled():
        figure = new_figure(3.6)
        left, right = figure.subplots(1, 2)
        for i, (selection, records) in enumerate(fits.items()):
            steps = [r["step"] for r in records]
            style: Any = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 3}
            words = f"entries chosen by {selection if selection == 'gradient' else 'chance'}"
            left.plot(steps, [r["all"]["share"] for r in records], label=words, **style)
            right.plot(steps, [r["all"]["overlap"] for r in records], label=words, **style)
        expected = math.sqrt(numbers["k_of_n"])
        left.axhline(expected, color=GREY, ls="--", lw=1, label="expected by chance")
        right.axhline(
            numbers["two_batches"], color=GREY, ls=":", lw=1, label="two untrained batches"
        )
        right.axhline(numbers["by_chance"], color=GREY, ls="--", lw=1, label="expected by chance")
        left.set_ylabel("share of the gradient's norm in the entries")
        right.set_ylabel("Jaccard overlap with step 0's largest")
        for axes in (left, right):
            axes.set_ylim(0, 1.02)
            axes.set_xlabel("optimiser step")
            axes.locator_params(axis="x", integer=True)
            axes.legend(fontsize=7)
        figure.suptitle(f"SIFT's mask over time ({100 * numbers['rate']:g}%): {title}", fontsize=10)
    return figure
