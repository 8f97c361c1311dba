"""``python -m peftbench.runs.worker PLAN``: one process of a launcher, resident until all is done.

Ends with 0 when nothing is left, with 3 when runs failed, and as a run does when told to stop. With
``--tied`` it also stops, its state saved, when its standard input closes: its launcher is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from .launch import terminable
from .launchers import SOME_FAILED, read_work
from .work import Work


def main(path: Path, tied: bool) -> int:
    """Do what is left of a plan, and return the exit code."""
    runs, policy = read_work(path)
    if tied:
        threading.Thread(target=_leave_with_launcher, daemon=True).start()
    with terminable():
        work = Work(runs, policy)
        work.all()
    return SOME_FAILED if work.failed else 0


def _leave_with_launcher() -> None:
    """Wait for the end of standard input, then stop this process as SIGTERM would."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--tied" in sys.argv))
