"""A job of a cluster: starts the worker process of a plan, and passes on what ends it.

The job itself imports neither torch nor anything of a run, so the signals of its scheduler do not
meet those of training: whatever tells the job to end, the worker gets one SIGTERM, saves the state
of its run and ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .process import INTERRUPTED, TERMINATED, warn

STOPPED = (INTERRUPTED, TERMINATED)
SPARE = 3  # further workers of one job, where one dies
ROOT = Path(__file__).resolve().parents[2]
LINGER_S = 600.0  # at most; schedulers end a job sooner after their SIGTERM


@dataclass
class Hand:
    """What one job does. Calling it returns the exit code of its worker.

    Attributes:
        plan: file of runs and policy, as a worker reads it.
        folder: where the command was given; paths of a plan may be relative to it.

    """

    plan: str
    folder: str
    _worker: int | None = field(default=None, repr=False)

    def __call__(self) -> int:
        """Have a worker do what is left of the plan; one that dies is replaced."""
        for _ in range(SPARE):
            code = self._work()
            if code >= 0:
                break
            warn(f"a worker died ({signal.Signals(-code).name}); another takes its place")
        else:
            code = self._work()
        if code in STOPPED and "SLURM_JOB_ID" in os.environ:
            _wait_for_the_end()
        return code

    def checkpoint(self) -> Any:
        """Save the state of the run and say how the job goes on: submitit's protocol."""
        from submitit.helpers import DelayedSubmission

        if self._worker is not None:
            os.kill(self._worker, signal.SIGTERM)
            _ended(self._worker)
        return DelayedSubmission(Hand(self.plan, self.folder))

    def _work(self) -> int:
        """Start a worker, wait for its end, and return its exit code."""
        words = [sys.executable, "-m", "peftbench.runs.worker", self.plan, "--tied"]
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        process = subprocess.Popen(
            words, cwd=self.folder, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE
        )
        self._worker = process.pid
        try:
            _ended(process.pid)
        except BaseException:  # told to stop
            process.terminate()
            process.wait()
            raise
        finally:
            self._worker = None
        return process.wait()


def _ended(pid: int) -> None:
    """Wait for the end of a child and leave its exit code; safe within a signal handler."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _wait_for_the_end() -> None:
    """Let SLURM end a job to which it sent SIGTERM.

    A job that ended by itself would not go into the queue again after a preemption.
    """
    end = time.monotonic() + LINGER_S
    while time.monotonic() < end:
        time.sleep(1)
