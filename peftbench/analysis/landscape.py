"""The loss around a network: with random weights, pretrained, and tuned (arXiv 2312.11875).

Directions are Gaussian and filter-normalised (Li et al., arXiv 1712.09913): each output row has the
norm of the same row of the weights; biases and norms stay. Two more are the negative gradient of
the tensors that SIFT chooses from, and its k largest entries of each alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..edits.noise import stream_seed
from ..errors import ConfigError, NonFiniteError
from ..methods.sift import Sift, entries_of
from ..tasks.batch import Batch
from ..train.loop import Fitter
from ..train.model import Adapted
from .scene import PRETRAINED, RANDOM, TUNED, Scene, batch_gradient, sparse_method, tensors_of

GRADIENT, SPARSE = "negative gradient", "its largest entries"
Direction = Mapping[str, Tensor]


@dataclass(frozen=True)
class Walk:
    """How far and how finely the loss is looked at.

    Attributes:
        points: of a line from -1 to 1; odd, so that 0 is one of them.
        directions: random lines.
        grid: points along each side of the plane of the first two; 0: no plane.
        samples: training samples that the loss is a mean of.
        head: ``trained``: the head of the (first) run everywhere; ``random``: the untrained one.

    """

    points: int = 51
    directions: int = 3
    grid: int = 25
    samples: int = 256
    head: str = "random"

    def __post_init__(self) -> None:
        for name, least in (("points", 3), ("directions", 1), ("grid", 0), ("samples", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: {getattr(self, name)} must be at least {least}")
        for name in ("points", "grid"):
            if getattr(self, name) and getattr(self, name) % 2 == 0:
                raise ConfigError(f"{name}: {getattr(self, name)} must be odd, so that 0 is there")
        if self.grid and self.directions < 2:
            raise ConfigError("directions: a plane needs 2; or grid=0")


def measure(scenes: Sequence[Scene], walk: Walk) -> dict[str, Any]:
    """Measure the loss along lines and over a plane around every state of a network.

    Args:
        scenes: one without a run, or one per run; all of the same network and data.
        walk: how far.

    Returns:
        ``states``: name -> ``lines`` (direction -> losses at ``steps`` and what
        :func:`oscillation` says of them) and ``plane`` (losses, by rows).

    """
    first = scenes[0]
    same = ("backbone", "data")
    for scene in scenes[1:]:
        if any(scene.settings.plain[g] != first.settings.plain[g] for g in same):
            raise ConfigError("run: runs of one landscape need the same backbone and data")
    heads = _heads(first, TUNED if walk.head == "trained" else PRETRAINED)
    steps = torch.linspace(-1, 1, walk.points, dtype=torch.float64).tolist()
    states = {}
    for name, scene, state in _states(scenes):
        method = sparse_method(scene.settings)
        model = scene.model(state, Sift(method.roles, 1e-12, method.biases))
        try:
            if model.heads:
                model.heads.load_state_dict(heads)
            states[name] = _around(scene, model, method, walk, steps)
        finally:
            model.release()
    return {**first.about(), **vars(walk), "steps": steps, "states": states}


def _states(scenes: Sequence[Scene]) -> list[tuple[str, Scene, str]]:
    found = [(state, scenes[0], state) for state in (RANDOM, PRETRAINED)]
    for scene in scenes:
        if scene.run is not None:
            name = f"{TUNED} by {scene.run.result['method']}"
            taken = {n for n, _, _ in found}
            own = name if name not in taken else f"{name} ({scene.run.path.name})"
            found.append((own, scene, TUNED))
    return found


def _heads(scene: Scene, state: str) -> dict[str, Tensor]:
    model = scene.model(state)
    model.release()
    return {name: t.clone() for name, t in model.heads.state_dict().items()}


def _around(
    scene: Scene, model: Adapted, method: Sift, walk: Walk, steps: Sequence[float]
) -> dict[str, Any]:
    fitter = scene.fitter(model)
    model.eval()
    sample = Sample(fitter, walk.samples)
    own = {n: p for n, p in model.base.named_parameters() if p.dim() > 1}
    ways: dict[str, Direction] = {
        f"random {i + 1}": random_direction(own, stream_seed(scene.settings.seed, "way", i))
        for i in range(walk.directions)
    }
    first, second = (list(ways.values()) * 2)[:2]
    ways |= _downhill(fitter, method, own, first, walk.samples)
    lines = {}
    for name, way in ways.items():
        losses = [_loss(sample, own, [(a, way)]) for a in steps]
        lines[name] = {"losses": losses, **oscillation(losses, steps[1] - steps[0])}
    plane = None
    if walk.grid:
        axis = torch.linspace(-1, 1, walk.grid, dtype=torch.float64).tolist()
        plane = [[_loss(sample, own, [(a, first), (b, second)]) for a in axis] for b in axis]
    start = _loss(sample, own, [])
    return {"loss": start, "lines": lines, "plane": plane}


class Sample:
    """A fixed sample of training data, and the mean loss of a network on it.

    Args:
        fitter: of the network; hands out batches.
        count: samples, the first ones in the order of training; at most one epoch.

    """

    def __init__(self, fitter: Fitter, count: int) -> None:
        batches = [fitter.batch_index(0, i) for i in range(fitter.steps_per_epoch)]
        self.fitter, self.rows_R = fitter, torch.cat(batches)[:count]
        size = fitter.cfg.eval_batch_size
        self.parts: list[Batch] = []
        for part in torch.arange(len(self.rows_R)).split(size):
            batch = fitter.feed.batch(0, 0, self.rows_R[part], None)
            batch.weights = fitter.order.weights(self.rows_R, part, batch)
            self.parts.append(batch)

    @torch.no_grad()
    def loss(self) -> float:
        """Return the mean loss."""
        total = 0.0
        for batch in self.parts:
            terms = self.fitter.losses(batch)
            total += sum(float(term.double().sum()) for term in terms.values())
        return total / len(self.rows_R)


def random_direction(tensors: Mapping[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    """Return a Gaussian direction with every row as long as the tensor's own."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in tensors.items():
        drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
        rows = drawn.flatten(1)
        lengths = tensor.detach().flatten(1).norm(dim=1, keepdim=True)
        found[name] = (rows * (lengths / rows.norm(dim=1, keepdim=True))).view_as(drawn)
    return found


