"""The table of one subject: measured rows, targets, and the machine they were measured on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..train.model import Adapted
from .bench import Clock, Interval, Times, interleave, median_interval, paired
from .cost import necessary_flops
from .rows import FLOOR, Row
from .subjects import Subject

FLOOR_BOUND = 1.10
FLOPS_BOUND = 0.02
SPARSE, WHOLE, SPARSE_BOUND = "sift", "full", 0.8
"""A step that trains entries, against one that trains every tensor whole."""


@dataclass
class Line:
    """What was measured of one row. Times in milliseconds, ratios of steps of the same round.

    Attributes:
        name: of the row.
        trainable: numbers that train, a head included.
        pass_ms: forward and backward (forward alone where nothing trains).
        step_ms: the same with the AdamW update and the gradients dropped.
        to_floor: step against the floor's step.
        peer: the row compared with.
        to_peer: step against the peer's step.
        flops: of a pass, by torch's counter.
        flops_ratio: flops against what the method must cost; None for peers.
        memory_bytes: see :meth:`Clock.memory`.
        state: numbers that the optimiser keeps.
        dense: most gradients of whole tensors alive at once; None where no entries train.

    """

    name: str
    trainable: int
    pass_ms: Interval
    step_ms: Interval
    to_floor: Interval
    peer: str | None
    to_peer: Interval | None
    flops: float
    flops_ratio: float | None
    memory_bytes: int
    state: int = 0
    dense: int | None = None


@dataclass
class Table:
    """All lines of one subject under one setting."""

    subject: str
    title: str
    device: str
    dtype: str
    compiled: bool
    clock: str
    threads: int
    rounds: int
    lines: list[Line]
    left_out: list[str]
    targets: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def measure(rows: Sequence[Row], clock: Clock, rounds: int, compiled: bool) -> list[Line]:
    """Count, weigh and time every row of a subject. Rows are compiled after they are counted."""
    counted = [_flops(clock, row) for row in rows]
    if compiled:
        compile_rows(rows)
    for row in rows:
        clock.step(row)  # the optimiser's state, and compiled code, are not part of a step's peak
    memory = [clock.memory(row) for row in rows]
    dense = [None if compiled else clock.dense(row) for row in rows]
    times = {r.name: t for r, t in zip(rows, interleave(clock, rows, rounds), strict=True)}
    lines = []
    for row, (flops, ratio), bytes_, most in zip(rows, counted, memory, dense, strict=True):
        own = times[row.name]
        lines.append(
            Line(
                name=row.name,
                trainable=sum(p.numel() for p in row.model.trainable().values()),
                pass_ms=_ms(own.passes),
                step_ms=_ms(own.steps),
                to_floor=paired(own.steps, times[FLOOR].steps),
                peer=_other(row, times),
                to_peer=_against(own, times, _other(row, times)),
                flops=flops,
                flops_ratio=ratio,
                memory_bytes=bytes_,
                state=clock.state(row),
                dense=most,
            )
        )
    return lines


def compile_rows(rows: Sequence[Row], backend: str = "inductor") -> None:
    """Compile every network: ours as one graph, a peer's as far as it goes."""
    torch._dynamo.config.recompile_limit = 8 * len(rows) + 64  # every row has code of its own
    for row in rows:
        row.model.compile(fullgraph=isinstance(row.model, Adapted), backend=backend)


def _other(row: Row, times: Mapping[str, Times]) -> str | None:
    """Return the row that a row is compared with; entries that train, with all that train."""
    alone = row.name == SPARSE and WHOLE in times
    return WHOLE if alone else row.peer


def _against(own: Times, times: dict[str, Times], peer: str | None) -> Interval | None:
    return paired(own.steps, times[peer].steps) if peer is not None else None


def _ms(seconds: Sequence[float]) -> Interval:
    return median_interval([1e3 * s for s in seconds])


def _flops(clock: Clock, row: Row) -> tuple[float, float | None]:
    found = clock.flops(row)
    if not isinstance(row.model, Adapted) or not row.trains:
        return found, None
    must = necessary_flops(
        row.model, lambda m: clock.one_pass(Row("", m)), lambda m: clock.forward(Row("", m))
    )
    clock.drop(row)
    return found, found / must


