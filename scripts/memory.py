"""What training a method on a network needs memory for, next to full fine-tuning.

python scripts/memory.py method=sift backbone=llama_7b method.rate=0.05 method.roles=[all]
python scripts/memory.py method=lora backbone=roberta_large seq=512 batch=32 json=lora.json
python scripts/memory.py method=sift backbone=minilm seq=128 batch=32 measure=true     on a GPU

The network is built without data, so nothing is downloaded and no memory is taken.

backbone   bert_base minilm roberta_base roberta_large t5_small t5_base llama_7b llama_13b llama_33b
           llama3_8b smollm2_135m dinov2_small vit_s16 vit_b16 vit_l16
seq        tokens of a sequence, 2048 by default, or what the network takes at most
batch      sequences or images, 1 by default
dtype      of the weights: bf16 (default), fp32
attention  fused (default): what a fused kernel keeps; all: every probability, as in the paper
classes    of a classifier head, 2 by default, where the network does not write
json       a file for all numbers, in bytes
measure    true: train a step of both on the GPU too, and compare the peak
method     with its settings, in train.py's words

formats    the paper's formats: gradients as the weights, AdamW in fp32, fp32 values, int32 indices
allocated  the tensors of this code: values, their gradients and moments fp32, indices int64, the
           replaced originals kept so that release() can put them back

Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from peftbench import arguments
from peftbench.errors import ConfigError, PeftbenchError


@dataclass(frozen=True)
class Settings:
    """Settings of the command; see the top of this file."""

    backbone: str
    seq: int | None = None
    batch: int = 1
    dtype: Literal["bf16", "fp32"] = "bf16"
    attention: Literal["fused", "all"] = "fused"
    classes: int = 2
    json: str | None = None
    measure: bool = False

    def __post_init__(self) -> None:
        for name in ("seq", "batch", "classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value} must be at least 1")


def weigh(words: Sequence[str]) -> None:
    """Compute, print and write."""
    own = {f.name for f in fields(Settings)}
    mine = [word for word in words if word.partition("=")[0] in own]
    settings = arguments.read(Settings, mine)
    import torch

    from peftbench.files import write_json
    from peftbench.methods.full import Full
    from peftbench.perf import memory, peak
    from peftbench.perf.shapes import find_shape
    from peftbench.reports.published import rows
    from peftbench.runs.compose import compose_settings

    shape = find_shape(settings.backbone)
    load = memory.Load(
        settings.batch,
        shape.tokens(settings.seq),
        settings.classes,
        {"bf16": torch.bfloat16, "fp32": torch.float32}[settings.dtype],
        settings.attention == "fused",
    )
    run = compose_settings([word for word in words if word not in mine])
    if settings.measure:
        peak.need_gpu("measure")
    methods = [Full()] if run.method == Full() else [Full(), run.method]
    names = ["full", run.names["method"]][-len(methods) :]
    bills = [memory.bill(n, m, shape, load) for n, m in zip(names, methods, strict=True)]
    print(memory.render(shape, load, bills))
    result: dict[str, Any] = {
        "backbone": shape.name,
        "batch": load.batch,
        "seq": load.seq,
        "dtype": settings.dtype,
        "attention": settings.attention,
        "methods": [asdict(bill) for bill in bills],
    }
    beside = [row for row in rows("nlp") if row.backbone == shape.title and "GiB" in row.metric]
    if beside:
        print("\npublished, GiB: " + beside[0].source)
    lines: dict[tuple[str, str], list[str]] = {}
    for row in beside:
        part = row.metric.removesuffix(" memory GiB")
        lines.setdefault((row.method, row.dataset), []).append(f"{part} {row.value:g}")
    for (name, setting), parts in lines.items():
        print(f"{name}, {setting.rpartition(', ')[2]}: {', '.join(parts)}")
    result["published"] = [asdict(row) for row in beside]
    if settings.measure:
        result["measured"] = {}
        for bill, method in zip(bills, methods, strict=True):
            peaks = peak.measured(method, shape, load)
            result["measured"][bill.method] = peaks
            for kind, total in zip(peaks, bill.sums("allocated"), strict=True):
                found, own = peaks[kind] / memory.GIB, total / memory.GIB
                print(f"{bill.method}, {kind}: {found:.3f} GiB measured, {own:.3f} computed")
    if settings.json:
        write_json(Path(settings.json), result)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a mistake that the message says how to mend."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        weigh(words)
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
