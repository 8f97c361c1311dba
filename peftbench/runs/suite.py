"""A suite: the same settings on each of its tasks, and every mean that the field uses."""

from __future__ import annotations

import hashlib
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingAssetError, PeftbenchError
from ..files import write_json
from .identity import canonical, run_id
from .process import CRASHED, FAILED, describe, is_main, report, say, together, warn
from .settings import Settings
from .table import deviations_of, show_suite

SCHEMA_VERSION = 1


def run_suite(settings: Settings) -> int:
    """Run every chosen task of a suite and write ``<output>/<study>/<suite id>/suite.json``.

    A task that fails is reported at once and does not stop the others. Of several processes that
    work together, one that fails within a task ends the command: the others may be waiting for it
    there, and must not meet it in the next task.

    Returns:
        0; 2 if tasks failed by mistakes that can be mended, 1 if one failed by a defect.

    Raises:
        SystemExit: one of several processes failed within a task.

    """
    from .launch import run_one

    members = {  # named as each would be alone
        name: settings.for_task(data.name, data) for name, data in settings.data.selected().items()
    }
    tasks: dict[str, dict[str, Any]] = _planned(settings, members)
    code = 0
    failures: dict[str, str] = {}
    for name, member in members.items():
        try:
            say(f"== {settings.names['data']}: {name}")
            tasks[name] |= _line(run_one(member))
        except Exception as error:
            text = describe(error)
            if text in failures:  # what ails all tasks alike is said in full once
                warn(f"task '{name}' fails as '{failures[text]}' did")
            else:
                report(error)
                failures[text] = name
            tasks[name]["error"] = text
            mistake = isinstance(error, PeftbenchError) and code != CRASHED
            code = FAILED if mistake else CRASHED
            if together() and tasks[name]["run_id"] is not None:
                print(f"suite stopped at {name}; the same command goes on there", file=sys.stderr)
                raise SystemExit(code) from error
    summary = summarise(settings, tasks)
    show_suite(summary, _written(settings, summary))
    return code


def conclude(
    settings: Settings,
    members: Mapping[str, str | None],
    results: Mapping[str, Mapping[str, Any]],
    errors: Mapping[str, str],
) -> Path:
    """Write ``suite.json`` from runs that a sweep did, and return its path.

    Args:
        settings: of the suite.
        members: run id by task; None where the run could not be planned.
        results: content of ``result.json`` by run id.
        errors: why a run failed, by run id.

    """
    tasks: dict[str, dict[str, Any]] = {}
    for name, member in members.items():
        tasks[name] = {"run_id": member}
        if member is not None and member in results:
            tasks[name] |= _line(results[member])
        elif member is not None and member in errors:
            tasks[name]["error"] = errors[member]
    return _written(settings, summarise(settings, tasks))


def path_of(settings: Settings) -> Path:
    """Return where the suite's ``suite.json`` lies."""
    return Path(settings.output) / settings.study / suite_id(settings) / "suite.json"


def _written(settings: Settings, summary: Mapping[str, Any]) -> Path:
    path = path_of(settings)
    if is_main():
        write_json(path, summary)
    return path


def _planned(settings: Settings, members: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    """Return the run id of every task, None where its data cannot be read.

    Raises:
        MissingAssetError: no task's data is here; what the first of them said.

    """
    from .launch import run_dir_of

    tasks: dict[str, dict[str, Any]] = {}
    problems: list[PeftbenchError] = []
    for name, member in members.items():
        tasks[name] = {"run_id": None}
        try:
            tasks[name]["run_id"] = run_dir_of(member).run_id
        except PeftbenchError as error:
            problems.append(error)
    missing = [error for error in problems if isinstance(error, MissingAssetError)]
    if len(missing) == len(members) > 1:
        raise MissingAssetError(
            f"none of the {len(members)} tasks of {settings.names['data']} can run; "
            f"the first says:\n{missing[0]}"
        )
    return tasks


def _line(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a suite keeps of one task's result."""
    primary = result["primary"]
    line = {key: primary[key] for key in ("name", "split", "value", "ci95")}
    deviations = deviations_of(result)
    return line | ({"deviations": deviations} if deviations else {})


def suite_id(settings: Settings) -> str:
    """Return the suite's identity: its settings and the manifests of its chosen tasks.

    A task whose data cannot be read counts as one without a manifest.
    """
    manifests: dict[str, str | None] = {}
    for name, data in settings.data.selected().items():
        try:
            manifests[name] = data.manifest_sha256
        except PeftbenchError:
            manifests[name] = None
    return run_id(_in_force(settings), hashlib.sha256(canonical(manifests).encode()).hexdigest())


def _in_force(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain data, the trainer's table without what was chosen by hand."""
    trainer = dict(settings.plain["trainer"])
    if table := trainer.get("per_task"):
        trainer["per_task"] = {
            task: {n: value for n, value in row.items() if f"trainer.{n}" not in settings.chosen}
            for task, row in table.items()
        }
    return {**settings.plain, "trainer": trainer}


def summarise(settings: Settings, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Build ``suite.json`` from one line per chosen task.

    Every mean has a name: ``mean_of_tasks`` weighs tasks alike, ``mean_of_groups`` weighs groups
    alike and the tasks within each. A mean that would need a missing task is None, and ``reason``
    says which are missing.
    """
    missing = sorted(name for name, line in tasks.items() if "value" not in line)
    groups: dict[str, Any] = {}
    for group, members in settings.data.groups.items():
        chosen = [name for name in members if name in tasks]
        if chosen:
            groups[group] = {
                "tasks": chosen,
                "of": len(members),
                "mean": _mean([tasks[n].get("value") for n in chosen]),
            }
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "suite_id": suite_id(settings),
        "suite": settings.names["data"],
        "status": "incomplete" if missing else "finished",
        **{group: settings.names[group] for group in ("method", "backbone", "protocol")},
        "seed": settings.seed,
        "of": len(settings.data.members),
        "choice": None if set(tasks) == set(settings.data.members) else sorted(tasks),
        "mean_of_tasks": _mean([line.get("value") for line in tasks.values()]),
        "mean_of_groups": _mean([group["mean"] for group in groups.values()]),
        "groups": groups,
        "tasks": {name: dict(line) for name, line in tasks.items()},
        "missing": missing,
    }
    if missing:
        summary["reason"] = f"no result for {', '.join(missing)}"
    return summary


def _mean(values: list[float | None]) -> float | None:
    """Return the mean, or None when a value is missing or there is none.

    Exact up to the last rounding, so the order of the values does not matter.
    """
    known = [v for v in values if v is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None