def _downhill(
    fitter: Fitter, method: Sift, own: Mapping[str, nn.Parameter], like: Direction, samples: int
) -> dict[str, Direction]:
    """Return the negative gradient and its largest entries, as long as ``like`` there."""
    names = {id(p): n for n, p in own.items()}
    tensors = {n: t for n, t in tensors_of(fitter.model, method).items() if id(t) in names}
    flat = torch.zeros(sum(t.numel() for t in tensors.values()), device=fitter.accelerator.device)
    total = torch.zeros_like(flat)
    for batch in range(max(1, samples // fitter.cfg.batch_size)):
        batch_gradient(fitter, tensors, batch, flat)
        total -= flat
    whole: dict[str, Tensor] = {}
    sparse: dict[str, Tensor] = {}
    parts = total.split([t.numel() for t in tensors.values()])
    for part, tensor in zip(parts, tensors.values(), strict=True):
        name = names[id(tensor)]
        kept = torch.zeros_like(part)
        chosen = part.abs().topk(entries_of(method.rate, len(part))).indices
        kept[chosen] = part[chosen]
        whole[name], sparse[name] = part.view_as(tensor), kept.view_as(tensor)
    length = _norm({n: like[n] for n in whole})
    return {
        kind: {n: t * (length / _norm(way)) for n, t in way.items()}
        for kind, way in ((GRADIENT, whole), (SPARSE, sparse))
    }


def _norm(way: Direction) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in way.values()))


def _loss(
    sample: Sample, own: Mapping[str, nn.Parameter], moves: Sequence[tuple[float, Direction]]
) -> float:
    with moved(own, moves):
        loss = sample.loss()
    if not math.isfinite(loss):
        where = ", ".join(f"{a:g}" for a, _ in moves)
        raise NonFiniteError(f"the loss at ({where}) along the directions is {loss}")
    return loss


@contextmanager
def moved(own: Mapping[str, nn.Parameter], moves: Sequence[tuple[float, Direction]]) -> Any:
    """Move tensors for the length of the block; afterwards they are what they were, bit for bit."""
    touched = {n for _, way in moves for n in way}
    before = {n: own[n].detach().clone() for n in touched}
    try:
        with torch.no_grad():
            for amount, way in moves:
                for name, tensor in way.items():
                    own[name].add_(tensor, alpha=amount)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                own[name].copy_(tensor)


def oscillation(losses: Sequence[float], step: float) -> dict[str, float | int]:
    """Return how a curve moves: amplitude, total variation, extrema inside, curvature at 0.

    Args:
        losses: an odd number of values; the middle one is at 0.
        step: between them.

    """
    moves = [b - a for a, b in pairwise(losses)]
    turns = [a for a in moves if a != 0]
    middle = len(losses) // 2
    second = losses[middle + 1] - 2 * losses[middle] + losses[middle - 1]
    return {
        "amplitude": max(losses) - min(losses),
        "total_variation": sum(abs(m) for m in moves),
        "extrema": sum(a * b < 0 for a, b in pairwise(turns)),
        "curvature": second / step**2,
    }


def table(numbers: Mapping[str, Any]) -> str:
    """Return the oscillation of every line, as text."""
    lines = [
        f"{'state':<20}{'direction':<22}{'amplitude':>11}{'variation':>11}{'extrema':>9}"
        f"{'curvature':>12}"
    ]
    for state, found in numbers["states"].items():
        for name, own in found["lines"].items():
            lines.append(
                f"{state:<20}{name:<22}{own['amplitude']:>11.3f}{own['total_variation']:>11.3f}"
                f"{own['extrema']:>9}{own['curvature']:>12.3f}"
            )
    return "\n".join(lines)
