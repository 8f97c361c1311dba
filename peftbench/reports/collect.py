"""What runs left behind, read from their folders: settings, results, and what is missing.

Only stored files are read: ``config.yaml``, ``result.json``, ``error.json`` and ``suite.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, CorruptAssetError, unknown
from ..runs.store import RunDir, find_finished
from .published import suites

PERCENT = 100.0
"""Factor to the unit of a primary figure: a share or a correlation, in %."""


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: the directory; its name is the run's identity.
        config: the content of ``config.yaml``.
        result: the content of ``result.json``, None if the run is not finished.
        problem: why there is no result.
        suite: the suite that its data belong to, None if no suite has them.
        task: short name of its data.

    """

    path: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    problem: str
    suite: str | None
    task: str

    @property
    def method(self) -> str:
        """The name under which the method was chosen."""
        return str(self.config["names"]["method"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def value(self) -> float:
        """The primary figure, percent."""
        primary = self._primary()
        return PERCENT * float(primary["value"])

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval that the run itself gives for its primary figure, percent."""
        primary = self._primary()
        low, high = primary["ci95"]
        return PERCENT * low, PERCENT * high

    def _primary(self) -> Mapping[str, Any]:
        assert self.result is not None, f"{self.path} is not finished"
        primary: Mapping[str, Any] = self.result["primary"]
        if not primary.get("higher_is_better", primary["name"] == "accuracy"):
            raise ConfigError(
                f"{self.path}: reports compare figures of which more is better, and nothing says "
                f"so of '{primary['name']}'"
            )
        return primary


@dataclass(frozen=True)
class Missing:
    """A result that should be there."""

    method: str
    task: str
    seed: int
    reason: str
    suite: str | None = None


@dataclass(frozen=True)
class Collection:
    """All runs of some studies.

    Attributes:
        runs: every run directory once, finished or not.
        lost: members of suites that never came to a run directory.

    """

    runs: tuple[Run, ...]
    lost: tuple[Missing, ...] = ()

    @property
    def finished(self) -> list[Run]:
        """Runs that have a result."""
        return [run for run in self.runs if run.result is not None]

    def missing(self) -> list[Missing]:
        """Return everything that has no result, with the reason."""
        open_ = [r for r in self.runs if r.result is None]
        own = [Missing(r.method, r.task, r.seed, r.problem, r.suite) for r in open_]
        return own + list(self.lost)

    def of_suite(self, name: str) -> Collection:
        """Return the runs on the data of one suite.

        Raises:
            ConfigError: a run's task has no place in the suite's published tables.

        """
        tasks = suites()[name].ours
        runs = tuple(r for r in self.runs if r.suite == name)
        for run in runs:
            if run.task.rpartition("/")[2] not in tasks:
                raise unknown(f"task of {name} in {run.path}", run.task, tasks, "suite")
        return Collection(runs, tuple(m for m in self.lost if m.suite == name))


def collect(places: Sequence[str | Path]) -> Collection:
    """Read run directories.

    Args:
        places: studies, or single run directories.

    Raises:
        ConfigError: a place holds no run.
        CorruptAssetError: a ``config.yaml`` cannot be read.

    """
    runs: dict[str, Run] = {}
    summaries: list[Path] = []
    for place in map(Path, places):
        if not place.is_dir():
            raise ConfigError(f"runs: there is no folder {place}")
        inside = [place] if (place / "config.yaml").is_file() else sorted(place.iterdir())
        found = [p for p in inside if (p / "config.yaml").is_file()]
        summaries += [p / "suite.json" for p in inside if (p / "suite.json").is_file()]
        if not found:
            raise ConfigError(
                f"runs: {place} holds no run; name a study's folder (outputs/STUDY) or a run's"
            )
        runs.update((path.name, read(path)) for path in found)
    return Collection(_told_apart(list(runs.values())), tuple(_lost(summaries, runs.values())))


def read(path: Path) -> Run:
    """Read one run directory.

    Raises:
        CorruptAssetError: ``config.yaml`` is not what a run writes.

    """
    run_dir = RunDir(path)
    try:
        config = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
        data = str(config["names"]["data"])
        suite = suite_of(config["data"]["_target_"])
        config["names"]["method"], config["names"]["backbone"], int(config["seed"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise CorruptAssetError(f"{run_dir.config} is no run's settings ({error!r})") from error
    result = find_finished(run_dir)
    problem = "" if result is not None else _problem(run_dir)
    return Run(path, config, result, problem, suite, data.rpartition("/")[2])


def _told_apart(runs: list[Run]) -> tuple[Run, ...]:
    """Put the suite in front of a task's name where two suites have a task of that name."""
    homes: dict[str, set[str | None]] = {}
    for run in runs:
        homes.setdefault(run.task, set()).add(run.suite)
    return tuple(
        replace(run, task=f"{run.suite}/{run.task}") if len(homes[run.task]) > 1 else run
        for run in runs
    )


def suite_of(target: str) -> str | None:
    """Return the suite to which a data spec belongs by the module it is defined in."""
    module = target.rpartition(".")[0]
    return next((s.name for s in suites().values() if module in s.modules), None)


def _problem(run_dir: RunDir) -> str:
    if not run_dir.error.is_file():
        return "not finished"
    try:
        error = json.loads(run_dir.error.read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError, KeyError, TypeError):
        return "failed"
    return "failed: " + str(error).splitlines()[0]


def _lost(summaries: Iterable[Path], runs: Iterable[Run]) -> list[Missing]:
    """Return members of suites without a run directory that no run has made up for."""
    known = {(r.method, r.task, r.seed) for r in runs}
    found = []
    for path in summaries:
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            for task, line in summary["tasks"].items():
                key = (summary["method"], task.rpartition("/")[2], summary["seed"])
                if line.get("run_id") is None and key not in known:
                    reason = str(line.get("error", "no run")).splitlines()[0]
                    found.append(Missing(*key, f"failed: {reason}", summary["suite"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptAssetError(f"{path} is no summary of a suite ({error!r})") from error
    return found
