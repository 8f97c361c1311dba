"""A sweep from the command to its end: plan, list or carry out, sum up.

Everything that is done already is found without loading anything: a study that is complete is
said to be so at once, by a plan that was kept (:mod:`peftbench.runs.recall`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..errors import ConfigError, PeftbenchError
from . import recall
from .cli import DRY, MULTIRUN, in_order, with_aliases
from .process import CRASHED, FAILED, describe, is_main, report, say, together
from .spawn import spawn_if_asked
from .states import State, duration, seconds_left, state_of
from .store import RunDir, find_finished
from .study_table import Entry, counted, runs, short, show_states, show_study

if TYPE_CHECKING:
    from .compose import Combination
    from .orders import Orders
    from .plan import Plan
    from .searching import Searches

AGAIN = "the same command tries failed runs again"
GOES_ON = "the same command goes on"


def sweep(arguments: Sequence[str], folder: Path) -> int:
    """Do a command that names several runs (``-m``) or lists them (``--dry``); return its code.

    Args:
        arguments: of the command.
        folder: of the configurations.

    Raises:
        PeftbenchError: nothing was begun, for a reason that the message says how to mend.
        SystemExit: told to stop; the same command continues.

    """
    since = time.time()
    words = in_order(with_aliases([a for a in arguments if a != DRY]))
    name = recall.key(words, folder)
    kept = recall.find(name)
    if kept is not None and (DRY in arguments or not together()):
        entries = [Entry(**entry) for entry in kept["runs"]]
        results = _results(entries)
        whole = len(results) == len(entries)
        if whole and all(_sums_up(Path(p), results) for p in kept["suites"]):
            return (_all_done if DRY in arguments else _nothing_to_do)(entries, results)
    found, orders = _composed(words, folder)
    searches = _searches(found, orders, folder)
    if searches is not None:
        if DRY in arguments:
            searches.show()
            return 0
        found = searches.settled(since)
    plan = _planned(found)
    if searches is None and plan.committed and not plan.refused and is_main():
        recall.keep(name, _kept(plan))
    if DRY in arguments:
        return _list(plan, orders)
    code = _carry_out(plan, orders, since)
    if searches is not None:
        searches.leave_notes(found)
    return code


def _composed(words: Sequence[str], folder: Path) -> tuple[list[Combination], Orders]:
    """Compose a command; every combination has the same orders."""
    from .compose import combinations
    from .orders import Orders
    from .settings import ORDERS

    multirun = bool(MULTIRUN & set(words))
    found = combinations([w for w in words if w not in MULTIRUN], folder, multirun)
    given = [{key: job.config.get(key) for key in ORDERS} for job in found]
    for key in ORDERS:
        if any(one[key] != given[0][key] for one in given):
            raise ConfigError(f"{key}: one value holds for the whole sweep; several are given")
    return found, Orders.of(found[0].config)


def _searches(found: Sequence[Combination], orders: Orders, folder: Path) -> Searches | None:
    """Return the searches that come before the runs of a command."""
    if orders.search is None:
        return None
    from .searching import Searches

    return Searches(found, orders, folder)


def _planned(found: Sequence[Combination]) -> Plan:
    """Plan a command; torch comes with it, so what is wrong with the command is said before."""
    from .plan import make_plan

    return make_plan(found)


def _kept(plan: Plan) -> dict[str, Any]:
    from .suite import path_of

    suites = [str(path_of(part.settings)) for part in plan.parts]
    return {"runs": [asdict(e) for e in _entries(plan)], "suites": suites}


def _entries(plan: Plan) -> list[Entry]:
    return [Entry(r.run_id, r.path, r.row, r.data, r.seed, r.source) for r in plan.runs]


def _results(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Return the results of the runs that are finished."""
    found = {e.run_id: find_finished(RunDir(Path(e.path))) for e in entries}
    return {run_id: result for run_id, result in found.items() if result is not None}


