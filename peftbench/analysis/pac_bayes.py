"""How far methods move from a prior, and what a PAC-Bayes bound makes of it (arXiv 2312.11875).

Prior N(theta0, s^2 I), posterior N(theta, s^2 I): KL = |theta - theta0|^2 / (2 s^2), and with
probability 1 - delta over n training samples (McAllester 1999; Maurer, cs/0411099)
E_Q[risk] <= E_Q[error on them] + sqrt((KL + ln(2 sqrt(n) / delta)) / (2 n)).
Weights are those of the merged network, with its head. With the pretrained prior, the Gaussians
live on the numbers that the method can move: for SIFT its k entries. With the prior at random
weights they live on all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backbones.fresh import fresh_start
from ..edits import Entries
from ..edits.noise import stream_seed
from ..errors import ConfigError, IncompatibleError
from ..interop.merge import Merged, merge
from ..train.loop import Fitter
from ..train.model import Adapted
from .scene import PRETRAINED, TUNED, Scene

GRID = tuple(10 ** (-5 + i / 4) for i in range(21))
"""Standard deviations that are tried, 1e-5 to 1."""
HEAD = "head."
COLUMNS = (
    *("method", "prior", "numbers", "distance", "distance_head", "sigma", "kl", "error"),
    *("error_noisy", "term", "bound"),
)


@dataclass(frozen=True)
class Terms:
    """Settings of the bound.

    Attributes:
        samples: training samples that errors are measured on.
        draws: of the noise.
        rise: how much the noise may raise the error.
        delta: the bound fails with at most this probability.

    """

    samples: int = 256
    draws: int = 3
    rise: float = 0.05
    delta: float = 0.05

    def __post_init__(self) -> None:
        for name in ("samples", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} must be at least 1")
        for name in ("rise", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} must lie between 0 and 1")


def term(kl: float, n: int, delta: float) -> float:
    """Return what the bound adds to the error."""
    return math.sqrt((kl + math.log(2 * math.sqrt(n) / delta)) / (2 * n))


def measure(scenes: Sequence[Scene], terms: Terms) -> dict[str, Any]:
    """Compute distances and bounds of finished runs.

    Returns:
        ``rows``: per run and prior the numbers that the Gaussians live on, distances (of the
        network and of the head), the largest ``sigma`` whose noise raises the error by at most
        ``rise`` (None: the smallest one raises it by more), KL in nats, the error on training
        samples without and with noise, the bound's term and the bound. The choice of sigma is not
        paid for in delta.

    Raises:
        IncompatibleError: the task has no classes, or the method is no change of weights.

    """
    rows = [row for scene in scenes for row in _rows(scene, terms)]
    return {**scenes[0].about(), **vars(terms), "grid": list(GRID), "rows": rows}


def _rows(scene: Scene, terms: Terms) -> Iterator[dict[str, Any]]:
    assert scene.run is not None
    if scene.task.head is None or scene.task.kind != "classification":
        raise IncompatibleError("run: the bound is of a classifier's error; this task has none")
    before = scene.model(PRETRAINED)
    head = {f"{HEAD}{n}": t.clone() for n, t in before.heads["main"].state_dict().items()}
    before.release()
    model = scene.model(TUNED)
    chosen = _chosen(model)
    fitter = scene.fitter(model, last=True)
    found = Posterior(merge(model), fitter, terms, scene.settings.seed)
    start = {n: p.detach() for n, p in scene.backbone.model.named_parameters()}
    drawn = fresh_start(scene.backbone, scene.settings.seed).model
    random = {n: p.detach() for n, p in drawn.named_parameters()}
    moved = {
        n: chosen.get(n)
        for n, t in found.theta.items()
        if n.startswith(HEAD) or not torch.equal(t, start[n])
    }
    everything: dict[str, Tensor | None] = dict.fromkeys(found.theta)
    for prior, origin, where in (("pretrained", start, moved), ("random", random, everything)):
        own = found.bound({**origin, **head}, where)
        yield {
            "method": scene.run.result["method"],
            "run": scene.run.path.name,
            "prior": prior,
        } | own


def _chosen(model: Adapted) -> dict[str, Tensor]:
    """Return the entries that train, flat, by the name of their parameter in the network."""
    names = {id(p): n for n, p in model.base.named_parameters()}
    return {names[id(e.tensor)]: e.index.clone() for e in model.delta if isinstance(e, Entries)}


class Posterior:
    """A merged network, and the error of noisy copies of it.

    Args:
        merged: the tuned network.
        fitter: hands out the samples.
        terms: settings of the bound.
        seed: of the noise.

    """

    def __init__(self, merged: Merged, fitter: Fitter, terms: Terms, seed: int) -> None:
        assert merged.head is not None
        self.merged, self.fitter, self.terms, self.seed = merged, fitter, terms, seed
        merged.network.eval()
        self.theta = dict(merged.network.named_parameters())
        self.theta |= {f"{HEAD}{n}": p for n, p in merged.head.named_parameters()}
        count = min(terms.samples, len(fitter.split))
        batches = [fitter.batch_index(0, i) for i in range(fitter.steps_per_epoch)]
        chunks = torch.cat(batches)[:count].split(fitter.cfg.eval_batch_size)
        self.batches = [fitter.feed.batch(0, 0, rows, None) for rows in chunks]
        self.error = self._error()

    @torch.no_grad()
    def _error(self) -> float:
        wrong = seen = 0
        for batch in self.batches:
            logits = self.merged.logits(self.fitter.inputs(batch))
            wrong += int((logits.argmax(-1) != batch.labels).sum())
            seen += len(batch)
        return wrong / seen

    @torch.no_grad()
    def noisy(self, sigma: float, where: Mapping[str, Tensor | None]) -> float:
        """Return the mean error with noise on some tensors, or on some entries of them."""
        before = {name: self.theta[name].detach().clone() for name in where}
        total = 0.0
        for draw in range(self.terms.draws):
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "noise", draw))
            for name, index in where.items():
                tensor = self.theta[name]
                count = tensor.numel() if index is None else len(index)
                noise = sigma * torch.randn(count, generator=generator).to(tensor)
                if index is None:
                    tensor.copy_(before[name] + noise.view_as(tensor))
                else:
                    tensor.copy_(before[name])
                    tensor.view(-1).index_add_(0, index, noise)
            total += self._error()
        for name, value in before.items():
            self.theta[name].copy_(value)
        return total / self.terms.draws

    def bound(
        self, origin: Mapping[str, Tensor], where: Mapping[str, Tensor | None]
    ) -> dict[str, Any]:
        """Return the numbers of one row, for a prior at ``origin``."""
        squares = {
            n: float((t.detach().double() - origin[n].double()).square().sum())
            for n, t in self.theta.items()
        }
        head = sum(v for n, v in squares.items() if n.startswith(HEAD))
        sigma, noisy = None, self.error
        for tried in GRID:
            error = self.noisy(tried, where)
            if error > self.error + self.terms.rise:
                break
            sigma, noisy = tried, error
        row: dict[str, Any] = {
            "numbers": sum(
                self.theta[n].numel() if i is None else len(i) for n, i in where.items()
            ),
            "distance": math.sqrt(sum(squares.values()) - head),
            "distance_head": math.sqrt(head),
            "sigma": sigma,
            "kl": None,
            "error": self.error,
            "error_noisy": None,
            "term": None,
            "bound": None,
        }
        if sigma is not None:
            kl = sum(squares.values()) / (2 * sigma**2)
            added = term(kl, len(self.fitter.split), self.terms.delta)
            row |= {"kl": kl, "error_noisy": noisy, "term": added, "bound": noisy + added}
        return row


def table(numbers: Mapping[str, Any]) -> str:
    """Return the rows as text."""
    widths = [max(13, len(name) + 2) for name in COLUMNS]
    lines = ["".join(f"{name:>{w}}" for name, w in zip(COLUMNS, widths, strict=True))]
    for row in numbers["rows"]:
        cells = [_cell(row[name]) for name in COLUMNS]
        lines.append("".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
