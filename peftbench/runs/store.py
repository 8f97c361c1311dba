"""The files of a run, and the books of a study.

One run is one directory, worked on by one process at a time; its ``result.json`` is written last,
so its presence means that the run is done. Every state change of a study's runs is a line of the
study's ``ledger.jsonl``.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import yaml

from ..errors import ConfigError
from ..files import remove_leftovers, replacing, write_json, write_text
from .lock import Claim, flock, held
from .process import warn

State = Literal["started", "resumed", "interrupted", "failed", "finished"]
RESULT_KEYS = frozenset(
    (
        *("schema_version", "run_id", "status", "method", "backbone", "data", "task", "seed"),
        *("protocol", "metrics", "primary", "params", "artefact_bytes", "cost", "environment"),
        "data_manifest",
    )
)
"""What ``result.json`` holds at least."""


@dataclass(frozen=True)
class RunDir:
    """The directory ``<output>/<study>/<run id>`` and the names of what lies in it."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's identity, which is the directory's name."""
        return self.path.name

    @property
    def study(self) -> Path:
        """The study's folder."""
        return self.path.parent

    @property
    def config(self) -> Path:
        """``config.yaml``: resolved and complete."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """``metrics.jsonl``: one line per logged value."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """``result.json``: written last; its presence means done."""
        return self.path / "result.json"

    @property
    def adapter(self) -> Path:
        """``adapter/``: what was trained."""
        return self.path / "adapter"

    @property
    def state(self) -> Path:
        """``state/``: what a stopped run continues from; removed when the run is done."""
        return self.path / "state"

    @property
    def error(self) -> Path:
        """``error.json``: why the last attempt failed; removed by the next attempt."""
        return self.path / "error.json"

    def can_resume(self) -> bool:
        """Tell whether an earlier attempt left state to continue from."""
        return self.state.is_dir() and any(self.state.iterdir())

    def begin(self, config: Mapping[str, Any]) -> None:
        """Prepare for an attempt: no leftovers, no old error, ``config.yaml`` in place."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        self.error.unlink(missing_ok=True)
        write_text(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, the last file of the run, then drop the resumable state."""
        write_json(self.result, dict(result))
        self.tidy()

    def tidy(self) -> None:
        """Remove what a finished run no longer needs."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.error.unlink(missing_ok=True)
        remove_leftovers(self.path)

    def fail(self, error: str) -> None:
        """Record why this attempt failed."""
        write_json(self.error, {"error": error, "time": time.time()})

    @contextmanager
    def lock(self) -> Iterator[Claim]:
        """Hold the run for this process alone; see :mod:`peftbench.runs.lock`.

        The lock file ``.lock`` is removed on leaving.

        Raises:
            RunLockedError: another process (or another part of this one) holds the run.
            ConfigError: the folder cannot be made or written to.

        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ConfigError(
                f"output: no results can be written to {self.path} ({error.strerror or error}); "
                "name another folder with output=FOLDER"
            ) from error
        with held(self.path / ".lock") as claim:
            yield claim


def find_finished(run_dir: RunDir) -> dict[str, Any] | None:
    """Return the result of a finished run, None if it is not finished.

    A ``result.json`` that cannot be read, lacks keys or figures, or is another run's is reported on
    standard error and not trusted: the run then counts as not finished.
    """
    if not run_dir.result.exists():
        return None
    try:
        result = json.loads(run_dir.result.read_text(encoding="utf-8"))
        if not isinstance(result, dict):
            raise ValueError("it is not a mapping")
        if missing := sorted(RESULT_KEYS - result.keys()):
            raise ValueError(f"it lacks {', '.join(missing)}")
        if result["run_id"] != run_dir.run_id:
            raise ValueError(f"it belongs to run {result['run_id']}")
        _check_figures(result)
    except (OSError, ValueError) as error:
        warn(f"{run_dir.result} is not trusted: {error}; the run counts as not finished")
        return None
    return result


def _check_figures(result: Mapping[str, Any]) -> None:
    """Refuse a result whose figures are not there.

    Raises:
        ValueError: says which.

    """
    if not isinstance(result["primary"], dict):
        raise ValueError("its 'primary' is not a mapping")
    primary = result["primary"]
    for name, count in (("value", 1), ("ci95", 2)):
        found = primary.get(name)
        numbers = found if count > 1 and isinstance(found, list) else [found]
        if len(numbers) != count or not all(_is_number(n) for n in numbers):
            raise ValueError(f"its primary.{name} is {found!r}")
    if not isinstance(primary.get("name"), str):
        raise ValueError(f"its primary.name is {primary.get('name')!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


class MetricsLog:
    """``metrics.jsonl``: lines of step, epoch, split, name, value and seconds.

    Every write is flushed. A value that is not finite is written as ``null`` with a further field
    ``non_finite`` (``"nan"``, ``"inf"`` or ``"-inf"``), since JSON has no such number. Steps never
    go backwards: a resumed run first calls :meth:`truncate_after`.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending; a torn last line of a killed writer is dropped."""
        self.path = path
        self._file: IO[str] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._last = -1
        if path.exists():
            self._rewrite(None)
        self._open()

    def log(
        self,
        step: int,
        epoch: int | float,
        split: str,
        values: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Append one line per value.

        Args:
            step: optimiser steps done so far.
            epoch: epochs done so far.
            split: ``train``, ``val``, ``test`` or another part of the run.
            values: figure by name.
            seconds: wall time since the run began.

        Raises:
            ValueError: ``step`` is smaller than that of the line before.

        """
        if step < self._last:
            raise ValueError(f"metrics of step {step} after those of step {self._last}")
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        head = {"step": step, "epoch": epoch, "split": split}
        lines = [
            json.dumps(head | {"name": name} | _number(value) | {"seconds": round(seconds, 3)})
            for name, value in values.items()
        ]
        self._file.write("".join(line + "\n" for line in lines))
        self._file.flush()
        self._last = step

    def truncate_after(self, step: int) -> None:
        """Drop every line of a later step (all of them for -1), atomically."""
        self.close()
        self._rewrite(step)
        self._open()

    def sync(self) -> None:
        """Bring all lines to the disk, so that saved state never knows more than this file."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def _rewrite(self, step: int | None) -> None:
        """Keep whole lines up to ``step`` (None: all); write only if that changes the file."""
        before = self.path.read_bytes() if self.path.exists() else b""
        kept: list[bytes] = []
        self._last = -1
        for line, entry in _lines(before):
            if step is None or entry["step"] <= step:
                kept.append(line)
                self._last = max(self._last, entry["step"])
        after = b"".join(line + b"\n" for line in kept)
        if after != before:
            with replacing(self.path) as temporary:
                temporary.write_bytes(after)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _number(value: float) -> dict[str, Any]:
    number = float(value)
    if math.isfinite(number):
        return {"value": number}
    return {"value": None, "non_finite": str(number)}


def _lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the whole lines of a JSON-lines file with what they hold; torn ones are left out."""
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield line, entry


class Ledger:
    """``ledger.jsonl`` of a study: one line per state change of a run.

    Several processes may append at once. The file only repeats what the run directories say:
    :meth:`rebuild` makes it anew from them.
    """

    def __init__(self, study: Path) -> None:
        """Open the ledger of the folder ``study``, which need not exist yet."""
        self.study = study
        self.path = study / "ledger.jsonl"

    def record(
        self,
        run_id: str,
        state: State,
        *,
        config: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Append one state change.

        Args:
            run_id: the run.
            state: what it has become.
            config: its plain settings; method, backbone, data and seed are noted from them.
            error: text of the error of a failed run.

        """
        entry: dict[str, Any] = {
            "run_id": run_id,
            "state": state,
            "time": round(time.time(), 3),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **_labels(config or {}),
        }
        if error is not None:
            entry["error"] = error
        self._append(json.dumps(entry).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        self.study.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # a writer died inside its line
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)

    def entries(self) -> list[dict[str, Any]]:
        """Return all whole lines, oldest first; a torn line is left out."""
        if not self.path.exists():
            return []
        return [e for _, e in _lines(self.path.read_bytes()) if {"run_id", "state"} <= e.keys()]

    def states(self) -> dict[str, str]:
        """Return the last state of every run."""
        return {entry["run_id"]: entry["state"] for entry in self.entries()}

    def rebuild(self) -> dict[str, str]:
        """Write the ledger anew from the run directories and return the states.

        A run with a result is finished, one with an ``error.json`` failed, and any other was
        interrupted.
        """
        lines = []
        for folder in sorted(p for p in self.study.iterdir() if (p / "config.yaml").is_file()):
            state, when, error = _state_of(RunDir(folder))
            entry = {"run_id": folder.name, "state": state, "time": when, "host": None, "pid": None}
            entry |= _labels(_read_config(folder / "config.yaml"))
            lines.append(json.dumps(entry | ({"error": error} if error else {})) + "\n")
        with replacing(self.path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        return self.states()


def _labels(config: Mapping[str, Any]) -> dict[str, Any]:
    names = config.get("names") or {}
    labels: dict[str, Any] = {g: names[g] for g in ("method", "backbone", "data") if g in names}
    return labels | ({"seed": config["seed"]} if "seed" in config else {})


def _read_config(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _state_of(run_dir: RunDir) -> tuple[State, float, str | None]:
    if find_finished(run_dir) is not None:
        return "finished", run_dir.result.stat().st_mtime, None
    if run_dir.error.is_file():
        failure = json.loads(run_dir.error.read_text(encoding="utf-8"))
        return "failed", failure["time"], failure["error"]
    return "interrupted", run_dir.config.stat().st_mtime, None
