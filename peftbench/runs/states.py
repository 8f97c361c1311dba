"""What every run of a plan is now, by what lies in its directory; nothing is changed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .lock import holder
from .store import RunDir, find_finished

if TYPE_CHECKING:
    from .plan import Planned

State = Literal["done", "failed", "running elsewhere", "interrupted", "to do"]
SEARCH = "search.json"
"""What a run, and the folder of a search, says of a search."""


def state_of(run_dir: RunDir) -> tuple[State, str]:
    """Return a run's state, and the error of a failed one or the holder of one that runs."""
    if find_finished(run_dir) is not None:
        return "done", ""
    if (who := holder(run_dir.path / ".lock")) is not None:
        return "running elsewhere", who
    if (error := error_of(run_dir)) is not None:
        return "failed", error
    return ("interrupted" if run_dir.config.exists() else "to do"), ""


def error_of(run_dir: RunDir) -> str | None:
    """Return the error of a run's last attempt, if that failed."""
    return (_failure(run_dir) or {}).get("error")


def failed_at(run_dir: RunDir) -> float:
    """Return when a run's last attempt failed, in seconds since 1970; 0 if it did not."""
    return float((_failure(run_dir) or {}).get("time", 0.0))


def _failure(run_dir: RunDir) -> dict[str, Any] | None:
    try:
        failure = json.loads(run_dir.error.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return failure if isinstance(failure, dict) else None


def seconds_left(runs: Sequence[Planned], states: Mapping[str, State]) -> float | None:
    """Estimate the seconds that the runs which are not done will take one after the other.

    A run is taken to last as finished runs with its settings but other seeds did (their mean);
    where there is none, as those of its method, network and task in its study, then in the
    whole output folder. None where even these lack for some run.
    """
    known: dict[str, list[float]] = {}
    for run in runs:
        if states[run.run_id] == "done" and (seconds := _seconds(run.run_dir)) is not None:
            known.setdefault(run.like, []).append(seconds)
    total = 0.0
    folders: dict[Path, dict[tuple[str, ...], list[float]]] = {}
    for run in runs:
        if states[run.run_id] in ("done", "running elsewhere"):
            continue
        found = known.get(run.like) or _elsewhere(run, folders)
        if not found:
            return None
        total += statistics.mean(found)
    return total


def _elsewhere(
    run: Planned, folders: dict[Path, dict[tuple[str, ...], list[float]]]
) -> list[float]:
    """Return the seconds of finished runs of a run's method, network and task."""
    key = _key(run.plain["names"])
    study = run.run_dir.study
    for pattern, folder in (("*/result.json", study), ("*/*/result.json", study.parent)):
        if folder not in folders:
            folders[folder] = _seconds_by_kind(folder.glob(pattern))
        if found := folders[folder].get(key):
            return found
    return []


def _seconds_by_kind(results: Iterable[Path]) -> dict[tuple[str, ...], list[float]]:
    kinds: dict[tuple[str, ...], list[float]] = {}
    for path in results:
        run_dir = RunDir(path.parent)
        result = find_finished(run_dir)
        if result is not None and (seconds := _seconds(run_dir, result)) is not None:
            kinds.setdefault(_key(result), []).append(seconds)
    return kinds


def _key(names: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(names.get(group)) for group in ("method", "backbone", "data"))


def _seconds(run_dir: RunDir, result: Mapping[str, Any] | None = None) -> float | None:
    """Return the seconds that a finished run trained and evaluated."""
    cost = ((result if result is not None else find_finished(run_dir)) or {}).get("cost", {})
    try:
        return float(cost["train_s"]) + float(cost["eval_s"])
    except (KeyError, TypeError, ValueError):
        return None


def note_of(run_dir: RunDir) -> dict[str, Any] | None:
    """Return what a run says of the search that chose its settings; None if there was none."""
    try:
        note = json.loads((run_dir.path / SEARCH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def duration(seconds: float) -> str:
    """Write seconds as a person would: ``50 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
