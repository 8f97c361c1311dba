"""Weights & Biases runs (or TensorBoard files) from finished run folders.

python scripts/sync_wandb.py runs=outputs/STUDY               to W&B, also runs of tracker=files
python scripts/sync_wandb.py runs=outputs/STUDY project=mine entity=team mode=online
python scripts/sync_wandb.py runs=outputs/STUDY mode=offline  W&B files in outputs/STUDY/wandb
python scripts/sync_wandb.py runs=outputs/STUDY to=tensorboard

runs     a study's folder or a run's; several with commas
to       wandb (default) or tensorboard
project  of W&B (default: peftbench)
entity   user or team (default: the account's own)
mode     auto (default: online where an API key is found), online, offline
adapter  whether adapters go along as artifacts (default: true)

A W&B run has the id of the run, so nothing is there twice, however often this is called. What was
sent is noted in outputs/STUDY/wandb/synced.json, and left alone until its result.json changes.
Exit status: 0; 2 after a mistake that the message says how to mend, or if a run was not taken.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peftbench import arguments
from peftbench.errors import PeftbenchError, TrackerError


@dataclass(frozen=True)
class Asked:
    """Settings; see the top of this file."""

    runs: tuple[str, ...]
    to: Literal["wandb", "tensorboard"] = "wandb"
    project: str = "peftbench"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    adapter: bool = True


def copy(asked: Asked) -> int:
    """Copy every finished run and say what was done; return the exit code."""
    from peftbench.reports.collect import collect
    from peftbench.runs.settings import Tensorboard, Wandb
    from peftbench.runs.store import RunDir
    from peftbench.runs.sync import sync

    choice: Wandb | Tensorboard = Tensorboard()
    if asked.to == "wandb":
        choice = Wandb(asked.project, asked.entity, asked.mode, asked.adapter)
    found = collect(asked.runs)
    done = {"sent": 0, "unchanged": 0}
    failed = 0
    for run in found.finished:
        assert run.result is not None
        try:
            done[sync(RunDir(run.path), run.config, run.result, choice)] += 1
        except TrackerError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    print(f"{done['sent']} runs sent, {done['unchanged']} unchanged, {failed} not taken")
    if unfinished := len(found.runs) - len(found.finished):
        print(f"{unfinished} unfinished runs left out", file=sys.stderr)
    return 2 if failed else 0


def main(given: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        return copy(arguments.read(Asked, words))
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