def _sums_up(path: Path, results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether a ``suite.json`` says what its runs do, each of them finished."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"].values()
        return all(t["value"] == results[t["run_id"]]["primary"]["value"] for t in tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _nothing_to_do(entries: Sequence[Entry], results: Mapping[str, Mapping[str, Any]]) -> int:
    show_study(entries, results)
    say(f"nothing to do: {runs(len(entries))}, all done: {Path(entries[-1].path).parent}")
    return 0


def _all_done(entries: Sequence[Entry], results: Mapping[str, Mapping[str, Any]]) -> int:
    show_states(entries, dict.fromkeys(results, ("done", "")), "none")
    return 0


def _list(plan: Plan, orders: Orders) -> int:
    """Print every run of the plan with its state."""
    states = {run.run_id: state_of(run.run_dir) for run in plan.runs}
    seconds = seconds_left(plan.runs, {run_id: state for run_id, (state, _) in states.items()})
    left = "unknown" if seconds is None else f"about {duration(seconds / orders.launcher.hands)}"
    if plan.runs:
        show_states(_entries(plan), states, left)
    return _refused(plan)


def _refused(plan: Plan) -> int:
    """Report the runs that cannot be; return the exit code for them."""
    code = 0
    said: dict[str, str] = {}
    for label, error in plan.refused:
        text = describe(error)
        if text in said:
            print(f"error: {label}: as {said[text]}", file=sys.stderr)
            continue
        said[text] = label
        print(f"cannot be planned: {label}", file=sys.stderr)
        code = max(code, report(error))
    return code


def _carry_out(plan: Plan, orders: Orders, since: float) -> int:
    """Do what is left, sum up, and return the exit code."""
    from . import trackers
    from .work import Policy

    code = _refused(plan)
    if code and (orders.on_error == "stop" or not plan.runs):
        return code
    entries = _entries(plan)
    before = _results(entries)
    if len(before) < len(entries) or together():
        spawn_if_asked()
        orders.launcher.check()
        trackers.check(plan.runs[-1].settings().tracker)
        if before:
            rest = len(entries) - len(before)
            say(f"{runs(len(entries))}: {len(before)} done already, {rest} left")
        stop = orders.on_error == "stop"
        orders.launcher.run(plan, Policy(since, orders.attempts, stop, orders.wait))
    results = _results(entries)
    states = _states(plan, results)
    failures = {run_id: note for run_id, (state, note) in states.items() if state == "failed"}
    _conclude(plan, results, failures)
    if not code and len(before) == len(entries):
        return _nothing_to_do(entries, results)
    show_study(entries, results)
    return max(code, _ending(plan, entries, states))


def _states(plan: Plan, results: Mapping[str, Any]) -> dict[str, tuple[State, str]]:
    return {
        run.run_id: ("done", "") if run.run_id in results else state_of(run.run_dir)
        for run in plan.runs
    }


def _conclude(plan: Plan, results: Mapping[str, Any], failures: Mapping[str, str]) -> None:
    """Write what the plan's suites amount to."""
    if plan.parts:
        from .suite import conclude

        for part in plan.parts:
            conclude(part.settings, part.members, results, failures)


def _ending(plan: Plan, entries: Sequence[Entry], states: Mapping[str, tuple[State, str]]) -> int:
    """Say how the sweep ended; return the exit code."""
    labels = {run.run_id: run.label for run in plan.runs}
    failed = {run_id: note for run_id, (state, note) in states.items() if state == "failed"}
    for run_id, note in failed.items():
        if is_main():
            print(f"failed: {labels[run_id]}: {short(note)}", file=sys.stderr)
    if failed and is_main():
        print(
            f"error: {len(failed)} of {runs(len(entries))} failed; {AGAIN}",
            file=sys.stderr,
            flush=True,
        )
    study = Path(entries[-1].path).parent
    left = [state for state, _ in states.values() if state not in ("done", "failed")]
    rest = f"; {len(plan.refused)} could not be planned" if plan.refused else ""
    rest += f"; {GOES_ON}" if left and not failed else ""
    say(f"{counted(entries, states)}{rest}: {study}")
    if any(not _mistake(note) for note in failed.values()):
        return CRASHED
    return FAILED if failed or "to do" in left else 0


def _mistake(error: str) -> bool:
    """Tell from its text whether an error is one that a person can mend."""
    kind = getattr(errors, error.partition(":")[0], None)
    return isinstance(kind, type) and issubclass(kind, PeftbenchError)