def judge(subject: Subject, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return every target with its bound, the measured interval, and whether the median meets it.

    ``least`` is what the peer's own distance to the floor leaves: a step as fast as the floor.
    """
    by_name, found = {line.name: line for line in lines}, []
    for line in lines:
        if line.to_peer is not None and line.peer is not None:
            own = [c.bound for c in subject.contrasts if c.name == line.name]
            bound = SPARSE_BOUND if line.peer == WHOLE else [*own, subject.peer_bound][0]
            found.append(
                {
                    "target": f"{line.name} / {line.peer}",
                    "bound": bound,
                    "measured": asdict(line.to_peer),
                    "met": line.to_peer.median <= bound,
                    "least": 1 / by_name[line.peer].to_floor.median,
                }
            )
    found.extend(_sparse(line) for line in lines if line.dense is not None)
    if "lora" in by_name:
        line = by_name["lora"]
        found.append(
            {
                "target": "lora (rank 8) / floor",
                "bound": FLOOR_BOUND,
                "measured": asdict(line.to_floor),
                "met": line.to_floor.median <= FLOOR_BOUND,
                "least": None,
            }
        )
    ratios = [line.flops_ratio for line in lines if line.flops_ratio is not None]
    if ratios:
        worst = max(ratios, key=lambda r: abs(r - 1))
        found.append(
            {
                "target": "FLOPs / what a method must cost, farthest from 1",
                "bound": 1 + FLOPS_BOUND,
                "measured": {"median": worst, "low": min(ratios), "high": max(ratios)},
                "met": abs(worst - 1) <= FLOPS_BOUND,
                "least": None,
            }
        )
    return found


def _sparse(line: Line) -> dict[str, Any]:
    """Return the target that at most one gradient of a whole tensor is alive, as a count."""
    assert line.dense is not None
    count = float(line.dense)
    return {
        "target": f"{line.name}: gradients of whole tensors alive at once",
        "bound": 1.0,
        "measured": {"median": count, "low": count, "high": count},
        "met": line.dense <= 1,
        "least": None,
    }


def environment(device: torch.device) -> dict[str, str]:
    """Return machine and versions, in words."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found["processor"] = _processor()
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    for package in ("torch", "timm", "transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for text in file:
                if text.startswith("model name"):
                    return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _range(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.median:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def render(table: Table) -> str:
    """Return the table as Markdown."""
    on_gpu = table.device != "cpu"
    memory = "peak of a step, MB" if on_gpu else "kept for backward, MB"
    head = (
        f"### {table.title}\n\n{table.device}, {table.dtype}, "
        f"{'compiled' if table.compiled else 'eager'}, threads {table.threads}, "
        f"{table.rounds} rounds, {table.clock}\n\n"
        "| row | trains | state | forward+backward, ms | step, ms | step / floor | step / peer | "
        f"GFLOP | / must | {memory} |\n|---|---:|---:|---:|---:|---|---|---:|---:|---:|\n"
    )
    lines = [
        f"| {x.name} | {x.trainable:,} | {x.state:,} | {x.pass_ms.median:.1f} | "
        f"{x.step_ms.median:.1f} | "
        f"{_range(x.to_floor)} | {_range(x.to_peer)} | {x.flops / 1e9:.3f} | "
        f"{'' if x.flops_ratio is None else f'{x.flops_ratio:.4f}'} | {x.memory_bytes / 1e6:.1f} |"
        for x in table.lines
    ]
    left = "".join(f"\nLeft out: {text}" for text in table.left_out)
    targets = "\n".join(
        f"| {t['target']} | {t['bound']:.2f} | {_range(Interval(**t['measured']))} | "
        f"{'' if t['least'] is None else format(t['least'], '.3f')} | "
        f"{'met' if t['met'] else 'missed'} |"
        for t in table.targets
    )
    return (
        head
        + "\n".join(lines)
        + left
        + "\n\n| target | bound | measured | at floor speed | |\n|---|---:|---|---:|---|\n"
        + targets
        + "\n"
    )
