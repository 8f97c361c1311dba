"""What a process of a run needs to know about itself: its rank, and how it reports an error."""

from __future__ import annotations

import os
import sys
import traceback

from ..errors import PeftbenchError

FAILED = 2
CRASHED = 1
TERMINATED = 143
INTERRUPTED = 130


def rank() -> int:
    """Return this process's rank among all that work on the run (0 when it is alone)."""
    return int(os.environ.get("RANK", "0"))


def together() -> bool:
    """Tell whether several processes work on the run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Tell whether this process writes, locks and prints: rank 0 alone does."""
    return rank() == 0


def say(text: str) -> None:
    """Print ``text`` to standard output from the main process only."""
    if is_main():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print one warning line to standard error from the main process only."""
    if is_main():
        print(f"warning: {text}", file=sys.stderr, flush=True)


def report(error: BaseException) -> int:
    """Print an error to standard error and return the exit code that stands for it.

    A :class:`PeftbenchError` is meant for a person: its text alone is shown, code 2. Anything else
    is a defect: its traceback is shown, code 1.
    """
    if isinstance(error, PeftbenchError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return FAILED
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    return CRASHED


def describe(error: BaseException) -> str:
    """Return one line naming an error's type and text, for the ledger."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
