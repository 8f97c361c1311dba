"""Who executes the runs of a plan: this process, or several of this machine.

A launcher gets the plan and the policy and returns when nothing is left that it may do; what became
of each run stands in its directory. A further kind of launcher starts
``python -m peftbench.runs.worker PLAN`` wherever its processes live: workers share a plan by the
claims on run directories, and need nothing but the files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .process import INTERRUPTED, TERMINATED, together, warn

if TYPE_CHECKING:
    from .plan import Plan, Planned
    from .work import Policy

PLANS = "plans"
"""Folder of a study that holds the plans of working launchers."""
STOPPED = (INTERRUPTED, TERMINATED)
SOME_FAILED = 3
"""Exit code of a worker that left nothing undone but runs that failed."""


class Launcher(ABC):
    """Executes plans."""

    @abstractmethod
    def run(self, plan: Plan, policy: Policy) -> None:
        """Do the runs of a plan.

        Raises:
            SystemExit: told to stop; the same command continues.

        """

    @abstractmethod
    def check(self) -> None:
        """Refuse what cannot work, before anything is begun.

        Raises:
            ConfigError: says how to mend it.

        """

    @property
    def hands(self) -> int:
        """How many runs are worked on at a time."""
        return 1


@dataclass(frozen=True)
class Local(Launcher):
    """This process; network and data stay in memory from run to run."""

    def check(self) -> None:
        """Refuse nothing: this process works."""

    def run(self, plan: Plan, policy: Policy) -> None:
        """Do the runs one after the other."""
        from .launch import terminable
        from .work import Work

        with terminable():
            Work(plan.runs, policy).all()


@dataclass(frozen=True)
class Parallel(Launcher):
    """Several processes of this machine, each resident.

    Attributes:
        workers: how many; None: one per GPU. With GPUs, worker i sees GPU i alone (of those that
            this process sees, round robin); without, the cores are shared out.

    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"launcher.workers: expected 1 or more, got {self.workers}")

    def check(self) -> None:
        """See :meth:`Launcher.check`."""
        if together():
            raise ConfigError("launcher: parallel starts its own processes; start it without any")
        if not self.hands:
            raise ConfigError(
                f"launcher.workers: say how many; this machine has no GPU and {os.cpu_count()} "
                "cores (launcher=parallel launcher.workers=2)"
            )

    @property
    def hands(self) -> int:
        """How many runs are worked on at a time."""
        return self.workers or len(devices())

    def run(self, plan: Plan, policy: Policy) -> None:
        """Start the workers, replace those that die, and wait for them."""
        with written(plan.runs, policy) as path:
            _Crew(path, self.hands, policy.stop).work()


@contextmanager
def written(runs: tuple[Planned, ...], policy: Policy) -> Iterator[Path]:
    """Yield a file with runs and policy that a worker reads; it is removed on leaving."""
    from ..files import write_json

    folder = Path(runs[-1].path).parent / PLANS
    path = folder / f"{os.getpid()}-{int(1000 * policy.since)}.json"
    write_json(path, {"runs": [asdict(run) for run in runs], "policy": asdict(policy)})
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # others' plans lie there, or another has removed it
            folder.rmdir()


def devices() -> list[str]:
    """Return the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    count = torch.cuda.device_count()
    seen = [d.strip() for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    return seen[:count] or [str(i) for i in range(count)]


def environment_of(worker: int, workers: int, gpus: list[str]) -> dict[str, str]:
    """Return what worker number ``worker`` has in its environment beside this process's own."""
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]}
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


class _Crew:
    """Worker processes; each ends by itself when nothing is left, and with this process."""

    def __init__(self, plan: Path, workers: int, stop: bool) -> None:
        self.plan, self.workers, self.stop_at_failure = plan, workers, stop
        self.gpus = devices()
        self.spare = 3 * workers  # replacements for those that die
        self.crew: dict[int, subprocess.Popen[bytes]] = {}
        self.told: int | None = None
        self.ended = threading.Event()

    def work(self) -> None:
        before = {}
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGTERM, signal.SIGINT):
                before[kind] = signal.signal(kind, self._pass_on)
        try:
            for number in range(self.workers):
                self._start(number)
            while self.crew:
                self.ended.wait(0.1)
                for number, process in list(self.crew.items()):
                    if process.poll() is not None:
                        self._left(number, process.returncode)
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
            for process in self.crew.values():
                process.terminate()
                process.wait()
        if self.told is not None:
            raise SystemExit(self.told)

    def _start(self, number: int) -> None:
        words = [sys.executable, "-m", "peftbench.runs.worker", str(self.plan), "--tied"]
        env = os.environ | environment_of(number, self.workers, self.gpus)
        self.crew[number] = subprocess.Popen(
            words, env=env, stdin=subprocess.PIPE, start_new_session=True
        )

    def _left(self, number: int, code: int) -> None:
        del self.crew[number]
        if code == 0 or self.told is not None:
            return
        if code in STOPPED:
            self.told = code
            self._stop()
        elif code == SOME_FAILED and self.stop_at_failure:
            self._stop()
        elif code < 0 and self.spare:
            self.spare -= 1
            warn(f"worker {number} died ({signal.Signals(-code).name}); another takes its place")
            self._start(number)
        elif code != SOME_FAILED:
            warn(f"worker {number} ended with code {code}")

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.told = INTERRUPTED if number == signal.SIGINT else TERMINATED
        self._stop()

    def _stop(self) -> None:
        """Let every worker save the state of its run and end."""
        for process in self.crew.values():
            process.terminate()


def read_work(path: Path) -> tuple[Any, Any]:
    """Return the runs and the policy that :func:`written` wrote."""
    from .plan import Planned
    from .work import Policy

    content = json.loads(path.read_text(encoding="utf-8"))
    runs = [Planned(**{**run, "needs": tuple(run["needs"])}) for run in content["runs"]]
    return runs, Policy(**content["policy"])
