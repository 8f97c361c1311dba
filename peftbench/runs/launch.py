"""From settings to a result: find the run, hold it, execute it, keep the books, show the table."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import RunLockedError
from . import trackers
from .identity import run_id
from .local_files import by_content
from .lock import Claim
from .process import INTERRUPTED, TERMINATED, describe, is_main, say
from .settings import Settings
from .stages import named, run_stages, stage_settings
from .store import Ledger, RunDir, State, find_finished
from .table import show_result


def launch(settings: Settings) -> int:
    """Do what the settings ask for, one run or a suite of runs, and return the exit code.

    Raises:
        PeftbenchError: the run failed for a reason that the user can mend.
        SystemExit: the run was told to stop (143); the same command continues it.

    """
    trackers.check(settings.tracker)
    if hasattr(settings.data, "selected"):
        from .suite import run_suite

        return run_suite(settings)
    run_one(settings)
    return 0


def run_dir_of(settings: Settings) -> RunDir:
    """Return the directory of the run that the settings define; nothing is written.

    A local weight file, or a folder of one, counts by its content, wherever it lies and however its
    path is spelled; runs that this one starts from count by their own identities, in their order.
    """
    plain = dict(settings.plain)
    plain["backbone"] = by_content(settings.backbone, plain["backbone"])
    if stages := stage_settings(settings):
        method = {key: value for key, value in plain["method"].items() if key != "sources"}
        runs = []
        for name, stage in stages.items():
            with named(name, settings):
                runs.append([name, run_dir_of(stage).run_id])
        plain |= {"method": method, "stages": runs}
    identity = run_id(plain, settings.data.manifest_sha256)
    return RunDir(Path(settings.output) / settings.study / identity)


def run_one(settings: Settings) -> dict[str, Any]:
    """Return the result of one run as :func:`obtain` does, and print its table.

    Raises:
        RunLockedError: another process is working on this run.

    """
    result, new = obtain(settings)
    path = run_dir_of(settings).path
    show_result(result, path)
    if not new:
        say(f"already done: {path}")
    return result


def obtain(settings: Settings) -> tuple[dict[str, Any], bool]:
    """Return the result of one run, and whether it is new: the finished one's if there is one.

    Of several processes that work on the run together, each executes, and rank 0 alone locks,
    writes and prints.

    Raises:
        RunLockedError: another process is working on this run.

    """
    run_dir = run_dir_of(settings)
    result = find_finished(run_dir)
    if result is None:
        sources = run_stages(settings)
        distrusted = run_dir.result.exists()
        with run_dir.lock() if is_main() else nullcontext() as claim:
            if not distrusted:  # another process may have finished it before we held it
                result = find_finished(run_dir)
            if result is None:
                return _execute(settings, run_dir, sources, claim), True
    if is_main():
        run_dir.tidy()
    return result, False


def _execute(
    settings: Settings, run_dir: RunDir, sources: Mapping[str, Path], claim: Claim | None
) -> dict[str, Any]:
    """Execute a run that this process holds, and note how it ends."""
    resumed = run_dir.can_resume()
    _note(settings, run_dir, "resumed" if resumed else "started")
    if resumed:
        say(f"going on where an earlier attempt stopped: {run_dir.path}")
    if is_main():
        run_dir.begin(settings.plain)
    try:
        with terminable():
            from .execute import execute

            result = dict(execute(settings, run_dir, sources))
        if claim is not None:
            claim.check()
            run_dir.finish(result)
    except SystemExit as error:
        stopped = error.code == TERMINATED
        _note(settings, run_dir, "interrupted" if stopped else "failed", error)
        if stopped:
            say(f"stopped; the same command continues: {run_dir.path}")
        raise
    except KeyboardInterrupt as error:
        _note(settings, run_dir, "interrupted", error)
        say(f"interrupted; the same command continues from its last state: {run_dir.path}")
        raise SystemExit(INTERRUPTED) from error
    except RunLockedError:  # the run is somebody else's now, and so are its books
        raise
    except BaseException as error:
        _note(settings, run_dir, "failed", error)
        raise
    _note(settings, run_dir, "finished")
    return result


def _note(
    settings: Settings, run_dir: RunDir, state: State, error: BaseException | None = None
) -> None:
    """Record a state change in the ledger, and a failure in the run directory too."""
    if not is_main():
        return
    text = describe(error) if error is not None and state == "failed" else None
    if text is not None:
        run_dir.fail(text)
    Ledger(run_dir.study).record(run_dir.run_id, state, config=settings.plain, error=text)


def note_death(run_dir: RunDir, error: str) -> str:
    """Record that a run failed by the deaths of its processes; return ``error``."""
    run_dir.fail(error)
    Ledger(run_dir.study).record(run_dir.run_id, "failed", error=error)
    return error


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into ``SystemExit(143)``, so that the books are kept wherever it arrives.

    Training replaces this by a handler of its own that waits for the end of a step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
