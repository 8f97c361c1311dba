"""Runs the command of the README in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TINY = ("backbone=vit_tiny_random", "data=digits")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(*words: str, **env: str) -> subprocess.Popen:
    """Start ``python train.py`` with ``words``."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(**env),
    )


def train(*words: str, code: int = 0, **env: str) -> tuple[str, str]:
    """Run ``python train.py`` to its end; return what it printed."""
    process = start(*words, **env)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out, err


def run_dirs(output: Path) -> list[Path]:
    """Return the run directories of the default study."""
    return sorted(p for p in (output / "default").iterdir() if p.is_dir())


def adapter(run: Path) -> dict:
    """Return the stored tensors of a run."""
    return load_file(str(run / "adapter" / "adapter.safetensors"))


def result(run: Path) -> dict:
    """Return the result of a run."""
    return json.loads((run / "result.json").read_text())


def metrics(run: Path) -> list[dict]:
    """Return the metric lines of a run without wall times."""
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    return lines
