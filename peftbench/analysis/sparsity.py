"""Gradient quasi-sparsity: how few entries hold a gradient's norm. Song et al., arXiv 2312.11875.

Of every tensor that SIFT chooses entries from, and of all of them together: for the architecture
with random weights, the pretrained network, and the tuned one of a run.
Shape legend: n entries, S shares.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..methods.sift import Sift
from ..train.loop import Fitter
from .concentration import Profile, profile
from .scene import TUNED, Scene, batch_gradient, sparse_method, tensors_of

ALL = "all"
"""Name of the concatenation of all tensors."""
TABLE = (0.001, 0.008, 0.01, 0.05)
MEAN, CURVES = "gradient of the mean", "mean of the curves"
LEAST = 1e-4


def shares() -> list[float]:
    """Return the shares of the curve, evenly spaced by their logarithm, with the table's."""
    spaced = [10 ** (-4 + i / 12) for i in range(48)] + [1.0]
    return sorted({*(round(x, 9) for x in spaced), *TABLE})


def measure(scene: Scene, batches: int = 8) -> dict[str, Any]:
    """Measure the gradients of some training batches, in eval mode.

    Args:
        scene: network, data and settings; ``trainer.batch_size`` samples are a batch.
        batches: how many; the first ones in the order of training.

    Returns:
        ``states``: state -> average -> tensor (``all``: their concatenation) -> its numbers. The
        averages are the gradient of the mean loss over all batches, and the mean of the batches'
        own curves. ``c2``, ``energy`` (c2 squared) and ``c1`` stand for the shares ``shares``.

    """
    if batches < 1:
        raise ConfigError(f"batches: {batches} must be at least 1")
    method, xs = sparse_method(scene.settings), shares()
    states = {}
    for state in scene.states:
        model = scene.model(state, Sift(method.roles, 1e-12, method.biases))
        try:
            fitter = scene.fitter(model)
            model.eval()
            states[state] = _averages(fitter, tensors_of(model, method), batches, xs)
        finally:
            model.release()
    return {
        **scene.about(),
        "roles": list(method.roles),
        "batches": batches,
        "batch_size": scene.settings.trainer.batch_size,
        "head": f"random, the same in all states but {TUNED}",
        "shares": xs,
        "states": states,
    }


def _averages(
    fitter: Fitter, tensors: Mapping[str, nn.Parameter], batches: int, xs: Sequence[float]
) -> dict[str, Any]:
    count = sum(t.numel() for t in tensors.values())
    device = next(iter(tensors.values())).device
    own_n = torch.zeros(count, device=device)
    total_n = torch.zeros(count, device=device)
    found: dict[str, list[Profile]] = {name: [] for name in (ALL, *tensors)}
    for batch in range(batches):
        batch_gradient(fitter, tensors, batch, own_n)
        total_n += own_n / batches
        for name, part_n in _pieces(own_n, tensors):
            made = profile(part_n, xs)
            if made is not None:
                found[name].append(made)
    mean = {name: profile(part_n, xs) for name, part_n in _pieces(total_n, tensors)}
    return {
        MEAN: {name: _numbers([p] if p is not None else []) for name, p in mean.items()},
        CURVES: {name: _numbers(profiles) for name, profiles in found.items()},
    }


def _pieces(flat_n: Tensor, tensors: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    yield ALL, flat_n
    yield from zip(tensors, flat_n.split([t.numel() for t in tensors.values()]), strict=True)


def _numbers(profiles: Sequence[Profile]) -> dict[str, Any] | None:
    """Return the mean of some profiles as plain numbers; None where every gradient was zero."""
    if not profiles:
        return None
    c2_S = torch.stack([p.c2 for p in profiles])
    return {
        "n": profiles[0].n,
        "batches": len(profiles),
        "norm": statistics.fmean(p.norm for p in profiles),
        "c2": c2_S.mean(0).tolist(),
        "energy": c2_S.square().mean(0).tolist(),
        "c1": torch.stack([p.c1 for p in profiles]).mean(0).tolist(),
        "x99": statistics.fmean(p.x99 for p in profiles),
        "hoyer": statistics.fmean(p.hoyer for p in profiles),
    }


COLUMNS = (
    *("state", "average", "tensor", "n", "norm"),
    *(f"{kind}_at_{100 * x:g}%" for kind in ("c2", "energy", "c1") for x in TABLE),
    *("x99", "hoyer"),
)


def rows(numbers: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the table under :data:`COLUMNS`, a line per state, average and tensor."""
    at = [numbers["shares"].index(x) for x in TABLE]
    for state, averages in numbers["states"].items():
        for average, tensors in averages.items():
            for name, own in tensors.items():
                if own is None:
                    continue
                values = [own[kind][i] for kind in ("c2", "energy", "c1") for i in at]
                yield (
                    *(state, average, name, own["n"], own["norm"]),
                    *values,
                    *(own["x99"], own["hoyer"]),
                )


def table(numbers: Mapping[str, Any]) -> str:
    """Return C2 of all tensors together, as text."""
    head = "".join(f"{f'C2({100 * x:g}%)':>10}" for x in TABLE)
    lines = [f"{'state':<12}{'average':<22}{head}{'x99':>10}{'Hoyer':>8}"]
    for row in rows(numbers):
        own = dict(zip(COLUMNS, row, strict=True))
        if own["tensor"] == ALL:
            cells = "".join(f"{own[f'c2_at_{100 * x:g}%']:>10.3f}" for x in TABLE)
            share = f"{100 * own['x99']:.1f}%"
            lines.append(
                f"{own['state']:<12}{own['average']:<22}{cells}{share:>10}{own['hoyer']:>8.3f}"
            )
    return "\n".join(lines)
