"""Do the runs of a plan, one after the other, beside any number of processes that do the same.

A run belongs to the process that holds the claim on its directory. One that another process holds
is left for later; when nothing else is left, this one waits for it, and takes it over if the other
dies. Nothing is remembered but what lies on the disk, so a killed process loses nothing but the
steps since its last saved state.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import RunLockedError
from .launch import note_death, obtain
from .lock import holder
from .plan import Planned
from .process import describe, report, say, together, warn
from .states import error_of
from .store import Ledger, find_finished
from .table import with_unit

DEATHS = 3  # processes that may die over one run before it counts as failed
POLL_S = (0.2, 5.0)
Outcome = Literal["done", "failed", "again", "later"]


@dataclass(frozen=True)
class Policy:
    """What holds for the runs of one command, in all processes that it starts.

    Attributes:
        since: when the command began, in seconds since 1970; what failed after it is not done
            again but by ``attempts``.
        attempts: how often a run may fail.
        stop: whether the first failure ends the work.
        wait: whether to wait for runs that others hold.

    """

    since: float
    attempts: int = 1
    stop: bool = False
    wait: bool = True


class Work:
    """The work of one process on a plan."""

    def __init__(self, runs: Sequence[Planned], policy: Policy) -> None:
        """Take the runs in the order in which they are to be tried."""
        self.runs, self.policy = runs, policy
        self.failed: dict[str, str] = {}
        self._done: set[str] = set()
        self._told: dict[str, str] = {}
        self._failures: dict[str, int] = {}

    def all(self) -> None:
        """Do all runs, or as many as the policy lets.

        Raises:
            SystemExit: told to stop, or one of several processes of a run failed.

        """
        pending = list(self.runs)
        pause, said = POLL_S[0], False
        while pending:
            later, moved = [], False
            for run in pending:
                outcome = self._try(run)
                if outcome == "failed" and self.policy.stop:
                    return
                moved |= outcome != "later"
                if outcome in ("later", "again"):
                    later.append(run)
            pending = later
            if moved or not pending:
                pause = POLL_S[0]
                continue
            if not self.policy.wait:
                return
            if not said:
                say(f"waiting for {_runs(len(pending))} that other processes work on")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, POLL_S[1])

    def _try(self, run: Planned) -> Outcome:
        """Do one run if it can be done now."""
        if find_finished(run.run_dir) is not None:
            self._done.add(run.run_id)
            return "done"
        for need in run.needs:
            if need in self.failed:
                return self._fail(run, f"its source failed: {self.failed[need]}")
            if need not in self._done:
                return "later"
        if run.run_dir.path.exists() and not together():
            if holder(run.run_dir.path / ".lock") is not None:
                return "later"
            if reason := self._given_up(run):
                return self._fail(run, reason)
        try:
            result, new = obtain(run.settings())
        except RunLockedError:
            if together():
                raise
            return "later"
        except Exception as error:
            return self._failure(run, error)
        self._done.add(run.run_id)
        if new:
            say(self._line(run, result))
        return "done"

    def _given_up(self, run: Planned) -> str | None:
        """Return why a run that nobody works on counts as failed: by the books since we began."""
        states = self._states(run)
        if states.count("failed") >= self.policy.attempts:
            return error_of(run.run_dir) or "it failed elsewhere"
        begun = states.count("started") + states.count("resumed")
        if 2 * begun - len(states) >= DEATHS:
            return note_death(run.run_dir, f"{DEATHS} processes died over it (out of memory?)")
        return None

    def _states(self, run: Planned) -> list[str]:
        return [
            entry["state"]
            for entry in Ledger(run.run_dir.study).entries()
            if entry["run_id"] == run.run_id and entry.get("time", 0.0) >= self.policy.since
        ]

    def _failure(self, run: Planned, error: Exception) -> Outcome:
        """Report an error, and decide whether the run is tried again."""
        text = describe(error)
        if text in self._told:
            warn(f"{run.label} fails as '{self._told[text]}' did")
        else:
            code = report(error)
            self._told[text] = run.label
            if together():  # the others may wait for this one within the run
                raise SystemExit(code) from error
        self._failures[run.run_id] = self._failures.get(run.run_id, 0) + 1
        count = max(self._failures[run.run_id], self._states(run).count("failed"))
        if count < self.policy.attempts:
            say(f"to be tried again: {run.label}")
            return "again"
        return self._fail(run, text, tell=False)

    def _fail(self, run: Planned, reason: str, tell: bool = True) -> Outcome:
        self.failed[run.run_id] = reason
        if tell:
            warn(f"{run.label}: {reason}")
        say(f"[{self._count()}/{len(self.runs)}] failed: {run.label}  {run.path}")
        return "failed"

    def _line(self, run: Planned, result: dict[str, Any]) -> str:
        primary, cost = result["primary"], result["cost"]
        score = f"{primary['name']} {with_unit(primary['name'], primary['value'])}"
        seconds = cost["train_s"] + cost["eval_s"]
        return (
            f"[{self._count()}/{len(self.runs)}] {run.label}: {score}, {seconds:.1f} s  {run.path}"
        )

    def _count(self) -> int:
        """Return how many runs of the plan are done or given up, by whomever."""
        ended = self._done | set(self.failed)
        return sum(r.run_id in ended or r.run_dir.result.exists() for r in self.runs)


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"
