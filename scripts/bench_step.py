"""Time, FLOPs and memory of a training step: floor, full fine-tuning, every method, HF PEFT.

python scripts/bench_step.py                                  ViT-S/16 and LLaMA, one CPU thread
python scripts/bench_step.py --models vit_s --methods lora,ia3 --rounds 30 --json out.json
python scripts/bench_step.py --models minilm --methods sift,full --no-peers
                                                              SIFT against full fine-tuning
python scripts/bench_step.py --models smollm2 --methods linear --no-peers
                                                              LoRA of two contexts against one
python scripts/bench_step.py --device cuda                    ViT-B/16 and a 1B LLaMA, bf16,
                                                              eager and compiled
python scripts/bench_step.py --linear-probe                   cost of later epochs of a linear probe

A step is forward, backward, AdamW update, gradients dropped, and what a method writes into its
network, the same for every row; ``state`` is the numbers that AdamW keeps. Rows run interleaved in
one process and share the frozen weights; ratios are taken inside a round, and their median is given
with its 95% interval.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from peftbench.errors import ConfigError, PeftbenchError  # noqa: E402
from peftbench.files import write_json  # noqa: E402
from peftbench.perf import report  # noqa: E402
from peftbench.perf.bench import Clock  # noqa: E402
from peftbench.perf.rows import Row, chosen, make_rows, read_methods  # noqa: E402
from peftbench.perf.subjects import find_subject, load  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says, defaults filled in by device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--models", help="vit_s,llama (cpu); vit_b,llama_1b (cuda); minilm; smollm2"
    )
    parser.add_argument("--methods", help="names of configs/method, default all")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs" / "method")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dtype", choices=list(DTYPES), help="fp32 (cpu), bf16 (cuda)")
    parser.add_argument(
        "--compile", nargs="?", const="on", choices=["off", "on", "both"], help="both on cuda"
    )
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: time the thread computed, for a machine that others use too",
    )
    parser.add_argument("--no-peers", action="store_true", help="without Hugging Face PEFT")
    parser.add_argument("--linear-probe", action="store_true")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    args.models = (args.models or ("vit_b,llama_1b" if cuda else "vit_s,llama")).split(",")
    args.methods = args.methods.split(",") if args.methods else None
    args.dtype = args.dtype or ("bf16" if cuda else "fp32")
    args.compile = args.compile or ("both" if cuda else "off")
    if args.rounds < 1:
        raise ConfigError(f"--rounds: {args.rounds} must be at least 1")
    if cuda and not torch.cuda.is_available():
        raise ConfigError("--device: no CUDA device is at hand; allowed here: cpu")
    if cuda and args.clock == "cpu":
        raise ConfigError("--clock: cpu does not time a GPU; allowed there: wall")
    return args


def bench(name: str, args: argparse.Namespace, compiled: bool) -> report.Table:
    """Measure one subject."""
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    subject = find_subject(name)
    clock = Clock(subject, device, dtype, time.thread_time if args.clock == "cpu" else None)
    methods = chosen(read_methods(args.configs), args.methods)
    rows: list[Row] = []
    left_out: list[str] = []
    for row in make_rows(subject, load(subject, device, dtype), methods, not args.no_peers):
        if isinstance(row, Row):
            rows.append(row)
        else:
            left_out.append(row)
    lines = report.measure(rows, clock, args.rounds, compiled)
    return report.Table(
        subject=name,
        title=subject.title,
        device=args.device,
        dtype=args.dtype,
        compiled=compiled,
        clock="CPU time of the thread" if args.clock == "cpu" else "wall time",
        threads=torch.get_num_threads(),
        rounds=args.rounds,
        lines=lines,
        left_out=left_out,
        targets=report.judge(subject, lines),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="peft")
    try:
        args = arguments(argv)
        environment = report.environment(torch.device(args.device))
        print(", ".join(f"{k} {v}" for k, v in environment.items()), flush=True)
        if args.linear_probe:
            from peftbench.perf.probe import probe_epochs

            probe = probe_epochs()
            print(probe.line())
            result = {"environment": environment, "linear_probe": vars(probe)}
        else:
            tables = []
            for name in args.models:
                for compiled in {"off": [False], "on": [True], "both": [False, True]}[args.compile]:
                    tables.append(bench(name, args, compiled))
                    print("\n" + report.render(tables[-1]), flush=True)
            result = {"environment": environment, "tables": [t.as_json() for t in tables]}
        if args.json:
            write_json(args.json, result)
    except PeftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
