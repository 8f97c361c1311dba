"""Which sources a target leans on: PEMT's gates (arXiv 2402.15082), and how alike the prompts are.

Shapes: B samples, K sources, L mixtures (blocks), D width, M tokens of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from scipy.stats import spearmanr
from torch import Tensor

from ..edits.mixture import CorrelatedTokens, Mixture
from ..errors import ConfigError, IncompatibleError
from ..reports.figures import new_figure, styled
from ..train.model import Adapted
from .opened import Opened, open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALIKE = ("prompt_cosine", "prompt_attention")
COLUMNS = ("run_id", "method", "data", "seed", "source", "gate", *ALIKE)
TAP = "gate/"


def runs_in(places: Sequence[str]) -> list[Opened]:
    """Return the finished runs that places name: run directories, or studies of them.

    Raises:
        ConfigError: a place holds no finished run.

    """
    found = []
    for place in places:
        folder = Path(place)
        inside = [folder] if (folder / "config.yaml").is_file() else sorted(folder.glob("*"))
        own = [p for p in inside if (p / "result.json").is_file()]
        if not own:
            raise ConfigError(f"run: {place} holds no finished run")
        found += [open_run(str(p)) for p in own]
    return found


def measure(opened: Sequence[Opened]) -> dict[str, Any]:
    """Read the gates of every run on its val split.

    Returns:
        ``runs``: per run its sources, the mean gate of each source (over blocks and samples), the
        same per block, the mean entropy (nats; even gates have ``even_entropy``), the cosine of the
        target's mean prompt with each source's, the share of its attention that a source's prompt
        gets, and Spearman's correlation of both with the mean gates (None below three sources or
        where one of them does not vary).

    Raises:
        IncompatibleError: a run's method has no mixture of sources.

    """
    return {"runs": [_one(run) for run in opened]}


@torch.no_grad()
def _one(opened: Opened) -> dict[str, Any]:
    accelerator = opened.accelerator()
    model = opened.model(accelerator)
    mixtures = [edit for edit in model.delta if isinstance(edit, Mixture)]
    if not mixtures:
        model.release()
        raise IncompatibleError(
            f"run: method {opened.result['method']} has no gates; gates needs runs of pemt"
        )
    gates_LK, entropy = _means(opened, model, [m.name for m in mixtures], accelerator)
    names: list[str] = model.method.names()  # type: ignore[attr-defined]
    mean_K = gates_LK.mean(0)
    alike = _prompts(model)
    model.release()
    return {
        **opened.about(),
        "split": "val",
        "sources": names,
        "gates": mean_K.tolist(),
        "per_block": [
            {"site": m.name.removesuffix("/mixture"), "gates": row}
            for m, row in zip(mixtures, gates_LK.tolist(), strict=True)
        ],
        "entropy": entropy,
        "even_entropy": math.log(len(names)),
        **{key: values.tolist() for key, values in alike.items()},
        **{f"spearman_{key}": _rank_correlation(v, mean_K) for key, v in alike.items()},
    }


def _means(
    opened: Opened, model: Adapted, names: Sequence[str], accelerator: Accelerator
) -> tuple[Tensor, float]:
    """Return mean gates (L, K) over the val split, and their mean entropy."""
    split = opened.bound(model.backbone).split("val")
    totals: list[Tensor] = []
    entropies: list[Tensor] = []
    size = opened.settings.trainer.eval_batch_size
    for rows in torch.arange(len(split)).split(size):
        batch = split.take(rows).to(accelerator.device)
        with accelerator.autocast():
            model(batch.inputs)
        gates_LBK = torch.stack([model.delta.taps[TAP + name].double() for name in names])
        gates_LBK = gates_LBK.expand(-1, len(rows), -1)
        totals.append(gates_LBK.sum(1))
        entropies.append(torch.special.entr(gates_LBK).sum(-1).sum(1))
    mean_LK = torch.stack(totals).sum(0) / len(split)
    return mean_LK.cpu(), float(torch.stack(entropies).sum(0).mean() / len(split))


def _prompts(model: Adapted) -> dict[str, Tensor]:
    """Return how alike the target's prompt is to each source's, (K,) each; empty without them."""
    prompt = next((e for e in model.delta if isinstance(e, CorrelatedTokens)), None)
    if prompt is None:
        return {}
    own_MD = prompt.tokens[0].double().cpu()
    others = [other.double().cpu() for other in prompt.others]
    cosines = [F.cosine_similarity(own_MD.mean(0), other.mean(0), dim=0) for other in others]
    shares = (own_MD @ torch.cat(others).T).softmax(-1).split([len(o) for o in others], dim=1)
    return {
        "prompt_cosine": torch.stack(cosines),
        "prompt_attention": torch.stack([share.sum(1).mean() for share in shares]),
    }


def _rank_correlation(values_K: Tensor, gates_K: Tensor) -> float | None:
    a, b = values_K.numpy(), gates_K.numpy()
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) < 1e-9:
        return None
    return float(spearmanr(a, b).statistic)


def rows(numbers: dict[str, Any]) -> list[list[Any]]:
    """Return one line per run and source for a CSV, in the order of :data:`COLUMNS`."""
    lines = []
    for run in numbers["runs"]:
        head = [run[name] for name in COLUMNS[:4]]
        for k, source in enumerate(run["sources"]):
            alike = [run[key][k] if key in run else "" for key in ALIKE]
            lines.append([*head, source, run["gates"][k], *alike])
    return lines


def table(numbers: dict[str, Any]) -> str:
    """Return the mean gates for a person to read."""
    lines = []
    for run in numbers["runs"]:
        gates = "  ".join(
            f"{name} {value:.3f}" for name, value in zip(run["sources"], run["gates"], strict=True)
        )
        lines.append(f"{run['data']}, {run['method']}, seed {run['seed']}: {gates}")
        lines.append(f"  entropy {run['entropy']:.3f} (even gates: {run['even_entropy']:.3f})")
    return "\n".join(lines)


def draw(numbers: dict[str, Any]) -> Figure:
    """Draw target by source: gates averaged over blocks, samples and the runs of a target."""
    by_target: dict[str, list[dict[str, Any]]] = {}
    for run in numbers["runs"]:
        by_target.setdefault(run["data"].rpartition("/")[2], []).append(run)
    sources = numbers["runs"][0]["sources"]
    if any(run["sources"] != sources for run in numbers["runs"]):
        raise ConfigError("run: one map needs runs over the same sources in the same order")
    cells = np.array([np.mean([r["gates"] for r in own], axis=0) for own in by_target.values()])
    names = [f"{target} ({len(own)})" for target, own in by_target.items()]
    with styled():
        figure = new_figure(1.4 + 0.45 * len(names))
        axes: Any = figure.subplots()
        _map(figure, axes, cells, names, sources)
        axes.set_title("mean gate by target (runs) and source")
    return figure


def draw_blocks(run: dict[str, Any]) -> Figure:
    """Draw the mean gate of every block of one run."""
    cells = np.array([block["gates"] for block in run["per_block"]])
    names = [block["site"].rpartition("/")[0] for block in run["per_block"]]
    with styled():
        figure = new_figure(1.4 + 0.24 * len(names))
        axes: Any = figure.subplots()
        _map(figure, axes, cells, names, run["sources"])
        axes.set_title(f"mean gate by block: {run['data']}, seed {run['seed']}")
    return figure


def _map(
    figure: Figure, axes: Axes, cells: np.ndarray, names: Sequence[str], sources: Sequence[str]
) -> None:
    image = axes.imshow(cells, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(sources)), sources, rotation=20, ha="right")
    axes.set_yticks(range(len(names)), names)
    for y, x in np.ndindex(cells.shape):
        colour = "white" if cells[y, x] > 0.6 else "black"
        axes.text(x, y, f"{cells[y, x]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="gate")
