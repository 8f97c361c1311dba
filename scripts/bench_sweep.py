"""Measure what a run of a sweep costs beyond its steps: resident, and in a process of its own.

python scripts/bench_sweep.py                     100 runs of one step, 5 processes beside them
python scripts/bench_sweep.py runs=20 processes=2

A run is lora on a random network of two blocks (vit_tiny_random) with digits and without the second
fit: one step of 32 images; 200 val and 797 test images are scored. Of the resident process, the
start is what a sweep of one run takes, and a run is what each further one adds: seconds of the
clock, and of the processor, which do not count what other work on the machine takes.

Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from peftbench import arguments  # noqa: E402
from peftbench.errors import ConfigError, PeftbenchError  # noqa: E402

WORDS = (
    *("method=lora", "backbone=vit_tiny_random", "data=digits", "trainer.max_steps=1"),
    *("protocol.final_fit=false", "trainer.threads=1"),
)


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        runs: of the resident process.
        processes: runs in processes of their own.

    """

    runs: int = 100
    processes: int = 5

    def __post_init__(self) -> None:
        if self.runs < 2 or self.processes < 1:
            raise ConfigError("runs: expected 2 or more; processes: 1 or more")


def train(*words: str) -> tuple[float, float]:
    """Run ``train.py``; return seconds of the clock and of the processor."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, str(ROOT / "train.py"), *WORDS, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=env)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def costs(folder: Path) -> list[dict[str, float]]:
    """Return the costs that the runs of an output folder noted."""
    return [json.loads(p.read_text())["cost"] for p in sorted(folder.glob("*/*/result.json"))]


def measure(bench: Bench, folder: Path) -> list[str]:
    """Return the lines of the table."""
    train("seed=0", f"output={folder / 'warm'}")  # files read, data prepared
    start = train("-m", "seed=0,1", f"output={folder / 'two'}")
    seeds = ",".join(map(str, range(bench.runs + 1)))
    whole = train("-m", f"seed={seeds}", f"output={folder / 'many'}")
    again = train("-m", f"seed={seeds}", f"output={folder / 'many'}")
    per_run = [(w - s) / (bench.runs - 1) for w, s in zip(whole, start, strict=True)]
    found = costs(folder / "many")
    steps = statistics.median(c["train_s"] for c in found)
    scoring = statistics.median(c["eval_s"] for c in found)
    single = [train(f"seed={i}", f"output={folder / 'one'}") for i in range(bench.processes)]
    alone = [statistics.median(column) for column in zip(*single, strict=True)]
    rows = [
        ("start of the process, plan, first two runs", *start),
        (f"each further run ({bench.runs - 1} of them)", *per_run),
        ("of that: the step", steps, None),
        ("of that: val and test scored", scoring, None),
        ("**of that: all the rest**", per_run[0] - steps - scoring, None),
        (f"a process per run (median of {bench.processes})", *alone),
        (f"the same command again, all {bench.runs + 1} runs done", *again),
    ]
    lines = ["| | clock, s | processor, s |", "| --- | ---: | ---: |"]
    for name, wall, cpu in rows:
        lines.append(f"| {name} | {wall:.3f} | {'' if cpu is None else f'{cpu:.3f}'} |")
    return lines


def main(argv: Sequence[str]) -> int:
    """Measure, print, and return the exit code."""
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    try:
        bench = arguments.read(Bench, argv)
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(measure(bench, Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
