"""What runs left behind, read from their folders: settings, results, and what is missing.

Only stored files are read: ``config.yaml``, ``result.json``, ``error.json`` and ``suite.json``.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, CorruptAssetError, unknown
from ..runs.store import RunDir, find_finished
from .published import suites

PERCENT = 100.0
"""Factor to the unit of a primary figure that is a share or a correlation: %."""
UNBOUNDED = ("loss", "perplexity")
"""Figures that are shown as they are, and of which less is better."""


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
    def written(self) -> float:
        """When its last file was written, seconds since 1970: its result's, else its settings'."""
        place = RunDir(self.path)
        return (place.result if self.result is not None else place.config).stat().st_mtime

    @property
    def metric(self) -> str:
        """The name of the primary figure."""
        return str(self._primary["name"])

    @property
    def unit(self) -> str:
        """The unit of the primary figure: ``%``, or its name where it is no share."""
        return self.metric if self.metric in UNBOUNDED else "%"

    @property
    def sign(self) -> int:
        """1 where more of the primary figure is better, -1 where less is.

        Raises:
            ConfigError: nothing says which.

        """
        known = {"accuracy": True} | dict.fromkeys(UNBOUNDED, False)
        higher = self._primary.get("higher_is_better", known.get(self.metric))
        if higher is None:
            raise ConfigError(
                f"{self.path}: nothing says whether more '{self.metric}' is better "
                "(result.json, primary.higher_is_better)"
            )
        return 1 if higher else -1

    @property
    def value(self) -> float:
        """The primary figure: percent, or as it is where :attr:`unit` says so."""
        return self._factor * float(self._primary["value"])

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval that the run itself gives for its primary figure, in the same unit."""
        low, high = self._primary["ci95"]
        return self._factor * low, self._factor * high

    @property
    def _factor(self) -> float:
        return PERCENT if self.unit == "%" else 1.0

    @property
    def _primary(self) -> Mapping[str, Any]:
        assert self.result is not None, f"{self.path} is not finished"
        primary: Mapping[str, Any] = self.result["primary"]
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

    def only(self, key: str, names: Sequence[str]) -> Collection:
        """Return the runs of some ``methods`` or ``tasks`` (as ``key`` says).

        Raises:
            ConfigError: a name that no run has.

        """
        attribute = key.removesuffix("s")
        known = {getattr(entry, attribute) for entry in (*self.runs, *self.lost)}
        for name in names:
            if name not in known:
                raise unknown(f"{attribute} of these runs", name, known, key)
        return Collection(
            tuple(r for r in self.runs if getattr(r, attribute) in names),
            tuple(m for m in self.lost if getattr(m, attribute) in names),
        )

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
        places: folders that hold run directories at any depth, or single run directories. A run
            that lies in several places is read once.

    Raises:
        ConfigError: a place holds no run.
        CorruptAssetError: a ``config.yaml`` cannot be read.

    """
    runs: dict[str, Run] = {}
    summaries: list[Path] = []
    for place in map(Path, places):
        if not place.is_dir():
            raise ConfigError(f"runs: there is no folder {place}")
        found = 0
        for folder, is_run in walk(place):
            if is_run:
                found += 1
                if folder.name not in runs or runs[folder.name].result is None:
                    runs[folder.name] = read(folder)
            elif (folder / "suite.json").is_file():
                summaries.append(folder / "suite.json")
        if not found:
            raise ConfigError(f"runs: {place} holds no run; name a folder of runs, such as outputs")
    return Collection(_told_apart(list(runs.values())), tuple(_lost(summaries, runs.values())))


def walk(place: Path, linked: set[str] | None = None) -> Iterator[tuple[Path, bool]]:
    """Yield folders, sorted, and whether each is a run's; nothing inside a run or hidden.

    A run's folder has settings, and its name is an identity. Links are followed, each place that
    they lead to once.

    Args:
        place: where to begin.
        linked: places that links led to so far.

    Raises:
        ConfigError: a folder cannot be read.

    """
    linked = set() if linked is None else linked
    is_run = bool(re.fullmatch("[0-9a-f]{12}", place.name or place.resolve().name))
    is_run = is_run and (place / "config.yaml").is_file()
    yield place, is_run
    if not is_run:
        try:
            with os.scandir(place) as entries:
                folders = sorted((e.name, e.is_symlink()) for e in entries if e.is_dir())
        except OSError as error:
            raise ConfigError(f"runs: {place} cannot be read ({error.strerror})") from error
        for name, link in folders:
            if name.startswith("."):
                continue
            if link:
                if (target := os.path.realpath(place / name)) in linked:
                    continue
                linked.add(target)
            yield from walk(place / name, linked)


def read(path: Path) -> Run:
    """Read one run directory.

    Raises:
        CorruptAssetError: ``config.yaml`` is not what a run writes.

    """
    run_dir = RunDir(path)
    try:
        config = settings(run_dir.config.read_text(encoding="utf-8"))
        data = str(config["names"]["data"])
        suite = suite_of(config["data"]["_target_"])
        config["names"]["method"], config["names"]["backbone"], int(config["seed"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise CorruptAssetError(f"{run_dir.config} is no run's settings ({error!r})") from error
    result = find_finished(run_dir)
    problem = "" if result is not None else _problem(run_dir)
    return Run(path, config, result, problem, suite, data.rpartition("/")[2])


def settings(text: str) -> dict[str, Any]:
    """Return what a ``config.yaml`` holds.

    Runs share most of their settings, so equal sections are parsed once; treat them as read only.
    A file that cannot be taken apart (an alias from one section to another) is read whole.
    """
    out: dict[str, Any] = {}
    try:
        for section in re.split(r"^(?=[A-Za-z_])", text, flags=re.MULTILINE):
            if section.strip():
                out |= _section(section)
    except (yaml.YAMLError, TypeError):
        whole = yaml.load(text, Loader=LOADER)
        if not isinstance(whole, dict):
            raise TypeError("it is not a mapping") from None
        return whole
    return out


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.lru_cache(maxsize=20_000)
def _section(text: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.load(text, Loader=LOADER)
    return value


def _told_apart(runs: list[Run]) -> tuple[Run, ...]:
    """Put the suite in front of a task's name where two suites have a task of that name."""
    homes: dict[str, set[str | None]] = {}
    for run in runs:
        homes.setdefault(run.task, set()).add(run.suite)
    return tuple(
        replace(run, task=f"{run.suite}/{run.task}") if len(homes[run.task]) > 1 else run
        for run in runs
    )


@functools.lru_cache(maxsize=1000)
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
